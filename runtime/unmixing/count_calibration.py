"""How probable a number of targets is, as often as it is right, and flags where it, or a place, is not sure.

Several points imitate several others where they overlap. A fit of one number knows only the numbers that it was weighed
against, and is too sure. How often it is right depends on how far the targets are apart over their errors, on those
errors over the PSF, and on their radiances: a logistic regression of these says it. It was fitted on simulated clusters
(``docs/run.md``: count probability); ``python -m glint.benchmarks.tables.counts`` checks it. Lone targets keep the
probability that they have, and so do targets that are far apart.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

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
_RESOLVED_WIDTHS = 2.5  # of the PSF; targets farther apart imitate no others
_ODDS_FLOOR = 1e-4  # least distance of a probability from 0 and 1
AMBIGUOUS_PROBABILITY = 0.75  # probability of a number below which it is flagged
_SAME_PLACE_ERROR_RATIO = 1.0  # error of a distance over the distance from which on two targets are in one place
_COUNT_AMBIGUOUS, _UNRESOLVED = int(TargetFlag.COUNT_AMBIGUOUS), int(TargetFlag.UNRESOLVED)


def calibrated(targets: Targets, sigma: float, weights: tuple[float, ...]) -> Targets:
    """Targets whose ``count_probability`` is how often such a number of targets is right.

    Args:
        targets: of blobs, in any order; those whose probability is unknown keep it so.
        sigma: width of the PSF, px.
        weights: one of the four above.
    """
    _, place, number = np.unique(targets.blob, return_inverse=True, return_counts=True)
    several = np.flatnonzero((number > 1) & (number <= 5))
    if not len(several):
        return targets
    order = np.argsort(place, kind="stable")
    first = np.cumsum(number) - number
    slot = np.arange(number[several].max())
    rows = order[np.minimum(first[several, None] + slot, len(order) - 1)]  # [B, K]
    used = slot < number[several, None]
    before = targets.count_probability[rows[:, 0]]
    gap, error = _least_gap(targets, rows, used)
    odds = _features(targets, rows, used, before, gap / error, sigma) @ np.array(weights)
    after = np.where(gap > _RESOLVED_WIDTHS * sigma, before, 1 / (1 + np.exp(-odds)))
    probability = targets.count_probability.copy()
    probability[rows[used]] = np.repeat(np.where(np.isfinite(before), after, np.nan), number[several])
    return replace(targets, count_probability=probability)


def flagged(targets: Targets) -> Targets:
    """Targets with ``COUNT_AMBIGUOUS`` where their number is not sure, and ``UNRESOLVED`` where they are in one place.

    Two targets are in one place if they are nearer to each other than the error of their distance. Then the light tells
    that they are two, and each of their places is as uncertain as it is stated.

    Args:
        targets: of blobs, in any order, with their calibrated probabilities.
    """
    flags = targets.flags & ~(_COUNT_AMBIGUOUS | _UNRESOLVED)
    flags |= np.where(targets.count_probability < AMBIGUOUS_PROBABILITY, _COUNT_AMBIGUOUS, 0)
    order = np.argsort(targets.blob, kind="stable")
    variance = 0.5 * (targets.sigma_x**2 + targets.sigma_y**2)
    for step in range(1, len(order)):  # pairs so many rows apart; blobs are short
        a, b = order[:-step], order[step:]
        same = targets.blob[a] == targets.blob[b]
        if not same.any():
            break
        a, b = a[same], b[same]
        square = (targets.x[a] - targets.x[b]) ** 2 + (targets.y[a] - targets.y[b]) ** 2
        near = _SAME_PLACE_ERROR_RATIO**2 * square < variance[a] + variance[b]
        flags[a[near]] |= _UNRESOLVED
        flags[b[near]] |= _UNRESOLVED
    return replace(targets, flags=flags)


def _least_gap(
    targets: Targets, rows: NDArray[np.int64], used: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance of the pair that is closest over its error, and that error, px, ``[B]`` each."""
    x, y = targets.x[rows], targets.y[rows]
    variance = 0.5 * (targets.sigma_x[rows] ** 2 + targets.sigma_y[rows] ** 2)
    pair = used[:, :, None] & used[:, None] & ~np.eye(rows.shape[1], dtype=bool)
    square = (x[:, :, None] - x[:, None]) ** 2 + (y[:, :, None] - y[:, None]) ** 2
    error = variance[:, :, None] + variance[:, None]
    at = np.where(pair, square / error, np.inf).reshape(len(rows), -1).argmin(axis=1)[:, None]
    square, error = (np.take_along_axis(v.reshape(len(rows), -1), at, 1)[:, 0] for v in (square, error))
    return np.sqrt(square), np.sqrt(error)


def _features(
    targets: Targets, rows: NDArray[np.int64], used: NDArray[np.bool_], before: NDArray[np.float64],
    over_error: NDArray[np.float64], sigma: float,
) -> NDArray[np.float64]:  # fmt: skip
    """What the weights are of, ``[B, 9]``, for the targets ``rows [B, K]`` that are ``used``."""
    number, light = used.sum(axis=1), targets.radiance[rows]
    variance = np.where(used, targets.sigma_x[rows] ** 2 + targets.sigma_y[rows] ** 2, 0.0).sum(axis=1) / number
    dim, bright = np.where(used, light, np.inf).min(axis=1), np.where(used, light, -np.inf).max(axis=1)
    relative = np.where(used, targets.sigma_radiance[rows] / light, 0.0).max(axis=1)
    chance = np.clip(before, _ODDS_FLOOR, 1 - _ODDS_FLOOR)
    return np.column_stack([
        np.ones(len(rows)),
        np.log(chance / (1 - chance)),
        np.log(np.clip(over_error, *_GAP_RANGE)),
        np.log(np.clip(np.sqrt(variance) / sigma, *_SPREAD_RANGE)),
        np.log(np.clip(relative, *_ERROR_RANGE)),
        np.log(np.clip(dim / bright, *_RATIO_RANGE)),
        number == 2, number == 4, number == 5,
    ])  # fmt: skip
