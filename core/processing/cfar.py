"""Constant false alarm rate: what a target's probability is worth beside the clutter of its frame.

A detector raises most of its false alarms on few frames: trees, roofs, gravel. In such a frame many places look a
little like targets, in a calm sky none does. How alike they look is measured on the frame itself, and odds are told
relative to that. The 40th likeliest of the frame's cells stands for its clutter: a frame hardly holds so many targets,
and those that are sure do not count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glint.compiled import entry
from glint.errors import InputError

Map = NDArray[np.float32]
_LARGEST_CELL_PX = 1024


@dataclass(frozen=True)
class Cfar:
    """How clutter is measured, and what is done about it.

    Attributes:
        cell: pixels per side of a cell; the likeliest pixel stands for it.
        rank: the cell that stands for the clutter: so many are as likely or more.
        sure: probability above which a cell holds a target, whatever the clutter: it is left out.
        calm: probability of clutter that changes nothing.
        least, most: probabilities between which clutter is believed.
    """

    cell: int = 16
    rank: int = 40
    sure: float = 0.73
    calm: float = 0.24
    least: float = 0.2
    most: float = 0.52

    def __post_init__(self) -> None:
        ordered = 0 < self.least <= self.calm <= self.most < self.sure <= 1
        if not (1 <= self.cell <= _LARGEST_CELL_PX and self.rank >= 1 and ordered):
            raise InputError(
                f"Cfar: expected a cell of 1 to {_LARGEST_CELL_PX} pixels, a rank of at least 1 and "
                f"0 < least <= calm <= most < sure <= 1, got {self}"
            )

    def odds(self, probability: Map) -> float:
        """What the frame's odds are multiplied by: about 1 in a calm frame, less the more clutter there is.

        Args:
            probability: of a target ``float32 [H, W]``.
        """
        likeliest = _cells(probability, self.cell).ravel()
        likeliest = likeliest[likeliest < self.sure]
        if len(likeliest) < self.rank:
            return 1.0  # a frame this small does not tell
        clutter = float(np.partition(likeliest, -self.rank)[-self.rank])
        return _odds(self.calm) / _odds(min(max(clutter, self.least), self.most))


def against_clutter(probability: Map, cfar: Cfar) -> Map:
    """The probability of a target ``float32 [H, W]``, its odds held against the clutter of the frame; same shape.

    The order of a frame's pixels stays.
    """
    factor = float(np.float32(cfar.odds(probability)))
    return probability if factor == 1 else _held(probability, factor)


@entry("f4[2] f8")
def _held(probability: Map, factor: float) -> Map:
    """Probabilities whose odds are multiplied, in one pass."""
    held = np.empty_like(probability)
    one, times = np.float32(1), np.float32(factor)
    for row in range(probability.shape[0]):
        for column in range(probability.shape[1]):
            odds = probability[row, column] * times
            held[row, column] = min(odds / (odds + (one - probability[row, column])), one)
    return held


def _odds(probability: float) -> float:
    return probability / (1 - probability)


@entry("f4[2] i8")
def _cells(probability: Map, side: int) -> Map:
    """The largest value of each cell ``[ceil(H / side), ceil(W / side)]``; those at the far edges may be smaller."""
    height, width = probability.shape
    cells = np.zeros((-(-height // side), -(-width // side)), dtype=np.float32)
    line = np.empty(width, dtype=np.float32)
    for cell in range(len(cells)):
        line[:] = probability[cell * side]
        for row in range(cell * side + 1, min((cell + 1) * side, height)):
            for column in range(width):
                value = probability[row, column]
                line[column] = value if value > line[column] else line[column]  # in vector registers, unlike max
        for column in range(width):
            cells[cell, column // side] = max(cells[cell, column // side], line[column])
    return cells
