"""The search for the best fit of a patch: starts, numbers of targets, priors.

The network's candidates are the first start. Where the number of targets is in doubt, one more and
one less are fitted and the likelihoods decide, together with what the network thinks of the number;
crowded patches in which the data are sharper than the network get starts beside its own, and fits
that stay poor get starts of every number.
"""

from __future__ import annotations

import math
from itertools import permutations
from typing import NamedTuple

import numpy as np

from glint.compiled import compiled
from glint.runtime.unmixing.arrangements import TEMPLATE_SIZE, Bank, nearest_arrangements
from glint.runtime.unmixing.fit import (
    PLANE,
    SLOTS,
    Array,
    Fit,
    Patch,
    Start,
    diagonal_of_inverse,
    fit_targets,
    pixel_profile,
    prior_weight,
    render,
    targets_of,
)

COUNT_FLOOR = 1e-4  # least probability of a count: the network is never that sure
_LISTED = 0.02  # presence from which on the next candidate is the start of one target more
_POOR = 3.0  # standard deviations that a fit may leave more than noise before other starts are tried
_CROWD = 4  # targets from which on the nearest minimum need not be the best one
_VAGUE = 3.0  # spread of the network over sigma of the fit from which on it need not either
_ONE = 1e12  # cost of two targets that are one
_GLANCE = 8  # steps after which another start must look promising
_HOPE = 10.0  # cost above that of the fit up to which it does
_FALL = 2.0  # falls of the last step, in misfit, that the following ones may add to it, in cost
_STRAINED = -1.8  # standard deviations of the priors' strain below which the fit is where the network meant
_ELSEWHERE = 0.02  # px from the fit; nearer than that it is on its way to the same place
_RIDGE = 1e-6  # share of a parameter's information that is rounding, for all that is known
_ORDERS_OF_4, _ORDERS_OF_5 = (np.array(list(permutations(range(k)))) for k in (4, 5))


class Rules(NamedTuple):
    """What is known of every patch, and how long to try.

    Attributes:
        sigma: of the PSF, px.
        sigma_information: 1 / variance of it from patch to patch; infinity holds it fixed.
        radiance, radiance_information: mean of a target's radiance, DN, and 1 / variance; 0 if it is unknown.
        separation: two targets nearer than this are one, px.
        doubt: cost of a count from which on others are tried.
        trust: width of the network's priors over the spread that it predicts.
        max_targets, iterations, rounds, restarts: as in ``RefineConfig``.
    """

    sigma: float
    sigma_information: float
    radiance: float
    radiance_information: float
    separation: float
    doubt: float
    trust: float
    max_targets: int
    iterations: int
    rounds: int
    restarts: int


class Told(NamedTuple):
    """What the network says of a patch: its candidates (see ``candidates.Candidates``), each ``[slots]``."""

    presence: Array
    x: Array
    y: Array
    radiance: Array
    sigma_x: Array
    sigma_y: Array
    sigma_radiance: Array


class Case(NamedTuple):
    """A patch with all that is known beforehand.

    Attributes:
        patch: its pixels.
        told: by the network.
        plane, plane_information: background about the middle ``[3]``, and 1 / variance.
        count_cost: negative log probability of each number of targets, ``[SLOTS + 1]``.
        faint: radiance that a lone target must have to stand out of the noise, DN.
        rules: of all patches.
    """

    patch: Patch
    told: Told
    plane: Array
    plane_information: Array
    count_cost: Array
    faint: float
    rules: Rules


@compiled
def best_fit(case: Case, count: int, bank: Bank) -> tuple[Fit, float]:
    """Search from the first ``count`` candidates.

    Returns:
        The fit, and by how much its cost is below that of the best other number of targets.
    """
    fit = fit_targets(case.patch, _from_candidates(case, count), case.rules.iterations)
    fit, margin = _recount(case, fit)
    if case.rules.restarts > 0 and case.patch.image.shape[0] >= TEMPLATE_SIZE:
        fit, margin = _scatter(case, fit, margin, bank)
        fit, margin = _restart(case, fit, margin, bank)
    return fit, margin


@compiled
def _blank(case: Case, number: int) -> Start:
    """A start without positions; radiances have the user's prior if there is one."""
    rules = case.rules
    theta = np.zeros(3 * number + PLANE + 1)
    mean, information = theta.copy(), theta.copy()
    for i in range(2 * number, 3 * number):
        mean[i], information[i] = rules.radiance, rules.radiance_information
    for i in range(PLANE):
        theta[3 * number + i] = mean[3 * number + i] = case.plane[i]
        information[3 * number + i] = case.plane_information[i]
    theta[-1] = mean[-1] = rules.sigma
    information[-1] = rules.sigma_information
    return Start(theta, mean, information)


@compiled
def _put(case: Case, start: Start, slot: int, x: float, y: float, radiance: float) -> None:
    """Place a target of a start, on the patch."""
    number, last = targets_of(start.theta), case.patch.image.shape[0] - 0.5
    start.theta[slot] = min(max(x, -0.5), last)
    start.theta[number + slot] = min(max(y, -0.5), last)
    start.theta[2 * number + slot] = max(radiance, 0.0)


@compiled
def told_axes(rules: Rules) -> int:
    """Of x, y and radiance, how many have the network's prior: what the user knows of radiances comes first."""
    return 2 if rules.radiance_information > 0 else 3


@compiled
def _tell(case: Case, start: Start, slot: int, candidate: int) -> None:
    """Give a target of a start the network's prior of a candidate; a spread that is no number is none."""
    number, told = targets_of(start.theta), case.told
    for axis in range(told_axes(case.rules)):
        values = (told.x, told.y, told.radiance)[axis]
        spreads = (told.sigma_x, told.sigma_y, told.sigma_radiance)[axis]
        if np.isfinite(spreads[candidate]):
            start.mean[axis * number + slot] = values[candidate]
            start.information[axis * number + slot] = (case.rules.trust * max(spreads[candidate], 1e-4)) ** -2


@compiled
def _inherit(start: Start, slot: int, other: Start, from_slot: int, axes: int) -> None:
    """Give a target of a start the priors that another start has for one of its own."""
    number, others = targets_of(start.theta), targets_of(other.theta)
    for axis in range(axes):
        start.mean[axis * number + slot] = other.mean[axis * others + from_slot]
        start.information[axis * number + slot] = other.information[axis * others + from_slot]


@compiled
def _from_candidates(case: Case, count: int) -> Start:
    start, told = _blank(case, count), case.told
    for i in range(count):
        _put(case, start, i, told.x[i], told.y[i], told.radiance[i])
        _tell(case, start, i, i)
    return start


@compiled
def _recount(case: Case, fit: Fit) -> tuple[Fit, float]:
    """Try one target more and one less where the count is in doubt."""
    margin = np.inf
    if case.count_cost[targets_of(fit.theta)] <= case.rules.doubt and _excess(fit) <= _POOR:
        return fit, margin
    for _ in range(case.rules.rounds):
        number, before = targets_of(fit.theta), fit
        table = _table(case, fit)
        limit = table[number]
        if number < case.rules.max_targets:
            rival = _raced(case, _grown(case, before), _limit(before, limit))
            fit = _compete(case, fit, rival, table)
        if number > 1:
            rival = _raced(case, _merged(case, before), _limit(before, limit))
            fit = _compete(case, fit, rival, table)
        changed = targets_of(fit.theta) != number
        margin = _margin(fit, table, np.inf if changed else margin)
        if not changed:
            break
    return fit, margin


@compiled
def _table(case: Case, fit: Fit) -> Array:
    """Least cost so far of each number of targets, ``[SLOTS + 1]``."""
    table = np.full(SLOTS + 1, np.inf)
    table[targets_of(fit.theta)] = _cost(case, fit)
    return table


@compiled
def _limit(fit: Fit, cost: float) -> float:
    """The cost near which a rival is promising; where the fit itself is poor its cost is no measure."""
    return np.inf if _excess(fit) > _POOR else cost + _HOPE


@compiled
def _raced(case: Case, start: Start, limit: float) -> Fit:
    """A rival, which runs to the end only if it looks promising after a few steps."""
    iterations = case.rules.iterations
    steps = min(_GLANCE, iterations)
    tried = fit_targets(case.patch, start, steps)
    if tried.converged or _cost(case, tried) - _FALL * tried.falling >= limit:
        return tried
    return _continued(case, tried, iterations - steps)


@compiled
def _continued(case: Case, tried: Fit, iterations: int) -> Fit:
    further = Start(tried.theta, tried.start.mean, tried.start.information)
    return fit_targets(case.patch, further, iterations)


@compiled
def _compete(case: Case, fit: Fit, rival: Fit, table: Array) -> Fit:
    """The cheaper one; ``table`` is updated."""
    number, cost = targets_of(rival.theta), _cost(case, rival)
    won = cost < table.min()
    table[number] = min(table[number], cost)
    return rival if won else fit


@compiled
def _margin(fit: Fit, table: Array, before: float) -> float:
    """By how much the cost of the fit is below that of the best other number of targets."""
    number = targets_of(fit.theta)
    other = np.inf
    for k in range(len(table)):
        if k != number:
            other = min(other, table[k])
    return min(before, other - table[number])


@compiled
def _scatter(case: Case, fit: Fit, margin: float, bank: Bank) -> tuple[Fit, float]:
    """Other starts for a crowded patch where the data are sharper than the network's word.

    There its candidates may lie in the valley of another arrangement. The network's prior stays,
    each of its targets with the nearest one of the arrangement.
    """
    number = targets_of(fit.theta)
    as_told = fit.start.information[0] > 0  # by the network: not recounted
    if not as_told or number < _CROWD or _strain(fit) <= _STRAINED or not _is_vague(case, fit):
        return fit, margin
    places = nearest_arrangements(_spot(case, fit), bank, number, case.rules.restarts)
    best, found, steps = fit, False, min(_GLANCE, case.rules.iterations)
    for place in places:
        start = Start(fit.start.theta.copy(), fit.start.mean, fit.start.information)
        _arrange(case, start, place)
        tried = fit_targets(case.patch, start, steps)
        if not found or tried.misfit + tried.strain < best.misfit + best.strain:
            best, found = tried, True
    moved = 0.0
    for i in range(2 * number):
        moved = max(moved, abs(best.theta[i] - fit.theta[i]))
    behind = 0.5 * (best.misfit + best.strain - fit.misfit - fit.strain)
    if moved <= _ELSEWHERE or behind - _FALL * best.falling >= _HOPE:
        return fit, margin
    best = _continued(case, best, case.rules.iterations)
    gain = 0.5 * (fit.misfit + fit.strain - best.misfit - best.strain)
    return (best, margin + gain) if gain > 0 else (fit, margin)


@compiled
def _is_vague(case: Case, fit: Fit) -> bool:
    """Whether the network's spread of any position is far beyond that of the fit."""
    number, variance = targets_of(fit.theta), variance_of(fit, np.zeros(len(fit.information)))
    for i in range(number):
        if case.told.sigma_x[i] ** 2 > _VAGUE**2 * variance[i]:
            return True
        if case.told.sigma_y[i] ** 2 > _VAGUE**2 * variance[number + i]:
            return True
    return False


@compiled
def _arrange(case: Case, start: Start, place: Array) -> None:
    """Put the targets of a start on the places ``[3, K]`` (x, y, radiance) that are nearest to the candidates."""
    number, told = targets_of(start.theta), case.told
    orders = _ORDERS_OF_4 if number == 4 else _ORDERS_OF_5
    best, least = 0, np.inf
    for o in range(len(orders)):
        total = 0.0
        for k in range(number):
            total += (place[0, orders[o, k]] - told.x[k]) ** 2 + (place[1, orders[o, k]] - told.y[k]) ** 2
        if total < least:
            best, least = o, total
    for k in range(number):
        start.theta[k], start.theta[number + k] = place[0, orders[best, k]], place[1, orders[best, k]]


@compiled
def _restart(case: Case, fit: Fit, margin: float, bank: Bank) -> tuple[Fit, float]:
    """Give a poor fit second starts from rendered arrangements."""
    if _excess(fit) <= _POOR:
        return fit, margin
    spot, table, kept = _spot(case, fit), _table(case, fit), True
    steps = min(_GLANCE, case.rules.iterations)
    for number in range(1, case.rules.max_targets + 1):
        places = nearest_arrangements(spot, bank, number, case.rules.restarts)
        glances = [fit_targets(case.patch, _placed(case, place), steps) for place in places]
        least = min([_cost(case, tried) for tried in glances])
        for tried in glances:
            if _cost(case, tried) - _FALL * tried.falling < least + _HOPE:
                rival = tried if tried.converged else _continued(case, tried, case.rules.iterations - steps)
                kept = kept and not _cost(case, rival) < table.min()
                fit = _compete(case, fit, rival, table)
    return fit, _margin(fit, table, margin if kept else np.inf)


@compiled
def _placed(case: Case, place: Array) -> Start:
    """A start from an arrangement ``[3, K]``: x, y, radiance."""
    start = _blank(case, place.shape[1])
    for i in range(place.shape[1]):
        _put(case, start, i, place[0, i], place[1, i], place[2, i])
    return start


@compiled
def _spot(case: Case, fit: Fit) -> Array:
    """The patch without its background, ``[w, w]``."""
    level = fit.theta[3 * targets_of(fit.theta)]
    return np.where(case.patch.valid, case.patch.image - level, 0.0)


@compiled
def _cost(case: Case, fit: Fit) -> float:
    """What decides between numbers of targets: misfit, the user's priors, the network's count.

    The network's positions are no part of it: they were made for one number only. Where two targets
    are one, or one of several is darker than the noise, it is beyond all others, and grows with their number.
    """
    number, theta, start = targets_of(fit.theta), fit.theta, fit.start
    total = fit.misfit
    for i in range(told_axes(case.rules) * number, 3 * number + PLANE):
        total += start.information[i] * (theta[i] - start.mean[i]) ** 2
    none = 0
    for i in range(number):
        if number > 1 and theta[2 * number + i] < case.faint:
            none += 1
        for j in range(i):
            if (theta[i] - theta[j]) ** 2 + (theta[number + i] - theta[number + j]) ** 2 < case.rules.separation**2:
                none += 2
    return 0.5 * total + case.count_cost[number] + _ONE * none


@compiled
def _excess(fit: Fit) -> float:
    """By how many standard deviations a fit leaves more than noise would, or strains the priors."""
    freedom = max(fit.counted - 3 * targets_of(fit.theta) - PLANE, 1)
    return max((fit.misfit - freedom) / math.sqrt(2 * freedom), _strain(fit))


@compiled
def _strain(fit: Fit) -> float:
    """By how many standard deviations a fit strains the priors more than their number explains."""
    known = PLANE + 3 * targets_of(fit.theta)
    return (fit.strain - known) / math.sqrt(2 * known)


@compiled
def _grown(case: Case, fit: Fit) -> Start:
    """One target more: the next candidate, or where the residual is best explained by one, or a split."""
    number, theta = targets_of(fit.theta), fit.theta
    x, y, radiance = theta[:number], theta[number : 2 * number], theta[2 * number : 3 * number]
    start = _blank(case, number + 1)
    bright = int(np.argmax(radiance))
    listed = case.told.presence[number] > _LISTED
    column, row, peak = _residual_peak(case, fit)
    near = math.hypot(column - x[bright], row - y[bright]) < 1.5
    split = near and not listed
    # A bright neighbour's residual is a ring: leave the brightest along it rather than on top.
    way_x, way_y = np.sign(column - x[bright]), np.sign(row - y[bright])
    for i in range(number):
        aside = 0.25 if split and i == bright else 0.0
        share = 0.5 if split and i == bright else 1.0
        _put(case, start, i, x[i] - aside * way_x, y[i] - aside * way_y, share * radiance[i])
        # The others keep the network's word; the new one has it if it is the next candidate.
        if not (split and i == bright):
            _inherit(start, i, fit.start, i, told_axes(case.rules))
    if listed:
        _put(case, start, number, case.told.x[number], case.told.y[number], case.told.radiance[number])
        _tell(case, start, number, number)
    elif near:
        _put(case, start, number, x[bright] + 0.35 * way_x, y[bright] + 0.35 * way_y, 0.5 * radiance[bright])
    else:
        _put(case, start, number, float(column), float(row), max(peak / 0.4, 0.2 * radiance[bright]))
    return start


@compiled
def _residual_peak(case: Case, fit: Fit) -> tuple[int, int, float]:
    """Column and row at which one target more explains most of what is left, and the largest residual."""
    size = case.patch.image.shape[0]
    left = np.where(case.patch.valid, case.patch.image - render(fit.theta, size), 0.0)
    kernel, unused = np.empty((size, size)), np.empty(size)
    for i in range(size):
        pixel_profile(float(i), case.rules.sigma, kernel[i], unused, unused)
    at = int(np.argmax(kernel @ left @ kernel.T))
    return at % size, at // size, left.max()


@compiled
def _merged(case: Case, fit: Fit) -> Start:
    """One target less: the closest pair becomes its flux centre."""
    number, theta = targets_of(fit.theta), fit.theta
    first, second, least = 0, 1, np.inf
    for i in range(number):
        for j in range(i + 1, number):
            gap = (theta[i] - theta[j]) ** 2 + (theta[number + i] - theta[number + j]) ** 2
            if gap < least:
                first, second, least = i, j, gap
    start = _blank(case, number - 1)
    for i in range(number - 1):
        old = i if i < second else i + 1
        x, y, radiance = theta[old], theta[number + old], theta[2 * number + old]
        if old == first:
            both = radiance + theta[2 * number + second]
            share = theta[2 * number + second] / max(both, 1e-9)
            x, y = x + share * (theta[second] - x), y + share * (theta[number + second] - y)
            radiance = both
        else:
            _inherit(start, i, fit.start, old, told_axes(case.rules))
        _put(case, start, i, x, y, radiance)
    return start


@compiled
def variance_of(fit: Fit, priors: Array) -> Array:
    """Variances of the parameters ``[P]`` without what the named priors say; very large where nothing else does."""
    matrix = fit.information.copy()
    for i in range(len(matrix)):
        # Data that say nothing leave zeros; what rounding cannot tell from them keeps the matrix regular.
        matrix[i, i] = matrix[i, i] * (1 + _RIDGE) - priors[i]
    return diagonal_of_inverse(matrix)


@compiled
def network_priors(fit: Fit, axes: int) -> Array:
    """The information of the priors of positions and, with 3 axes, radiances, at the fit; 0 elsewhere: ``[P]``."""
    priors = np.zeros(len(fit.information))
    for i in range(axes * targets_of(fit.theta)):
        priors[i] = prior_weight(fit.start, fit.theta, i)
    return priors


@compiled
def count_costs(presence: Array) -> Array:
    """Negative log probability of each number of targets ``[SLOTS + 1]`` if candidates come and go on their own."""
    chance = np.zeros(len(presence) + 1)
    chance[0] = 1.0
    for p in presence:
        for k in range(len(presence), 0, -1):
            chance[k] = chance[k] * (1 - p) + chance[k - 1] * p
        chance[0] *= 1 - p
    return -np.log(np.maximum(chance[: SLOTS + 1], COUNT_FLOOR))
