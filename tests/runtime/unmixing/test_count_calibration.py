"""The probability of a number of targets, against the regression written out blob by blob."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from glint.runtime.unmixing.count_calibration import (
    JUDGED_TOLD_WEIGHTS,
    JUDGED_WEIGHTS,
    RADIANCE_TOLD_WEIGHTS,
    REFINED_WEIGHTS,
    calibrated,
    flagged,
)
from glint.types import TargetFlag, Targets


def made_targets(seed: int = 0) -> Targets:
    rng = np.random.default_rng(seed)
    blob = np.repeat(np.arange(12), [1, 2, 3, 4, 5, 1, 2, 2, 3, 5, 4, 1])
    number = len(blob)
    probability = rng.uniform(0.3, 1.0, 12)[blob]
    probability[blob == 6] = np.nan
    columns = [
        rng.uniform(*limits, number) for limits in ((2, 5), (2, 5), (80, 250), (0.01, 0.2), (0.01, 0.2), (1, 40))
    ]
    return Targets(*columns, blob, np.zeros(number), np.zeros(number, dtype=int), probability)


def expected(targets: Targets, blob: int, sigma: float, weights: tuple[float, ...]) -> float:
    rows = np.flatnonzero(targets.blob == blob)
    before, number = targets.count_probability[rows[0]], len(rows)
    if number == 1 or math.isnan(before):
        return before
    t = targets.select(rows)
    over, gap = math.inf, 0.0
    for i in range(number):
        for j in range(i):
            distance = math.hypot(t.x[i] - t.x[j], t.y[i] - t.y[j])
            square = 0.5 * (t.sigma_x[i] ** 2 + t.sigma_y[i] ** 2 + t.sigma_x[j] ** 2 + t.sigma_y[j] ** 2)
            if distance / math.sqrt(square) < over:
                over, gap = distance / math.sqrt(square), distance
    if gap > 2.5 * sigma:
        return before
    chance = min(max(before, 1e-4), 1 - 1e-4)
    values = [
        1.0, math.log(chance / (1 - chance)), math.log(min(max(over, 1), 50)),
        math.log(min(max(math.sqrt(np.mean(t.sigma_x**2 + t.sigma_y**2)) / sigma, 0.002), 0.5)),
        math.log(min(max((t.sigma_radiance / t.radiance).max(), 0.005), 1)),
        math.log(max(t.radiance.min() / t.radiance.max(), 0.05)), number == 2, number == 4, number == 5,
    ]  # fmt: skip
    return 1 / (1 + math.exp(-float(np.dot(values, weights))))


@pytest.mark.parametrize("weights", [REFINED_WEIGHTS, JUDGED_WEIGHTS, RADIANCE_TOLD_WEIGHTS, JUDGED_TOLD_WEIGHTS])
@pytest.mark.parametrize("shuffled", [False, True])
def test_each_blob_has_the_probability_of_the_regression(weights: tuple[float, ...], shuffled: bool) -> None:
    targets = made_targets()
    if shuffled:
        targets = targets.select(np.random.default_rng(1).permutation(len(targets)))
    found = calibrated(targets, 0.6, weights)
    for row, blob in enumerate(targets.blob.tolist()):
        assert found.count_probability[row] == pytest.approx(expected(targets, blob, 0.6, weights), nan_ok=True)
    unchanged = replace(found, count_probability=targets.count_probability)
    assert all(np.array_equal(getattr(unchanged, c), getattr(targets, c)) for c in ("x", "y", "blob", "radiance"))


def test_no_targets_and_lone_ones_stay() -> None:
    assert len(calibrated(Targets(), 0.5, REFINED_WEIGHTS)) == 0
    targets = made_targets()
    lone = targets.select(np.isin(targets.blob, [0, 5]))
    assert calibrated(lone, 0.5, JUDGED_WEIGHTS) is lone


@pytest.mark.parametrize("weights", [REFINED_WEIGHTS, RADIANCE_TOLD_WEIGHTS])
def test_the_number_of_targets_with_small_errors_is_surer(weights: tuple[float, ...]) -> None:
    targets = made_targets()
    sharp = replace(targets, sigma_x=0.2 * targets.sigma_x, sigma_y=0.2 * targets.sigma_y)
    before, after = (calibrated(t, 1.0, weights).count_probability for t in (targets, sharp))
    several = np.isin(targets.blob, [1, 2, 3, 4, 7])
    assert (after[several] > before[several]).all()


def test_targets_that_are_far_apart_keep_their_probability() -> None:
    targets = made_targets()
    apart = replace(targets, x=targets.x + 10.0 * np.arange(len(targets)))
    assert np.array_equal(
        calibrated(apart, 1.0, JUDGED_WEIGHTS).count_probability, targets.count_probability, equal_nan=True
    )


def test_a_number_is_flagged_where_its_probability_is_low() -> None:
    found = flagged(made_targets())
    low = found.count_probability < 0.75
    assert 0 < low.sum() < len(found)
    assert np.array_equal(found.flags & TargetFlag.COUNT_AMBIGUOUS != 0, low)
    again = flagged(replace(found, count_probability=np.ones(len(found))))
    assert not (again.flags & TargetFlag.COUNT_AMBIGUOUS).any()


def test_targets_in_one_place_are_unresolved() -> None:
    rng = np.random.default_rng(3)
    targets = made_targets(3).select(rng.permutation(31))
    found = flagged(targets)
    for i in range(len(targets)):
        nearer = False
        for j in np.flatnonzero(targets.blob == targets.blob[i]):
            square = (targets.x[i] - targets.x[j]) ** 2 + (targets.y[i] - targets.y[j]) ** 2
            variance = [0.5 * (targets.sigma_x[k] ** 2 + targets.sigma_y[k] ** 2) for k in (i, j)]
            nearer |= bool(j != i and square < sum(variance))
        assert bool(found.flags[i] & TargetFlag.UNRESOLVED) == nearer
    near = replace(targets, x=np.full(31, 3.0), y=np.full(31, 3.0))
    alone = np.bincount(targets.blob)[targets.blob] == 1
    assert np.array_equal(flagged(near).flags & TargetFlag.UNRESOLVED == 0, alone)
    assert len(flagged(Targets())) == 0
