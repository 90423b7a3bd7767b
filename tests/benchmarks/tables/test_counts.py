"""The reliability of stated probabilities, on ones whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from glint.benchmarks.tables.counts import counts_of, expected_error, markdown, reliability
from glint.simulation.patches import CONDITIONS, simulate_patches
from glint.types import Targets


def test_probabilities_that_are_true_have_no_error() -> None:
    probability = np.repeat([0.6, 0.9, 1.0], 10)
    right = np.concatenate([np.arange(10) < 6, np.arange(10) < 9, np.ones(10, dtype=bool)])
    rows = reliability(probability, right)
    assert [(row["from"], row["patches"]) for row in rows] == [(0.5, 10), (0.85, 10), (0.99, 10)]
    assert expected_error(rows) == pytest.approx(0, abs=1e-9)


def test_the_error_is_the_mean_distance_over_patches() -> None:
    rows = reliability(np.array([0.9, 0.9, 0.9, 0.6]), np.array([False, False, False, True]))
    assert expected_error(rows) == pytest.approx((3 * 90 + 40) / 4)


def test_the_number_of_a_patch_is_judged_once_and_unknown_ones_are_left_out() -> None:
    patches = simulate_patches(CONDITIONS["float"], 3, np.random.default_rng(0))
    count = patches.count
    blob = np.repeat([0, 1, 2], [count[0], count[1] + 1, 1])
    zeros = np.zeros(len(blob))
    probability = np.select([blob == 0, blob == 1], [0.8, 0.7], np.nan)
    targets = Targets(zeros, zeros, zeros, zeros, zeros, zeros, blob, zeros, blob * 0, probability)
    told, right = counts_of(targets, patches)
    assert told.tolist() == [0.8, 0.7]
    assert right.tolist() == [True, False]


def test_the_table_marks_bins_of_few_patches() -> None:
    rows = reliability(np.full(5, 0.6), np.ones(5, dtype=bool))
    part = {"error": expected_error(rows), "bins": rows}
    text = markdown({"conditions": {"n1": part}, "all": part})
    assert "60 / 100* (5)" in text
    assert text.count("|\n") == 4
