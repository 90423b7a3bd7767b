"""Detection without a network: maps in which small targets stand out, by their published definitions.

Every function takes an image ``[H, W]`` of any real dtype and gives ``float64 [H, W]``, high where a
small target may be.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glint.benchmarks.peers.robust_pca import robust_pca
from glint.optics import Psf

Image = NDArray[Any]
Map = NDArray[np.float64]

# Neighbours of a patch in the order of the angle: i and i + 4 are opposite.
_NEIGHBOUR_STEPS = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


def top_hat(image: Image, size: int) -> Map:
    """White top-hat: the image less its opening with a square of ``size`` pixels (Serra, 1982)."""
    return ndimage.white_tophat(image.astype(np.float64), size=(size, size), mode="nearest")


def patch_contrast(image: Image, scales: Sequence[int], *, bright: bool = False) -> Map:
    """MPCM, the multiscale patch-based contrast measure (Wei, You, Li, Pattern Recognition 58, 2016).

    The mean of a patch of s x s pixels less those of its eight neighbours of the same size gives eight
    differences; the products of opposite ones are positive where the patch stands out on both sides.
    The measure is the least of the four products, the map its largest value over the scales.

    Args:
        image: ``[H, W]``.
        scales: odd sizes s of the patches.
        bright: whether patches darker than a neighbour count as 0; by definition they do not.
    """
    values = image.astype(np.float64)
    best = np.full(values.shape, -np.inf)
    for size in scales:
        mean = ndimage.uniform_filter(values, size, mode="nearest")
        padded = np.pad(mean, size, mode="edge")
        height, width = values.shape
        differences = [
            mean - padded[size + size * dy : size + size * dy + height, size + size * dx : size + size * dx + width]
            for dy, dx in _NEIGHBOUR_STEPS
        ]
        if bright:
            differences = [np.maximum(d, 0) for d in differences]
        products = [differences[i] * differences[i + 4] for i in range(4)]
        np.maximum(best, np.minimum.reduce(products), out=best)
    return best


def point_ratio(image: Image, *, sigmas: Sequence[float] = (0.5, 0.7, 1.0), half: int = 4) -> Map:
    """Likelihood ratio of a point over a plane in noise of unknown strength (Scharf, Friedlander, 1994).

    In a window around every pixel the plane that fits best is taken away. Of what remains, the map is what a
    point's shape explains over the deviation of the rest: the t value of the point's brightness. The
    largest over widths and four places within the pixel counts.

    Args:
        image: ``[H, W]``, in DN: what rounding them adds to the noise is allowed for.
        sigmas: widths of the points, px.
        half: the window reaches so many pixels to all sides.
    """
    values, side = image.astype(np.float64), 2 * half + 1
    row, column = np.mgrid[-half : half + 1, -half : half + 1]
    plane = np.linalg.qr(np.stack([np.ones(side**2), column.ravel(), row.ravel()], axis=1))[0]

    def project(shape: NDArray[np.float64]) -> Map:
        projected: Map = ndimage.correlate(values, shape.reshape(side, side), mode="nearest")
        return projected

    total = side**2 * ndimage.uniform_filter(values**2, side, mode="nearest")
    energy = total - sum(project(shape) ** 2 for shape in plane.T)
    best = np.full(values.shape, -np.inf)
    for sigma, x, y in itertools.product(sigmas, (-0.25, 0.25), (-0.25, 0.25)):
        point = Psf(sigma).render(np.array([half + x]), np.array([half + y]), np.ones(1), (side, side)).ravel()
        point -= plane @ (plane.T @ point)
        explained = project(point / np.linalg.norm(point))
        variance = np.maximum(energy - explained**2, 0) / (side**2 - 4) + 1 / 12
        np.maximum(best, explained / np.sqrt(variance), out=best)
    return best


def patch_image(image: Image, weight: float, *, patch: int = 50, step: int = 10, most: int = 400) -> Map:
    """IPI, the infrared patch-image model (Gao et al., IEEE Trans. Image Processing 22, 2013).

    Patches of ``patch`` x ``patch`` pixels, every ``step`` pixels, are the columns of a matrix that is split
    into low rank plus sparse by robust PCA; what is sparse goes back to the image, the median where
    patches overlap.

    Args:
        image: ``[H, W]``.
        weight: of the l1 norm, in units of 1 / sqrt(larger side of the matrix).
        patch, step: pixels; a patch is at most the image.
        most: columns at most; on larger images the step grows until they are that few, or no two patches overlap.
    """
    values = image.astype(np.float64)
    values = (values - values.min()) / max(float(np.ptp(values)), 1e-9)
    sides = [min(patch, n) for n in values.shape]
    while True:
        rows, columns = (_starts(n, side, step) for n, side in zip(values.shape, sides))
        if len(rows) * len(columns) <= most or step == min(sides):
            break
        step += 1
    windows = np.lib.stride_tricks.sliding_window_view(values, sides)[np.ix_(rows, columns)]
    matrix = windows.reshape(len(rows) * len(columns), -1).T  # [pixels of a patch, patches]
    sparse = robust_pca(matrix, weight / np.sqrt(max(matrix.shape)))[1]
    return _median_of_patches(sparse.T.reshape(windows.shape), rows, columns, values.shape, step)


def _starts(length: int, side: int, step: int) -> NDArray[np.int64]:
    """First pixels of patches that cover a line, the last one flush with its end."""
    return np.unique(np.append(np.arange(0, length - side + 1, step), length - side))


def _median_of_patches(
    patches: Map, rows: NDArray[np.int64], columns: NDArray[np.int64], shape: tuple[int, ...], step: int
) -> Map:
    """Patches ``[R, C, h, w]`` back to their places, the median where they overlap: ``[H, W]``."""
    height, width = patches.shape[2:]
    # Patches that are so many apart never overlap: they share a layer.
    apart = (-(-height // step) + 1, -(-width // step) + 1)
    layers = np.full((apart[0] * apart[1], *shape), np.nan, dtype=np.float32)
    for i, top in enumerate(rows):
        for j, left in enumerate(columns):
            layer = (i % apart[0]) * apart[1] + j % apart[1]
            layers[layer, top : top + height, left : left + width] = patches[i, j]
    return np.nanmedian(layers, axis=0).astype(np.float64)
