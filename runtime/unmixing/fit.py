"""The fit of a patch: its points and their plane (``point_model``), by Levenberg-Marquardt.

There is one descent and there are two ways in: ``fit_targets``, for targets of a PSF that is known or nearly so, with
what a network says of them as heavy-tailed priors; ``fit_points``, for spots of any width, with Gaussian priors.
Saturated pixels are censored: where data and model both reach full scale there is no residual.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glint.compiled import compiled
from glint.runtime.unmixing.normal_equations import PLANE, Array, damped_step, factorise, normal_equations
from glint.runtime.unmixing.point_model import SHAPE, correct, shine_any, shine_round, targets_of

SLOTS = 5  # targets of a patch, at most
ANY_WIDTH_PX = 99.0  # for a spot as wide as its window
_TAIL_FREEDOM = 2.0  # degrees of freedom of the positions' prior
_LEAST_INFORMATION = 1e-12  # information that keeps a matrix regular
_APART_WIDTHS = 0.5  # widths of the PSF from which on two points are in two places

# Of targets. Five close ones leave directions that the data hardly see: more damping would freeze them.
_TARGETS_DAMPING = 1e-4
_LONGEST_STEP_PX = 0.3  # px; the model is only locally linear
_STILL_PX = 1e-4  # px; a step as short as this ends a fit, and what is left is its square

# Of points of any width.
_POINTS_DAMPING = 1e-3
_LONGEST_STEP_WIDTHS = 0.5  # step of a position over the larger of a pixel and the width
_LONGEST_SHAPE_STEP = 0.4  # of u, e and shear
_SHORT_STEP_SD = 1e-3  # step of a parameter over its standard deviation at which a fit ends
_SHORT_STEP_GAIN = 1e-3  # of misfit and strain; an undamped step that gains less ends a fit, 0.03 deviations off
_LEAST_LOG_WIDTH = math.log(0.15)  # of px; narrower than a pixel sees
_LEAST_ELLIPTICAL_LOG_WIDTH = math.log(0.3)  # of px; narrower than the nodes see

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
    """Where a fit of K points begins, and what is known before it does; each ``[P]``.

    Attributes:
        theta: parameters.
        mean, information: prior of each parameter; information is 1 / variance, 0 where nothing is known. That of
            positions of targets is Student's: a network that errs, errs far, and what it says then must not bind. The
            others are Gaussian. Infinite information of sigma holds it fixed.
    """

    theta: Array
    mean: Array
    information: Array


class Prior(NamedTuple):
    """Gaussian prior of each parameter: mean and 1 / variance, 0 where nothing is known; ``[3 K + 6]``."""

    mean: Array
    information: Array


class Fit(NamedTuple):
    """Where a fit ended.

    Attributes:
        start: where it began.
        theta: parameters.
        misfit: squared residuals over the noise.
        strain: squared distance from the priors in standard deviations.
        information: second derivative of the cost, half of both, by the parameters that are free.
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


class _Problem(NamedTuple):
    """What a fit is made of.

    Attributes:
        patch, start: what is fitted, and from where.
        any_width: whether the shape is that of a PSF of any width; else it is sigma.
        widest: px at most, of a PSF of any width.
        correction: of that PSF (see ``point_model.correct``).
        jacobian, residual: room for both, ``[P, w^2]`` and ``[w^2]``; the first P parameters are free.
    """

    patch: Patch
    start: Start
    any_width: bool
    widest: float
    correction: Array
    jacobian: Array
    residual: Array


@compiled
def fit_targets(patch: Patch, start: Start, iterations: int) -> Fit:
    """Fit targets of a PSF whose sigma is known, or has a prior, from a start ``[3 K + 4]``."""
    size = patch.image.shape[0]
    free = len(start.theta) - (1 if np.isinf(start.information[-1]) else 0)
    jacobian, residual = np.empty((free, size * size)), np.empty(size * size)
    problem = _Problem(patch, start, False, ANY_WIDTH_PX, np.empty((0, 0)), jacobian, residual)
    return _descend(problem, _TARGETS_DAMPING, -np.inf, iterations)


@compiled
def fit_points(
    patch: Patch, start: Array, prior: Prior, shape_free: int, iterations: int, widest: float, correction: Array
) -> Fit:
    """Fit points of a PSF of any width from a start ``[3 K + 6]``, to widths of ``widest`` px at most.

    ``shape_free`` says how many parameters of the shape are free: 0 (a PSF that is known), 1 (a round one of any
    width) or 3. ``correction`` is that of the PSF (see ``point_model.correct``).
    """
    size, free = patch.image.shape[0], len(start) - SHAPE + shape_free
    jacobian, residual = np.empty((free, size * size)), np.empty(size * size)
    begun = Start(start, prior.mean, prior.information)
    problem = _Problem(patch, begun, True, widest, correction, jacobian, residual)
    return _descend(problem, _POINTS_DAMPING, _SHORT_STEP_GAIN, iterations)


@compiled
def _descend(problem: _Problem, first_damping: float, least_gain: float, iterations: int) -> Fit:
    """Levenberg-Marquardt: the parameters at which misfit and strain together are least.

    A step that gains less than ``least_gain``, with no more than the first damping, is the last.
    """
    theta, free = problem.start.theta.copy(), len(problem.jacobian)
    information, gradient, scaled = np.empty((free, free)), np.empty(free), np.empty((free, free))
    tried_information, tried_gradient = np.empty((free, free)), np.empty(free)
    trial, step = theta.copy(), np.empty(free)
    misfit, strain, counted = _linearise(problem, theta, information, gradient)
    damping, converged, falling = first_damping, False, 0.0
    for _ in range(iterations):
        damped_step(information, gradient, damping, scaled, step)
        if problem.any_width:
            converged = _move_points(problem, theta, step, information, trial)
        else:
            converged = _move_targets(problem, theta, step, trial)
        tried = _linearise(problem, trial, tried_information, tried_gradient)
        gain = misfit + strain - tried[0] - tried[1]
        falling = max(gain, 0.0)
        if tried[0] + tried[1] <= misfit + strain:
            converged = converged or (gain < least_gain and damping <= first_damping)
            damping = max(0.1 * damping, 1e-7)
            misfit, strain, counted = tried
            theta, trial = trial, theta
            information, tried_information = tried_information, information
            gradient, tried_gradient = tried_gradient, gradient
        else:
            damping = min(10 * damping, 1e7)
        if converged:  # better or not: at the bottom, rounding decides
            break
    return Fit(problem.start, theta, misfit, strain, information, counted, converged, falling)


@compiled
def _linearise(problem: _Problem, theta: Array, information: Array, gradient: Array) -> tuple[float, float, int]:
    """Misfit, strain and pixels that count at ``theta``; fills the normal matrix and the downhill gradient."""
    patch, start = problem.patch, problem.start
    if problem.any_width:
        shine_any(theta, problem.jacobian, problem.residual, patch.image.shape[0])
        correct(theta, problem.correction, problem.jacobian, problem.residual, patch.image.shape[0])
    else:
        _shine_targets(theta, problem.jacobian, problem.residual, patch.image.shape[0])
    counted = _subtract_model(patch, problem.jacobian, problem.residual)
    misfit = normal_equations(problem.jacobian, problem.residual, patch.noise, information, gradient)
    strain, tailed = 0.0, 0 if problem.any_width else 2 * targets_of(theta)
    for i in range(len(gradient)):
        known, off = start.information[i], theta[i] - start.mean[i]
        if i < tailed:
            far = known * off * off / _TAIL_FREEDOM
            strain += _TAIL_FREEDOM * math.log(1 + far)
            known /= 1 + far
        else:
            strain += known * off * off
        information[i, i] += known + _LEAST_INFORMATION
        gradient[i] -= known * off
    return misfit, strain, counted


@compiled
def _shine_targets(theta: Array, jacobian: Array, model: Array, size: int) -> None:
    """The model and its derivatives, also by sigma where that is free."""
    number = targets_of(theta)
    profiles = shine_round(theta, theta[-1], jacobian, model, size)
    if len(jacobian) < len(theta):
        return
    for k in range(number):
        gx, wx, gy, wy = profiles[k, 0], profiles[k, 2], profiles[k, 3], profiles[k, 5]
        for row in range(size):
            line, wide = theta[2 * number + k] * gy[row], theta[2 * number + k] * wy[row]
            for column in range(size):
                jacobian[-1, row * size + column] += line * wx[column] + wide * gx[column]


@compiled
def _subtract_model(patch: Patch, jacobian: Array, residual: Array) -> int:
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
def _move_targets(problem: _Problem, theta: Array, step: Array, trial: Array) -> bool:
    """Fill in one step within bounds; whether no target moves by more than ``_STILL_PX``."""
    _move(theta, step, _LONGEST_STEP_PX, problem.patch.image.shape[0], trial)
    if len(step) == len(theta):
        trial[-1] = min(max(theta[-1] + step[-1], 0.8 * theta[-1]), 1.25 * theta[-1])
    still = True
    for i in range(2 * targets_of(theta)):
        still = still and abs(trial[i] - theta[i]) < _STILL_PX
    return still


@compiled
def _move_points(problem: _Problem, theta: Array, step: Array, information: Array, trial: Array) -> bool:
    """Fill in one step within bounds; whether it is too short to matter."""
    size = problem.patch.image.shape[0]
    _move(theta, step, _LONGEST_STEP_WIDTHS * max(1.0, math.exp(theta[-3])), size, trial)
    first = len(theta) - SHAPE
    for i in range(first, len(step)):
        trial[i] = theta[i] + min(max(step[i], -_LONGEST_SHAPE_STEP), _LONGEST_SHAPE_STEP)
    if len(step) > first:
        least = _LEAST_LOG_WIDTH if len(step) < len(theta) else _LEAST_ELLIPTICAL_LOG_WIDTH
        trial[-3] = min(max(trial[-3], least), math.log(min(problem.widest, size)))
    if len(step) == len(theta):
        trial[-2], trial[-1] = min(max(trial[-2], -0.9), 0.9), min(max(trial[-1], -2.0), 2.0)
    still = True
    for i in range(len(step)):
        still = still and abs(step[i]) * math.sqrt(information[i, i]) < _SHORT_STEP_SD
    return still


@compiled
def _move(theta: Array, step: Array, longest: float, size: int, trial: Array) -> None:
    """Fill in places and radiances, within bounds, and the plane; places move by ``longest`` px at most."""
    number = targets_of(theta)
    for i in range(3 * number + PLANE):
        if i < 2 * number:
            trial[i] = min(max(theta[i] + min(max(step[i], -longest), longest), -0.5), size - 0.5)
        elif i < 3 * number:
            trial[i] = max(theta[i] + step[i], 0.05 * abs(theta[i]))
        else:
            trial[i] = theta[i] + step[i]


@compiled
def prior_weight(start: Start, theta: Array, i: int) -> float:
    """The information that the prior of a parameter has at ``theta``."""
    known, off = start.information[i], theta[i] - start.mean[i]
    return known / (1 + known * off * off / _TAIL_FREEDOM) if i < 2 * targets_of(theta) else known


@compiled
def log_evidence(fit: Fit, prior: Prior) -> float:
    """Log of the data's probability under the model, by Laplace; parameters without a prior cost nothing.

    The K! orders of K points are as many ways to be right; points in one place have but one.
    """
    free, number = len(fit.information), targets_of(fit.theta)
    factor, total = np.empty((free, free)), -0.5 * (fit.misfit + fit.strain)
    for i in range(free):
        for j in range(i + 1):
            factor[i, j] = fit.information[i, j] / math.sqrt(fit.information[i, i] * fit.information[j, j])
        total -= 0.5 * math.log(fit.information[i, i])
        if prior.information[i] > 0:
            total += 0.5 * math.log(prior.information[i])
    factorise(factor)
    for i in range(free):
        total += math.log(factor[i, i])
    near = _APART_WIDTHS * math.exp(fit.theta[-3])
    for k in range(number):
        ways = 1
        for j in range(k):
            ways += math.hypot(fit.theta[j] - fit.theta[k], fit.theta[number + j] - fit.theta[number + k]) > near
        total += math.log(ways)
    return total
