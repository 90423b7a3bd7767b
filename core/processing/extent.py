"""Where targets end: from the probability of a target to the mask that a person would draw.

A network says that a target is here. How far its light reaches is a matter of the light: it ends where people who
draw masks on real frames stop, and that depends on how bright the target is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glint.compiled import compiled, entry
from glint.depth import Depth
from glint.errors import InputError
from glint.processing.connected import number_connected, pixels_above

Map = NDArray[np.float32]
_FARTHEST_PX = 16  # reach at most
_MARKED_PROBABILITY = 0.5  # probability above which a pixel is rather a target than not


@dataclass(frozen=True)
class Extent:
    """Light at which a target ends, in terms of its peak, both above the background.

    In frames of 8 bits that is ``factor * peak ** exponent`` DN: with an exponent of 1 a share of the peak, with 0 the
    same light for all. Below 1 it is more than the peak of faint spots, which have no mask: at 1/2, those of less than
    ``factor ** 2`` DN. In other frames, the DN of which are only comparable to those (:mod:`glint.depth`), it is
    at most a share of the peak, so that no spot goes without a mask.

    Attributes:
        reach: pixels from what the network marks to which a target can reach.
        factor, exponent: as above, in DN of frames of 8 bits.
        share: of the peak, at most, in other frames.
    """

    reach: int = 2
    factor: float = 2.6
    exponent: float = 0.5
    share: float = 0.5

    def __post_init__(self) -> None:
        law = 0 < self.factor < math.inf and 0 <= self.exponent <= 1 and 0 < self.share < 1
        if not (0 <= self.reach <= _FARTHEST_PX and law):
            raise InputError(
                f"Extent: expected a reach of 0 to {_FARTHEST_PX}, a factor above 0, an exponent from 0 to 1 "
                f"and a share between 0 and 1, got {self}"
            )


def confine(
    probability: Map, level: Map, background: Map, scale: float, extent: Extent, *, depth: Depth, least: float = 0.0
) -> Map:
    """Extend the probability of a target to what its light reaches, and end it there.

    A spot is a connected group of pixels that are rather a target than not; its peak is the brightest of them. What is
    within reach of it has the highest probability there if it has the light that belongs to the peak (the
    highest one, within reach of several spots), else 0. Any other pixel is its own peak.

    Args:
        probability: of a target ``float32 [H, W]``.
        level, background: of the frame ``float32 [H, W]``, in units of ``scale`` DN.
        scale: DN.
        extent: where targets end.
        depth: of the frame.
        least: probabilities up to this may become 0.

    Returns:
        ``float32 [H, W]``.
    """
    law = extent.factor, extent.exponent, np.inf if depth.known else extent.share
    # NumPy's zeros cost nothing where nobody writes, and targets are few pixels in a large frame.
    confined, near, peak = (np.zeros(probability.shape, dtype=np.float32) for _ in range(3))
    spots = np.zeros(probability.shape, dtype=np.int32)
    light = level, background, float(scale) / depth.unit
    _confine(confined, near, peak, spots, probability, *light, float(least), extent.reach, *law)
    return confined


@entry("f4[2] f4[2] f4[2] i4[2] f4[2] f4[2] f4[2] f8 f8 i8 f8 f8 f8")
def _confine(
    confined: Map, near: Map, peak: Map, spots: NDArray[np.int32], probability: Map, level: Map, background: Map,
    scale: float, least: float, reach: int, factor: float, exponent: float,
    share: float,
) -> None:  # fmt: skip
    height, width = probability.shape
    faintest = _faintest(factor, exponent) if share >= 1 else 0.0
    if least < _MARKED_PROBABILITY:
        for row in range(height):
            for column in range(width):
                light = (level[row, column] - background[row, column]) * scale
                if probability[row, column] > least and light > faintest:
                    confined[row, column] = probability[row, column]
    rows, columns = pixels_above(probability, _MARKED_PROBABILITY)
    peaks = np.zeros(number_connected(rows, columns, spots) + 1, dtype=np.float32)
    for k in range(len(rows)):
        row, column = rows[k], columns[k]
        light = (level[row, column] - background[row, column]) * scale
        peaks[spots[row, column]] = max(peaks[spots[row, column]], light)
    for k in range(len(rows)):  # the highest probability and peak within reach
        value, own = probability[rows[k], columns[k]], peaks[spots[rows[k], columns[k]]]
        for i in range(max(0, rows[k] - reach), min(height, rows[k] + reach + 1)):
            for j in range(max(0, columns[k] - reach), min(width, columns[k] + reach + 1)):
                near[i, j], peak[i, j] = max(near[i, j], value), max(peak[i, j], own)
    for k in range(len(rows)):
        for i in range(max(0, rows[k] - reach), min(height, rows[k] + reach + 1)):
            for j in range(max(0, columns[k] - reach), min(width, columns[k] + reach + 1)):
                light = (level[i, j] - background[i, j]) * scale
                edge = min(factor * peak[i, j] ** exponent, share * peak[i, j]) if peak[i, j] > faintest else np.inf
                confined[i, j] = near[i, j] if light > edge else 0


@compiled
def _faintest(factor: float, exponent: float) -> float:
    """Peak of the faintest target that ends below its peak."""
    if exponent < 1:
        return factor ** (1 / (1 - exponent))
    return 0.0 if factor < 1 else np.inf
