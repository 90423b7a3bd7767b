"""Spots that move: light at a place of the scene that the last frames did not show there.

A detector that looks at one frame doubts a point over trees or roofs. Against what the place showed before it is
plain. A place tells of a spot where

- it has changed by ``LEAST_CHANGE_SD`` standard deviations and is the brightest of 5 x 5 pixels. The deviation is that
  of the place, and no less than a quantum of the camera, as frames of 8 bits repeat themselves to the bit;
- it has changed by ``LEAST_CONTRAST`` times as much as the places around it: where leaves move or the registration
  erred, all of them change.

A frame in which more than ``MOST_SPOTS`` places tell of spots says nothing: the camera or its gain has jumped.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from glint.compiled import compiled, entry
from glint.runtime.tracking.scene_memory import LEAST_VARIANCE, Map, SceneMemory

Array = NDArray[np.float64]
LEAST_CHANGE_SD = 8.0  # standard deviations
LEAST_CONTRAST = 5.0  # of a change over the root mean square of those around
MOST_SPOTS = 8  # of a frame
_MOST_CHANGE_SD = 30.0  # standard deviations that count of one place around
_LIGHT_OF_POINT = 0.23  # what the comparison with the light of a point gives for a radiance of 1
_INNER_PX, _OUTER_PX = 3, 8  # px to all sides of what is a spot's own, and of what is around it


def moving_spots(memory: SceneMemory, floor: float) -> Array:
    """Spots in the last frame that a memory took: x, y, pixels, and radiance, DN, ``[N, 3]``.

    Args:
        memory: of the scene.
        floor: least standard deviation of a place, DN.
    """
    height, width = memory.shape
    if memory.blind or min(height, width) <= 2 * _OUTER_PX:
        return np.zeros((0, 3))
    rows = _changed_places(memory.changed, memory.variance, floor)
    if len(rows) > MOST_SPOTS:
        return np.zeros((0, 3))
    y, x = (
        (rows[:, axis] + corner) % size - corner + at
        for axis, corner, size, at in zip((0, 1), memory.corner, memory.shape, memory.at)
    )
    return np.stack([x, y, rows[:, 2] / _LIGHT_OF_POINT], axis=1)


@entry("f4[2] f4[2] f8")
def _changed_places(changed: Map, variance: Map, floor: float) -> Array:
    """Row, column and light, DN, of places in the scene, ``[N, 3]``: at most one more than ``MOST_SPOTS``."""
    height, width = changed.shape
    found, number = np.empty((MOST_SPOTS + 1, 3)), 0
    level = np.float32(LEAST_CHANGE_SD)
    for r in range(height):
        bright = 0
        for c in range(width):
            bright += changed[r, c] >= level
        for c in range(width if bright else 0):
            if changed[r, c] >= level and number <= MOST_SPOTS:
                here = _change(changed, variance, floor, r, c)
                if here >= LEAST_CHANGE_SD and _stands_out(changed, variance, floor, r, c, here):
                    found[number, 0], found[number, 1] = _middle(changed, variance, r, c)
                    found[number, 2] = changed[r, c] * math.sqrt(variance[r, c] + LEAST_VARIANCE)
                    number += 1
    return found[:number].copy()


@compiled
def _change(changed: Map, variance: Map, floor: float, row: int, column: int) -> float:
    """What a place has changed by, in deviations of at least ``floor``; the scene goes round."""
    height, width = changed.shape
    r, c = row % height, column % width
    v = float(variance[r, c])
    return changed[r, c] * math.sqrt((v + LEAST_VARIANCE) / (v + floor * floor + LEAST_VARIANCE))


@compiled
def _stands_out(changed: Map, variance: Map, floor: float, row: int, column: int, here: float) -> bool:
    """Whether a place is the brightest of 5 x 5 and has changed much more than those around."""
    total, number = 0.0, 0
    for i in range(-_OUTER_PX, _OUTER_PX + 1):
        for j in range(-_OUTER_PX, _OUTER_PX + 1):
            away = max(abs(i), abs(j))
            if away == 0:
                continue
            if away <= 2 or away > _INNER_PX:
                one = _change(changed, variance, floor, row + i, column + j)
                if away <= 2:
                    if one > here or (one == here and (i, j) < (0, 0)):
                        return False
                else:
                    one = min(abs(one), _MOST_CHANGE_SD)
                    total += one * one
                    number += 1
    return here >= LEAST_CONTRAST * max(math.sqrt(total / number), 1.0)


@compiled
def _middle(changed: Map, variance: Map, row: int, column: int) -> tuple[float, float]:
    """The middle of the light of 3 x 3 places, row and column."""
    height, width = changed.shape
    total = down = right = 0.0
    for i in range(-1, 2):
        for j in range(-1, 2):
            r, c = (row + i) % height, (column + j) % width
            light = max(changed[r, c] * math.sqrt(variance[r, c] + LEAST_VARIANCE), 0.0)
            total, down, right = total + light, down + i * light, right + j * light
    return row + down / total, column + right / total
