"""The PSF's width from spots that may be clusters: the one through which points explain all of them best.

A cluster tells the width, too: its light is points of the PSF, in whatever number. For every width of a grid, and every
spot, the evidence of one to five points is weighed (``evidence``), and that of a spot which is no set of points. Their
shares are those that the spots themselves speak for. No spot need be single.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glint.compiled import entry
from glint.runtime.unmixing.evidence import Case, Optics, measured_spot, weigh_counts, wide_spot
from glint.runtime.unmixing.fit import SLOTS, BoolArray
from glint.runtime.unmixing.normal_equations import Array
from glint.runtime.unmixing.point_model import SHAPE
from glint.runtime.unmixing.shapes import Shapes, inner
from glint.runtime.unmixing.windows import Windows

_COARSE_LOG_STEP, _FINE_LOG_STEP = 0.06, 0.02  # steps of the width's logarithm
_NARROWER_LOG, _WIDER_LOG = math.log(1.7), 0.06  # how far the PSF may be below narrow spots, and above the median one
_NARROW_SHARE = 0.1  # share of the spots that are narrow
_LEAST_SEPARATION_WIDTHS = 0.5  # widths of the PSF: points nearer than this are one
_MODEL_ERROR_SHARE = 0.002  # share of the peak
_ROUNDS = 4  # of the centre, and of the shares
_PRIOR_SPOTS = 0.5  # spots of each kind beforehand
_WIDE_AS_POINTS = 2  # points that have as many parameters as one wider spot
_MOST_WIDE_SHARE = 0.35  # share of spots that are no set of points
_BETTER_LOG_EVIDENCE = 8.0  # that a width of its own gains a spot that does not fit
_MISFIT_SHARE = 0.15  # of those spots
# Share of the volumes' growth that is taken out (see ``_growth``). No theory gives it: it was chosen on simulated
# clusters, whose width is right to 1 % then (0.7 to 3 px, peaks of 90 times the noise).
_VOLUME_GROWTH_SHARE = 0.6
# Log evidence over the expected width from which on it is another one, if so many things say so. A few clusters may
# feign more than half of it: fewer points of a wider PSF explain them as well.
_LEAST_LEAD, _FEWEST_THINGS = 15.0, 4
_LEAST_LOG_WIDTH_ERROR = 0.004  # of the width's logarithm
# The same of clusters of a PSF of half a pixel with a peak of 30 times the noise: fewer points of a wider PSF explain
# them as well. It falls with the cube of the width, and with the peak (simulated at 0.4 to 1 px, peaks of 30 to 300).
_NARROW_LOG_WIDTH_ERROR, _NARROW_PX, _NARROW_PEAK_SNR = 0.06, 0.5, 30.0


class CommonWidth(NamedTuple):
    """What spots have in common.

    Attributes:
        u, error: log of the PSF's width, px, and its standard deviation.
        shares: of the things, one to five points and wider ones, ``[SLOTS + 1]``.
        explained: things that are points of this width, about.
        misfits: share of the things that another width explains far better.
        lead: log evidence over that of the width that was expected; infinite if that was not weighed.
        things: different spots.
    """

    u: float
    error: float
    shares: Array
    explained: float
    misfits: float
    lead: float
    things: int

    @property
    def believed(self) -> bool:
        """Whether it is the PSF: nearly all spots are points of it."""
        return bool(self.shares[-1] < _MOST_WIDE_SHARE and self.misfits < _MISFIT_SHARE)

    @property
    def is_expected(self) -> bool:
        """Whether it may be the expected width: no other one leads by much."""
        return self.lead <= _LEAST_LEAD

    @property
    def doubt(self) -> float:
        """How far the PSF may be off the expected width, as a share of what this one is off it."""
        return min(self.lead / _LEAST_LEAD, 1.0)

    @property
    def is_other(self) -> bool:
        """Whether it is another width, beyond doubt."""
        return not self.is_expected and self.things >= _FEWEST_THINGS


Search = Generator[None, None, CommonWidth | None]
"""A search in pieces: each ``next`` weighs one spot."""


def common_width(
    windows: Windows, shapes: Shapes, e: float = 0.0, shear: float = 0.0, radiance: tuple[float, float] | None = None
) -> CommonWidth | None:
    """The width that explains spots best; None if it lies at an end of those that are possible.

    Args:
        windows, shapes: of the spots, bright ones.
        e, shear: shape of the PSF (see ``point_model``).
        radiance: mean and standard deviation of a target's, DN; None: unknown.
    """
    return finished(search_width(windows, shapes, e, shear, radiance))


def finished(search: Search) -> CommonWidth | None:
    """What a search finds in the end."""
    while True:
        try:
            next(search)
        except StopIteration as end:
            found: CommonWidth | None = end.value
            return found


def search_width(
    windows: Windows, shapes: Shapes, e: float, shear: float, radiance: tuple[float, float] | None,
    thing: NDArray[np.int64] | None = None, expected: float | None = None,
) -> Search:  # fmt: skip
    """As ``common_width``, in pieces.

    Args:
        thing: number of the thing that each spot is, from 0 on, ``[B]``; None: all are different.
        expected: width of the PSF that is the likeliest beforehand, px.
    """
    thing = np.arange(len(windows)) if thing is None else thing
    u = shapes.theta[:, -3]
    low, high = float(np.quantile(u, _NARROW_SHARE)) - _NARROWER_LOG, float(np.median(u)) + _WIDER_LOG
    grid = np.arange(low, high + _COARSE_LOG_STEP, _COARSE_LOG_STEP)
    logs, volumes = yield from _weighed(windows, shapes, grid, e, shear, radiance, thing)
    at = int(_scores(logs).argmax())
    if at in (0, len(grid) - 1):
        return None
    fine = grid[at] + _FINE_LOG_STEP * np.array([-2, -1, 1, 2])
    further, more = yield from _weighed(windows, shapes, fine, e, shear, radiance, thing)
    order = np.argsort(np.concatenate([grid, fine]))
    grid = np.concatenate([grid, fine])[order]
    logs, volumes = (np.concatenate(pair, axis=1)[:, order] for pair in ((logs, further), (volumes, more)))
    peak = float(np.median(_peak(shapes) / windows.noise))
    return _best(grid, logs, volumes, float(fine.mean()), peak, _lead(grid, _scores(logs), expected))


def _lead(grid: Array, scores: Array, expected: float | None) -> float:
    """Of the best score over that of the width that is expected."""
    if expected is None or not grid[0] <= math.log(expected) <= grid[-1]:
        return math.inf
    return float(scores.max() - np.interp(math.log(expected), grid, scores))


def _peak(shapes: Shapes) -> Array:
    """Of each spot, DN, about."""
    peak: Array = shapes.theta[:, 2] / (2 * math.pi * shapes.sigma**2 + 1)
    return peak


def _best(grid: Array, logs: Array, volumes: Array, middle: float, peak: float, lead: float) -> CommonWidth | None:
    """The best width about the middle of those that were weighed, ``[G]``; ``peak`` of the spots, over the noise."""
    around = np.abs(grid - middle) < 3 * _COARSE_LOG_STEP
    grid, logs, volumes = grid[around], logs[:, around], volumes[:, around]
    centre, curvature, even = float(grid[_scores(logs).argmax()]), 0.0, logs
    for _ in range(_ROUNDS):
        even = logs - _VOLUME_GROWTH_SHARE * _growth(grid, volumes) * (grid[:, None] - centre)
        scores = _scores(even)
        at = int(scores.argmax())
        if at in (0, len(grid) - 1):
            return None
        centre, curvature = _parabola(grid[at - 1 : at + 2], scores[at - 1 : at + 2])
    shares, points = _shares(even[:, at])
    each = np.logaddexp.reduce(even + np.log(shares), axis=2)
    misfits = float(np.mean(each.max(axis=1) - each[:, at] > _BETTER_LOG_EVIDENCE))
    narrow = _NARROW_LOG_WIDTH_ERROR * (_NARROW_PX / math.exp(centre)) ** 3 * _NARROW_PEAK_SNR / max(peak, 1.0)
    error = math.hypot(curvature**-0.5, _LEAST_LOG_WIDTH_ERROR, narrow)
    return CommonWidth(centre, error, shares, points, misfits, lead, len(logs))


def _growth(grid: Array, volumes: Array) -> Array:
    """How the log of the volume that the data leave of each kind's parameters grows with the width's, ``[SLOTS + 1]``.

    Through a wider PSF places and radiances of points are vaguer. Left in, that pulls towards wide ones, as the priors
    are vaguer than targets are; taken out whole, towards narrow ones, as more points fit the noise.
    """
    step = (volumes[:, 1:] - volumes[:, :-1]) / (grid[1:] - grid[:-1])[:, None]
    known = np.isfinite(step)
    slope = np.where(known, step, 0.0).sum(axis=(0, 1)) / np.maximum(known.sum(axis=(0, 1)), 1)
    return np.append(slope, 0.0)


def _parabola(x: Array, y: Array) -> tuple[float, float]:
    """Place of the top of the parabola through three points, and its curvature downwards."""
    second = 2 * ((y[2] - y[1]) / (x[2] - x[1]) - (y[1] - y[0]) / (x[1] - x[0])) / (x[2] - x[0])
    slope = (y[1] - y[0]) / (x[1] - x[0]) + 0.5 * second * (x[1] - x[0])
    return float(x[1] - slope / second), float(max(-second, 1e-6))


def _shares(logs: Array) -> tuple[Array, float]:
    """Shares of the kinds of things by their log evidences ``[N, SLOTS + 1]``, and things that are points."""
    kinds = logs.shape[1]
    shares = np.full(kinds, 1 / kinds)
    part = np.zeros(logs.shape)
    for _ in range(2 * _ROUNDS):
        part = np.exp(logs - logs.max(axis=1, keepdims=True)) * shares
        part /= part.sum(axis=1, keepdims=True)
        shares = (part.sum(axis=0) + _PRIOR_SPOTS) / (len(logs) + kinds * _PRIOR_SPOTS)
    return shares, float(part[:, :-1].sum())


def _scores(logs: Array) -> Array:
    """Log evidence of all things by width, ``[G]``, from that of each by width and kind, ``[N, G, SLOTS + 1]``."""
    each = (logs[:, i] + np.log(_shares(logs[:, i])[0]) for i in range(logs.shape[1]))
    return np.array([np.logaddexp.reduce(things, axis=1).sum() for things in each])


def _weighed(
    windows: Windows, shapes: Shapes, grid: Array, e: float, shear: float, radiance: tuple[float, float] | None,
    thing: NDArray[np.int64],
) -> Generator[None, None, tuple[Array, Array]]:  # fmt: skip
    """Log evidence of each thing by width and kind, ``[N, G, SLOTS + 1]``, and volumes of spots, ``[B, G, SLOTS]``."""
    noise = np.hypot(windows.noise, _MODEL_ERROR_SHARE * np.maximum(_peak(shapes), 0))
    mean, sd = radiance or (0.0, math.inf)
    logs, misfits = (np.full((len(windows), len(grid), SLOTS + 1), value) for value in (-np.inf, 0.0))
    volumes = np.full((len(windows), len(grid), SLOTS), np.nan)
    optics = Optics(
        u=0.0, u_information=math.inf, e=float(e), shear=float(shear), radiance=float(mean),
        radiance_information=float(sd**-2.0), wide=0.0, decisive=0.0, separation=_LEAST_SEPARATION_WIDTHS,
        max_targets=SLOTS, correction=np.empty((0, 0)),
    )  # fmt: skip
    for b in range(len(windows)):
        one = slice(b, b + 1)
        _weigh_all(
            windows.data[one], windows.clear[one], windows.full_scale[one], noise[one], shapes.theta[one],
            shapes.half[one], shapes.elliptical[one], windows.home[one], np.ascontiguousarray(grid), optics,
            logs[one], volumes[one], misfits[one],
        )  # fmt: skip
        yield
    return _of_things(logs, misfits, (windows.white / windows.noise) ** 2, thing), volumes


def _of_things(logs: Array, misfits: Array, fresh: Array, thing: NDArray[np.int64]) -> Array:
    """Log evidence of things ``[N, G, SLOTS + 1]`` from that of their spots ``[B, G, SLOTS + 1]``.

    A thing is the same points in each frame, at other places of the pixel grid. Its first spot counts with its whole
    evidence, each further one with its misfit: what it says of the number and the width, as far as its noise is new.

    Args:
        misfits: squared residuals over the noise of each spot, width and kind.
        fresh: share of the noise's variance that is another in every frame, ``[B]``.
        thing: number of the thing that each spot is, from 0 on, ``[B]``.
    """
    parameters = 3 * np.append(np.arange(1, SLOTS + 1), _WIDE_AS_POINTS)
    further = np.where(np.isfinite(logs), -0.5 * fresh[:, None, None] * (misfits + parameters), -np.inf)
    result = np.empty((int(thing.max()) + 1, *logs.shape[1:]))
    for number in range(len(result)):
        own = thing == number
        result[number] = logs[own].mean(axis=0)
        if own.sum() > 1:
            result[number] += (own.sum() - 1) * further[own].mean(axis=0)
    return result


@entry(
    "f8[3] b1[3] f8[3] f8[1] f8[2] i8[1] b1[1] b1[3] f8[1] Optics(f8 f8 f8 f8 f8 f8 f8 f8 f8 i8 f8[2]) "
    "f8[3] f8[3] f8[3]"
)
def _weigh_all(
    data: Array, clear: BoolArray, full_scale: Array, noise: Array, theta: Array, half: NDArray[np.int64],
    elliptical: BoolArray, home: BoolArray, grid: Array, optics: Optics, logs: Array, volumes: Array, misfits: Array,
) -> None:  # fmt: skip
    most = data.shape[1] // 2
    told, found = np.zeros(SLOTS + 1), np.empty(SLOTS + 1)
    volume, misfit = np.empty(SLOTS + 1), np.empty(SLOTS + 1)
    for b in range(len(data)):
        offset = most - half[b]
        patch = inner(data[b], noise[b], full_scale[b], clear[b], half[b])
        start = theta[b].copy()
        start[:2] -= offset
        spot = measured_spot(patch, SHAPE if elliptical[b] else 1, start, 1.001 * math.exp(start[-3]))
        own = home[b, offset : most + half[b] + 1, offset : most + half[b] + 1].copy()
        wide, wide_log = wide_spot(Case(patch, spot, own, optics, told))
        for g in range(len(grid)):
            known = Optics(
                grid[g], optics.u_information, optics.e, optics.shear, optics.radiance, optics.radiance_information,
                optics.wide, optics.decisive, optics.separation * math.exp(grid[g]), optics.max_targets,
                optics.correction,
            )  # fmt: skip
            found[:] = -np.inf
            # Targets are spread as the PSF, not as the spot: else the PSF would be wide wherever spots are.
            spot.theta[-3] = grid[g]
            volume[:] = np.nan
            misfit[:] = 0.0
            weigh_counts(Case(patch, spot, own, known, told), found, volume, misfit)
            volumes[b, g] = volume[1:]
            logs[b, g, :SLOTS] = found[1:]
            logs[b, g, SLOTS] = wide_log
            misfits[b, g, :SLOTS] = misfit[1:]
            misfits[b, g, SLOTS] = wide.misfit
