"""From the maps of DSCSNet's target head to a short list of candidates per patch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from glint.compiled import compiled, entry
from glint.errors import InputError
from glint.optics import FloatArray, cell_centre

SLOTS = 6  # one more than the targets of a patch, so that a doubtful sixth is seen
_VIEWED_CELLS = 24  # most probable cells that are looked at; 5 targets on borders of cells touch 20
_LEAST_PRESENCE = 0.1  # least presence of a patch's first candidate for anything to be there
_SAME_TARGET_PX = 0.25  # px; cells whose targets are nearer than this mean the same one (true ones are 0.5 apart)

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Candidates:
    """Possible targets of N patches, the most probable first; all ``float32 [N, SLOTS]``.

    Attributes:
        presence: probability that there is such a target, 0 to 1.
        x, y: pixels from the centre of the crop's first pixel.
        radiance: in the units of the head.
        sigma_x, sigma_y, sigma_radiance: predicted standard deviations.
    """

    presence: Array
    x: Array
    y: Array
    radiance: Array
    sigma_x: Array
    sigma_y: Array
    sigma_radiance: Array

    def __len__(self) -> int:
        return len(self.presence)

    def count(self) -> NDArray[np.int64]:
        """Number of targets of each patch: candidates that are there rather than not.

        Where none is but one might be, it is 1: somebody cut the patch out for a reason.
        """
        return _present_in_each(self.presence)

    def rows(self, index: NDArray[Any]) -> Candidates:
        """The patches that an index names."""
        return Candidates(*(getattr(self, name)[index] for name in vars(self)))

    def moved(self, dx: ArrayLike, dy: ArrayLike) -> Candidates:
        """All positions of a patch shifted by a number of pixels, ``[N]`` each."""
        shift = {
            "x": self.x + np.asarray(dx, dtype=np.float32)[:, None],
            "y": self.y + np.asarray(dy, dtype=np.float32)[:, None],
        }
        return replace(self, **shift)


@compiled
def present(presence: NDArray[Any]) -> int:
    """:meth:`Candidates.count` of one patch, ``[SLOTS]``."""
    number = 0
    for p in presence:
        number += p > 0.5
    return max(number, 1 if np.float32(presence[0]) > np.float32(_LEAST_PRESENCE) else 0)


@entry("f4[2]")
def _present_in_each(presence: Array) -> NDArray[np.int64]:
    number = np.empty(len(presence), dtype=np.int64)
    for i in range(len(presence)):
        number[i] = present(presence[i])
    return number


def find_candidates(presence: Array, offset: Array, radiance: Array, spread: Array, c: int) -> Candidates:
    """Read the maps of the target head.

    The most probable cell speaks first; cells that place their target where it does are counted
    with it: probabilities add up, positions and radiances are averaged, and the variance of the
    average covers what they disagree on.

    Args:
        presence, radiance: ``[N, 1, g, g]``; offset ``[N, 2, g, g]``; spread ``[N, 3, g, g]``.
        c: cells per pixel and axis.

    Raises:
        InputError: if the shapes do not fit together.
    """
    number, side = len(presence), presence.shape[-1]
    shapes = [(number, channels, side, side) for channels in (1, 1, 2, 3)]
    if [a.shape for a in (presence, radiance, offset, spread)] != shapes:
        raise InputError(
            f"find_candidates: expected presence and radiance [N, 1, g, g], offset [N, 2, g, g], spread [N, 3, g, g], "
            f"got {presence.shape}, {radiance.shape}, {offset.shape}, {spread.shape}"
        )
    flat, shine, offsets, spreads = (
        np.ascontiguousarray(a, dtype=np.float32).reshape(*shape, side * side)
        for a, shape in ((presence, (number,)), (radiance, (number,)), (offset, (number, 2)), (spread, (number, 3)))
    )
    found = np.zeros((7, number, SLOTS), dtype=np.float32)
    centres = cell_centre(np.arange(side), c)
    _read_patches(flat, offsets, shine, spreads, centres, found)
    return Candidates(*found)


@entry("f4[2] f4[3] f4[2] f4[3] f8[1] f4[3]")
def _read_patches(flat: Array, offsets: Array, shine: Array, spreads: Array, centres: FloatArray, found: Array) -> None:
    """Fill in the candidates ``[7, N, SLOTS]`` of maps whose cells are one axis, the last."""
    for i in range(len(flat)):
        _read_patch(flat[i], offsets[i], shine[i], spreads[i], centres, found[:, i])


@compiled
def _read_patch(presence: Array, offset: Array, shine: Array, spread: Array, centres: FloatArray, found: Array) -> None:
    """Fill in the candidates ``[7, SLOTS]`` of one patch."""
    cells = _most_probable(presence)
    number, side = len(cells), len(centres)
    left, value, variance = np.empty(number), np.empty((3, number)), np.empty((3, number))
    for i in range(number):
        cell = cells[i]
        left[i] = presence[cell]
        value[0, i] = offset[0, cell] + centres[cell % side]
        value[1, i] = offset[1, cell] + centres[cell // side]
        value[2, i] = shine[cell]
        for axis in range(3):
            variance[axis, i] = spread[axis, cell] ** 2
    totals, rows = np.zeros(SLOTS), np.zeros((7, SLOTS))
    for slot in range(SLOTS):
        leader = int(np.argmax(left))
        if not left[leader] > 0:
            break
        x, y = value[0, leader], value[1, leader]
        mean, square = np.zeros(3), np.zeros(3)
        for i in range(number):
            if left[i] > 0 and (value[0, i] - x) ** 2 + (value[1, i] - y) ** 2 < _SAME_TARGET_PX**2:
                totals[slot] += left[i]
                for axis in range(3):
                    # About the leader: squares of large numbers would lose digits.
                    off = value[axis, i] - value[axis, leader]
                    mean[axis] += left[i] * off
                    square[axis] += left[i] * (variance[axis, i] + off * off)
                if i != leader:
                    left[i] = 0.0
        left[leader] = 0.0
        rows[0, slot] = min(totals[slot], 1.0)
        for axis in range(3):
            off = mean[axis] / totals[slot]
            rows[1 + axis, slot] = value[axis, leader] + off
            rows[4 + axis, slot] = math.sqrt(max(square[axis] / totals[slot] - off * off, 0.0))
    order = np.argsort(-rows[0], kind="mergesort")
    for slot in range(SLOTS):
        found[:, slot] = rows[:, order[slot]]


@compiled
def _most_probable(presence: Array) -> NDArray[np.int64]:
    """The cells that are looked at, the most probable first."""
    number = min(_VIEWED_CELLS, len(presence))
    cells, filled = np.zeros(number, dtype=np.int64), 0
    for cell in range(len(presence)):
        if filled == number and presence[cell] <= presence[cells[number - 1]]:
            continue
        place = min(filled, number - 1)
        while place > 0 and presence[cells[place - 1]] < presence[cell]:
            cells[place] = cells[place - 1]
            place -= 1
        cells[place] = cell
        filled = min(filled + 1, number)
    return cells
