"""How far a picture is turned against a key frame, and how its middle moved.

The steepest pixels of each part of the key frame are looked for in the frame where the shift of the whole picture
leads; a turn about the middle and what is left of the shift are those with which brightness agrees best (Gauss-Newton,
as Lucas and Kanade; a pixel that tells something else loses its weight). A turn that is not beyond doubt is none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FloatArray = NDArray[np.float64]
_PARTS, _PART_PIXELS = 6, 40  # of the picture on either axis; of each part
_EDGE_BLOCKS = 6  # blocks at the edge in which no marks are
_TAINTED_BLOCKS = 5  # blocks at the edge whose brightness is less a level around them that is not all seen
_STEPS, _LAST_STEP_BLOCKS = 10, 0.002  # Gauss-Newton steps; blocks in a corner below which a step is the last
_ALIKE_PIXELS = 6.0  # of the residuals, pixels that share noise and structure
_SURE_ERRORS, _LEAST_PX = 5.0, 0.2  # standard errors of a turn, and what it does in a corner, below which there is none
_HOPELESS_PX = 0.03  # what a turn does in a corner, after a step, below which it will be none
_EXPLAINED_SHARE = 0.8  # of brightness that must be explained
_LARGEST_ERROR_PX, _FARTHEST_PX = 0.1, 0.3  # of a shift: standard error, and from where phases say


@dataclass(frozen=True, eq=False)
class Marks:
    """Pixels of a key frame.

    Attributes:
        place: x and y from the middle, blocks ``[2, N]``.
        level, slope: brightness ``[N]``, and how it grows along x, y and with a turn ``[3, N]``.
    """

    place: FloatArray
    level: FloatArray
    slope: FloatArray


@dataclass(frozen=True)
class Turn:
    """How the middle moved, x and y, blocks, and by how much the picture turned from x to y, rad."""

    x: float
    y: float
    angle: float


def smooth(small: NDArray[np.float32]) -> NDArray[np.float32]:
    """A picture between whose pixels may be interpolated, of contrast 1."""
    soft: NDArray[np.float32] = ndimage.uniform_filter(small, 3)
    return soft / (float(np.sqrt(np.vdot(soft, soft) / max(soft.size, 1))) or 1.0)


def marks(picture: NDArray[np.float32]) -> Marks:
    """The steepest pixels of each part of a smooth picture."""
    gy, gx = (np.asarray(axis) for axis in np.gradient(picture))
    steep = gx**2 + gy**2
    rows, columns = [], []
    edges = [np.linspace(_EDGE_BLOCKS, n - _EDGE_BLOCKS, _PARTS + 1).astype(int) for n in picture.shape]
    for top, bottom in zip(edges[0], edges[0][1:]):
        for left, right in zip(edges[1], edges[1][1:]):
            part = steep[top:bottom, left:right].ravel()
            number = min(_PART_PIXELS, part.size)
            best = np.argpartition(part, part.size - number)[part.size - number :] if number else np.zeros(0, int)
            rows.append(top + best // max(right - left, 1))
            columns.append(left + best % max(right - left, 1))
    row, column = np.concatenate(rows), np.concatenate(columns)
    place = np.stack([column - (picture.shape[1] - 1) / 2, row - (picture.shape[0] - 1) / 2])
    slope = np.stack([gx[row, column], gy[row, column]]).astype(np.float64)
    return Marks(place, picture[row, column].astype(np.float64), np.stack([*slope, _turning(place, slope)]))


def _turning(place: FloatArray, slope: FloatArray) -> FloatArray:
    """How brightness grows when places turn about the middle."""
    turning: FloatArray = slope[1] * place[0] - slope[0] * place[1]
    return turning


def turn(key: Marks, picture: NDArray[np.float32], start: Turn, block: int) -> Turn | None:
    """How a smooth picture moved and turned against a key frame; None if its marks do not tell.

    The angle is 0 where a turn is not beyond doubt.

    Args:
        key: its marks.
        picture: of the same size.
        start: about how it moved.
        block: pixels of a block.
    """
    height, width = picture.shape
    if min(height, width) < 2 * _EDGE_BLOCKS + 2 * _PARTS:
        return None
    corner = 0.5 * float(np.hypot(height, width)) * block  # px that a corner moves by with a turn of 1 rad
    turned, error, _ = _fitted(key, picture, np.array([start.x, start.y, start.angle]), 3, corner, block)
    sure = error[2] > 0 and abs(turned[2]) * corner >= _LEAST_PX and abs(turned[2]) >= _SURE_ERRORS * error[2]
    if sure:
        return Turn(*turned.tolist())
    shift, error, explained = _fitted(key, picture, np.array([turned[0], turned[1], 0.0]), 2, corner, block)
    off = np.hypot(shift[0] - start.x, shift[1] - start.y) * block
    if explained < _EXPLAINED_SHARE or np.hypot(*error[:2]) * block > _LARGEST_ERROR_PX or off > _FARTHEST_PX:
        return None
    return Turn(float(shift[0]), float(shift[1]), 0.0)


def _fitted(
    key: Marks, picture: NDArray[np.float32], theta: FloatArray, free: int, corner: float, block: int
) -> tuple[FloatArray, FloatArray, float]:
    """The first parameters of a motion at which brightness agrees best, from ``theta`` on.

    Args:
        key, picture, block: as :func:`turn`.
        theta: x, y, blocks, and angle, rad.
        free: 2, the shift alone, or 3.
        corner: px that a corner moves by with a turn of 1 rad.

    Returns:
        x, y and angle; their standard errors, 0 where brightness is not explained; the share of it that is.
    """
    height, width = picture.shape
    theta, slope = theta.copy(), key.slope[:free]
    for _ in range(_STEPS):
        cosine, sine = np.cos(theta[2]), np.sin(theta[2])
        x = cosine * key.place[0] - sine * key.place[1] + theta[0] + (width - 1) / 2
        y = sine * key.place[0] + cosine * key.place[1] + theta[1] + (height - 1) / 2
        inside = (np.minimum(x, y) >= _TAINTED_BLOCKS) & (x < width - 1 - _TAINTED_BLOCKS)
        inside &= y < height - 1 - _TAINTED_BLOCKS
        rest = np.where(inside, _between(picture, np.where(inside, x, 0), np.where(inside, y, 0)) - key.level, 0)
        scale = 1.5 * float(np.median(np.abs(rest[inside]))) + 1e-6 if inside.any() else 1.0
        heed = inside / (1 + (rest / (2 * scale)) ** 2)
        weighted = heed * slope
        matrix = weighted @ slope.T + 1e-9 * np.eye(free)
        step = -np.linalg.solve(matrix, weighted @ rest)
        theta[:free] += step
        last = np.abs(step[:2]).max() < _LAST_STEP_BLOCKS and np.abs(step[2:]).max(initial=0) * corner < (
            _LAST_STEP_BLOCKS * block
        )
        if last or (free == 3 and abs(theta[2]) * corner < _HOPELESS_PX):
            break
    unlike, light = float((heed * rest**2).sum()), float((heed * key.level**2).sum())
    explained = 1 - unlike / light if light > 0 else 0.0
    error = np.zeros(3)
    if explained >= _EXPLAINED_SHARE:
        error[:free] = np.sqrt(_ALIKE_PIXELS * unlike / max(heed.sum(), 1.0) * np.diag(np.linalg.inv(matrix)))
    return theta, error, explained


def _between(picture: NDArray[np.float32], x: FloatArray, y: FloatArray) -> FloatArray:
    """Brightness between pixels, linear."""
    column, row = x.astype(np.int64), y.astype(np.int64)
    right, down = x - column, y - row
    first = row * picture.shape[1] + column
    flat, stride = picture.ravel(), picture.shape[1]
    above = flat[first] * (1 - right) + flat[first + 1] * right
    below = flat[first + stride] * (1 - right) + flat[first + stride + 1] * right
    return np.asarray(above * (1 - down) + below * down, dtype=np.float64)
