"""Points that no single frame shows: light that adds up along a straight way through the scene.

1. *Whitening*: what a frame shows and the last ones did not, in standard deviations of the light of a point at each
   place (see ``scene_memory``); a block of a frame that shows more than that, as after an error of the registration,
   counts by what it shows. Where the noise leans to one side, as that of a sky does that is cut off at black, it is
   bent straight.
2. *Cells*: the brightest pixel of each 2 x 2 of the scene.
3. *Quads*: cells of four frames are added up along 49 ways of up to a cell per frame and axis; sums above
   ``QUAD_SUM_SD`` are kept, with their ways; a quad's score is half the square of its standard deviations above noise,
   which is minus the log of how probable that is, about.
4. *Chains*: a quad goes on where a quad of the frames before leads, at the same velocity to a third of a cell per
   frame; its score grows by that of the best chain that leads there. A chain may miss one quad.
5. *Decoys*: the same search for what flies faster than anything does, by 26 px per frame to the side. What it finds is
   noise, of this scene and whatever its law.
6. A chain is *found* when its score reaches ``FOUND_SCORE``, and ``_DECOY_MARGIN`` times the best decoy's of the last
   seconds. Its place comes from the stack of the last frames, aligned on its way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glint.compiled import entry
from glint.runtime.tracking.scene_memory import SceneMemory
from glint.types import Blobs

Map = NDArray[np.float32]
Array = NDArray[np.float64]
KNOWN_FRAMES = 12  # that have shown a place, before sums of it say anything
QUAD_FRAMES = 4
QUAD_SUM_SD = 9.0  # standard deviations of pixels
MOST_QUADS = 6000
FOUND_SCORE = 40.0
LEAST_QUADS = 4
STACK_FRAMES, STACK_PX = 8, 15
_NOISE_QUAD_SUM, _NOISE_QUAD_SPREAD = 4.1, 1.4  # mean and standard deviation of a quad of noise
_MOST_QUAD_SCORE = 12.0  # so that no bright quad makes a chain of what is beside it
_MISSED_SCORE = 8.0  # that a missing quad costs
_DECOY_STEP_CELLS = 7, 11  # cells per frame to the side
_DECOY_MARGIN, _DECOY_DECAY = 1.5, 0.98  # per quad
_APART_PX = 8.0  # between two that are found
_SAME_ORIGIN_CELLS = 3  # cells, and quads, by which the beginnings of chains of one point differ
_SLOWEST_PX, _LEAST_WAY_PX = 0.15, 4.0  # per frame, and in all; what is slower stays
_AROUND_PX = 4  # beyond the side of a blob that say nothing
_MOST_PIXEL_SD = 6.0  # standard deviations that count of one pixel
_SKEW_PX, _SKEW_MEMORY_QUADS = 32, 8  # side of a block that has one skewness, and how long it is remembered
_MOST_SKEW_PIXEL_SD = 3.0  # standard deviations that count of one pixel, so that a point does not
_CUT_SPREAD = 0.99  # standard deviation of normal noise that is cut off there
_SKEWS = 0.0, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0, 1.5  # of gamma laws, and the third moments that this leaves of them
_THIRD_MOMENTS = 0.0, 0.085, 0.171, 0.251, 0.37, 0.476, 0.604, 0.727, 0.935
_LEAST_SKEW = 0.05  # the noise of less is as good as straight


@dataclass(frozen=True, eq=False)
class Faint:
    """A point that was found.

    Attributes:
        x, y: its place in the scene at the last frame, pixels.
        vx, vy: px per frame.
        score: of its chain.
        frames: over which it was added up.
        stack: the last frames aligned on its way, ``float32 [15, 15]``, standard deviations.
    """

    x: float
    y: float
    vx: float
    vy: float
    score: float
    frames: int
    stack: Map


class FaintSearch:
    """The search in one stream."""

    def __init__(self) -> None:
        self._start_anew((0, 0))

    def _start_anew(self, shape: tuple[int, int]) -> None:
        self._shape, self._at = shape, (0, 0)
        self._moment = np.zeros((-(-shape[0] // _SKEW_PX), -(-shape[1] // _SKEW_PX)))
        self._clean: list[Map] = []
        self._cells: list[Map] = []
        self._chains, self._decoys = _Chains(shape), _Chains(shape)
        self._frames, self._decoy_score = 0, 0.0

    def __call__(self, memory: SceneMemory, blobs: Blobs | None = None) -> list[Faint]:
        """The points that end in the next frame: none but with each fourth frame.

        Args:
            memory: of the scene, which has taken that frame.
            blobs: of the frame, which say nothing here: a detector has found them.
        """
        if memory.began:
            self._start_anew(memory.shape)
        if memory.blind or min(memory.shape) < 2 * STACK_PX:
            return []
        self._at = memory.corner
        clean = np.clip(memory.changed, -_MOST_PIXEL_SD, _MOST_PIXEL_SD)
        clean[memory.count < KNOWN_FRAMES] = 0
        even(clean, _SKEW_PX)
        if not self._cells:
            self._learn_skew(clean)
        straighten(clean, np.interp(self._moment, _THIRD_MOMENTS, _SKEWS))
        if blobs is not None:
            self._blank(clean, blobs)
        self._clean = [*self._clean[1 - STACK_FRAMES :], clean]
        parts = (self._clean[-1][i::2, j::2] for i in (0, 1) for j in (0, 1))
        a, b, c, d = parts
        self._cells.append(np.maximum(np.maximum(a, b), np.maximum(c, d)))
        if len(self._cells) < QUAD_FRAMES:
            return []
        cells, self._cells = np.stack(self._cells), []
        aside = [
            np.roll(one, [(self._frames + k) * step for step in _DECOY_STEP_CELLS], (0, 1))
            for k, one in enumerate(cells)
        ]
        self._frames += QUAD_FRAMES
        decoys = self._decoys.go_on(np.stack(aside))
        best = decoys[decoys[:, 5] >= LEAST_QUADS, 4].max(initial=0.0)
        self._decoy_score = max(best, _DECOY_DECAY * self._decoy_score)
        return self._found(self._chains.go_on(cells), max(FOUND_SCORE, _DECOY_MARGIN * self._decoy_score))

    def _learn_skew(self, clean: Map) -> None:
        """Third moments of blocks of the scene: one frame of each quad tells enough."""
        near = np.clip(clean, -_MOST_SKEW_PIXEL_SD, _MOST_SKEW_PIXEL_SD)
        cubes = near * near * near
        starts = [np.arange(0, size, _SKEW_PX) for size in self._shape]
        total = np.add.reduceat(np.add.reduceat(cubes, starts[0], axis=0), starts[1], axis=1)
        pixels = np.outer(*(np.diff(np.append(s, n)) for s, n in zip(starts, self._shape)))
        self._moment += (total / pixels - self._moment) / _SKEW_MEMORY_QUADS

    def _blank(self, clean: Map, blobs: Blobs) -> None:
        height, width = self._shape
        for x, y, area in zip(blobs.x, blobs.y, blobs.area):
            steps = np.arange(2 * (_AROUND_PX + round(math.sqrt(area))) + 1) - _AROUND_PX - round(math.sqrt(area))
            clean[np.ix_((round(y) - self._at[0] + steps) % height, (round(x) - self._at[1] + steps) % width)] = 0

    def _found(self, table: Array, least: float) -> list[Faint]:
        """The best chains of a least score, apart from each other."""
        height, width = self._shape
        good = np.flatnonzero((table[:, 4] >= least) & (table[:, 5] >= LEAST_QUADS))
        found: list[Faint] = []
        origins: list[tuple[float, float, float]] = []
        for k in good[np.argsort(-table[good, 4])].tolist():
            row, column, _, _, score, _, first_row, first_column, age = table[k].tolist()
            origin = first_row, first_column, age / QUAD_FRAMES
            if any(max(abs(a - b) for a, b in zip(origin, other)) <= _SAME_ORIGIN_CELLS for other in origins):
                continue  # a branch of one that is told already
            half = height // 2, width // 2
            way = [(a - b + n / 2) % n - n / 2 for a, b, n in zip((row, column), (first_row, first_column), half)]
            vy, vx = (2 * w / age for w in way)
            y, x, stack = self._stacked(2 * row + 0.5, 2 * column + 0.5, vy, vx)
            y, x = (y + self._at[0]) % height - self._at[0], (x + self._at[1]) % width - self._at[1]
            apart = all(np.hypot(x - one.x, y - one.y) > _APART_PX for one in found)
            moves = np.hypot(vx, vy) > _SLOWEST_PX and 2 * np.hypot(*way) >= _LEAST_WAY_PX
            if apart and moves:
                origins.append(origin)
                found.append(Faint(x, y, vx, vy, score, int(age) + QUAD_FRAMES, stack))
        return found

    def _stacked(self, y: float, x: float, vy: float, vx: float) -> tuple[float, float, Map]:
        """The place of the light in the last frame, and these frames aligned on the way there."""
        reach, steps = STACK_PX // 2, np.arange(STACK_PX) - STACK_PX // 2
        stack = np.zeros((STACK_PX, STACK_PX), dtype=np.float32)
        for back, clean in enumerate(reversed(self._clean)):
            rows, columns = (round(v) + steps for v in (y - back * vy, x - back * vx))
            stack += clean.take(rows % self._shape[0], axis=0).take(columns % self._shape[1], axis=1)
        stack /= np.sqrt(np.float32(len(self._clean)))
        near = stack[reach - 2 : reach + 3, reach - 2 : reach + 3]
        i, j = np.unravel_index(int(near.argmax()), near.shape)
        light = np.maximum(stack[reach + i - 3 : reach + i, reach + j - 3 : reach + j], 0)
        total, off = float(light.sum()) + 1e-9, np.arange(3) - 1
        dy, dx = float((light.sum(axis=1) * off).sum()) / total, float((light.sum(axis=0) * off).sum()) / total
        return round(y) + int(i) - 2 + dy, round(x) + int(j) - 2 + dx, stack


class _Chains:
    """Chains of quads of one series of cells."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._half, self._last = (shape[0] // 2, shape[1] // 2), list[Array]()

    def go_on(self, cells: Map) -> Array:
        """The table of ``_quads`` of four frames ``[4, h, w]``, with the best chains that lead to them."""
        table = _quads(np.pad(cells, ((0, 0), (3, 3), (3, 3)), mode="wrap"), QUAD_SUM_SD, MOST_QUADS)
        table[:, 4] = np.minimum(0.5 * ((table[:, 4] - _NOISE_QUAD_SUM) / _NOISE_QUAD_SPREAD) ** 2, _MOST_QUAD_SCORE)
        own = table[:, 4].copy()
        for gap, before in enumerate(reversed(self._last), start=1):
            _chain(table, own, before, gap, _MISSED_SCORE * (gap - 1), *self._half)
        self._last = [*self._last[-1:], table]
        return table


def straighten(clean: Map, skew: Array) -> None:
    """Bend noise that leans to the bright side to a normal one, in place (the cube root of Wilson and Hilferty).

    Args:
        clean: ``[H, W]``, standard deviations.
        skew: third standardised moment of each block of ``_SKEW_PX`` pixels.
    """
    for row, column in np.argwhere(skew > _LEAST_SKEW).tolist():
        block = clean[row * _SKEW_PX : (row + 1) * _SKEW_PX, column * _SKEW_PX : (column + 1) * _SKEW_PX]
        s = np.float32(skew[row, column])
        block[:] = (np.cbrt(np.maximum(1 + block * s / 2, 0)) - 1) * 6 / s + s / 6


@entry("f4[2] i8")
def even(clean: Map, side: int) -> None:
    """Divide blocks of a frame by the standard deviation of their pixels, in place, where that is above 1.

    A registration that erred by a few hundredths of a pixel, and a memory that is young, leave something of all
    structure, and it moves.

    Args:
        clean: ``[H, W]``, standard deviations; 0 where nothing is known.
        side: of a block, pixels.
    """
    most = np.float32(_MOST_SKEW_PIXEL_SD)
    for top in range(0, clean.shape[0], side):
        for left in range(0, clean.shape[1], side):
            block, total, number = clean[top : top + side, left : left + side], 0.0, 0
            for r in range(block.shape[0]):
                for c in range(block.shape[1]):
                    near = min(max(block[r, c], -most), most)
                    total += near * near
                    number += near != 0
            spread = math.sqrt(total / max(number, 1)) / _CUT_SPREAD
            if spread > 1:
                for r in range(block.shape[0]):
                    for c in range(block.shape[1]):
                        block[r, c] /= np.float32(spread)


@entry("f4[3] f8 i8")
def _quads(cells: Map, least: float, most: int) -> Array:
    """Sums of four frames ``[4, h + 6, w + 6]`` above a level.

    Returns:
        Row, column in the last frame, way in rows and columns, sum, 1, row and column again, and 0: ``float64 [N, 9]``.
    """
    height, width = cells.shape[1] - 6, cells.shape[2] - 6
    table, number = np.empty((most, 9)), 0
    total = np.empty(width, dtype=np.float32)
    for dy in range(-3, 4):
        y1, y2 = round(dy / 3), round(2 * dy / 3)
        for dx in range(-3, 4):
            x1, x2 = round(dx / 3), round(2 * dx / 3)
            for r in range(height):
                a, b = cells[0, r + 3], cells[1, r + 3 + y1]
                c, d = cells[2, r + 3 + y2], cells[3, r + 3 + dy]
                hits, level = 0, np.float32(least)
                for k in range(width):
                    total[k] = a[k + 3] + b[k + 3 + x1] + c[k + 3 + x2] + d[k + 3 + dx]
                    hits += total[k] > level
                if hits > 0:
                    for k in range(width):
                        if total[k] > level and number < most:
                            row, column = (r + dy) % height, (k + dx) % width
                            table[number, 0], table[number, 1] = row, column
                            table[number, 2], table[number, 3] = dy, dx
                            table[number, 4], table[number, 5] = total[k], 1.0
                            table[number, 6], table[number, 7], table[number, 8] = row, column, 0.0
                            number += 1
    return table[:number].copy()


@entry("f8[2] f8[1] f8[2] i8 f8 i8 i8")
def _chain(now: Array, own: Array, before: Array, gap: int, cost: float, height: int, width: int) -> None:
    """Let quads go on from the best of some that ended ``gap`` quads before, in place."""
    head, following = np.full((height, width), -1, dtype=np.int64), np.empty(len(before), dtype=np.int64)
    for k in range(len(before)):
        row, column = int(before[k, 0]), int(before[k, 1])
        following[k] = head[row, column]
        head[row, column] = k
    for i in range(len(now)):
        back = 4.0 * gap / 3.0
        row, column = int(now[i, 0] - round(now[i, 2] * back)), int(now[i, 1] - round(now[i, 3] * back))
        best, leader = cost, -1
        for a in range(row - 1, row + 2):
            for b in range(column - 1, column + 2):
                k = head[a % height, b % width]
                while k >= 0:
                    same = abs(before[k, 2] - now[i, 2]) <= 1 and abs(before[k, 3] - now[i, 3]) <= 1
                    if same and before[k, 4] > best:
                        best, leader = before[k, 4], k
                    k = following[k]
        if leader >= 0 and own[i] + best - cost > now[i, 4]:
            now[i, 4] = own[i] + best - cost
            now[i, 5] = before[leader, 5] + 1
            now[i, 6], now[i, 7] = before[leader, 6], before[leader, 7]
            now[i, 8] = before[leader, 8] + 4 * gap
