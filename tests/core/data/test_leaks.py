"""Leaks between splits: shared names and pictures that look the same."""

import numpy as np
import pytest
from PIL import Image

from glint.data.leaks import near_duplicates, refuse_shared_names, split_duplicates, training_list
from glint.errors import InputError, SourceError


def clouds(seed, shape=(96, 128)):
    """A smooth random picture with a gradient that all of them share."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.normal(0, 10, (12, 16)).astype(np.float32))
    return np.asarray(coarse.resize(shape[::-1], Image.Resampling.BICUBIC)) + np.linspace(0, 100, shape[0])[:, None]


def correlation(first, second, row, column):
    """Of the edges of two thumbnails where the first is shifted, by plain loops."""

    def edges(image, top, left):
        small = np.asarray(Image.fromarray(image.astype(np.float32)).resize((32, 32), Image.Resampling.BOX), np.float64)
        values = []
        for i in range(25):
            for j in range(25):
                here = small[top + i, left + j]
                values += [small[top + i + 1, left + j] - here, small[top + i, left + j + 1] - here]
        return np.array(values)

    a, b = edges(first, row, column), edges(second, 3, 3)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_different_pictures_with_the_same_gradient_are_not_alike():
    first = [(f"a{i}", clouds(i)) for i in range(6)]
    second = [(f"b{i}", clouds(100 + i)) for i in range(6)]
    assert near_duplicates(first, second) == []


def test_copies_of_other_gain_size_and_crop_are_found_best_first():
    original = clouds(1)
    shifted = clouds(2)[6:, 8:]
    resized = np.asarray(Image.fromarray(clouds(3).astype(np.float32)).resize((200, 150)))
    second = [
        ("gain", (3 * original + 200).astype(np.uint16)),
        ("crop", shifted),
        ("size", resized),
        ("new", clouds(9)),
    ]
    pairs = near_duplicates([("one", original), ("two", clouds(2)), ("three", clouds(3))], second)
    assert {(p.first, p.second) for p in pairs} == {("one", "gain"), ("two", "crop"), ("three", "size")}
    found = [p.correlation for p in pairs]
    assert found == sorted(found, reverse=True)
    assert all(0.8 <= c <= 1 for c in found)


def test_the_correlation_is_the_best_over_all_shifts():
    first, second = clouds(4), clouds(5)
    expected = max(correlation(first, second, row, column) for row in range(7) for column in range(7))
    (pair,) = near_duplicates([("a", first)], [("b", second)], alike=-1)
    assert pair.correlation == pytest.approx(expected, abs=6e-4)  # rounded to three digits


def test_flat_frames_are_like_nothing():
    flat = np.full((40, 40), 7, dtype=np.uint8)
    assert near_duplicates([("a", flat)], [("b", flat)]) == []
    assert near_duplicates([], [("b", flat)]) == []


@pytest.fixture
def root(tmp_path):
    for i in range(4):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(np.clip(clouds(i % 3) + 60, 0, 255).astype(np.uint8)).save(tmp_path / "images" / f"{i}.png")
    (tmp_path / "train.txt").write_text("0\n1\n")
    (tmp_path / "val.txt").write_text("2\n3\n")
    return tmp_path


def test_duplicates_of_splits_are_listed(root):
    (pair,) = split_duplicates(root, "train", "val")
    assert (pair.first, pair.second, pair.correlation) == ("0", "3", 1.0)


def test_shared_names_are_refused_and_named(root):
    refuse_shared_names(root, "train", "val")
    (root / "val.txt").write_text("2\n1.png\n")
    with pytest.raises(InputError, match=r"train and val share 1 images: 1$"):
        split_duplicates(root, "train", "val")
    names = "".join(f"{i}\n" for i in range(9))
    (root / "train.txt").write_text(names)
    (root / "val.txt").write_text(names)
    with pytest.raises(InputError, match=r"share 9 images: 0, 1, 2, 3, 4, \.\.\."):
        refuse_shared_names(root, "train", "val")
    with pytest.raises(SourceError, match=r"dev\.txt"):
        refuse_shared_names(root, "train", "dev")


@pytest.mark.parametrize(
    ("lists", "split", "expected"),
    [
        (["train", "val"], "val", "train"),
        (["train", "val"], "train", None),
        (["val"], "val", None),
        (["train", "trainval", "test", "val"], "test", "trainval"),
        (["train", "trainval", "test", "val"], "val", "train"),
        (["train", "trainval"], "trainval", None),
        (["50_50/train", "50_50/test", "train"], "50_50/test", "50_50/train"),
        (["img_idx/train_A", "img_idx/test_A", "img_idx/train_B"], "test", "img_idx/train_A"),
        (["train", "test_hard"], "test_hard", "train"),
    ],
)
def test_the_training_list_is_the_one_beside_the_split(tmp_path, lists, split, expected):
    for name in lists:
        (tmp_path / f"{name}.txt").parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.txt").write_text("a\n")
    assert training_list(tmp_path, split) == expected
