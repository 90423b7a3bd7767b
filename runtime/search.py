"""The search for the best fit of a batch of patches: starts, numbers of targets, priors.

The network's candidates are the first start. Where the number of targets is in doubt, one more and
one less are fitted and the likelihoods decide, together with what the network thinks of the number;
crowded patches in which the data are sharper than the network get starts beside its own, and fits
that stay poor get starts of every number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from glint.candidates import Candidates
from glint.errors import InputError
from glint.optics import Psf
from glint.runtime.fit import (
    BACKGROUND,
    PARAMETERS,
    PLANE,
    RADIANCE,
    SIGMA,
    SLOTS,
    Array,
    BoolArray,
    Fit,
    Problem,
    Start,
    X,
    Y,
    fit_targets,
    render,
)
from glint.runtime.templates import TEMPLATE_SIZE, nearest_arrangements

_COLUMNS = (X, Y, RADIANCE)
_SURE = 0.98  # probability of a count beyond which no other is tried
_WELL_KNOWN = 0.05  # relative deviation of the radiance that tells 5 targets from 6
_COUNT_FLOOR = 1e-4  # least probability of a count: the network is never that sure
_POOR = 3.0  # standard deviations that a fit may leave more than noise before other starts are tried
_CROWD = 4  # targets from which on the nearest minimum need not be the best one
_VAGUE = 3.0  # spread of the network over sigma of the fit from which on it need not either
_ONE = 1e12  # cost of two targets that are one
_GLANCE = 5  # steps after which another start must look promising
_HOPE = 10.0  # cost above that of the fit up to which it does
_STRAINED = -1.8  # standard deviations of the priors' strain below which the fit is where the network meant
_ELSEWHERE = 0.02  # px from the fit; nearer than that it is on its way to the same place
_RIDGE = 1e-6  # share of a parameter's information that single precision may invent


@dataclass(frozen=True)
class RefineConfig:
    """What is known beforehand, and how long to try.

    Attributes:
        radiance: mean and standard deviation of a target's radiance, DN, or None if unknown.
        max_targets: most targets in a patch.
        separation: two targets nearer than this are one, pixels; two thirds of it where the radiance
            is known, because noise moves true pairs together and the radiance tells them from one.
        noise_floor: least noise to assume, DN (quantisation to whole numbers alone is 0.29); a tenth of
            it for patches of other numbers whose noise is not given.
        background_share: standard deviation of the residual background over the patch's peak; of
            its slope per pixel, a fifth of that.
        sigma_sd: standard deviation of the PSF's sigma from patch to patch, pixels; 0 holds it fixed.
        trust: width of the prior over the spread that the network predicts; infinity for no prior.
        iterations: Levenberg-Marquardt steps of a fit, at most.
        rounds: times that the number of targets may change by one.
        restarts: starts per number of targets from rendered arrangements where the fit is poor.
        misfit: share of the patch's energy that the model may leave unexplained; beyond it the
            spot is not made of point targets. A quarter of it must do where all ``max_targets``
            are used: many points can imitate anything.
    """

    radiance: tuple[float, float] | None = None
    max_targets: int = SLOTS
    separation: float = 0.45
    noise_floor: float = 0.3
    background_share: float = 0.01
    sigma_sd: float = 0.0
    trust: float = 1.2
    iterations: int = 15
    rounds: int = 2
    restarts: int = 3
    misfit: float = 0.02

    def __post_init__(self) -> None:
        if not 1 <= self.max_targets <= SLOTS:
            raise InputError(f"RefineConfig.max_targets: expected 1 to {SLOTS}, got {self.max_targets}")
        if not 0 <= self.restarts <= 100 or self.rounds < 0 or self.iterations < 1:
            raise InputError("RefineConfig: expected restarts 0 to 100, rounds >= 0 and iterations >= 1")
        if not (self.trust > 0 and self.sigma_sd >= 0 and self.background_share > 0):
            raise InputError("RefineConfig: expected trust and background_share > 0 and sigma_sd >= 0")
        if self.radiance is not None and not (self.radiance[0] > 0 and self.radiance[1] > 0):
            raise InputError(f"RefineConfig.radiance: expected positive mean and deviation, got {self.radiance}")


class Search:
    """The best fit to each patch of one batch, over starts and numbers of targets."""

    def __init__(
        self,
        problem: Problem,
        candidates: Candidates,
        plane: NDArray[np.float64],
        plane_sd: NDArray[np.float64],
        psf: Psf,
        config: RefineConfig,
    ) -> None:
        self.problem, self.candidates, self.psf, self.config = problem, candidates, psf, config
        blank = np.zeros((len(problem.image), PARAMETERS), dtype=np.float32)
        mean, information = blank.copy(), blank.copy()
        mean[BACKGROUND], information[BACKGROUND] = plane, plane_sd**-2.0
        mean[SIGMA], information[SIGMA] = psf.sigma, config.sigma_sd**-2.0 if config.sigma_sd else np.inf
        self.blank = Start(mean.copy(), np.zeros((len(blank), SLOTS), dtype=bool), mean, information)
        self.count_cost = -np.log(np.maximum(_count_probability(candidates.presence), _COUNT_FLOOR))

    def best(self, used: BoolArray) -> tuple[Fit, Array]:
        """Search from the candidates that are used.

        Returns:
            One fit per patch, and by how much its cost is below that of the best other number of targets.
        """
        fit = fit_targets(self.problem, self._from_candidates(used), self.config.iterations)
        margin = np.full(len(used), np.inf, dtype=np.float32)
        fit = self._recount(fit, margin)
        if self.config.restarts and self.problem.image.shape[1] >= TEMPLATE_SIZE:
            fit = self._scatter(fit, margin)
            fit = self._restart(fit, margin)
        return fit, margin

    def _start(self, rows: NDArray[np.int64], used: BoolArray, x: Array, y: Array, radiance: Array) -> Start:
        """Targets in the used slots; radiances have the user's prior if there is one."""
        base = self.blank.rows(rows)
        theta, mean, information = base.theta, base.mean, base.information
        x, y = (np.clip(v, -0.5, self.problem.image.shape[1] - 0.5) for v in (x, y))
        for where, value in ((X, x), (Y, y), (RADIANCE, np.maximum(radiance, 0))):
            theta[where] = np.where(used, value, 0)
        if self.config.radiance is not None:
            mean[RADIANCE] = np.where(used, self.config.radiance[0], 0)
            information[RADIANCE] = np.where(used, self.config.radiance[1] ** -2.0, 0)
        return Start(theta, used, mean, information)

    def _from_candidates(self, used: BoolArray) -> Start:
        """The network's candidates, with its spreads as priors."""
        c, trust = self.candidates, self.config.trust
        columns = [v[:, :SLOTS] for v in (c.x, c.y, c.radiance)]
        spreads = [v[:, :SLOTS] for v in (c.sigma_x, c.sigma_y, c.sigma_radiance)]
        start = self._start(np.arange(len(used)), used, *columns)
        words = [
            (v, (np.float32(trust) * np.maximum(spread, np.float32(1e-4))) ** -2) for v, spread in zip(columns, spreads)
        ]
        self._take_at_its_word(start, used, words)
        return start

    def _take_at_its_word(self, start: Start, slots: BoolArray, words: Sequence[tuple[Array, ...]]) -> None:
        """Give the named slots of a start the network's priors: mean and information of x, y, radiance."""
        known = self.config.radiance is not None  # the user's word comes first
        for where, (mean, information) in list(zip(_COLUMNS, words))[: 2 if known else 3]:
            start.mean[where] = np.where(slots, mean, start.mean[where])
            start.information[where] = np.where(slots, information, start.information[where])

    def _recount(self, fit: Fit, margin: Array) -> Fit:
        """Try one target more and one less where the count is in doubt; ``margin`` is updated in place."""
        number = np.arange(len(margin))
        mean, sd = self.config.radiance or (1.0, 1.0)
        # A radiance that is known well strains where the count is wrong: then only poor fits need another one.
        sure = 0.5 if sd < _WELL_KNOWN * mean else _SURE
        doubtful = (self.count_cost[number, fit.number] > -np.log(sure)) | (self._excess(fit) > _POOR)
        rows = np.flatnonzero(doubtful)
        for _ in range(self.config.rounds):
            more = rows[fit.number[rows] < self.config.max_targets]
            less = rows[fit.number[rows] > 1]
            if not len(more) + len(less):
                break
            start = _joined(self._grown(fit.rows(more), more), self._merged(fit.rows(less), less))
            both = np.concatenate([more, less])
            changed = self._compete(fit, margin, both, self._raced(fit, both, start))
            rows = rows[changed[1][rows]]
            fit = changed[0]
            if not len(rows):
                break
        return fit

    def _scatter(self, fit: Fit, margin: Array) -> Fit:
        """Other starts for crowded patches where the data are sharper than the network's word.

        There its candidates may lie in the valley of another arrangement. The network's prior stays,
        each of its targets with the nearest one of the arrangement.
        """
        c = self.candidates
        as_told = fit.start.information[:, 0] > 0  # by the network: not recounted
        rows = np.flatnonzero(as_told & (fit.number >= _CROWD) & (self._strain(fit) > _STRAINED))
        spread = np.concatenate([c.sigma_x[rows, :SLOTS], c.sigma_y[rows, :SLOTS]], axis=1)
        there = np.tile(fit.start.used[rows], 2)
        vague = there & (spread**2 > _VAGUE**2 * variance_of(fit.rows(rows))[:, : 2 * SLOTS])
        rows = rows[vague.any(axis=1)]
        if not len(rows):
            return fit
        repeated = np.repeat(np.arange(len(rows)), self.config.restarts)
        start = fit.start.rows(rows[repeated])
        theta = start.theta.copy()
        for k in range(_CROWD, SLOTS + 1):
            some = np.flatnonzero(fit.number[rows] == k)
            if len(some):
                x, y, _ = nearest_arrangements(self._spots(fit, rows[some]), self.psf, k, self.config.restarts)
                order = _matched(x, y, c.x[rows[some], None, :k], c.y[rows[some], None, :k])
                where = np.flatnonzero(np.isin(repeated, some))
                for first, value in ((0, x), (SLOTS, y)):
                    moved = np.take_along_axis(value, order, axis=2)
                    theta[where, first : first + k] = moved.reshape(-1, k)
        tried = fit_targets(self.problem.rows(rows[repeated]), replace(start, theta=theta), _GLANCE)
        cost = tried.cost.reshape(len(rows), -1)
        winner = np.arange(len(rows)) * self.config.restarts + cost.argmin(axis=1)
        tried = tried.rows(winner)
        elsewhere = np.abs(tried.theta - fit.theta[rows])[:, : 2 * SLOTS].max(axis=1) > _ELSEWHERE
        promising = np.flatnonzero(elsewhere & (tried.cost < fit.cost[rows] + _HOPE))
        rows, tried = rows[promising], tried.rows(promising)
        to_the_end = replace(tried.start, theta=tried.theta)
        tried = fit_targets(self.problem.rows(rows), to_the_end, self.config.iterations)
        gain = fit.cost[rows] - tried.cost
        won = np.flatnonzero(gain > 0)
        margin[rows[won]] += gain[won]
        return fit.replaced(rows[won], tried.rows(won))

    def _restart(self, fit: Fit, margin: Array) -> Fit:
        """Give poor fits second starts from rendered arrangements; ``margin`` is updated in place."""
        poor = np.flatnonzero(self._excess(fit) > _POOR)
        if not len(poor):
            return fit
        restarts = self.config.restarts
        starts, owners = [], []
        for k in range(1, self.config.max_targets + 1):
            columns = nearest_arrangements(self._spots(fit, poor), self.psf, k, restarts)
            padded = [np.pad(v.reshape(-1, k), ((0, 0), (0, SLOTS - k))) for v in columns]
            rows = np.repeat(poor, restarts)
            starts.append(self._start(rows, np.tile(np.arange(SLOTS) < k, (len(rows), 1)), *padded))
            owners.append(rows)
        owner = np.concatenate(owners)
        return self._compete(fit, margin, owner, self._raced(fit, owner, _joined(*starts)))[0]

    def _raced(self, fit: Fit, owner: NDArray[np.int64], start: Start) -> Fit:
        """Rivals of the fits, of which only those that look promising after a few steps run to the end."""
        steps = min(_GLANCE, self.config.iterations)
        tried = fit_targets(self.problem.rows(owner), start, steps)
        cost, limit = self._cost(tried, owner), self._cost(fit, np.arange(len(fit.theta)))
        # Where the fit itself is poor its cost is no measure: the best of each number goes on.
        best = np.full((len(limit), SLOTS + 1), -np.inf, dtype=np.float32)
        poor = self._excess(fit) > _POOR
        best[poor] = np.inf
        np.minimum.at(best, (owner, tried.number), cost)
        limit = np.maximum(limit[owner], best[owner, tried.number])
        left = np.flatnonzero((cost < limit + _HOPE) & ~tried.converged)
        steps = self.config.iterations - steps
        if not len(left) or not steps:
            return tried
        further = replace(start.rows(left), theta=tried.theta[left])
        return tried.replaced(left, fit_targets(self.problem.rows(owner[left]), further, steps))

    def _spots(self, fit: Fit, rows: NDArray[np.int64]) -> Array:
        """Patches without their background, ``[M, w, w]``."""
        level = fit.theta[rows, 3 * SLOTS, None, None]
        return np.where(self.problem.valid[rows], self.problem.image[rows] - level, np.float32(0))

    def _compete(self, fit: Fit, margin: Array, owner: NDArray[np.int64], tried: Fit) -> tuple[Fit, BoolArray]:
        """The best of each patch's fit and its rivals; ``margin`` is updated in place.

        Args:
            fit: one per patch.
            margin: by how much each fit's cost is below that of the best other number of targets, ``[M]``.
            owner: patch of each rival, ``[R]``.
            tried: the rivals.

        Returns:
            The winners, and which patches have a new one.
        """
        patches = np.arange(len(margin))
        # Costs by patch and number of targets: its own fit and the best rival of each number.
        table = np.full((len(margin), SLOTS + 1), np.inf, dtype=np.float32)
        table[patches, fit.number] = own = self._cost(fit, patches)
        cost = self._cost(tried, owner)
        np.minimum.at(table, (owner, tried.number), cost)
        best = table.min(axis=1)
        order = np.lexsort((cost, owner))
        first = order[np.unique(owner[order], return_index=True)[1]]  # the cheapest rival of each patch
        won = first[cost[first] < own[owner[first]]]
        fit = fit.replaced(owner[won], tried.rows(won))
        touched = np.unique(owner)
        table[patches, fit.number] = np.inf
        rival = table.min(axis=1)
        kept = np.ones(len(margin), dtype=bool)
        kept[owner[won]] = False
        # What an earlier round found stays true while the fit is the same.
        before = np.where(kept, margin, np.inf)
        margin[touched] = np.minimum(before, rival - best)[touched]
        return fit, ~kept

    def _cost(self, fit: Fit, rows: NDArray[np.int64]) -> Array:
        """What decides between numbers of targets: misfit, the user's priors, the network's count.

        The network's positions are no part of it: they were made for one number only. Where two targets
        are one, or one of several is darker than the noise, it is beyond all others, and grows with their number.
        """
        used, start = fit.start.used, fit.start
        ours = start.information[:, 2 * SLOTS : -1] * (fit.theta - start.mean)[:, 2 * SLOTS : -1] ** 2
        if self.config.radiance is None:
            ours = ours[:, SLOTS:]
        cost = 0.5 * (fit.misfit + ours.sum(axis=1)) + self.count_cost[rows, fit.number]
        limit = self.config.separation * (1.0 if self.config.radiance is None else 2 / 3)
        gap = _gaps(fit.theta[X], fit.theta[Y], used)
        w = self.problem.image.shape[1]
        shine = (self.psf.profile(np.array([w // 2]), w) ** 2).sum()  # noise / shine: sigma of a lone target's radiance
        dark = used & (fit.theta[RADIANCE] < self.problem.noise[rows, None] / shine) & (fit.number > 1)[:, None]
        none = (gap < limit**2).sum(axis=(1, 2)) + dark.sum(axis=1)
        return (cost + _ONE * none).astype(np.float32)

    def _excess(self, fit: Fit) -> Array:
        """By how many standard deviations a fit leaves more than noise would, or strains the priors."""
        freedom = np.maximum(fit.counted - 3 * fit.number - PLANE, 1)
        left = (fit.misfit - freedom) / np.sqrt(2 * freedom)
        return np.maximum(left, self._strain(fit)).astype(np.float32)

    def _strain(self, fit: Fit) -> Array:
        """By how many standard deviations a fit strains the priors more than their number explains."""
        known = PLANE + 3 * fit.number
        result: Array = ((fit.strain - known) / np.sqrt(2 * known)).astype(np.float32)
        return result

    def _grown(self, fit: Fit, rows: NDArray[np.int64]) -> Start:
        """One target more: the next candidate, or where the residual is best explained by one, or a split."""
        m, k = np.arange(len(rows)), fit.number
        x, y, s = (fit.theta[where].copy() for where in _COLUMNS)
        residual = np.where(
            self.problem.valid[rows], self.problem.image[rows] - render(self.problem.rows(rows), fit), 0
        )
        w = residual.shape[1]
        kernel = self.psf.profile(np.arange(w, dtype=np.float64), w).astype(np.float32)
        peak = (kernel @ residual @ kernel.T).reshape(len(rows), w * w).argmax(axis=1)
        column, row = peak % w, peak // w
        bright = np.where(fit.start.used, s, -1).argmax(axis=1)
        near = np.hypot(column - x[m, bright], row - y[m, bright]) < 1.5
        # A bright neighbour's residual is a ring: leave the brightest along it rather than on top.
        way_x, way_y = np.sign(column - x[m, bright]), np.sign(row - y[m, bright])
        new_x = np.where(near, x[m, bright] + 0.35 * way_x, column)
        new_y = np.where(near, y[m, bright] + 0.35 * way_y, row)
        new_s = np.where(near, 0.5 * s[m, bright], np.maximum(residual.max(axis=(1, 2)) / 0.4, 0.2 * s[m, bright]))
        c = self.candidates
        listed = c.presence[rows, k] > 0.02
        split = near & ~listed
        x[m, bright] -= np.where(split, 0.25 * way_x, 0)
        y[m, bright] -= np.where(split, 0.25 * way_y, 0)
        s[m, bright] *= np.where(split, 0.5, 1.0)
        x[m, k] = np.where(listed, c.x[rows, k], new_x)
        y[m, k] = np.where(listed, c.y[rows, k], new_y)
        s[m, k] = np.where(listed, c.radiance[rows, k], new_s)
        slots = np.arange(SLOTS)
        start = self._start(rows, slots <= k[:, None], x, y, s)
        # The others keep the network's word; the new one has it if it is the next candidate.
        words = [(fit.start.mean[where], fit.start.information[where]) for where in _COLUMNS]
        self._take_at_its_word(start, (slots < k[:, None]) & ~(split[:, None] & (slots == bright[:, None])), words)
        listed_slot = listed[:, None] & (slots == k[:, None])
        told = self._from_candidates(np.broadcast_to(slots < SLOTS, (len(self.count_cost), SLOTS))).rows(rows)
        self._take_at_its_word(start, listed_slot, [(told.mean[w], told.information[w]) for w in _COLUMNS])
        return start

    def _merged(self, fit: Fit, rows: NDArray[np.int64]) -> Start:
        """One target less: the closest pair becomes its flux centre."""
        m = np.arange(len(rows))
        x, y, s = (fit.theta[where].copy() for where in _COLUMNS)
        gap = _gaps(x, y, fit.start.used)
        first, second = np.divmod(gap.reshape(len(rows), SLOTS**2).argmin(axis=1), SLOTS)
        share = s[m, second] / np.maximum(s[m, first] + s[m, second], 1e-9)
        for value in (x, y):
            value[m, first] += share * (value[m, second] - value[m, first])
        s[m, first] += s[m, second]
        used = fit.start.used.copy()
        used[m, second] = False
        order = np.argsort(~used, axis=1, kind="stable")
        columns = [np.take_along_axis(v, order, axis=1) for v in (x, y, s)]
        start = self._start(rows, np.take_along_axis(used, order, axis=1), *columns)
        words = [
            tuple(np.take_along_axis(v[w], order, axis=1) for v in (fit.start.mean, fit.start.information))
            for w in _COLUMNS
        ]
        alone = np.take_along_axis(np.arange(SLOTS) != first[:, None], order, axis=1)
        self._take_at_its_word(start, alone & start.used, words)
        return start


def _joined(*starts: Start) -> Start:
    """One batch of several."""
    return Start(*(np.concatenate([getattr(start, name) for start in starts]) for name in vars(starts[0])))


def _count_probability(presence: Array) -> Array:
    """Probability of each number of targets, ``[N, slots + 1]``, if candidates come and go on their own."""
    result = np.zeros((len(presence), presence.shape[1] + 1), dtype=np.float32)
    result[:, 0] = 1
    for p in presence.T:
        result[:, 1:] = result[:, 1:] * (1 - p[:, None]) + result[:, :-1] * p[:, None]
        result[:, 0] *= 1 - p
    return result


def _matched(x: Array, y: Array, to_x: Array, to_y: Array) -> NDArray[np.int64]:
    """Order of the targets x, y ``[..., k]`` in which they are nearest to ``to_x``, ``to_y``: ``[..., k]``."""
    orders = np.array(list(permutations(range(x.shape[-1]))))  # [k!, k]
    gap = (x[..., orders] - to_x[..., None, :]) ** 2 + (y[..., orders] - to_y[..., None, :]) ** 2
    best: NDArray[np.int64] = orders[gap.sum(axis=-1).argmin(axis=-1)]
    return best


def _gaps(x: Array, y: Array, used: BoolArray) -> Array:
    """Squared distances between used targets ``[M, SLOTS, SLOTS]``; infinite on the diagonal and elsewhere."""
    gap = (x[:, :, None] - x[:, None]) ** 2 + (y[:, :, None] - y[:, None]) ** 2
    pair = used[:, :, None] & used[:, None] & ~np.eye(SLOTS, dtype=bool)
    return np.where(pair, gap, np.inf).astype(np.float32)


def variance_of(fit: Fit, priors: NDArray[np.float64] | float = 0.0) -> NDArray[np.float64]:
    """Variances of the targets' parameters ``[M, 3 SLOTS]`` without what the priors say.

    NaN where a fit hangs in the air.
    """
    matrix = fit.information.astype(np.float64)
    diagonal = np.arange(matrix.shape[1])
    # Data that say nothing leave zeros; what single precision cannot tell from them keeps the matrix regular.
    matrix[:, diagonal, diagonal] *= 1 + _RIDGE
    matrix[:, diagonal, diagonal] -= priors
    variance = np.diagonal(np.linalg.inv(matrix), axis1=1, axis2=2)[:, : 3 * SLOTS]
    return np.where(variance > 0, variance, np.nan)
