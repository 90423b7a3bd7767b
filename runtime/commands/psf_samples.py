"""The PSF as isolated spots sample it: `glint psf` writes it where it explains them better than the Gaussian."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from glint.optics import PsfEstimate
from glint.processing.effective_psf import IsolatedSpots, effective_psf, unexplained
from glint.runtime.unmixing.optics_choice import gaussian_samples
from glint.runtime.unmixing.shapes import Shapes
from glint.runtime.unmixing.windows import Windows

_MOST_SPOTS = 400  # that the PSF is sampled from
_LEAST_SPOTS = 10
_LEAST_MISFIT_GAIN = 25.0  # misfit, in squares of the noise, by which samples must explain other spots better
_KEPT_DIGITS = 6


def light_of(windows: Windows, shapes: Shapes, rows: NDArray[np.int64]) -> IsolatedSpots:
    """Spots without their background, as a PSF is sampled from them."""
    rows = rows[:_MOST_SPOTS]
    steps = np.arange(windows.data.shape[1]) - windows.data.shape[1] // 2
    x, y, radiance, level, slope_x, slope_y = shapes.theta[rows, :6].T
    plane = level[:, None, None] + slope_x[:, None, None] * steps + slope_y[:, None, None] * steps[:, None]
    return IsolatedSpots(windows.data[rows] - plane, windows.clear[rows], windows.noise[rows], x, y, radiance)


def with_samples(estimate: PsfEstimate, spots: IsolatedSpots) -> PsfEstimate:
    """The estimate with the PSF as sampled, if the samples explain other spots better than the Gaussian does.

    Each half of the spots is explained by samples of the other half.
    """
    if len(spots.x) < 2 * _LEAST_SPOTS:
        return estimate
    gaussian, gain = gaussian_samples(estimate), 0.0
    for half in range(2):
        others, these = spots.take(np.s_[half::2]), spots.take(np.s_[1 - half :: 2])
        gain += unexplained(these, gaussian) - unexplained(these, effective_psf(others, gaussian))
    if gain < _LEAST_MISFIT_GAIN:
        return estimate
    samples = np.round(effective_psf(spots, gaussian), _KEPT_DIGITS)
    return replace(estimate, samples=tuple(tuple(row) for row in samples.tolist()))
