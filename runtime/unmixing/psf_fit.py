"""The width of the PSF from isolated targets: one sigma for all spots, everything else per spot.

Each spot is first fitted on its own with x, y, radiance, a background plane and a sigma of its own.
What a single round spot does not explain (clusters, extended objects, clutter) is left out, and so is
what does not agree with the rest. Then one sigma is fitted jointly: where all spots together, each with
its other parameters free, are fitted best.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from glint.errors import InputError
from glint.optics import PsfEstimate
from glint.runtime.unmixing.fit import Patch, Prior, fit_points
from glint.runtime.unmixing.normal_equations import PLANE, diagonal_of_inverse, plane_through
from glint.runtime.unmixing.point_model import SHAPE, shine_any

REASONS = ("edge", "saturated", "crowded", "faint", "not a point", "wider")

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_FREE_PER_SPOT = 6  # parameters of a spot beside sigma: x, y, radiance, level, two slopes
_SIGMA_RANGE_PX = (0.2, 2.0)  # px; beyond it a window of 11 pixels tells nothing
_BACKGROUND_FROM_PX = 3.5  # px; farther from the middle lies background, which tells the noise
_NOISE_ROUNDS, _CLIP_SD = 3, 3.0  # of the noise, and how far a pixel may be off to tell it
_COARSE_NOISE_DN = 4.0  # noise below which steps of whole numbers matter
_CLIPPED_VARIANCE_SHARE = 0.9733  # of a normal distribution that is cut off there
_CLEAR_PX = 2.5  # px around the middle in which no pixel may be missing
_FAINT_PEAK_TO_NOISE = 6.0  # peak over noise below which a spot tells nothing
_QUANTISATION_DN = 0.29  # DN; standard deviation of rounding to whole numbers
_MODEL_ERROR_SHARE = 0.01  # share of the spot that a real PSF may differ from a Gaussian
_ELONGATED_CHI_SQUARE = 9.2  # chi square of two freedoms that a round spot exceeds once in a hundred
_DISTORTED_CHI_SQUARE = 24.7  # the same of eleven freedoms
_IMPRECISE_SHARE = 0.15  # share of sigma; a spot that tells less is not asked
_FIELD_SPREAD_SHARE = 0.003  # share of sigma by which the PSF may differ over the field
# px^2 per axis; of what lies closer than 0.35 px a pair passes for one target, and does little harm.
_CLUSTER_VARIANCES_PX2 = np.geomspace(0.03, 0.4, 14)
_SINGLES_EXPONENT = 0.25  # exponent per spot of the prior on the share of single targets: many are likelier than few
_ERROR_STRETCHES = (1.0, 1.5)  # by which structured backgrounds may enlarge the errors
_OUTLIER_SHARE = 0.001  # share of spots that are neither, anywhere within a pixel
_MOST_ROUNDS = 5  # of the joint fit, at most
_SHORT_STEP_SD = 0.02  # share of the error of sigma; a shorter step ends it
_FIT_STEPS = 60  # of a spot's fit
_START_SIGMA_PX = 0.6
_PARAMETERS = _FREE_PER_SPOT + SHAPE
_LOG_SIGMA_COLUMN = -3  # column of the logarithm of sigma


@dataclass(frozen=True, eq=False)
class PsfWindows:
    """Windows around what may be single targets.

    Attributes:
        data: ``[N, n, n]`` DN, with the background.
        valid: ``bool [N, n, n]``: pixels that belong to the frame and to no other spot.
        saturated: ``bool [N, n, n]``.
        edge: ``bool [N]``: the window reaches over the edge of the frame.
        whole: whether the numbers are rounded to whole DN.
    """

    data: FloatArray
    valid: BoolArray
    saturated: BoolArray
    edge: BoolArray
    whole: bool = True

    def take(self, rows: NDArray[Any]) -> PsfWindows:
        """The spots that an index or boolean array names."""
        columns = {name: getattr(self, name)[rows] for name in ("data", "valid", "saturated", "edge")}
        return replace(self, **columns)

    @staticmethod
    def concatenate(parts: list[PsfWindows]) -> PsfWindows:
        """All spots of several batches."""
        columns = {n: np.concatenate([getattr(p, n) for p in parts]) for n in ("data", "valid", "saturated", "edge")}
        return PsfWindows(**columns, whole=all(p.whole for p in parts))


@dataclass(frozen=True, eq=False)
class _Fits:
    """Fits of N spots: parameters ``[N, 9]`` (see ``point_model``), misfit ``[N]``, sigma's relative error ``[N]``."""

    theta: FloatArray
    misfit: FloatArray
    error: FloatArray

    @property
    def sigma(self) -> FloatArray:
        return np.exp(self.theta[:, _LOG_SIGMA_COLUMN])

    @property
    def sigma_error(self) -> FloatArray:
        return self.sigma * self.error

    def take(self, rows: NDArray[Any]) -> _Fits:
        return _Fits(self.theta[rows], self.misfit[rows], self.error[rows])


def fit_psf(spots: PsfWindows, *, least: int = 5) -> tuple[PsfEstimate, NDArray[np.int64]]:
    """Measure sigma.

    Args:
        spots: candidates of any kind; those that are no isolated single targets are left out.
        least: fewest spots to rest a figure on, 2 or more.

    Returns:
        The estimate; and why each spot is left out, as its place in ``REASONS``, or -1: ``[N]``.

    Raises:
        InputError: if fewer than ``least`` are left, or ``least`` is below 2.
    """
    if least < 2:
        raise InputError(f"fit_psf: expected at least 2 spots to rest on, got {least}")
    noise = _noise(spots)
    reason = _screen(spots, noise)
    good = np.flatnonzero(reason < 0)
    if not len(good):
        _need(0, least, reason)
    fits = _fit(spots.take(good), noise[good], _start(spots.take(good)), 1)
    reason[good[~_is_point(spots.take(good), noise[good], fits)]] = REASONS.index("not a point")
    kept = reason[good] < 0
    good, fits = good[kept], fits.take(kept)
    _need(len(good), least, reason)

    single = _singles(fits.sigma, fits.sigma_error, least)
    reason[good[~single]] = REASONS.index("wider")
    _need(int(single.sum()), least, reason)
    rows = good[single]
    fits, error = fits.take(single), fits.sigma_error[single]
    sigma, sigma_error = _joint(spots.take(rows), noise[rows], fits)
    strain = (fits.sigma - sigma) / error
    excess = float((strain**2).sum() / (len(rows) - 1))
    scatter = math.sqrt(max(0.0, float(np.var(fits.sigma, ddof=1)) - float(np.mean(error**2))))
    estimate = PsfEstimate(
        sigma=round(sigma, 6), sigma_error=round(sigma_error * math.sqrt(max(1.0, excess)), 6),
        scatter=round(scatter, 6), used=len(rows), rejected=_counts(reason),
    )  # fmt: skip
    return estimate, reason


def _counts(reason: NDArray[np.int64]) -> dict[str, int]:
    return {name: int((reason == i).sum()) for i, name in enumerate(REASONS)}


def _need(number: int, least: int, reason: NDArray[np.int64]) -> None:
    if number >= least:
        return
    why = ", ".join(f"{n} {name}" for name, n in _counts(reason).items() if n) or "none found"
    raise InputError(
        f"only {number} of {len(reason)} spots are isolated single targets, at least {least} are needed "
        f"(left out: {why})",
        hint="give more frames, or frames with bright single targets that are far from each other",
    )


def _noise(spots: PsfWindows) -> FloatArray:
    """Standard deviation of the background far from the middle, about its plane, robustly: ``[N]`` DN."""
    n = spots.data.shape[1]
    ramp = np.arange(n) - (n - 1) / 2
    far = spots.valid & (np.hypot(ramp, ramp[:, None]) > _BACKGROUND_FROM_PX)
    planes = np.array([plane_through(d, f.astype(np.float64))[0] for d, f in zip(spots.data, far)]).reshape(-1, PLANE)
    level, slope_x, slope_y = planes.T[:, :, None, None]
    rest = np.abs(spots.data - level - slope_x * ramp - slope_y * ramp[:, None])
    floor = _QUANTISATION_DN if spots.whole else 1e-3
    noise = np.maximum(1.4826 * _masked_median(rest, far), floor)
    coarse = (noise < _COARSE_NOISE_DN) & spots.whole  # then the median of whole numbers is
    for _ in range(_NOISE_ROUNDS):
        inside = far & (rest <= _CLIP_SD * noise[:, None, None])
        square = (rest**2 * inside).sum(axis=(1, 2)) / np.maximum(inside.sum(axis=(1, 2)), 1)
        noise = np.where(coarse, np.maximum(np.sqrt(square / _CLIPPED_VARIANCE_SHARE), floor), noise)
    return noise


def _masked_median(values: FloatArray, mask: BoolArray) -> FloatArray:
    """Median of the pixels of each image that count, 0 where none does: ``[N, n, n]`` -> ``[N]``."""
    return np.array([np.median(v[m]) if m.any() else 0.0 for v, m in zip(values, mask)]).reshape(len(values))


def _screen(spots: PsfWindows, noise: FloatArray) -> NDArray[np.int64]:
    """Index into ``REASONS`` of what rules a spot out at sight, or -1: ``[N]``."""
    n = spots.data.shape[1]
    ramp = np.arange(n) - (n - 1) / 2
    centre = np.hypot(ramp, ramp[:, None]) <= _CLEAR_PX
    border = np.ones((n, n), dtype=bool)
    border[1:-1, 1:-1] = False
    level = _masked_median(spots.data, spots.valid & border)
    peak = np.where(centre, spots.data, -np.inf).max(axis=(1, 2), initial=-np.inf) - level
    reason = np.full(len(spots.data), -1)
    for name, bad in (
        ("faint", ~(peak > _FAINT_PEAK_TO_NOISE * noise)),
        ("crowded", (centre & ~spots.valid).any(axis=(1, 2))),
        ("saturated", (spots.saturated & spots.valid).any(axis=(1, 2))),
        ("edge", spots.edge),
    ):
        reason[bad] = REASONS.index(name)
    return reason


def _derivatives(theta: FloatArray, sigma: FloatArray, n: int, order: int) -> FloatArray:
    """Pixel integrals of the Gaussian's derivatives by the position, times sigma^m, m = 0..order: ``[m, N, 2, n]``.

    Those of the density are Hermite polynomials times the density.
    """
    width = sigma[:, None, None]
    u = (np.arange(n + 1) - 0.5 - theta[:, :2, None]) / width
    density = np.exp(-0.5 * u**2) / math.sqrt(2 * math.pi)
    columns = [np.diff(erf(u / math.sqrt(2)), axis=-1) / 2]
    before, hermite = np.zeros_like(u), np.ones_like(u)
    for m in range(1, order + 1):
        columns.append(-np.diff(hermite * density, axis=-1))
        before, hermite = hermite, u * hermite - (m - 1) * before
    return np.stack(columns)


def _image(rows: FloatArray, columns: FloatArray) -> FloatArray:
    return rows[:, :, None] * columns[:, None, :]


def _fit(spots: PsfWindows, noise: FloatArray, start: FloatArray, shape_free: int) -> _Fits:
    """Each spot by itself; its width is free where ``shape_free`` is 1, and held where it is 0."""
    number, n, _ = spots.data.shape
    never, nothing = np.full((n, n), np.inf), Prior(np.zeros(_PARAMETERS), np.zeros(_PARAMETERS))
    theta, misfit, error = start.copy(), np.zeros(number), np.zeros(number)
    gaussian = np.empty((0, 0))
    for i in range(number):
        patch = Patch(spots.data[i], float(noise[i]), never, spots.valid[i])
        fit = fit_points(patch, start[i], nothing, shape_free, _FIT_STEPS, _SIGMA_RANGE_PX[1], gaussian)
        theta[i], misfit[i] = fit.theta, fit.misfit
        error[i] = math.sqrt(diagonal_of_inverse(fit.information)[-1])
    return _Fits(theta, misfit, error)


def _start(spots: PsfWindows) -> FloatArray:
    """Where each fit begins, from the light above the median near the middle: ``[N, 9]``."""
    number, n, _ = spots.data.shape
    ramp = np.arange(n) - (n - 1) / 2
    level = np.median(spots.data, axis=(1, 2))
    near = np.hypot(ramp, ramp[:, None]) <= _CLEAR_PX
    light = np.maximum(np.where(near, spots.data - level[:, None, None], 0), 1e-9)
    flux = light.sum(axis=(1, 2))
    theta = np.zeros((number, _PARAMETERS))
    theta[:, 0] = light.sum(axis=1) @ np.arange(n) / flux
    theta[:, 1] = light.sum(axis=2) @ np.arange(n) / flux
    theta[:, 2], theta[:, 3], theta[:, _LOG_SIGMA_COLUMN] = flux, level, math.log(_START_SIGMA_PX)
    return theta


def _distortions(spots: PsfWindows, noise: FloatArray, fits: _Fits) -> tuple[FloatArray, FloatArray]:
    """Score tests for what a cluster does to a spot: chi squares of elongation (2 freedoms) and of all (11).

    A group of points is the PSF plus its derivatives times the group's moments: of second order beyond
    a change of sigma (elongation), of third (skewness) and of fourth order (flatness).
    """
    number, n, _ = spots.data.shape
    h = _derivatives(fits.theta, fits.sigma, n, 4)
    x, y, bright = h[:, :, 0], h[:, :, 1], fits.theta[:, 2, None, None]
    modes = [_image(y[0], x[2]) - _image(y[2], x[0]), _image(y[1], x[1])]
    modes += [_image(y[order - m], x[m]) for order in (3, 4) for m in range(order + 1)]
    known = _FREE_PER_SPOT + 1
    fitted, model = np.empty((number, known, n * n)), np.empty((number, n * n))
    for i in range(number):
        shine_any(fits.theta[i], fitted[i], model[i], n)
    distorted = np.stack([bright * m for m in modes], axis=1).reshape(number, -1, n * n)
    scale = (spots.valid / noise[:, None, None]).reshape(number, n * n)
    flat = np.swapaxes(np.concatenate([fitted, distorted], axis=1) * scale[:, None], 1, 2)
    rest = (spots.data.reshape(number, n * n) - model) * scale
    core, extra = flat[..., :known], flat[..., known:]
    normal = np.swapaxes(core, 1, 2) @ core + 1e-9 * np.eye(known)
    extra = extra - core @ np.linalg.solve(normal, np.swapaxes(core, 1, 2) @ extra)  # beyond what is fitted
    rest = rest - (core @ np.linalg.solve(normal, np.swapaxes(core, 1, 2) @ rest[..., None]))[..., 0]

    def chi_square(part: FloatArray) -> FloatArray:
        gradient = np.einsum("mpk,mp->mk", part, rest)
        information = np.swapaxes(part, 1, 2) @ part + 1e-9 * np.eye(part.shape[-1])
        return (gradient * np.linalg.solve(information, gradient[..., None])[..., 0]).sum(1)

    return chi_square(extra[..., :2]), chi_square(extra)


def _is_point(spots: PsfWindows, noise: FloatArray, fits: _Fits) -> BoolArray:
    """Whether one round spot explains the window up to its noise and what real optics may differ."""
    pixels = spots.valid.sum(axis=(1, 2))
    freedom = np.maximum(pixels - _FREE_PER_SPOT - 1, 1)
    # Energy of a spot: radiance^2 times the squared profile, about 1 / (4 pi sigma^2).
    energy = (fits.theta[:, 2] / noise) ** 2 / (4 * math.pi * fits.sigma**2)
    allowed = freedom + 3 * np.sqrt(2 * freedom)
    inside = (fits.sigma > _SIGMA_RANGE_PX[0] * 1.01) & (fits.sigma < _SIGMA_RANGE_PX[1] * 0.99)
    middle = (spots.data.shape[1] - 1) / 2
    centred = np.hypot(fits.theta[:, 0] - middle, fits.theta[:, 1] - middle) < _CLEAR_PX
    elongation, distortion = _distortions(spots, noise, fits)
    real = _MODEL_ERROR_SHARE**2 * energy
    undistorted = (elongation < _ELONGATED_CHI_SQUARE + real) & (distortion < _DISTORTED_CHI_SQUARE + real)
    precise = fits.error < _IMPRECISE_SHARE
    return (fits.misfit < allowed + real) & inside & centred & undistorted & precise & (fits.theta[:, 2] > 0)


def _singles(sigma: FloatArray, error: FloatArray, least: int) -> BoolArray:
    """Which spots are single targets rather than clusters that pass for a point.

    Single targets share one sigma; clusters are wider, each in its own way, and may be the majority.
    The mixture of N(sigma_0, error^2), the same widened by a cluster's own variance, and a few
    outliers is fitted by maximum likelihood, with ``least`` single targets or more; a spot is single if
    that is the likeliest for it.
    """
    trial = np.linspace(sigma.min(), sigma.max(), 256)[:, None]
    best, chosen = -np.inf, np.zeros(len(sigma), dtype=bool)
    for stretch in _ERROR_STRETCHES:
        spread = stretch * np.hypot(error, _FIELD_SPREAD_SHARE * sigma)
        single = _density((sigma - trial) / spread) / spread  # [trial, spot]
        widened = [np.sqrt(trial**2 + v) for v in _CLUSTER_VARIANCES_PX2]
        wider = np.mean([_density((sigma - w) / spread) for w in widened], axis=0) / spread
        for share in np.linspace(0.2, 0.95, 16):
            a, b = (1 - _OUTLIER_SHARE) * share * single, (1 - _OUTLIER_SHARE) * (1 - share) * wider
            member = a > np.maximum(b, _OUTLIER_SHARE)
            score = np.log(a + b + _OUTLIER_SHARE).sum(1) + _SINGLES_EXPONENT * len(sigma) * math.log(share)
            score = np.where(member.sum(1) >= least, score, -np.inf)
            if score.max() > best:
                best, chosen = float(score.max()), member[score.argmax()]
    return chosen


def _density(strain: FloatArray) -> FloatArray:
    density: FloatArray = np.exp(-0.5 * strain**2) / math.sqrt(2 * math.pi)
    return density


def _joint(spots: PsfWindows, noise: FloatArray, fits: _Fits) -> tuple[float, float]:
    """One sigma for all spots, where the misfit of all is least, and its standard deviation."""
    weight = fits.error**-2
    u, error = float((weight * fits.theta[:, _LOG_SIGMA_COLUMN]).sum() / weight.sum()), float(weight.sum()) ** -0.5
    theta, bend = fits.theta, 2.0
    for _ in range(_MOST_ROUNDS):
        misfits = []
        for tried in (u - error, u, u + error):
            theta = theta.copy()
            theta[:, _LOG_SIGMA_COLUMN] = tried
            held = _fit(spots, noise, theta, 0)
            theta = held.theta
            misfits.append(float(held.misfit.sum()))
        below, middle, above = misfits
        bend = max(below + above - 2 * middle, 1e-9)  # 2 where the spots' own errors tell that of the mean
        step = min(max(0.5 * (below - above) / bend, -2.0), 2.0)
        u += step * error
        if abs(step) < _SHORT_STEP_SD:
            break
    sigma = min(max(math.exp(u), _SIGMA_RANGE_PX[0]), _SIGMA_RANGE_PX[1])
    return sigma, sigma * error * math.sqrt(2 / bend)
