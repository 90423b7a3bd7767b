"""Off the grid: the network's candidates refined on the optical model, with their uncertainties.

For each patch the positions and radiances of its targets and a background plane (and, where the
optics are known to vary, the width of the PSF) are fitted by Levenberg-Marquardt to the
pixel-integrated PSF (``optics.Psf``), all patches in one batch. Saturated pixels are censored: where
data and model reach full scale there is no residual. What the network says of a target enters twice:
as the start, and as a heavy-tailed prior of the width that the network itself predicts, which leads
where the noise is strong and says nothing where the data are sharp (``runtime.search``). No weights, no
training: this is physics, and it knows its errors.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from glint.candidates import Candidates
from glint.cards import UnmixerSpec
from glint.crop import crop_patches
from glint.optics import Psf
from glint.psf_file import PsfEstimate
from glint.runtime.fit import (
    BACKGROUND,
    PLANE,
    SLOTS,
    Array,
    BoolArray,
    Fit,
    Problem,
    X,
    Y,
    fit_plane,
    plane_basis,
    prior_weights,
)
from glint.runtime.search import RefineConfig, Search, variance_of
from glint.types import TargetFlag, Targets

_WINDOW = 7  # px; what a cluster within about a pixel lights
_REACH = 2.0  # px; a candidate farther from the window's middle needs the whole patch
_LIGHT = 5.0  # sigma of the PSF beyond which a target's light is nothing
_MUCH_BETTER = 0.5  # share of the matrix's variance below which the network's spread replaces it
_RIVAL = 2.0  # log likelihood ratio below which a count is ambiguous

RadiancePrior = tuple[float, float] | Literal["card"] | None
"""Mean and standard deviation in DN, or those of the model's card, or nothing known."""


def refine_config(
    spec: UnmixerSpec, *, radiance: RadiancePrior = "card", measured: PsfEstimate | None = None
) -> RefineConfig:
    """What a model's card knows beforehand; the user's own radiance and PSF come first."""
    sigma_sd = spec.sigma_sd if measured is None else float(np.hypot(measured.sigma_error, measured.scatter))
    return RefineConfig(radiance=spec.radiance_prior if radiance == "card" else radiance, sigma_sd=sigma_sd)


def refine(
    patches: NDArray[np.floating],
    candidates: Candidates,
    psf: Psf,
    *,
    noise: ArrayLike | None = None,
    full_scale: ArrayLike | None = None,
    valid: BoolArray | None = None,
    config: RefineConfig | None = None,
) -> Targets:
    """Refine the candidates of a batch of patches.

    Args:
        patches: ``[N, n, n]``, DN above the background.
        candidates: of the network, in pixels of the patch and DN. A patch without any stays without.
        psf: the optics.
        noise: standard deviation of each patch's noise, DN, ``[N]``; estimated from the pixels around
            the spot if None.
        full_scale: level at which a pixel of the patch is saturated, DN; one number or ``[N, n, n]``
            (full scale less the background there); None if it never is.
        valid: ``bool [N, n, n]``: pixels that belong to the spot; None: all. The others are not
            fitted, and candidates there are no targets.
        config: priors and limits.

    Returns:
        Targets in patch pixels, ordered by patch and x (none where a single one explains no more than
        noise would), with calibrated uncertainties, score exp(-(v_x + v_y) / 0.01) with the variances
        of the posterior, and flags.
    """
    config = config or RefineConfig()
    image = np.asarray(patches, dtype=np.float32)
    n = image.shape[1]
    limit = np.broadcast_to(np.asarray(np.inf if full_scale is None else full_scale, dtype=np.float32), image.shape)
    mask = np.ones(image.shape, dtype=bool) if valid is None else valid
    candidates = _within(candidates, mask)
    count = np.minimum(candidates.count(), config.max_targets)
    used = np.arange(SLOTS) < count[:, None]
    sd, plane, plane_sd = _surroundings(image, candidates, used, psf, mask & (image < limit), noise, config)
    whole = Problem(image, sd, limit, mask)
    size = min(_WINDOW, n)
    left, top, wide = _windows(candidates, used, size, n)
    parts = []
    for rows, w in ((np.flatnonzero(~wide & (count > 0)), size), (np.flatnonzero(wide & (count > 0)), n)):
        if not len(rows):
            continue
        x, y = (left[rows], top[rows]) if w < n else (np.zeros(len(rows), dtype=np.int64),) * 2
        problem = whole.rows(rows)
        if w < n:
            cut = {name: crop_patches(getattr(problem, name), x, y, w) for name in ("image", "full_scale", "valid")}
            problem = replace(problem, **cut)
        # The plane is about the middle of the patch; this is its level at the middle of the window.
        level = plane[rows, 0] + plane[rows, 1] * (x + (w - n) / 2) + plane[rows, 2] * (y + (w - n) / 2)
        own = candidates.rows(rows).moved(-x, -y)
        search = Search(problem, own, np.column_stack([level, plane[rows, 1:]]), plane_sd[rows], psf, config)
        fit, margin = search.best(used[rows])
        parts.append(_targets(problem, fit, margin, config, rows, x, y))
    targets = Targets.concatenate(parts)
    return targets.select(np.lexsort((targets.x, targets.blob)))


def _within(candidates: Candidates, valid: BoolArray) -> Candidates:
    """Candidates on pixels that do not count are none; the others move up."""
    last = valid.shape[-1] - 1
    column, row = (np.clip(np.round(v).astype(np.int64), 0, last) for v in (candidates.x, candidates.y))
    presence = candidates.presence * valid[np.arange(len(valid))[:, None], row, column]
    order = np.argsort(-presence, axis=1, kind="stable")
    columns = {**vars(candidates), "presence": presence}
    return Candidates(**{name: np.take_along_axis(value, order, axis=1) for name, value in columns.items()})


def _windows(
    candidates: Candidates, used: BoolArray, size: int, n: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], BoolArray]:
    """First column and row of a window about the candidates of each patch, and which do not fit into it."""
    first, wide, seen = [], np.zeros(len(used), dtype=bool), used.any(axis=1)
    for position in (candidates.x[:, :SLOTS], candidates.y[:, :SLOTS]):
        low = np.where(seen, np.where(used, position, np.inf).min(axis=1), (n - 1) / 2)
        high = np.where(seen, np.where(used, position, -np.inf).max(axis=1), (n - 1) / 2)
        start = np.clip(np.round((low + high) / 2 - (size - 1) / 2), 0, n - size).astype(np.int64)
        wide |= (low < start + 0.5) | (high > start + size - 1.5) | (high - low > 2 * _REACH)
        first.append(start)
    return first[0], first[1], wide & (n > size)


def _surroundings(
    image: Array,
    candidates: Candidates,
    used: BoolArray,
    psf: Psf,
    valid: BoolArray,
    noise: ArrayLike | None,
    config: RefineConfig,
) -> tuple[Array, NDArray[np.float64], NDArray[np.float64]]:
    """Noise, background plane and the plane's uncertainty from the pixels that no candidate lights.

    Returns:
        noise ``[N]``; level and slopes about the middle of the patch ``[N, 3]``; their standard
        deviations.
    """
    n = image.shape[1]
    steps = np.arange(n, dtype=np.float32)
    x, y = (np.where(used, v[:, :SLOTS], np.inf) for v in (candidates.x, candidates.y))
    square = [(steps - v[..., None]) ** 2 for v in (x, y)]  # [N, SLOTS, n]
    # Distance to the nearest candidate on each axis would be too wide a box: the nearest of all is exact.
    near = (square[1][..., None] + square[0][:, :, None]).min(axis=1) < (_LIGHT * psf.sigma) ** 2
    dark = valid & ~near
    weight = dark.astype(np.float64)
    basis = plane_basis(n)
    for _ in range(2):  # once more without what sticks out: the light of something else
        plane, inverse = fit_plane(image, weight)
        rest = image - (plane @ basis).reshape(image.shape)
        pixels = weight.sum(axis=(1, 2))
        spread = np.sqrt((weight * rest**2).sum(axis=(1, 2)) / np.maximum(pixels - PLANE, 1))
        weight = dark & (np.abs(rest) <= 3 * spread[:, None, None] + 1e-6)
        weight = weight.astype(np.float64)
    numbers = (image == np.round(image)).all(axis=(1, 2)) | (noise is not None)
    floor = np.where(numbers, config.noise_floor, 0.1 * config.noise_floor)
    known = pixels >= 4 * PLANE
    sd = np.maximum(np.where(known, spread, 0.0) if noise is None else np.asarray(noise), floor)
    slack = config.background_share * np.maximum(image.max(axis=(1, 2), initial=0.0), 10 * sd)
    plane_sd = slack[:, None] * np.array([1.0, 0.2, 0.2])
    measured = sd[:, None] * np.sqrt(np.diagonal(inverse, axis1=1, axis2=2))
    plane = np.where(known[:, None], plane, 0.0)
    return sd.astype(np.float32), plane, np.where(known[:, None], np.hypot(plane_sd, measured), 3 * plane_sd)


def _uncertainty(fit: Fit, config: RefineConfig) -> NDArray[np.float64]:
    """Standard deviation of x, y and radiance of every slot, ``[M, 3 SLOTS]``.

    The network and the fit look at the same data: their information does not add up. What counts is
    the better one: the normal matrix without the network's priors, or what the network predicts.
    """
    told = np.s_[:, : (2 if config.radiance is not None else 3) * SLOTS]
    priors = np.zeros(fit.information.shape[:2])
    priors[told] = prior_weights(fit.start, fit.theta)[0][told]
    variance = variance_of(fit, priors)
    information = fit.start.information[told]
    predicted = 1 / np.where(information > 0, information, np.nan) / config.trust**2
    # Where both are about as good, the network's word is only its guess of what the matrix knows.
    better = np.isnan(variance[told]) | (predicted < _MUCH_BETTER * variance[told])
    variance[told] = np.where(better, predicted, variance[told])
    return np.sqrt(variance)


def _targets(
    problem: Problem,
    fit: Fit,
    margin: Array,
    config: RefineConfig,
    blob: NDArray[np.int64],
    left: NDArray[np.int64],
    top: NDArray[np.int64],
) -> Targets:
    """All fits as rows, in patch pixels; uncertainties from the inverse of the normal matrix."""
    sigma = _uncertainty(fit, config)
    # The order of the targets is best by the whole posterior, double counting and all.
    order = variance_of(fit)
    score = np.nan_to_num(np.exp(-(order[X] + order[Y]) / 0.01))
    alone = problem.image - (fit.theta[BACKGROUND] @ plane_basis(problem.image.shape[1])).reshape(problem.image.shape)
    below = problem.valid & (problem.image < problem.full_scale)
    without = (np.where(below, alone, 0) ** 2).sum(axis=(1, 2)) / problem.noise**2
    saturated = (problem.valid & (problem.image >= problem.full_scale)).any(axis=(1, 2))
    # A patch without any target explains it as well.
    nothing = (fit.number == 1) & ~saturated & (without - fit.misfit < 3 * np.log(fit.counted + 1))
    energy = (np.where(problem.valid, problem.image, 0) ** 2).sum(axis=(1, 2))
    allowed = config.misfit * np.where(fit.number == config.max_targets, 0.25, 1.0) * energy
    conditions = {
        TargetFlag.SATURATED: saturated,
        TargetFlag.NOT_CONVERGED: ~fit.converged,
        TargetFlag.COUNT_AMBIGUOUS: margin < _RIVAL,
        TargetFlag.EXTENDED: (fit.misfit - fit.counted) * problem.noise**2 > allowed,
    }
    flags = sum((int(flag) * here for flag, here in conditions.items()), np.zeros(len(blob), dtype=np.int64))
    row, slot = np.nonzero(fit.start.used & ~nothing[:, None])
    sx, sy, ss = (sigma[row, axis * SLOTS + slot] for axis in range(3))
    x, y, radiance = (fit.theta[row, axis * SLOTS + slot].astype(np.float64) for axis in range(3))
    return Targets(
        x=x + left[row], y=y + top[row], radiance=radiance, sigma_x=sx, sigma_y=sy, sigma_radiance=ss, blob=blob[row],
        score=score[row, slot], flags=flags[row],
    )  # fmt: skip
