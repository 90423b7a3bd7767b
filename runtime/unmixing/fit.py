"""The fit behind the refinement: targets and a background plane of one patch, by Levenberg-Marquardt.

The parameters of K targets are one row,

    [x_1 .. x_K, y_1 .. y_K, radiance_1 .. radiance_K, level, slope x, slope y, sigma],

and everything else that has a value per parameter has the same order. Saturated pixels are censored:
where data and model both reach full scale there is no residual.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from glint.compiled import compiled
from glint.runtime.unmixing.normal_equations import PLANE, damped_step, normal_equations

SLOTS = 5  # targets of a patch, at most
_LONGEST_STEP_PX = 0.3  # px; the model is only locally linear
# Five close targets leave directions that the data hardly see: more damping would freeze them.
_DAMPING = 1e-4
_TAIL_FREEDOM = 2.0  # degrees of freedom of the positions' prior
_STILL_PX = 1e-4  # px; a step as short as this ends a fit, and what is left is its square
_LEAST_INFORMATION = 1e-12  # information that keeps a matrix regular

_REACH_SD, _POINTS_PER_SD = 6.5, 64  # reach of the table of the normal distribution, and its points per unit
_POINTS = np.arange(round(-_REACH_SD * _POINTS_PER_SD), round(_REACH_SD * _POINTS_PER_SD) + 2) / _POINTS_PER_SD
_BELOW, _DENSITY = ndtr(_POINTS), np.exp(-(_POINTS**2) / 2) / math.sqrt(2 * math.pi) / _POINTS_PER_SD

Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


class Patch(NamedTuple):
    """A patch and what weighs its pixels.

    Attributes:
        image: ``[w, w]``, DN.
        noise: standard deviation of a pixel, DN.
        full_scale: level at which a pixel is saturated, ``[w, w]``, DN, infinity for none.
        valid: pixels that count, ``[w, w]``.
    """

    image: Array
    noise: float
    full_scale: Array
    valid: BoolArray


class Start(NamedTuple):
    """Where a fit of K targets begins, and what is known before it does; each ``[3 K + 4]``.

    Attributes:
        theta: parameters.
        mean, information: prior of each parameter; information is 1 / variance, 0 where nothing is known. That of
            positions is Student's: a network that errs, errs far, and what it says then must not bind. The others
            are Gaussian. Infinite information of sigma holds it fixed.
    """

    theta: Array
    mean: Array
    information: Array


class Fit(NamedTuple):
    """Where a fit ended.

    Attributes:
        start: where it began.
        theta: parameters, ``[3 K + 4]``.
        misfit: squared residuals over the noise.
        strain: squared distance from the priors in standard deviations.
        information: second derivative of the cost, ``[P, P]`` with P = 3 K + 4, or one less where sigma is held.
        counted: pixels that had a say.
        converged: whether the last step was short.
        falling: by how much the last step lowered misfit and strain together.
    """

    start: Start
    theta: Array
    misfit: float
    strain: float
    information: Array
    counted: int
    converged: bool
    falling: float


class _Work(NamedTuple):
    """Room for the arithmetic of one fit: profiles ``[2 K, w]``, Jacobian ``[P, w^2]`` and residual ``[w^2]``."""

    value: Array
    slope: Array
    width: Array
    jacobian: Array
    residual: Array


@compiled
def targets_of(theta: Array) -> int:
    """K, from a row of parameters."""
    return (len(theta) - PLANE - 1) // 3


@compiled
def fit_targets(patch: Patch, start: Start, iterations: int) -> Fit:
    """Levenberg-Marquardt from a start."""
    theta = start.theta.copy()
    number, size = targets_of(theta), patch.image.shape[0]
    free = len(theta) - (1 if np.isinf(start.information[-1]) else 0)
    work = _Work(
        np.empty((2 * number, size)), np.empty((2 * number, size)), np.empty((2 * number, size)),
        np.empty((free, size * size)), np.empty(size * size),
    )  # fmt: skip
    information, gradient = np.empty((free, free)), np.empty(free)
    tried_information, tried_gradient, trial = np.empty((free, free)), np.empty(free), np.empty_like(theta)
    scaled = np.empty((free, free))
    misfit, strain, counted = _linearise(patch, start, theta, work, information, gradient)
    damping, converged, falling = _DAMPING, False, 0.0
    for _ in range(iterations):
        _step(theta, information, gradient, damping, size, scaled, trial)
        still = True
        for i in range(2 * number):
            still = still and abs(trial[i] - theta[i]) < _STILL_PX
        tried = _linearise(patch, start, trial, work, tried_information, tried_gradient)
        falling = max(misfit + strain - tried[0] - tried[1], 0.0)
        if tried[0] + tried[1] <= misfit + strain:
            damping = max(0.1 * damping, 1e-7)
            misfit, strain, counted = tried
            theta, trial = trial, theta
            information, tried_information = tried_information, information
            gradient, tried_gradient = tried_gradient, gradient
        else:
            damping = min(10 * damping, 1e7)
        if still:  # better or not: at the bottom, rounding decides
            converged = True
            break
    return Fit(start, theta, misfit, strain, information, counted, converged, falling)


@compiled
def _linearise(
    patch: Patch, start: Start, theta: Array, work: _Work, information: Array, gradient: Array
) -> tuple[float, float, int]:
    """Misfit, strain and pixels that count at ``theta``; fills the normal matrix and the downhill gradient."""
    size, number, free = patch.image.shape[0], targets_of(theta), len(gradient)
    _model(theta, size, free, work)
    counted = subtract_model(patch, work.jacobian, work.residual)
    misfit = normal_equations(work.jacobian, work.residual, patch.noise, information, gradient)
    strain = 0.0
    for i in range(free):
        known, off = start.information[i], theta[i] - start.mean[i]
        if i < 2 * number:
            far = known * off * off / _TAIL_FREEDOM
            strain += _TAIL_FREEDOM * math.log(1 + far)
            known /= 1 + far
        else:
            strain += known * off * off
        information[i, i] += known + _LEAST_INFORMATION
        gradient[i] -= known * off
    return misfit, strain, counted


@compiled
def pixel_profile(coordinate: float, sigma: float, value: Array, slope: Array, width: Array) -> None:
    """Fill in g of ``optics`` at pixels 0.. for one target on one axis, and its derivatives by coordinate and sigma."""
    z = (-0.5 - coordinate) / sigma
    below, density = _normal(z)
    for i in range(len(value)):
        next_z = (i + 0.5 - coordinate) / sigma
        above, next_density = _normal(next_z)
        value[i] = above - below
        slope[i] = (density - next_density) / sigma
        width[i] = (z * density - next_z * next_density) / sigma
        z, below, density = next_z, above, next_density


@compiled
def _normal(z: float) -> tuple[float, float]:
    """Distribution and density of the standard normal, to 1e-10 and 2e-8; faster than erf and exp."""
    place = (min(max(z, -_REACH_SD), _REACH_SD) + _REACH_SD) * _POINTS_PER_SD
    k = int(place)
    t = place - k
    # The cubic through both neighbours and with their slopes.
    low, first, last = _BELOW[k], _DENSITY[k], _DENSITY[k + 1]
    rise = _BELOW[k + 1] - low
    bend, twist = 3 * rise - 2 * first - last, first + last - 2 * rise
    return low + t * (first + t * (bend + t * twist)), _POINTS_PER_SD * (first + t * (2 * bend + 3 * t * twist))


@compiled
def _model(theta: Array, size: int, free: int, work: _Work) -> None:
    """Fill in the Jacobian, and what the parameters say the patch is as the residual."""
    number, sigma, middle = targets_of(theta), theta[-1], (size - 1) / 2
    level, slope_x, slope_y = theta[3 * number], theta[3 * number + 1], theta[3 * number + 2]
    jacobian, model, held = work.jacobian, work.residual, free < len(theta)
    for row in range(size):
        for column in range(size):
            i = row * size + column
            jacobian[3 * number, i] = 1.0
            jacobian[3 * number + 1, i] = column - middle
            jacobian[3 * number + 2, i] = row - middle
            model[i] = level + slope_x * (column - middle) + slope_y * (row - middle)
    if not held:
        jacobian[-1, :] = 0.0
    for k in range(number):
        pixel_profile(theta[k], sigma, work.value[k], work.slope[k], work.width[k])
        here = number + k
        pixel_profile(theta[here], sigma, work.value[here], work.slope[here], work.width[here])
        gx, dx, wx = work.value[k], work.slope[k], work.width[k]
        radiance = theta[2 * number + k]
        for row in range(size):
            gy, line = work.value[here, row], radiance * work.value[here, row]
            steep, wide = radiance * work.slope[here, row], radiance * work.width[here, row]
            for column in range(size):
                i = row * size + column
                jacobian[k, i] = line * dx[column]
                jacobian[here, i] = steep * gx[column]
                jacobian[2 * number + k, i] = gy * gx[column]
                model[i] += line * gx[column]
            if not held:
                for column in range(size):
                    jacobian[-1, row * size + column] += line * wx[column] + wide * gx[column]


@compiled
def subtract_model(patch: Patch, jacobian: Array, residual: Array) -> int:
    """Turn the model, which comes as the residual, into what it leaves of a patch; returns how many pixels count.

    Pixels that do not count, and those at full scale in data and model, have no residual and no derivative.
    """
    size = patch.image.shape[0]
    counted = size * size
    for row in range(size):
        for column in range(size):
            i = row * size + column
            expected, limit = residual[i], patch.full_scale[row, column]
            residual[i] = patch.image[row, column] - expected
            dark = patch.image[row, column] >= limit and expected >= limit
            if dark or not patch.valid[row, column]:
                counted -= 1
                residual[i] = 0.0
                jacobian[:, i] = 0.0
    return counted


@compiled
def _step(
    theta: Array, information: Array, gradient: Array, damping: float, size: int, scaled: Array, trial: Array
) -> None:
    """Fill in one damped Gauss-Newton step within bounds."""
    number, free = targets_of(theta), len(gradient)
    damped_step(information, gradient, damping, scaled, trial)
    for i in range(free):
        step = trial[i]
        if i < 2 * number:
            step = min(max(step, -_LONGEST_STEP_PX), _LONGEST_STEP_PX)
            trial[i] = min(max(theta[i] + step, -0.5), size - 0.5)
        elif i < 3 * number:
            trial[i] = max(theta[i] + step, 0.05 * abs(theta[i]))
        else:
            trial[i] = theta[i] + step
    if free == len(theta):
        trial[-1] = min(max(trial[-1], 0.8 * theta[-1]), 1.25 * theta[-1])
    else:
        trial[-1] = theta[-1]


@compiled
def prior_weight(start: Start, theta: Array, i: int) -> float:
    """The information that the prior of a parameter has at ``theta``."""
    known, off = start.information[i], theta[i] - start.mean[i]
    return known / (1 + known * off * off / _TAIL_FREEDOM) if i < 2 * targets_of(theta) else known


@compiled
def render(theta: Array, size: int) -> Array:
    """What parameters say a patch is, before saturation: ``[w, w]``, DN."""
    number, middle = targets_of(theta), (size - 1) / 2
    model = np.empty((size, size))
    for row in range(size):
        for column in range(size):
            x, y = column - middle, row - middle
            model[row, column] = theta[3 * number] + theta[3 * number + 1] * x + theta[3 * number + 2] * y
    gx, gy, unused = np.empty(size), np.empty(size), np.empty(size)
    for k in range(number):
        pixel_profile(theta[k], theta[-1], gx, unused, unused)
        pixel_profile(theta[number + k], theta[-1], gy, unused, unused)
        for row in range(size):
            for column in range(size):
                model[row, column] += theta[2 * number + k] * gy[row] * gx[column]
    return model
