"""Windows of the frame about its blobs, as large as a wide spot needs, with the background left in.

And of any windows the noise, and the level at which their pixels are saturated.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from glint.compiled import entry
from glint.processing.crop import crop_windows
from glint.runtime.unmixing.normal_equations import Array
from glint.types import Blobs, Frame

Ceiling = float | NDArray[np.float32] | None
"""Level at which a pixel is saturated, DN: of all pixels, of each ``[H, W]``, or not known."""
_CLIPPED_PATCHES = 4  # that end at one highest value, at least
_PILE_UP_RATIO = 2.0  # times as many patches end at the highest value as just below it
_JUST_BELOW_SHARE = 0.03  # of the highest value: how far below is just below
_FLAT_PATCHES_SHARE = 0.1  # of patches that all end there: these have more than one pixel there, if no scale is theirs
_SECOND_DIFFERENCE_SD = 6.0  # standard deviation of the second differences of a white noise of 1
WINDOW_PX = 21  # px: a spot of sigma 3 px and its surroundings
_HALO_PX = 2  # px around another blob's mask that its light still reaches


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows about B spots, in whose middle pixel each spot's centre lies.

    Attributes:
        data: ``float64 [B, w, w]``, DN; the background may be in it.
        clear: ``bool [B, w, w]``: pixels that exist and that no other spot lights.
        full_scale: level at which a pixel is saturated, ``float64 [B, w, w]``, DN; infinity for never.
        noise: standard deviation of a pixel, DN, ``[B]``.
        left, top: column and row of the first pixel, ``[B]``.
        white: standard deviation of the sensor's own noise, DN, ``[B]``; no more than ``noise``.
        area: pixels of each spot's mask, ``[B]``; 0 where there is none.
        home: pixels of that mask, ``bool [B, w, w]``; all where there is none.
    """

    data: NDArray[np.float64]
    clear: NDArray[np.bool_]
    full_scale: NDArray[np.float64]
    noise: NDArray[np.float64]
    left: NDArray[np.int64]
    top: NDArray[np.int64]
    white: NDArray[np.float64]
    area: NDArray[np.int64]
    home: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.data)

    def rows(self, rows: list[int]) -> Windows:
        """Some of the windows."""
        return Windows(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @staticmethod
    def concatenate(parts: list[Windows]) -> Windows:
        """All windows of several frames."""
        return Windows(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Windows)})


def cut_windows(
    frame: Frame, blobs: Blobs, noise: NDArray[np.float64], white: NDArray[np.float64], ceiling: Ceiling = None,
    size: int = WINDOW_PX,
) -> Windows:  # fmt: skip
    """Windows about the blobs of a frame.

    Args:
        frame: ``[H, W]``.
        blobs: of the frame, B.
        noise, white: there, DN, ``[B]``.
        ceiling: level at which a pixel is saturated, DN, one number or ``[H, W]``; None if unknown.
        size: pixels per side, odd.
    """
    left, top = (np.round(v).astype(np.int64) - size // 2 for v in (blobs.x, blobs.y))
    data = crop_windows(frame.data, left, top, size).astype(np.float64)
    (height, width), steps = frame.shape, np.arange(size)
    rows, columns = top[:, None] + steps, left[:, None] + steps
    clear = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    home = np.ones(data.shape, dtype=bool)
    if blobs.label_map is not None and len(blobs):
        label = crop_windows(blobs.label_map, left, top, size)
        home = label == np.arange(1, len(blobs) + 1)[:, None, None]
        _clear_others(label, clear)
    if ceiling is None:
        limit = np.full(data.shape, np.inf)
    elif isinstance(ceiling, np.ndarray):
        limit = crop_windows(ceiling, left, top, size).astype(np.float64)
    else:
        limit = np.full(data.shape, float(ceiling))
    area = blobs.area if blobs.label_map is not None else np.zeros(len(blobs), dtype=np.int64)
    return Windows(data, clear, limit, noise, left, top, white, area, home)


@entry("i4[3] b1[3]")
def _clear_others(label: NDArray[np.int32], clear: NDArray[np.bool_]) -> None:
    """Take out the pixels that the light of other blobs reaches; what is in a blob's own mask stays."""
    size = label.shape[1]
    for b in range(len(label)):
        for row in range(size):
            for column in range(size):
                if label[b, row, column] != 0 and label[b, row, column] != b + 1:
                    for i in range(max(row - _HALO_PX, 0), min(row + _HALO_PX + 1, size)):
                        for j in range(max(column - _HALO_PX, 0), min(column + _HALO_PX + 1, size)):
                            clear[b, i, j] &= label[b, i, j] == b + 1


def noise_of_windows(windows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Standard deviation of the noise in windows ``[B, w, w]``, by the pixels themselves, DN, ``[B]``."""
    return _noise_of(np.ascontiguousarray(windows, dtype=np.float64))


@entry("f8[3]")
def _noise_of(windows: Array) -> Array:
    """From the median of what is left by differences that are blind to planes and straight edges, ``[B]``."""
    size = windows.shape[1] - 2
    result, left = np.empty(len(windows)), np.empty(size * size)
    for b in range(len(windows)):
        w = windows[b]
        for i in range(size):
            for j in range(size):
                corners = w[i, j] + w[i, j + 2] + w[i + 2, j] + w[i + 2, j + 2]
                sides = w[i, j + 1] + w[i + 1, j] + w[i + 1, j + 2] + w[i + 2, j + 1]
                left[i * size + j] = abs(corners - 2 * sides + 4 * w[i + 1, j + 1])
        result[b] = 1.4826 * np.median(left) / _SECOND_DIFFERENCE_SD
    return result


def clipping_level(patches: NDArray[np.generic]) -> float | None:
    """The value at which patches ``[N, n, n]`` are clipped, by the patches themselves; None if they do not show it.

    Where a sensor or a file format clips, many patches end at exactly one value, and few end just below. Brightest
    pixels that are not clipped thin out towards the highest one. Patches that were divided by their own peaks all end
    at 1, with one pixel each.
    """
    if not patches.size:
        return None
    peak = patches.max(axis=(1, 2)).astype(np.float64)
    top = float(peak.max())
    at_top = peak == top
    number = int(at_top.sum())
    if not (top > 0 and np.isfinite(top)) or number < _CLIPPED_PATCHES:
        return None
    just_below = int(((peak >= (1 - _JUST_BELOW_SHARE) * top) & ~at_top).sum())
    if number <= _PILE_UP_RATIO * just_below:
        return None
    pixels = (patches[at_top] == patches.max()).sum(axis=(1, 2))
    flat = int(((pixels > 1) & (pixels < patches[0].size)).sum())
    return None if number == len(patches) and flat < max(_FLAT_PATCHES_SHARE * number, 1) else top
