"""The CSIST-100K folder format."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from PIL import Image

from glint.data.csist import read_csist, write_csist
from glint.errors import GlintError, InputError, OutputError, SourceError
from glint.simulation.patches import CONDITIONS, Patches, simulate_patches

TARGET = "<object><name>t</name><coordinate><xc>{}</xc><yc>{}</yc><brightness>{}</brightness></coordinate></object>"


def annotation(*targets, sigma="0.5"):
    """Targets as (xc, yc, brightness)."""
    return f"<annotation><sigma>{sigma}</sigma>{''.join(TARGET.format(*t) for t in targets)}</annotation>"


def save(folder, number=0, text=None, *, name="CSO{}.xml", shape=(11, 11), value=0):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, dtype=np.uint8)).save(folder / f"image_{number}.png")
    content = annotation((4, 7, 230)) if text is None else text
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name.format(number)).write_bytes(data)


def patches_of(targets, sigma=0.5):
    """Patches with these lists of (x, y, radiance) and empty pixels."""
    table = np.zeros((len(targets), 5, 3))
    for row, rows in zip(table, targets):
        row[: len(rows)] = np.array(rows).reshape(-1, 3)
    nothing = np.zeros(len(targets))
    return Patches(
        np.zeros((len(targets), 11, 11), np.float32), table[..., 0], table[..., 1], table[..., 2],
        np.array([len(rows) for rows in targets]), nothing + sigma, nothing, nothing, nothing,
    )  # fmt: skip


# Round trip

coordinate = st.floats(-0.5, 10.5)
some_targets = st.lists(st.tuples(coordinate, coordinate, st.floats(0.1, 1e4)), max_size=5)


@settings(deadline=None, max_examples=15, derandomize=True)
@given(targets=st.lists(some_targets, min_size=1, max_size=3), sigma=st.floats(0.1, 2))
def test_targets_come_back_to_the_last_bit(tmp_path_factory, targets, sigma):
    folder = tmp_path_factory.mktemp("csist")
    patches = patches_of(targets, sigma)
    write_csist(folder, patches)
    back = read_csist(folder)
    for name in ("x", "y", "radiance", "count", "sigma"):
        assert_array_equal(getattr(back, name), getattr(patches, name))


def test_8_bit_pixels_come_back_as_they_were(tmp_path):
    patches = simulate_patches(CONDITIONS["8sat"], 12, np.random.default_rng(1))
    write_csist(tmp_path, patches)
    back = read_csist(tmp_path)
    assert_array_equal(back.image, patches.image)
    assert back.image.dtype == np.float32
    assert (back.full_scale == 255).all()


def test_pixels_are_rounded_and_clipped(tmp_path):
    patches = patches_of([[(5, 5, 230)]])
    patches.image[0, 0, :5] = [-3.0, 0.4, 99.6, 255.4, 431.0]
    write_csist(tmp_path, patches)
    assert read_csist(tmp_path).image[0, 0, :5].tolist() == [0, 0, 100, 255, 255]


def test_files_are_named_as_in_the_benchmark(tmp_path):
    write_csist(tmp_path, patches_of([[(1, 2, 3)], [(4, 5, 6)]]), first=90)
    names = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*"))
    assert names == ["annotations/CSO90.xml", "annotations/CSO91.xml", "images/image_90.png", "images/image_91.png"]


def test_written_annotations_hold_the_row_in_xc_and_the_column_in_yc(tmp_path):
    write_csist(tmp_path, patches_of([[(2.5, 7.25, 230.0)]]), first=3)
    text = "".join((tmp_path / "annotations" / "CSO3.xml").read_text().split())
    assert "<filename>image_3.png</filename>" in text
    assert "<width>11</width><height>11</height><depth>1</depth>" in text
    assert "<xc>7.25</xc><yc>2.5</yc><brightness>230.0</brightness>" in text


def test_a_folder_that_holds_patches_is_not_written_over(tmp_path):
    write_csist(tmp_path, patches_of([[(1, 2, 3)]]))
    before = (tmp_path / "annotations" / "CSO0.xml").read_bytes()
    with pytest.raises(OutputError, match="already"):
        write_csist(tmp_path, patches_of([[(9, 9, 9)]]))
    assert (tmp_path / "annotations" / "CSO0.xml").read_bytes() == before


# Reading


def test_read_annotations_give_xc_as_the_row_y_and_yc_as_the_column_x(tmp_path):
    save(tmp_path, text=annotation((4.25, 7.5, 230)))
    patches = read_csist(tmp_path)
    assert (patches.x[0, 0], patches.y[0, 0], patches.radiance[0, 0]) == (7.5, 4.25, 230)
    assert patches.sigma.tolist() == [0.5]


def test_the_brightest_pixel_of_a_written_patch_is_at_row_xc_and_column_yc(tmp_path):
    config = replace(CONDITIONS["8bit"], targets=(1, 1), base=(3, 3), box_start=(-0.4, -0.4))
    patches = simulate_patches(config, 1, np.random.default_rng(1))
    patches.image[0] = np.roll(patches.image[0], 4, axis=1)  # to column 7
    patches.x[0, 0] += 4
    write_csist(tmp_path, patches)
    with Image.open(tmp_path / "images" / "image_0.png") as image:
        row, column = np.unravel_index(np.asarray(image).argmax(), (11, 11))
    text = (tmp_path / "annotations" / "CSO0.xml").read_text()
    xc, yc = (float(text.split(f"<{tag}>")[1].split("<")[0]) for tag in ("xc", "yc"))
    assert (row, column) == (round(xc), round(yc))


def test_both_spellings_of_annotation_names_are_read_in_numeric_order(tmp_path):
    save(tmp_path, 10, annotation((1, 1, 10)), name="COS{}.xml", value=10)
    save(tmp_path, 9, annotation((1, 1, 9)), name="CSO{}.xml", value=9)
    patches = read_csist(tmp_path)
    assert patches.radiance[:, 0].tolist() == patches.image[:, 0, 0].tolist() == [9, 10]


def test_images_and_annotations_may_lie_in_one_folder_or_in_several(tmp_path):
    save(tmp_path / "flat", 1, value=1)
    write_csist(tmp_path / "split", patches_of([[(1, 2, 3)]]))
    assert len(read_csist(tmp_path)) == 2


def test_other_files_are_left_alone(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "notes.xml").write_text("<notes/>")
    (tmp_path / "image_x.png").write_bytes(b"no image")
    assert len(read_csist(tmp_path)) == 1


def test_two_images_of_one_number_are_not_mixed_up(tmp_path):
    # train/ and test/ that both count from 0: silently reading one of each pair would be wrong.
    save(tmp_path / "train", 0, annotation((1, 1, 220)))
    save(tmp_path / "test", 0, annotation((9, 9, 250)))
    with pytest.raises(GlintError, match=r"image_0|CSO0"):
        read_csist(tmp_path)


def test_a_patch_without_targets_and_one_of_six_are_read(tmp_path):
    save(tmp_path, 0, annotation())
    save(tmp_path, 1, annotation(*[(i, i, 230) for i in range(6)]))
    patches = read_csist(tmp_path)
    assert patches.count.tolist() == [0, 6]
    assert patches.x.shape == (2, 6)


# What is wrong


def test_a_missing_folder_and_one_without_images_are_source_errors(tmp_path):
    with pytest.raises(SourceError, match="no such folder"):
        read_csist(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="no image"):
        read_csist(tmp_path)


def test_images_without_annotations_are_counted_and_the_first_named(tmp_path):
    for number in (3, 4, 5):
        save(tmp_path, number)
    (tmp_path / "CSO4.xml").unlink()
    (tmp_path / "CSO5.xml").unlink()
    with pytest.raises(SourceError, match=r"2 images .* image_4\.png"):
        read_csist(tmp_path)


@pytest.mark.parametrize("shapes", [[(11, 11), (13, 13)], [(11, 13)]], ids=["two sizes", "not square"])
def test_images_must_be_squares_of_one_size(tmp_path, shapes):
    for number, shape in enumerate(shapes):
        save(tmp_path, number, shape=shape)
    with pytest.raises(InputError, match="square images of one size"):
        read_csist(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no xml",
        "<annotation>",
        "<annotation></annotation>",
        annotation((1, 2, 3)).replace("<yc>2</yc>", ""),
        annotation((1, 2, "bright")),
        annotation((1, "", 3)),
        annotation((1, "nan", 3)),
        annotation((1, 2, "inf")),
        annotation((1, 2, 3), sigma="half"),
        annotation((1, 2, 3), sigma="nan"),
        annotation((1, 2, 3), sigma="-0.5"),
        f'<?xml version="1.0" encoding="foo"?>{annotation((1, 2, 3))}',
        f'<?xml version="1.0" encoding="hex"?>{annotation((1, 2, 3))}',
    ],
)
def test_malformed_annotations_are_input_errors_that_name_the_file(tmp_path, text):
    save(tmp_path, 8, text)
    with pytest.raises(InputError, match=r"CSO8\.xml"):
        read_csist(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("entity", ["", ' [<!ENTITY half "0.5">]', ' SYSTEM "http://localhost/a.dtd"'])
def test_a_document_type_is_refused_in_any_encoding(tmp_path, encoding, entity):
    sigma = "&half;" if "half" in entity else "0.5"
    head = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE annotation{entity}>'
    save(tmp_path, 0, (head + annotation((1, 2, 3), sigma=sigma)).encode(encoding))
    with pytest.raises(InputError, match=r"CSO0\.xml"):
        read_csist(tmp_path)


def test_an_annotation_of_megabytes_is_refused(tmp_path):
    save(tmp_path, 0, annotation((1, 2, 3)) + " " * (1 << 20))
    with pytest.raises(InputError, match="too long"):
        read_csist(tmp_path)


def test_an_unreadable_annotation_is_a_source_error(tmp_path):
    save(tmp_path, 0)
    (tmp_path / "CSO0.xml").unlink()
    (tmp_path / "CSO0.xml").mkdir()
    with pytest.raises(SourceError, match=r"CSO0\.xml"):
        read_csist(tmp_path)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    edits=st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=3)), min_size=1, max_size=4),
    cut=st.integers(0, 400),
)
def test_a_damaged_annotation_is_read_or_refused_but_never_crashes(tmp_path_factory, edits, cut):
    folder = tmp_path_factory.mktemp("damaged")
    text = f'<?xml version="1.0" encoding="utf-8"?>{annotation((4, 7, 230))}'.encode()
    for position, piece in edits:
        text = text[: position % len(text)] + piece + text[position % len(text) + len(piece) :]
    save(folder, 0, text if cut > 200 else text[:cut])
    try:
        patches = read_csist(folder)
    except InputError:
        return
    assert np.isfinite(patches.x).all()
