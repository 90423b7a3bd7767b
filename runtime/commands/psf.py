"""``glint psf``: measure the width of the PSF from isolated targets, or from clusters where there are none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glint import __version__
from glint.cards import DEFAULT_DETECTOR
from glint.errors import InputError
from glint.optics import PsfEstimate
from glint.processing.crop import crop_windows
from glint.progress import Progress
from glint.runtime.commands.psf_report import write_report
from glint.runtime.commands.psf_samples import light_of, with_samples
from glint.runtime.engines.choose import choose_engine
from glint.runtime.pipeline.detector import Detector
from glint.runtime.pipeline.spots import cut_spots, local_noise
from glint.runtime.sources.open import open_frames
from glint.runtime.unmixing.optics_state import LEARNED, OpticsState
from glint.runtime.unmixing.patch_unmixing import windows_of_patches
from glint.runtime.unmixing.psf_fit import PsfWindows, fit_psf
from glint.runtime.unmixing.psf_shapes import described, fit_clusters, fit_shapes, of_one_shape, same_targets
from glint.runtime.unmixing.shapes import Shapes, measure_shapes
from glint.runtime.unmixing.unmix import read_patches, recognised_clipping
from glint.runtime.unmixing.windows import Windows, cut_windows
from glint.types import Blobs, Frame

_WINDOW_PX = 11  # px
_LEAST_WINDOW_PX = 9
_FINE_SIGMA_PX = 0.9  # px; the joint fit reads narrower round PSFs more finely
_NOISE_FLOOR_DN = 0.3  # DN; least noise
_HALO_PX = 2  # px around another spot's mask that its light still reaches
_EIGHT_NEIGHBOURS = np.ones((1, 3, 3), dtype=bool)  # neighbours within each window, not across


def psf(
    source: str | Path,
    *,
    detector: str | Path = DEFAULT_DETECTOR,
    engine: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    full_scale: float | None = None,
    least: int = 5,
    report: Path | None = None,
) -> PsfEstimate:
    """Measure the width of the PSF.

    Args:
        source: what ``run`` takes, or an ``.npy`` file of patches ``[N, n, n]`` with n >= 9, each
            with a spot in its middle.
        detector: finds the spots in frames; name in the zoo or path of a model card.
        engine, precision, threads: what runs it.
        full_scale: DN at which the sensor clips; None: what the source says (255 for ``uint8``).
        least: fewest isolated spots to rest the figure on; 12 of any kind where no isolated ones agree.
        report: picture of the PSF as sampled, of the spots used and of those left out, to write.

    Raises:
        InputError: if there are too few isolated single targets and clusters do not tell it either, or ``report`` has
            another ending than ``.png``.
        EngineError: if the engine cannot be used.
        GlintError: one of its subclasses, for a bad source or model.
    """
    if report is not None and report.suffix.lower() != ".png":
        raise InputError(f"--report {report}: it is a PNG picture", hint=f"--report {report.with_suffix('.png').name}")
    choose_engine(engine)  # one that is required and cannot be had is an error, also where patches need none
    if str(source).endswith(".npy"):
        spots, seen = _seen_in_patches(read_patches(Path(source)), full_scale)
    else:
        spots, seen = _seen_in_frames(str(source), detector, engine, precision, threads, full_scale)
    estimate, reason = _fitted(spots, seen, least)
    if not estimate.clusters:
        spots_used = light_of(seen.windows, seen.shapes, np.flatnonzero(reason < 0))
        estimate = with_samples(estimate, spots_used)
    estimate = replace(estimate, source=str(source), glint=__version__)
    if report is not None:
        write_report(report, estimate, reason, seen.windows, seen.shapes)
    return estimate


@dataclass(frozen=True, eq=False)
class _Seen:
    """Windows and shapes of N spots, their peak over the noise, and which are the same target, ``[N]`` each."""

    windows: Windows
    shapes: Shapes
    peak_to_noise: NDArray[np.float64]
    target: NDArray[np.int64]


def _fitted(spots: PsfWindows, seen: _Seen, least: int) -> tuple[PsfEstimate, NDArray[np.int64]]:
    """The PSF from single targets that agree; else from spots that may be clusters, if points of one explain them."""
    saturated = np.any(spots.saturated & spots.valid, axis=(1, 2))
    columns = spots.edge, saturated, ~seen.shapes.whole, seen.peak_to_noise, seen.target
    try:
        estimate, reason = fit_shapes(seen.shapes, *columns, least=least)
    except InputError:
        found = fit_clusters(seen.windows, seen.shapes, *columns)
        if found is None:
            raise
        return found
    if not of_one_shape(seen.shapes, reason):
        found = fit_clusters(seen.windows, seen.shapes, *columns)
        if found is not None:
            return found
    if estimate.sigma < _FINE_SIGMA_PX and estimate.ratio == 1:
        return _finer(estimate, reason, spots, seen.target, least)
    return estimate, reason


def _finer(
    estimate: PsfEstimate, reason: NDArray[np.int64], spots: PsfWindows, target: NDArray[np.int64], least: int
) -> tuple[PsfEstimate, NDArray[np.int64]]:
    """A round and narrow PSF from the joint fit, if that finds enough spots, with an error that is no smaller."""
    try:
        fine, reason_fine = fit_psf(spots, least=least)
    except InputError:
        return estimate, reason
    error = max(fine.sigma_error, estimate.sigma_error if len(np.unique(target)) < len(target) else 0.0)
    return replace(described(fine, OpticsState(LEARNED, fine.sigma)), sigma_error=error), reason_fine


def _measured(windows: Windows) -> tuple[Shapes, NDArray[np.float64]]:
    shapes = measure_shapes(windows)
    return shapes, shapes.theta[:, 2] / ((2 * np.pi * shapes.sigma**2 + 1) * windows.noise)


def _seen_in_patches(patches: NDArray[Any], full_scale: float | None) -> tuple[PsfWindows, _Seen]:
    spots = spots_of_patches(patches, full_scale)
    odd = spots.data.shape[1] - (1 - spots.data.shape[1] % 2)  # a window has a middle
    limit = np.where(spots.saturated, spots.data, np.inf)
    windows = windows_of_patches(spots.data[:, :odd, :odd], limit[:, :odd, :odd], _NOISE_FLOOR_DN)
    return spots, _Seen(windows, *_measured(windows), np.arange(len(patches)))


def spots_of_patches(patches: NDArray[Any], full_scale: float | None) -> PsfWindows:
    """Patches ``[N, n, n]`` as spots; ``full_scale`` None is 255 for ``uint8``, else what they show.

    Raises:
        InputError: if they are no patches.
    """
    shape = patches.shape
    if patches.ndim != 3 or shape[1] != shape[2] or shape[1] < _LEAST_WINDOW_PX or patches.dtype.kind not in "uif":
        raise InputError(
            f"patches: expected numbers [N, n, n] with n >= {_LEAST_WINDOW_PX}, got {patches.dtype} {shape}",
            hint="cut patches of at least 9 pixels with the spot in the middle",
        )
    data = patches.astype(np.float64)
    if not np.isfinite(data).all():
        raise InputError("patches: expected finite values, got NaN or infinity", hint="leave such patches out")
    if full_scale is None:
        full_scale = 255.0 if patches.dtype == np.uint8 else recognised_clipping(patches)
    limit = np.inf if full_scale is None else full_scale
    whole = bool((data == np.round(data)).all())
    return PsfWindows(data, np.ones(shape, dtype=bool), data >= limit, np.zeros(len(data), dtype=bool), whole)


def spots_of_frame(frame: Frame, blobs: Blobs, full_scale: float | None = None) -> PsfWindows:
    """Windows of the frame around each blob; pixels that another blob's light reaches do not count."""
    limit = full_scale if full_scale is not None else frame.full_scale
    left, top = (np.round(v).astype(np.int64) - _WINDOW_PX // 2 for v in (blobs.x, blobs.y))
    data = crop_windows(frame.data, left, top, _WINDOW_PX).astype(np.float64)
    valid = np.ones(data.shape, dtype=bool)
    if blobs.label_map is not None:
        label = crop_windows(blobs.label_map, left, top, _WINDOW_PX)
        foreign = (label != 0) & (label != np.arange(1, len(blobs) + 1)[:, None, None])
        valid &= ~ndimage.binary_dilation(foreign, _EIGHT_NEIGHBOURS, iterations=_HALO_PX)
    height, width = frame.shape
    edge = (left < 0) | (top < 0) | (left + _WINDOW_PX > width) | (top + _WINDOW_PX > height)
    return PsfWindows(data, valid, data >= (np.inf if limit is None else limit), edge, frame.data.dtype != np.float32)


def _seen_in_frames(
    source: str, detector: str | Path, engine: str, precision: str, threads: int | None, full_scale: float | None
) -> tuple[PsfWindows, _Seen]:
    frames = open_frames(source)
    if frames.polarity == "both":
        raise InputError("a PSF is measured on bright spots or on dark ones", hint="polarity=white or polarity=black")
    model = Detector.open(detector, engine=engine, precision=precision, threads=threads)
    parts: list[PsfWindows] = []
    shapes: list[Shapes] = []
    cut: list[Windows] = []
    columns: list[NDArray[np.float64]] = []
    with model.engine, Progress("psf", frames.total) as line:
        for frame in frames.frames():
            detection = model(frame)
            blobs, limit = detection.blobs, full_scale if full_scale is not None else frame.full_scale
            parts.append(spots_of_frame(frame, blobs, full_scale))
            noise = np.maximum(local_noise(frame.data, blobs.x, blobs.y), _NOISE_FLOOR_DN)
            structure = cut_spots(frame, detection, _WINDOW_PX, limit).structure
            windows = cut_windows(frame, blobs, np.maximum(noise, structure), noise, limit)
            seen, peak = _measured(windows)
            shapes.append(seen)
            cut.append(windows)
            columns.append(np.stack([np.full(len(blobs), float(frame.index)), blobs.x, blobs.y, peak]))
            line.update(len(parts), f"{sum(len(p.data) for p in parts)} spots")
    if not parts:
        raise InputError(f"{source}: it has no frames", hint="name images, a stack or a video")
    index, x, y, peak = np.concatenate(columns, axis=1)
    target = same_targets(index.astype(np.int64), x, y)
    return PsfWindows.concatenate(parts), _Seen(Windows.concatenate(cut), Shapes.concatenate(shapes), peak, target)


def psf_text(estimate: PsfEstimate) -> str:
    """The result for the terminal."""
    kind = "spots, clusters among them: points explain them best" if estimate.clusters else "isolated targets"
    lines = [f"sigma     {estimate.sigma:.4f} +- {estimate.sigma_error:.4f} px, from {estimate.used} {kind}"]
    if estimate.ratio > 1:
        lines.append(
            f"axes      sigma_x {estimate.sigma_x:.4f}, sigma_y {estimate.sigma_y:.4f} px; "
            f"the longer {estimate.ratio:.3f} times the shorter, at {estimate.angle:.1f} degrees from x to y"
        )
    if estimate.scatter > 0:
        lines.append(f"scatter   {estimate.scatter:.4f} px from spot to spot beyond their noise")
    if estimate.samples:
        lines.append("samples   the PSF is no Gaussian: run and unmix fit it as sampled")
    left_out = {name: number for name, number in estimate.rejected.items() if number}
    lines += [f"left out  {number} spots: {name}" for name, number in left_out.items()]
    if 2 * estimate.rejected.get("wider", 0) > estimate.used:
        lines.append("caution   many spots are wider: clusters that pass for points make sigma too large; give more")
        lines.append("          frames with single targets")
    return "\n".join(lines)
