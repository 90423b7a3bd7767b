"""From spots and what is known of the optics to targets: how many, where, how bright, how sure.

Every spot is judged in a window of its own (``evidence``). A spot that is wider than the PSF, or that no set of points
explains, is one target at its centre, ``EXTENDED``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from glint.compiled import compiled, entry
from glint.runtime.unmixing.count_calibration import JUDGED_TOLD_WEIGHTS, JUDGED_WEIGHTS, calibrated, flagged
from glint.runtime.unmixing.evidence import (
    DECISIVE_LOG_EVIDENCE,
    WIDE_GIVEN,
    WIDE_LEARNED,
    WIDE_TOLD,
    WIDTH_FACTOR,
    WIDTH_PX,
    Case,
    Optics,
    count_prior,
    judge,
    measured_spot,
)
from glint.runtime.unmixing.fit import SLOTS, BoolArray, Patch
from glint.runtime.unmixing.normal_equations import Array, diagonal_of_inverse
from glint.runtime.unmixing.optics_state import KNOWN, UNKNOWN, OpticsState
from glint.runtime.unmixing.point_model import SHAPE, targets_of
from glint.runtime.unmixing.refine import RefineConfig
from glint.runtime.unmixing.shapes import Shapes, inner
from glint.runtime.unmixing.windows import Windows
from glint.types import TargetFlag, Targets

MODEL_ERROR_SHARE = 0.05  # share of the peak that real spots differ from a Gaussian; measured 4-6 % on three data sets
_KNOWN_MODEL_ERROR_SHARE = 0.002  # share of the peak that known optics differ from it
_SAME_WIDTH_SHARE = 0.15  # relative difference of widths below which a spot is as wide as the PSF
_ROUND_DISTORTION = 0.35  # e and shear of a spot that is as round as the PSF
_WINDOW_MARGIN_PX = 2  # px that a window reaches beyond the points that begin
_SHARP_WIDTH_ERROR = 0.15  # relative error of a width below which a spot is measured by itself
_COLUMNS = 8  # x, y, radiance, their standard deviations, score, probability of the count
_ODD_CHI_SQUARE = 1.3  # reduced chi square of one spot from which on more may be in it

_EXTENDED, _SATURATED = int(TargetFlag.EXTENDED), int(TargetFlag.SATURATED)


def beliefs(state: OpticsState, config: RefineConfig, card_sigma: float) -> Optics:
    """What the judge is told."""
    mean, sd = config.radiance or (0.0, math.inf)
    u, information, wide, decisive = math.log(state.sigma), math.inf, WIDE_GIVEN, 0.0
    if state.kind == UNKNOWN:
        u, information, wide, decisive = math.log(WIDTH_PX), math.log(WIDTH_FACTOR) ** -2, 0.5, DECISIVE_LOG_EVIDENCE
    elif state.kind != KNOWN:
        information, wide = math.hypot(state.sigma_error / state.sigma, state.uneven) ** -2, WIDE_LEARNED
    elif state.sigma_error:
        information = (state.sigma_error / state.sigma) ** -2
    if config.radiance is not None and state.kind != UNKNOWN:
        wide = WIDE_TOLD
    scale = state.sigma / card_sigma
    return Optics(
        u=u, u_information=information, e=float(state.e), shear=float(state.shear), radiance=float(mean),
        radiance_information=float(sd**-2.0), wide=math.log(wide / (1 - wide)), decisive=decisive,
        separation=scale * config.separation * (2 / 3 if config.radiance else 1.0), max_targets=config.max_targets,
        correction=state.splines(),
    )  # fmt: skip


def judge_spots(
    windows: Windows, shapes: Shapes, points: Targets, state: OpticsState, config: RefineConfig, card_sigma: float,
    said: NDArray[np.float64] | None = None, *, keep: bool = True,
) -> Targets:  # fmt: skip
    """Targets of B spots.

    Args:
        windows, shapes: of the spots.
        points: to begin with, in pixels of the window; ``blob`` is the spot. A spot without any begins with one.
        state: of the optics.
        config: priors of the refinement.
        card_sigma: of the PSF that ``config.separation`` is meant for, px.
        said: negative log probability of each number of targets by the network, ``[B, SLOTS + 1]``, if it is asked.
        keep: whether the points are in the camera's own pixels, as precise as what is fitted here if the PSF is round.

    Returns:
        Targets in pixels of the window, in order of spots and x. Where the points are as many as the spot has targets,
        and ``keep`` is set, they are as they were.
    """
    number = len(windows)
    if not number:
        return Targets()
    share = MODEL_ERROR_SHARE if state.kind == UNKNOWN else _KNOWN_MODEL_ERROR_SHARE
    keep = keep and state.is_round
    peak = shapes.theta[:, 2] / (2 * math.pi * shapes.sigma**2 + 1)
    coarse = np.hypot(windows.noise, share * np.maximum(peak, 0))
    starts, begins = np.zeros((number, 3, SLOTS)), np.zeros(number, dtype=np.int64)
    order = np.argsort(points.blob, kind="stable")
    for row in order.tolist():
        b = int(points.blob[row])
        if begins[b] < SLOTS:
            starts[b, :, begins[b]] = points.x[row], points.y[row], points.radiance[row]
            begins[b] += 1
    values, count, flags = np.zeros((number, SLOTS, _COLUMNS)), np.zeros(number, np.int64), np.zeros(number, np.int64)
    psf = np.array([math.log(state.sigma), state.e, state.shear])
    told = np.broadcast_to(count_prior(said), (number, SLOTS + 1)).copy()  # one that may be written to: one signature
    _judge_all(
        windows.data, windows.clear, windows.full_scale, windows.white, coarse, shapes.theta, shapes.half,
        shapes.elliptical, windows.home, starts, begins, beliefs(state, config, card_sigma), told, psf, values, count,
        flags,
    )  # fmt: skip
    if state.kind == UNKNOWN:
        _measure_again(
            values, np.flatnonzero((count == 1) & (shapes.error[:, -3] < _SHARP_WIDTH_ERROR)), windows, shapes
        )
    kept = keep & (begins == count) & (count > 1) & ((flags & _EXTENDED) == 0)
    blob, slot = np.nonzero(np.arange(SLOTS) < np.where(kept, 0, count)[:, None])
    x, y, radiance, sigma_x, sigma_y, sigma_radiance, score, probability = values[blob, slot].T
    fresh = Targets(x, y, radiance, sigma_x, sigma_y, sigma_radiance, blob, score, flags[blob], probability)
    same = points.select(kept[points.blob])
    same = same.changed(flags=same.flags | flags[same.blob], count_probability=values[same.blob, 0, 7])
    joined = Targets.concatenate([fresh, same])
    joined = calibrated(joined, state.sigma, JUDGED_WEIGHTS if config.radiance is None else JUDGED_TOLD_WEIGHTS)
    return flagged(joined.select(np.lexsort((joined.x, joined.blob))))


def _measure_again(values: Array, rows: NDArray[np.int64], windows: Windows, shapes: Shapes) -> None:
    """Give lone spots the place, radiance and uncertainties of their own shape.

    What is believed of optics that are unknown decides on the number; in a place it would be a bias.
    """
    scale = np.sqrt(np.maximum(shapes.chi_square[rows], (windows.white[rows] / windows.noise[rows]) ** 2))
    spread = shapes.error[rows, :3] * scale[:, None]
    values[rows, 0, :3], values[rows, 0, 3:6] = shapes.theta[rows, :3], spread
    values[rows, 0, 6] = np.exp(-(spread[:, 0] ** 2 + spread[:, 1] ** 2) / 0.01)


def may_hold_several(shapes: Shapes, state: OpticsState, config: RefineConfig) -> NDArray[np.bool_]:
    """Spots that more than one point of the PSF might explain better, ``bool [B]``: the others need no network."""
    if state.kind == UNKNOWN:
        return np.zeros(len(shapes), dtype=bool)
    if config.radiance is not None:  # then the light tells how many targets are in what looks like one
        return np.ones(len(shapes), dtype=bool)
    off = np.abs(shapes.theta[:, -3] - math.log(state.sigma))
    same = (off < 3 * np.hypot(shapes.error[:, -3], state.sigma_error / state.sigma)) & ~shapes.elliptical
    several: NDArray[np.bool_] = ~same | (shapes.chi_square > _ODD_CHI_SQUARE) | (state.e != 0)
    return several


@entry(
    "f8[3] b1[3] f8[3] f8[1] f8[1] f8[2] i8[1] b1[1] b1[3] f8[3] i8[1] "
    "Optics(f8 f8 f8 f8 f8 f8 f8 f8 f8 i8 f8[2]) f8[2] f8[1] f8[3] i8[1] i8[1]"
)
def _judge_all(
    data: Array, clear: BoolArray, full_scale: Array, white: Array, coarse: Array, theta: Array,
    half: NDArray[np.int64], elliptical: BoolArray, home: BoolArray, starts: Array, begins: NDArray[np.int64],
    optics: Optics, told: Array, psf: Array, values: Array, count: NDArray[np.int64], flags: NDArray[np.int64],
) -> None:  # fmt: skip
    most = data.shape[1] // 2
    for b in range(len(data)):
        begin = begins[b]
        x, y = starts[b, 0, :begin].copy(), starts[b, 1, :begin].copy()
        reach = half[b]
        for k in range(begin):
            far = max(abs(x[k] - most), abs(y[k] - most))
            reach = min(max(reach, math.ceil(far) + _WINDOW_MARGIN_PX), most)
        patch = inner(data[b], coarse[b], full_scale[b], clear[b], reach)
        start = theta[b].copy()
        offset = most - reach
        start[:2] -= offset
        x -= offset
        y -= offset
        spot = measured_spot(patch, SHAPE if elliptical[b] else 1, start, 1.001 * math.exp(start[-3]))
        own = home[b, offset : most + reach + 1, offset : most + reach + 1].copy()
        verdict = judge(Case(patch, spot, own, optics, told[b]), x, y, starts[b, 2, :begin].copy())
        fit = verdict.fit
        number = targets_of(fit.theta)
        variance = diagonal_of_inverse(fit.information)
        # What is left tells the noise; it is never less than the sensor's own.
        scale = max(verdict.unexplained, (white[b] / coarse[b]) ** 2)
        order = np.argsort(fit.theta[:number])
        for row in range(number):
            k = order[row]
            for axis in range(3):
                values[b, row, axis] = fit.theta[axis * number + k] + (offset if axis < 2 else 0)
                values[b, row, 3 + axis] = math.sqrt(scale * variance[axis * number + k])
            values[b, row, 6] = math.exp(-scale * (variance[k] + variance[number + k]) / 0.01)
        values[b, :, 7] = verdict.probability
        count[b] = number
        flags[b] = 0
        if (verdict.wide or number == 1) and not _like(fit.theta, psf):
            flags[b] |= _EXTENDED
            values[b, :, 7] = np.nan
        elif verdict.wide:  # as good as the PSF, but wider: it may be several
            values[b, :, 7] = np.nan
        if _saturates(patch):
            flags[b] |= _SATURATED


@compiled
def _like(theta: Array, psf: Array) -> bool:
    """Whether the shape of a spot is that of the PSF."""
    if abs(theta[-3] - psf[0]) > _SAME_WIDTH_SHARE:
        return False
    return abs(theta[-2] - psf[1]) < _ROUND_DISTORTION and abs(theta[-1] - psf[2]) < _ROUND_DISTORTION


@compiled
def _saturates(patch: Patch) -> bool:
    for row in range(patch.image.shape[0]):
        for column in range(patch.image.shape[1]):
            if patch.valid[row, column] and patch.image[row, column] >= patch.full_scale[row, column]:
                return True
    return False
