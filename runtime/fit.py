"""The fit behind the refinement: targets and a background plane, by Levenberg-Marquardt, in batches.

All patches of a batch have the same number K of targets; a row of parameters is
[x.., y.., radiance.., level, slope x, slope y]. Saturated pixels are censored: where data and model
both reach full scale there is no residual.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.optics import Psf

PLANE = 3  # parameters of the background: level and two slopes
_REWEIGHTINGS = 8

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Problem:
    """Patches of one batch and what weighs their pixels."""

    image: FloatArray  # [M, n, n] DN
    noise: FloatArray  # [M] DN
    full_scale: FloatArray  # [M, n, n] DN, infinity for none
    valid: BoolArray  # [M, n, n] pixels that count
    background_sd: FloatArray  # [M, 3] DN, DN per pixel twice: level and slopes
    radiance: tuple[float, float] | None
    psf: Psf

    def rows(self, index: NDArray[Any]) -> Problem:
        """The patches that an index names."""
        return replace(
            self, image=self.image[index], noise=self.noise[index], full_scale=self.full_scale[index],
            background_sd=self.background_sd[index], valid=self.valid[index],
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Fit:
    """A batch of fits with K targets each; ``theta`` is [x.., y.., radiance.., level, slope x, slope y]."""

    theta: FloatArray  # [M, 3K + 3]
    cost: FloatArray  # [M] negative log posterior
    converged: BoolArray  # [M]

    @property
    def count(self) -> int:
        """Number of targets K."""
        return target_count(self.theta)

    def column(self, which: int) -> FloatArray:
        """x (0), y (1) or radiance (2): ``[M, K]``."""
        k = self.count
        return self.theta[:, which * k : (which + 1) * k]


def target_count(theta: FloatArray) -> int:
    """Number of targets that a row of parameters describes."""
    return (theta.shape[1] - PLANE) // 3


def fit_targets(problem: Problem, theta: FloatArray, iterations: int) -> Fit:
    """Levenberg-Marquardt from ``theta``, all patches at once; each keeps its own damping."""
    m, parameters = theta.shape
    k = target_count(theta)
    theta = theta.copy()
    damping = np.full(m, 1e-2)
    residual, counts = model_residual(problem, theta)
    cost = posterior_cost(problem, theta, residual)
    converged = np.zeros(m, dtype=bool)
    diagonal = np.arange(parameters)
    for _ in range(iterations):
        flat, prior = normal_equations(problem, theta, counts)
        gradient = np.einsum("mnp,mn->mp", flat, (residual / problem.noise[:, None, None]).reshape(m, -1))
        mean = np.zeros(parameters)
        if problem.radiance is not None:
            mean[2 * k : 3 * k] = problem.radiance[0]
        gradient -= prior * (theta - mean)
        matrix = np.swapaxes(flat, 1, 2) @ flat
        matrix[:, diagonal, diagonal] += prior
        scale = matrix[:, diagonal, diagonal]
        matrix[:, diagonal, diagonal] += damping[:, None] * scale + 1e-12
        step = np.linalg.solve(matrix, gradient[..., None])[..., 0]
        step[:, : 2 * k] = np.clip(step[:, : 2 * k], -0.3, 0.3)  # the model is only locally linear
        trial = theta + step
        trial[:, : 2 * k] = np.clip(trial[:, : 2 * k], -0.5, problem.image.shape[1] - 0.5)
        trial[:, 2 * k : 3 * k] = np.maximum(trial[:, 2 * k : 3 * k], 0.05 * np.abs(theta[:, 2 * k : 3 * k]) + 1e-6)
        trial_residual, trial_counts = model_residual(problem, trial)
        trial_cost = posterior_cost(problem, trial, trial_residual)
        better = trial_cost <= cost
        moved = np.abs(trial - theta)[:, : 2 * k].max(1, initial=0.0)
        converged |= better & (moved < 1e-3)
        theta[better], residual[better] = trial[better], trial_residual[better]
        counts[better], cost = trial_counts[better], np.where(better, trial_cost, cost)
        damping = np.clip(np.where(better, damping / 5, damping * 10), 1e-7, 1e7)
        if converged.all():
            break
    return Fit(theta, cost, converged)


def model_residual(problem: Problem, theta: FloatArray) -> tuple[FloatArray, BoolArray]:
    """Pixels minus model ``[M, n, n]`` in DN, zero where censored, and which pixels count."""
    k = target_count(theta)
    model = problem.psf.render(theta[:, :k], theta[:, k : 2 * k], theta[:, 2 * k : 3 * k], problem.image.shape[1:])
    model += (theta[:, -PLANE:] @ plane_basis(model.shape[-1]).T).reshape(model.shape)
    limit = problem.full_scale
    counts = problem.valid & ~((problem.image >= limit) & (model >= limit))
    return np.where(counts, problem.image - model, 0.0), counts


def posterior_cost(problem: Problem, theta: FloatArray, residual: FloatArray) -> FloatArray:
    """Negative log posterior up to a constant: half the squared residuals and prior misfits, ``[M]``."""
    k = target_count(theta)
    cost: FloatArray = 0.5 * (residual**2).sum(axis=(1, 2)) / problem.noise**2
    cost += 0.5 * ((theta[:, -PLANE:] / problem.background_sd) ** 2).sum(1)
    if problem.radiance is not None:
        mean, sd = problem.radiance
        cost += 0.5 * (((theta[:, 2 * k : 3 * k] - mean) / sd) ** 2).sum(1)
    return cost


def normal_equations(problem: Problem, theta: FloatArray, counts: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Jacobian ``[M, n^2, P]`` over the noise and the diagonal of the priors' information ``[M, P]``."""
    m, parameters = theta.shape
    k = target_count(theta)
    shape = problem.image.shape[1:]
    jacobian = problem.psf.jacobian(theta[:, :k], theta[:, k : 2 * k], theta[:, 2 * k : 3 * k], shape)
    flat = np.moveaxis(jacobian, -1, -2).reshape(m, shape[0] * shape[1], 3 * k)
    plane = np.broadcast_to(plane_basis(shape[0]), (m, flat.shape[1], PLANE))
    flat = np.concatenate([flat, plane], axis=2)
    flat *= (counts.reshape(m, -1) / problem.noise[:, None])[..., None]
    prior = np.zeros((m, parameters))
    prior[:, -PLANE:] = problem.background_sd**-2
    if problem.radiance is not None:
        prior[:, 2 * k : 3 * k] = problem.radiance[1] ** -2
    return flat, prior


def plane_basis(n: int) -> FloatArray:
    """Level and slopes about the middle of an n-pixel window: ``[n^2, 3]``."""
    ramp = np.arange(n) - (n - 1) / 2
    return np.stack([np.ones(n * n), np.tile(ramp, n), np.repeat(ramp, n)], axis=1)


def fit_plane(values: FloatArray, basis: FloatArray, weight: FloatArray) -> FloatArray:
    """Weighted least-squares coefficients: values and weights ``[B, P]``, basis ``[P, 3]`` -> ``[B, 3]``."""
    weighted = basis * weight[..., None]
    normal = np.swapaxes(weighted, 1, 2) @ basis + 1e-9 * np.eye(basis.shape[1])  # without any weight: 0
    solution = np.linalg.solve(normal, np.swapaxes(weighted, 1, 2) @ values[..., None])
    return solution[..., 0].astype(np.float64, copy=False)


def border_noise(image: FloatArray) -> FloatArray:
    """Robust standard deviation of the outermost ring of each patch about its plane, ``[N, n, n]`` -> ``[N]``.

    The plane has the least absolute deviations, so light that reaches the ring hardly tilts it.
    """
    ring = np.ones(image.shape[1:], dtype=bool)
    ring[1:-1, 1:-1] = False
    values, basis = image[:, ring], plane_basis(image.shape[1])[ring.ravel()]
    rest: FloatArray = np.subtract(values, np.median(values, axis=1, keepdims=True), dtype=np.float64)
    for _ in range(_REWEIGHTINGS):
        scale = 1e-3 + 0.1 * np.median(np.abs(rest), axis=1, keepdims=True)
        rest = values - fit_plane(values, basis, 1 / np.maximum(np.abs(rest), scale)) @ basis.T
    deviation: FloatArray = np.median(np.abs(rest - np.median(rest, axis=1, keepdims=True)), axis=1)
    return 1.4826 * deviation
