"""What a grey level of a frame is worth: the DN of any camera in terms of those of an image of 8 bits.

Rules that were learned on images of 8 bits are told in their DN. A frame of 8 bits that somebody multiplied, shifted or
stored as a floating number is still one: its levels lie on a grid, whose step is the unit. Any other frame has levels
as fine as its noise; two standard deviations of that are the unit, but no less than 1/255 of its range. (SIRST's and
IRSTD-1K's validation frames, multiplied by 64 and filled up with random bits, score best by a factor of 2, of 1, 2, 3.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SAMPLED_PIXELS = 4096  # pixels that are looked at for levels
_SAMPLED_ROW_PAIRS = 64  # pairs of rows that are looked at for noise
_EIGHT_BIT_STEPS = 255  # steps of an image of 8 bits
_FEWEST_LEVELS = 8  # levels that make a grid; fewer may be a drawing
_OFF_GRID_STEPS = 0.02  # steps; what rounding to float32 may move a level by
_NOISE_SD_PER_UNIT = 2.0  # standard deviations of the noise per unit
_DIVISOR_UNITS = 0.25  # of the unit
_HALF_WITHIN_SD = 0.6745  # standard deviations that half of a normal distribution is within


@dataclass(frozen=True)
class Depth:
    """How fine the levels of a frame are.

    Attributes:
        unit: DN of the frame that are worth one of an image of 8 bits, > 0.
        known: whether they are those of such an image, not only comparable.
    """

    unit: float = 1.0
    known: bool = True

    @property
    def divisor(self) -> float:
        """DN of a unit of a normaliser's least divisor: less where noise is the measure, which may fill a frame."""
        return self.unit if self.known else self.unit * _DIVISOR_UNITS


EIGHT_BITS = Depth()


def depth_of(data: NDArray[Any]) -> Depth:
    """Depth of a frame of any real type, ``[H, W]``, finite."""
    if data.dtype == np.uint8:
        return EIGHT_BITS
    integer = data.dtype.kind in "ui"
    low, high = float(data.min()), float(data.max())
    if integer and low >= 0 and high <= _EIGHT_BIT_STEPS:
        return EIGHT_BITS
    flat = data.ravel()
    sample = flat[:: max(1, flat.size // _SAMPLED_PIXELS)].astype(np.float64)
    first, last = np.percentile(sample, (0.5, 99.5))
    step = _step(sample, last - first)
    if step > (1 if integer else 0):
        return Depth(step, known=True)
    unit = max(float(last - first) / _EIGHT_BIT_STEPS, _NOISE_SD_PER_UNIT * _noise(data), 1.0 if integer else 0.0)
    # Without noise or spread, e.g. a drawn spot in an even field.
    return Depth(unit or (high - low) / _EIGHT_BIT_STEPS or 1.0, known=False)


def _step(sample: NDArray[np.float64], spread: float) -> float:
    """Step of the grid on which all levels lie, if it is as coarse as that of 8 bits; else 0."""
    levels = np.unique(sample)
    gaps = np.diff(levels)
    gaps = gaps[gaps > spread / (4 * _EIGHT_BIT_STEPS)]  # numbers that differ by rounding are one level
    if len(gaps) + 1 < _FEWEST_LEVELS:
        return 0.0
    step = float(gaps[gaps < 1.5 * gaps.min()].mean())
    span = float(levels[-1] - levels[0])
    step = span / round(span / step)  # rounding errors of one gap add up over many
    places = (levels - levels[0]) / step
    on_grid = np.abs(places - np.round(places)).max() <= _OFF_GRID_STEPS
    return step if on_grid and (1 + _OFF_GRID_STEPS) * step >= spread / _EIGHT_BIT_STEPS else 0.0


def _noise(data: NDArray[Any]) -> float:
    """Standard deviation of white noise, DN: from the median of differences of differences of neighbours."""
    height, width = data.shape
    if min(height, width) < 2:
        return 0.0
    rows = np.arange(0, height - 1, max(1, height // _SAMPLED_ROW_PAIRS))
    upper, lower = data[rows].astype(np.float64), data[rows + 1].astype(np.float64)
    change = np.diff(lower - upper, axis=1)
    return float(np.median(np.abs(change))) / (2 * _HALF_WITHIN_SD)
