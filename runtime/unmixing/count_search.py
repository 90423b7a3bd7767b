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

from glint.compiled import compiled, entry
from glint.runtime.unmixing.arrangements import TEMPLATE_SIZE_PX, Bank, nearest_arrangements
from glint.runtime.unmixing.fit import SLOTS, Fit, Patch, Start, fit_targets, prior_weight
from glint.runtime.unmixing.normal_equations import PLANE, Array, diagonal_of_inverse
from glint.runtime.unmixing.point_model import pixel_profile, render, targets_of

COUNT_FLOOR_PROBABILITY = 1e-4  # least probability of a count: the network is never that sure
_LISTED_PRESENCE = 0.02  # presence from which on the next candidate is the start of one target more
_POOR_FIT_SD = 3.0  # standard deviations that a fit may leave more than noise before other starts are tried
_CROWDED_TARGETS = 4  # targets from which on the nearest minimum need not be the best one
_VAGUE_SPREAD_RATIO = 3.0  # spread of the network over sigma of the fit from which on it need not either
_COINCIDENT_COST = 1e12  # cost of two targets that are one
_TRIAL_STEPS = 8  # steps after which another start must look promising
_PROMISING_COST = 10.0  # cost above that of the fit up to which it does
_FALL_CREDIT = 2.0  # falls of the last step, in misfit, that the following ones may add to it, in cost
_UNSTRAINED_SD = -1.8  # standard deviations of the priors' strain below which the fit is where the network meant
_SAME_PLACE_PX = 0.02  # px from the fit; nearer than that it is on its way to the same place
_RIDGE_SHARE = 1e-6  # share of a parameter's information that is rounding, for all that is known
_ORDERS_OF_4, _ORDERS_OF_5 = (np.array(list(permutations(range(k)))) for k in (4, 5))


class SearchRules(NamedTuple):
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


class NetworkCandidates(NamedTuple):
    """What the network says of a patch: its candidates (see ``candidates.Candidates``), each ``[slots]``."""

    presence: Array
    x: Array
    y: Array
    radiance: Array
    sigma_x: Array
    sigma_y: Array
    sigma_radiance: Array


class PatchProblem(NamedTuple):
    """A patch with all that is known beforehand.

    Attributes:
        patch: its pixels.
        network: its candidates.
        plane, plane_information: background about the middle ``[3]``, and 1 / variance.
        count_cost: negative log probability of each number of targets, ``[SLOTS + 1]``.
        faint: radiance that a lone target must have to stand out of the noise, DN.
        rules: of all patches.
    """

    patch: Patch
    network: NetworkCandidates
    plane: Array
    plane_information: Array
    count_cost: Array
    faint: float
    rules: SearchRules


@compiled
def best_fit(problem: PatchProblem, count: int, bank: Bank) -> tuple[Fit, float]:
    """Search from the first ``count`` candidates.

    Returns:
        The fit, and by how much its cost is below that of the best other number of targets.
    """
    fit = fit_targets(problem.patch, _from_candidates(problem, count), problem.rules.iterations)
    fit, margin = _recount(problem, fit)
    if problem.rules.restarts > 0 and problem.patch.image.shape[0] >= TEMPLATE_SIZE_PX:
        fit, margin = _scatter(problem, fit, margin, bank)
        fit, margin = _restart(problem, fit, margin, bank)
    return fit, margin


@compiled
def _blank(problem: PatchProblem, number: int) -> Start:
    """A start without positions; radiances have the user's prior if there is one."""
    rules = problem.rules
    theta = np.zeros(3 * number + PLANE + 1)
    mean, information = theta.copy(), theta.copy()
    for i in range(2 * number, 3 * number):
        mean[i], information[i] = rules.radiance, rules.radiance_information
    for i in range(PLANE):
        theta[3 * number + i] = mean[3 * number + i] = problem.plane[i]
        information[3 * number + i] = problem.plane_information[i]
    theta[-1] = mean[-1] = rules.sigma
    information[-1] = rules.sigma_information
    return Start(theta, mean, information)


@compiled
def _put(problem: PatchProblem, start: Start, slot: int, x: float, y: float, radiance: float) -> None:
    """Place a target of a start, on the patch."""
    number, last = targets_of(start.theta), problem.patch.image.shape[0] - 0.5
    start.theta[slot] = min(max(x, -0.5), last)
    start.theta[number + slot] = min(max(y, -0.5), last)
    start.theta[2 * number + slot] = max(radiance, 0.0)


@compiled
def prior_axes(rules: SearchRules) -> int:
    """Of x, y and radiance, how many have the network's prior: what the user knows of radiances comes first."""
    return 2 if rules.radiance_information > 0 else 3


@compiled
def _set_prior(problem: PatchProblem, start: Start, slot: int, candidate: int) -> None:
    """Give a target of a start the network's prior of a candidate; a spread that is no number is none."""
    number, network = targets_of(start.theta), problem.network
    for axis in range(prior_axes(problem.rules)):
        values = (network.x, network.y, network.radiance)[axis]
        spreads = (network.sigma_x, network.sigma_y, network.sigma_radiance)[axis]
        if np.isfinite(spreads[candidate]):
            start.mean[axis * number + slot] = values[candidate]
            start.information[axis * number + slot] = (problem.rules.trust * max(spreads[candidate], 1e-4)) ** -2


@compiled
def _inherit(start: Start, slot: int, other: Start, from_slot: int, axes: int) -> None:
    """Give a target of a start the priors that another start has for one of its own."""
    number, others = targets_of(start.theta), targets_of(other.theta)
    for axis in range(axes):
        start.mean[axis * number + slot] = other.mean[axis * others + from_slot]
        start.information[axis * number + slot] = other.information[axis * others + from_slot]


@compiled
def _from_candidates(problem: PatchProblem, count: int) -> Start:
    start, network = _blank(problem, count), problem.network
    for i in range(count):
        _put(problem, start, i, network.x[i], network.y[i], network.radiance[i])
        _set_prior(problem, start, i, i)
    return start


@compiled
def _recount(problem: PatchProblem, fit: Fit) -> tuple[Fit, float]:
    """Try one target more and one less where the count is in doubt."""
    margin = np.inf
    if problem.count_cost[targets_of(fit.theta)] <= problem.rules.doubt and _excess(fit) <= _POOR_FIT_SD:
        return fit, margin
    for _ in range(problem.rules.rounds):
        number, before = targets_of(fit.theta), fit
        table = _table(problem, fit)
        limit = table[number]
        if number < problem.rules.max_targets:
            rival = _raced(problem, _grown(problem, before), _limit(before, limit))
            fit = _compete(problem, fit, rival, table)
        if number > 1:
            rival = _raced(problem, _merged(problem, before), _limit(before, limit))
            fit = _compete(problem, fit, rival, table)
        changed = targets_of(fit.theta) != number
        margin = _margin(fit, table, np.inf if changed else margin)
        if not changed:
            break
    return fit, margin


@compiled
def _table(problem: PatchProblem, fit: Fit) -> Array:
    """Least cost so far of each number of targets, ``[SLOTS + 1]``."""
    table = np.full(SLOTS + 1, np.inf)
    table[targets_of(fit.theta)] = _cost(problem, fit)
    return table


@compiled
def _limit(fit: Fit, cost: float) -> float:
    """The cost near which a rival is promising; where the fit itself is poor its cost is no measure."""
    return np.inf if _excess(fit) > _POOR_FIT_SD else cost + _PROMISING_COST


@compiled
def _raced(problem: PatchProblem, start: Start, limit: float) -> Fit:
    """A rival, which runs to the end only if it looks promising after a few steps."""
    iterations = problem.rules.iterations
    steps = min(_TRIAL_STEPS, iterations)
    tried = fit_targets(problem.patch, start, steps)
    if tried.converged or _cost(problem, tried) - _FALL_CREDIT * tried.falling >= limit:
        return tried
    return _continued(problem, tried, iterations - steps)


@compiled
def _continued(problem: PatchProblem, tried: Fit, iterations: int) -> Fit:
    further = Start(tried.theta, tried.start.mean, tried.start.information)
    return fit_targets(problem.patch, further, iterations)


@compiled
def _compete(problem: PatchProblem, fit: Fit, rival: Fit, table: Array) -> Fit:
    """The cheaper one; ``table`` is updated."""
    number, cost = targets_of(rival.theta), _cost(problem, rival)
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
def _scatter(problem: PatchProblem, fit: Fit, margin: float, bank: Bank) -> tuple[Fit, float]:
    """Other starts for a crowded patch where the data are sharper than the network's word.

    There its candidates may lie in the valley of another arrangement. The network's prior stays,
    each of its targets with the nearest one of the arrangement.
    """
    number = targets_of(fit.theta)
    is_first = fit.start.information[0] > 0  # by the network: not recounted
    if not is_first or number < _CROWDED_TARGETS or _strain(fit) <= _UNSTRAINED_SD or not _is_vague(problem, fit):
        return fit, margin
    places = nearest_arrangements(_spot(problem, fit), bank, number, problem.rules.restarts)
    best, found, steps = fit, False, min(_TRIAL_STEPS, problem.rules.iterations)
    for place in places:
        start = Start(fit.start.theta.copy(), fit.start.mean, fit.start.information)
        _arrange(problem, start, place)
        tried = fit_targets(problem.patch, start, steps)
        if not found or tried.misfit + tried.strain < best.misfit + best.strain:
            best, found = tried, True
    moved = 0.0
    for i in range(2 * number):
        moved = max(moved, abs(best.theta[i] - fit.theta[i]))
    behind = 0.5 * (best.misfit + best.strain - fit.misfit - fit.strain)
    if moved <= _SAME_PLACE_PX or behind - _FALL_CREDIT * best.falling >= _PROMISING_COST:
        return fit, margin
    best = _continued(problem, best, problem.rules.iterations)
    gain = 0.5 * (fit.misfit + fit.strain - best.misfit - best.strain)
    return (best, margin + gain) if gain > 0 else (fit, margin)


@compiled
def _is_vague(problem: PatchProblem, fit: Fit) -> bool:
    """Whether the network's spread of any position is far beyond that of the fit."""
    number, variance = targets_of(fit.theta), variance_of(fit, np.zeros(len(fit.information)))
    for i in range(number):
        if problem.network.sigma_x[i] ** 2 > _VAGUE_SPREAD_RATIO**2 * variance[i]:
            return True
        if problem.network.sigma_y[i] ** 2 > _VAGUE_SPREAD_RATIO**2 * variance[number + i]:
            return True
    return False


@compiled
def _arrange(problem: PatchProblem, start: Start, place: Array) -> None:
    """Put the targets of a start on the places ``[3, K]`` (x, y, radiance) that are nearest to the candidates."""
    number, network = targets_of(start.theta), problem.network
    orders = _ORDERS_OF_4 if number == 4 else _ORDERS_OF_5
    best, least = 0, np.inf
    for o in range(len(orders)):
        total = 0.0
        for k in range(number):
            total += (place[0, orders[o, k]] - network.x[k]) ** 2 + (place[1, orders[o, k]] - network.y[k]) ** 2
        if total < least:
            best, least = o, total
    for k in range(number):
        start.theta[k], start.theta[number + k] = place[0, orders[best, k]], place[1, orders[best, k]]


@compiled
def _restart(problem: PatchProblem, fit: Fit, margin: float, bank: Bank) -> tuple[Fit, float]:
    """Give a poor fit second starts from rendered arrangements."""
    if _excess(fit) <= _POOR_FIT_SD:
        return fit, margin
    spot, table, kept = _spot(problem, fit), _table(problem, fit), True
    steps = min(_TRIAL_STEPS, problem.rules.iterations)
    for number in range(1, problem.rules.max_targets + 1):
        places = nearest_arrangements(spot, bank, number, problem.rules.restarts)
        glances = [fit_targets(problem.patch, _placed(problem, place), steps) for place in places]
        least = min([_cost(problem, tried) for tried in glances])
        for tried in glances:
            if _cost(problem, tried) - _FALL_CREDIT * tried.falling < least + _PROMISING_COST:
                rival = tried if tried.converged else _continued(problem, tried, problem.rules.iterations - steps)
                kept = kept and not _cost(problem, rival) < table.min()
                fit = _compete(problem, fit, rival, table)
    return fit, _margin(fit, table, margin if kept else np.inf)


@compiled
def _placed(problem: PatchProblem, place: Array) -> Start:
    """A start from an arrangement ``[3, K]``: x, y, radiance."""
    start = _blank(problem, place.shape[1])
    for i in range(place.shape[1]):
        _put(problem, start, i, place[0, i], place[1, i], place[2, i])
    return start


@compiled
def _spot(problem: PatchProblem, fit: Fit) -> Array:
    """The patch without its background, ``[w, w]``; what saturated pixels do not show is as the fit has it."""
    level, patch = fit.theta[3 * targets_of(fit.theta)], problem.patch
    model = render(fit.theta, patch.image.shape[0])
    light = np.where(patch.image >= patch.full_scale, np.maximum(patch.image, model), patch.image)
    return np.where(patch.valid, light - level, 0.0)


@compiled
def _cost(problem: PatchProblem, fit: Fit) -> float:
    """What decides between numbers of targets: misfit, the user's priors, the network's count.

    The network's positions are no part of it: they were made for one number only. Where two targets
    are one, or one of several is darker than the noise, it is beyond all others, and grows with their number.
    """
    number, theta, start = targets_of(fit.theta), fit.theta, fit.start
    total = fit.misfit
    for i in range(prior_axes(problem.rules) * number, 3 * number + PLANE):
        total += start.information[i] * (theta[i] - start.mean[i]) ** 2
    none = 0
    for i in range(number):
        if number > 1 and theta[2 * number + i] < problem.faint:
            none += 1
        for j in range(i):
            if (theta[i] - theta[j]) ** 2 + (theta[number + i] - theta[number + j]) ** 2 < problem.rules.separation**2:
                none += 2
    return 0.5 * total + problem.count_cost[number] + _COINCIDENT_COST * none


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
def _grown(problem: PatchProblem, fit: Fit) -> Start:
    """One target more: the next candidate, or where the residual is best explained by one, or a split."""
    number, theta = targets_of(fit.theta), fit.theta
    x, y, radiance = theta[:number], theta[number : 2 * number], theta[2 * number : 3 * number]
    start = _blank(problem, number + 1)
    bright = int(np.argmax(radiance))
    network = problem.network
    listed = network.presence[number] > _LISTED_PRESENCE
    column, row, peak = _residual_peak(problem, fit)
    near = math.hypot(column - x[bright], row - y[bright]) < 1.5
    split = near and not listed
    # A bright neighbour's residual is a ring: leave the brightest along it rather than on top.
    way_x, way_y = np.sign(column - x[bright]), np.sign(row - y[bright])
    for i in range(number):
        aside = 0.25 if split and i == bright else 0.0
        share = 0.5 if split and i == bright else 1.0
        _put(problem, start, i, x[i] - aside * way_x, y[i] - aside * way_y, share * radiance[i])
        # The others keep the network's word; the new one has it if it is the next candidate.
        if not (split and i == bright):
            _inherit(start, i, fit.start, i, prior_axes(problem.rules))
    if listed:
        _put(
            problem,
            start,
            number,
            problem.network.x[number],
            problem.network.y[number],
            problem.network.radiance[number],
        )
        _set_prior(problem, start, number, number)
    elif near:
        _put(problem, start, number, x[bright] + 0.35 * way_x, y[bright] + 0.35 * way_y, 0.5 * radiance[bright])
    else:
        _put(problem, start, number, float(column), float(row), max(peak / 0.4, 0.2 * radiance[bright]))
    return start


@compiled
def _residual_peak(problem: PatchProblem, fit: Fit) -> tuple[int, int, float]:
    """Column and row at which one target more explains most of what is left, and the largest residual."""
    size = problem.patch.image.shape[0]
    left = np.where(problem.patch.valid, problem.patch.image - render(fit.theta, size), 0.0)
    kernel, unused = np.empty((size, size)), np.empty(size)
    for i in range(size):
        pixel_profile(float(i), problem.rules.sigma, kernel[i], unused, unused)
    across, like = np.zeros((size, size)), np.zeros((size, size))
    for row in range(size):
        for column in range(size):
            for i in range(size):
                across[row, column] += left[row, i] * kernel[column, i]
    for row in range(size):
        for i in range(size):
            for column in range(size):
                like[row, column] += kernel[row, i] * across[i, column]
    at = int(np.argmax(like))
    return at % size, at // size, left.max()


@compiled
def _merged(problem: PatchProblem, fit: Fit) -> Start:
    """One target less: the closest pair becomes its flux centre."""
    number, theta = targets_of(fit.theta), fit.theta
    first, second, least = 0, 1, np.inf
    for i in range(number):
        for j in range(i + 1, number):
            gap = (theta[i] - theta[j]) ** 2 + (theta[number + i] - theta[number + j]) ** 2
            if gap < least:
                first, second, least = i, j, gap
    start = _blank(problem, number - 1)
    for i in range(number - 1):
        old = i if i < second else i + 1
        x, y, radiance = theta[old], theta[number + old], theta[2 * number + old]
        if old == first:
            both = radiance + theta[2 * number + second]
            share = theta[2 * number + second] / max(both, 1e-9)
            x, y = x + share * (theta[second] - x), y + share * (theta[number + second] - y)
            radiance = both
        else:
            _inherit(start, i, fit.start, old, prior_axes(problem.rules))
        _put(problem, start, i, x, y, radiance)
    return start


@compiled
def variance_of(fit: Fit, priors: Array) -> Array:
    """Variances of the parameters ``[P]`` without what the named priors say; very large where nothing else does."""
    matrix = fit.information.copy()
    for i in range(len(matrix)):
        # Data that say nothing leave zeros; what rounding cannot tell from them keeps the matrix regular.
        matrix[i, i] = matrix[i, i] * (1 + _RIDGE_SHARE) - priors[i]
    return diagonal_of_inverse(matrix)


@compiled
def network_priors(fit: Fit, axes: int) -> Array:
    """The information of the priors of positions and, with 3 axes, radiances, at the fit; 0 elsewhere: ``[P]``."""
    priors = np.zeros(len(fit.information))
    for i in range(axes * targets_of(fit.theta)):
        priors[i] = prior_weight(fit.start, fit.theta, i)
    return priors


@entry("f8[2]")
def all_count_costs(presence: Array) -> Array:
    """The ``count_costs`` of patches, ``[N, LISTED]`` to ``[N, SLOTS + 1]``."""
    costs = np.empty((len(presence), SLOTS + 1))
    for i in range(len(presence)):
        costs[i] = count_costs(presence[i])
    return costs


@entry("f8[1]")
def count_costs(presence: Array) -> Array:
    """Negative log probability of each number of targets ``[SLOTS + 1]`` if candidates come and go on their own."""
    chance = np.zeros(len(presence) + 1)
    chance[0] = 1.0
    for p in presence:
        for k in range(len(presence), 0, -1):
            chance[k] = chance[k] * (1 - p) + chance[k - 1] * p
        chance[0] *= 1 - p
    return -np.log(np.maximum(chance[: SLOTS + 1], COUNT_FLOOR_PROBABILITY))
