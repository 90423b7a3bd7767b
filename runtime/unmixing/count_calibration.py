"""How probable a number of targets is, as often as it is right, and flags where it, or a place, is not sure.

Several points imitate several others where they overlap. A fit of one number knows only the numbers that it was weighed
against, and is too sure. How often it is right depends on how far the targets are apart over their errors, on those
errors over the PSF, and on their radiances: a logistic regression of these says it. It was fitted on simulated clusters
(``docs/run.md``: count probability); ``python -m glint.benchmarks.tables.counts`` checks it. Lone targets keep the
probability that they have, and so do targets that are far apart.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from glint.compiled import compiled, entry
from glint.types import TargetFlag, Targets

# Weights of: 1, log odds before, log of the least gap over its error, log of the position error over sigma, log of the
# largest relative error of a radiance, log of the least radiance over the largest, and of 2, 4 and 5 targets.
REFINED_WEIGHTS = (-0.29, 0.06, -0.48, -1.09, -0.18, 0.96, 0.77, -0.34, 1.55)
"""Points that ``refine`` found, of targets of any radiance."""
JUDGED_WEIGHTS = (-0.15, 0.04, -0.73, -0.69, -0.02, 0.79, 0.82, 0.08, 1.60)
"""Points that ``evidence`` weighed, of targets of any radiance."""
RADIANCE_TOLD_WEIGHTS = (2.58, 0.0, 0.0, -1.18, 0.0, 0.0, 0.0, 0.0, 0.0)
"""Points that ``refine`` found, where the radiance of a target is known: the light tells the number."""
JUDGED_TOLD_WEIGHTS = (0.20, 0.80, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
"""Points that ``evidence`` weighed, where the radiance is known: it is nearly right by itself."""
_GAP_RANGE, _SPREAD_RANGE, _ERROR_RANGE, _RATIO_RANGE = (1.0, 50.0), (0.002, 0.5), (0.005, 1.0), (0.05, 1.0)
_MOST_TARGETS = 5  # targets of a blob whose number is calibrated
_RESOLVED_WIDTHS = 2.5  # of the PSF; targets farther apart imitate no others
_ODDS_FLOOR = 1e-4  # least distance of a probability from 0 and 1
AMBIGUOUS_PROBABILITY = 0.75  # probability of a number below which it is flagged
_SAME_PLACE_ERROR_RATIO = 1.0  # error of a distance over the distance from which on two targets are in one place
Array = NDArray[np.float64]
_COUNT_AMBIGUOUS, _UNRESOLVED = int(TargetFlag.COUNT_AMBIGUOUS), int(TargetFlag.UNRESOLVED)


def calibrated(targets: Targets, sigma: float, weights: tuple[float, ...]) -> Targets:
    """Targets whose ``count_probability`` is how often such a number of targets is right.

    Args:
        targets: of blobs, in any order; those whose probability is unknown keep it so.
        sigma: width of the PSF, px.
        weights: one of the four above.
    """
    order, blob, columns = _in_order(targets)
    if not (blob[1:] == blob[:-1]).any():
        return targets
    probability = targets.count_probability.copy()
    _calibrate(order, blob, columns, sigma, np.array(weights), probability)
    return targets.changed(count_probability=probability)


def flagged(targets: Targets) -> Targets:
    """Targets with ``COUNT_AMBIGUOUS`` where their number is not sure, and ``UNRESOLVED`` where they are in one place.

    Two targets are in one place if they are nearer to each other than the error of their distance. Then the light tells
    that they are two, and each of their places is as uncertain as it is stated.

    Args:
        targets: of blobs, in any order, with their calibrated probabilities.
    """
    flags = targets.flags & ~(_COUNT_AMBIGUOUS | _UNRESOLVED)
    flags |= np.where(targets.count_probability < AMBIGUOUS_PROBABILITY, _COUNT_AMBIGUOUS, 0)
    _flag_unresolved(*_in_order(targets), flags)
    return targets.changed(flags=flags)


def _in_order(targets: Targets) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """Rows blob by blob, their blobs in that order, and x, y, radiance and their errors, ``[6, N]``."""
    order = np.argsort(targets.blob, kind="stable")
    columns = [getattr(targets, name) for name in ("x", "y", "radiance", "sigma_x", "sigma_y", "sigma_radiance")]
    return order, targets.blob[order], np.array(columns)


@entry("i8[1] i8[1] f8[2] f8 f8[1] f8[1]")
def _calibrate(
    order: NDArray[np.int64], blob: NDArray[np.int64], columns: Array, sigma: float, weights: Array, probability: Array
) -> None:
    first = 0
    while first < len(order):
        rows = _of_one_blob(order, blob, first)
        first += len(rows)
        before = probability[rows[0]]
        if 2 <= len(rows) <= _MOST_TARGETS and np.isfinite(before):
            gap, error = _least_gap(columns, rows)
            odds = (_features(columns, rows, before, gap / error, sigma) * weights).sum()
            after = before if gap > _RESOLVED_WIDTHS * sigma else 1 / (1 + math.exp(-odds))
            for row in rows:
                probability[row] = after


@entry("i8[1] i8[1] f8[2] i8[1]")
def _flag_unresolved(
    order: NDArray[np.int64], blob: NDArray[np.int64], columns: Array, flags: NDArray[np.int64]
) -> None:
    first = 0
    while first < len(order):
        rows = _of_one_blob(order, blob, first)
        first += len(rows)
        for i in range(len(rows)):
            for j in range(i):
                square, variance = _apart(columns, rows[i], rows[j])
                if _SAME_PLACE_ERROR_RATIO**2 * square < variance:
                    flags[rows[i]] |= _UNRESOLVED
                    flags[rows[j]] |= _UNRESOLVED


@compiled
def _of_one_blob(order: NDArray[np.int64], blob: NDArray[np.int64], first: int) -> NDArray[np.int64]:
    """Rows of the blob whose rows begin there."""
    end = first + 1
    while end < len(order) and blob[end] == blob[first]:
        end += 1
    return order[first:end]


@compiled
def _apart(columns: Array, one: int, other: int) -> tuple[float, float]:
    """Square of the distance of two targets, and its variance along it, about, px^2."""
    variance = 0.0
    for row in (one, other):
        variance += 0.5 * (columns[3, row] ** 2 + columns[4, row] ** 2)
    square = (columns[0, one] - columns[0, other]) ** 2 + (columns[1, one] - columns[1, other]) ** 2
    return square, variance


@compiled
def _least_gap(columns: Array, rows: NDArray[np.int64]) -> tuple[float, float]:
    """Distance of the pair that is closest over its error, and that error, px."""
    gap, error = np.inf, 1.0
    for i in range(len(rows)):
        for j in range(i):
            square, variance = _apart(columns, rows[i], rows[j])
            if not square / variance >= (gap / error) ** 2:
                gap, error = math.sqrt(square), math.sqrt(variance)
    return gap, error


@compiled
def _features(columns: Array, rows: NDArray[np.int64], before: float, over_error: float, sigma: float) -> Array:
    """What the weights are of, ``[9]``, for the targets of one blob."""
    variance, relative, dim, bright = 0.0, 0.0, np.inf, -np.inf
    for row in rows:
        light = columns[2, row]
        variance += (columns[3, row] ** 2 + columns[4, row] ** 2) / len(rows)
        relative = max(relative, columns[5, row] / light)
        dim, bright = min(dim, light), max(bright, light)
    chance = min(max(before, _ODDS_FLOOR), 1 - _ODDS_FLOOR)
    features = np.zeros(9)
    features[0], features[1] = 1.0, math.log(chance / (1 - chance))
    features[2] = _log_within(over_error, _GAP_RANGE)
    features[3] = _log_within(math.sqrt(variance) / sigma, _SPREAD_RANGE)
    features[4] = _log_within(relative, _ERROR_RANGE)
    features[5] = _log_within(dim / bright, _RATIO_RANGE)
    if len(rows) != 3:
        features[6 + max(len(rows) - 3, 0)] = 1.0
    return features


@compiled
def _log_within(value: float, bounds: tuple[float, float]) -> float:
    return math.log(min(max(value, bounds[0]), bounds[1]))
