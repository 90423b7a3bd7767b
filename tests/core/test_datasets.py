"""Folders laid out like SIRST."""

import numpy as np
import pytest
from PIL import Image

from glint.datasets import image_files, labelled_images, read_split
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
