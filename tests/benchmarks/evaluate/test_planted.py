"""Planted targets are what they were asked to be, where there is room for them."""

import math

import numpy as np
import pytest

from glint.benchmarks.evaluate.planted import generated_backgrounds, plant
from glint.metrics.targets import clutter


def noisy(shape=(200, 240), level=60, sd=3, dtype=np.uint8, seed=0):
    return np.round(np.random.default_rng(seed).normal(level, sd, shape)).astype(dtype)


def test_a_planted_spot_has_the_ratio_it_was_asked_for():
    image = noisy(dtype=np.uint16)
    planted = plant(image, [5.0, 20.0, 8.0], [1, 4, 1], np.random.default_rng(1))
    assert planted.scr.tolist() == [5.0, 20.0, 8.0]
    added = planted.data.astype(float) - image
    for x, y, scr, (left, top, spot) in zip(planted.x, planted.y, planted.scr, planted.spots):
        window = np.s_[top : top + 21, left : left + 21]
        assert np.abs(added[window] - spot).max() <= 0.5  # rounded to whole DN
        column, row = left + 10, top + 10
        around = image[row - 10 : row + 11, column - 10 : column + 11]
        assert spot.max() == pytest.approx(scr * around.std())
        rows, columns = np.mgrid[top : top + 21, left : left + 21]
        assert (spot * columns).sum() / spot.sum() == pytest.approx(x, abs=0.01)
        assert (spot * rows).sum() / spot.sum() == pytest.approx(y, abs=0.01)
        added[window] = 0
    assert not added.any()


def test_targets_keep_apart_from_each_other_the_edge_and_what_is_there():
    avoid = np.array([[100.0, 100.0], [30.0, 150.0]])
    planted = plant(noisy(), [3.0] * 60, [1] * 60, np.random.default_rng(2), avoid=avoid)
    place = np.stack([planted.x, planted.y], axis=1)
    assert 5 < len(place) < 60  # no room for all
    gap = np.hypot(*(place[:, None] - place).transpose(2, 0, 1)) + 1e3 * np.eye(len(place))
    assert gap.min() > 31
    assert np.hypot(*(place[:, None] - avoid).transpose(2, 0, 1)).min() > 15
    assert place.min() > 15 and (place < (240 - 16, 200 - 16)).all()


def test_nothing_is_planted_where_it_would_saturate_or_where_there_is_no_room():
    assert len(plant(noisy(level=250), [30.0], [1], np.random.default_rng(0)).x) == 0
    assert len(plant(noisy((30, 400)), [3.0], [1], np.random.default_rng(0)).x) == 0
    bright = plant(noisy(level=250).astype(np.float32), [30.0], [1], np.random.default_rng(0))
    assert bright.data.dtype == np.float32
    assert bright.data.max() > 300


def test_the_same_seed_plants_the_same():
    one, two = (plant(noisy(), [5.0] * 4, [3] * 4, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(one.data, two.data)


def test_clutter_is_that_of_the_window_and_at_least_one():
    image = noisy()
    assert clutter(image, slice(60, 61), slice(50, 51)) == pytest.approx(image[50:71, 40:61].std())
    assert clutter(image, slice(3, 4), slice(2, 3)) == pytest.approx(image[:14, :13].std())
    assert clutter(np.full((40, 40), 9, dtype=np.uint8), slice(20, 23), slice(20, 21)) == 1


def test_generated_backgrounds_are_8_bit_skies():
    frames = list(generated_backgrounds(3, 2))
    assert [name for name, _ in frames] == ["generated-0", "generated-1"]
    assert all(image.shape == (512, 640) and image.dtype == np.uint8 for _, image in frames)
    assert not np.array_equal(frames[0][1], frames[1][1])
    assert math.isclose(frames[0][1].mean(), next(iter(generated_backgrounds(3, 1)))[1].mean())
