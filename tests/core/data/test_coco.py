"""COCO annotations as labels, and folders that nobody has split."""

import json

import numpy as np
import pytest
from PIL import Image

from glint.data.coco import CocoMasks
from glint.data.datasets import AUTOMATIC, automatic_split, labelled_images, list_name, read_split, split_file
from glint.data.leaks import training_list
from glint.errors import InputError, SourceError
from glint.runtime.sinks.coco import run_lengths

IMAGE = np.full((20, 30), 50, np.uint8)
IMAGE[8:10, 12:15] = 200


def coco(path, *annotations):
    images = [{"id": 7, "file_name": "night/a.png", "width": 30, "height": 20}]
    rows = [{"id": i, "image_id": 7, "category_id": 1, **a} for i, a in enumerate(annotations)]
    path.write_text(json.dumps({"images": images, "annotations": rows, "categories": []}))
    return CocoMasks(path)


def where(mask):
    return [tuple(int(v) for v in p) for p in np.argwhere(mask)]


SPOT = [(8, 12), (8, 13), (8, 14), (9, 12), (9, 13), (9, 14)]


def test_polygons_run_lengths_and_boxes_say_the_same(tmp_path):
    mask = np.zeros(IMAGE.shape, bool)
    mask[8:10, 12:15] = True
    for annotation in (
        {"segmentation": [[12.2, 8.2, 14.8, 8.2, 14.8, 9.8, 12.2, 9.8]], "bbox": [12, 8, 3, 2]},
        {"segmentation": run_lengths(mask), "bbox": [12, 8, 3, 2]},
        {"segmentation": {"size": [20, 30], "counts": "h72b0000T9"}, "bbox": [12, 8, 3, 2]},  # by pycocotools
        {"bbox": [10.5, 6.5, 7, 6]},
    ):
        assert where(coco(tmp_path / "c.json", annotation).mask("a", IMAGE)) == SPOT
    assert not coco(tmp_path / "c.json").mask("a", IMAGE).any()


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        ({"segmentation": {"counts": "5", "size": [20, 30]}}, "is for an image of"),
        ({"segmentation": {"counts": "h72b0o", "size": [20, 30]}}, "ends inside a number"),
        ({"segmentation": {"counts": [5], "size": [1, 5]}}, "is for an image of"),
        ({"bbox": [50, 50, 3, 3]}, "not inside"),
        ({"bbox": [1, 2]}, "malformed"),
        ({}, "malformed"),
    ],
)
def test_malformed_annotations_are_named(tmp_path, annotation, said):
    with pytest.raises(InputError, match=f"annotation 0 of a.*{said}"):
        coco(tmp_path / "c.json", annotation).mask("a", IMAGE)


def test_what_is_no_coco_is_refused(tmp_path):
    for text in ("[]", "{}", '{"images": [{}], "annotations": []}'):
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(InputError, match="annotations"):
            CocoMasks(tmp_path / "c.json")


def test_a_folder_with_annotations_is_a_labelled_set(tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(IMAGE).save(tmp_path / "images" / "a.png")
    coco(tmp_path / "annotations.json", {"bbox": [10, 6, 7, 6]})
    (tmp_path / "val.txt").write_text("a\n")
    (one,) = labelled_images(tmp_path, "val")
    assert where(one.mask) == SPOT


@pytest.mark.parametrize(
    ("images", "annotations"),
    [
        ("images", "annotations.json"),
        ("images/default", "annotations/instances_default.json"),  # CVAT
        ("data", "labels.json"),  # FiftyOne
        (".", "_annotations.coco.json"),  # Roboflow, without its folders
    ],
)
def test_layouts_of_tools_are_split_by_themselves(tmp_path, images, annotations):
    labelled_folder(tmp_path, images, annotations)
    found = {split: [one.name for one in labelled_images(tmp_path, split)] for split in ("train", "val")}
    assert all(found.values())
    assert sorted(found["train"] + found["val"]) == sorted(f"f{i}" for i in range(30))
    assert {tuple(where(one.mask)) for one in labelled_images(tmp_path, "val")} == {tuple(SPOT)}


def test_roboflow_has_a_folder_per_split_and_calls_val_valid(tmp_path):
    for name in ("train", "valid"):
        labelled_folder(tmp_path / name, ".", "_annotations.coco.json", number=2)
    assert list_name(tmp_path, "val") == "valid/"
    assert [where(one.mask) for one in labelled_images(tmp_path, "val")] == [SPOT, SPOT]
    assert training_list(tmp_path, "val") == "train"


def labelled_folder(root, images, annotations, number=30):
    (root / images).mkdir(parents=True, exist_ok=True)
    (root / annotations).parent.mkdir(parents=True, exist_ok=True)
    for i in range(number):
        Image.fromarray(IMAGE).save(root / images / f"f{i}.png")
    rows = [{"id": i, "image_id": i, "category_id": 1, "bbox": [10, 6, 7, 6]} for i in range(number)]
    names = [{"id": i, "file_name": f"f{i}.png"} for i in range(number)]
    (root / annotations).write_text(json.dumps({"images": names, "annotations": rows}))


def test_sequences_stay_together_and_about_a_fifth_of_them_validates():
    names = [f"seq{s:03d}_{i:04d}" for s in range(200) for i in range(3)]
    train, val = automatic_split(names, "train"), automatic_split(names, "val")
    assert sorted(train + val) == names
    assert not {n[:6] for n in train} & {n[:6] for n in val}
    assert 0.1 < len(val) / len(names) < 0.3
    assert automatic_split(names[:300], "val") == [n for n in val if n in set(names[:300])]  # a name keeps its side


def test_frames_of_one_film_are_split_by_themselves_and_too_few_not_at_all():
    names = [f"{i:04d}" for i in range(100)]
    assert 10 < len(automatic_split(names, "val")) < 30
    with pytest.raises(InputError, match="too few"):
        automatic_split(["a"], "val")


def test_a_folder_without_lists_has_train_and_val_and_one_with_lists_what_they_say(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(40):
        (tmp_path / "images" / f"{i}.png").write_bytes(b"")
    assert list_name(tmp_path, "val") == AUTOMATIC
    assert training_list(tmp_path, "val") == "train"
    assert training_list(tmp_path, "train") is None
    assert len(read_split(tmp_path, "train")) + len(read_split(tmp_path, "val")) == 40
    with pytest.raises(SourceError):
        split_file(tmp_path, "test")
    (tmp_path / "val.txt").write_text("3\n")
    assert (list_name(tmp_path, "val"), read_split(tmp_path, "val")) == ("val.txt", ["3"])
    with pytest.raises(SourceError, match=r"train\.txt"):
        read_split(tmp_path, "train")
