"""What a file claims is held against its bytes: pages, checksums, orientation, white as zero."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from PIL import Image
from written_images import STACK, saved, tagged

from glint.errors import SourceError
from glint.images import Picture, count_pages, read_image, read_pictures, try_pictures


def read_pages(path):
    return (picture.data for picture in read_pictures(path))


def try_pages(path):
    return (picture.data if isinstance(picture, Picture) else picture for picture in try_pictures(path))


def stack(compression=None, pages=STACK):
    first, *rest = (Image.fromarray(page) for page in pages)
    buffer = io.BytesIO()
    first.save(buffer, format="TIFF", save_all=True, append_images=rest, compression=compression)
    return buffer.getvalue()


def read(path, content):
    path.write_bytes(content)
    return read_image(path)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_every_page_of_a_stack_is_a_picture(tmp_path, compression):
    (tmp_path / "a.tif").write_bytes(stack(compression))
    assert count_pages(tmp_path / "a.tif") == len(STACK)
    for page, original in zip(read_pages(tmp_path / "a.tif"), STACK, strict=True):
        assert page.dtype == np.uint16
        assert_array_equal(page, original)
    with pytest.raises(SourceError, match="holds 4 pictures"):
        read_image(tmp_path / "a.tif")


def test_a_stack_that_imagej_describes_by_one_page_is_whole(tmp_path):
    text = b"ImageJ=1.53\nimages=4\nslices=4\n\0"
    (tmp_path / "a.tif").write_bytes(tagged(STACK[0], {270: text, 279: STACK[0].nbytes}, STACK.tobytes()))
    assert_array_equal(np.stack(list(read_pages(tmp_path / "a.tif"))), STACK)
    (tmp_path / "b.tif").write_bytes(tagged(STACK[0], {270: text.replace(b"4", b"9")}))
    with pytest.raises(SourceError, match="cut off"):
        list(read_pages(tmp_path / "b.tif"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("data", [STACK[0], (STACK[0] >> 6).astype(np.uint8)], ids=["16", "8"])
def test_pixels_come_as_stored_whatever_the_orientation(tmp_path, orientation, data):
    assert_array_equal(read(tmp_path / "a.tif", tagged(data, {274: orientation})), data)
    exif = Image.Exif()
    exif[274] = orientation
    assert_array_equal(read(tmp_path / "a.png", saved("PNG", data, exif=exif)), data)


@pytest.mark.parametrize("data", [STACK[0], (STACK[0] >> 6).astype(np.uint8)], ids=["16", "8"])
def test_white_as_zero_is_turned_in_all_depths(tmp_path, data):
    top = np.iinfo(data.dtype).max
    assert_array_equal(read(tmp_path / "a.tif", tagged(data, {262: 0})), top - data)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_pixels_of_less_than_a_byte_are_stretched_to_one_in_both_polarities(tmp_path, bits, white_is_zero):
    values, share = (STACK[0, :, :16] % (1 << bits)).astype(np.uint8), 8 // bits
    packed = sum(values[:, i::share].astype(int) << (8 - bits * (i + 1)) for i in range(share)).astype(np.uint8)
    tags = {258: bits, 279: packed.size, 262: 0 if white_is_zero else 1}
    picture = read(tmp_path / "a.tif", tagged(values, tags, packed.tobytes()))
    stretched = values.astype(int) * 255 // ((1 << bits) - 1)
    assert_array_equal(picture, 255 - stretched if white_is_zero else stretched)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "ICO", "PPM", "TGA", "PCX", "SGI"])
def test_formats_that_are_not_announced_are_refused_by_their_content(tmp_path, form):
    data = np.dstack(3 * [(STACK[0] >> 6).astype(np.uint8)])
    with pytest.raises(SourceError, match="not an image that can be read"):
        read(tmp_path / "a.png", saved(form, data))


def test_a_colourless_name_does_not_matter_only_the_content(tmp_path):
    assert_array_equal(read(tmp_path / "a.bmp", saved("PNG")), STACK[0])


def test_several_pictures_in_files_of_one_are_refused(tmp_path):
    frames = [Image.fromarray((page >> 6).astype(np.uint8)) for page in STACK]
    buffer = io.BytesIO()
    frames[0].save(buffer, format="PNG", save_all=True, append_images=frames[1:])
    with pytest.raises(SourceError, match="animated"):
        read(tmp_path / "a.png", buffer.getvalue())
    for form in ("PNG", "JPEG"):
        one = saved(form, (STACK[0] >> 6).astype(np.uint8))
        with pytest.raises(SourceError, match="several"):
            read(tmp_path / "a", one + one)


def test_pgm_files_one_behind_the_other_are_pages(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"".join(b"P5\n17 12\n16383\n" + p.astype(">u2").tobytes() for p in STACK))
    assert_array_equal(np.stack(list(read_pages(tmp_path / "a.pgm"))), STACK)


def test_values_above_the_maximum_of_a_pgm_are_damage(tmp_path):
    with pytest.raises(SourceError, match="above its maximum"):
        read(tmp_path / "a.pgm", b"P2 2 1 15 15 16")


def test_a_size_that_the_bytes_cannot_hold_is_not_believed(tmp_path):
    header = struct.pack(">IIBBBBB", 8000, 8000, 16, 0, 0, 0, 0)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")
    for content in (png, tagged(STACK[0], {256: 8000, 257: 8000, 278: 8000}), b"P5 8000 8000 255 ab"):
        with pytest.raises(SourceError):
            read(tmp_path / "a", content)


def test_a_pipe_among_images_is_refused_and_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(SourceError, match="no regular file"):
        read_image(tmp_path / "a.png")


WHOLE = {
    "png": saved("PNG"),
    "tiff": stack(),
    "deflate": stack("tiff_adobe_deflate"),
    "bmp": saved("BMP", (STACK[0] >> 6).astype(np.uint8)),
    "jpeg": saved("JPEG", (STACK[0] >> 6).astype(np.uint8)),
    "pgm": b"P5\n17 12\n16383\n" + STACK[0].astype(">u2").tobytes(),
}


@pytest.mark.parametrize("kind", WHOLE)
@settings(deadline=None, max_examples=80, derandomize=True)
@given(data=st.data())
def test_damage_is_read_or_refused_and_a_checksum_never_lies(tmp_path_factory, kind, data):
    content = bytearray(WHOLE[kind])
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[place:]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("fuzz") / "a"
    path.write_bytes(content)
    try:
        pages = list(read_pages(path))
    except SourceError as error:
        assert error.hint
        return
    if kind == "png":
        assert_array_equal(pages[0], STACK[0])


@pytest.mark.parametrize(("form", "name"), [("TIFF", "a.tif"), ("BMP", "a.bmp")])
def test_a_width_that_leaves_most_of_the_bytes_is_damage(tmp_path, form, name):
    path = tmp_path / name
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 40)).astype(np.uint8)).save(path, form)
    content = bytearray(path.read_bytes())
    if form == "BMP":
        content[18:22] = (1).to_bytes(4, "little")
    else:
        place = content.index(struct.pack("<HHI", 256, 3, 1)) if struct.pack("<HHI", 256, 3, 1) in content else 0
        place = place or content.index(struct.pack("<HHI", 256, 4, 1))
        content[place + 8 : place + 12] = (1).to_bytes(4, "little")
    path.write_bytes(bytes(content))
    with pytest.raises(SourceError, match="damaged"):
        read_image(path)


def test_a_jpeg_that_its_bytes_cannot_hold_is_not_believed(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", 8000, 8000)
    path.write_bytes(bytes(content))
    with pytest.raises(SourceError, match="cannot hold"):
        read_image(path)


@pytest.mark.parametrize(
    "options",
    [{}, {"quality": 30}, {"quality": 100}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}],
)
@pytest.mark.parametrize("scene", ["noise", "flat", "ramp", "white"])
def test_a_jpeg_whose_size_is_not_that_of_its_pixels_is_refused(tmp_path, options, scene):
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:80, :96]
    image = {
        "noise": rng.integers(60, 200, (80, 96)), "flat": np.full((80, 96), 90), "ramp": x + y,
        "white": np.full((80, 96), 255),
    }[scene].astype(np.uint8)  # fmt: skip
    path = tmp_path / "a.jpg"
    Image.fromarray(image).save(path, **options)
    assert read_image(path).shape == (80, 96)
    content = path.read_bytes()
    place = next(content.find(bytes([0xFF, marker])) for marker in (0xC0, 0xC2) if bytes([0xFF, marker]) in content) + 5
    if scene != "noise" or "progressive" in options:
        return
    larger = () if "restart_marker_rows" in options else ((80, 104), (80, 192), (88, 96))
    for height, width in ((80, 88), (72, 96), (40, 96), (80, 48), *larger):
        size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
        path.write_bytes(content[:place] + size + content[place + 4 :])
        with pytest.raises(SourceError, match=r"damaged|torn|cannot hold"):
            read_image(path)


def test_colour_jpegs_of_grey_scenes_are_still_read(tmp_path):
    image = np.random.default_rng(2).integers(0, 255, (72, 90)).astype(np.uint8)
    for sampling in (0, 1, 2):
        Image.fromarray(image).convert("RGB").save(tmp_path / "a.jpg", subsampling=sampling, quality=90)
        assert read_image(tmp_path / "a.jpg").shape == image.shape


def png_of(rows, *, head, extra=b"", interlaced=0):
    width, height, bits, colour = head

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def rows_of(data):
    return b"".join(b"\0" + row.astype(">u2").tobytes() for row in data)


def test_a_png_has_the_rows_that_its_header_says(tmp_path):
    data, head = STACK[0], (STACK.shape[2], STACK.shape[1], 16, 0)
    path = tmp_path / "a.png"
    path.write_bytes(png_of(rows_of(data), head=head))
    assert (read_image(path) == data).all()
    path.write_bytes(png_of(rows_of(data[:-7]), head=head))
    with pytest.raises(SourceError, match="its pixels end too early"):
        read_image(path)
    path.write_bytes(png_of(rows_of(np.vstack([data, data])), head=head))
    with pytest.raises(SourceError, match="it holds more than"):
        read_image(path)
    second = png_of(b"", head=(*head[:1], head[1] // 2, *head[2:]))[8:33]
    path.write_bytes(png_of(rows_of(data), head=head, extra=second))
    with pytest.raises(SourceError, match="two headers"):
        read_image(path)


def test_interlaced_png_is_read_as_stored(tmp_path):
    data = STACK[0]
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = b"".join(rows_of(data[y::down, x::across]) for y, x, down, across in passes)
    (tmp_path / "a.png").write_bytes(png_of(rows, head=(data.shape[1], data.shape[0], 16, 0), interlaced=1))
    assert (read_image(tmp_path / "a.png") == data).all()


def test_transparency_that_differs_is_refused(tmp_path):
    grey = (STACK[0] >> 8).astype(np.uint8)
    for alpha in (np.full_like(grey, 255), np.where(grey > np.median(grey), 255, 0).astype(np.uint8)):
        Image.fromarray(np.stack([grey, grey, grey, alpha], axis=-1)).save(tmp_path / "a.png")
        if alpha.min() == 255:
            assert (read_image(tmp_path / "a.png") == grey).all()
    with pytest.raises(SourceError, match="transparent in places"):
        read_image(tmp_path / "a.png")


def test_a_bad_page_does_not_hide_those_behind_it(tmp_path):
    pages = [Image.fromarray(page.astype(np.float32)) for page in STACK]
    bad = STACK[1].astype(np.float32)
    bad[3, 4] = np.nan
    pages[1] = Image.fromarray(bad)
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    first, refused, *rest = try_pages(tmp_path / "a.tif")
    assert (first == STACK[0]).all()
    assert "NaN" in str(refused)
    assert len(rest) == len(STACK) - 2 > 0
    assert all((page == data).all() for page, data in zip(rest, STACK[2:]))


@pytest.mark.parametrize(
    ("tag", "value", "why"),
    [(32997, 3, "3 layers in one page"), (339, 2, "its values are signed"), (338, 0, "another picture beside its own")],
    ids=["layers", "signed", "second-sample"],
)
def test_pages_that_hold_something_else_are_refused(tmp_path, tag, value, why):
    grey = Image.fromarray((STACK[0] >> 8).astype(np.uint8))
    grey.save(tmp_path / "a.tif", tiffinfo={tag: value})
    with pytest.raises(SourceError, match=why):
        read_image(tmp_path / "a.tif")


def test_a_pgm_of_windows_is_not_shifted(tmp_path):
    grey = (STACK[0] >> 8).astype(np.uint8)
    size = f"{grey.shape[1]} {grey.shape[0]}".encode()
    (tmp_path / "a.pgm").write_bytes(b"P5\r\n" + size + b"\r\n255\r\n" + grey.tobytes())
    assert (read_image(tmp_path / "a.pgm") == grey).all()
    (tmp_path / "a.pgm").write_bytes(b"P5\n" + size + b"\n255\n# a late word\n" + grey.tobytes())
    with pytest.raises(SourceError, match="something else behind its pixels"):
        next(read_pages(tmp_path / "a.pgm"))
