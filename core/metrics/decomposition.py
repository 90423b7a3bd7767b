"""How well a frame D is taken apart into background B and targets T.

Truth: B* is D continued over its targets (:func:`glint.processing.inpaint.background_under`), T* = D - B*. "On
target" are the pixels where D was continued, "off target" all others. Every frame counts in units of
its own standard deviation, so that a bright one does not outweigh the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.processing.inpaint import background_under, reach_of


@dataclass(frozen=True)
class ImageEnergy:
    """What one image adds, sums over pixels in units of the image's standard deviation.

    Attributes:
        background_on, background_off: of |B - B*|.
        target_on: of T on target.
        target_off: of |T| off target.
        true_on: of |T*|.
        pixels_off: off target.
    """

    background_on: float
    background_off: float
    target_on: float
    target_off: float
    true_on: float
    pixels_off: int


@dataclass(frozen=True)
class DecompositionScore:
    """Figures of a set of images, percent; NaN without targets.

    Attributes:
        background_error_on: sum of |B - B*| on target over that of |T*|: 100 if B = D, the share of the
            targets that the background carries.
        background_error_off: mean |B - B*| off target over the frame's standard deviation.
        target_energy_on: sum of T on target over that of |T*|; 100 is right.
        target_energy_off: mean |T| off target over the frame's standard deviation; 0 is right.
    """

    background_error_on: float
    background_error_off: float
    target_energy_on: float
    target_energy_off: float


def image_energy(
    image: NDArray[Any], mask: NDArray[np.bool_], background: NDArray[np.floating], target: NDArray[np.floating]
) -> ImageEnergy:
    """Compare one decomposition with the truth.

    Args:
        image: D, DN, ``[H, W]``.
        mask: of the targets, ``bool [H, W]``.
        background, target: B and T, DN, ``[H, W]``.

    Raises:
        InputError: if mask and margin leave no background.
    """
    true_background = background_under(image, mask)
    on = reach_of(mask)
    unit = max(float(image.std(dtype=np.float64)), 1e-6)
    error = np.abs(background - true_background) / unit
    return ImageEnergy(
        background_on=float(error[on].sum()),
        background_off=float(error[~on].sum()),
        target_on=float(target[on].sum(dtype=np.float64)) / unit,
        target_off=float(np.abs(target[~on]).sum(dtype=np.float64)) / unit,
        true_on=float(np.abs(image - true_background)[on].sum()) / unit,
        pixels_off=int((~on).sum()),
    )


def score_decomposition(energies: Iterable[ImageEnergy]) -> DecompositionScore:
    """Figures of all images together."""
    table = np.array([list(vars(e).values()) for e in energies], dtype=np.float64).reshape(-1, 6)
    background_on, background_off, target_on, target_off, true_on, pixels_off = table.sum(0).tolist()

    def percent(part: float, whole: float) -> float:
        return 100 * part / whole if whole > 0 else float("nan")

    return DecompositionScore(
        background_error_on=percent(background_on, true_on),
        background_error_off=percent(background_off, pixels_off),
        target_energy_on=percent(target_on, true_on),
        target_energy_off=percent(target_off, pixels_off),
    )
