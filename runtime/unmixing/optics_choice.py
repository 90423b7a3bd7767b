"""What ``--psf`` says: the optics that a user gives, those of a card's own protocol, or none: they are learned."""

from __future__ import annotations

import math
from pathlib import Path

from glint.cards import UnmixerSpec
from glint.errors import InputError
from glint.optics import Psf, PsfEstimate, load_psf
from glint.runtime.unmixing.optics_state import KNOWN, OpticsState

AUTO = "auto"
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
    return OpticsState(KNOWN, estimate.sigma, error, e, shear, estimate.used, source)
