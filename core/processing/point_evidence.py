"""What the surroundings of a spot say: a sharp point on smooth ground is more than the network takes it for.

A network that was trained on frames of many kinds is unsure of faint points. The likelihood ratio of a point over a
plane looks at 9 x 9 pixels and knows nothing else, but of what the network doubts it tells the sharp points. It is
the t value of the point's radiance (Scharf, Friedlander, "Matched subspace detectors", IEEE Trans. Signal Processing
42, 1994). What exceeds that of most clutter is added to the logit of the spot, so that no spot ever loses by it.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from glint.compiled import compiled, entry
from glint.errors import InputError
from glint.processing.connected import pixels_above

Map = NDArray[np.float32]
_HALF_PX = 4  # a window reaches so many pixels to all sides of its point
_SIDE_PX = 2 * _HALF_PX + 1
_SIGMAS_PX = (0.5, 0.7, 1.0)
_PHASES_PX = (-0.25, 0.25)  # of the point in its pixel, per axis
_PEAK_PX = 2  # a spot's peak is the likeliest pixel of so many to all sides
_ROUNDING_VARIANCE = 1 / 12  # of a value rounded to whole numbers


@dataclass(frozen=True)
class PointEvidence:
    """How the likelihood ratio of a point changes the probability of a spot.

    Attributes:
        above: probability from which a spot is looked at.
        least: t value up to which nothing changes; a single hot pixel is no point, its t value stays below 13.
        weight: added to the logit per unit of the t value above that.
    """

    above: float = 0.4
    least: float = 16.0
    weight: float = 0.05

    def __post_init__(self) -> None:
        if not (0 < self.above < 1 and 0 < self.least < math.inf and 0 < self.weight < math.inf):
            raise InputError(
                "PointEvidence: expected a probability between 0 and 1, and a t value and a weight above 0, got "
                f"{self}",
                hint="leave it away if points are not to be looked at",
            )


def with_point_evidence(probability: Map, level: Map, evidence: PointEvidence, rounding: float) -> Map:
    """The probability of a target ``float32 [H, W]``, higher where it peaks at a sharp point; same shape.

    Args:
        probability: of a target ``float32 [H, W]``.
        level: of the frame ``float32 [H, W]``, in any unit.
        evidence: how much a point is worth.
        rounding: the step to which the frame was rounded (a DN), in units of ``level``.
    """
    lifted = probability.copy()
    variance = rounding**2 * _ROUNDING_VARIANCE
    _lift(lifted, probability, level, *_shapes(), evidence.above, evidence.least, evidence.weight, variance)
    return lifted


@cache
def _shapes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Planes ``[3, 81]``, orthonormal, and points ``[12, 81]`` less what planes explain of them, of unit length."""
    from glint.optics import Psf  # it needs SciPy, and cards name this module

    row, column = np.mgrid[-_HALF_PX : _HALF_PX + 1, -_HALF_PX : _HALF_PX + 1]
    plane = np.linalg.qr(np.stack([np.ones(_SIDE_PX**2), column.ravel(), row.ravel()], axis=1))[0]
    points = []
    for sigma, x, y in itertools.product(_SIGMAS_PX, _PHASES_PX, _PHASES_PX):
        place = np.array([_HALF_PX + x]), np.array([_HALF_PX + y])
        point = Psf(sigma).render(*place, np.ones(1), (_SIDE_PX, _SIDE_PX)).ravel()
        point -= plane @ (plane.T @ point)
        points.append(point / np.linalg.norm(point))
    return np.ascontiguousarray(plane.T), np.array(points)


@entry("f4[2] f4[2] f4[2] f8[2] f8[2] f8 f8 f8 f8")
def _lift(
    lifted: Map, probability: Map, level: Map, plane: NDArray[np.float64], points: NDArray[np.float64],
    above: float, least: float, weight: float, variance: float,
) -> None:  # fmt: skip
    height, width = probability.shape
    rows, columns = pixels_above(probability, above)
    window = np.empty(_SIDE_PX * _SIDE_PX)
    for k in range(len(rows)):
        row, column = rows[k], columns[k]
        if not _is_peak(probability, row, column):
            continue
        best = 0.0
        for i in range(row - 1, row + 2):
            for j in range(column - 1, column + 2):
                best = max(best, _t_value(window, level, i, j, plane, points, variance))
        if best > least:
            factor = np.exp(weight * (best - least))
            for i in range(max(0, row - 1), min(height, row + 2)):
                for j in range(max(0, column - 1), min(width, column + 2)):
                    odds = probability[i, j] / max(1 - probability[i, j], 1e-6) * factor
                    lifted[i, j] = max(lifted[i, j], odds / (1 + odds))


@compiled
def _is_peak(probability: Map, row: int, column: int) -> bool:
    """Whether no pixel nearby is likelier; of equal ones the first, line by line."""
    height, width = probability.shape
    own = probability[row, column]
    for i in range(max(0, row - _PEAK_PX), min(height, row + _PEAK_PX + 1)):
        for j in range(max(0, column - _PEAK_PX), min(width, column + _PEAK_PX + 1)):
            before = i < row or (i == row and j < column)
            if probability[i, j] > own or (before and probability[i, j] == own):
                return False
    return True


@compiled
def _t_value(
    window: NDArray[np.float64], level: Map, row: int, column: int, plane: NDArray[np.float64],
    points: NDArray[np.float64], variance: float,
) -> float:  # fmt: skip
    """The largest t value of a point at a pixel; beyond the edge of the frame its last pixels go on."""
    height, width = level.shape
    for i in range(_SIDE_PX):
        y = min(max(row + i - _HALF_PX, 0), height - 1)
        for j in range(_SIDE_PX):
            window[i * _SIDE_PX + j] = level[y, min(max(column + j - _HALF_PX, 0), width - 1)]
    for k in range(len(plane)):
        share = _product(plane[k], window)
        for i in range(len(window)):
            window[i] -= share * plane[k, i]
    energy = _product(window, window)
    best = 0.0
    for k in range(len(points)):
        explained = _product(points[k], window)
        unexplained = max(energy - explained * explained, 0.0) / (len(window) - len(plane) - 1) + variance
        best = max(best, explained / np.sqrt(unexplained))
    return best


@compiled
def _product(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    total = 0.0
    for i in range(len(first)):
        total += first[i] * second[i]
    return total
