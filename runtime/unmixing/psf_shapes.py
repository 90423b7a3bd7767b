"""The PSF from the shapes of spots: any width that a window holds, round or elliptical.

``psf_fit`` reads round PSFs up to a pixel more finely, from a joint fit; this takes the rest, and tells which it is.
Where no single targets agree, spots may all be clusters, and the width is the one through which points explain them.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from glint.errors import InputError
from glint.optics import PsfEstimate
from glint.runtime.unmixing.common_width import common_width
from glint.runtime.unmixing.optics_state import UNKNOWN, OpticsState, alike, weigh
from glint.runtime.unmixing.psf_fit import REASONS
from glint.runtime.unmixing.shapes import Shapes
from glint.runtime.unmixing.windows import Windows

_CLEAN_CHI_SQUARE = 1.5  # reduced chi square of a spot that one Gaussian explains
_MODEL_ERROR_SHARE = 0.01  # share of the spot that a real PSF may differ from a Gaussian
_FAINT_SNR = 6.0  # radiance over its standard deviation
_IMPRECISE_WIDTH_ERROR = 0.15  # relative error of a width that tells nothing
_SAME_PX = 3.0  # a spot so near to where one was, and one more for each frame since, is the same target
_LEAST_CLUSTERS, _MOST_CLUSTERS = 12, 200  # spots that the width through which points explain them is sought from
_MISSING_FRAMES = 10  # that a target may be missing

Array = NDArray[np.float64]


def same_targets(frame: NDArray[np.int64], x: Array, y: Array) -> NDArray[np.int64]:
    """Number of the target that each spot is of, ``[N]``: spots that follow each other from frame to frame are one."""
    label = np.arange(len(frame))
    for i in range(len(frame)):
        ago = frame[i] - frame[:i]
        before = np.flatnonzero((ago >= 1) & (ago <= _MISSING_FRAMES))
        if len(before):
            gap = np.hypot(x[before] - x[i], y[before] - y[i]) - ago[before]
            if gap.min() < _SAME_PX:
                label[i] = label[before[gap.argmin()]]
    return label


def fit_shapes(
    shapes: Shapes, edge: NDArray[np.bool_], saturated: NDArray[np.bool_], crowded: NDArray[np.bool_],
    peak_to_noise: Array, target: NDArray[np.int64], *, least: int,
) -> tuple[PsfEstimate, NDArray[np.int64]]:  # fmt: skip
    """Measure width, axes and angle.

    Args:
        shapes: of N spots.
        edge, saturated, crowded: what rules them out, ``bool [N]``.
        peak_to_noise: ``[N]``.
        target: which of them are the same target, ``[N]``: their errors are not independent.
        least: fewest spots to rest a figure on.

    Returns:
        The estimate, and why each spot is left out, as its place in ``REASONS``, or -1: ``[N]``.

    Raises:
        InputError: if too few agree, or ``least`` is below 2.
    """
    if least < 2:
        raise InputError(f"fit_shapes: expected at least 2 spots to rest on, got {least}")
    reason = _screened(shapes, edge, saturated, crowded, peak_to_noise)
    good = np.flatnonzero(reason < 0)
    state = OpticsState(UNKNOWN, 0.5)
    if len(good) >= least:
        state, member = weigh(_table(shapes, good), None)
        reason[good[~member]] = REASONS.index("wider")
    rows = np.flatnonzero(reason < 0)
    counts = _counts(reason)
    if state.kind == UNKNOWN or len(rows) < least:
        why = ", ".join(f"{n} {name}" for name, n in counts.items() if n) or "none agree"
        raise InputError(
            f"only {len(rows) if len(good) >= least else len(good)} of {len(shapes)} spots are isolated single targets "
            f"that agree, at least {least} are needed (left out: {why})",
            hint="give more frames, or frames with bright single targets that are far from each other",
        )
    sigma, error = shapes.sigma[rows], shapes.error[rows, -3]
    wide = robust_error(sigma**2, (2 * sigma**2 * error) ** -2.0, target[rows]) / (2 * state.sigma)
    scatter = math.sqrt(max(0.0, float(np.var(sigma, ddof=1)) - float(np.mean((sigma * error) ** 2))))
    estimate = described(
        PsfEstimate(
            sigma=round(state.sigma, 6), sigma_error=round(max(state.sigma_error, wide), 6), scatter=round(scatter, 6),
            used=len(rows), rejected=counts,
        ),
        state,
    )  # fmt: skip
    return estimate, reason


def fit_clusters(
    windows: Windows, shapes: Shapes, edge: NDArray[np.bool_], saturated: NDArray[np.bool_],
    crowded: NDArray[np.bool_], peak_to_noise: Array, target: NDArray[np.int64],
) -> tuple[PsfEstimate, NDArray[np.int64]] | None:  # fmt: skip
    """As ``fit_shapes``, of spots that may all be clusters of a round PSF; None if points of it do not explain them."""
    reason = _screened(shapes, edge, saturated, crowded, peak_to_noise)
    told = np.isin(reason, [-1, REASONS.index("not a point")]) & (shapes.error[:, -3] < _IMPRECISE_WIDTH_ERROR)
    rows = np.flatnonzero(told)
    # The same number of each target: first, second, ... spot of all of them.
    turn = np.array([(target[rows[:i]] == target[row]).sum() for i, row in enumerate(rows)], dtype=np.int64)
    rows = np.sort(rows[np.argsort(turn, kind="stable")[:_MOST_CLUSTERS]])
    if len(rows) < _LEAST_CLUSTERS:
        return None
    common = common_width(windows.rows(rows.tolist()), shapes.rows(rows.tolist()))
    if common is None or not common.believed:
        return None
    reason[rows] = -1
    # Spots of one target tell as much as one.
    error = common.error * math.sqrt(len(rows) / len(np.unique(target[rows])))
    sigma = math.exp(common.u)
    estimate = PsfEstimate(
        sigma=round(sigma, 6), sigma_error=round(sigma * error, 6), used=round(common.explained), clusters=True,
        rejected=_counts(reason),
    )  # fmt: skip
    return described(estimate, OpticsState(UNKNOWN, sigma)), reason


def of_one_shape(shapes: Shapes, reason: NDArray[np.int64]) -> bool:
    """Whether the spots that are used have one shape, as single targets have, and clusters have not."""
    return alike(_table(shapes, np.flatnonzero(reason < 0)))


def _screened(
    shapes: Shapes, edge: NDArray[np.bool_], saturated: NDArray[np.bool_], crowded: NDArray[np.bool_],
    peak_to_noise: Array,
) -> NDArray[np.int64]:  # fmt: skip
    """Place in ``REASONS`` of what rules each spot out at sight, or -1: ``[N]``."""
    # What a real PSF differs from a Gaussian grows with the peak; noise does not.
    odd = shapes.chi_square > _CLEAN_CHI_SQUARE + (_MODEL_ERROR_SHARE * peak_to_noise) ** 2
    vague = shapes.error[:, -3] > _IMPRECISE_WIDTH_ERROR
    faint = ~(shapes.theta[:, 2] > _FAINT_SNR * shapes.error[:, 2])
    reason = np.full(len(shapes), -1)
    for name, bad in (
        ("not a point", odd | vague), ("faint", faint), ("crowded", crowded | ~shapes.whole), ("saturated", saturated),
        ("edge", edge),
    ):  # fmt: skip
        reason[bad] = REASONS.index(name)
    return reason


def _counts(reason: NDArray[np.int64]) -> dict[str, int]:
    return {name: int((reason == i).sum()) for i, name in enumerate(REASONS)}


def _table(shapes: Shapes, rows: NDArray[np.int64]) -> Array:
    """Spots as ``weigh`` takes them."""
    columns = [shapes.theta[rows, -3:-2], shapes.stretch[rows], shapes.error[rows, -3:-2], shapes.stretch_error[rows]]
    return np.concatenate(columns, axis=1)


def robust_error(values: Array, weight: Array, group: NDArray[np.int64]) -> float:
    """Standard deviation of a weighted mean whose values are independent from group to group only; 0 for one group."""
    groups, place = np.unique(group, return_inverse=True)
    if len(groups) < 2:
        return 0.0
    mean = (weight * values).sum() / weight.sum()
    total = np.bincount(place, weights=weight * (values - mean))
    return float(math.sqrt((total**2).sum() * len(groups) / (len(groups) - 1)) / weight.sum())


def described(estimate: PsfEstimate, state: OpticsState) -> PsfEstimate:
    """The estimate with the axes and the angle of the state."""
    scaled = replace(state, sigma=estimate.sigma).covariance
    values, vectors = np.linalg.eigh(scaled)
    ratio = math.sqrt(values[1] / values[0])
    is_round = state.e == 0 and state.shear == 0
    angle = 0.0 if is_round else math.degrees(math.atan2(vectors[1, 1], vectors[0, 1])) % 180.0
    return replace(
        estimate, sigma_x=round(math.sqrt(scaled[0, 0]), 6), sigma_y=round(math.sqrt(scaled[1, 1]), 6),
        ratio=1.0 if is_round else round(max(ratio, 1.0), 6), angle=round(angle, 3),
    )  # fmt: skip
