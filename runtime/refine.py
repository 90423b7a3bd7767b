"""Off the grid: targets of the network refined on the optical model, with their uncertainties.

For each patch the radiance, position and number of targets and a background plane are fitted by
Levenberg-Marquardt to the pixel-integrated PSF (``optics.Psf``), all patches of equal count in one
batch. Saturated pixels are censored: where data and model reach full scale there is no residual. The
network supplies the start; the number of targets is decided again among K - 1, K and K + 1 by
penalised likelihood, repeatedly, because on a 3x grid neighbouring cells and ghosts look alike.
No weights, no training: this is physics, and it knows its errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from glint.errors import InputError
from glint.optics import Psf
from glint.runtime.fit import (
    PLANE,
    Fit,
    Problem,
    border_noise,
    fit_targets,
    model_residual,
    normal_equations,
)
from glint.runtime.templates import nearest_arrangements
from glint.types import TargetFlag, Targets

_COLUMNS = ("x", "y", "radiance", "sigma_x", "sigma_y", "sigma_radiance", "blob", "score", "flags")


FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


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
        iterations: Levenberg-Marquardt steps of a fit.
        rounds: times that the number of targets may change by one.
        restarts: starts per number of targets from rendered arrangements where the fit is poor.
        misfit: share of the patch's energy that the model may leave unexplained; beyond it the
            spot is not made of point targets. A quarter of it must do where all ``max_targets``
            are used: many points can imitate anything.
    """

    radiance: tuple[float, float] | None = None
    max_targets: int = 5
    separation: float = 0.45
    noise_floor: float = 0.3
    background_share: float = 0.03
    iterations: int = 12
    rounds: int = 3
    restarts: int = 3
    misfit: float = 0.02

    def __post_init__(self) -> None:
        if not 1 <= self.max_targets <= 5:
            raise InputError(f"RefineConfig.max_targets: expected 1 to 5, got {self.max_targets}")
        if not 0 <= self.restarts <= 100 or self.rounds < 0 or self.iterations < 1:
            raise InputError("RefineConfig: expected restarts 0 to 100, rounds >= 0 and iterations >= 1")
        if self.radiance is not None and not (self.radiance[0] > 0 and self.radiance[1] > 0):
            raise InputError(f"RefineConfig.radiance: expected positive mean and deviation, got {self.radiance}")


def refine(
    patches: NDArray[np.floating],
    start: Targets,
    psf: Psf,
    *,
    noise: FloatArray | None = None,
    full_scale: ArrayLike | None = None,
    valid: BoolArray | None = None,
    config: RefineConfig | None = None,
) -> Targets:
    """Refine the targets of a batch of patches.

    Args:
        patches: ``[N, n, n]``, DN above the background.
        start: targets with ``blob`` the number of their patch, in patch pixels. A patch without
            any stays without.
        psf: the optics.
        noise: standard deviation of each patch's noise, DN, ``[N]``; estimated from its border
            if None.
        full_scale: level at which a pixel of the patch is saturated, DN; one number or ``[N, n, n]``
            (full scale less the background there); None if it never is.
        valid: ``bool [N, n, n]``: pixels that belong to the spot; None: all. The others are not
            fitted, and targets do not start there.
        config: priors and limits.

    Returns:
        Targets in patch pixels, ordered by patch and x (none where a single one explains no more than
        noise would), with uncertainties from the normal matrix, score
        exp(-(sigma_x^2 + sigma_y^2) / 0.01), and flags.
    """
    config = config or RefineConfig()
    image = patches.astype(np.float64)
    whole = (image == np.round(image)).all(axis=(1, 2)) | (noise is not None)
    floor = np.where(whole, config.noise_floor, 0.1 * config.noise_floor)
    sd = np.maximum(border_noise(image) if noise is None else noise, floor)
    peak = image.max(axis=(1, 2), initial=0.0)
    limit = np.broadcast_to(np.asarray(np.inf if full_scale is None else full_scale, dtype=np.float64), image.shape)
    level_sd = config.background_share * np.maximum(peak, 10 * sd)
    background_sd = level_sd[:, None] * np.array([1.0, 0.2, 0.2])
    mask = np.ones(image.shape, dtype=bool) if valid is None else valid
    problem = Problem(image, sd, limit, mask, background_sd, config.radiance, psf)
    best = _search(problem, _starts(start, mask, config), config)
    if config.restarts:
        _restart(problem, best, config)
    return _targets(problem, best, config)


def _starts(start: Targets, valid: BoolArray, config: RefineConfig) -> dict[int, tuple[NDArray[np.int64], FloatArray]]:
    """Starting points by count: patch numbers and theta. Weak surplus targets are left out."""
    groups: dict[int, list[tuple[int, FloatArray]]] = {}
    last = valid.shape[-1] - 1
    row, column = (np.clip(np.round(v).astype(np.int64), 0, last) for v in (start.y, start.x))
    start = start.select(valid[start.blob, row, column])
    order = np.lexsort((-start.radiance, start.blob))
    for rows in np.split(order, np.flatnonzero(np.diff(start.blob[order])) + 1) if len(order) else []:
        rows = _thin(start, rows, config.separation)[: config.max_targets]
        theta = np.concatenate([start.x[rows], start.y[rows], start.radiance[rows], np.zeros(PLANE)])
        groups.setdefault(len(rows), []).append((int(start.blob[rows[0]]), theta))
    return {
        k: (np.array([patch for patch, _ in members]), np.array([theta for _, theta in members]))
        for k, members in groups.items()
    }


def _thin(start: Targets, rows: NDArray[np.int64], separation: float) -> NDArray[np.int64]:
    """Brightest first, leave out what lies too near to a brighter one (a ghost in the next cell)."""
    kept: list[int] = []
    for row in rows:
        if all(np.hypot(start.x[row] - start.x[k], start.y[row] - start.y[k]) >= separation for k in kept):
            kept.append(int(row))
    return np.array(kept, dtype=np.int64)


def _search(
    problem: Problem, starts: dict[int, tuple[NDArray[np.int64], FloatArray]], config: RefineConfig
) -> dict[int, tuple[Fit, float]]:
    """For each patch the best fit over the counts, and by how much it beats the next best count."""
    pending = {
        k: (patch, fit_targets(problem.rows(patch), theta, config.iterations)) for k, (patch, theta) in starts.items()
    }
    pixels = problem.image[0].size if len(problem.image) else 0
    # Until a round says otherwise, the count is that of the start.
    best = {int(n): (_row(fit, i), np.inf) for patch, fit in pending.values() for i, n in enumerate(patch)}
    for _ in range(config.rounds):
        improved: dict[int, list[tuple[int, Fit]]] = {}
        for k, (patch, fit) in pending.items():
            here = problem.rows(patch)
            costs = [_penalised(fit, pixels, config)]
            fits = [fit]
            if k < config.max_targets:
                fits.append(fit_targets(here, _grown(here, fit), config.iterations))
                costs.append(_penalised(fits[-1], pixels, config))
            if k > 1:
                fits.append(fit_targets(here, _merged(fit), config.iterations))
                costs.append(_penalised(fits[-1], pixels, config))
            table = np.stack(costs)
            order = np.sort(table, axis=0)
            rival = order[1] if len(table) > 1 else np.full(len(patch), np.inf)
            margin = np.where(np.isfinite(rival), rival - np.where(np.isfinite(order[0]), order[0], 0.0), np.inf)
            winner = table.argmin(0)
            for row, number in enumerate(patch):
                chosen = _row(fits[winner[row]], row)
                best[int(number)] = (chosen, float(margin[row]))
                if winner[row]:
                    improved.setdefault(chosen.count, []).append((int(number), chosen))
        if not improved:
            break
        pending = {
            k: (
                np.array([number for number, _ in members]),
                Fit(*(np.concatenate([getattr(fit, name) for _, fit in members]) for name in vars(members[0][1]))),
            )
            for k, members in improved.items()
        }
    return best


def _restart(problem: Problem, best: dict[int, tuple[Fit, float]], config: RefineConfig) -> None:
    """Give poor fits a second start from rendered arrangements; ``best`` is updated in place."""
    poor = np.array([number for number, (fit, _) in best.items() if _is_poor(problem, number, fit, config)])
    if not len(poor) or problem.image.shape[1] < 7:
        return
    here, pixels = problem.rows(poor), problem.image[0].size
    spots = np.where(here.valid, here.image, 0.0)
    repeated = problem.rows(np.repeat(poor, config.restarts))
    for k in range(1, config.max_targets + 1):
        x, y, radiance = nearest_arrangements(spots, problem.psf, k, config.restarts)
        columns = [v.reshape(len(repeated.image), k) for v in (x, y, radiance)]
        theta = np.column_stack([*columns, np.zeros((len(repeated.image), PLANE))])
        fit = fit_targets(repeated, theta, config.iterations)
        costs = _penalised(fit, pixels, config).reshape(len(poor), config.restarts)
        winner = costs.argmin(1)
        for row, number in enumerate(poor):
            if not np.isfinite(costs[row, winner[row]]):
                continue
            old, margin = best[int(number)]
            gain = float(_penalised(old, pixels, config)[0] - costs[row, winner[row]])
            if gain > 0:
                chosen = _row(fit, row * config.restarts + winner[row])
                # The beaten fit is the rival now, unless it had as many targets.
                best[int(number)] = (chosen, gain if old.count != k else margin + gain)
            elif old.count != k:
                best[int(number)] = (old, min(margin, -gain))


def _is_poor(problem: Problem, number: int, fit: Fit, config: RefineConfig) -> bool:
    """Whether a fit leaves more than noise or strains the priors, but might still be mended."""
    here = problem.rows(np.array([number]))
    residual, counts = model_residual(here, fit.theta)
    pixels = int(counts.sum())
    noise = float(here.noise[0]) ** 2
    left = float((residual**2).sum())
    if left - pixels * noise > 5 * config.misfit * float((here.image[here.valid] ** 2).sum()):
        return False  # no arrangement of points could do
    strain = 2 * float(fit.cost[0]) - left / noise  # squared distance from the priors, in standard deviations
    known = PLANE + (fit.count if config.radiance is not None else 0)
    return left > noise * (pixels + 3 * np.sqrt(2 * pixels)) or strain > known + 3 * np.sqrt(2 * known)


def _row(fit: Fit, row: int) -> Fit:
    return Fit(fit.theta[row : row + 1], fit.cost[row : row + 1], fit.converged[row : row + 1])


def _penalised(fit: Fit, pixels: int, config: RefineConfig) -> FloatArray:
    """Cost plus what the free parameters are worth (BIC); infinite where two targets are one.

    ``pixels`` are those of the whole patch, valid or not: one more target may be anywhere in it.
    """
    cost = fit.cost + 0.5 * fit.theta.shape[1] * np.log(pixels)
    x, y = fit.column(0), fit.column(1)
    gap = np.hypot(x[:, :, None] - x[:, None], y[:, :, None] - y[:, None])
    gap[:, np.arange(fit.count), np.arange(fit.count)] = np.inf
    limit = config.separation * (1.0 if config.radiance is None else 2 / 3)
    return np.where(gap.min(axis=(1, 2)) < limit, np.inf, cost)


def _grown(problem: Problem, fit: Fit) -> FloatArray:
    """One target more: where the residual is best explained by one, or the brightest one split."""
    residual, _ = model_residual(problem, fit.theta)
    n = residual.shape[1]
    kernel = problem.psf.profile(np.arange(n, dtype=np.float64), n)
    matched = kernel @ residual @ kernel.T
    k = fit.count
    brightest = fit.column(2).argmax(1)
    rows = np.arange(len(residual))
    x, y, s = (fit.column(c)[rows, brightest] for c in range(3))
    peak = matched.reshape(len(matched), -1).argmax(1)
    near = np.hypot(peak % n - x, peak // n - y) < 1.5
    # A bright neighbour's residual is a ring: leave the brightest along it rather than on top.
    new_x = np.where(near, x + 0.35 * np.sign(peak % n - x), peak % n)
    new_y = np.where(near, y + 0.35 * np.sign(peak // n - y), peak // n)
    new_s = np.where(near, 0.5 * s, np.maximum(residual.max(axis=(1, 2)) / 0.4, 0.2 * s))
    theta = fit.theta.copy()
    shift = np.where(near, 0.25, 0.0)
    theta[rows, brightest] -= shift * np.sign(new_x - x)
    theta[rows, k + brightest] -= shift * np.sign(new_y - y)
    theta[rows, 2 * k + brightest] *= np.where(near, 0.5, 1.0)
    return np.column_stack(
        [theta[:, :k], new_x, theta[:, k : 2 * k], new_y, theta[:, 2 * k : 3 * k], new_s, theta[:, -PLANE:]]
    )


def _explains(problem: Problem, fit: Fit, residual: FloatArray) -> float:
    """By how much the targets of a fit lower the cost of its background alone."""
    alone = fit.theta.copy()
    alone[:, 2 * fit.count : 3 * fit.count] = 0
    without, _ = model_residual(problem, alone)
    return float(((without**2).sum() - (residual**2).sum()) / (2 * problem.noise[0] ** 2))


def _merged(fit: Fit) -> FloatArray:
    """One target less: the closest pair becomes its flux centre."""
    k, rows = fit.count, np.arange(len(fit.theta))
    x, y, s = (fit.column(c).copy() for c in range(3))
    gap = np.hypot(x[:, :, None] - x[:, None], y[:, :, None] - y[:, None])
    gap[:, np.arange(k), np.arange(k)] = np.inf
    first, second = np.divmod(gap.reshape(len(gap), -1).argmin(1), k)
    share = s[rows, second] / np.maximum(s[rows, first] + s[rows, second], 1e-9)
    for value in (x, y):
        value[rows, first] += share * (value[rows, second] - value[rows, first])
    s[rows, first] += s[rows, second]
    keep = np.ones((len(rows), k), dtype=bool)
    keep[rows, second] = False
    parts = [value[keep].reshape(len(rows), k - 1) for value in (x, y, s)]
    return np.column_stack([*parts, fit.theta[:, -PLANE:]])


def _targets(problem: Problem, best: dict[int, tuple[Fit, float]], config: RefineConfig) -> Targets:
    """All fits as rows, by patch; uncertainties from the inverse of the normal matrix."""
    rows: list[FloatArray] = []
    for number in sorted(best):
        fit, margin = best[number]
        here = problem.rows(np.array([number]))
        residual, counts = model_residual(here, fit.theta)
        flat, prior = normal_equations(here, fit.theta, counts)
        information = flat[0].T @ flat[0] + np.diag(prior[0])
        variance = np.clip(np.diagonal(np.linalg.pinv(information, hermitian=True)), 0, None)
        # What no pixel tells has no finite error; the pseudo-inverse calls it 0.
        variance = np.where(np.diagonal(information) > 0, variance, np.nan)
        k = fit.count
        if k == 1 and _explains(here, fit, residual) < 1.5 * np.log(counts.sum() + 1):
            continue  # a patch without any target explains it as well
        sigma = np.sqrt(variance)
        image = here.image[0]
        flags = 0
        if (here.valid[0] & (image >= here.full_scale[0])).any():
            flags |= TargetFlag.SATURATED
        if not fit.converged[0]:
            flags |= TargetFlag.NOT_CONVERGED
        if margin < 2.0:
            flags |= TargetFlag.COUNT_AMBIGUOUS
        unexplained = float((residual**2).sum()) - counts.sum() * float(here.noise[0]) ** 2
        allowed = config.misfit * (0.25 if k == config.max_targets else 1.0)
        if unexplained > allowed * float((image[here.valid[0]] ** 2).sum()):
            flags |= TargetFlag.EXTENDED
        for i in np.argsort(fit.theta[0, :k]):
            sx, sy, ss = sigma[i], sigma[k + i], sigma[2 * k + i]
            score = np.nan_to_num(np.exp(-(sx**2 + sy**2) / 0.01))
            rows.append(np.array([*fit.theta[0, i::k][:3], sx, sy, ss, number, score, flags]))
    columns = dict(zip(_COLUMNS, np.array(rows).reshape(-1, len(_COLUMNS)).T))
    return Targets(**columns)  # type: ignore[arg-type]  # it casts whole numbers itself
