"""Which samples a calibration set takes: an even share of everything that occurs in a pool.

Every sample of the pool has a few figures (its count of targets, its noise ...). Each figure is cut
into low, middle and high at the pool's terciles; a combination that occurs is a *cell*. The set takes
one sample of each cell in turn, in the order of the pool, until it is full: rare combinations are
taken first and whole, common ones share the rest evenly. Nothing is drawn at random.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glint.processing.crop import border_level
from glint.simulation.patches import Patches

_SD_PER_MAD = 1.4826  # standard deviation over median absolute deviation of normal noise


def choose(figures: NDArray[np.float64], number: int) -> NDArray[np.int64]:
    """Indices of ``number`` rows of the pool (all of a smaller one), ascending.

    Args:
        figures: ``[N, F]``, finite.
        number: how many to take.
    """
    cell = cells(figures)
    turn = np.zeros(len(cell), dtype=np.int64)  # how many of its cell come before a sample
    for one in np.unique(cell):
        rows = np.flatnonzero(cell == one)
        turn[rows] = np.arange(len(rows))
    order = np.lexsort((np.arange(len(cell)), cell, turn))
    return np.sort(order[:number])


def cells(figures: NDArray[np.float64]) -> NDArray[np.int64]:
    """The cell of every row: low, middle or high in each figure, as one whole number ``[N]``."""
    low, high = np.quantile(figures, [1 / 3, 2 / 3], axis=0)
    # With two distinct values or one, a level or two stay empty.
    level = (figures > low).astype(np.int64) + (figures > high)
    result: NDArray[np.int64] = level @ 3 ** np.arange(figures.shape[1])
    return result


def patch_figures(patches: Patches) -> NDArray[np.float64]:
    """Count, mean radiance, noise, background and whether a pixel is saturated: ``[N, 5]``."""
    image = patches.image.astype(np.float64)
    level = border_level(image)
    ring = np.ones(image.shape[1:], dtype=bool)
    ring[1:-1, 1:-1] = False
    noise = _SD_PER_MAD * np.median(np.abs(image[:, ring] - level[:, None]), axis=1)
    radiance = patches.radiance.sum(axis=1) / np.maximum(patches.count, 1)
    saturated = (image >= patches.full_scale[:, None, None]).any(axis=(1, 2))
    return np.column_stack([patches.count, radiance, noise, level, saturated])


def frame_figures(image: NDArray[np.generic]) -> NDArray[np.float64]:
    """Noise and peaks over the spread of the frame, its structure, and its share of full pixels: ``[5]``.

    All of them are free of the camera's gain and offset. Noise is what differs between neighbours; a
    peak is what stands out from its 7 x 7 surroundings.
    """
    data = image.astype(np.float64)
    spread = max(float(data.std()), 1e-9)
    noise = _SD_PER_MAD * float(np.median(np.abs(np.diff(data, axis=1)))) / np.sqrt(2)
    excess = data - ndimage.median_filter(data, size=7, mode="nearest")
    many = float((excess > 5 * max(noise, 0.02 * spread)).mean())
    coarse = float(ndimage.uniform_filter(data, size=32, mode="nearest").std())
    full = float((data >= data.max()).mean())
    return np.array([noise / spread, float(excess.max()) / spread, many, coarse / spread, full])
