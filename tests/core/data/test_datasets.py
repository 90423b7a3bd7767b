"""Folders laid out like SIRST."""

import numpy as np
import pytest
from PIL import Image

from glint.data.datasets import (
    background_images,
    image_files,
    labelled_images,
    list_name,
    read_mask,
    read_split,
    split_file,
    split_images,
)
from glint.data.leaks import refuse_shared_names, training_list
from glint.errors import GlintError, InputError, SourceError


def save(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(data)).save(path)


@pytest.fixture
def root(tmp_path):
    for i, name in enumerate(["b", "a", "c"]):
        save(tmp_path / "images" / f"{name}.png", np.full((4, 5), 10 * i, dtype=np.uint8))
        mask = np.zeros((4, 5), dtype=np.uint8)
        mask[i, 2] = [1, 128, 255][i]
        save(tmp_path / "masks" / f"{name}.png", mask)
    (tmp_path / "train.txt").write_text("c\n\n  b \n")
    return tmp_path


def test_images_are_listed_by_name_and_nothing_else(tmp_path):
    for name in ["b.png", "a.TIF", "c.txt", ".hidden.png"]:
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in image_files(tmp_path)] == ["a.TIF", "b.png"]


def test_a_missing_folder_and_one_without_images_are_source_errors(tmp_path):
    with pytest.raises(SourceError, match="no such folder"):
        image_files(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="no images"):
        image_files(tmp_path)


def test_a_split_is_read_in_its_order_without_blank_lines(root):
    assert read_split(root, "train") == ["c", "b"]


def test_a_missing_split_names_those_that_exist(root):
    (root / "val.txt").write_text("a\n")
    with pytest.raises(SourceError, match=r"test\.txt") as caught:
        read_split(root, "test")
    assert "train, val" in caught.value.hint


@pytest.mark.parametrize("text", ["", "\n \n", "a\nb\na\n"], ids=["empty", "blank", "twice"])
def test_empty_splits_and_repeated_names_are_refused(root, text):
    (root / "bad.txt").write_text(text)
    with pytest.raises(InputError, match="distinct names"):
        read_split(root, "bad")


def test_a_split_that_is_not_text_is_refused(root):
    (root / "bad.txt").write_bytes(b"\xff\xfe\xd8")
    with pytest.raises(GlintError, match=r"bad\.txt"):
        read_split(root, "bad")


def test_samples_come_with_their_image_and_every_nonzero_mask_pixel(root):
    samples = list(labelled_images(root, "train"))
    assert [sample.name for sample in samples] == ["c", "b"]
    assert [np.unique(sample.image).tolist() for sample in samples] == [[20], [0]]
    assert [np.argwhere(sample.mask).tolist() for sample in samples] == [[[2, 2]], [[0, 2]]]
    assert all(sample.mask.dtype == bool for sample in samples)


def test_image_and_mask_may_differ_in_format(root):
    save(root / "images" / "d.tif", np.full((3, 3), 40000, dtype=np.uint16))
    save(root / "masks" / "d.png", np.eye(3, dtype=bool))
    (root / "test.txt").write_text("d\n")
    (sample,) = labelled_images(root, "test")
    assert sample.image.dtype == np.uint16
    assert sample.mask.tolist() == np.eye(3, dtype=bool).tolist()


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_a_named_sample_without_image_or_mask_is_a_source_error(root, folder):
    (root / folder / "b.png").unlink()
    with pytest.raises(SourceError, match="'b'"):
        list(labelled_images(root, "train"))


def test_a_mask_of_another_shape_is_refused(root):
    save(root / "masks" / "b.png", np.zeros((5, 4), dtype=np.uint8))
    with pytest.raises(InputError, match=r"\(5, 4\).*\(4, 5\)"):
        list(labelled_images(root, "train"))


# The layouts that data sets are published in


def dataset(root, *, images, masks, ending="", lists, dtype=np.uint8):
    """A data set of images "1", "2", "3"; the pixel (0, i) of image i is its target."""
    for i in (1, 2, 3):
        mask = np.zeros((4, 6), dtype=np.uint8)
        mask[0, i] = 255
        save(root / images / f"{i}.png", np.full((4, 6), 50 * i, dtype=dtype))
        save(root / masks / f"{i}{ending}.png", mask)
    for name, text in lists.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


LAYOUTS = {
    "sirst": {"images": "images", "masks": "masks", "ending": "_pixels0", "lists": {"idx_427/test.txt": "3\n1\n"}},
    "nudt": {"images": "images", "masks": "masks", "lists": {"50_50/test.txt": "3\n1\n"}},
    "basic": {"images": "images", "masks": "masks", "lists": {"img_idx/test_NUDT-SIRST.txt": "3\n1\n"}},
    "flat": {"images": "images", "masks": "masks", "lists": {"test_IRSTD-1K.txt": "3.png\n1.png\n"}},
    "irstd": {"images": "IRSTD1k_Img", "masks": "IRSTD1k_Label", "lists": {"test.txt": "3\n1"}},
    "sirst-v2": {
        "images": "mixed",
        "masks": "annotations/masks",
        "ending": "_pixels0",
        "lists": {"splits/test_full.txt": "3\n1\n", "splits/test_v1fullv2target.txt": "3\n"},
    },
    "windows": {"images": "images", "masks": "masks", "lists": {"test.txt": "\ufeff3.PNG\r\n1.bmp\r\n"}},
}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_layouts_are_read(tmp_path, layout, dtype):
    dataset(tmp_path, **LAYOUTS[layout], dtype=dtype)
    samples = list(labelled_images(tmp_path, "test"))
    assert [sample.name for sample in samples] == ["3", "1"]
    assert [sample.image.dtype for sample in samples] == [dtype, dtype]
    assert [int(sample.image[0, 0]) for sample in samples] == [150, 50]
    assert [np.argwhere(sample.mask).tolist() for sample in samples] == [[[0, 3]], [[0, 1]]]
    assert [name for name, _ in split_images(tmp_path, "test")] == ["3", "1"]


def test_of_several_lists_one_must_be_named(tmp_path):
    dataset(tmp_path, **LAYOUTS["nudt"])
    (tmp_path / "80_20").mkdir()
    (tmp_path / "80_20" / "test.txt").write_text("2\n")
    with pytest.raises(InputError, match="2 lists for the split 'test'") as caught:
        read_split(tmp_path, "test")
    assert caught.value.hint == "name 50_50/test or 80_20/test"
    assert read_split(tmp_path, "80_20/test") == ["2"]
    (tmp_path / "test.txt").write_text("1\n2\n")  # the folder's own goes first
    assert read_split(tmp_path, "test") == ["1", "2"]


def test_an_exact_name_goes_before_one_with_the_data_sets_behind_it(tmp_path):
    dataset(tmp_path, **LAYOUTS["nudt"])
    (tmp_path / "test_other.txt").write_text("2\n")
    assert split_file(tmp_path, "test") == tmp_path / "50_50" / "test.txt"
    assert read_split(tmp_path, "test_other") == ["2"]


def test_a_name_with_a_dot_that_is_no_suffix_stays_whole(tmp_path):
    (tmp_path / "test.txt").write_text("frame.0012\n")
    assert read_split(tmp_path, "test") == ["frame.0012"]


def test_missing_folders_say_what_was_looked_for(tmp_path):
    with pytest.raises(SourceError, match="no such folder"):
        read_split(tmp_path / "nowhere", "test")
    (tmp_path / "test.txt").write_text("1\n")
    with pytest.raises(SourceError, match="images or IRSTD1k_Img"):
        list(split_images(tmp_path, "test"))
    save(tmp_path / "images" / "1.png", np.zeros((4, 4), dtype=np.uint8))
    with pytest.raises(SourceError, match="masks or IRSTD1k_Label"):
        list(labelled_images(tmp_path, "test"))
    save(tmp_path / "masks" / "other.png", np.zeros((4, 4), dtype=np.uint8))
    with pytest.raises(SourceError, match="mask is missing") as caught:
        list(labelled_images(tmp_path, "test"))
    assert "1 or 1_pixels0" in caught.value.hint


def test_backgrounds_come_by_name(tmp_path):
    for name, value in (("b", 1), ("a", 2)):
        save(tmp_path / f"{name}.png", np.full((3, 3), value, dtype=np.uint16))
    frames = list(background_images(tmp_path))
    assert [(name, int(image[0, 0])) for name, image in frames] == [("a", 2), ("b", 1)]
    with pytest.raises(SourceError, match="no such folder"):
        list(background_images(tmp_path / "nowhere"))


# Masks by what they hold


TRUE = np.zeros((24, 30), dtype=bool)
TRUE[5:9, 7:10] = TRUE[15:18, 20:24] = True


@pytest.mark.parametrize(
    "stored",
    [
        TRUE,
        TRUE.astype(np.uint8),
        TRUE * np.uint8(255),
        TRUE * np.uint16(65535),
        TRUE * np.uint8(180),
        TRUE * 3.5 + 0.5,
    ],
    ids=["bool", "0/1", "0/255", "16 bit", "0/180", "two floats"],
)
def test_masks_of_two_values_are_read_by_the_greater(tmp_path, stored):
    stored = stored.astype(np.float32) if stored.dtype == np.float64 else stored
    Image.fromarray(stored).save(tmp_path / "m.tif")
    mask, grey = read_mask(tmp_path / "m.tif")
    assert np.array_equal(mask, TRUE)
    assert grey == ""


def test_grey_masks_are_cut_at_half_and_told(tmp_path):
    Image.fromarray(TRUE * np.uint8(255)).save(tmp_path / "m.jpg", quality=90)
    mask, grey = read_mask(tmp_path / "m.jpg")
    assert np.array_equal(mask, TRUE)
    assert "grey levels" in grey
    soft = np.where(TRUE, 90, 0).astype(np.uint8)
    soft[0, 0] = 20
    Image.fromarray(soft).save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png")[0], TRUE)  # half of what it holds


def test_palette_masks_count_as_the_greys_that_they_show(tmp_path):
    image = Image.fromarray(TRUE.astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png")[0], TRUE)


def test_inverted_masks_are_refused(tmp_path):
    Image.fromarray(~TRUE * np.uint8(255)).save(tmp_path / "m.png")
    with pytest.raises(InputError, match="mask") as caught:
        read_mask(tmp_path / "m.png")
    assert "inverted" in caught.value.hint


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom"])
def test_lists_of_other_systems_are_read(tmp_path, encoding):
    text = "eins\r\nzwei.png\r\n"
    content = b"\xff\xfe" + text.encode("utf-16-le") if encoding.endswith("bom") else text.encode(encoding)
    (tmp_path / "train.txt").write_bytes(content)
    assert read_split(tmp_path, "train") == ["eins", "zwei"]


def test_files_are_in_the_order_of_their_numbers(tmp_path):
    for name in ["10", "2", "1", "a12", "a3"]:
        save(tmp_path / f"{name}.png", np.zeros((2, 2), np.uint8))
    assert [p.stem for p in image_files(tmp_path)] == ["1", "2", "10", "a3", "a12"]


@pytest.mark.parametrize("levels", [(0, 1, 2), (0, 1, 3, 4)])
def test_masks_of_classes_or_objects_are_refused(tmp_path, levels):
    stored = np.zeros(TRUE.shape, np.uint8)
    for number, level in enumerate(levels[1:]):
        stored[2 * number : 2 * number + 2, 3:5] = level
    Image.fromarray(stored).save(tmp_path / "m.png")
    with pytest.raises(InputError, match=", ".join(map(str, levels))) as caught:
        read_mask(tmp_path / "m.png")
    assert "255 where a target is" in caught.value.hint


def test_few_grey_levels_are_named(tmp_path):
    stored = TRUE * np.uint8(255)
    stored[0, 0] = 90
    Image.fromarray(stored).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png")[1].endswith("0 to 255: 0, 90, 255")


def test_a_palette_that_hides_the_targets_is_refused(tmp_path):
    image = Image.fromarray(TRUE.astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 0, 0, 0])
    image.save(tmp_path / "m.png")
    with pytest.raises(SourceError, match="different values as one colour"):
        read_mask(tmp_path / "m.png")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_lists_of_utf_16_without_a_mark_are_read(tmp_path, encoding):
    (tmp_path / "test.txt").write_bytes("Misc_1\r\n\r\nMisc_2.png\r\n".encode(encoding))
    assert read_split(tmp_path, "test") == ["Misc_1", "Misc_2"]
    (tmp_path / "test.txt").write_bytes("Misc_1\n".encode("utf-32"))
    with pytest.raises(SourceError, match="no text in UTF-8 or UTF-16"):
        read_split(tmp_path, "test")


def test_splits_may_be_folders_as_those_of_sirst_aug(tmp_path):
    for split, values in (("trainval", (1, 2)), ("test", (3,))):
        for value in values:
            save(tmp_path / split / "images" / f"{value % 2}.png", np.full((4, 6), value, np.uint8))
            save(tmp_path / split / "masks" / f"{value % 2}.png", np.eye(4, 6, dtype=np.uint8))
    (sample,) = labelled_images(tmp_path, "test")
    assert (sample.name, int(sample.image[0, 0]), int(sample.mask.sum())) == ("1", 3, 4)
    assert read_split(tmp_path, "trainval") == ["0", "1"]
    assert list_name(tmp_path, "test") == "test/"
    assert training_list(tmp_path, "test") == "trainval"
    refuse_shared_names(tmp_path, "trainval", "test")  # "1" of one folder is not "1" of the other
    with pytest.raises(SourceError, match="no such split list"):
        read_split(tmp_path, "val")
    (tmp_path / "test.txt").write_text("0\n")
    assert read_split(tmp_path, "test") == ["0"]


def test_two_masks_of_an_image_are_refused(root):
    mask = root / "masks" / "b.png"
    (mask.parent / f"{mask.stem}_pixels0.png").write_bytes(mask.read_bytes())
    with pytest.raises(InputError, match="two masks of"):
        list(labelled_images(root, "train"))
