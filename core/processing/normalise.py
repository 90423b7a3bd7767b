"""From DN to what a network sees: the same code in training, calibration and on the device.

A model card names its normaliser. Raw data stay in their own type until :meth:`Normaliser.apply`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.compiled import entry
from glint.errors import InputError

LEAST_SCALE = 1e-9  # DN; its inverse is the greatest: float32 takes both
KINDS = ("fixed", "peak", "standard")
_READ_AS_THEY_ARE = [np.dtype(name) for name in ("uint8", "uint16", "float32", "float64")]


@dataclass(frozen=True, eq=False)
class Normalised:
    """``value = (data - offset) / scale``; offset and scale are ``[..., 1, 1]`` in DN.

    Attributes:
        value: ``float32``, shape of the data.
        offset, scale: ``float32 [..., 1, 1]``; a level v of the network is v * scale + offset in DN.
    """

    value: NDArray[np.float32]
    offset: NDArray[np.float32]
    scale: NDArray[np.float32]


@dataclass(frozen=True)
class Normaliser:
    """How the last two axes of an array are brought to the range that a network was trained on.

    Attributes:
        kind: ``fixed`` divides by ``scale``; ``peak`` divides every patch by its brightest pixel,
            so that the camera's gain does not matter; ``standard`` takes the mean of every frame
            away and divides by its standard deviation, so that neither gain nor offset matters where
            that exceeds ``scale``.
        scale: DN; the divisor of ``fixed``, the least divisor of the others (a constant frame
            must not be blown up).
    """

    kind: str
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"Normaliser.kind: expected one of {', '.join(KINDS)}, got {self.kind!r}")
        if not LEAST_SCALE <= self.scale <= 1 / LEAST_SCALE:
            raise InputError(f"Normaliser.scale: expected a positive number of DN, got {self.scale}")

    def apply(self, data: NDArray[np.generic], *, unit: float = 1.0) -> Normalised:
        """Normalise ``[..., H, W]`` of any real dtype.

        Args:
            data: in DN.
            unit: DN of the data that are worth one of ``scale`` where that is a least divisor.
        """
        shape = (*data.shape[:-2], 1, 1)
        if self.kind == "standard":
            if data.dtype not in _READ_AS_THEY_ARE:
                data = data.astype(np.float64)
            frames = np.ascontiguousarray(data).reshape(*data.shape[:-2], -1)
            value, offset, scale = _standardised(frames.reshape(-1, frames.shape[-1]), self.scale * unit)
            return Normalised(value.reshape(data.shape), offset.reshape(shape), scale.reshape(shape))
        value = data.astype(np.float32)  # a copy, worked on in place
        offset = np.zeros(shape, dtype=np.float32)
        scale = np.full(shape, self.scale, dtype=np.float32)
        if self.kind == "peak":
            scale = np.maximum(value.max(axis=(-2, -1), keepdims=True), scale * np.float32(unit))
        value /= scale
        return Normalised(value, offset, scale)


@entry("u1[2] f8", "u2[2] f8", "f4[2] f8", "f8[2] f8")
def _standardised(
    frames: NDArray[Any], least: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Frames ``[N, pixels]`` about their mean in units of their standard deviation, mean and deviation ``[N]``."""
    number, pixels = frames.shape
    value = np.empty((number, pixels), dtype=np.float32)
    offset, scale = np.empty(number, dtype=np.float32), np.empty(number, dtype=np.float32)
    for n in range(number):
        # About one of the values: squares of large numbers would lose digits.
        pivot, total, square = float(frames[n, 0]) if pixels else 0.0, 0.0, 0.0
        for i in range(pixels):
            off = frames[n, i] - pivot
            total += off
            square += off * off
        mean = total / pixels
        offset[n] = pivot + mean
        scale[n] = max(math.sqrt(max(square / pixels - mean * mean, 0.0)), least)
        for i in range(pixels):
            value[n, i] = (np.float32(frames[n, i]) - offset[n]) / scale[n]
    return value, offset, scale
