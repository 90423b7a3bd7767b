"""Patches by themselves to targets: the network's candidates refined, and what points do not explain as one spot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from glint.optics import Psf
from glint.processing.candidates import Candidates
from glint.runtime.unmixing.count_calibration import RADIANCE_TOLD_WEIGHTS, REFINED_WEIGHTS, calibrated, flagged
from glint.runtime.unmixing.optics_state import KNOWN, Learner, OpticsState
from glint.runtime.unmixing.refine import RefineConfig, refine_doubting
from glint.runtime.unmixing.shapes import measure_shapes
from glint.runtime.unmixing.verdicts import judge_spots
from glint.runtime.unmixing.windows import Windows, noise_of_windows
from glint.types import TargetFlag, Targets


def windows_of_patches(
    patches: NDArray[np.floating], full_scale: ArrayLike | None, noise_floor: float, noise: ArrayLike | None = None
) -> Windows:
    """Patches ``[N, n, n]`` as windows about their spots; noise that is not given is taken from the pixels."""
    data = np.ascontiguousarray(patches, dtype=np.float64)
    number = len(data)
    whole = bool((data == np.round(data)).all())
    found = noise_of_windows(data) if noise is None else np.broadcast_to(np.asarray(noise, dtype=np.float64), (number,))
    white = np.maximum(found, noise_floor * (1.0 if whole else 0.1))
    limit = np.broadcast_to(np.asarray(np.inf if full_scale is None else full_scale, dtype=np.float64), data.shape)
    nothing = np.zeros(number, dtype=np.int64)
    clear = np.ones(data.shape, dtype=bool)
    return Windows(data, clear, limit.copy(), white, nothing, nothing, white, nothing, clear)


def unmix_known(
    patches: NDArray[np.floating],
    candidates: Candidates,
    psf: Psf,
    *,
    full_scale: ArrayLike | None = None,
    config: RefineConfig,
) -> Targets:
    """Targets of patches through the optics that the network knows.

    The points that ``refine`` finds stand wherever they explain the patch. Where they do not, all hypotheses are
    weighed (``evidence``): what no set of points explains is one target at its centre, ``EXTENDED``. So they are where
    the network sees nothing in a patch with saturated pixels: these are lit.

    Args:
        patches, candidates, psf, full_scale, config: as of ``refine``.
    """
    targets, poor = refine_doubting(patches, candidates, psf, full_scale=full_scale, config=config)
    targets = calibrated(targets, psf.sigma, REFINED_WEIGHTS if config.radiance is None else RADIANCE_TOLD_WEIGHTS)
    if config.radiance is not None:  # their number is known from the light: poor fits are of poor optics
        poor = np.zeros_like(poor)
        poor[targets.blob[(targets.flags & (TargetFlag.EXTENDED | TargetFlag.NOT_CONVERGED)) != 0]] = True
    saturated = np.greater_equal(patches, np.inf if full_scale is None else full_scale)
    unseen: NDArray[np.bool_] = np.any(saturated, axis=(1, 2))
    unseen[targets.blob] = False
    rows = np.flatnonzero(poor | unseen)
    if not len(rows):
        return flagged(targets)
    limit = None if full_scale is None else np.broadcast_to(np.asarray(full_scale), patches.shape)[rows]
    windows = windows_of_patches(patches[rows], limit, config.noise_floor)
    begin = targets.select(poor[targets.blob])
    begin = replace(begin, blob=np.searchsorted(rows, begin.blob))
    state = OpticsState(KNOWN, psf.sigma, config.sigma_sd)
    judged = judge_spots(windows, measure_shapes(windows), begin, state, config, psf.sigma)
    judged = replace(judged, blob=rows[judged.blob])
    taken = unseen.copy()
    taken[judged.blob[(judged.flags & TargetFlag.EXTENDED) != 0]] = True
    joined = Targets.concatenate([targets.select(~taken[targets.blob]), judged.select(taken[judged.blob])])
    return flagged(joined.select(np.argsort(joined.blob, kind="stable")))


def unmix_through(
    patches: NDArray[np.floating],
    candidates: Candidates,
    state: OpticsState | None,
    *,
    full_scale: ArrayLike | None = None,
    config: RefineConfig,
    own: float,
) -> tuple[Targets, OpticsState]:
    """Targets of patches through optics that the network does not know, or that nobody does.

    Args:
        patches, candidates, full_scale, config: as of ``refine``.
        state: the optics; None: they are learned from the patches.
        own: width of the PSF that the network was trained for, px.

    Returns:
        Targets, and the optics.
    """
    windows = windows_of_patches(patches, full_scale, config.noise_floor)
    shapes = measure_shapes(windows)
    state = Learner(own, config.radiance).update(windows, shapes) if state is None else state
    points = refine_doubting(patches, candidates, Psf(state.sigma), full_scale=full_scale, config=config)[0]
    return judge_spots(windows, shapes, points, state, config, own), state
