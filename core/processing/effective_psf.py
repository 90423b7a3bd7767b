"""The effective PSF: what share of a target's light a pixel gets at each offset, sampled from isolated spots.

Every pixel of every spot is one sample at its own offset from the target, so that many spots fill in a grid that is
finer than the pixels. Grid and positions depend on each other: in turns, what the spots leave of the grid is added to
it, and the spots are fitted with the grid (Anderson & King 2000, PASP 112, 1360).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glint.errors import InputError

STEP_PX = 0.25  # of the grid
_ROUNDS = 6
_CLIP_SD = 4.0  # a sample farther from the others is none
_SMOOTH_STEPS = 0.8  # standard deviation of what smooths the change of a round
_SLOPE_PX = 0.05  # over which slopes are taken
_LONGEST_STEP_PX = 0.2
_LEAST_WEIGHT = 1e-9

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class IsolatedSpots:
    """Isolated spots.

    Attributes:
        light: windows without their background, ``[N, n, n]``, DN.
        valid: pixels that count, ``bool [N, n, n]``.
        noise: standard deviation of a pixel, DN, ``[N]``.
        x, y, radiance: of the targets, px of the window and DN, ``[N]``.
    """

    light: Array
    valid: NDArray[np.bool_]
    noise: Array
    x: Array
    y: Array
    radiance: Array

    def take(self, rows: slice) -> IsolatedSpots:
        """Some of the spots."""
        return IsolatedSpots(*(getattr(self, f.name)[rows] for f in fields(self)))


def effective_psf(spots: IsolatedSpots, start: Array) -> Array:
    """Sample the PSF.

    Args:
        spots: N of them; 10 and more tell something.
        start: a first guess, shares at offsets that are ``STEP_PX`` apart, ``[m, m]``, m odd; the middle is offset 0.

    Returns:
        The same of the spots.

    Raises:
        InputError: without any spot, or for a guess of another shape.
    """
    if not len(spots.x) or start.ndim != 2 or start.shape[0] != start.shape[1] or not start.shape[0] % 2:
        raise InputError(f"effective_psf: expected spots and a square guess of odd size, got {list(start.shape)}")
    grid, x, y, radiance = start.copy(), spots.x.copy(), spots.y.copy(), spots.radiance.copy()
    level = np.zeros(len(x))
    for _ in range(_ROUNDS):
        grid = _added(grid, spots, x, y, radiance, level)
        grid *= start.sum() / grid.sum()
        x, y, radiance, level = _fitted(grid, spots, x, y, radiance, level)
        x, y = x - np.mean(x - spots.x), y - np.mean(y - spots.y)  # the grid keeps its middle
    return grid


def unexplained(spots: IsolatedSpots, grid: Array) -> float:
    """What a sampled PSF leaves of spots, each at its best place, radiance and level: squares over the noise, summed.

    Args:
        spots: N of them.
        grid: as ``effective_psf`` gives it.
    """
    x, y, radiance, level = spots.x, spots.y, spots.radiance, np.zeros(len(spots.x))
    for _ in range(_ROUNDS):
        x, y, radiance, level = _fitted(grid, spots, x, y, radiance, level)
    dx, dy = _offsets(spots, x, y)
    rest = spots.light - level[:, None, None] - radiance[:, None, None] * _at(grid, dx, dy)
    return float(((rest * spots.valid / spots.noise[:, None, None]) ** 2).sum())


def _at(grid: Array, dx: Array, dy: Array) -> Array:
    middle = len(grid) // 2
    return ndimage.map_coordinates(grid, [dy / STEP_PX + middle, dx / STEP_PX + middle], order=3, mode="constant")


def _offsets(spots: IsolatedSpots, x: Array, y: Array) -> tuple[Array, Array]:
    steps = np.arange(spots.light.shape[1])
    dx, dy = steps - x[:, None, None], steps[:, None] - y[:, None, None]
    return np.broadcast_to(dx, spots.light.shape), np.broadcast_to(dy, spots.light.shape)


def _added(grid: Array, spots: IsolatedSpots, x: Array, y: Array, radiance: Array, level: Array) -> Array:
    """The grid and what the spots leave of it, smoothed."""
    dx, dy = _offsets(spots, x, y)
    over = radiance[:, None, None]
    rest = (spots.light - level[:, None, None]) / over - _at(grid, dx, dy)
    weight = np.broadcast_to((over / spots.noise[:, None, None]) ** 2, rest.shape)
    middle = len(grid) // 2
    row, column = (np.round(v / STEP_PX).astype(np.int64) + middle for v in (dy, dx))
    inside = spots.valid & (row >= 0) & (row < len(grid)) & (column >= 0) & (column < len(grid))
    place, rest, weight = (row * len(grid) + column)[inside], rest[inside], weight[inside]
    for _ in range(2):
        total = np.bincount(place, weight, minlength=grid.size)
        mean = np.bincount(place, weight * rest, minlength=grid.size) / np.maximum(total, _LEAST_WEIGHT)
        near = np.abs(rest - mean[place]) * np.sqrt(weight) < _CLIP_SD * _spread(rest - mean[place], weight)
        place, rest, weight = place[near], rest[near], weight[near]
    total = np.bincount(place, weight, minlength=grid.size).reshape(grid.shape)
    change = np.bincount(place, weight * rest, minlength=grid.size).reshape(grid.shape)
    total, change = (ndimage.gaussian_filter(v, _SMOOTH_STEPS, mode="constant") for v in (total, change))
    return grid + change / np.maximum(total, _LEAST_WEIGHT)


def _spread(rest: Array, weight: Array) -> float:
    """Of residuals over their noise: 1 where noise is all there is."""
    return max(1.4826 * float(np.median(np.abs(rest) * np.sqrt(weight))), 1.0)


def _fitted(
    grid: Array, spots: IsolatedSpots, x: Array, y: Array, radiance: Array, level: Array
) -> tuple[Array, Array, Array, Array]:
    """One step of Gauss and Newton of each spot: its place, radiance and level."""
    dx, dy = _offsets(spots, x, y)
    share = _at(grid, dx, dy)
    over = radiance[:, None, None]
    slope_x = (_at(grid, dx - _SLOPE_PX, dy) - _at(grid, dx + _SLOPE_PX, dy)) * over / (2 * _SLOPE_PX)
    slope_y = (_at(grid, dx, dy - _SLOPE_PX) - _at(grid, dx, dy + _SLOPE_PX)) * over / (2 * _SLOPE_PX)
    columns = np.stack([slope_x, slope_y, share, np.ones_like(share)], axis=-1) * spots.valid[..., None]
    rest = (spots.light - level[:, None, None] - over * share) * spots.valid
    normal = np.einsum("nijp,nijq->npq", columns, columns) + _LEAST_WEIGHT * np.eye(4)
    step = np.linalg.solve(normal, np.einsum("nijp,nij->np", columns, rest)[..., None])[..., 0]
    move = np.clip(step[:, :2], -_LONGEST_STEP_PX, _LONGEST_STEP_PX)
    return x + move[:, 0], y + move[:, 1], np.maximum(radiance + step[:, 2], 0.1 * radiance), level + step[:, 3]
