"""The background under a spot, seen in earlier frames of the scene, before the spot came there.

Every fourth frame is kept for some 40. Where a spot stands now, those frames are looked at in which nothing stood
there, up to the first in which something did: what comes later may be the spot itself. Each is resampled at its
sub-pixel shift (Lanczos), its brightness is matched to that of now in the ring around the spot, and they are averaged,
those that match best with the most weight.

It must explain the ring better than a plane does, and leave the spot most of its light: else the registration is
wrong, the background moves, or the spot stood there unseen, and nothing is said.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from glint.processing.crop import crop_windows
from glint.runtime.tracking.registration import Shift
from glint.types import Blobs

WINDOW_PX = 23  # px per side of what is looked at around a spot
_EVERY_FRAMES, _KEPT_FRAMES = 4, 10  # frames of which one is kept; so many are kept
_FEWEST_FRAMES = 2  # frames that must show a place without the spot
_LIT_PX, _OWN_PX = 2, 1  # px around a spot that its light may reach, and that must have been free of others
_TAPS, _REACH_PX = 6, 3  # of the resampling, and to either side, px
_LARGEST_TURN_RAD = 0.01  # rad between two frames, beyond which a window is not a shifted one
_NEAR_PX = 5.0  # px, standard deviation of the weight of the ring
_GAINS = (0.5, 2.0)  # lowest and highest gain between two frames
STRUCTURE_RATIO = 1.3  # of the ring about a plane over noise, below which there is nothing to take off
LEAST_RING_SHARE = 0.2  # of the ring that no spot lights
_BETTER_RATIO = 0.85  # what the background leaves of the ring over what a plane does, at most
_LEFT_LIGHT_SHARE = 0.5  # of the spot's light over a plane that must be left
_RAMP = np.arange(WINDOW_PX) - WINDOW_PX // 2
NEAR = np.exp(-0.5 * (_RAMP**2 + _RAMP[:, None] ** 2) / _NEAR_PX**2)
_TERMS = np.stack([np.ones_like(NEAR), np.broadcast_to(_RAMP, NEAR.shape), np.broadcast_to(_RAMP[:, None], NEAR.shape)])

Array = NDArray[np.float64]
Boxes = NDArray[np.int64]


class Behind(NamedTuple):
    """What lies behind some spots of a frame.

    Attributes:
        rows: of the spots, ``[K]``.
        left, top: column and row of the frame at which their windows start, ``[K]``.
        detail: what is to be taken off there, DN, ``[K, 23, 23]``: the background less a plane.
        noise: the sensor's own, DN ``[K]``, where it is seen no more when that is done; 0 where it is.
        error: how far the detail may be off at a pixel of the spot, DN rms, ``[K]``; 0 where the window shows it.
    """

    rows: NDArray[np.int64]
    left: NDArray[np.int64]
    top: NDArray[np.int64]
    detail: Array
    noise: Array
    error: Array


@dataclass(frozen=True, eq=False)
class _Past:
    """A frame that is kept: its pixels, where the scene lay in it, and where spots stood."""

    data: NDArray[Any]
    shift: Shift
    lit: NDArray[np.bool_]


class History:
    """The last frames of one scene."""

    def __init__(self) -> None:
        self._past: deque[_Past] = deque(maxlen=_KEPT_FRAMES)
        self._since = 0

    def add(self, data: NDArray[Any], shift: Shift, blobs: Blobs, others: Blobs | None) -> None:
        """Take a frame, in order: ``[H, W]``, its spots, and those too uncertain to be any. Most are not kept."""
        if not shift.known or (self._past and self._past[-1].data.shape != data.shape):
            self._past.clear()
            self._since = 0
        self._since += 1
        if shift.blind or (self._since - 1) % _EVERY_FRAMES:
            return
        lit = np.zeros(data.shape, dtype=bool)
        for one in (blobs, others):
            for left, top, right, bottom in [] if one is None else boxes_of(one).tolist():
                lit[max(top, 0) : bottom, max(left, 0) : right] = True
        self._past.append(_Past(data.copy(), shift, lit))

    def behind(self, data: NDArray[Any], shift: Shift, blobs: Blobs, noise: Array) -> Behind | None:
        """What lies behind the spots of the next frame; None: nothing is known of any.

        Args:
            data: ``[H, W]``.
            shift: where the scene lies in it.
            blobs: its spots.
            noise: of a pixel at each, DN ``[B]``.
        """
        if not shift.known or shift.blind or len(self._past) < _FEWEST_FRAMES or not len(blobs):
            return None
        half = WINDOW_PX // 2
        left, top = (np.round(v).astype(np.int64) - half for v in (blobs.x, blobs.y))
        lit, own = lit_windows(boxes_of(blobs), left, top, data.shape)
        inside = (left >= 0) & (top >= 0) & (left + WINDOW_PX <= data.shape[1]) & (top + WINDOW_PX <= data.shape[0])
        window = crop_windows(data, left, top, WINDOW_PX).astype(np.float64)
        ring = np.where(lit, 0.0, NEAR)
        flat, plain = less_plane(window, ring)
        wanted = inside & (plain > STRUCTURE_RATIO * noise) & (ring.sum(axis=(1, 2)) > LEAST_RING_SHARE * NEAR.sum())
        rows = np.flatnonzero(wanted)
        if not len(rows):
            return None
        background, known = self._background(window[rows], ring[rows], own[rows], left[rows], top[rows], shift)
        cleared, left_over = less_plane(window[rows] - background, ring[rows])
        light, light_over_plane = ((own[rows] * part).sum(axis=(1, 2)) for part in (cleared, flat[rows]))
        known &= (left_over < _BETTER_RATIO * plain[rows]) & (light > _LEFT_LIGHT_SHARE * np.abs(light_over_plane))
        if not known.any():
            return None
        detail, _ = less_plane(background[known], ring[rows][known])
        rows = rows[known]
        return Behind(rows, left[rows], top[rows], detail, np.zeros(len(rows)), np.zeros(len(rows)))

    def _background(
        self, window: Array, ring: Array, own: NDArray[np.bool_], left: Boxes, top: Boxes, shift: Shift
    ) -> tuple[Array, NDArray[np.bool_]]:
        """The background of windows ``[K, w, w]``, and for which of them enough frames show it."""
        number, half = len(window), WINDOW_PX // 2
        total, weights = np.zeros_like(window), np.full(window.shape, 1e-12)
        fresh, frames = np.ones(number, dtype=bool), np.zeros(number, dtype=np.int64)
        scene = shift.to_scene(left.astype(np.float64) + half, top.astype(np.float64) + half)
        for past in self._past:
            if abs(past.shift.angle - shift.angle) > _LARGEST_TURN_RAD:
                continue
            x, y = (np.asarray(axis, dtype=np.float64) for axis in past.shift.to_frame(*scene))
            column, row = (np.floor(v).astype(np.int64) - half - _REACH_PX + 1 for v in (x, y))
            size = WINDOW_PX + _TAPS - 1
            seen = (np.minimum(column, row) >= 0) & (column + size <= past.data.shape[1])
            seen &= row + size <= past.data.shape[0]
            lit = crop_windows(past.lit.view(np.uint8), column, row, size)[:, 2:-3, 2:-3] > 0
            fresh &= ~(seen & (lit & own).any(axis=(1, 2)))  # from here on it may be the spot itself
            rows = np.flatnonzero(fresh & seen)
            if not len(rows):
                continue
            crops = crop_windows(past.data, column[rows], row[rows], size).astype(np.float64)
            value = _resampled(crops, (x - np.floor(x))[rows], (y - np.floor(y))[rows])
            clear = ring[rows] * ~lit[rows]
            value, rest = _matched(value, window[rows], clear)
            weight = ~lit[rows] / np.maximum(rest, 1e-6)[:, None, None] ** 2
            total[rows] += weight * value
            weights[rows] += weight
            frames[rows] += 1
        empty = weights < 1e-9  # somebody stood there in each frame: what is there now is its background
        background = np.where(empty, window, total / weights)
        return background, (frames >= _FEWEST_FRAMES) & ~(empty & own).any(axis=(1, 2))


def boxes_of(blobs: Blobs, lit: int | Boxes = _LIT_PX) -> Boxes:
    """Left, top, right and bottom (behind the last) of what spots light, as far as ``lit`` px off, ``[B, 4]``."""
    if blobs.boxes is not None:
        left, top, width, height = blobs.boxes.T
    else:
        left, top = (np.round(v).astype(np.int64) for v in (blobs.x, blobs.y))
        width = height = np.ones(len(blobs), dtype=np.int64)
    return np.stack([left - lit, top - lit, left + width + lit, top + height + lit], axis=1)


def lit_windows(
    boxes: Boxes, left: Boxes, top: Boxes, shape: tuple[int, ...]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Pixels of the windows about spots that any of them lights, and that each itself does."""
    lit = np.zeros(shape, dtype=np.uint8)
    for first, upper, right, lower in boxes.tolist():
        lit[max(upper, 0) : lower, max(first, 0) : right] = 1
    index = np.arange(WINDOW_PX)
    column, row = left[:, None] + index, top[:, None] + index
    less = _LIT_PX - _OWN_PX
    across = (column >= boxes[:, :1] + less) & (column < boxes[:, 2:3] - less)
    down = (row >= boxes[:, 1:2] + less) & (row < boxes[:, 3:] - less)
    return crop_windows(lit, left, top, WINDOW_PX) > 0, down[:, :, None] & across[:, None, :]


def less_plane(window: Array, weight: Array) -> tuple[Array, Array]:
    """Windows less the plane through their weighted pixels, and the rms that it leaves of those, DN."""
    matrix = np.einsum("irc,jrc,krc->kij", _TERMS, _TERMS, weight) + 1e-9 * np.eye(3)
    right = np.einsum("irc,krc->ki", _TERMS, weight * window)
    rest = window - np.einsum("ki,irc->krc", np.linalg.solve(matrix, right[..., None])[..., 0], _TERMS)
    return rest, np.sqrt((weight * rest**2).sum(axis=(1, 2)) / np.maximum(weight.sum(axis=(1, 2)), 1e-9))


def _matched(value: Array, window: Array, weight: Array) -> tuple[Array, Array]:
    """Values with the gain and level with which they are most like windows, and the rms of what is left, DN."""
    whole = np.maximum(weight.sum(axis=(1, 2)), 1e-9)[:, None, None]
    mean, other = ((weight * part).sum(axis=(1, 2), keepdims=True) / whole for part in (value, window))
    off, wanted = value - mean, window - other
    gain = (weight * off * wanted).sum(axis=(1, 2)) / np.maximum((weight * off**2).sum(axis=(1, 2)), 1e-9)
    alike = np.clip(gain, *_GAINS)[:, None, None] * off
    rest = np.sqrt((weight * (wanted - alike) ** 2).sum(axis=(1, 2)) / whole[:, 0, 0])
    return alike + other, rest


def _resampled(crops: Array, right: Array, down: Array) -> Array:
    """Windows between the pixels of crops, by a fraction of a pixel to the right and down each."""
    taps = np.arange(_TAPS) - (_REACH_PX - 1)
    across, along = (_lanczos(taps - part[:, None]) for part in (right, down))
    wide = np.zeros((len(crops), crops.shape[1], WINDOW_PX))
    for k in range(_TAPS):
        wide += across[:, k, None, None] * crops[:, :, k : k + WINDOW_PX]
    window = np.zeros((len(crops), WINDOW_PX, WINDOW_PX))
    for k in range(_TAPS):
        window += along[:, k, None, None] * wide[:, k : k + WINDOW_PX]
    return window


def _lanczos(distance: Array) -> Array:
    weight = np.sinc(distance) * np.sinc(distance / _REACH_PX)
    return np.asarray(weight / weight.sum(axis=1, keepdims=True))
