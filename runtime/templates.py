"""Second starts for the refinement: the rendered arrangements of targets that look most like a patch.

A bank holds random arrangements of K equally bright targets inside one pixel, anywhere about the
middle of a small window. The nearest ones by correlation start a fit where the network's start
ended in a poor minimum.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from glint.crop import recentre
from glint.optics import Psf
from glint.patches import draw_offsets

Array = NDArray[np.float32]

TEMPLATE_SIZE = 7  # px; a cluster within one pixel leaves nothing beyond
_NUMBER = {1: 200, 2: 800, 3: 1500, 4: 4000, 5: 6000}
_SEPARATION = 0.48  # px; a little less than the least separation that the benchmark has


@lru_cache(maxsize=16)
def _bank(sigma: float, count: int) -> tuple[Array, Array, Array]:
    """Positions ``[T, K, 2]`` about the middle, images of unit norm ``[T, w^2]``, and their norms ``[T]``."""
    rng = np.random.default_rng(count)
    number = _NUMBER[count]
    offsets = draw_offsets(np.full(number, count), _SEPARATION, rng)[:, :count]
    positions = offsets - offsets.mean(axis=1, keepdims=True) + rng.uniform(-0.6, 0.6, (number, 1, 2))
    middle = (TEMPLATE_SIZE - 1) / 2
    shape = (TEMPLATE_SIZE, TEMPLATE_SIZE)
    images = Psf(sigma).render(positions[..., 0] + middle, positions[..., 1] + middle, 1.0, shape).reshape(number, -1)
    norms = np.linalg.norm(images, axis=1)
    return tuple(v.astype(np.float32) for v in (positions, images / norms[:, None], norms))


def prepare_arrangements(psf: Psf) -> None:
    """Render all of them, which takes a part of a second, before the first patch that needs them."""
    for count in _NUMBER:
        _bank(psf.sigma, count)


def nearest_arrangements(patches: Array, psf: Psf, count: int, number: int) -> tuple[Array, Array, Array]:
    """The arrangements of ``count`` targets that correlate best with each patch.

    Args:
        patches: ``float32 [N, n, n]``, DN, with n >= 7.
        psf: the optics.
        count: targets, 1 to 5.
        number: arrangements per patch, S.

    Returns:
        x, y and radiance, each ``[N, S, count]``, patch pixels and DN.
    """
    positions, images, norms = _bank(psf.sigma, count)
    windows, left, top = recentre(patches, TEMPLATE_SIZE)
    flat = windows.reshape(len(patches), -1).astype(np.float32)
    correlation = flat @ images.T  # [N, T]
    best = np.argpartition(-correlation, number - 1, axis=1)[:, :number]
    scale = np.maximum(np.take_along_axis(correlation, best, axis=1) / norms[best], 1e-6)
    middle = (TEMPLATE_SIZE - 1) / 2
    x = positions[best, :, 0] + np.float32(middle) + left[:, None, None].astype(np.float32)
    y = positions[best, :, 1] + np.float32(middle) + top[:, None, None].astype(np.float32)
    return x, y, np.broadcast_to(scale[..., None], x.shape)
