"""The model of a patch: points, which share one PSF, and a background plane; and its derivatives.

The parameters of K points are one row,

    [x_1 .. x_K, y_1 .. y_K, radiance_1 .. radiance_K, level, slope x, slope y, shape ..],

and everything else that has a value per parameter has the same order. The shape of the PSF has one of two forms: sigma
alone, of a PSF that is about known; or three parameters of a Gaussian of any width, round or elliptical,

    [u, e, shear],

with exp(u) the geometric mean of the axes' standard deviations, exp(u + e) that of a row, exp(u - e) that of y.

The Gaussian is integrated over each pixel, whatever its axes. Along a row it is exact: at a height t above the centre
its density in x is a Gaussian about ``shear * t``. Across the rows it is summed at the nodes of Gauss and Legendre; a
round one needs none of that, it is the product of two profiles (``optics``).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtr

from glint.compiled import compiled
from glint.runtime.unmixing.normal_equations import PLANE, Array

SHAPE = 3  # parameters of a Gaussian of any width
PER_PX = 4  # offsets per pixel at which a PSF is sampled
_NODES, _WEIGHTS = (0.5 * v for v in np.polynomial.legendre.leggauss(5))
_REACH_SD, _POINTS_PER_SD = 6.5, 64  # reach of the table of the normal distribution, and its points per unit
_POINTS = np.arange(round(-_REACH_SD * _POINTS_PER_SD), round(_REACH_SD * _POINTS_PER_SD) + 2) / _POINTS_PER_SD
_BELOW, _DENSITY = ndtr(_POINTS), np.exp(-(_POINTS**2) / 2) / math.sqrt(2 * math.pi) / _POINTS_PER_SD


@compiled
def targets_of(theta: Array) -> int:
    """K, from a row of parameters, whatever the form of its shape."""
    return (len(theta) - PLANE - 1) // 3


@compiled
def shine_plane(theta: Array, jacobian: Array, model: Array, size: int) -> None:
    """Fill in the background plane of a window of w x w pixels, ``[w^2]``, its derivatives, and zeros in rows below."""
    first, middle = 3 * targets_of(theta), (size - 1) / 2
    level, slope_x, slope_y = theta[first], theta[first + 1], theta[first + 2]
    for row in range(size):
        for column in range(size):
            i = row * size + column
            jacobian[first, i] = 1.0
            jacobian[first + 1, i] = column - middle
            jacobian[first + 2, i] = row - middle
            model[i] = level + slope_x * (column - middle) + slope_y * (row - middle)
    jacobian[first + PLANE :] = 0.0


@compiled
def shine_round(theta: Array, sigma: float, jacobian: Array, model: Array, size: int) -> Array:
    """Fill in what the parameters say a window is, ``[w^2]``, of a round PSF, and its Jacobian ``[P, w^2]``.

    Rows of the Jacobian beyond the plane's are 0.

    Returns:
        The profiles of each target, ``[K, 6, w]``: g along x, its derivatives by x and by sigma; the same along y.
    """
    number = targets_of(theta)
    profiles = np.empty((number, 6, size))
    shine_plane(theta, jacobian, model, size)
    for k in range(number):
        gx, dx, wx = profiles[k, 0], profiles[k, 1], profiles[k, 2]
        gy, dy, wy = profiles[k, 3], profiles[k, 4], profiles[k, 5]
        pixel_profile(theta[k], sigma, gx, dx, wx)
        pixel_profile(theta[number + k], sigma, gy, dy, wy)
        radiance = theta[2 * number + k]
        for row in range(size):
            light, line, steep = gy[row], radiance * gy[row], radiance * dy[row]
            for column in range(size):
                i = row * size + column
                jacobian[k, i] = line * dx[column]
                jacobian[number + k, i] = steep * gx[column]
                jacobian[2 * number + k, i] = light * gx[column]
                model[i] += line * gx[column]
    return profiles


@compiled
def shine_any(theta: Array, jacobian: Array, model: Array, size: int) -> None:
    """Fill in what the parameters say a window is, ``[w^2]``, of a PSF of any width, and its Jacobian ``[P, w^2]``."""
    number = targets_of(theta)
    shape_free = len(jacobian) - 3 * number - PLANE
    if theta[-1] == 0 and theta[-2] == 0 and shape_free < SHAPE:
        _shine_round_of_any_width(theta, jacobian, model, size)
        return
    shine_plane(theta, jacobian, model, size)
    for k in range(number):
        _point(theta, k, jacobian, model, size, shape_free)


@compiled
def _shine_round_of_any_width(theta: Array, jacobian: Array, model: Array, size: int) -> None:
    number, sigma = targets_of(theta), math.exp(theta[-3])
    profiles = shine_round(theta, sigma, jacobian, model, size)
    if len(jacobian) == 3 * number + PLANE:
        return
    for k in range(number):
        gx, wx, gy, wy = profiles[k, 0], profiles[k, 2], profiles[k, 3], profiles[k, 5]
        s = theta[2 * number + k]
        for row in range(size):
            for column in range(size):
                i = row * size + column
                jacobian[3 * number + PLANE, i] += s * sigma * (wy[row] * gx[column] + gy[row] * wx[column])


@compiled
def _point(theta: Array, k: int, jacobian: Array, model: Array, size: int, shape_free: int) -> None:
    """A point of an elliptical PSF, row by row at the nodes."""
    number, shear = targets_of(theta), theta[-1]
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
    """Add to ``shine_any`` what the PSF is beyond its Gaussian.

    Args:
        theta: parameters of K points.
        correction: coefficients of cubic B-splines ``[m, m]``, m odd, of a pixel's share of the radiance at offsets
            1 / ``PER_PX`` px apart, the middle is offset 0; ``[0, 0]`` for none.
        jacobian, model: as ``shine_any`` fills them in, of a window of ``size`` pixels.
    """
    number, m = targets_of(theta), len(correction)
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
