"""The fit behind the refinement: targets and a background plane, by Levenberg-Marquardt, in batches.

Every patch has the same :data:`SLOTS` for targets, used or not, so that patches with different
numbers of targets are one batch. A row of parameters is

    [x_1 .. x_5, y_1 .. y_5, radiance_1 .. radiance_5, level, slope x, slope y, sigma].

Saturated pixels are censored: where data and model both reach full scale there is no residual.
All numbers are float32: noise is far above its resolution, and it is twice as fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.optics import pixel_profiles

SLOTS = 5  # targets of a patch, at most
PLANE = 3  # parameters of the background: level and two slopes
PARAMETERS = 3 * SLOTS + PLANE + 1
X, Y, RADIANCE = (np.s_[:, i * SLOTS : (i + 1) * SLOTS] for i in range(3))
BACKGROUND, SIGMA = np.s_[:, 3 * SLOTS : 3 * SLOTS + PLANE], np.s_[:, -1]
_LONGEST_STEP = 0.3  # px; the model is only locally linear
# Five close targets leave directions that the data hardly see: more damping would freeze them.
_DAMPING = 1e-4
_TAIL = 2.0  # degrees of freedom of the positions' prior
_STILL = 1e-3  # px; a step as short as this ends a fit, and what is left is its square

Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Problem:
    """Patches of one batch and what weighs their pixels.

    Attributes:
        image: ``[M, w, w]``, DN.
        noise: standard deviation of a pixel, DN, ``[M]``.
        full_scale: level at which a pixel is saturated, ``[M, w, w]``, DN, infinity for none.
        valid: pixels that count, ``[M, w, w]``.
    """

    image: Array
    noise: Array
    full_scale: Array
    valid: BoolArray

    def rows(self, index: NDArray[Any]) -> Problem:
        """The patches that an index names."""
        return Problem(*(getattr(self, name)[index] for name in vars(self)))


@dataclass(frozen=True, eq=False)
class Start:
    """Where fits begin, and what is known before they do.

    Attributes:
        theta: parameters, ``[M, PARAMETERS]``; those of unused slots are 0.
        used: which slots hold a target, ``[M, SLOTS]``.
        mean, information: prior of each parameter, ``[M, PARAMETERS]`` (see :func:`prior_weights`); information is
            1 / variance, 0 where nothing is known. Infinite information of sigma holds it fixed.
    """

    theta: Array
    used: BoolArray
    mean: Array
    information: Array

    def rows(self, index: NDArray[Any]) -> Start:
        """The starts that an index names."""
        return Start(*(getattr(self, name)[index] for name in vars(self)))


@dataclass(frozen=True, eq=False)
class Fit:
    """Where fits ended.

    Attributes:
        start: where they began.
        theta: parameters, ``[M, PARAMETERS]``.
        misfit: squared residuals over the noise, ``[M]``.
        strain: squared distance from the priors in standard deviations, ``[M]``.
        information: second derivative of the cost, ``[M, P, P]`` with P = PARAMETERS, or one less
            where sigma is held; 1 on the diagonal of unused slots.
        counted: pixels that had a say, ``[M]``.
        converged: whether the last step was short, ``[M]``.
    """

    start: Start
    theta: Array
    misfit: Array
    strain: Array
    information: Array
    counted: NDArray[np.int64]
    converged: BoolArray

    @property
    def cost(self) -> Array:
        """Negative log posterior up to a constant, ``[M]``."""
        return 0.5 * (self.misfit + self.strain)

    @property
    def number(self) -> NDArray[np.int64]:
        """Targets of each fit, ``[M]``."""
        return self.start.used.sum(axis=1)

    def rows(self, index: NDArray[Any]) -> Fit:
        """The fits that an index names."""
        others = {name: value[index] for name, value in vars(self).items() if name != "start"}
        return Fit(start=self.start.rows(index), **others)

    def replaced(self, index: NDArray[Any], other: Fit) -> Fit:
        """With the rows that an index names taken from ``other``."""
        if not len(index):
            return self  # an empty batch does not know whether its sigma is held

        def mixed(mine: Any, theirs: Any) -> Any:
            result = mine.copy()
            result[index] = theirs
            return result

        start = Start(*(mixed(getattr(self.start, n), getattr(other.start, n)) for n in vars(self.start)))
        names = [name for name in vars(self) if name != "start"]
        return Fit(start=start, **{name: mixed(getattr(self, name), getattr(other, name)) for name in names})


def fit_targets(problem: Problem, start: Start, iterations: int) -> Fit:
    """Levenberg-Marquardt from a start, all patches at once; each keeps its own damping and its own end."""
    fit, gradient = _linearise(problem, start, start.theta)
    damping = np.full(len(start.theta), _DAMPING, dtype=np.float32)
    for _ in range(iterations):
        active = np.flatnonzero(~fit.converged)
        if not len(active):
            break
        # All rows are most often active: no copies then.
        everything = len(active) == len(fit.theta)
        here, begun, now, slope = (
            (problem, start, fit, gradient)
            if everything
            else (problem.rows(active), start.rows(active), fit.rows(active), gradient[active])
        )
        trial = _stepped(here, now, slope, damping[active])
        tried, tried_slope = _linearise(here, begun, trial)
        better = tried.cost <= now.cost
        moved = np.abs(trial - now.theta)[:, : 2 * SLOTS].max(axis=1)
        damping[active] = np.clip(damping[active] * np.where(better, 0.1, 10), 1e-7, 1e7)
        chosen = active[better]
        fit = tried if everything and better.all() else fit.replaced(chosen, tried.rows(np.flatnonzero(better)))
        fit.converged[active[moved < _STILL]] = True  # better or not: at the bottom, rounding decides
        gradient[chosen] = tried_slope[better]
    return fit


def _stepped(problem: Problem, fit: Fit, gradient: Array, damping: Array) -> Array:
    """One damped Gauss-Newton step within bounds, ``[M, PARAMETERS]``."""
    free = gradient.shape[1]
    diagonal = np.arange(free)
    scale = 1 / np.sqrt(fit.information[:, diagonal, diagonal])
    matrix = fit.information * scale[:, :, None] * scale[:, None]
    matrix[:, diagonal, diagonal] += damping[:, None] + np.float32(1e-7)
    step = np.zeros_like(fit.theta)
    step[:, :free] = np.linalg.solve(matrix, (gradient * scale)[..., None])[..., 0] * scale
    positions = step[:, : 2 * SLOTS]
    np.clip(positions, -_LONGEST_STEP, _LONGEST_STEP, out=positions)
    theta = fit.theta + step
    np.clip(theta[:, : 2 * SLOTS], -0.5, problem.image.shape[1] - 0.5, out=theta[:, : 2 * SLOTS])
    theta[RADIANCE] = np.maximum(theta[RADIANCE], 0.05 * np.abs(fit.theta[RADIANCE]))
    theta[SIGMA] = np.clip(theta[SIGMA], 0.8 * fit.theta[SIGMA], 1.25 * fit.theta[SIGMA])
    return theta


def _linearise(problem: Problem, start: Start, theta: Array) -> tuple[Fit, Array]:
    """The fit as if it ended at ``theta``, and the downhill gradient there ``[M, P]``."""
    m, size = len(theta), problem.image.shape[1]
    sigma = theta[SIGMA][:, None]
    gx, dx, sx = pixel_profiles(theta[X], sigma, size)  # [M, SLOTS, w]
    gy, dy, sy = pixel_profiles(theta[Y], sigma, size)
    radiance = (theta[RADIANCE] * start.used)[..., None]
    rows = radiance * gy
    basis = plane_basis(size)
    model = np.swapaxes(rows, 1, 2) @ gx + (theta[BACKGROUND] @ basis).reshape(m, size, size)
    counts = problem.valid & ~((problem.image >= problem.full_scale) & (model >= problem.full_scale))
    weight = counts / problem.noise[:, None, None]
    residual = (problem.image - model) * weight
    held = bool(np.isinf(start.information[:, -1]).all())
    free = PARAMETERS - held
    jacobian = np.empty((m, free, size, size), dtype=np.float32)
    np.multiply(rows[..., None], dx[:, :, None], out=jacobian[X])
    np.multiply((radiance * dy)[..., None], gx[:, :, None], out=jacobian[Y])
    np.multiply((start.used[..., None] * gy)[..., None], gx[:, :, None], out=jacobian[RADIANCE])
    jacobian[BACKGROUND] = basis.reshape(PLANE, size, size)
    if not held:
        jacobian[SIGMA] = np.swapaxes(rows, 1, 2) @ sx + np.swapaxes(radiance * sy, 1, 2) @ gx
    jacobian *= weight[:, None]
    flat = jacobian.reshape(m, free, size * size)
    information = flat @ np.swapaxes(flat, 1, 2)
    weights, strain = prior_weights(start, theta)
    off = (theta - start.mean)[:, :free]
    prior = weights[:, :free]
    gradient = (flat @ residual.reshape(m, size * size, 1))[..., 0] - prior * off
    diagonal = np.arange(free)
    # An unused slot has neither data nor prior; 1 keeps the matrix regular and the slot where it is.
    unused = np.zeros((m, free), dtype=np.float32)
    unused[:, : 3 * SLOTS] = np.tile(~start.used, 3)
    information[:, diagonal, diagonal] += prior + unused + np.float32(1e-12)
    misfit = np.einsum("mij,mij->m", residual, residual)
    fit = Fit(start, theta, misfit, strain, information, counts.sum(axis=(1, 2)), np.zeros(m, dtype=bool))
    return fit, gradient


def prior_weights(start: Start, theta: Array) -> tuple[Array, Array]:
    """The information that the priors have at ``theta`` ``[M, PARAMETERS]``, and their strain ``[M]``.

    Positions have Student's prior: a network that errs, errs far, and what it says then must not bind.
    The others are Gaussian.
    """
    off = theta - start.mean
    information = np.where(np.isinf(start.information), 0, start.information)
    far = information * off**2
    weight = 1 / (1 + far[:, : 2 * SLOTS] / _TAIL)
    strain = far[:, 2 * SLOTS :].sum(axis=1) - _TAIL * np.log(weight).sum(axis=1)
    information[:, : 2 * SLOTS] *= weight
    return information, strain


def render(problem: Problem, fit: Fit) -> Array:
    """What a fit says the patches are, before saturation: ``[M, w, w]``, DN."""
    size = problem.image.shape[1]
    sigma = fit.theta[SIGMA][:, None]
    gx, gy = (pixel_profiles(fit.theta[axis], sigma, size)[0] for axis in (X, Y))
    rows = (fit.theta[RADIANCE] * fit.start.used)[..., None] * gy
    plane = (fit.theta[BACKGROUND] @ plane_basis(size)).reshape(-1, size, size)
    model: Array = np.swapaxes(rows, 1, 2) @ gx + plane
    return model


@lru_cache(maxsize=16)
def plane_basis(n: int) -> Array:
    """Level and slopes about the middle of an n-pixel window: ``float32 [3, n^2]``."""
    ramp = np.arange(n) - (n - 1) / 2
    basis = np.stack([np.ones(n * n), np.tile(ramp, n), np.repeat(ramp, n)]).astype(np.float32)
    basis.setflags(write=False)
    return basis


def fit_plane(values: NDArray[Any], weight: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weighted least squares of a plane over n x n windows.

    Args:
        values, weight: ``[B, n, n]``.

    Returns:
        Level and slopes about the middle ``[B, 3]`` (0 where the weights do not tell), and the inverse
        of their normal matrix ``[B, 3, 3]``.
    """
    basis = plane_basis(values.shape[-1]).astype(np.float64)
    flat = weight.reshape(-1, basis.shape[1])
    weighted = basis * flat[:, None]
    inverse = np.linalg.inv(weighted @ basis.T + 1e-9 * np.eye(PLANE))
    right = weighted @ values.reshape(*flat.shape, 1)
    return (inverse @ right)[..., 0], inverse
