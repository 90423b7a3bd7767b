"""What ``--psf`` says: the optics that a user gives, those of a card's own protocol, or none: they are learned."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from glint.cards import UnmixerSpec
from glint.errors import InputError
from glint.optics import Psf, PsfEstimate, load_psf
from glint.runtime.unmixing.optics_state import KNOWN, OpticsState
from glint.runtime.unmixing.point_model import PER_PX

AUTO = "auto"
_REACH_WIDTHS, _LEAST_REACH_PX, _MOST_REACH_PX = 3.0, 2, 8  # of the samples of a PSF
_NODES, _WEIGHTS = (0.5 * v for v in np.polynomial.legendre.leggauss(5))

Array = NDArray[np.float64]
PsfChoice = str | Path | float | PsfEstimate | None
"""A measured PSF or its file, its sigma in pixels, ``auto``, or None for what the command takes by itself."""


def chosen_optics(psf: PsfChoice, spec: UnmixerSpec, *, protocol: bool | None = None) -> OpticsState | None:
    """The optics that count as known; None if they are to be learned.

    Args:
        psf: the user's word.
        spec: of the unmixer.
        protocol: whether the PSF of the unmixer's card is taken where the user says nothing; None: if the card is made
            for one protocol, with radiances of its own.

    Raises:
        InputError: if it is neither a width nor a file of one.
    """
    if psf is None:
        if spec.radiance_prior is not None if protocol is None else protocol:
            return OpticsState(KNOWN, spec.sigma, spec.sigma_sd, source="the model's card")
        return None
    if isinstance(psf, PsfEstimate):
        return _measured(psf, "given")
    if str(psf) == AUTO:
        return None
    try:
        sigma = float(str(psf))
    except ValueError:
        return _measured(load_psf(Path(str(psf))), str(psf))
    try:
        Psf(sigma)
    except InputError as error:
        raise InputError(f"--psf: {error}", hint=error.hint) from error
    return OpticsState(KNOWN, sigma, source="given")


def _measured(estimate: PsfEstimate, source: str) -> OpticsState:
    error = math.hypot(estimate.sigma_error, estimate.scatter)
    e, shear = estimate.shape()
    return OpticsState(KNOWN, estimate.sigma, error, e, shear, estimate.used, source, beyond_gaussian(estimate))


def gaussian_samples(estimate: PsfEstimate) -> Array:
    """The measured Gaussian, integrated over pixels, at offsets 1 / ``PER_PX`` px apart: ``[m, m]``, m odd."""
    wide = estimate.sigma * math.sqrt(max(estimate.ratio, 1.0))
    half = PER_PX * min(max(math.ceil(_REACH_WIDTHS * wide), _LEAST_REACH_PX), _MOST_REACH_PX)
    offset = np.arange(-half, half + 1) / PER_PX
    e, shear = estimate.shape()
    along, across = estimate.sigma * math.exp(e), estimate.sigma * math.exp(-e)
    if e == 0 and shear == 0:
        row = _pixel_integral(offset, along)
        return np.outer(row, row)
    height = offset[:, None] + _NODES  # above the centre, as the fit has it (``point_model``)
    share = _WEIGHTS * np.exp(-0.5 * (height / across) ** 2) / (across * math.sqrt(2 * math.pi))
    rows = _pixel_integral(offset - shear * height[..., None], along)
    samples: Array = (share[..., None] * rows).sum(axis=1)
    return samples


def _pixel_integral(offset: Array, sigma: float) -> Array:
    integral: Array = ndtr((offset + 0.5) / sigma) - ndtr((offset - 0.5) / sigma)
    return integral


def beyond_gaussian(estimate: PsfEstimate) -> Array | None:
    """What the samples of an estimate have over its Gaussian, ``[m, m]``; None without samples.

    Samples of another reach than the Gaussian's own count where both are.
    """
    if not estimate.samples:
        return None
    samples, gaussian = np.array(estimate.samples), gaussian_samples(estimate)
    reach = min(len(samples), len(gaussian)) // 2
    (a, b), side = (len(v) // 2 - reach for v in (samples, gaussian)), 2 * reach + 1
    difference: Array = samples[a : a + side, a : a + side] - gaussian[b : b + side, b : b + side]
    return difference
