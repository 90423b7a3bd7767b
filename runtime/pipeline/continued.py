"""The background under a spot, continued from the pixels around it.

A plane leaves clouds, twigs and roofs under a spot, and a fit takes them for members of a cluster. A membrane that is
stretched over the pixels nearby leaves about half of that: it is the most likely background if neighbouring pixels
differ by independent steps of one size (an intrinsic random field of the first order; Cressie, "Statistics for Spatial
Data", 5.4). The size of the steps is that of the window's own pixels, the sensor's noise taken off; it also tells how
far off the membrane may be.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from glint.compiled import compiled, entry
from glint.processing.crop import crop_windows
from glint.runtime.tracking.history import (
    LEAST_RING_SHARE,
    NEAR,
    STRUCTURE_RATIO,
    WINDOW_PX,
    Behind,
    boxes_of,
    less_plane,
    lit_windows,
)
from glint.runtime.unmixing.shapes import measure_shapes
from glint.runtime.unmixing.windows import cut_windows
from glint.types import Blobs, Frame

_LIGHT_SIGMAS, _HALO_SIGMAS = 3.0, 1.8  # of the light of a spot about its middle, and of points about its mask
_HALO_PX = 2, 8  # of any, at least and at most
_SWEEPS, _RELAXATION = 40, 1.6  # of the membrane
_LEAST_STEP_SHARE = 0.1  # of the noise: a step between two pixels, at least
_ERROR = 0.43  # of what counts as noise, over the hole's width, the steps and the width of a point in pixels
_PIXEL_PX = 0.29  # standard deviation of what a pixel adds to a point's width

Array = NDArray[np.float64]


def continued(frame: Frame, blobs: Blobs, noise: Array, sigma: float | None, known: NDArray[np.int64]) -> Behind | None:
    """What lies behind the spots of a frame as far as their surroundings tell; None: nothing but planes.

    Args:
        frame: ``[H, W]``.
        blobs: its spots.
        noise: the sensor's own at each, DN ``[B]``.
        sigma: of the PSF, px; None: unknown.
        known: rows of spots of which more is known.
    """
    left, top = (np.round(v).astype(np.int64) - WINDOW_PX // 2 for v in (blobs.x, blobs.y))
    width, halo = _light_of(frame, blobs, noise, sigma)
    lit, own = lit_windows(boxes_of(blobs, halo), left, top, frame.shape)
    inside = (np.minimum(left, top) >= 0) & (left + WINDOW_PX <= frame.shape[1]) & (top + WINDOW_PX <= frame.shape[0])
    ring = np.where(lit, 0.0, NEAR)
    flat, plain = less_plane(crop_windows(frame.data, left, top, WINDOW_PX).astype(np.float64), ring)
    wanted = inside & (plain > STRUCTURE_RATIO * noise) & (ring.sum(axis=(1, 2)) > LEAST_RING_SHARE * NEAR.sum())
    wanted[known] = False
    rows = np.flatnonzero(wanted)
    if not len(rows):
        return None
    parts = (np.ascontiguousarray(part[rows]) for part in (flat, lit, ring, noise))  # one layout: one signature
    detail, step = _membranes(*parts)
    hole = np.sqrt(own[rows].sum(axis=(1, 2)))
    error = _ERROR * hole * step * np.hypot(width[rows], _PIXEL_PX)
    return Behind(rows, left[rows], top[rows], detail, noise[rows], error)


def _light_of(frame: Frame, blobs: Blobs, noise: Array, sigma: float | None) -> tuple[Array, NDArray[np.int64]]:
    """Width of the points in each spot, and how far beyond its mask its light reaches, px ``[B]`` each."""
    if sigma is not None:
        width, halo = np.full(len(blobs), sigma), np.full(len(blobs), _HALO_SIGMAS * sigma)
    else:
        shapes = measure_shapes(cut_windows(frame, blobs, noise, noise))
        width, longer = shapes.sigma, np.exp(np.abs(shapes.theta[:, -2]))
        halo = _LIGHT_SIGMAS * width * longer - np.sqrt(blobs.area / math.pi)
    return width, np.clip(np.ceil(np.nan_to_num(halo, nan=_HALO_PX[1])), *_HALO_PX).astype(np.int64)


@entry("f8[3] b1[3] f8[3] f8[1]")
def _membranes(flat: Array, lit: NDArray[np.bool_], weight: Array, noise: Array) -> tuple[Array, Array]:
    """Backgrounds of windows ``[K, w, w]``, DN, and the steps between their pixels, DN ``[K]``.

    Args:
        flat: windows less a plane.
        lit: pixels that a spot's light reaches.
        weight: of the others.
        noise: of a pixel, DN ``[K]``.
    """
    background, steps = np.empty_like(flat), np.empty(len(flat))
    for k in range(len(flat)):
        steps[k] = _step(flat[k], weight[k], noise[k])
        trust = (steps[k] / noise[k]) ** 2
        background[k] = np.where(lit[k], 0.0, flat[k])
        for _ in range(_SWEEPS):
            _relax(background[k], flat[k], lit[k], trust)
    return background, steps


@compiled
def _step(flat: Array, weight: Array, noise: float) -> float:
    """Standard deviation of the difference between two neighbouring pixels, the noise taken off."""
    size, total, whole = len(flat), 0.0, 1e-12
    for i in range(size):
        for j in range(size - 1):
            across = math.sqrt(weight[i, j] * weight[i, j + 1])
            down = math.sqrt(weight[j, i] * weight[j + 1, i])
            total += across * (flat[i, j] - flat[i, j + 1]) ** 2 + down * (flat[j, i] - flat[j + 1, i]) ** 2
            whole += across + down
    return math.sqrt(max(total / whole - 2 * noise**2, (_LEAST_STEP_SHARE * noise) ** 2))


@compiled
def _relax(value: Array, flat: Array, lit: NDArray[np.bool_], trust: float) -> None:
    """One sweep of successive over-relaxation; ``trust`` is what a pixel's own value weighs, a neighbour's being 1."""
    size = len(value)
    for i in range(size):
        for j in range(size):
            total, pulls = 0.0, 0.0
            if not lit[i, j]:
                total, pulls = trust * flat[i, j], trust
            if i > 0:
                total, pulls = total + value[i - 1, j], pulls + 1
            if i < size - 1:
                total, pulls = total + value[i + 1, j], pulls + 1
            if j > 0:
                total, pulls = total + value[i, j - 1], pulls + 1
            if j < size - 1:
                total, pulls = total + value[i, j + 1], pulls + 1
            value[i, j] += _RELAXATION * (total / pulls - value[i, j])
