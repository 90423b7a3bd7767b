"""Second starts for the refinement: the rendered arrangements of targets that look most like a patch.

A bank holds random arrangements of K equally bright targets inside one pixel, anywhere about the
middle of a small window. The nearest ones by correlation start a fit where the network's start
ended in a poor minimum.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glint.compiled import compiled
from glint.optics import Psf
from glint.processing.crop import window_on_spot
from glint.simulation.patches import draw_offsets

Array = NDArray[np.float64]

TEMPLATE_SIZE_PX = 7  # px; a cluster within one pixel leaves nothing beyond
_ARRANGEMENTS_BY_COUNT = {1: 200, 2: 800, 3: 1500, 4: 4000, 5: 6000}
_LEAST_SEPARATION_PX = 0.48  # px; a little less than the least separation that the benchmark has


class Bank(NamedTuple):
    """Arrangements of T sets of targets, those of K targets in the rows from ``first[K]`` to ``first[K + 1]``.

    Attributes:
        first: ``[7]``.
        positions: about the middle, px, ``[T, 5, 2]``; those of unused slots are 0.
        images: rendered, of unit norm, ``float32 [T, w^2]``.
        norms: of the images of unit radiances ``[T]``.
    """

    first: NDArray[np.int64]
    positions: Array
    images: NDArray[np.float32]
    norms: Array


@lru_cache(maxsize=4)
def arrangements(sigma: float) -> Bank:
    """The bank for a PSF; it takes a part of a second the first time."""
    positions, images, norms = [], [], []
    for count in _ARRANGEMENTS_BY_COUNT:
        places, image, norm = _rendered(sigma, count)
        positions.append(np.pad(places, ((0, 0), (0, len(_ARRANGEMENTS_BY_COUNT) - count), (0, 0))))
        images.append(image)
        norms.append(norm)
    first = np.concatenate([[0, 0], np.cumsum(list(_ARRANGEMENTS_BY_COUNT.values()))])
    return Bank(first, np.concatenate(positions), np.concatenate(images), np.concatenate(norms))


def _rendered(sigma: float, count: int) -> tuple[Array, NDArray[np.float32], Array]:
    """Positions ``[T, K, 2]``, images and norms of the arrangements of K targets."""
    rng = np.random.default_rng(count)
    number = _ARRANGEMENTS_BY_COUNT[count]
    offsets = draw_offsets(np.full(number, count), _LEAST_SEPARATION_PX, rng)[:, :count]
    positions = offsets - offsets.mean(axis=1, keepdims=True) + rng.uniform(-0.6, 0.6, (number, 1, 2))
    middle = (TEMPLATE_SIZE_PX - 1) / 2
    shape = (TEMPLATE_SIZE_PX, TEMPLATE_SIZE_PX)
    images = Psf(sigma).render(positions[..., 0] + middle, positions[..., 1] + middle, 1.0, shape).reshape(number, -1)
    norms = np.linalg.norm(images, axis=1)
    return positions, (images / norms[:, None]).astype(np.float32), norms


@compiled
def nearest_arrangements(spot: Array, bank: Bank, count: int, number: int) -> Array:
    """The arrangements of ``count`` targets that correlate best with a patch, the best first.

    Args:
        spot: ``[n, n]``, DN above the background, with n >= 7.
        bank: of the optics.
        count: targets, 1 to 5.
        number: arrangements, S.

    Returns:
        x, y and radiance ``[S, 3, count]``, patch pixels and DN.
    """
    left, top = window_on_spot(spot, TEMPLATE_SIZE_PX)
    window = np.empty(TEMPLATE_SIZE_PX * TEMPLATE_SIZE_PX, dtype=np.float32)
    for row in range(TEMPLATE_SIZE_PX):
        for column in range(TEMPLATE_SIZE_PX):
            window[row * TEMPLATE_SIZE_PX + column] = spot[top + row, left + column]
    begin, end = bank.first[count], bank.first[count + 1]
    correlation = np.empty(end - begin, dtype=np.float32)
    for t in range(end - begin):
        total = np.float32(0.0)
        for i in range(len(window)):
            total += bank.images[begin + t, i] * window[i]
        correlation[t] = total
    places = np.empty((number, 3, count))
    middle = (TEMPLATE_SIZE_PX - 1) / 2
    for s in range(number):
        best = int(np.argmax(correlation))
        scale = max(correlation[best] / bank.norms[begin + best], 1e-6)
        for k in range(count):
            places[s, 0, k] = bank.positions[begin + best, k, 0] + middle + left
            places[s, 1, k] = bank.positions[begin + best, k, 1] + middle + top
            places[s, 2, k] = scale
        correlation[best] = -np.inf
    return places
