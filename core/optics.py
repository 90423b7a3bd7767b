"""The optical model: a Gaussian point-spread function integrated over square pixels.

A target at (x, y) with radiance s lights pixel (column i, row j) with

    s * g(i - x) * g(j - y),   g(u) = (erf((u + 1/2) / (sqrt(2) sigma)) - erf((u - 1/2) / (sqrt(2) sigma))) / 2,

the pixel integral of the Gaussian of Eq. 1 of the DSCSNet paper: the radiance is the total flux.
The model is separable, and everything here uses that.

Cells: with c cells per pixel and axis, cell (i, j) (row i, column j) of the ``[c n, c n]`` grid has
its centre at x = (j - (c - 1) / 2) / c, y = (i - (c - 1) / 2) / c.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import erf

from glint.config import from_dict, to_dict
from glint.errors import InputError
from glint.files import read_json, write_json

FloatArray = NDArray[np.float64]
LEAST_SIGMA_PX, MOST_SIGMA_PX = 0.01, 100.0  # of a PSF that pixels can tell anything of


def cell_centre(index: ArrayLike, c: int) -> FloatArray:
    """Pixel coordinate of the centre of a cell, per axis: (index - (c - 1) / 2) / c."""
    return (np.asarray(index, dtype=np.float64) - (c - 1) / 2) / c


def cell_index(coordinate: ArrayLike, c: int) -> NDArray[np.int64]:
    """Cell that contains a pixel coordinate, per axis; may lie outside the grid."""
    return np.floor((np.asarray(coordinate, dtype=np.float64) + 0.5) * c).astype(np.int64)


def pixel_profiles(coordinate: NDArray[Any], sigma: ArrayLike, n: int) -> tuple[Any, Any, Any]:
    """The separable factor g of the model at pixels 0..n-1, and its derivatives, all ``[..., n]``.

    Args:
        coordinate: targets on this axis, pixels, any shape; its floating type is that of the result.
        sigma: of the PSF, pixels, broadcast against ``coordinate``.
        n: pixels.

    Returns:
        g, dg / d coordinate, dg / d sigma.
    """
    sigma = np.asarray(sigma, dtype=coordinate.dtype)[..., None]
    real = coordinate.dtype.type
    edges = (np.arange(n + 1, dtype=coordinate.dtype) - real(0.5) - coordinate[..., None]) / sigma
    density = np.exp(real(-0.5) * edges * edges) * (real(1 / math.sqrt(2 * math.pi)) / sigma)
    cumulative = erf(edges * real(math.sqrt(0.5)))
    cumulative *= real(0.5)
    edges *= density
    below, above = np.s_[..., :-1], np.s_[..., 1:]
    return cumulative[above] - cumulative[below], density[below] - density[above], edges[below] - edges[above]


@dataclass(frozen=True)
class Psf:
    """Pixel-integrated Gaussian point-spread function.

    Attributes:
        sigma: standard deviation of the Gaussian, pixels, from :data:`LEAST_SIGMA_PX` to :data:`MOST_SIGMA_PX`.
    """

    sigma: float = 0.5

    def __post_init__(self) -> None:
        if not LEAST_SIGMA_PX <= self.sigma <= MOST_SIGMA_PX:
            wanted = f"expected a positive number of pixels, {LEAST_SIGMA_PX:g} to {MOST_SIGMA_PX:g}"
            raise InputError(f"Psf.sigma: {wanted}, got {self.sigma}", hint="see docs/psf.md")

    def profile(self, coordinate: ArrayLike, n: int) -> FloatArray:
        """g at pixels 0..n-1 for targets at ``coordinate`` (any shape): ``[..., n]``."""
        return pixel_profiles(np.asarray(coordinate, dtype=np.float64), self.sigma, n)[0]

    def profile_derivative(self, coordinate: ArrayLike, n: int) -> FloatArray:
        """Derivative of :meth:`profile` with respect to the coordinate: ``[..., n]``."""
        return pixel_profiles(np.asarray(coordinate, dtype=np.float64), self.sigma, n)[1]

    def render(self, x: ArrayLike, y: ArrayLike, radiance: ArrayLike, shape: tuple[int, int]) -> FloatArray:
        """Image of the targets: ``[..., K]`` positions and radiances give ``[..., H, W]``.

        Leading dimensions are a batch; a target of radiance 0 is no target. Targets may lie
        outside: what falls inside the image is rendered.
        """
        x, y, radiance = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (x, y, radiance)))
        height, width = shape
        rows = self.profile(y, height) * radiance[..., None]
        return np.swapaxes(rows, -1, -2) @ self.profile(x, width)

    def jacobian(self, x: ArrayLike, y: ArrayLike, radiance: ArrayLike, shape: tuple[int, int]) -> FloatArray:
        """Derivatives of :meth:`render` by (x, y, radiance) of each target: ``[..., H, W, K, 3]``."""
        x, y, radiance = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (x, y, radiance)))
        height, width = shape
        gx, gy = self.profile(x, width), self.profile(y, height)
        dx, dy = self.profile_derivative(x, width), self.profile_derivative(y, height)
        s = radiance[..., None, None]

        def image(rows: FloatArray, columns: FloatArray) -> FloatArray:
            return rows[..., :, None] * columns[..., None, :]

        stack = np.stack([s * image(gy, dx), s * image(dy, gx), image(gy, gx)], axis=-1)  # [..., K, H, W, 3]
        jacobian: FloatArray = np.moveaxis(stack, -4, -2)
        return jacobian

    def sampling_factor(self, n: int, c: int) -> FloatArray:
        """P ``[n, c n]``: pixel integrals of a unit target at each cell centre of one axis."""
        return self.profile(cell_centre(np.arange(c * n), c), n).T

    def sampling_matrix(self, n: int, c: int) -> FloatArray:
        """Phi = P kron P ``[n^2, (c n)^2]``: image of the row-major grid, y = Phi x (paper, Eq. 2)."""
        factor = self.sampling_factor(n, c)
        matrix: FloatArray = np.kron(factor, factor).astype(np.float64)
        return matrix

    def fisher(
        self, x: ArrayLike, y: ArrayLike, radiance: ArrayLike, shape: tuple[int, int], noise_sd: float
    ) -> FloatArray:
        """Fisher information of (x, y, radiance) of all targets under white noise: ``[3K, 3K]``.

        Raises:
            InputError: if ``noise_sd`` is not positive or the targets are not one list.
        """
        if np.ndim(x) != 1:
            raise InputError(f"Psf.fisher: expected one list of targets, got x of shape {np.shape(x)}")
        if not noise_sd > 0:
            raise InputError(f"Psf.fisher: noise_sd must be positive, got {noise_sd}", hint="give the noise in DN")
        jacobian = self.jacobian(x, y, radiance, shape)
        flat = jacobian.reshape(shape[0] * shape[1], -1)
        return flat.T @ flat / noise_sd**2


PSF_FORMAT = 1
_MOST_SAMPLES = 201  # per side
_MOST_RATIO = 100.0  # of the axes of an elliptical PSF


@dataclass(frozen=True)
class PsfEstimate:
    """The width of a Gaussian PSF, measured.

    Attributes:
        sigma: standard deviation, pixels; of an elliptical one the geometric mean of its axes.
        sigma_error: its standard deviation, pixels.
        scatter: by how much single spots differ beyond their own errors, standard deviation, pixels.
        used: spots that the figure rests on.
        rejected: spots that were left out, by reason.
        source: where the spots came from.
        glint: version of the program.
        format: of this file.
        sigma_x, sigma_y: standard deviations along x and y, pixels; 0 in old files: both are ``sigma``.
        angle: of the longer axis from x towards y, degrees.
        ratio: of the longer axis to the shorter one; 1 for a round PSF.
        clusters: whether it rests on spots that may be clusters, because too few agree as single targets.
        samples: of the PSF itself, a pixel's share of the radiance at offsets a quarter of a pixel apart, rows of y,
            with offset 0 in the middle, ``[m][m]``, m odd; empty: the Gaussian explains the spots as well.
    """

    sigma: float
    sigma_error: float
    scatter: float = 0.0
    used: int = 0
    rejected: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    glint: str = ""
    format: int = PSF_FORMAT
    sigma_x: float = 0.0
    sigma_y: float = 0.0
    angle: float = 0.0
    ratio: float = 1.0
    clusters: bool = False
    samples: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        Psf(self.sigma)  # checks it
        widths = {"sigma_error": self.sigma_error, "scatter": self.scatter, "sigma_x": self.sigma_x}
        for name, value in {**widths, "sigma_y": self.sigma_y}.items():
            if not 0 <= value <= MOST_SIGMA_PX:
                raise InputError(f"PSF: {name}: expected 0 to {MOST_SIGMA_PX:g} pixels, not negative, got {value}")
        if not (1 <= self.ratio <= _MOST_RATIO and math.isfinite(self.angle)):
            raise InputError(
                f"PSF: expected a ratio of axes of 1 to {_MOST_RATIO:g} and an angle, got {self.ratio} and {self.angle}"
            )
        side = len(self.samples)
        if side and (side > _MOST_SAMPLES or not side % 2 or any(len(row) != side for row in self.samples)):
            raise InputError(
                f"PSF: samples: expected a square, odd, of at most {_MOST_SAMPLES} a side, got {side} rows"
            )
        if not np.isfinite(np.array(self.samples, dtype=np.float64)).all():
            raise InputError("PSF: samples: expected finite numbers")
        if self.used < 0:
            raise InputError(f"PSF: expected a number of spots used, got {self.used}")
        if self.format != PSF_FORMAT:
            raise InputError(
                f"PSF: format {self.format}, this glint reads {PSF_FORMAT}", hint="measure it again with glint psf"
            )

    def shape(self) -> tuple[float, float]:
        """The ellipse as the fit has it: half the log of the width of a row over that of y, and x per y."""
        if self.ratio == 1:
            return 0.0, 0.0
        turn, long, short = math.radians(self.angle), self.sigma**2 * self.ratio, self.sigma**2 / self.ratio
        cos, sin = math.cos(turn), math.sin(turn)
        variance_y, both = long * sin**2 + short * cos**2, (long - short) * sin * cos
        return 0.5 * math.log(self.sigma**2 / variance_y), both / variance_y


def save_psf(estimate: PsfEstimate, path: Path) -> None:
    """Write the file atomically."""
    write_json(path, to_dict(estimate))


def load_psf(path: Path) -> PsfEstimate:
    """Read the file.

    Raises:
        InputError: if it is missing or not what ``glint psf`` writes.
    """
    return from_dict(PsfEstimate, read_json(path, what="PSF file"), where=f"PSF file {path}")
