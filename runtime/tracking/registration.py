"""How the camera moved from frame to frame: shift and turn of the background, to a fraction of a pixel.

A frame is averaged to half its size (blocks of 2 x 2 pixels), freed of what is smooth, and windowed. Its spectrum is
compared with that of a *key frame*: the peak of the phase correlation gives the shift to a pixel, the slope of the
phases of the cross spectrum the rest. The key frame stays until the picture has moved by a tenth of its size, so
that errors do not add up from frame to frame. A turn of the picture, where there is one beyond doubt, is fitted from
there on (see ``roll``), and then tells the shift, too. Blobs are painted over first: targets move, the background
tells.

Overlay text and the fixed pattern of a sensor say that nothing moves. Where the phase correlation has a clear peak away
from 0 it is taken, unless the one at 0 is more than three times as high: twigs and the blocks of a codec agree with
themselves a little way off.

Where nothing agrees any more (a cut) the scene starts anew; where nothing ever agrees (an empty sky) it counts as at
rest. A frame that has lost its contrast shows the camera's shutter: it is *blind*, says nothing, and the scene goes on
after it. A scene that comes back within two seconds is the same one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from glint.compiled import entry
from glint.runtime.tracking.roll import Marks, Turn, box_mean, marks, smooth, turn

FloatArray = NDArray[np.float64]
_BLOCK_PX = 2  # px averaged on either axis, in a frame of more than _LARGE_SIDE_PX on its longer side twice as many
_LARGE_SIDE_PX = 400
_SMOOTHED_BLOCKS = 9  # blocks over which the level is taken off
_PAINTED_PX = 6  # px around a blob that are painted over
_KEY_FRAME_RANGE_SHARE = 0.1  # of the picture's size, after which a new key frame is taken
_KEY_FRAME_RANGE_RAD = math.radians(1.5)  # turn after which a new key frame is taken
_LEAST_PEAK_SD = 8.0  # peak of the phase correlation in its standard deviations; 5 is chance
_FIXED_SHIFT_BLOCKS = 3  # about a shift of 0, at which overlay text and the sensor's pattern agree, whatever moves
_LEAST_SECOND_PEAK_RATIO = 0.3  # least height of a peak away from 0 over that at 0
_LEAST_CYCLES_PER_BLOCK, _MOST_CYCLES_PER_BLOCK = 0.02, 0.25  # cycles per block between which phases are fitted
_LARGEST_PHASE_RAD = 1.5  # rad of a phase; beyond it, it belongs to something else
_FIT_ROUNDS = 3
_BLIND_CONTRAST_SHARE = 0.4  # share of the contrast below which a frame is blind
_MOST_BLIND_FRAMES = 45  # and how long it may be
_REMEMBERED_FRAMES = 60  # frames for which the scene before is looked for


@dataclass(frozen=True)
class Shift:
    """Where the scene lies in the frame.

    Attributes:
        x, y: what is at (0, 0) of the scene is there in the frame, pixels; the first frame's is (0, 0).
        known: whether it is the scene of the frames before; if not, it starts anew here.
        blind: nothing is to be seen, as behind a shutter.
        angle: by which the scene is turned in the frame, from x to y, rad.
    """

    x: float = 0.0
    y: float = 0.0
    known: bool = True
    blind: bool = False
    angle: float = 0.0

    def to_scene(self, x: FloatArray | float, y: FloatArray | float) -> tuple[Any, Any]:
        """Where places of the frame lie in the scene, x and y."""
        right, down = x - self.x, y - self.y
        if self.angle == 0:
            return right, down
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        return cosine * right + sine * down, cosine * down - sine * right

    def to_frame(self, x: FloatArray | float, y: FloatArray | float) -> tuple[Any, Any]:
        """Where places of the scene lie in the frame, x and y."""
        if self.angle == 0:
            return x + self.x, y + self.y
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        return cosine * x - sine * y + self.x, sine * x + cosine * y + self.y


class Registration:
    """The shifts of the frames of one stream."""

    def __init__(self) -> None:
        self._key: _Key | None = None
        self._last: _Key | None = None
        self._scene: _Key | None = None  # the key frame of the scene before a cut
        self._since = 0  # frames
        self._at = Shift()
        self._shape = (0, 0)
        self._contrast, self._blind = 0.0, 0
        self._turned = False  # whether the last frame was turned against its key frame
        self._locked = True  # whether the last frame agreed with its key frame

    def __call__(self, frame: NDArray[Any], x: NDArray[np.float64], y: NDArray[np.float64]) -> Shift:
        """The next frame's.

        Args:
            frame: ``[H, W]``.
            x, y: of its blobs, pixels.
        """
        block = _BLOCK_PX * (2 if max(frame.shape) > _LARGE_SIDE_PX else 1)
        small, contrast = _prepared(frame, x, y, block)
        now = _Key(fft.rfft2(small * _grid(small.shape).window), self._at, small, block)
        if self._key is None or self._last is None or small.shape != self._shape:
            first, self._shape, self._contrast = self._key is None, small.shape, contrast
            self._key = self._last = now
            self._scene = None
            return self._told(known=first)
        moved = self._agreed(now, small.shape)
        if moved is None:
            return self._lost(now, contrast)
        key = self._key
        start = Turn(float(moved[1]), float(moved[0]), self._at.angle - key.at.angle)
        turned = turn(key.marks, now.smooth, start, block, goes_on=self._turned)
        self._turned = turned is not None
        self._at = key.moved(Turn(start.x, start.y, 0.0) if turned is None else turned)
        self._last = _Key(now.spectrum, self._at, small, block)
        self._locked, self._blind = True, 0
        self._contrast += 0.1 * (contrast - self._contrast)
        if (np.abs(moved) > _KEY_FRAME_RANGE_SHARE * np.array(small.shape)).any() or abs(
            self._at.angle - key.at.angle
        ) > _KEY_FRAME_RANGE_RAD:
            self._key = self._last
        return self._told()

    def _agreed(self, now: _Key, shape: tuple[int, int]) -> NDArray[np.float64] | None:
        """Blocks moved since the key frame; the last frame, or the scene before, becomes that if it agrees better."""
        assert self._key is not None  # noqa: S101  (there was a frame)
        self._since += 1
        scene = self._scene if self._since <= _REMEMBERED_FRAMES else None
        for key in dict.fromkeys((self._key, self._last, scene)):  # each once
            if key is None:
                continue
            moved = _shift(key.spectrum, now.spectrum, shape)
            if moved is not None:
                if key is self._scene:
                    self._scene = None
                self._key = key
                return moved
        return None

    def _lost(self, now: _Key, contrast: float) -> Shift:
        """A frame that agrees with none."""
        if contrast < _BLIND_CONTRAST_SHARE * self._contrast and self._blind < _MOST_BLIND_FRAMES:
            self._blind += 1
            return self._told(blind=True)
        cut = self._locked
        if cut:
            self._scene, self._since = self._key, 0
        self._key = self._last = now
        self._locked, self._contrast, self._blind = False, contrast, 0
        return self._told(known=not cut)

    def _told(self, *, known: bool = True, blind: bool = False) -> Shift:
        return replace(self._at, known=known, blind=blind)


@dataclass(frozen=True, eq=False)
class _Key:
    """A frame: its spectrum, where the scene lay in it, and its blocks, of so many pixels."""

    spectrum: NDArray[np.complexfloating[Any, Any]]
    at: Shift
    small: NDArray[np.float32]
    block: int

    @cached_property
    def smooth(self) -> NDArray[np.float32]:
        return smooth(self.small)

    @cached_property
    def marks(self) -> Marks:
        return marks(self.smooth)

    def moved(self, way: Turn) -> Shift:
        """Where the scene lies in a frame that is so far from this one."""
        x, y = (self.block * n / 2 - 0.5 for n in self.small.shape[::-1])  # the middle
        cosine, sine, right, down = math.cos(way.angle), math.sin(way.angle), self.at.x - x, self.at.y - y
        return Shift(
            x + cosine * right - sine * down + self.block * way.x,
            y + sine * right + cosine * down + self.block * way.y, angle=self.at.angle + way.angle,
        )  # fmt: skip


def _prepared(
    frame: NDArray[Any], x: NDArray[np.float64], y: NDArray[np.float64], block: int
) -> tuple[NDArray[np.float32], float]:
    """What spectra are made of, and the standard deviation of what is not smooth in the frame, DN."""
    height, width = (n - n % block for n in frame.shape)
    cut = frame[:height, :width]
    small = np.zeros((height // block, width // block), dtype=np.float32)
    _add_blocks(np.ascontiguousarray(cut), small, block)
    small -= box_mean(small, _SMOOTHED_BLOCKS)
    reach = _PAINTED_PX // block
    for row, column in zip((y / block).astype(int), (x / block).astype(int)):
        small[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1] = 0
    # Single bright points (dead pixels, text) must not outweigh the rest.
    contrast = float(np.std(small))
    limit = 3 * contrast or 1.0
    np.clip(small, -limit, limit, out=small)
    return small, contrast


@entry("u1[2] f4[2] i8", "u2[2] f4[2] i8", "f4[2] f4[2] i8")
def _add_blocks(frame: NDArray[Any], small: NDArray[np.float32], block: int) -> None:
    """Add the pixels of each block to it."""
    height, width = small.shape
    columns = np.zeros(frame.shape[1], dtype=np.float32)
    for r in range(height):
        columns[:] = 0
        for i in range(block):
            for c in range(len(columns)):
                columns[c] += np.float32(frame[block * r + i, c])
        for c in range(width):
            for j in range(block):
                small[r, c] += columns[block * c + j]


@dataclass(frozen=True, eq=False)
class _Grid:
    """What depends on the size alone: the window, and of the frequencies in use their places and slopes of phase."""

    window: NDArray[np.float32]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    slope: NDArray[np.float64]


@lru_cache(maxsize=4)
def _grid(shape: tuple[int, int]) -> _Grid:
    fy, fx = fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])[None]
    radius = np.hypot(fy, fx)
    rows, columns = np.nonzero((radius > _LEAST_CYCLES_PER_BLOCK) & (radius < _MOST_CYCLES_PER_BLOCK))
    slope = 2 * np.pi * np.stack([fy[rows, 0], fx[0, columns]], axis=1)
    return _Grid(_window(shape[0])[:, None] * _window(shape[1]), rows, columns, slope)


def _window(size: int) -> NDArray[np.float32]:
    """Flat in the middle, a cosine over a quarter at either end."""
    edge = size // 4
    rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(edge) + 0.5) / max(edge, 1))
    return np.concatenate([rise, np.ones(size - 2 * edge), rise[::-1]]).astype(np.float32)


def _shift(key: NDArray[Any], now: NDArray[Any], shape: tuple[int, int]) -> NDArray[np.float64] | None:
    """Rows and columns, in blocks, by which the picture moved, or None if nothing agrees."""
    grid = _grid(shape)
    unit = np.zeros(now.shape, dtype=np.complex64)
    strength, phase = _compared(_pairs(key), _pairs(now), grid.rows, grid.columns, _pairs(unit))
    correlation = fft.irfft2(unit, s=shape)
    least = _LEAST_PEAK_SD * float(np.std(correlation))
    peak = np.unravel_index(int(np.argmax(correlation)), shape)
    if correlation[peak] < least:
        return None
    if all(min(int(p), n - int(p)) <= 1 for p, n in zip(peak, shape)):  # it may be the sensor's pattern that agrees
        reach = np.arange(-_FIXED_SHIFT_BLOCKS, _FIXED_SHIFT_BLOCKS + 1)
        at_rest = float(correlation[peak])
        correlation[np.ix_(reach, reach)] = 0
        other = np.unravel_index(int(np.argmax(correlation)), shape)
        peak = other if correlation[other] >= max(least, _LEAST_SECOND_PEAK_RATIO * at_rest) else peak
    whole = np.array([(int(p) + n // 2) % n - n // 2 for p, n in zip(peak, shape)], dtype=np.float64)
    weight = np.minimum(strength, 20 * np.median(strength))
    shift = _fitted(phase, weight, grid.slope, whole)
    return shift if np.abs(shift - whole).max() < 1.5 else whole


def _pairs(spectrum: NDArray[Any]) -> NDArray[np.float32]:
    """Real and imaginary parts, ``[h, w, 2]``, of the same memory."""
    parts: NDArray[np.float32] = spectrum.view(np.float32).reshape(*spectrum.shape, 2)
    return parts


@entry("f4[3] f4[3] i8[1] i8[1] f4[3]")
def _compared(
    key: NDArray[np.float32], now: NDArray[np.float32], rows: NDArray[np.int64], columns: NDArray[np.int64],
    unit: NDArray[np.float32],
) -> FloatArray:  # fmt: skip
    """Fill in the cross spectrum of two, of strength 1, at places ``[N]``; returns strength and phase, ``[2, N]``."""
    told = np.empty((2, len(rows)))
    for k in range(len(rows)):
        r, c = rows[k], columns[k]
        a, b, p, q = now[r, c, 0], now[r, c, 1], key[r, c, 0], key[r, c, 1]
        real, imaginary = a * p + b * q, b * p - a * q
        strength = math.sqrt(real * real + imaginary * imaginary)
        told[0, k], told[1, k] = strength, math.atan2(imaginary, real)
        share = 1 / max(strength, 1e-20)
        unit[r, c, 0], unit[r, c, 1] = share * real, share * imaginary
    return told


@entry("f8[1] f8[1] f8[2] f8[1]")
def _fitted(phase: FloatArray, weight: FloatArray, slope: FloatArray, start: FloatArray) -> FloatArray:
    """The shift, rows and columns, whose slope the phases ``[N]`` have; those far from it do not count."""
    down, right = start[0], start[1]
    for _ in range(_FIT_ROUNDS):
        aa, ab, bb, ya, yb = 1e-12, 0.0, 1e-12, 0.0, 0.0
        for k in range(len(phase)):
            a, b = slope[k, 0], slope[k, 1]
            left = phase[k] + a * down + b * right
            left -= 2 * math.pi * math.floor(left / (2 * math.pi) + 0.5)
            kept = weight[k] if abs(left) < _LARGEST_PHASE_RAD else 0.0
            aa, ab, bb = aa + kept * a * a, ab + kept * a * b, bb + kept * b * b
            ya, yb = ya + kept * left * a, yb + kept * left * b
        scale = 1 / (aa * bb - ab * ab)
        down, right = down - scale * (bb * ya - ab * yb), right - scale * (aa * yb - ab * ya)
    return np.array([down, right])
