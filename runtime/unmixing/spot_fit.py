"""The fit of spots whose width is not known: points that share one elliptical Gaussian, and a background plane.

The Gaussian is integrated over each pixel, whatever its axes. Along a row it is exact: at a height t above the centre
its density in x is a Gaussian about ``shear * t``. Across the rows it is summed at the nodes of Gauss and Legendre; a
round one needs none of that, it is the product of two profiles (``optics``).

The parameters of K points are one row,

    [x_1 .. x_K, y_1 .. y_K, radiance_1 .. radiance_K, level, slope x, slope y, u, e, shear],

with exp(u) the geometric mean of the axes' standard deviations, exp(u + e) that of a row, exp(u - e) that of y. How
many of the last three are free says ``shape_free``: none (a PSF that is known), 1 (a round spot of any width) or 3.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from glint.compiled import compiled
from glint.runtime.unmixing.fit import Array, Patch, pixel_profile, subtract_model
from glint.runtime.unmixing.normal_equations import PLANE, damped_step, factorise, normal_equations

SHAPE = 3  # parameters of the Gaussian
ANY_WIDTH_PX = 99.0  # for a spot as wide as its window
_NODES, _WEIGHTS = (0.5 * v for v in np.polynomial.legendre.leggauss(5))
_LEAST_LOG_WIDTH = math.log(0.15)  # of px; narrower than a pixel sees
_LEAST_ROUND_LOG_WIDTH = math.log(0.3)  # narrower than the nodes see
_LONGEST_STEP_WIDTHS = 0.5  # step of a position over the larger of a pixel and the width
_SHORT_STEP_SD = 1e-3  # step of a parameter over its standard deviation at which a fit ends
_SHORT_STEP_GAIN = 1e-3  # of misfit and strain; an undamped step that gains less ends a fit, 0.03 deviations off
_DAMPING = 1e-3
_APART_WIDTHS = 0.5  # widths of the PSF from which on two points are in two places
_LEAST_INFORMATION = 1e-12
PER_PX = 4  # offsets per pixel at which a PSF is sampled


class Prior(NamedTuple):
    """Gaussian prior of each parameter: mean and 1 / variance, 0 where nothing is known; ``[3 K + 6]``."""

    mean: Array
    information: Array


class SpotFit(NamedTuple):
    """Where a fit ended.

    Attributes:
        theta: parameters ``[3 K + 6]``.
        misfit: squared residuals over the noise.
        strain: squared distance from the priors in standard deviations.
        information: second derivative of half of both, ``[P, P]``, P = 3 K + 3 + ``shape_free``.
        counted: pixels that had a say.
    """

    theta: Array
    misfit: float
    strain: float
    information: Array
    counted: int


@compiled
def points_of(theta: Array) -> int:
    """K, from a row of parameters."""
    return (len(theta) - PLANE - SHAPE) // 3


@compiled
def fit_points(
    patch: Patch, start: Array, prior: Prior, shape_free: int, iterations: int, widest: float, correction: Array
) -> SpotFit:
    """Levenberg-Marquardt from a start ``[3 K + 6]``, to widths of ``widest`` px at most.

    Pixels that are saturated in data and model do not count. ``correction`` is that of the PSF (see ``correct``).
    """
    theta, size = start.copy(), patch.image.shape[0]
    free = len(theta) - SHAPE + shape_free
    jacobian, residual = np.empty((free, size * size)), np.empty(size * size)
    information, gradient = np.empty((free, free)), np.empty(free)
    tried_information, tried_gradient, scaled = np.empty((free, free)), np.empty(free), np.empty((free, free))
    misfit, strain, counted = _linearise(patch, theta, prior, correction, jacobian, residual, information, gradient)
    damping = _DAMPING
    for _ in range(iterations):
        trial, still = _step(theta, information, gradient, damping, size, scaled, widest)
        tried = _linearise(patch, trial, prior, correction, jacobian, residual, tried_information, tried_gradient)
        gain = misfit + strain - tried[0] - tried[1]
        if gain >= 0:
            still |= gain < _SHORT_STEP_GAIN and damping <= _DAMPING
            damping = max(0.1 * damping, 1e-7)
            misfit, strain, counted = tried
            theta = trial
            information, tried_information = tried_information, information
            gradient, tried_gradient = tried_gradient, gradient
        else:
            damping = min(10 * damping, 1e7)
        if still:
            break
    return SpotFit(theta, misfit, strain, information, counted)


@compiled
def _linearise(
    patch: Patch, theta: Array, prior: Prior, correction: Array, jacobian: Array, residual: Array,
    information: Array, gradient: Array,
) -> tuple[float, float, int]:  # fmt: skip
    """Misfit, strain and pixels that count; fills the normal matrix and the downhill gradient."""
    free = len(gradient)
    shine(theta, jacobian, residual, patch.image.shape[0])
    correct(theta, correction, jacobian, residual, patch.image.shape[0])
    counted = subtract_model(patch, jacobian, residual)
    misfit = normal_equations(jacobian, residual, patch.noise, information, gradient)
    strain = 0.0
    for i in range(free):
        known, off = prior.information[i], theta[i] - prior.mean[i]
        strain += known * off * off
        gradient[i] -= known * off
        information[i, i] += known + _LEAST_INFORMATION
    return misfit, strain, counted


@compiled
def shine(theta: Array, jacobian: Array, model: Array, size: int) -> None:
    """Fill in the Jacobian ``[P, w^2]`` and what the parameters say a window of w x w pixels is, ``[w^2]``."""
    number, middle = points_of(theta), (size - 1) / 2
    first, shape_free = 3 * number, len(jacobian) - 3 * number - PLANE
    for row in range(size):
        for column in range(size):
            i, x, y = row * size + column, column - middle, row - middle
            jacobian[first, i], jacobian[first + 1, i], jacobian[first + 2, i] = 1.0, x, y
            model[i] = theta[first] + theta[first + 1] * x + theta[first + 2] * y
    for m in range(shape_free):
        jacobian[first + PLANE + m] = 0.0
    for k in range(number):
        if theta[-1] == 0 and theta[-2] == 0 and shape_free < SHAPE:
            _round_point(theta, k, jacobian, model, size, shape_free)
        else:
            _point(theta, k, jacobian, model, size, shape_free)


@compiled
def _round_point(theta: Array, k: int, jacobian: Array, model: Array, size: int, shape_free: int) -> None:
    number, sigma = points_of(theta), math.exp(theta[-3])
    gx, dx, wx, gy, dy, wy = (np.empty(size), np.empty(size), np.empty(size), np.empty(size), np.empty(size),
                              np.empty(size))  # fmt: skip
    pixel_profile(theta[k], sigma, gx, dx, wx)
    pixel_profile(theta[number + k], sigma, gy, dy, wy)
    s = theta[2 * number + k]
    for row in range(size):
        for column in range(size):
            i = row * size + column
            jacobian[k, i] = s * gy[row] * dx[column]
            jacobian[number + k, i] = s * dy[row] * gx[column]
            jacobian[2 * number + k, i] = gy[row] * gx[column]
            model[i] += s * gy[row] * gx[column]
            if shape_free:
                jacobian[3 * number + PLANE, i] += s * sigma * (wy[row] * gx[column] + gy[row] * wx[column])


@compiled
def _point(theta: Array, k: int, jacobian: Array, model: Array, size: int, shape_free: int) -> None:
    """A point of an elliptical PSF, row by row at the nodes."""
    number, shear = points_of(theta), theta[-1]
    along, across = math.exp(theta[-3] + theta[-2]), math.exp(theta[-3] - theta[-2])
    x, y, s = theta[k], theta[number + k], theta[2 * number + k]
    gx, dx, wx = np.empty(size), np.empty(size), np.empty(size)
    shape = 3 * number + PLANE
    for row in range(size):
        for column in range(size):
            i = row * size + column
            jacobian[k, i] = jacobian[number + k, i] = jacobian[2 * number + k, i] = 0.0
        for node in range(len(_NODES)):
            off = row + _NODES[node] - y
            reduced = off / across
            share = _WEIGHTS[node] * math.exp(-0.5 * reduced * reduced) / (across * math.sqrt(2 * math.pi))
            if abs(reduced) > 6:
                continue
            pixel_profile(x + shear * off, along, gx, dx, wx)
            fall, bend = share * off / (across * across), share * (reduced * reduced - 1)
            for column in range(size):
                i = row * size + column
                jacobian[2 * number + k, i] += share * gx[column]
                jacobian[k, i] += s * share * dx[column]
                jacobian[number + k, i] += s * (fall * gx[column] - share * shear * dx[column])
                if shape_free:
                    narrow, wide = s * share * along * wx[column], s * bend * gx[column]
                    jacobian[shape, i] += narrow + wide
                    if shape_free == SHAPE:
                        jacobian[shape + 1, i] += narrow - wide
                        jacobian[shape + 2, i] += s * share * off * dx[column]
        for column in range(size):
            model[row * size + column] += s * jacobian[2 * number + k, row * size + column]


@compiled
def correct(theta: Array, correction: Array, jacobian: Array, model: Array, size: int) -> None:
    """Add to ``shine`` what the PSF is beyond its Gaussian.

    Args:
        theta: parameters of K points.
        correction: coefficients of cubic B-splines ``[m, m]``, m odd, of a pixel's share of the radiance at offsets
            1 / ``PER_PX`` px apart, the middle is offset 0; ``[0, 0]`` for none.
        jacobian, model: as ``shine`` fills them in, of a window of ``size`` pixels.
    """
    number, m = points_of(theta), len(correction)
    wx, dx, wy, dy = np.empty(4), np.empty(4), np.empty(4), np.empty(4)
    for k in range(number if m else 0):
        first_x = _taps(theta[k], m, wx, dx)
        first_y = _taps(theta[number + k], m, wy, dy)
        s = theta[2 * number + k]
        for row in range(size):
            top = first_y + row * PER_PX
            if top < 0 or top + 4 > m:
                continue
            for column in range(size):
                left = first_x + column * PER_PX
                if left < 0 or left + 4 > m:
                    continue
                value, slope_x, slope_y = 0.0, 0.0, 0.0
                for i in range(4):
                    along, bend = 0.0, 0.0
                    for j in range(4):
                        along += wx[j] * correction[top + i, left + j]
                        bend += dx[j] * correction[top + i, left + j]
                    value += wy[i] * along
                    slope_x += wy[i] * bend
                    slope_y += dy[i] * along
                at = row * size + column
                model[at] += s * value
                jacobian[2 * number + k, at] += value
                jacobian[k, at] -= s * PER_PX * slope_x
                jacobian[number + k, at] -= s * PER_PX * slope_y


@compiled
def _taps(place: float, m: int, weight: Array, slope: Array) -> int:
    """Fill in weights of the four splines about pixel 0 and their slopes; the place of the first one."""
    at = m // 2 - place * PER_PX
    first = math.floor(at)
    t = at - first
    weight[0], weight[3] = (1 - t) ** 3 / 6, t**3 / 6
    weight[1], weight[2] = (4 - 6 * t * t + 3 * t**3) / 6, (1 + 3 * t + 3 * t * t - 3 * t**3) / 6
    slope[0], slope[3] = -((1 - t) ** 2) / 2, t * t / 2
    slope[1], slope[2] = (3 * t * t - 4 * t) / 2, (1 + 2 * t - 3 * t * t) / 2
    return int(first) - 1


@compiled
def _step(
    theta: Array, information: Array, gradient: Array, damping: float, size: int, scaled: Array, widest: float
) -> tuple[Array, bool]:
    """One damped step within bounds, and whether it is too short to matter."""
    number, free = points_of(theta), len(gradient)
    trial, step = theta.copy(), np.empty(free)
    damped_step(information, gradient, damping, scaled, step)
    still, longest = True, _LONGEST_STEP_WIDTHS * max(1.0, math.exp(theta[-3]))
    for i in range(free):
        move = step[i]
        still = still and abs(move) * math.sqrt(information[i, i]) < _SHORT_STEP_SD
        if i < 2 * number:
            trial[i] = min(max(theta[i] + min(max(move, -longest), longest), -0.5), size - 0.5)
        elif i < 3 * number:
            trial[i] = max(theta[i] + move, 0.05 * abs(theta[i]))
        elif i < 3 * number + PLANE:
            trial[i] = theta[i] + move
        else:
            trial[i] = theta[i] + min(max(move, -0.4), 0.4)
    shape_free = free - 3 * number - PLANE
    if shape_free:
        trial[-3] = min(
            max(trial[-3], _LEAST_LOG_WIDTH if shape_free < SHAPE else _LEAST_ROUND_LOG_WIDTH),
            math.log(min(widest, size)),
        )
    if shape_free == SHAPE:
        trial[-2], trial[-1] = min(max(trial[-2], -0.9), 0.9), min(max(trial[-1], -2.0), 2.0)
    return trial, still


@compiled
def log_evidence(fit: SpotFit, prior: Prior) -> float:
    """Log of the data's probability under the model, by Laplace; parameters without a prior cost nothing.

    The K! orders of K points are as many ways to be right; points in one place have but one.
    """
    free, number = len(fit.information), points_of(fit.theta)
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
