"""What the last frames of a scene show at each of its places: the light of a point there, its mean and its spread.

A frame is compared with the light of a point, less the mean of 5 x 5 pixels. Each pixel of the scene remembers the
mean of that and its variance for ``MEMORY_FRAMES``. What is left of a new frame, over its standard deviation, is noise
wherever the camera turns: what stays where it is goes out, and edges that flicker weigh less. What moves stands out.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from glint.compiled import compiled, entry
from glint.runtime.tracking.registration import Shift

Map = NDArray[np.float32]
MEMORY_FRAMES = 32  # of each pixel of the scene
WARM_FRAMES = 6  # after which the memory is good for something
LEAST_VARIANCE = 1e-12  # DN^2, so that nothing is divided by 0
_EDGE_PX = 4  # of a frame that say nothing
_ROWS_APART = 4  # px, of those that tell how much places change


class SceneMemory:
    """The memory of one stream.

    Attributes:
        shape: of the frames, rounded down to even sides.
        at: row and column of the frame at which the scene starts, pixels; ``corner`` is that in whole pixels.
        began: whether the last frame began a scene.
        blind: whether the last frame said nothing.
        changed: that frame less the memory, standard deviations, ``float32 [H, W]``; 0 where nothing is known yet. It
            lies in the scene, and goes round: row y of the scene is row y modulo the height.
        variance: of the light of a point at each place, DN^2, ``float32 [H, W]``.
        count: of frames that showed each place, up to ``MEMORY_FRAMES``, ``uint8 [H, W]``.
    """

    def __init__(self) -> None:
        self.blind = False
        self._start_anew((0, 0))

    def _start_anew(self, shape: tuple[int, int]) -> None:
        self.shape, self.corner, self.at, self.began = shape, (0, 0), (0.0, 0.0), True
        self._light, self._mean, self.variance, self.changed = (np.zeros(shape, dtype=np.float32) for _ in range(4))
        self.count = np.zeros(shape, dtype=np.uint8)
        self._usual = math.inf  # by which places changed with the last frame, as a variance, DN^2

    def take(self, frame: NDArray[np.generic], shift: Shift) -> None:
        """Compare the next frame with the memory, and remember it.

        Args:
            frame: ``[H, W]``.
            shift: where the scene lies in it. The memory knows of shifts alone: a scene that turns is another one.
        """
        height, width = shape = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2
        self.began, self.blind = False, shift.blind
        if shape != self.shape or not shift.known:
            self._start_anew(shape)
        if shift.blind or min(shape) <= 2 * _EDGE_PX:
            return
        _point_light(np.ascontiguousarray(frame[:height, :width]), self._light)
        corner = math.floor(shift.y), math.floor(shift.x)
        for axis in (0, 1):  # what comes into view is not what was there
            step, size = corner[axis] - self.corner[axis], shape[axis]
            new = np.arange(size)[:step] if step > 0 else np.arange(size)[step:] if step < 0 else np.arange(0)
            there = (new - corner[axis]) % size
            self.count[(there, slice(None)) if axis == 0 else (slice(None), there)] = 0
        part = shift.y - corner[0], shift.x - corner[1]
        memory = self._mean, self.variance, self.count
        rest = _compare(self._light, *memory, self.changed, corner[0] % height, corner[1] % width, *part, self._usual)
        if rest > 0:
            if self._usual == math.inf:  # the second frame of a scene: no place is known, all together are
                self.variance[self.count == 2] = rest / 2
            self._usual = rest
        self.corner, self.at = corner, (shift.y, shift.x)


@entry("u1[2] f4[2]", "u2[2] f4[2]", "f4[2] f4[2]")
def _point_light(frame: NDArray[np.generic], light: Map) -> None:
    """Light of a point of sigma 0.5 px at each pixel, less the mean around; 0 within two pixels of the edge."""
    height, width = frame.shape
    point, around = np.zeros((5, width), dtype=np.float32), np.zeros((5, width), dtype=np.float32)  # of the last rows
    side, middle, share = np.float32(0.157), np.float32(0.683), np.float32(0.04 * 0.994)
    for r in range(height):
        source, p, o = frame[r], point[r % 5], around[r % 5]
        for c in range(2, width - 2):
            near, here = np.float32(source[c - 1]) + np.float32(source[c + 1]), np.float32(source[c])
            p[c] = middle * here + side * near
            o[c] = np.float32(source[c - 2]) + near + here + np.float32(source[c + 2])
        above, level, below, target = point[(r - 3) % 5], point[(r - 2) % 5], point[(r - 1) % 5], light[r - 2]
        for c in range(2, width - 2 if r >= 4 else 2):
            total = around[0, c] + around[1, c] + around[2, c] + around[3, c] + around[4, c]
            target[c] = middle * level[c] + side * (above[c] + below[c]) - share * total


@compiled
def _cubic(t: float) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    """Weights of four pixels in a row for a place ``t`` behind the second (Keys)."""
    return (
        np.float32(((-0.5 * t + 1) * t - 0.5) * t), np.float32((1.5 * t - 2.5) * t * t + 1),
        np.float32(((-1.5 * t + 2) * t + 0.5) * t), np.float32((0.5 * t - 0.5) * t * t),
    )  # fmt: skip


@compiled
def _learn(row: Map, mean: Map, variance: Map, count: NDArray[np.uint8], changed: Map, usual: float) -> None:
    """Fill in what the memory of some places ``[N]`` does not explain of their light; it learns.

    Light that is strange at a place, by more than three deviations, teaches little, and less while it lasts: what
    passes would hide itself where it goes next. Until the memory knows a place, the deviation is that of ``usual``, a
    variance. One loop over places that follow each other, without branches: it runs in vector registers.
    """
    none, one, most, warm = np.float32(0), np.float32(1), np.float32(MEMORY_FRAMES), np.float32(WARM_FRAMES)
    fair, limit, least = np.float32(1 / 0.97), np.float32(9), np.float32(LEAST_VARIANCE)
    ordinary, third, far = np.float32(usual), np.float32(1 / 3), np.float32(3)
    first = np.float32(0.5 * usual if usual < np.inf else 0.0)  # variance that one frame leaves at least
    for c in range(len(row)):
        n, v, old, before, new = np.float32(count[c]), variance[c], mean[c], changed[c], row[c]
        sure, part = (n >= warm) & (v > none), one / (min(n, most - one) + one)
        rest = new - old if n > none else none
        square, bound = (one - part) * rest * rest, limit * (v if sure else ordinary)  # the mean errs, too
        strange = square > bound
        # What passes stands there for some frames; what flickers comes and goes.
        passes = sure & strange & (abs(before) > far) & (before * rest > none)
        rate, held = one / most if passes else part, np.sqrt(bound) if rest > none else -np.sqrt(bound)
        mean[c] = old + rate * (held if sure & strange else rest) if n > none else new
        fresh = fair * min(square, bound) if sure else third * bound if strange else square
        spread = max(fresh, first) if n <= one else v + rate * (fresh - v)
        variance[c] = spread
        known = v if v > none else spread  # what never changed before has no other measure
        changed[c] = rest / np.sqrt(known + least) if n >= warm else none
        count[c] = np.uint8(min(n + one, most))


@entry("f4[2] f4[2] f4[2] u1[2] f4[2] i8 i8 f8 f8 f8")
def _compare(
    light: Map,
    mean: Map,
    variance: Map,
    count: NDArray[np.uint8],
    changed: Map,
    down: int,
    right: int,
    below: float,
    beside: float,
    usual: float,
) -> float:
    """Fill in what the memory does not explain, in the scene; the memory learns.

    The scene starts at a row and a column of the frame, and a part of a pixel ``below`` and ``beside``.

    Args:
        usual: a variance, as ``_learn`` takes it.

    Returns:
        Variance that fits the mean absolute change of places, DN^2; 0 where nothing changed.
    """
    height, width = light.shape
    i, j, k, m = _cubic(below)
    e, f, g, h = _cubic(beside)
    between, row = np.zeros(width, dtype=np.float32), np.zeros(width, dtype=np.float32)
    total = number = np.float32(0)
    for r in range(height):
        t, edge = r - down if r >= down else r - down + height, r < _EDGE_PX or r >= height - _EDGE_PX
        a, y, z = max(r - 1, 0), min(r + 1, height - 1), min(r + 2, height - 1)
        for c in range(width):
            between[c] = i * light[a, c] + j * light[r, c] + k * light[y, c] + m * light[z, c]
        for c in range(1, width - 2):
            row[c] = e * between[c - 1] + f * between[c] + g * between[c + 1] + h * between[c + 2]
        if r % _ROWS_APART == 0:
            for c in range(1, width - 2):
                off = c - right if c >= right else c - right + width
                if count[t, off] > 0:
                    total += abs(row[c] - mean[t, off])
                    number += np.float32(1)
        for begin, end, start in ((0, right, width - right), (right, width, 0)):
            there = slice(start, start + end - begin)
            _learn(row[begin:end], mean[t, there], variance[t, there], count[t, there], changed[t, there], usual)
        for n in range(width if edge else 2 * _EDGE_PX):
            c = n if edge or n < _EDGE_PX else n + width - 2 * _EDGE_PX
            off = c - right if c >= right else c - right + width
            changed[t, off] = 0
            count[t, off] = 0
    return float(math.sqrt(math.pi / 2) * total / max(number, np.float32(1))) ** 2
