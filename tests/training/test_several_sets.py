"""Training on several sets at once: shares, held-back empty frames, boxes in the loss, validation of each set."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from glint.cli import main
from glint.errors import InputError
from glint.images import write_image
from glint.training.loop import Recipe, Trainer
from glint.training.networks.lsnet import PRESETS, LSNetConfig
from glint.training.tasks.augmentation import Augmentation
from glint.training.tasks.data_sets import DataSet, checked_sets, empty_frames
from glint.training.tasks.detection import DetectionTask, _alarm_loss, _box_loss

TINY = LSNetConfig(stages=1, background=(8, 12), heads=1, head_dim=4, state=2, sparse=(4, 6, 8), unshuffle=2)


def sky(rng):
    return rng.integers(60, 70, (40, 56)).astype(np.uint8)


@pytest.fixture
def masks(tmp_path):
    rng, root = np.random.default_rng(0), tmp_path / "masks-set"
    for i in range(4):
        image, mask = sky(rng), np.zeros((40, 56), dtype=np.uint8)
        mask[10:13, 20:23] = 255
        image[mask > 0] = 160
        write_image(root / "images" / f"f{i}.png", image)
        write_image(root / "masks" / f"f{i}.png", mask)
    (root / "train.txt").write_text("f0\nf1\n")
    (root / "val.txt").write_text("f2\nf3\n")
    return root


@pytest.fixture
def boxes(tmp_path):
    rng, root, points = np.random.default_rng(1), tmp_path / "boxes-set", {}
    for i in range(4):
        image = sky(rng)
        image[20:23, 30:32] = 200
        write_image(root / "images" / f"g{i}.png", image)
        points[f"g{i}"] = {"box": [26, 17, 10, 9], "point": [30.5, 21.0], "good": i % 2 == 0}
    (root / "points.json").write_text(json.dumps(points))
    (root / "train.txt").write_text("g0\ng1\n")
    (root / "val.txt").write_text("g2\ng3\n")
    return root


@pytest.fixture
def empty(tmp_path):
    for i in range(5):
        write_image(tmp_path / "empty" / f"e{i}.png", sky(np.random.default_rng(10 + i)))
    return tmp_path / "empty"


def test_shares_are_read_and_refused(tmp_path):
    assert DataSet.parse("a/b") == DataSet(Path("a/b"), 1.0)
    assert DataSet.parse("a/b=2.5") == DataSet(Path("a/b"), 2.5)
    (tmp_path / "x=3").mkdir()
    assert DataSet.parse(str(tmp_path / "x=3")).root == tmp_path / "x=3"
    for text in ("a=", "a=much", "a=-1", "a=0", "a=inf"):
        with pytest.raises(InputError, match="no share"):
            DataSet.parse(text)


def test_sets_are_checked(masks):
    with pytest.raises(InputError, match="one name"):
        checked_sets([masks, masks])
    with pytest.raises(InputError, match="labelled images"):
        checked_sets([])
    (masks / "val.txt").write_text("f1\nf2\n")
    with pytest.raises(InputError, match="share 1 images"):
        checked_sets([masks])


def test_every_second_empty_frame_of_each_folder_is_held_back(masks, empty):
    for i in range(2):
        write_image(masks / "backgrounds" / f"b{i}.png", sky(np.random.default_rng(i)))
    found = empty_frames(checked_sets(masks), [empty])
    assert [(n, [p.stem for p in t], [p.stem for p in h]) for n, t, h in found] == [
        ("masks-set", ["b0"], ["b1"]),
        ("empty", ["e0", "e2", "e4"], ["e1", "e3"]),
    ]
    write_image(empty / "b1.png", sky(np.random.default_rng(0)))
    with pytest.raises(InputError, match="'b1'"):
        empty_frames(checked_sets(masks), [empty])


def test_crops_are_drawn_by_share(masks, boxes, empty):
    task = DetectionTask(
        "lsnet-s", TINY, [DataSet(masks, 1.0), DataSet(boxes, 3.0)], Augmentation(crop=32, negatives=0.0, generated=0.0)
    )
    assert task.shares.tolist() == [0.25, 0.75]
    known = task.batch(60, np.random.default_rng(0), torch.device("cpu"))["known"].amin((1, 2, 3))
    assert 0.55 < 1 - known.mean() < 0.95  # those of boxes are not known everywhere
    assert [s["folder"] for s in task.data["sets"]] == ["masks-set", "boxes-set"]


def test_a_box_wants_one_sure_pixel_and_no_box_wants_nothing():
    logit, box = torch.full((2, 1, 8, 8), -5.0), torch.zeros(2, 1, 8, 8)
    assert _box_loss(logit, box) == 0
    box[0, 0, 2:5, 2:5] = 1
    assert _box_loss(logit, box).item() == pytest.approx(np.log1p(np.exp(5)) / 2, rel=1e-4)
    logit[0, 0, 7, 7] = 9.0  # outside
    assert _box_loss(logit, box).item() == pytest.approx(np.log1p(np.exp(5)) / 2, rel=1e-4)
    logit[0, 0, 3, 3] = 9.0
    assert _box_loss(logit, box).item() < 1e-3


def test_what_is_unknown_has_no_part_in_the_loss(masks):
    task = DetectionTask("lsnet-s", TINY, masks, Augmentation(crop=32))
    model, device = task.build(), torch.device("cpu")
    batch = task.batch(2, np.random.default_rng(0), device)
    batch["known"] = torch.zeros_like(batch["known"])
    batch["known"][..., :16, :] = 1
    losses = []
    for _ in range(2):
        losses.append(task.loss(model, batch, torch.tensor(0.5)).item())
        batch["mask"] = batch["mask"].clone()
        batch["mask"][..., 20:, :] = 1
        batch["background"] = batch["background"].clone()
        batch["background"][..., 20:, :] += 3
    assert losses[0] == losses[1]


def test_validation_tells_each_set_and_one_figure(masks, boxes, empty, tmp_path):
    task = DetectionTask("lsnet-s", TINY, [masks, boxes], Augmentation(crop=32), backgrounds=[empty], validate_on=1)
    recipe = Recipe(steps=2, batch=2, validate_every=2, warmup=1, amp="off")
    row = Trainer(task, recipe, tmp_path / "run").fit()
    assert set(row["sets"]) == {"masks-set", "boxes-set"}
    assert row["sets"]["boxes-set"].keys() == {"pd", "false_per_frame"}
    assert row["empty"]["empty"]["frames"] == 1
    alarms = [row["sets"]["boxes-set"]["false_per_frame"], row["empty"]["empty"]["false_per_frame"]]
    merit = (row["sets"]["masks-set"]["niou"] + row["sets"]["boxes-set"]["pd"]) / 2
    assert row["score"] == pytest.approx(merit - 4 * np.mean(np.minimum(alarms, 5)), abs=0.02)


def test_the_command_takes_several_sets(masks, boxes, empty, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PRESETS, "lsnet-s", TINY)
    words = ["train", "lsnet-s", "--data", f"{masks}=2", "--data", str(boxes), "--backgrounds", str(empty)]
    more = ["--validate-on", "1", "--steps", "1", "--batch", "1", "--out", str(tmp_path / "run"), "--json"]
    assert main([*words, *more]) == 0
    assert set(json.loads(capsys.readouterr().out)["sets"]) == {"masks-set", "boxes-set"}
    assert main(["train", "lsnet-s", "--data", f"{masks}=no", "--out", str(tmp_path / "other")]) == 2
    assert "no share" in capsys.readouterr().err


def test_the_likeliest_false_alarms_count_unless_they_are_a_targets_edge_or_unlabelled():
    logit, mask, known = torch.full((1, 1, 32, 32), -30.0), torch.zeros(1, 1, 32, 32), torch.ones(1, 1, 32, 32)
    mask[..., 10, 10] = 1
    logit[..., 10, 13] = 5.0  # three pixels from a target
    assert _alarm_loss(logit, mask, known).item() < 1e-6
    logit[..., 20:24, 20:23] = 5.0
    assert _alarm_loss(logit, mask, known).item() == pytest.approx(np.log1p(np.exp(5)), rel=1e-4)
    known[..., 20:24, 20:23] = 0
    assert _alarm_loss(logit, mask, known).item() < 1e-6
