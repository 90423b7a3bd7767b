"""Patches around the blobs of a frame, and the noise there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glint.compiled import compiled, entry
from glint.processing.crop import crop_windows
from glint.runtime.pipeline.detector import Detection
from glint.runtime.unmixing.fit import BoolArray
from glint.runtime.unmixing.normal_equations import Array, plane_through
from glint.runtime.unmixing.windows import Ceiling, noise_of_windows
from glint.types import Frame

_WINDOW_PX = 21  # around a blob in which its background and the sensor's noise are estimated
_RAMP = np.arange(_WINDOW_PX) - (_WINDOW_PX - 1) / 2
_PLANE_SD_PX = 5.0
# Weight of the surroundings that continue the background under a blob.
_NEAR = np.exp(-0.5 * (_RAMP**2 + _RAMP[:, None] ** 2) / _PLANE_SD_PX**2)
_HALO_PX = 2  # around a blob's mask that its light still reaches


@dataclass(frozen=True, eq=False)
class SpotPatches:
    """Patches around the blobs of a frame.

    Attributes:
        patches: ``float32 [B, n, n]``, DN above the background.
        valid: ``bool [B, n, n]``, the pixels that a blob's own light reaches.
        left, top: column and row of the frame at which each patch starts, ``[B]``.
        structure: what the plane leaves of the background around each blob (clouds and noise), DN,
            rms, ``[B]``.
        full_scale: level of the patch at which a pixel is saturated, ``float32 [B, n, n]``, DN;
            infinity where that is unknown.
    """

    patches: NDArray[np.float32]
    valid: NDArray[np.bool_]
    left: NDArray[np.int64]
    top: NDArray[np.int64]
    structure: NDArray[np.float64]
    full_scale: NDArray[np.float32]


def cut_spots(frame: Frame, detection: Detection, size: int, ceiling: Ceiling = None) -> SpotPatches:
    """Patches of the frame around each blob, minus the background, without other blobs' pixels.

    Off the blobs the background is LSNet's. On and near a blob LSNet's own estimate still carries
    some of the target, so there it is continued from its surroundings: the plane that fits best
    nearby.

    Args:
        frame: ``[H, W]``.
        detection: of the frame.
        size: pixels per side of a patch.
        ceiling: level at which a pixel of the frame is saturated, DN, one number or ``[H, W]``; None if unknown.
    """
    blobs = detection.blobs
    left, top = (np.round(v).astype(np.int64) - size // 2 for v in (blobs.x, blobs.y))
    if blobs.label_map is None or not len(blobs):
        patches = crop_windows(detection.residual, left, top, size).astype(np.float32)
        raw = crop_windows(frame.data, left, top, size).astype(np.float32)
        limit = _full_scale(ceiling, patches, raw, left, top)
        return SpotPatches(patches, np.ones(patches.shape, dtype=bool), left, top, np.zeros(len(patches)), limit)
    margin = (_WINDOW_PX - size) // 2
    around = (left - margin, top - margin, _WINDOW_PX)
    data, label = crop_windows(frame.data, *around).astype(np.float64), crop_windows(blobs.label_map, *around)
    above = detection.residual_windows(*around).astype(np.float64)
    patches, valid, structure = _cut_all(data, above, label, size)
    (height, width), steps = frame.shape, np.arange(size)
    rows, columns = top[:, None] + steps, left[:, None] + steps
    valid &= ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    raw = data[:, margin : margin + size, margin : margin + size].astype(np.float32)
    return SpotPatches(patches, valid, left, top, structure, _full_scale(ceiling, patches, raw, left, top))


@entry("f8[3] f8[3] i4[3] i8")
def _cut_all(
    data: Array, above: Array, label: NDArray[np.int32], size: int
) -> tuple[NDArray[np.float32], BoolArray, Array]:
    """Patches, pixels that a blob's own light reaches, and structure of windows ``[B, w, w]`` about all blobs in order.

    Args:
        data, above: frame, and what LSNet has above its background, DN.
        label: of the blobs, 0 where there is none.
        size: pixels per side of a patch, in the middle of the window.
    """
    number = len(data)
    patches, structure = np.empty((number, size, size), dtype=np.float32), np.empty(number)
    valid = np.empty((number, size, size), dtype=np.bool_)
    margin = (data.shape[1] - size) // 2
    for b in range(number):
        own, reach = _reaches(label[b], b + 1)
        plane, structure[b] = _plane_around(data[b], above[b], reach)
        for row in range(size):
            for column in range(size):
                i, j = margin + row, margin + column
                foreign = label[b, i, j] != 0 and label[b, i, j] != b + 1
                excess = data[b, i, j] - _level(plane, i, j, data.shape[1]) if reach[i, j] else above[b, i, j]
                patches[b, row, column] = 0.0 if foreign else excess
                valid[b, row, column] = own[i, j] and not foreign
    return patches, valid, structure


@compiled
def _level(plane: Array, row: int, column: int, size: int) -> float:
    return plane[0] + plane[1] * (column - (size - 1) / 2) + plane[2] * (row - (size - 1) / 2)


@compiled
def _reaches(label: NDArray[np.int32], number: int) -> tuple[BoolArray, BoolArray]:
    """The pixels within ``_HALO_PX`` of a blob on both axes, and those within it of any."""
    size = len(label)
    own, any_blob = np.zeros((size, size), dtype=np.bool_), np.zeros((size, size), dtype=np.bool_)
    for row in range(size):
        for column in range(size):
            if label[row, column] != 0:
                for i in range(max(row - _HALO_PX, 0), min(row + _HALO_PX + 1, size)):
                    for j in range(max(column - _HALO_PX, 0), min(column + _HALO_PX + 1, size)):
                        any_blob[i, j] = True
                        own[i, j] |= label[row, column] == number
    return own, any_blob


@compiled
def _plane_around(data: Array, above: Array, reach: BoolArray) -> tuple[Array, float]:
    """The plane through the background out of the blobs' reach, near pixels first, and what it leaves, DN rms."""
    level = data[0, 0]
    plane, _, left, total = plane_through(data - above - level, np.where(reach, 0.0, _NEAR))
    plane[0] += level if total > 0 else 0.0
    return plane, math.sqrt(left / max(total, 1e-9))


def _full_scale(
    ceiling: Ceiling,
    patches: NDArray[np.float32],
    raw: NDArray[np.float32],
    left: NDArray[np.int64],
    top: NDArray[np.int64],
) -> NDArray[np.float32]:
    """A pixel at full scale in the frame, whose ``raw`` pixels are given, is at this level in the patch."""
    if ceiling is None:
        return np.full(patches.shape, np.inf, dtype=np.float32)
    level = crop_windows(ceiling, left, top, patches.shape[1]) if isinstance(ceiling, np.ndarray) else ceiling
    limit: NDArray[np.float32] = patches + (np.asarray(level, dtype=np.float32) - raw)
    return limit


def local_noise(image: NDArray[np.generic], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation of the noise around positions, robustly from second differences, DN, ``[B]``.

    It is taken from the frame: the network's background follows the noise, so the residual has less.
    """
    half = _WINDOW_PX // 2 + 1
    left, top = (np.round(v).astype(np.int64) - half for v in (x, y))
    return noise_of_windows(crop_windows(image, left, top, 2 * half + 1))
