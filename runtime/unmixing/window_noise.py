"""Noise of small windows, and the level at which their pixels are saturated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from glint.compiled import compiled
from glint.runtime.unmixing.fit import Array

Ceiling = float | NDArray[np.float32] | None
"""Level at which a pixel is saturated, DN: of all pixels, of each ``[H, W]``, or not known."""
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
