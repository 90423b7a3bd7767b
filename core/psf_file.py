"""The measured PSF as a small JSON file: what ``glint psf`` writes and ``run`` and ``unmix`` read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glint.config import from_dict, to_dict
from glint.errors import InputError
from glint.files import read_json, write_json
from glint.optics import Psf

PSF_FORMAT = 1


@dataclass(frozen=True)
class PsfEstimate:
    """The width of a Gaussian PSF, measured.

    Attributes:
        sigma: standard deviation, pixels.
        sigma_error: its standard deviation, pixels.
        scatter: by how much single spots differ beyond their own errors, standard deviation, pixels.
        used: spots that the figure rests on.
        rejected: spots that were left out, by reason.
        source: where the spots came from.
        glint: version of the program.
        format: of this file.
    """

    sigma: float
    sigma_error: float
    scatter: float = 0.0
    used: int = 0
    rejected: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    glint: str = ""
    format: int = PSF_FORMAT

    def __post_init__(self) -> None:
        Psf(self.sigma)  # checks it
        if not self.sigma_error >= 0:
            raise InputError(f"PSF: sigma_error must not be negative, got {self.sigma_error}")
        if self.format != PSF_FORMAT:
            raise InputError(f"PSF: format {self.format}, this glint reads {PSF_FORMAT}")


def save_psf(estimate: PsfEstimate, path: Path) -> None:
    """Write the file atomically."""
    write_json(path, to_dict(estimate))


def load_psf(path: Path) -> PsfEstimate:
    """Read the file.

    Raises:
        InputError: if it is missing or not what ``glint psf`` writes.
    """
    return from_dict(PsfEstimate, read_json(path, what="PSF file"), where=f"PSF file {path}")
