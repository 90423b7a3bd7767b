"""Which targets are found, and by what kind they are told."""

import numpy as np
import pytest

from glint.errors import InputError
from glint.metrics.targets import found_by, match_targets, signal_to_clutter


def test_targets_are_matched_one_to_one_and_the_rest_is_false():
    actual, predicted = np.zeros((2, 30, 40), dtype=bool)
    actual[5:8, 5:8] = actual[20, 30] = True
    predicted[6, 6] = predicted[25, 5] = predicted[25, 20] = True
    matches = match_targets(predicted, actual)
    assert matches.found.tolist() == [True, False]
    assert matches.area.tolist() == [9, 1]
    assert np.isnan(matches.scr).all()
    assert matches.false == 2
    with pytest.raises(InputError, match="shape"):
        match_targets(predicted[1:], actual)


def test_the_ratio_is_of_the_peak_over_the_deviation_around_it():
    rng = np.random.default_rng(0)
    image = rng.normal(50, 4, (64, 64))
    mask = np.zeros((64, 64), dtype=bool)
    mask[30:33, 30:33] = mask[50, 10] = True
    image[30:33, 30:33] = 50 + 40
    image[50, 10] = 50 + 8
    first, second = signal_to_clutter(image, mask)
    assert first == pytest.approx(10, rel=0.15)
    assert second == pytest.approx(2, rel=0.3)
    flat = np.where(mask, 60.0, 50.0)
    assert signal_to_clutter(flat, mask) == pytest.approx([10, 10])  # of 1 DN at least
    assert np.isnan(signal_to_clutter(flat, np.ones_like(mask))).all()
    assert len(signal_to_clutter(flat, np.zeros_like(mask))) == 0


def test_bins_hold_every_target_of_known_kind():
    value = np.array([1.0, 3.0, 4.9, 5.0, 80.0, np.nan])
    found = np.array([False, True, False, True, True, True])
    rows = found_by(value, found, (3.0, 5.0, 10.0))
    assert [(r["low"], r["high"], r["targets"], r["found"]) for r in rows] == [
        (None, 3.0, 1, 0), (3.0, 5.0, 2, 1), (5.0, 10.0, 1, 1), (10.0, None, 1, 1),
    ]  # fmt: skip
    assert [r["pd"] for r in rows] == [0, 50, 100, 100]
    assert found_by(np.zeros(0), np.zeros(0, dtype=bool), (1.0,))[0]["pd"] is None
