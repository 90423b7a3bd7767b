"""Faults of cameras and rendered targets: what they change, what they leave, and what stays known."""

import numpy as np
import pytest

from glint.data.boxes import BoxedImage
from glint.training.tasks.augmentation import Augmentation, Sample, crop_sample, disturb, statistics_after
from glint.training.tasks.camera_faults import (
    Crop,
    add_bars,
    add_noise,
    clip,
    compress,
    draw_overlay,
    ignore_drowned,
    stick_pixels,
)
from glint.training.tasks.rendered import paste_object, paste_points

SPAN = (0.0, 255.0)
SIZE = 64


def crop(contrast=80.0, seed=0):
    """A quiet sky with a target of 3 x 3 pixels in its middle."""
    background = np.random.default_rng(seed).normal(60, 2, (SIZE, SIZE)).astype(np.float32)
    frame, mask = background.copy(), np.zeros((SIZE, SIZE), dtype=bool)
    mask[30:33, 30:33] = True
    frame[mask] += contrast
    return Crop(frame, background, mask, np.ones_like(mask), np.zeros_like(mask))


def rng(seed=1):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("soft", [0.0, 0.6])
def test_noise_has_the_deviation_asked_for_and_is_background(soft):
    before = crop()
    after = add_noise(before, 5.0, rng(), striped=0.0, soft=soft)
    change = after.frame - before.frame
    assert change.std() == pytest.approx(5, rel=0.05)
    assert np.allclose(after.background - before.background, change, atol=1e-4)
    assert after.known.all()  # the target is far above the noise


def test_noise_of_rows_and_columns_lies_along_them():
    before = crop()
    change = add_noise(before, 1.0, rng(), striped=10.0, soft=0.0).frame - before.frame
    assert change.mean(axis=1).std() > 5 and change.mean(axis=0).std() > 5


def test_a_drowned_target_is_unknown():
    assert ignore_drowned(crop(10.0), 4.0).known.all()
    drowned = ignore_drowned(crop(10.0), 10.0)
    assert not drowned.known[30:33, 30:33].any()
    assert drowned.known.sum() == SIZE**2 - 7**2
    assert ignore_drowned(crop(10.0), 0.0).known.all()


@pytest.mark.parametrize("seed", range(6))
def test_overlays_bars_and_stuck_pixels_are_background_and_spare_targets(seed):
    before = crop()
    for change in (
        lambda c, r: draw_overlay(c, SPAN, r),
        lambda c, r: add_bars(c, SPAN, r, widest=16),
        lambda c, r: stick_pixels(c, SPAN, r, most=8),
    ):
        after = change(before, rng(seed))
        changed = after.frame != before.frame
        assert not changed[28:35, 28:35].any()
        assert np.array_equal(after.frame[changed], after.background[changed])
        assert np.array_equal(after.mask, before.mask)


def test_every_fault_happens_for_some_seed():
    before = crop()
    for change in (draw_overlay, lambda c, s, r: add_bars(c, s, r, widest=16)):
        assert any((change(before, SPAN, rng(s)).frame != before.frame).any() for s in range(8))


def test_compression_leaves_a_target_its_light():
    before = crop()
    after = compress(before, SPAN, rng(), quality=(30, 30))
    assert np.allclose(after.frame - after.background, before.frame - before.background, atol=1e-3)
    change = np.abs(after.frame - before.frame)
    assert 0.3 < change.mean() < 5


def test_clipping_keeps_to_the_span():
    after = clip(crop(400.0), SPAN)
    assert after.frame.max() == 255
    assert after.background.max() < 100


def test_points_have_the_ratio_asked_for_and_are_known():
    nothing = np.zeros((SIZE, SIZE), dtype=bool)
    before = crop(0.0)._replace(mask=nothing, known=nothing)
    after = paste_points(before, rng(2), most=3, scr=(10.0, 10.0), sigma=(0.6, 0.6))
    new = after.mask & ~before.mask
    assert new.any() and after.known[new].all() and not after.known.all()
    light = after.frame - before.frame
    assert 10 * 1.6 < light.max() < 10 * 2.4  # of a deviation of 2 DN
    assert np.array_equal(after.background, before.background)


def test_an_object_is_large_and_spares_targets():
    for seed in range(8):
        before = crop()
        after = paste_object(before, rng(seed), radius=(5.0, 9.0), contrast=(10.0, 10.0))
        new = after.mask & ~before.mask
        assert not new.any() or (new.sum() > 60 and (after.frame - before.frame)[new].min() > 4)
    assert not paste_object(before, rng(0), radius=(200.0, 200.0), contrast=(5.0, 5.0)).mask[0, 0]


def boxed(*, good=True, box=(28, 27, 8, 9)):
    image = np.full((64, 64), 50, dtype=np.uint8)
    image[31:34, 31:33] = 180
    return BoxedImage("a", image, box, (31.5, 32.0), good)


PLAIN = {"turned": 0.0, "stretch": 0.0, "blurred": 0.0, "bent": 0.0, "on_target": 0.0, "scale": (1.0, 1.0)}


def test_of_a_boxed_frame_only_the_box_is_known_and_without_a_good_mask_nothing():
    seen = crop_sample(Sample.of_box(boxed()), Augmentation(crop=64, **PLAIN), rng())
    assert seen.mask.sum() == 6 and seen.box.sum() == seen.known.sum() == 72
    assert np.allclose(seen.background, 50)
    seen = crop_sample(Sample.of_box(boxed(good=False)), Augmentation(crop=64, **PLAIN), rng())
    assert not seen.mask.any() and not seen.known.any() and seen.box.sum() == 72


def test_a_box_that_a_crop_cuts_is_none():
    sample = Sample.of_box(boxed(box=(0, 27, 40, 9)))
    assert not crop_sample(sample, Augmentation(crop=64, **PLAIN), rng()).box.any()


def test_the_normaliser_would_see_the_noise():
    sample = Sample.of(np.random.default_rng(0).normal(100, 20, (64, 64)).clip(0, 255).astype(np.uint8))
    before = sample.frame.astype(np.float32)
    after = before + np.random.default_rng(1).normal(0, 15, before.shape).astype(np.float32)
    offset, scale = statistics_after(sample, before, after)
    assert offset == pytest.approx(after.mean(), abs=0.1)
    assert scale == pytest.approx(after.std(), rel=0.01)


def test_disturbing_is_reproducible():
    sample = Sample.of(crop().frame.astype(np.uint8))
    everything = Augmentation(
        crop=SIZE, objects=1.0, points=1.0, noisy=1.0, stuck=1.0, overlay=1.0, bars=1.0, compressed=1.0
    )
    first, second = (disturb(crop(), sample, everything, rng(5)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second))
    assert (first.frame >= 0).all() and (first.frame <= 255).all()
