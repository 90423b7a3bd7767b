"""The mask of a target of which the box is known: what is bright inside of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_RING_PX = 6  # around a box that say how bright its background is


def half_peak_mask(image: NDArray[Any], box: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """Pixels of a box with at least half of its peak's contrast, connected to the peak, ``bool [H, W]``.

    Contrast is what is above the median of the pixels around the box; without any it is empty.
    """
    x, y, width, height = box
    inside = np.zeros(image.shape, dtype=bool)
    inside[y : y + height, x : x + width] = True
    ring = np.zeros(image.shape, dtype=bool)
    ring[max(0, y - _RING_PX) : y + height + _RING_PX, max(0, x - _RING_PX) : x + width + _RING_PX] = True
    around = image[ring & ~inside]
    level = float(np.median(around)) if around.size else float(image[inside].min())
    contrast = np.where(inside, image.astype(np.float64) - level, 0.0)
    peak = np.unravel_index(int(contrast.argmax()), contrast.shape)
    if contrast[peak] <= 0:
        return np.zeros(image.shape, dtype=bool)
    spots = ndimage.label(contrast >= contrast[peak] / 2, np.ones((3, 3)))[0]
    mask: NDArray[np.bool_] = spots == spots[peak]
    return mask
