"""From DN to what a network sees: the same code in training, calibration and on the device.

A model card names its normaliser. Raw data stay in their own type until :meth:`Normaliser.apply`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glint.errors import InputError

KINDS = ("fixed", "peak", "standard")


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
            away and divides by its standard deviation, so that neither gain nor offset matters.
        scale: DN; the divisor of ``fixed``, the least divisor of the others (a constant frame
            must not be blown up).
    """

    kind: str
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"Normaliser.kind: expected one of {', '.join(KINDS)}, got {self.kind!r}")
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise InputError(f"Normaliser.scale: expected a positive number, got {self.scale}")

    def apply(self, data: NDArray[np.generic]) -> Normalised:
        """Normalise ``[..., H, W]`` of any real dtype."""
        value = data.astype(np.float32)  # a copy, worked on in place
        shape = (*value.shape[:-2], 1, 1)
        offset = np.zeros(shape, dtype=np.float32)
        scale = np.full(shape, self.scale, dtype=np.float32)
        if self.kind == "peak":
            scale = np.maximum(value.max(axis=(-2, -1), keepdims=True), scale)
        elif self.kind == "standard":
            # Sums of a frame lose digits in float32, those of a line do not.
            lines = np.einsum("...i->...", value)
            offset[..., 0, 0] = lines.mean(axis=-1, dtype=np.float64) / value.shape[-1]
            value -= offset
            squares = np.einsum("...i,...i->...", value, value)
            scale[..., 0, 0] = np.maximum(
                np.sqrt(squares.mean(axis=-1, dtype=np.float64) / value.shape[-1]), self.scale
            )
        value /= scale
        return Normalised(value, offset, scale)
