"""The score of positions whose errors are known, and points that are measured as they should."""

from __future__ import annotations

import numpy as np
import pytest

from glint.benchmarks.tables.positions import lone_points, markdown, score
from glint.types import Targets


def test_errors_are_over_the_bound_and_splits_are_left_out() -> None:
    place, bound = np.zeros((3, 2)), np.full((3, 2), 0.1)
    blob = np.array([0, 1, 1, 2])
    x, y = np.array([0.1, 5.0, 6.0, 0.2]), np.array([-0.1, 5.0, 6.0, 0.0])
    stated, zero = np.full(4, 0.15), np.zeros(4)
    found = Targets(x, y, zero, stated, stated, zero, blob, zero, blob * 0)
    row = score(found, place, bound)
    assert row == {"split": 33.33, "within": 75.0, "over_bound": pytest.approx(np.sqrt(6 / 4), abs=1e-3)}
    assert "| split | within | over_bound |" in markdown([row]).replace("| ---", "|---")


def test_points_are_as_bright_as_asked() -> None:
    windows, place, bound, _, _ = lone_points(1.0, 1.5, 30, 40, np.random.default_rng(0))
    peak = windows.data.max(axis=(1, 2)) - 400
    assert np.median(peak) == pytest.approx(30 * 4, rel=0.25)
    assert np.abs(place - 10).max() <= 0.5
    assert (bound > 0).all()
    assert (windows.area > 0).all()
