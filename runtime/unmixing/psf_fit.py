"""The width of the PSF from isolated targets: one sigma for all spots, everything else per spot.

Each spot is first fitted on its own with x, y, radiance, a background plane and a sigma of its own.
What a single round spot does not explain (clusters, extended objects, clutter) is left out, and so is
what does not agree with the rest. Then one sigma is fitted jointly: each spot gives the gradient and
information that are left of sigma when its other parameters are free (Schur complement).
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

REASONS = ("edge", "saturated", "crowded", "faint", "not a point", "wider")

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_OTHERS = 6  # parameters of a spot beside sigma: x, y, radiance, level, two slopes
_SIGMA_RANGE = (0.2, 2.0)  # px; beyond it a window of 11 pixels tells nothing
_NEAR = 3.5  # px; farther from the middle lies background, which tells the noise
_CLEAR = 2.5  # px around the middle in which no pixel may be missing
_FAINT = 6.0  # peak over noise below which a spot tells nothing
_QUANTISATION = 0.29  # DN; standard deviation of rounding to whole numbers
_MODEL_ERROR = 0.01  # share of the spot that a real PSF may differ from a Gaussian
_ELONGATED = 9.2  # chi square of two freedoms that a round spot exceeds once in a hundred
_DISTORTED = 24.7  # the same of eleven freedoms
_IMPRECISE = 0.15  # share of sigma; a spot that tells less is not asked
_UNEVEN = 0.003  # share of sigma by which the PSF may differ over the field
# px^2 per axis; of what lies closer than 0.35 px a pair passes for one target, and does little harm.
_CLUSTER_VARIANCE = np.geomspace(0.03, 0.4, 14)
_PLENTY = 0.25  # exponent per spot of the prior on the share of single targets: many are likelier than few
_STRETCHES = (1.0, 1.5)  # by which structured backgrounds may enlarge the errors
_STRAY = 0.001  # share of spots that are neither, anywhere within a pixel
_ROUNDS = 20


@dataclass(frozen=True, eq=False)
class Spots:
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

    def take(self, rows: NDArray[Any]) -> Spots:
        """The spots that an index or boolean array names."""
        columns = {name: getattr(self, name)[rows] for name in ("data", "valid", "saturated", "edge")}
        return replace(self, **columns)

    @staticmethod
    def concatenate(parts: list[Spots]) -> Spots:
        """All spots of several batches."""
        columns = {n: np.concatenate([getattr(p, n) for p in parts]) for n in ("data", "valid", "saturated", "edge")}
        return Spots(**columns, whole=all(p.whole for p in parts))


@dataclass(frozen=True, eq=False)
class _Fits:
    """State of N fits: parameters ``[N, 6]``, sigma ``[N]``, chi square ``[N]``, normal ``[N, 7, 7]``, gradient."""

    theta: FloatArray
    sigma: FloatArray
    cost: FloatArray
    normal: FloatArray
    gradient: FloatArray

    def where(self, chosen: BoolArray, other: _Fits) -> _Fits:
        def pick(a: FloatArray, b: FloatArray) -> FloatArray:
            return np.where(chosen.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

        return _Fits(*(pick(getattr(other, f), getattr(self, f)) for f in vars(self)))

    def take(self, rows: NDArray[Any]) -> _Fits:
        return _Fits(*(getattr(self, f)[rows] for f in vars(self)))


def fit_psf(spots: Spots, *, least: int = 5) -> PsfEstimate:
    """Measure sigma.

    Args:
        spots: candidates of any kind; those that are no isolated single targets are left out.
        least: fewest spots to rest a figure on, 2 or more.

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
    fits = _fit(spots.take(good), noise[good])
    error = _sigma_error(fits)
    reason[good[~_is_point(spots.take(good), noise[good], fits)]] = REASONS.index("not a point")
    kept = reason[good] < 0
    good, fits, error = good[kept], fits.take(kept), error[kept]
    _need(len(good), least, reason)

    single = _singles(fits.sigma, error, least)
    reason[good[~single]] = REASONS.index("wider")
    _need(int(single.sum()), least, reason)
    rows = good[single]
    fits, error = fits.take(single), error[single]
    sigma, sigma_error = _joint(spots.take(rows), noise[rows], fits)
    strain = (fits.sigma - sigma) / error
    excess = float((strain**2).sum() / (len(rows) - 1))
    scatter = math.sqrt(max(0.0, float(np.var(fits.sigma, ddof=1)) - float(np.mean(error**2))))
    return PsfEstimate(
        sigma=round(sigma, 6), sigma_error=round(sigma_error * math.sqrt(max(1.0, excess)), 6),
        scatter=round(scatter, 6), used=len(rows), rejected=_counts(reason),
    )  # fmt: skip


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


def _noise(spots: Spots) -> FloatArray:
    """Standard deviation of the background far from the middle, about its plane, robustly: ``[N]`` DN."""
    n = spots.data.shape[1]
    ramp = np.arange(n) - (n - 1) / 2
    far = np.hypot(ramp, ramp[:, None]) > _NEAR
    weight = (spots.valid & far).reshape(len(spots.data), n * n).astype(np.float64)
    basis = np.stack([np.ones(n * n), np.tile(ramp, n), np.repeat(ramp, n)], axis=1)
    values = spots.data.reshape(len(spots.data), n * n)
    scaled = basis * weight[..., None]
    normal = np.swapaxes(scaled, 1, 2) @ basis + 1e-9 * np.eye(3)
    plane = np.linalg.solve(normal, np.swapaxes(scaled, 1, 2) @ values[..., None])
    rest = np.abs(values - (basis @ plane)[..., 0]).reshape(spots.data.shape)
    return np.maximum(1.4826 * _masked_median(rest, spots.valid & far), _QUANTISATION if spots.whole else 1e-3)


def _masked_median(values: FloatArray, mask: BoolArray) -> FloatArray:
    """Median of the pixels of each image that count, 0 where none does: ``[N, n, n]`` -> ``[N]``."""
    return np.array([np.median(v[m]) if m.any() else 0.0 for v, m in zip(values, mask)]).reshape(len(values))


def _screen(spots: Spots, noise: FloatArray) -> NDArray[np.int64]:
    """Index into ``REASONS`` of what rules a spot out at sight, or -1: ``[N]``."""
    n = spots.data.shape[1]
    ramp = np.arange(n) - (n - 1) / 2
    centre = np.hypot(ramp, ramp[:, None]) <= _CLEAR
    border = np.ones((n, n), dtype=bool)
    border[1:-1, 1:-1] = False
    level = _masked_median(spots.data, spots.valid & border)
    peak = np.where(centre, spots.data, -np.inf).max(axis=(1, 2), initial=-np.inf) - level
    reason = np.full(len(spots.data), -1)
    for name, bad in (
        ("faint", ~(peak > _FAINT * noise)),
        ("crowded", (centre & ~spots.valid).any(axis=(1, 2))),
        ("saturated", (spots.saturated & spots.valid).any(axis=(1, 2))),
        ("edge", spots.edge),
    ):
        reason[bad] = REASONS.index(name)
    return reason


def _evaluate(spots: Spots, noise: FloatArray, theta: FloatArray, sigma: FloatArray) -> _Fits:
    """Chi square, its normal matrix and gradient by (x, y, radiance, plane, sigma) at a point."""
    jacobian = _jacobian(spots, theta, sigma)
    model = (jacobian[..., 2:_OTHERS] @ theta[:, None, 2:, None])[..., 0]
    flat, rest = _weighted(spots, noise, jacobian, spots.data - model)
    return _Fits(theta, sigma, (rest**2).sum(1), np.swapaxes(flat, 1, 2) @ flat, np.einsum("mpk,mp->mk", flat, rest))


def _weighted(spots: Spots, noise: FloatArray, jacobian: FloatArray, rest: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Columns ``[N, n, n, P]`` and residual ``[N, n, n]`` over the noise, without missing pixels, pixels flattened."""
    number = len(rest)
    scale = spots.valid / noise[:, None, None]
    return (jacobian * scale[..., None]).reshape(number, -1, jacobian.shape[-1]), (rest * scale).reshape(number, -1)


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


def _jacobian(spots: Spots, theta: FloatArray, sigma: FloatArray) -> FloatArray:
    """Derivatives of the model by x, y, radiance, level, slopes and sigma: ``[N, n, n, 7]``."""
    number, n, _ = spots.data.shape
    h = _derivatives(theta, sigma, n, 2)
    x, y, bright = h[:, :, 0], h[:, :, 1], (theta[:, 2] / sigma)[:, None, None]
    ramp = np.broadcast_to(np.arange(n) - (n - 1) / 2, (number, n, n))
    return np.stack(
        [
            bright * _image(y[0], x[1]), bright * _image(y[1], x[0]), _image(y[0], x[0]), np.ones_like(ramp), ramp,
            np.swapaxes(ramp, 1, 2), bright * (_image(y[0], x[2]) + _image(y[2], x[0])),
        ],
        axis=-1,
    )  # fmt: skip


def _fit(spots: Spots, noise: FloatArray, *, sigma: float | None = None, start: FloatArray | None = None) -> _Fits:
    """Levenberg-Marquardt per spot; ``sigma`` holds it fixed, None lets each spot have its own."""
    number, n, _ = spots.data.shape
    free = _OTHERS + (sigma is None)
    theta = _start(spots) if start is None else start
    state = _evaluate(spots, noise, theta, np.full(number, 0.6 if sigma is None else sigma))
    damping = np.full(number, 1e-2)
    diagonal = np.arange(free)
    for _ in range(60):
        matrix = state.normal[:, :free, :free].copy()
        matrix[:, diagonal, diagonal] *= 1 + damping[:, None]
        matrix[:, diagonal, diagonal] += 1e-9
        step = np.linalg.solve(matrix, state.gradient[:, :free, None])[..., 0]
        step[:, :2] = np.clip(step[:, :2], -0.5, 0.5)
        theta = state.theta + step[:, :_OTHERS]
        theta[:, :2] = np.clip(theta[:, :2], 0, n - 1)
        width = state.sigma
        if sigma is None:
            width = np.clip(width + np.clip(step[:, _OTHERS], -0.2, 0.2), *_SIGMA_RANGE)
        trial = _evaluate(spots, noise, theta, width)
        better = trial.cost <= state.cost
        settled = better & (state.cost - trial.cost < 1e-6 * (1 + state.cost))
        state = state.where(better, trial)
        damping = np.clip(np.where(better, damping / 10, damping * 10), 1e-9, 1e9)
        if (settled | (damping >= 1e9)).all():
            break
    return state


def _start(spots: Spots) -> FloatArray:
    """Where each fit begins, from the light above the median near the middle: ``[N, 6]``."""
    number, n, _ = spots.data.shape
    ramp = np.arange(n) - (n - 1) / 2
    level = np.median(spots.data, axis=(1, 2))
    near = np.hypot(ramp, ramp[:, None]) <= _CLEAR
    light = np.maximum(np.where(near, spots.data - level[:, None, None], 0), 1e-9)
    flux = light.sum(axis=(1, 2))
    theta = np.zeros((number, _OTHERS))
    theta[:, 0] = light.sum(axis=1) @ np.arange(n) / flux
    theta[:, 1] = light.sum(axis=2) @ np.arange(n) / flux
    theta[:, 2], theta[:, 3] = flux, level
    return theta


def _sigma_left(fits: _Fits) -> tuple[FloatArray, FloatArray]:
    """Gradient and information of sigma when the spot's other parameters follow it, ``[N]`` each."""
    others, cross = fits.normal[:, :_OTHERS, :_OTHERS] + 1e-12 * np.eye(_OTHERS), fits.normal[:, :_OTHERS, _OTHERS]
    weights = np.linalg.solve(others, cross[..., None])[..., 0]
    information = fits.normal[:, _OTHERS, _OTHERS] - (weights * cross).sum(1)
    gradient = fits.gradient[:, _OTHERS] - (weights * fits.gradient[:, :_OTHERS]).sum(1)
    return gradient, np.maximum(information, 1e-12)


def _sigma_error(fits: _Fits) -> FloatArray:
    return _sigma_left(fits)[1] ** -0.5


def _distortions(spots: Spots, noise: FloatArray, fits: _Fits) -> tuple[FloatArray, FloatArray]:
    """Score tests for what a cluster does to a spot: chi squares of elongation (2 freedoms) and of all (11).

    A group of points is the PSF plus its derivatives times the group's moments: of second order beyond
    a change of sigma (elongation), of third (skewness) and of fourth order (flatness).
    """
    n = spots.data.shape[1]
    h = _derivatives(fits.theta, fits.sigma, n, 4)
    x, y, bright = h[:, :, 0], h[:, :, 1], fits.theta[:, 2, None, None]
    modes = [_image(y[0], x[2]) - _image(y[2], x[0]), _image(y[1], x[1])]
    modes += [_image(y[order - m], x[m]) for order in (3, 4) for m in range(order + 1)]
    fitted = _jacobian(spots, fits.theta, fits.sigma)
    model = (fitted[..., 2:_OTHERS] @ fits.theta[:, None, 2:, None])[..., 0]
    columns = np.concatenate([fitted, np.stack([bright * m for m in modes], axis=-1)], axis=-1)
    flat, rest = _weighted(spots, noise, columns, spots.data - model)
    known = _OTHERS + 1
    core, extra = flat[..., :known], flat[..., known:]
    normal = np.swapaxes(core, 1, 2) @ core + 1e-9 * np.eye(known)
    extra = extra - core @ np.linalg.solve(normal, np.swapaxes(core, 1, 2) @ extra)  # beyond what is fitted
    rest = rest - (core @ np.linalg.solve(normal, np.swapaxes(core, 1, 2) @ rest[..., None]))[..., 0]

    def chi_square(part: FloatArray) -> FloatArray:
        gradient = np.einsum("mpk,mp->mk", part, rest)
        information = np.swapaxes(part, 1, 2) @ part + 1e-9 * np.eye(part.shape[-1])
        return (gradient * np.linalg.solve(information, gradient[..., None])[..., 0]).sum(1)

    return chi_square(extra[..., :2]), chi_square(extra)


def _is_point(spots: Spots, noise: FloatArray, fits: _Fits) -> BoolArray:
    """Whether one round spot explains the window up to its noise and what real optics may differ."""
    pixels = spots.valid.sum(axis=(1, 2))
    freedom = np.maximum(pixels - _OTHERS - 1, 1)
    # Energy of a spot: radiance^2 times the squared profile, about 1 / (4 pi sigma^2).
    energy = (fits.theta[:, 2] / noise) ** 2 / (4 * math.pi * fits.sigma**2)
    allowed = freedom + 3 * np.sqrt(2 * freedom)
    inside = (fits.sigma > _SIGMA_RANGE[0] * 1.01) & (fits.sigma < _SIGMA_RANGE[1] * 0.99)
    middle = (spots.data.shape[1] - 1) / 2
    centred = np.hypot(fits.theta[:, 0] - middle, fits.theta[:, 1] - middle) < _CLEAR
    elongation, distortion = _distortions(spots, noise, fits)
    real = _MODEL_ERROR**2 * energy
    undistorted = (elongation < _ELONGATED + real) & (distortion < _DISTORTED + real)
    precise = _sigma_error(fits) < _IMPRECISE * fits.sigma
    return (fits.cost < allowed + real) & inside & centred & undistorted & precise & (fits.theta[:, 2] > 0)


def _singles(sigma: FloatArray, error: FloatArray, least: int) -> BoolArray:
    """Which spots are single targets rather than clusters that pass for a point.

    Single targets share one sigma; clusters are wider, each in its own way, and may be the majority.
    The mixture of N(sigma_0, error^2), the same widened by a cluster's own variance, and a few
    outliers is fitted by maximum likelihood, with ``least`` single targets or more; a spot is single if
    that is the likeliest for it.
    """
    trial = np.linspace(sigma.min(), sigma.max(), 256)[:, None]
    best, chosen = -np.inf, np.zeros(len(sigma), dtype=bool)
    for stretch in _STRETCHES:
        spread = stretch * np.hypot(error, _UNEVEN * sigma)
        single = _density((sigma - trial) / spread) / spread  # [trial, spot]
        widened = [np.sqrt(trial**2 + v) for v in _CLUSTER_VARIANCE]
        wider = np.mean([_density((sigma - w) / spread) for w in widened], axis=0) / spread
        for share in np.linspace(0.2, 0.95, 16):
            a, b = (1 - _STRAY) * share * single, (1 - _STRAY) * (1 - share) * wider
            member = a > np.maximum(b, _STRAY)
            score = np.log(a + b + _STRAY).sum(1) + _PLENTY * len(sigma) * math.log(share)
            score = np.where(member.sum(1) >= least, score, -np.inf)
            if score.max() > best:
                best, chosen = float(score.max()), member[score.argmax()]
    return chosen


def _density(strain: FloatArray) -> FloatArray:
    density: FloatArray = np.exp(-0.5 * strain**2) / math.sqrt(2 * math.pi)
    return density


def _joint(spots: Spots, noise: FloatArray, fits: _Fits) -> tuple[float, float]:
    """One sigma for all spots and its standard deviation."""
    weight = 1 / _sigma_error(fits) ** 2
    sigma, theta = float((weight * fits.sigma).sum() / weight.sum()), fits.theta
    for _ in range(_ROUNDS):
        state = _fit(spots, noise, sigma=sigma, start=theta)
        theta = state.theta
        gradient, information = _sigma_left(state)
        step = float(gradient.sum() / information.sum())
        sigma = min(max(sigma + step, _SIGMA_RANGE[0]), _SIGMA_RANGE[1])
        if abs(step) < 1e-6:
            break
    return sigma, float(information.sum()) ** -0.5
