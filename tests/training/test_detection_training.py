"""Inpainting, augmentation and losses of LSNet's training, on images made here."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from glint.images import write_image
from glint.metrics.detection import FIGURES
from glint.training.loop import Recipe, Trainer
from glint.training.networks.lsnet import LSNetConfig
from glint.training.tasks import detection
from glint.training.tasks.augmentation import Augmentation, Sample, crop_sample, veil
from glint.training.tasks.detection import DetectionTask, predict

TINY = LSNetConfig(stages=2, background=(8, 12), heads=1, head_dim=4, state=2, sparse=(4, 6, 8), unshuffle=2)


@pytest.fixture
def folder(tmp_path):
    """Four frames with one square target each, two empty ones, and the two splits."""
    rng = np.random.default_rng(0)
    for i in range(4):
        image = rng.integers(60, 70, (40, 56)).astype(np.uint8)
        mask = np.zeros((40, 56), dtype=np.uint8)
        mask[10 + i : 13 + i, 20:23] = 255
        image[mask > 0] = 140
        write_image(tmp_path / "images" / f"f{i}.png", image)
        write_image(tmp_path / "masks" / f"f{i}.png", mask)
    for i in range(2):
        write_image(tmp_path / "backgrounds" / f"b{i}.png", rng.integers(60, 70, (40, 56)).astype(np.uint8))
    (tmp_path / "train.txt").write_text("f0\nf1\n")
    (tmp_path / "val.txt").write_text("f2\nf3\n")
    return tmp_path


def test_a_sample_separates_target_and_background():
    image = np.full((30, 30), 50, dtype=np.uint8)
    mask = np.zeros((30, 30), dtype=bool)
    mask[14:16, 14:16] = True
    image[mask] = 200
    sample = Sample.of(image, mask)
    assert np.allclose(sample.background, 50)
    assert np.allclose((sample.frame - sample.background)[mask], 150)


def test_a_veil_lies_over_frame_and_background_alike_and_keeps_their_level():
    rng = np.random.default_rng(4)
    frame, background, other = rng.normal(50, 9, (3, 40, 40)).astype(np.float32)
    veiled, behind = veil(frame, background, other, 2.0, rng)
    assert np.allclose(veiled - behind, frame - background, atol=1e-4)
    added = veiled - frame
    assert added.mean() == pytest.approx(0, abs=1e-3)
    share = added.std() / other.std()
    assert 2 * 0.05 <= share <= 2 * 0.5
    assert np.corrcoef(added.ravel(), other.ravel())[0, 1] > 0.999


def disc(centre, radius, size=81):
    y, x = np.mgrid[:size, :size]
    return np.hypot(x - centre[0], y - centre[1]) <= radius


@pytest.mark.parametrize("seed", range(8))
def test_a_crop_shows_frame_background_and_mask_of_the_same_place(seed):
    mask = disc((37, 45), 6)
    image = np.where(mask, 200, np.add.outer(np.arange(81), 2 * np.arange(81)) / 4).astype(np.float32)
    frame, background, seen, known, box = crop_sample(
        Sample.of(image, mask), Augmentation(crop=64, on_target=1.0, turned=1.0, blurred=1.0, bent=1.0, magnified=0.0),
        np.random.default_rng(seed),
    )  # fmt: skip
    assert frame.shape == background.shape == seen.shape == (64, 64)
    assert known.all() and not box.any()
    assert frame.dtype == background.dtype == np.float32
    light = frame - background
    bright = light > 0.5 * light.max()
    # Linear interpolation and a blur of less than a pixel move edges by less than one.
    assert not (seen & ~ndimage.binary_dilation(bright)).any()
    assert not (ndimage.binary_erosion(bright) & ~seen).any()
    assert np.abs(light[~ndimage.binary_dilation(seen, iterations=4)]).max() < 0.02 * light.max()


@pytest.mark.parametrize("scale", [0.7, 1.0, 1.5])
def test_a_crop_is_magnified_as_drawn(scale):
    sample = Sample.of(np.where(disc((40, 40), 6), 200.0, 50.0), disc((40, 40), 6))
    augmentation = Augmentation(crop=64, scale=(scale, scale), on_target=1.0, stretch=0.0, magnified=0.0)
    areas = [crop_sample(sample, augmentation, np.random.default_rng(seed))[2].sum() for seed in range(12)]
    assert np.mean(areas) == pytest.approx(sample.mask.sum() * scale**2, rel=0.05)


PLAIN = {"turned": 0.0, "stretch": 0.0, "blurred": 0.0, "bent": 0.0, "on_target": 0.0, "scale": (1.0, 1.0)}


def cropped(**options):
    rng = np.random.default_rng(7)
    image = rng.normal(100, 10, (64, 64)).astype(np.float32)
    return image, crop_sample(Sample.of(image), Augmentation(crop=64, **PLAIN | options), np.random.default_rng(2))[0]


def test_a_crop_without_changes_is_the_frame():
    image, crop = cropped()
    assert np.allclose(crop, image, atol=1e-3)


@pytest.mark.parametrize("option", [{"turned": 1.0}, {"stretch": 0.15}, {"blurred": 1.0}, {"bent": 1.0}])
def test_every_change_of_a_crop_happens(option):
    image, crop = cropped(**option)
    assert np.abs(crop - image).max() > 1


@pytest.mark.parametrize("option", [{"turned": 1.0}, {"stretch": 0.15}])
def test_a_crop_is_changed_about_its_centre(option):
    row, column = np.mgrid[:64, :64] - 31.5
    light = 100 * np.exp(-(row**2 + column**2) / 50).astype(np.float32)
    crop, *_ = crop_sample(Sample.of(light), Augmentation(crop=64, **PLAIN | option), np.random.default_rng(4))
    centre = [np.average(axis, weights=crop**2) for axis in np.mgrid[:64, :64]]
    assert centre == pytest.approx([31.5, 31.5], abs=0.05)


def test_a_veil_is_another_frame_s_background_at_the_scale_of_this_one(folder, monkeypatch):
    task = DetectionTask("lsnet-s", TINY, folder, Augmentation(crop=32, veiled=1.0, generated=0.0, negatives=0.0))
    frame = np.random.default_rng(3).normal(50, 30, (40, 40)).astype(np.float32)
    frame[20, 20] = 5000
    mask = frame == 5000
    other, veils = Sample.of(frame, mask), []
    monkeypatch.setattr(task, "_any", lambda rng: other)
    monkeypatch.setattr(detection, "veil", lambda f, b, of, ratio, rng: veils.append((of, ratio)) or (f, b))
    task.batch(6, np.random.default_rng(5), torch.device("cpu"))
    assert len(veils) == 6
    assert max(of.max() for of, _ in veils) < 500  # without its target
    assert {ratio for _, ratio in veils} <= {sample.scale / other.scale for sample in task.samples[0]}


def test_blur_smooths_and_bending_keeps_the_order():
    image, blurred = cropped(blurred=1.0, blur=(0.8, 0.8))
    assert np.allclose(blurred, ndimage.gaussian_filter(image, 0.8), atol=1e-3)
    image, bent = cropped(bent=1.0)
    assert np.all(np.diff(bent.ravel()[np.argsort(image.ravel())]) >= -1e-3)
    assert (bent.min(), bent.max()) == pytest.approx((image.min(), image.max()), abs=1e-2)


def test_batches_are_reproducible_and_consistent(folder):
    task = DetectionTask("lsnet-s", TINY, folder, Augmentation(crop=32, noise=0.0))
    first, second = (task.batch(12, np.random.default_rng(5), torch.device("cpu")) for _ in range(2))
    for name, tensor in first.items():
        assert tensor.shape == (12, 1, 32, 32)
        assert torch.equal(tensor, second[name])
    # Frame and background differ on and near targets only: inpainting, tails and zoom reach up to 7 px.
    difference = (first["frame"] - first["background"]).abs()
    reach = torch.nn.functional.max_pool2d(first["mask"], 15, stride=1, padding=7)
    reach[..., :7, :] = reach[..., -7:, :] = reach[..., :7] = reach[..., -7:] = 1  # targets just outside the crop
    assert difference[reach == 0].max() < 0.1
    assert difference[first["mask"] > 0].mean() > 0.5


def test_every_second_empty_frame_is_kept_from_training(folder):
    task = DetectionTask("lsnet-s", TINY, folder)
    assert task.data["negatives"] == ["b0"]


def test_training_reaches_beyond_chance_on_a_trivial_set(folder, tmp_path):
    task = DetectionTask("lsnet-s", TINY, folder, Augmentation(crop=32, pasted=0.0, generated=0.0))
    recipe = Recipe(steps=80, batch=4, lr=5e-3, warmup=5, validate_every=80, ema=0.9, amp="off")
    metrics = Trainer(task, recipe, tmp_path / "run").fit()
    assert metrics["iou"] > 20
    assert {"curves.png", "validation.png"} <= {path.name for path in (tmp_path / "run").iterdir()}
    assert set(metrics["intervals"]) == set(FIGURES)
    for name, (low, high) in metrics["intervals"].items():
        assert low <= metrics[name] <= high


def test_prediction_keeps_the_size_and_level_of_the_frame(folder):
    task = DetectionTask("lsnet-s", TINY, folder)
    probability, background, target = predict(
        task.build().eval(), task.validation.masks[folder.name][0].image, torch.device("cpu")
    )
    assert probability.shape == background.shape == target.shape == (40, 56)
    assert probability.min() >= 0 and probability.max() <= 1
