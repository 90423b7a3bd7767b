"""Noise of small windows, and the level at which their pixels are saturated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from glint.compiled import compiled
from glint.runtime.unmixing.fit import Array

Ceiling = float | NDArray[np.float32] | None
"""Level at which a pixel is saturated, DN: of all pixels, of each ``[H, W]``, or not known."""
_CLIPPED_PATCHES = 4  # that end at one highest value, at least
_PILE_UP = 2.0  # times as many patches end at the highest value as just below it
_BELOW_SHARE = 0.03  # of the highest value: how far below is just below
_FLAT_SHARE = 0.1  # of patches that all end there: these have more than one pixel there, if it is no scale of theirs
_DIFFERENCE_NOISE = 6.0  # standard deviation of the second differences of a white noise of 1


def noise_of_windows(windows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Standard deviation of the noise in windows ``[B, w, w]``, by the pixels themselves, DN, ``[B]``."""
    return _noise_of(np.ascontiguousarray(windows, dtype=np.float64))


@compiled
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
        result[b] = 1.4826 * np.median(left) / _DIFFERENCE_NOISE
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
    just_below = int(((peak >= (1 - _BELOW_SHARE) * top) & ~at_top).sum())
    if number <= _PILE_UP * just_below:
        return None
    pixels = (patches[at_top] == patches.max()).sum(axis=(1, 2))
    flat = int(((pixels > 1) & (pixels < patches[0].size)).sum())
    return None if number == len(patches) and flat < max(_FLAT_SHARE * number, 1) else top
