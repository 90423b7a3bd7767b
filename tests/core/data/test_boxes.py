"""Reading sets whose targets have boxes, and scoring by boxes, on images made here."""

import json

import numpy as np
import pytest

from glint.data.boxes import boxed_images, half_peak_mask, is_boxed
from glint.errors import InputError
from glint.images import write_image
from glint.metrics.boxes import BoxCounts, count_box, score_boxes

GOOD = {"box": [10, 8, 9, 7], "point": [14.0, 11.0], "good": True, "scr": 8.5, "area": 9}


@pytest.fixture
def folder(tmp_path):
    """One frame of 30 x 20 with a target of 3 x 3 pixels in its box."""
    image = np.full((20, 30), 40, dtype=np.uint8)
    image[10:13, 13:16] = 140
    image[9, 14] = 80  # less than half of the peak's contrast
    image[2, 2] = 255  # something outside of the box
    write_image(tmp_path / "images" / "a.png", image)
    (tmp_path / "val.txt").write_text("a\n")
    (tmp_path / "points.json").write_text(json.dumps({"a": GOOD}))
    return tmp_path


def test_a_boxed_image_knows_its_target(folder):
    assert is_boxed(folder) and not is_boxed(folder / "images")
    (boxed,) = boxed_images(folder, "val")
    assert (boxed.name, boxed.box, boxed.point, boxed.good) == ("a", (10, 8, 9, 7), (14.0, 11.0), True)
    assert (boxed.scr, boxed.area) == (8.5, 9.0)
    assert boxed.image[boxed.inside].shape == (7, 9)
    assert boxed.mask.sum() == 9 and boxed.mask[10:13, 13:16].all()


def test_a_mask_is_of_what_touches_the_peak_and_empty_without_contrast():
    image = np.full((20, 20), 10, dtype=np.uint8)
    assert not half_peak_mask(image, (5, 5, 8, 8)).any()
    image[7, 7], image[11, 11] = 200, 180
    assert np.argwhere(half_peak_mask(image, (5, 5, 8, 8))).tolist() == [[7, 7]]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"box": [10, 8, 9]}, "box"),
        ({"box": [10, 8, 9, 70]}, "not inside"),
        ({"box": [10, 8, 0, 7]}, "not inside"),
        ({"point": [14, "x"]}, "point"),
        ({"point": [14.0, 40.0]}, "not inside"),
        ({"good": 1}, "good"),
        ({"scr": "much"}, "scr"),
        ({"scr": 10**30}, "scr"),
        ({"point": [10**400, 3]}, "point"),
    ],
)
def test_wrong_entries_are_named(folder, change, part):
    (folder / "points.json").write_text(json.dumps({"a": GOOD | change}))
    with pytest.raises(InputError, match=part) as caught:
        list(boxed_images(folder, "val"))
    assert "points.json: a" in str(caught.value)


def test_missing_entries_and_files_are_told(folder):
    (folder / "points.json").write_text("{}")
    with pytest.raises(InputError, match="no entry"):
        list(boxed_images(folder, "val"))
    for text in ("[]", "{"):
        (folder / "points.json").write_text(text)
        with pytest.raises(InputError, match=r"points\.json"):
            list(boxed_images(folder, "val"))
    (folder / "points.json").unlink()
    with pytest.raises(InputError, match=r"points\.json"):
        list(boxed_images(folder, "val"))


def test_a_target_is_found_in_its_widened_box_and_everything_else_is_false():
    predicted = np.zeros((40, 40), dtype=bool)
    assert count_box(predicted, (10, 10, 10, 8)) == BoxCounts(found=False, false=0)
    predicted[14, 16] = predicted[8, 8] = True  # the second is outside of the box, within the widened one
    predicted[30:32, 30:32] = True
    assert count_box(predicted, (10, 10, 10, 8)) == BoxCounts(found=True, false=1)
    score = score_boxes([BoxCounts(True, 1), BoxCounts(False, 2)])
    assert (score.pd, score.false_per_frame, score.images) == (50.0, 1.5, 2)
    assert np.isnan(score_boxes([]).pd)
