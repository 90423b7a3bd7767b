"""Targets that are rendered into training crops: dim points and large objects, over a background known exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glint.metrics.targets import clutter
from glint.optics import Psf
from glint.processing.inpaint import reach_of
from glint.training.tasks.camera_faults import Crop

_HALF_WINDOW_PX = 8  # px to all sides of a point that are rendered
_EDGE_SHARE = 0.28  # of the peak; where the mask of a rendered target ends


def paste_points(
    crop: Crop, rng: np.random.Generator, *, most: int, scr: tuple[float, float], sigma: tuple[float, float]
) -> Crop:
    """Add one to ``most`` dim points, each with its peak at ``scr`` times the deviation of the 21 x 21 pixels around.

    Args:
        crop: what they are added to; the mask is known around them.
        rng: of places, strengths and widths.
        most: points.
        scr: least and largest signal-to-clutter ratio, drawn log-uniformly.
        sigma: of the PSF, pixels.
    """
    size = len(crop.frame)
    frame, mask = crop.frame.copy(), np.zeros_like(crop.mask)
    taken = reach_of(crop.mask) | crop.box
    for _ in range(rng.integers(1, most + 1)):
        centre = rng.uniform(_HALF_WINDOW_PX, size - 1 - _HALF_WINDOW_PX, 2)
        column, row = np.round(centre).astype(int)
        if taken[row - 4 : row + 5, column - 4 : column + 5].any():
            continue
        left, top = column - _HALF_WINDOW_PX, row - _HALF_WINDOW_PX
        side = 2 * _HALF_WINDOW_PX + 1
        spot = Psf(rng.uniform(*sigma)).render(
            np.array([centre[0] - left]), np.array([centre[1] - top]), np.ones(1), (side, side)
        )
        around = clutter(crop.frame, *np.s_[row : row + 1, column : column + 1])
        spot *= np.exp(rng.uniform(*np.log(scr))) * around / spot.max()
        window = (slice(top, top + side), slice(left, left + side))
        frame[window] += spot.astype(np.float32)
        mask[window] |= spot >= _EDGE_SHARE * spot.max()
        taken[window] = True
    return crop._replace(frame=frame, mask=crop.mask | mask, known=crop.known | reach_of(mask))


def paste_object(
    crop: Crop, rng: np.random.Generator, *, radius: tuple[float, float], contrast: tuple[float, float]
) -> Crop:
    """Add one large object: a few overlapping ellipses, brighter than what is around it, with soft edges.

    Args:
        crop: what it is added to; left as it is where it would cover a target.
        rng: of shape, place and strength.
        radius: least and largest half-axis of an ellipse, pixels, drawn log-uniformly.
        contrast: least and largest brightness over the deviation around, drawn log-uniformly.
    """
    size = len(crop.frame)
    row, column = rng.uniform(0.1 * size, 0.9 * size, 2)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    light = np.zeros((size, size), dtype=np.float32)
    heading = rng.uniform(0, np.pi)
    for k in range(rng.integers(1, 4)):
        low, high = np.log(radius)
        a, b = np.exp(rng.uniform(low, high, 2))
        turn = heading + k * rng.uniform(0.3, 1.6)
        dx, dy = x - column - rng.normal(0, a / 2), y - row - rng.normal(0, b / 2)
        along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
        light = np.maximum(light, rng.uniform(0.6, 1.0) * ((along / a) ** 2 + (across / b) ** 2 < 1))
    light = ndimage.gaussian_filter(light, rng.uniform(0.5, 1.2))
    mask: NDArray[np.bool_] = light > 0.4 * light.max(initial=0)
    if not mask.any() or ((crop.mask | crop.box) & reach_of(mask)).any():
        return crop
    around = clutter(crop.frame, *np.s_[int(row) : int(row) + 1, int(column) : int(column) + 1])
    strength = np.exp(rng.uniform(*np.log(contrast))) * around
    frame = crop.frame + (light * (strength / light.max())).astype(np.float32)
    return crop._replace(frame=frame, mask=crop.mask | mask, known=crop.known | reach_of(mask))
