"""Off the grid: the network's candidates refined on the optical model, with their uncertainties.

For each patch the positions and radiances of its targets and a background plane (and, where the
optics are known to vary, the width of the PSF) are fitted by Levenberg-Marquardt to the
pixel-integrated PSF (``optics.Psf``). Saturated pixels are censored: where data and model reach full
scale there is no residual. What the network says of a target enters twice: as the start, and as a
heavy-tailed prior of the width that the network itself predicts, which leads where the noise is
strong and says nothing where the data are sharp (``count_search``). No weights, no training: this
is physics, and it knows its errors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from glint.cards import UnmixerSpec
from glint.compiled import compiled, entry
from glint.errors import InputError
from glint.optics import Psf, PsfEstimate
from glint.processing.candidates import SLOTS as LISTED
from glint.processing.candidates import Candidates, present
from glint.runtime.unmixing.arrangements import Bank, arrangements
from glint.runtime.unmixing.count_search import (
    NetworkCandidates,
    PatchProblem,
    SearchRules,
    all_count_costs,
    best_fit,
    count_costs,
    network_priors,
    prior_axes,
    variance_of,
)
from glint.runtime.unmixing.fit import SLOTS, BoolArray, Fit, Patch
from glint.runtime.unmixing.normal_equations import PLANE, Array, diagonal_of_inverse, plane_through
from glint.runtime.unmixing.point_model import pixel_profile, targets_of
from glint.types import TargetFlag, Targets

_WINDOW_PX = 7  # px; what a cluster within about a pixel lights
_REACH_PX = 2.0  # px; a candidate farther from the window's middle needs the whole patch
_LIGHT_SIGMAS = 5.0  # sigma of the PSF beyond which a target's light is nothing
_BETTER_VARIANCE_RATIO = 0.5  # share of the matrix's variance below which the network's spread replaces it
_AMBIGUOUS_LOG_RATIO = 2.0  # log likelihood ratio below which a count is ambiguous
_SURE_PROBABILITY = 0.98  # probability of a count beyond which no other is tried
_WELL_KNOWN_SHARE = 0.05  # relative deviation of the radiance that tells 5 targets from 6
_POOR_CHI_SQUARE = 2.0  # reduced chi square from which on points do not explain a patch
_COLUMNS = 8  # x, y, radiance, their standard deviations, score, probability of the count

_SATURATED, _NOT_CONVERGED = int(TargetFlag.SATURATED), int(TargetFlag.NOT_CONVERGED)
_COUNT_AMBIGUOUS, _EXTENDED = int(TargetFlag.COUNT_AMBIGUOUS), int(TargetFlag.EXTENDED)

RadiancePrior = tuple[float, float] | Literal["card"] | None
"""Mean and standard deviation in DN, or those of the model's card, or nothing known."""


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
    restarts: int = 8
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
        noise would), with calibrated uncertainties, ``count_probability`` among the numbers that were tried,
        score exp(-(v_x + v_y) / 0.01) with the variances of the posterior, and flags.

    Raises:
        InputError: if the shapes do not fit together.
    """
    return refine_doubting(patches, candidates, psf, noise=noise, full_scale=full_scale, valid=valid, config=config)[0]


def refine_doubting(
    patches: NDArray[np.floating],
    candidates: Candidates,
    psf: Psf,
    *,
    noise: ArrayLike | None = None,
    full_scale: ArrayLike | None = None,
    valid: BoolArray | None = None,
    config: RefineConfig | None = None,
) -> tuple[Targets, BoolArray]:
    """As ``refine``; and which patches the points do not explain, ``bool [N]``."""
    config = config or RefineConfig()
    shape = np.shape(patches)
    if len(shape) != 3 or shape[1] != shape[2]:
        raise InputError(f"refine: expected patches [N, n, n], got {list(shape)}")
    if candidates.presence.shape != (len(patches), LISTED):
        raise InputError(f"refine: expected candidates [{len(patches)}, {LISTED}], got {candidates.presence.shape}")
    image = _writable("patches", patches, shape, np.float64)
    limit = _writable("full_scale", np.inf if full_scale is None else full_scale, shape, np.float64)
    mask = _writable("valid", True if valid is None else valid, shape, np.bool_)
    noises = _writable("noise", np.nan if noise is None else noise, shape[:1], np.float64)
    columns = np.stack([getattr(candidates, name) for name in NetworkCandidates._fields]).astype(np.float64)
    limits = (float(config.noise_floor), float(config.background_share), float(config.misfit))
    number, values, flags, poor = _refine_all(
        image, noises, limit, mask, columns, _search_rules(psf, config), limits, arrangements(psf.sigma)
    )
    blob, slot = np.nonzero(np.arange(SLOTS) < number[:, None])
    x, y, radiance, sigma_x, sigma_y, sigma_radiance, score, probability = values[blob, slot].T
    targets = Targets(x, y, radiance, sigma_x, sigma_y, sigma_radiance, blob, score, flags[blob], probability)
    return targets, poor | ((flags & (_EXTENDED | _NOT_CONVERGED)) != 0)


def count_costs_of(candidates: Candidates) -> Array:
    """Negative log probability of each number of targets that the network sees in each patch, ``[N, SLOTS + 1]``."""
    return all_count_costs(candidates.presence.astype(np.float64))


def prepare_refinement(psf: Psf) -> None:
    """Compile it, render the arrangements, and whatever else the first patch would wait for."""
    patch = psf.render([[3.0, 3.4]], [[3.0, 3.5]], 100.0, (9, 9))
    columns = [np.full((1, SLOTS + 1), v, dtype=np.float32) for v in (0.0, 3.0, 3.0, 100.0, 0.1, 0.1, 10.0)]
    columns[0][0, 0] = 1.0
    refine(patch, Candidates(*columns), psf, noise=1.0)


def _writable(name: str, values: ArrayLike, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    """A copy of that shape: arrays that are read-only, or laid out in another way, would be compiled for anew."""
    try:
        return np.array(np.broadcast_to(np.asarray(values, dtype=dtype), shape), order="C")
    except ValueError:
        raise InputError(f"refine: expected {name} of shape {list(shape)}, got {list(np.shape(values))}") from None


def _search_rules(psf: Psf, config: RefineConfig) -> SearchRules:
    mean, sd = config.radiance or (0.0, np.inf)
    known = math.isfinite(sd)
    # A radiance that is known well strains where the count is wrong: then only poor fits need another one.
    sure = 0.5 if known and sd < _WELL_KNOWN_SHARE * mean else _SURE_PROBABILITY
    return SearchRules(
        sigma=float(psf.sigma), sigma_information=float(config.sigma_sd**-2.0 if config.sigma_sd else np.inf),
        radiance=float(mean), radiance_information=float(sd**-2.0),
        separation=float(config.separation * (2 / 3 if known else 1.0)), doubt=-math.log(sure),
        trust=float(config.trust), max_targets=int(config.max_targets), iterations=int(config.iterations),
        rounds=int(config.rounds), restarts=int(config.restarts),
    )  # fmt: skip


@entry(
    "f8[3] f8[1] f8[3] b1[3] f8[3] SearchRules(f8 f8 f8 f8 f8 f8 f8 i8 i8 i8 i8) (f8 f8 f8) "
    "Bank(i8[1] f8[3] f4[2] f8[1])"
)
def _refine_all(
    images: Array,
    noises: Array,
    full_scale: Array,
    valid: BoolArray,
    columns: Array,
    rules: SearchRules,
    limits: tuple[float, float, float],
    bank: Bank,
) -> tuple[NDArray[np.int64], Array, NDArray[np.int64], BoolArray]:
    """Of all patches: number of targets ``[N]``, values ``[N, SLOTS, 8]`` by x, flags, and which fits are poor."""
    number, flags = np.zeros(len(images), dtype=np.int64), np.zeros(len(images), dtype=np.int64)
    values, poor = np.zeros((len(images), SLOTS, _COLUMNS)), np.zeros(len(images), dtype=np.bool_)
    for i in range(len(images)):
        own = np.ascontiguousarray(columns[:, i])
        _drop_outside(own, valid[i])
        count = min(present(own[0]), rules.max_targets)
        if count > 0:
            network = NetworkCandidates(own[0], own[1], own[2], own[3], own[4], own[5], own[6])
            whole = Patch(images[i], noises[i], full_scale[i], valid[i])
            number[i], flags[i], poor[i] = _refine_one(whole, network, count, rules, limits, bank, values[i])
    return number, values, flags, poor


@compiled
def _drop_outside(columns: Array, valid: BoolArray) -> None:
    """Candidates ``[7, slots]`` on pixels that do not count are none; the others move up."""
    last = len(valid) - 1
    for i in range(columns.shape[1]):
        column = min(max(int(np.round(columns[1, i])), 0), last)
        row = min(max(int(np.round(columns[2, i])), 0), last)
        if not valid[row, column]:
            columns[0, i] = 0.0
    columns[:] = columns[:, np.argsort(-columns[0], kind="mergesort")]


@compiled
def _refine_one(
    whole: Patch,
    network: NetworkCandidates,
    count: int,
    rules: SearchRules,
    limits: tuple[float, float, float],
    bank: Bank,
    values: Array,
) -> tuple[int, int, bool]:
    """Number of targets, flags and poorness of one patch; fills in their values ``[SLOTS, 8]``."""
    noise_floor, background_share, misfit = limits
    noise, plane, plane_sd = _surroundings(whole, network, count, rules.sigma, noise_floor, background_share)
    n = whole.image.shape[0]
    left, top, size = _window(network, count, n)
    if size < n:
        network.x[:] -= left
        network.y[:] -= top
        # The plane is about the middle of the patch; this is its level at the middle of the window.
        plane[0] += plane[1] * (left + (size - n) / 2) + plane[2] * (top + (size - n) / 2)
    part = (slice(top, top + size), slice(left, left + size))
    patch = Patch(whole.image[part].copy(), noise, whole.full_scale[part].copy(), whole.valid[part].copy())
    middle, unused = np.empty(size), np.empty(size)
    pixel_profile(float(size // 2), rules.sigma, middle, unused, unused)
    faint = noise / (middle**2).sum()
    problem = PatchProblem(patch, network, plane, plane_sd**-2.0, count_costs(network.presence), faint, rules)
    fit, margin = best_fit(problem, count, bank)
    number, flags = _judged(problem, fit, margin, misfit)
    _fill_in(problem, fit, number, left, top, values)
    # Where no other number was tried, the network was sure of this one.
    doubt = problem.count_cost[targets_of(fit.theta)] if np.isinf(margin) else math.log(1 + math.exp(-margin))
    values[:, 7] = math.exp(-doubt)
    freedom = max(fit.counted - len(fit.information), 1)
    return number, flags, fit.misfit > _POOR_CHI_SQUARE * freedom


@compiled
def _surroundings(
    patch: Patch, network: NetworkCandidates, count: int, sigma: float, noise_floor: float, background_share: float
) -> tuple[float, Array, Array]:
    """Noise, background plane and the plane's uncertainty from the pixels that no candidate lights.

    Returns:
        noise; level and slopes about the middle of the patch ``[3]``; their standard deviations.
    """
    n = patch.image.shape[0]
    dark = np.zeros((n, n))
    numbers = not np.isnan(patch.noise)
    whole = True
    for row in range(n):
        for column in range(n):
            value = patch.image[row, column]
            whole = whole and value == np.round(value)
            lit = False
            for k in range(count):
                lit |= (network.x[k] - column) ** 2 + (network.y[k] - row) ** 2 < (_LIGHT_SIGMAS * sigma) ** 2
            if patch.valid[row, column] and value < patch.full_scale[row, column] and not lit:
                dark[row, column] = 1.0
    plane, matrix, left, pixels = plane_through(patch.image, dark)
    spread = math.sqrt(left / max(pixels - PLANE, 1))
    for row in range(n):  # once more without what sticks out: the light of something else
        for column in range(n):
            x, y = column - (n - 1) / 2, row - (n - 1) / 2
            rest = patch.image[row, column] - plane[0] - plane[1] * x - plane[2] * y
            if abs(rest) > 3 * spread + 1e-6:
                dark[row, column] = 0.0
    plane, matrix, left, pixels = plane_through(patch.image, dark)
    spread = math.sqrt(left / max(pixels - PLANE, 1))
    variance = diagonal_of_inverse(matrix)
    floor = noise_floor if whole or numbers else 0.1 * noise_floor
    known = pixels >= 4 * PLANE
    noise = max(patch.noise if numbers else (spread if known else 0.0), floor)
    slack = background_share * max(patch.image.max(), 10 * noise)
    plane_sd = np.array([slack, 0.2 * slack, 0.2 * slack])
    if not known:
        return noise, np.zeros(PLANE), 3 * plane_sd
    for i in range(PLANE):
        plane_sd[i] = math.hypot(plane_sd[i], noise * math.sqrt(variance[i]))
    return noise, plane, plane_sd


@compiled
def _window(network: NetworkCandidates, count: int, n: int) -> tuple[int, int, int]:
    """First column, first row and size of a window about the candidates; the whole patch if they do not fit into it."""
    size = min(_WINDOW_PX, n)
    left, column_fits = _side(network.x[:count], size, n)
    top, row_fits = _side(network.y[:count], size, n)
    return (left, top, size) if column_fits and row_fits else (0, 0, n)


@compiled
def _side(position: Array, size: int, n: int) -> tuple[int, bool]:
    low, high = position.min(), position.max()
    start = min(max(int(np.round((low + high) / 2 - (size - 1) / 2)), 0), n - size)
    fits = low >= start + 0.5 and high <= start + size - 1.5 and high - low <= 2 * _REACH_PX
    return start, fits


@compiled
def _judged(problem: PatchProblem, fit: Fit, margin: float, misfit: float) -> tuple[int, int]:
    """Number of targets, 0 where a patch without any explains it as well, and flags."""
    patch, number, theta = problem.patch, targets_of(fit.theta), fit.theta
    size = patch.image.shape[0]
    without, energy, saturated = 0.0, 0.0, False
    for row in range(size):
        for column in range(size):
            if patch.valid[row, column]:
                value = patch.image[row, column]
                energy += value**2
                if value >= patch.full_scale[row, column]:
                    saturated = True
                else:
                    x, y = column - (size - 1) / 2, row - (size - 1) / 2
                    plane = theta[3 * number] + theta[3 * number + 1] * x + theta[3 * number + 2] * y
                    without += ((value - plane) / patch.noise) ** 2
    allowed = misfit * (0.25 if number == problem.rules.max_targets else 1.0) * energy
    flags = 0
    if saturated:
        flags |= _SATURATED
    if not fit.converged:
        flags |= _NOT_CONVERGED
    if margin < _AMBIGUOUS_LOG_RATIO:
        flags |= _COUNT_AMBIGUOUS
    if (fit.misfit - fit.counted) * patch.noise**2 > allowed:
        flags |= _EXTENDED
    nothing = number == 1 and not saturated and without - fit.misfit < 3 * math.log(fit.counted + 1)
    return (0 if nothing else number), flags


@compiled
def _fill_in(problem: PatchProblem, fit: Fit, number: int, left: int, top: int, values: Array) -> None:
    """The targets of a fit as rows in order of x, in patch pixels."""
    if number == 0:
        return
    variance = _uncertainty(fit, problem.rules)
    # The order of the targets is best by the whole posterior, double counting and all.
    posterior = variance_of(fit, np.zeros(len(fit.information)))
    order = np.argsort(fit.theta[:number])
    for row in range(number):
        k = order[row]
        values[row, 0], values[row, 1] = fit.theta[k] + left, fit.theta[number + k] + top
        values[row, 2] = fit.theta[2 * number + k]
        for axis in range(3):
            values[row, 3 + axis] = math.sqrt(variance[axis * number + k])
        values[row, 6] = math.exp(-(posterior[k] + posterior[number + k]) / 0.01)


@compiled
def _uncertainty(fit: Fit, rules: SearchRules) -> Array:
    """Variances of the parameters of the targets, ``[3 K]``.

    The network and the fit look at the same data: their information does not add up. What counts is
    the better one: the normal matrix without the network's priors, or what the network predicts. Of a
    lone target no network can know more than the matrix.
    """
    axes = prior_axes(rules)
    number = targets_of(fit.theta)
    variance = variance_of(fit, network_priors(fit, axes))
    for i in range(axes * number if number > 1 else 0):
        if fit.start.information[i] > 0:
            predicted = 1 / (fit.start.information[i] * rules.trust**2)
            # Where both are about as good, the network's word is only its guess of what the matrix knows.
            if predicted < _BETTER_VARIANCE_RATIO * variance[i]:
                variance[i] = predicted
    return variance[: 3 * number]
