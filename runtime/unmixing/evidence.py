"""How many targets a spot holds: points of the PSF against one spot that is wider, by their evidence.

For each number of points the likelihood of the window's pixels, under the noise that was measured, is integrated over
all parameters (Laplace); so is that of one Gaussian of any width, round or elliptical. More parameters are paid for by
the volume that the data leave of their priors. All priors are here:

- nine blobs of ten hold one target; 2 to 5 are alike;
- a spot is wider than the PSF once in ten thousand where the PSF is given or the radiance of targets is told (who knows
  that knows what is in his frames), once in a thousand where the PSF was learned: a PSF is believed until points of it
  do not explain what is seen;
- what the network says of the number counts where it knows the optics, but never for more than a factor of a hundred;
- positions lie about the spot's centre, as far as the spot is wider than the PSF and 0.6 of the PSF's width; each of
  several lies in the spot's mask or right beside it: light farther off is of a cloud;
- radiances are as told, or share the spot's light alike to 60 %;
- widths of wider spots are log-normal about 1.3 px by a factor of 2; ratios of axes by 1.5.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from glint.compiled import compiled
from glint.runtime.unmixing.fit import ANY_WIDTH_PX, SLOTS, BoolArray, Fit, Patch, Prior, fit_points, log_evidence
from glint.runtime.unmixing.normal_equations import PLANE, Array
from glint.runtime.unmixing.point_model import SHAPE, shine_any, targets_of

ONE_TARGET_PROBABILITY = 0.9  # probability that a blob holds one; 2 to 5 share the rest alike
WIDE_GIVEN, WIDE_LEARNED, WIDE_TOLD = 1e-4, 1e-3, 1e-4  # probability that a spot is wider than the PSF
NETWORK_FLOOR_RATIO = 0.01  # least probability of a number of targets over the likeliest: it is never that sure
WIDTH_PX, WIDTH_FACTOR = 1.3, 2.0  # of wider spots
SPREAD_WIDTHS, RADIANCE_SPREAD_SHARE = 0.6, 0.6  # of positions over the PSF's width, and of radiances over their mean
ASPECT_SD, SHEAR_SD = 0.3, 0.5  # standard deviations of e and shear
DECISIVE_LOG_EVIDENCE = 40.0  # log evidence that takes a spot apart whose optics are unknown
RESOLVED_WIDTHS, FAINTER_RATIO = 3.5, 0.2  # distance, and radiance over the brightest, of points of unknown optics
MISFIT_CHI_SQUARE = 2.0  # reduced chi square from which on several points do not explain a spot
_SEVERAL_PROBABILITY = (1 - ONE_TARGET_PROBABILITY) / (SLOTS - 1)  # of each number from 2 on
_PLAIN_LOG_PRIOR = np.log(np.where(np.arange(SLOTS + 1) < 2, ONE_TARGET_PROBABILITY, _SEVERAL_PROBABILITY))
_BESIDE_PX, _BESIDE_WIDTHS = 0.75, 0.9  # from a spot's mask to a target of it, at most: the larger of both
_MOST_OFF_MIDDLE_PX = 1.0  # px beyond its width that a spot may be off the middle of its window
_FIT_STEPS = 12  # of a fit
_HOPELESS_LOG_EVIDENCE = 12.0  # log evidence behind the best at which fewer points, or more, are no longer tried
_LEAST_SHAPE_GAIN = 12.0  # misfit that a free shape must gain before more than one point is thought of


class Optics(NamedTuple):
    """What is known of the points and of the wider spots.

    Attributes:
        u, u_information: log of the PSF's width and 1 / variance; infinity: it is exact.
        e, shear: the rest of its shape (see ``point_model``).
        radiance, radiance_information: of a target, DN, and 1 / variance; 0 where it is unknown.
        wide: log of the prior odds of a wider spot against points.
        decisive: log evidence against a wider spot that several points need.
        separation: two targets nearer than this are one, px, unless their radiance is known and tells them from one.
        max_targets: of a spot.
        correction: what the PSF is beyond its Gaussian, as ``point_model.correct`` takes it; ``[0, 0]`` for nothing.
    """

    u: float
    u_information: float
    e: float
    shear: float
    radiance: float
    radiance_information: float
    wide: float
    decisive: float
    separation: float
    max_targets: int
    correction: Array


class Case(NamedTuple):
    """A spot that is judged.

    Attributes:
        patch: a window about it.
        spot: its fit with a free shape, ``measured_spot``.
        home: pixels of its mask, ``bool [w, w]``; all where it has none.
        optics: what is known.
        told: log of the prior probability of each number of targets, ``[SLOTS + 1]``.
    """

    patch: Patch
    spot: Fit
    home: BoolArray
    optics: Optics
    told: Array


class Verdict(NamedTuple):
    """What a spot is.

    Attributes:
        fit: the points, or the wider spot.
        wide: whether it is one wider spot.
        probability: of the number of targets (a wider spot is one).
        unexplained: squared residuals over their expectation, of the pixels that count.
    """

    fit: Fit
    wide: bool
    probability: float
    unexplained: float


@compiled
def spot_start(patch: Patch, width: float) -> Array:
    """A round spot in the middle of the window to begin with, ``[9]``.

    ``width`` is its standard deviation if that is known, px; 0: it is taken from the pixels above 0.4 of the peak.
    """
    image, size = patch.image, patch.image.shape[0]
    middle, reach = (size - 1) // 2, max((size - 1) // 4, 2)
    pixels = 0
    values = np.empty(size * size)
    for row in range(size):
        for column in range(size):
            if patch.valid[row, column]:
                values[pixels] = image[row, column]
                pixels += 1
    level = np.median(values[:pixels]) if pixels else 0.0
    peak = 1e-6
    for row in range(middle - 1, middle + 2):
        for column in range(middle - 1, middle + 2):
            if patch.valid[row, column]:
                peak = max(peak, image[row, column] - level)
    area = 0
    for row in range(middle - reach, middle + reach + 1):
        for column in range(middle - reach, middle + reach + 1):
            area += patch.valid[row, column] and image[row, column] - level > 0.4 * peak
    if width == 0:
        width = min(max(math.sqrt(area / (2 * math.pi * math.log(2.5))), 0.45), size / 4)
    theta = np.zeros(3 + PLANE + SHAPE)
    theta[0] = theta[1] = middle
    theta[2], theta[3], theta[6] = peak * (2 * math.pi * width * width + 0.5), level, math.log(width)
    return theta


@compiled
def measured_spot(patch: Patch, shape_free: int, start: Array, widest: float) -> Fit:
    """One spot of free width, up to ``widest`` px, told nothing else."""
    prior = Prior(start.copy(), np.zeros(len(start)))
    prior.mean[:2] = (patch.image.shape[0] - 1) / 2
    prior.information[:2] = (widest + _MOST_OFF_MIDDLE_PX) ** -2.0
    return fit_points(patch, start, prior, shape_free, 30, widest, np.empty((0, 0)))


@compiled
def wide_prior(spot: Fit, shape_free: int) -> Prior:
    """Of one spot of any width, about where it was found."""
    mean, information = spot.theta.copy(), np.zeros(len(spot.theta))
    reach = max(math.exp(spot.theta[-3]), 0.5)
    information[0] = information[1] = reach**-2
    mean[2], information[2] = 0.0, 1 / max(spot.theta[2] ** 2, 1e-12)
    mean[-3], mean[-2], mean[-1] = math.log(WIDTH_PX), 0.0, 0.0
    information[-3] = math.log(WIDTH_FACTOR) ** -2
    if shape_free == SHAPE:
        information[-2], information[-1] = ASPECT_SD**-2, SHEAR_SD**-2
    return Prior(mean, information)


@compiled
def points_prior(spot: Fit, number: int, optics: Optics) -> Prior:
    """Of some points of the PSF in a spot."""
    mean, information = np.zeros(3 * number + PLANE + SHAPE), np.zeros(3 * number + PLANE + SHAPE)
    psf = math.exp(2 * optics.u)
    reach = max(math.exp(2 * spot.theta[-3]) - psf, 0.0) + SPREAD_WIDTHS**2 * psf
    for k in range(number):
        mean[k], mean[number + k] = spot.theta[0], spot.theta[1]
        information[k] = information[number + k] = 1 / reach
        if optics.radiance_information > 0:
            mean[2 * number + k], information[2 * number + k] = optics.radiance, optics.radiance_information
        else:
            mean[2 * number + k] = spot.theta[2] / number
            information[2 * number + k] = (RADIANCE_SPREAD_SHARE * max(spot.theta[2], 1e-6) / number) ** -2
    mean[-3], mean[-2], mean[-1] = optics.u, optics.e, optics.shear
    information[-3] = optics.u_information
    return Prior(mean, information)


def count_prior(said: Array | None = None) -> Array:
    """Log of the prior probability of each number of targets, ``[SLOTS + 1]`` or ``[B, SLOTS + 1]``.

    Args:
        said: negative log probability by the network ``[B, SLOTS + 1]``, if it knows such optics.
    """
    if said is None:
        return _PLAIN_LOG_PRIOR
    word: Array = _PLAIN_LOG_PRIOR - np.minimum(said - said.min(axis=1, keepdims=True), -math.log(NETWORK_FLOOR_RATIO))
    return word


@compiled
def _fit_count(case: Case, start: Array) -> tuple[Fit, float]:
    """Points from a start, and their log evidence with the prior of their number."""
    number, optics = targets_of(start), case.optics
    prior = points_prior(case.spot, number, optics)
    shape_free = 0 if np.isinf(optics.u_information) else 1
    fit = fit_points(case.patch, start, prior, shape_free, _FIT_STEPS, ANY_WIDTH_PX, optics.correction)
    log = log_evidence(fit, prior) + case.told[number]
    unknown = optics.decisive > 0
    least = RESOLVED_WIDTHS * math.exp(fit.theta[-3]) if unknown else optics.separation
    faint = FAINTER_RATIO * fit.theta[2 * number : 3 * number].max() if unknown else 0.0
    for i in range(number if unknown or not optics.radiance_information > 0 else 0):
        for j in range(i):
            gap = math.hypot(fit.theta[i] - fit.theta[j], fit.theta[number + i] - fit.theta[number + j])
            if gap < least:
                log = -np.inf
        if fit.theta[2 * number + i] < faint:
            log = -np.inf
    beside = max(_BESIDE_PX, _BESIDE_WIDTHS * math.exp(fit.theta[-3]))
    for i in range(number if number > 1 else 0):
        if not _at_home(case.home, fit.theta[i], fit.theta[number + i], beside):
            log = -np.inf
    return fit, log


@compiled
def _at_home(home: BoolArray, x: float, y: float, reach: float) -> bool:
    """Whether any pixel of a mask has an edge within so many px of a place."""
    size, far = len(home), math.ceil(reach) + 1
    for row in range(max(int(y) - far, 0), min(int(y) + far + 2, size)):
        for column in range(max(int(x) - far, 0), min(int(x) + far + 2, size)):
            if home[row, column]:
                off = math.hypot(max(abs(column - x) - 0.5, 0.0), max(abs(row - y) - 0.5, 0.0))
                if off <= reach:
                    return True
    return False


@compiled
def points_start(spot: Fit, x: Array, y: Array, radiance: Array, optics: Optics) -> Array:
    """A row of parameters from positions and radiances, with the spot's background and the PSF's shape."""
    number = len(x)
    theta = np.empty(3 * number + PLANE + SHAPE)
    theta[:number], theta[number : 2 * number], theta[2 * number : 3 * number] = x, y, radiance
    theta[3 * number : 3 * number + PLANE] = spot.theta[3 : 3 + PLANE]
    theta[-3], theta[-2], theta[-1] = optics.u, optics.e, optics.shear
    return theta


@compiled
def _merged(theta: Array) -> Array:
    """One point less: the closest pair becomes its centre of light."""
    number = targets_of(theta)
    first, second, least = 0, 1, np.inf
    for i in range(number):
        for j in range(i + 1, number):
            gap = (theta[i] - theta[j]) ** 2 + (theta[number + i] - theta[number + j]) ** 2
            if gap < least:
                first, second, least = i, j, gap
    rest = np.empty(len(theta) - 3)
    row = 0
    both = theta[2 * number + first] + theta[2 * number + second]
    for k in range(number):
        if k != second:
            for axis in range(3):
                value = theta[axis * number + k]
                if k == first:
                    other = theta[axis * number + second]
                    share = theta[2 * number + second] / max(both, 1e-12)
                    value = both if axis == 2 else value + share * (other - value)
                rest[axis * (number - 1) + row] = value
            row += 1
    rest[3 * (number - 1) :] = theta[3 * number :]
    return rest


@compiled
def _grown(patch: Patch, spot: Fit, theta: Array, way: int) -> Array:
    """One point more: the brightest splits along the spot's longer axis (way 0), or the residual gets one (way 1)."""
    number, size = targets_of(theta), patch.image.shape[0]
    more = np.empty(len(theta) + 3)
    bright = int(np.argmax(theta[2 * number : 3 * number]))
    for k in range(number):
        for axis in range(3):
            more[axis * (number + 1) + k] = theta[axis * number + k]
    more[3 * (number + 1) :] = theta[3 * number :]
    x, y, s = theta[bright], theta[number + bright], theta[2 * number + bright]
    if way == 0:
        along, across = math.exp(spot.theta[-3] + spot.theta[-2]), math.exp(spot.theta[-3] - spot.theta[-2])
        variance_y = across * across
        variance_x, both = along * along + spot.theta[-1] ** 2 * variance_y, spot.theta[-1] * variance_y
        angle = 0.5 * math.atan2(2 * both, variance_x - variance_y)
        half = 0.6 * math.exp(theta[-3])
        dx, dy = half * math.cos(angle), half * math.sin(angle)
        more[bright], more[number + 1 + bright], more[2 * (number + 1) + bright] = x - dx, y - dy, 0.5 * s
        more[number], more[2 * number + 1], more[3 * number + 2] = x + dx, y + dy, 0.5 * s
        return more
    model = np.empty(size * size)
    shine_any(theta, np.empty((len(theta) - SHAPE, size * size)), model, size)
    best, column, row = -np.inf, size // 2, size // 2
    for i in range(1, size - 1):
        for j in range(1, size - 1):
            total = 0.0
            for a in range(-1, 2):
                for b in range(-1, 2):
                    if patch.valid[i + a, j + b]:
                        total += patch.image[i + a, j + b] - model[(i + a) * size + j + b]
            if total > best:
                best, column, row = total, j, i
    more[number], more[2 * number + 1], more[3 * number + 2] = column, row, max(best, 0.1 * s)
    return more


@compiled
def _try(case: Case, start: Array, logs: Array, best: Fit, best_log: float) -> tuple[Fit, float, Fit]:
    """Fit a start; the best fit so far and its log evidence, and this fit. ``logs`` by number is updated."""
    fit, log = _fit_count(case, start)
    number = targets_of(fit.theta)
    logs[number] = max(logs[number], log)
    if log > best_log:
        return fit, log, fit
    return best, best_log, fit


@compiled
def judge(case: Case, x: Array, y: Array, radiance: Array) -> Verdict:
    """Weigh all hypotheses for one spot.

    Args:
        case: the spot.
        x, y, radiance: points to begin with, in pixels of the window and DN; none for a single one at the centre.
    """
    spot, optics = case.spot, case.optics
    logs = np.full(SLOTS + 1, -np.inf)
    one = points_start(spot, spot.theta[:1], spot.theta[1:2], spot.theta[2:3], optics)
    best, best_log = _fit_count(case, one)
    last = best
    likely_single = best.misfit - spot.misfit < _LEAST_SHAPE_GAIN and not optics.radiance_information > 0
    number = min(len(x), optics.max_targets)
    if likely_single:  # the light says one: the network's word for more is no evidence
        best_log += _PLAIN_LOG_PRIOR[1] - case.told[1]
        case = Case(case.patch, spot, case.home, optics, _PLAIN_LOG_PRIOR.copy())
    logs[1] = best_log
    if number > 1 and not likely_single:
        start = points_start(spot, x[:number], y[:number], radiance[:number], optics)
        best, best_log, last = _try(case, start, logs, best, best_log)
        fewer = last
        for k in range(number - 1, 1, -1):
            best, best_log, fewer = _try(case, _merged(fewer.theta), logs, best, best_log)
            if logs[k] < best_log - _HOPELESS_LOG_EVIDENCE:
                break
    for k in range(1 if likely_single else max(number, 1), 2 if likely_single else optics.max_targets):
        grown = last
        for way in range(2):
            before = logs[k + 1]
            best, best_log, fit = _try(case, _grown(case.patch, spot, last.theta, way), logs, best, best_log)
            if way == 0 or logs[k + 1] > before:
                grown = fit
        last = grown
        if not logs[k + 1] > best_log - 3.0:
            break
    return _weighed(case, best, best_log, logs)


@compiled
def wide_spot(case: Case) -> tuple[Fit, float]:
    """One wider spot, round or elliptical, and its log evidence without the prior of such spots."""
    patch, spot = case.patch, case.spot
    start, gaussian = spot.theta.copy(), np.empty((0, 0))
    start[-2] = start[-1] = 0.0
    prior = wide_prior(spot, 1)
    wide = fit_points(patch, start, prior, 1, _FIT_STEPS, ANY_WIDTH_PX, gaussian)
    wide_log = log_evidence(wide, prior)
    if len(spot.information) == len(spot.theta):
        prior = wide_prior(spot, SHAPE)
        ellipse = fit_points(patch, spot.theta, prior, SHAPE, _FIT_STEPS, ANY_WIDTH_PX, gaussian)
        log = log_evidence(ellipse, prior)
        if log > wide_log:
            wide, wide_log = ellipse, log
    return wide, wide_log


@compiled
def weigh_counts(case: Case, logs: Array, volumes: Array, misfits: Array) -> None:
    """Fill in the log evidence of each number of points, ``[SLOTS + 1]``; those out of the question stay as they are.

    Unlike ``judge`` it grows the points from one, whatever that explains, and asks no network. ``volumes`` gets what
    of the evidence is the volume that the data leave of the parameters, ``misfits`` the squared residuals.
    """
    spot, optics = case.spot, case.optics
    start = points_start(spot, spot.theta[:1], spot.theta[1:2], spot.theta[2:3], optics)
    last, best_log = _fit_count(case, start)
    logs[1] = best_log
    volumes[1] = best_log + 0.5 * (last.misfit + last.strain)
    misfits[1] = last.misfit
    for k in range(1, optics.max_targets):
        grown = last
        for way in range(2):
            fit, log = _fit_count(case, _grown(case.patch, spot, last.theta, way))
            if way == 0 or log > logs[k + 1]:
                grown = fit
            if log > logs[k + 1]:
                logs[k + 1] = log
                volumes[k + 1] = log + 0.5 * (fit.misfit + fit.strain)
                misfits[k + 1] = fit.misfit
        last, best_log = grown, max(best_log, logs[k + 1])
        if k > 1 and logs[k + 1] < best_log - _HOPELESS_LOG_EVIDENCE:
            break


@compiled
def _weighed(case: Case, best: Fit, best_log: float, logs: Array) -> Verdict:
    """The points that were found against one wider spot."""
    optics = case.optics
    wide, wide_log = wide_spot(case)
    wide_log += optics.wide
    is_wide = wide_log > best_log
    if targets_of(best.theta) > 1:
        freedom = max(best.counted - len(best.information), 1)
        is_wide |= best_log < wide_log + optics.decisive or best.misfit > MISFIT_CHI_SQUARE * freedom
    fit = wide if is_wide else best
    number = 1 if is_wide else targets_of(best.theta)
    total, one = 0.0, 0.0
    top = max(best_log, wide_log)
    for k in range(1, SLOTS + 1):
        weight = math.exp(logs[k] - top)
        total += weight
        if k == number:
            one += weight
    weight = math.exp(wide_log - top)
    total += weight
    if number == 1:
        one += weight
    probability = one / total
    freedom = max(fit.counted - len(fit.information), 1)
    return Verdict(fit, is_wide, probability, fit.misfit / freedom)
