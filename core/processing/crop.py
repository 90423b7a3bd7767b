"""Cutting patches out of frames, and re-centring a patch on its spot."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from glint.compiled import compiled, entry
from glint.errors import InputError

CENTROID_LEVEL = 0.2  # share of the peak below which pixels are noise to the centroid


def crop_windows(image: NDArray[Any], left: ArrayLike, top: ArrayLike, size: int) -> NDArray[Any]:
    """``size`` x ``size`` windows of ``[H, W]``, replicated over its edges: ``[N, size, size]``.

    Args:
        image: ``[H, W]``.
        left, top: column and row of each window's first pixel, whole numbers ``[N]``.
        size: pixels per side.
    """
    columns, rows = (np.asarray(first, dtype=np.int64) for first in (left, top))
    return _crop(image, columns, rows, size)


@entry(
    "u1[2] i8[1] i8[1] i8",
    "u2[2] i8[1] i8[1] i8",
    "i4[2] i8[1] i8[1] i8",
    "f4[2] i8[1] i8[1] i8",
    "f8[2] i8[1] i8[1] i8",
)
def _crop(image: NDArray[Any], left: NDArray[np.int64], top: NDArray[np.int64], size: int) -> NDArray[Any]:
    height, width = image.shape
    windows = np.empty((len(left), size, size), dtype=image.dtype)
    for n in range(len(left)):
        for i in range(size):
            row = min(max(top[n] + i, 0), height - 1)
            for j in range(size):
                windows[n, i, j] = image[row, min(max(left[n] + j, 0), width - 1)]
    return windows


@entry("f4[4] i8[1] i8[1] i8", "f8[4] i8[1] i8[1] i8")
def _crop_each(patches: NDArray[Any], left: NDArray[np.int64], top: NDArray[np.int64], size: int) -> NDArray[Any]:
    number, channels = patches.shape[:2]
    windows = np.empty((number, channels, size, size), dtype=patches.dtype)
    for n in range(number):
        for c in range(channels):
            for i in range(size):
                for j in range(size):
                    windows[n, c, i, j] = patches[n, c, top[n] + i, left[n] + j]
    return windows


def border_level(patches: NDArray[Any]) -> NDArray[np.float64]:
    """Median of the outermost ring of each patch: ``[N, n, n]`` -> ``[N]``, a robust local background."""
    return _border_levels(np.ascontiguousarray(patches, dtype=np.float64))


def recentre(
    patches: NDArray[np.floating], size: int
) -> tuple[NDArray[np.floating], NDArray[np.int64], NDArray[np.int64]]:
    """Crop each patch around the centroid of its spot.

    Args:
        patches: ``[N, n, n]``, DN, or ``[N, C, n, n]``, of which the first channel is.
        size: pixels per side of the crop, at most n.

    Returns:
        crops ``[N, size, size]`` or ``[N, C, size, size]``, and the column and row of their first pixel
        ``[N]``. A position in the crop plus these is a position in the patch.

    Raises:
        InputError: if the crop is larger than the patch.
    """
    n = patches.shape[-1]
    if size > n:
        raise InputError(
            f"recentre: a crop of {size} pixels does not fit into patches of {n}",
            hint="give larger patches, or a smaller crop",
        )
    if size == n:
        zero = np.zeros(len(patches), dtype=np.int64)
        return patches, zero, zero
    image = patches if patches.ndim == 3 else patches[:, 0]
    left, top = _windows_on_spots(np.ascontiguousarray(image, dtype=np.float64), size)
    if patches.ndim == 3:
        return _crop_each(patches[:, None], left, top, size)[:, 0], left, top
    return _crop_each(patches, left, top, size), left, top


@entry("f8[3] i8")
def _windows_on_spots(patches: NDArray[np.float64], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    left, top = np.empty(len(patches), dtype=np.int64), np.empty(len(patches), dtype=np.int64)
    for i in range(len(patches)):
        left[i], top[i] = window_on_spot(patches[i], size)
    return left, top


@compiled
def window_on_spot(patch: NDArray[np.float64], size: int) -> tuple[int, int]:
    """Column and row of the first pixel of the window that is centred on the spot of a patch ``[n, n]``."""
    n = patch.shape[0]
    level, highest, lowest = _border_level(patch), patch.max(), patch.min()
    floor = CENTROID_LEVEL * (highest - level)
    least = 1e-6 * max(highest - level, level - lowest) + 1e-12  # a flat patch is cut in its middle
    total, column, row = 0.0, 0.0, 0.0
    for i in range(n):
        for j in range(n):
            weight = max(patch[i, j] - level - floor, 0.0) + least
            total += weight
            column += weight * j
            row += weight * i
    half = (size - 1) / 2
    left, top = int(np.round(column / total - half)), int(np.round(row / total - half))
    return min(max(left, 0), n - size), min(max(top, 0), n - size)


@entry("f8[3]")
def _border_levels(patches: NDArray[np.float64]) -> NDArray[np.float64]:
    levels = np.empty(len(patches))
    for i in range(len(patches)):
        levels[i] = _border_level(patches[i])
    return levels


@compiled
def _border_level(patch: NDArray[np.float64]) -> float:
    n = patch.shape[0]
    ring = np.empty(4 * (n - 1))
    for i in range(n - 1):
        ring[4 * i], ring[4 * i + 1] = patch[0, i], patch[i + 1, 0]
        ring[4 * i + 2], ring[4 * i + 3] = patch[n - 1, i + 1], patch[i, n - 1]
    ring.sort()
    return 0.5 * (ring[2 * (n - 1) - 1] + ring[2 * (n - 1)])
