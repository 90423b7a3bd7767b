"""Hard negatives: false alarms are found in the training frames, kept in a file, and trained on again."""

import json

import numpy as np
import pytest

from glint.errors import InputError
from glint.images import write_image
from glint.training.mine import main
from glint.training.networks.lsnet import LSNetConfig
from glint.training.tasks.augmentation import Augmentation
from glint.training.tasks.data_sets import DataSet
from glint.training.tasks.detection import DetectionTask
from glint.training.tasks.hard import HardPlace, HardPlaces, mine

TINY = LSNetConfig(stages=2, background=(8, 12), heads=1, head_dim=4, state=2, sparse=(4, 6, 8), unshuffle=2)


def spot(image, row, column, level):
    image[row - 1 : row + 2, column - 1 : column + 2] = level


@pytest.fixture
def folder(tmp_path):
    """Frames with a labelled spot at (12, 20) and a bright one, no target, at (30, 50); empty frames with one."""
    root = tmp_path / "set"
    for name in ("a", "b", "c"):
        image, mask = np.full((48, 64), 60, np.uint8), np.zeros((48, 64), np.uint8)
        spot(image, 12, 20, 200)
        spot(mask, 12, 20, 255)
        spot(image, 30, 50, 200)
        write_image(root / "images" / f"{name}.png", image)
        write_image(root / "masks" / f"{name}.png", mask)
    for name in ("e0", "e1"):  # every second one is held back
        image = np.full((48, 64), 60, np.uint8)
        spot(image, 8, 9, 200)
        write_image(root / "backgrounds" / f"{name}.png", image)
    (root / "train.txt").write_text("a\nb\n")
    (root / "val.txt").write_text("c\n")
    return root


def bright(image):
    return (image > 150).astype(np.float32)


def test_false_alarms_are_found_in_frames_that_are_trained_on_and_nowhere_else(folder):
    places = list(mine(bright, [DataSet(folder)], [], 0.5))
    assert places == [
        HardPlace("set", "a", (30, 50)), HardPlace("set", "b", (30, 50)), HardPlace("set", "e0", (8, 9)),
    ]  # fmt: skip


def test_a_mark_that_touches_the_surroundings_of_a_target_is_none(folder):
    def smeared(image):
        wide = bright(image)
        wide[12, 20:40] = 1  # reaches from the target outwards
        wide[30, 50] = 0
        return wide

    assert {p.place for p in mine(smeared, [DataSet(folder)], [], 0.5) if p.frame == "a"} == {(30, 50)}


def test_the_file_brings_the_places_back(folder, tmp_path):
    places = HardPlaces("ab" * 32, (HardPlace("set", "a", (30, 50)),))
    places.write(tmp_path / "hard.json")
    assert HardPlaces.read(tmp_path / "hard.json") == places


@pytest.mark.parametrize("text", ["{", "[]", '{"found_by": "x"}', '{"found_by": "x", "places": [{"set": "s"}]}'])
def test_another_file_is_refused(tmp_path, text):
    (tmp_path / "hard.json").write_text(text)
    with pytest.raises(InputError):
        HardPlaces.read(tmp_path / "hard.json")


def test_crops_are_drawn_around_the_places(folder):
    places = HardPlaces("ab" * 32, (HardPlace("set", "a", (30, 50)), HardPlace("set", "e0", (8, 9))))
    plain = {"pasted": 0.0, "points": 0.0, "objects": 0.0, "veiled": 0.0, "stuck": 0.0, "overlay": 0.0, "bars": 0.0}
    augmentation = Augmentation(crop=32, hard=1.0, scale=(1.0, 1.0), magnified=0.0, noisy=0.0, bent=0.0, **plain)
    task = DetectionTask("lsnet-s", TINY, folder, augmentation, hard=places)
    drawn = [task._draw(np.random.default_rng(seed)) for seed in range(20)]
    assert all(np.ptp(crop.frame - crop.background) < 40 or crop.mask.any() for crop in drawn)
    assert np.mean([np.ptp(crop.background) > 3 for crop in drawn]) > 0.9  # the bright spot that is no target
    assert task.data["hard"] == {"places": 2, "found_by": "ab" * 32}


def test_places_in_frames_that_are_not_trained_on_are_refused(folder):
    with pytest.raises(InputError, match="'c'"):
        DetectionTask("lsnet-s", TINY, folder, hard=HardPlaces("ab" * 32, (HardPlace("set", "c", (1, 1)),)))


def test_the_command_writes_the_places_of_a_checkpoint(folder, tmp_path, capsys):
    from glint.training.loop import Recipe, Trainer

    run = tmp_path / "run"
    task = DetectionTask("lsnet-s", TINY, folder, Augmentation(crop=32))
    Trainer(task, Recipe(steps=1, batch=2, warmup=1, validate_every=1), run).fit()
    out = tmp_path / "hard.json"
    assert main([str(run / "last.safetensors"), "--data", str(folder), "--threshold", "0.01", "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    assert set(written) == {"found_by", "places"} and len(written["found_by"]) == 64
    assert main([str(run / "last.safetensors"), "--data", str(folder), "--out", str(out)]) == 2  # it is there already
    assert "overwrite" in capsys.readouterr().err
