"""Levenberg-Marquardt for K point targets, many small images at once: the engine of the classical comparators.

Written apart from the refinement that it is compared with. Arrays are structures of arrays with the
batch last, so that every operation runs over contiguous patches: positions ``[2, K, M]`` (x, y),
radiance ``[K, M]``, images ``[n, n, M]`` (row, column). The model is separable, so the normal matrix
comes from Gram matrices of one-dimensional profiles instead of an ``n^2 x 3K`` Jacobian.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from glint.types import TargetFlag, Targets

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_LEAST_RADIANCE_DN = 1.0  # DN


@dataclass(frozen=True)
class Priors:
    """What a fit knows beforehand.

    Attributes:
        sigma: of the PSF, pixels.
        radiance: mean and standard deviation of a target's radiance, DN, or None.
        box: lowest and highest coordinate of a target on both axes, pixels, or None.
        softness: distance outside of the box that costs as much as one standard deviation, pixels.
    """

    sigma: float
    radiance: tuple[float, float] | None = None
    box: tuple[float, float] | None = None
    softness: float = 0.05


@dataclass(frozen=True, eq=False)
class Images:
    """A batch of images.

    Attributes:
        data: ``[n, n, M]`` DN.
        noise: standard deviation, ``[M]`` DN.
        saturated: ``[n, n, M]``: the value is only a lower bound.
    """

    data: FloatArray
    noise: FloatArray
    saturated: BoolArray

    def take(self, index: NDArray[Any]) -> Images:
        """The images that an index or boolean array names."""
        return Images(self.data[..., index], self.noise[index], self.saturated[..., index])


@dataclass(frozen=True, eq=False)
class PointFit:
    """Fitted targets: position ``[2, K, M]``, radiance ``[K, M]``, and twice the negative log posterior ``[M]``."""

    position: FloatArray
    radiance: FloatArray
    cost: FloatArray

    def take(self, index: NDArray[Any]) -> PointFit:
        """The fits that an index or boolean array names."""
        return PointFit(self.position[..., index], self.radiance[:, index], self.cost[index])


def profiles(position: FloatArray, n: int, sigma: float) -> tuple[FloatArray, FloatArray]:
    """Pixel integrals of the PSF and their derivatives by the coordinate: ``[...]`` -> ``[n, ...]`` each."""
    edges = (np.arange(n + 1) - 0.5).reshape((-1,) + (1,) * position.ndim)
    u = (edges - position) / (math.sqrt(2) * sigma)
    value = np.diff(erf(u), axis=0)
    value *= 0.5
    np.multiply(u, u, out=u)
    np.negative(u, out=u)
    density = np.exp(u, out=u)
    slope = np.diff(density, axis=0)
    slope *= -1 / (math.sqrt(2 * math.pi) * sigma)
    return value, slope


def fit_points(
    images: Images, start: PointFit, priors: Priors, iterations: int, *, tolerance: float = 1e-4
) -> PointFit:
    """Fit K targets to each image from ``start`` (its cost is not used).

    A fit leaves the batch when no coordinate moves by more than ``tolerance`` pixels.
    """
    position, radiance = start.position.copy(), start.radiance.copy()
    cost = np.empty(radiance.shape[1])
    active = np.arange(len(cost))
    here, p, s = images, position.copy(), radiance.copy()
    state = _linearise(here, p, s, priors)
    damping = np.full(len(active), 1e-3)
    for _ in range(iterations):
        step = _solve(state.normal, state.gradient, damping)
        k = len(s)
        move = np.clip(step[: 2 * k], -0.35, 0.35).reshape(2, k, -1)  # the model is only locally linear
        trial_p = p + move
        trial_s = np.maximum(s + step[2 * k :], _LEAST_RADIANCE_DN)
        trial = _linearise(here, trial_p, trial_s, priors)
        better = trial.cost <= state.cost
        p, s = np.where(better, trial_p, p), np.where(better, trial_s, s)
        state = state.merge(trial, better)
        damping = np.clip(np.where(better, damping * 0.1, damping * 10), 1e-9, 1e6)
        done = (better & (np.abs(move).max(axis=(0, 1)) < tolerance)) | (damping >= 1e6)
        if done.mean() > 0.25:  # copying the rest is only worth it now and then
            ended = active[done]
            position[..., ended], radiance[:, ended], cost[ended] = p[..., done], s[:, done], state.cost[done]
            on = ~done
            active, here, p, s = active[on], here.take(on), p[..., on], s[:, on]
            state, damping = state.take(on), damping[on]
            if not len(active):
                break
    position[..., active], radiance[:, active], cost[active] = p, s, state.cost
    return PointFit(position, radiance, cost)


def variances(images: Images, fit: PointFit, priors: Priors) -> FloatArray:
    """Variances of x.., y.., radiance.. from the normal matrix with its priors: ``[3K, M]``.

    What no pixel tells comes out as a variance of 1e6.
    """
    normal = np.moveaxis(_linearise(images, fit.position, fit.radiance, priors).normal, -1, 0)
    inverse = np.linalg.inv(normal + 1e-6 * np.eye(normal.shape[1]))
    return np.maximum(np.diagonal(inverse, axis1=1, axis2=2).T, 0)


def as_targets(
    images: Images,
    fit: PointFit,
    priors: Priors,
    patch: NDArray[np.int64],
    left: NDArray[np.int64],
    top: NDArray[np.int64],
) -> Targets:
    """Rows of all fits, with uncertainties and the score exp(-(sigma_x^2 + sigma_y^2) / 0.01).

    Args:
        images, fit, priors: of the fit, M images.
        patch: number of the patch that each image was cut out of, ``[M]``.
        left, top: column and row of the patch at which each image starts, ``[M]``.
    """
    sigma = np.sqrt(variances(images, fit, priors)).reshape(3, len(fit.radiance), -1)
    x, y = fit.position + np.stack([left, top])[:, None]
    flags = np.where(images.saturated.any(axis=(0, 1)), int(TargetFlag.SATURATED), 0)
    columns = {
        "x": x, "y": y, "radiance": fit.radiance, "sigma_x": sigma[0], "sigma_y": sigma[1],
        "sigma_radiance": sigma[2], "blob": np.broadcast_to(patch, x.shape),
        "score": np.exp(-(sigma[0] ** 2 + sigma[1] ** 2) / 0.01), "flags": np.broadcast_to(flags, x.shape),
    }  # fmt: skip
    return Targets(**{name: value.T.ravel() for name, value in columns.items()})


@dataclass(frozen=True, eq=False)
class _Linear:
    """Normal matrix ``[P, P, M]``, gradient ``[P, M]`` and cost ``[M]`` at a point; P = 3K: x.., y.., radiance.."""

    normal: FloatArray
    gradient: FloatArray
    cost: FloatArray

    def merge(self, other: _Linear, chosen: BoolArray) -> _Linear:
        if chosen.all():
            return other
        return _Linear(*(np.where(chosen, getattr(other, f), getattr(self, f)) for f in vars(self)))

    def take(self, index: BoolArray) -> _Linear:
        return _Linear(*(getattr(self, f)[..., index] for f in vars(self)))


def _linearise(images: Images, position: FloatArray, radiance: FloatArray, priors: Priors) -> _Linear:
    n, (_, k, m) = len(images.data), position.shape
    value, slope = profiles(position, n, priors.sigma)  # [n, 2, K, M]
    # Per axis the profiles and their derivatives, both over the noise's root: [n, 2K, M].
    scale = 1 / images.noise
    columns = np.concatenate([value[:, 0], slope[:, 0]], axis=1)
    rows = np.concatenate([value[:, 1], slope[:, 1]], axis=1) * scale
    bright_rows = rows[:, :k] * radiance
    model = _rank_one_sum(bright_rows, columns[:, :k])
    residual = images.data * scale - model
    free = images.saturated & (residual <= 0)  # at least as bright as the limit: no residual
    residual[free] = 0
    cost = np.einsum("ijm,ijm->m", residual, residual)

    weighted = np.zeros((n, 2 * k, m))  # residual times the columns' profiles
    for j in range(n):
        weighted += residual[:, j, None] * columns[j]
    along = np.einsum("iam,iam->am", rows[:, :k], weighted[:, k:])  # by x
    across = np.einsum("iam,iam->am", rows[:, k:], weighted[:, :k])  # by y
    flux = np.einsum("iam,iam->am", rows[:, :k], weighted[:, :k])  # by radiance
    gradient = np.concatenate([radiance * along, radiance * across, flux])
    normal = _normal_matrix(rows, columns, radiance, free)

    diagonal = np.arange(3 * k)
    if priors.radiance is not None:
        mean, sd = priors.radiance
        strain = (mean - radiance) / sd
        cost = cost + (strain**2).sum(0)
        gradient[2 * k :] += strain / sd
        normal[diagonal[2 * k :], diagonal[2 * k :]] += sd**-2
    if priors.box is not None:
        low, high = priors.box
        flat = position.reshape(2 * k, m)
        outside = (np.clip(flat, low, high) - flat) / priors.softness
        cost = cost + (outside**2).sum(0)
        gradient[: 2 * k] += outside / priors.softness
        normal[diagonal[: 2 * k], diagonal[: 2 * k]] += np.where(outside != 0, priors.softness**-2, 0)
    return _Linear(normal, gradient, cost)


def _rank_one_sum(rows: FloatArray, columns: FloatArray) -> FloatArray:
    """Sum over targets of the outer products of ``[n, K, M]`` profiles: ``[n, n, M]``."""
    image = rows[:, None, 0] * columns[None, :, 0]
    for a in range(1, rows.shape[1]):
        image += rows[:, None, a] * columns[None, :, a]
    return image


def _gram(vectors: FloatArray) -> FloatArray:
    """``[n, A, M]`` -> ``[A, A, M]``, inner products over n."""
    gram = vectors[0, :, None] * vectors[0, None]
    for v in vectors[1:]:
        gram += v[:, None] * v[None]
    return gram


def _normal_matrix(rows: FloatArray, columns: FloatArray, radiance: FloatArray, free: BoolArray) -> FloatArray:
    """J^T J of all pixels less that of the free ones: ``[3K, 3K, M]``."""
    k = len(radiance)
    normal = _combine(_gram(rows), _gram(columns), k)
    for i in np.flatnonzero(free.any(axis=(1, 2))):
        which = np.flatnonzero(free[i].any(axis=1))
        left_out = _gram(columns[which] * free[i, which, None])
        normal -= _combine(rows[i, :, None] * rows[i, None], left_out, k)
    normal[: 2 * k] *= np.concatenate([radiance, radiance])[:, None]
    normal[:, : 2 * k] *= np.concatenate([radiance, radiance])
    return normal


def _combine(rows: FloatArray, columns: FloatArray, k: int) -> FloatArray:
    """Products of row and column Gram matrices ``[2K, 2K, M]`` (profiles, derivatives): ``[3K, 3K, M]``."""
    out = np.empty((3 * k, 3 * k, rows.shape[-1]))
    value, slope = np.s_[:k], np.s_[k:]
    # Parameters differ in the factor that is a derivative: x in the columns, y in the rows, radiance in none.
    kinds = ((value, slope), (slope, value), (value, value))
    for a, (row_a, column_a) in enumerate(kinds):
        for b, (row_b, column_b) in enumerate(kinds[: a + 1]):
            block = out[a * k : (a + 1) * k, b * k : (b + 1) * k]
            np.multiply(rows[row_a, row_b], columns[column_a, column_b], out=block)
            if a != b:
                out[b * k : (b + 1) * k, a * k : (a + 1) * k] = np.swapaxes(block, 0, 1)
    return out


def _solve(normal: FloatArray, gradient: FloatArray, damping: FloatArray) -> FloatArray:
    """(N + damping diag N) step = gradient by L D L^T, all images at once: ``[P, M]``."""
    size = len(gradient)
    lower = normal.copy()
    diagonal = np.arange(size)
    lower[diagonal, diagonal] *= 1 + damping
    lower[diagonal, diagonal] += 1e-12
    step = gradient.copy()
    for j in range(size):
        pivot = np.maximum(lower[j, j], 1e-12)
        lower[j, j] = pivot
        factor = lower[j + 1 :, j] / pivot
        step[j + 1 :] -= factor * step[j]
        for i in range(j + 1, size):  # the lower triangle only
            lower[i, j + 1 : i + 1] -= factor[i - j - 1] * lower[j + 1 : i + 1, j]
        lower[j + 1 :, j] = factor
    step /= lower[diagonal, diagonal]
    for j in range(size - 1, 0, -1):
        step[:j] -= lower[j, :j] * step[j]
    return step
