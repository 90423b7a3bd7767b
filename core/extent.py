"""Where targets end: from the probability of a target to the mask that a person would draw.

A network says that a target is here. How far its light reaches is a matter of the light: it ends where people who
draw masks on real frames stop, and that depends on how bright the target is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glint.compiled import compiled
from glint.errors import InputError

Map = NDArray[np.float32]
_CELL = 4  # px, side of the cells that peaks are sought in
_CELLS = 2  # to all sides, so that a peak counts 8 to 11 px around it


@dataclass(frozen=True)
class Extent:
    """Light at which a target ends: ``factor * peak ** exponent``, light and peak in DN above the background.

    With an exponent of 1 that is a fixed share of the peak, with 0 a fixed light. Below 1 it is more than the peak of
    faint spots, which have no mask: at 1/2, those of less than ``factor ** 2`` DN. Frames of more than 8 bits have
    brighter peaks than those that this was fitted to; there the lowest share holds.

    Attributes:
        reach: pixels from what the network marks to which a target can reach.
        factor, exponent: as above.
        lowest: least share of the peak at which a target ends.
    """

    reach: int = 2
    factor: float = 2.6
    exponent: float = 0.5
    lowest: float = 0.15

    def __post_init__(self) -> None:
        if not (self.reach >= 0 and self.factor > 0 and 0 <= self.exponent <= 1 and 0 <= self.lowest < 1):
            raise InputError(
                f"Extent: expected reach >= 0, factor > 0, exponent in [0, 1] and lowest in [0, 1), got {self}"
            )


def confine(probability: Map, level: Map, background: Map, scale: float, extent: Extent, *, least: float = 0.0) -> Map:
    """Extend the probability of a target to what its light reaches, and end it there.

    A pixel's peak is the brightest one near it (8 to 11 pixels to all sides) that is rather a target than not; so a
    target fainter than where a brighter one beside it ends is not told apart from that one's light.

    Args:
        probability: of a target ``float32 [H, W]``.
        level, background: of the frame ``float32 [H, W]``, in units of ``scale`` DN.
        scale: DN.
        extent: where targets end.
        least: probabilities up to this, at most 0.5, may become 0.

    Returns:
        ``float32 [H, W]``: the highest probability within reach where there is enough light, else 0.
    """
    law = extent.factor, extent.exponent, extent.lowest
    return _confined(probability, level, background, float(scale), min(least, 0.5), extent.reach, *law)


@compiled
def _confined(
    probability: Map, level: Map, background: Map, scale: float, least: float,
    reach: int, factor: float, exponent: float, lowest: float,
) -> Map:  # fmt: skip
    height, width = probability.shape
    peaks = np.zeros((-(-height // _CELL), -(-width // _CELL)), dtype=np.float32)
    confined = np.zeros((height, width), dtype=np.float32)
    touched = np.zeros(height, dtype=np.bool_)
    for row in range(height):
        for column in range(width):
            value = probability[row, column]
            if value > least:
                _spread(confined, touched, row, column, reach, value)
                if value > 0.5:
                    light = (level[row, column] - background[row, column]) * scale
                    _raise(peaks, row // _CELL, column // _CELL, light)
    for row in range(height):
        if touched[row]:
            for column in range(width):
                if confined[row, column] > 0:
                    peak = peaks[row // _CELL, column // _CELL]
                    edge = max(factor * peak**exponent, lowest * peak) if peak > 0 else 0.0
                    if not (level[row, column] - background[row, column]) * scale > edge:
                        confined[row, column] = 0
    return confined


@compiled
def _spread(confined: Map, touched: NDArray[np.bool_], row: int, column: int, reach: int, value: float) -> None:
    height, width = confined.shape
    for i in range(max(0, row - reach), min(height, row + reach + 1)):
        touched[i] = True
        for j in range(max(0, column - reach), min(width, column + reach + 1)):
            confined[i, j] = max(confined[i, j], value)


@compiled
def _raise(peaks: Map, row: int, column: int, light: float) -> None:
    height, width = peaks.shape
    for i in range(max(0, row - _CELLS), min(height, row + _CELLS + 1)):
        for j in range(max(0, column - _CELLS), min(width, column + _CELLS + 1)):
            peaks[i, j] = max(peaks[i, j], light)
