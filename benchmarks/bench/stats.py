"""What samples of a time say: summaries, ratios with intervals, and how a cost grows.

Rows are measured in rounds: every row gets a turn in each, so that what drifts (clocks, temperature,
other programs) falls on all of them. A round's median is one observation; single calls are not
independent of each other, rounds nearly are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from glint.errors import InputError

LEVELS = (90, 95, 99)
QUANTILE_POINTS = 101  # points of the distribution that a report keeps of a row's samples
SETTLED_SPAN = 0.05  # relative span of the last windows' medians
SETTLED_WINDOWS = 3
LEAST_ROUNDS = 4  # an interval needs as many
_RESAMPLES = 2000
_POWERS = np.linspace(0.05, 3.0, 296)
_REFITS = 200
_LEAST_GROWTH_SHARE = 0.1  # of the cost at the smallest size: less is no growth


def summarise(samples: Sequence[float] | NDArray[np.float64]) -> dict[str, float | int | None]:
    """Number, median, mean, standard deviation, extremes and high percentiles of samples.

    A percentile that fewer samples than 100 / (100 - p) stand for is None: p99 needs a hundred.

    Raises:
        InputError: if there is no sample.
    """
    values = np.asarray(samples, dtype=np.float64)
    if not values.size:
        raise InputError("samples: expected at least one, got none")
    summary: dict[str, float | int | None] = {
        "n": int(values.size), "median": float(np.median(values)), "mean": float(values.mean()),
        "std": float(values.std()), "min": float(values.min()), "max": float(values.max()),
    }  # fmt: skip
    for level in LEVELS:
        enough = values.size * (100 - level) >= 100
        summary[f"p{level}"] = float(np.percentile(values, level)) if enough else None
    return summary


def quantiles(samples: Sequence[float] | NDArray[np.float64]) -> list[float]:
    """The distribution as its 0th, 1st, ... 100th percentile."""
    return [
        float(v) for v in np.percentile(np.asarray(samples, dtype=np.float64), np.linspace(0, 100, QUANTILE_POINTS))
    ]


def settled(medians: Sequence[float]) -> bool:
    """Whether warming up is over: the last three windows' medians lie within 5 % of the smallest of them."""
    last = medians[-SETTLED_WINDOWS:]
    return len(last) == SETTLED_WINDOWS and max(last) - min(last) <= SETTLED_SPAN * min(last)


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; the interval is None where there are too few rounds for one."""

    value: float
    low: float | None
    high: float | None


def paired_ratio(times: Sequence[float], baseline: Sequence[float]) -> Interval:
    """Baseline over times (above 1: faster than the baseline) of rows that were measured in the same rounds.

    The geometric mean of the rounds' ratios; rounds are resampled, so what drifts from round to round cancels.

    Raises:
        InputError: if the rounds differ in number, or there is none.
    """
    if len(times) != len(baseline) or not len(times):
        raise InputError(f"rounds: expected as many of both rows, got {len(times)} and {len(baseline)}")
    logs = np.log(np.asarray(baseline, dtype=np.float64)) - np.log(np.asarray(times, dtype=np.float64))
    spread = _expanded(_bootstrap_means(logs), logs.mean(), len(logs))
    return _interval(float(logs.mean()), spread, len(logs))


def unpaired_ratio(times: Sequence[float], before: Sequence[float]) -> Interval:
    """Times over before (above 1: slower than before) of a row in two runs, whose rounds have nothing in common.

    Raises:
        InputError: if one of them has no rounds.
    """
    if not len(times) or not len(before):
        raise InputError(f"rounds: expected at least one of both runs, got {len(times)} and {len(before)}")
    after, first = np.log(np.asarray(times, dtype=np.float64)), np.log(np.asarray(before, dtype=np.float64))
    value = float(after.mean() - first.mean())
    fewer = min(len(after), len(first))
    draws = _bootstrap_means(after) - _bootstrap_means(first, seed=1)
    return _interval(value, _expanded(draws, value, fewer), fewer)


def _bootstrap_means(values: NDArray[np.float64], *, seed: int = 0) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(values), (_RESAMPLES, len(values)))
    means: NDArray[np.float64] = values[chosen].mean(axis=1)
    return means


def _expanded(draws: NDArray[np.float64], centre: float, number: int) -> NDArray[np.float64]:
    """Bootstrap draws spread to what few rounds deserve: percentile intervals of small samples are too narrow."""
    if number < 2:
        return draws
    factor = stdtrit(number - 1, 0.975) / 1.95996 * np.sqrt(number / (number - 1))
    spread: NDArray[np.float64] = centre + factor * (draws - centre)
    return spread


def _interval(log_value: float, log_draws: NDArray[np.float64], number: int) -> Interval:
    if number < LEAST_ROUNDS:
        return Interval(float(np.exp(log_value)), None, None)
    low, high = np.percentile(log_draws, (2.5, 97.5))
    return Interval(float(np.exp(log_value)), float(np.exp(low)), float(np.exp(high)))


@dataclass(frozen=True)
class Growth:
    """cost = start + slope * size ^ exponent.

    Attributes:
        exponent: with its interval; None if the cost does not grow by a tenth over the sizes.
        start, slope: in the cost's unit.
    """

    exponent: Interval | None
    start: float
    slope: float


def fit_growth(costs: Mapping[float, Sequence[float]]) -> Growth:
    """How a cost grows with a size.

    Least squares of relative errors over exponents from 0.05 to 3, start and slope not negative. The
    interval is over rounds: each size's observations are resampled.

    Args:
        costs: observations of the cost, one per round, by size; sizes >= 0.

    Raises:
        InputError: for fewer than three sizes, or a size without observations.
    """
    sizes = np.array(sorted(costs), dtype=np.float64)
    if len(sizes) < 3 or not all(len(costs[s]) for s in sizes):
        raise InputError(f"growth: expected observations of at least three sizes, got {len(sizes)}")
    centre = np.array([np.median(costs[s]) for s in sizes])
    if centre[-1] - centre[0] < _LEAST_GROWTH_SHARE * centre[0]:
        return Growth(None, float(centre.mean()), 0.0)
    (exponent,), (start,), (slope,) = _best_powers(sizes, centre[None])
    fewest = min(len(costs[s]) for s in sizes)
    if fewest < LEAST_ROUNDS:
        return Growth(Interval(float(exponent), None, None), float(start), float(slope))
    rng = np.random.default_rng(0)
    drawn = [
        np.median(rng.choice(np.asarray(costs[s], dtype=np.float64), (_REFITS, len(costs[s]))), axis=1) for s in sizes
    ]
    powers = _expanded(_best_powers(sizes, np.stack(drawn, axis=1))[0], float(exponent), fewest)
    low, high = (float(v) for v in np.percentile(powers, (2.5, 97.5)))
    return Growth(Interval(float(exponent), low, high), float(start), float(slope))


def _best_powers(
    sizes: NDArray[np.float64], costs: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Exponent, start and slope of each curve ``costs [R, S]`` that fit best among the exponents tried.

    Two unknowns: where one of them would be negative it is 0, and the other alone is fitted.
    """
    unit = sizes.max()
    shape = (sizes / unit) ** _POWERS[:, None]  # [P, S]
    weight = costs**-2.0  # of relative errors, [R, S]
    ones, cross, square = weight.sum(1)[:, None], weight @ shape.T, weight @ (shape**2).T  # [R, P]
    level, along = (weight * costs).sum(1)[:, None], (weight * costs) @ shape.T
    determinant = ones * square - cross**2
    start = (level * square - along * cross) / determinant
    slope = (along * ones - level * cross) / determinant
    start = np.where(slope < 0, level / ones, np.maximum(start, 0))
    slope = np.where(slope < 0, 0, np.where(start > 0, slope, along / square))
    # Of weighted squares, all that depends on the exponent.
    error = start**2 * ones + 2 * start * slope * cross + slope**2 * square - 2 * (start * level + slope * along)
    best = np.argmin(error, axis=1)
    rows = np.arange(len(costs))
    return _POWERS[best], start[rows, best], slope[rows, best] / unit ** _POWERS[best]
