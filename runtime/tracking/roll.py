"""How far a picture is turned against a key frame, and how its middle moved.

The steepest pixels of each part of the key frame are looked for in the frame where the shift of the whole picture
leads; a turn about the middle and what is left of the shift are those with which brightness agrees best (Gauss-Newton,
as Lucas and Kanade; a pixel that tells something else loses its weight). A turn that is not beyond doubt is none.
Neither is one that begins and that a single side of the picture tells: there, something goes out of view, or moves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glint.compiled import compiled, entry
from glint.runtime.unmixing.normal_equations import diagonal_of_inverse, factorise, substitute

FloatArray = NDArray[np.float64]
_PARTS, _PART_PIXELS = 6, 40  # of the picture on either axis; of each part
_EDGE_BLOCKS = 3  # blocks at the edge in which no marks are
_STEPS, _LAST_STEP_BLOCKS = 10, 0.002  # Gauss-Newton steps; blocks in a corner below which a step is the last
_ALIKE_PIXELS = 6.0  # of the residuals, pixels that share noise and structure
_SURE_ERRORS, _LEAST_PX = 5.0, 0.1  # standard errors of a turn, and what it does in a corner, below which there is none
_HOPELESS_PX = 0.03  # what a turn does in a corner, after a step, below which it will be none
_EXPLAINED_SHARE = 0.8  # of brightness that must be explained
_SIDE_SHARE = 1 / 3  # of half the picture, beyond which a mark lies at a side
_LEAST_AGREED_SHARE = 0.5  # of a turn that begins, left without any one of the four sides


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
    soft = box_mean(small, 3)
    return soft / (float(np.sqrt(np.vdot(soft, soft) / max(soft.size, 1))) or 1.0)


@entry("f4[2] i8")
def box_mean(picture: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """The mean of ``size`` x ``size`` pixels, an odd number, at each one, ``[H, W]``; at its edges it is mirrored.

    As ``scipy.ndimage.uniform_filter``, in a fifth to a third of the time.
    """
    height, width = picture.shape
    half, mean = size // 2, np.empty((height, width), dtype=np.float32)
    column, row, share = np.zeros(width + 2 * half), np.zeros(width), 1 / size**2
    for r in range(-half, height + half):
        new, old = picture[_mirrored(r, height)], picture[_mirrored(r - size, height)]
        inner = column[half : half + width]
        for c in range(width):
            inner[c] += new[c]
        for c in range(width if r >= half + 1 else 0):
            inner[c] -= old[c]
        if r < half:
            continue
        for k in range(half):
            column[k], column[half + width + k] = inner[_mirrored(k - half, width)], inner[_mirrored(width + k, width)]
        row[:] = 0
        for k in range(size):
            part = column[k : k + width]
            for c in range(width):
                row[c] += part[c]
        for c in range(width):
            mean[r - half, c] = share * row[c]
    return mean


@compiled
def _mirrored(place: int, size: int) -> int:
    """A place inside of ``size`` for one that may lie outside."""
    inside = place % (2 * size)
    return min(inside, 2 * size - 1 - inside)


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


def turn(key: Marks, picture: NDArray[np.float32], start: Turn, block: int, *, goes_on: bool = False) -> Turn | None:
    """The turn of a smooth picture against a key frame, or None if there is none beyond doubt.

    Args:
        key: its marks.
        picture: of the same size.
        start: about how it moved.
        block: pixels of a block.
        goes_on: whether the frame before was turned beyond doubt.
    """
    height, width = picture.shape
    if min(height, width) < 2 * _EDGE_BLOCKS + 2 * _PARTS:
        return None
    corner = 0.5 * float(np.hypot(height, width)) * block  # px that a corner moves by with a turn of 1 rad
    theta = np.array([start.x, start.y, start.angle])
    x, y, angle, error, explained, agreed = _fitted(
        key.place, key.level, key.slope, picture, theta, corner, float(block)
    ).tolist()
    doubt = explained < _EXPLAINED_SHARE or abs(angle) < _SURE_ERRORS * error or abs(angle) * corner < _LEAST_PX
    doubt = doubt or (not goes_on and agreed < _LEAST_AGREED_SHARE)
    return None if doubt else Turn(x, y, angle)


@entry("f8[2] f8[1] f8[2] f4[2] f8[1] f8 f8")
def _fitted(
    place: FloatArray, level: FloatArray, slope: FloatArray, picture: NDArray[np.float32], theta: FloatArray,
    corner: float, block: float,
) -> FloatArray:  # fmt: skip
    """The motion at which brightness agrees best, from ``theta`` on.

    Args:
        place, level, slope: of the marks.
        picture: as :func:`turn`.
        theta: x, y, blocks, and angle, rad.
        corner: px that a corner moves by with a turn of 1 rad.
        block: pixels of a block.

    Returns:
        x, y and angle, the angle's standard error, the share of brightness that is explained, and the share of the
        angle that is left without the side of the picture which tells most of it, ``[6]``.
    """
    number = len(level)
    told, rest, seen = np.zeros(6), np.empty(number), np.empty(number)
    now, share, unlike, light = theta.copy(), 0.0, 0.0, 0.0
    matrix, scale = np.eye(3), 1.0
    for _ in range(_STEPS):
        inside = _rests(place, level, picture, now, rest, seen)
        scale = 1.5 * float(np.median(seen[:inside])) + 1e-6 if inside > 0 else 1.0
        matrix, step = 1e-9 * np.eye(3), np.zeros(3)
        share = unlike = light = 0.0
        for i in range(number):
            if math.isnan(rest[i]):
                continue
            heed = 1 / (1 + (rest[i] / (2 * scale)) ** 2)
            share, unlike, light = share + heed, unlike + heed * rest[i] ** 2, light + heed * level[i] ** 2
            for a in range(3):
                step[a] += heed * slope[a, i] * rest[i]
                for b in range(3):
                    matrix[a, b] += heed * slope[a, i] * slope[b, i]
        factor = matrix.copy()
        factorise(factor)
        substitute(factor, step)
        now -= step
        last = max(abs(step[0]), abs(step[1]), abs(step[2]) * corner / block) < _LAST_STEP_BLOCKS
        if last or abs(now[2]) * corner < _HOPELESS_PX:
            break
    told[:3] = now
    told[3] = math.sqrt(_ALIKE_PIXELS * unlike / max(share, 1.0) * diagonal_of_inverse(matrix)[2])
    told[4] = 1 - unlike / light if light > 0 else 0.0
    told[5] = _agreed(place, slope, rest, scale, now[2])
    return told


@compiled
def _agreed(place: FloatArray, slope: FloatArray, rest: FloatArray, scale: float, angle: float) -> float:
    """The least share of an angle that is left when the marks at the left, right, top or bottom do not count."""
    half_x, half_y = _SIDE_SHARE * np.abs(place[0]).max(), _SIDE_SHARE * np.abs(place[1]).max()
    least = np.inf
    for side in range(4):
        axis, sign, half = side // 2, 1 - 2 * (side % 2), half_y if side // 2 else half_x
        matrix, step = 1e-9 * np.eye(3), np.zeros(3)
        for i in range(len(rest)):
            if math.isnan(rest[i]) or sign * place[axis, i] > half:
                continue
            heed = 1 / (1 + (rest[i] / (2 * scale)) ** 2)
            for a in range(3):
                step[a] += heed * slope[a, i] * rest[i]
                for b in range(3):
                    matrix[a, b] += heed * slope[a, i] * slope[b, i]
        factorise(matrix)
        substitute(matrix, step)
        least = min(least, 1 - step[2] / angle if angle != 0 else 0.0)
    return least


@compiled
def _rests(
    place: FloatArray, level: FloatArray, picture: NDArray[np.float32], theta: FloatArray, rest: FloatArray,
    seen: FloatArray,
) -> int:  # fmt: skip
    """Fill in what brightness, between pixels, is more than that of each mark; NaN where a mark is not inside.

    Returns:
        How many marks are inside; ``seen`` begins with their absolute differences.
    """
    height, width = picture.shape
    cosine, sine, inside = math.cos(theta[2]), math.sin(theta[2]), 0
    for i in range(len(level)):
        x = cosine * place[0, i] - sine * place[1, i] + theta[0] + (width - 1) / 2
        y = sine * place[0, i] + cosine * place[1, i] + theta[1] + (height - 1) / 2
        rest[i] = np.nan
        if min(x, y) < 0 or x >= width - 1 or y >= height - 1:
            continue
        column, row = int(x), int(y)
        right, down = x - column, y - row
        above = picture[row, column] * (1 - right) + picture[row, column + 1] * right
        below = picture[row + 1, column] * (1 - right) + picture[row + 1, column + 1] * right
        rest[i] = above * (1 - down) + below * down - level[i]
        seen[inside] = abs(rest[i])
        inside += 1
    return inside
