"""The whole way of one frame: detect, cut patches, unmix, refine, back to frame coordinates."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glint.crop import crop_windows
from glint.optics import Psf
from glint.runtime.detector import Detection, Detector
from glint.runtime.refine import RefineConfig, refine
from glint.runtime.unmixer import Unmixer
from glint.types import Blobs, Frame, TargetFlag, Targets

STAGES = ("capture", "detect", "unmix", "refine", "total")
_NOISE_WINDOW = 21  # px around a blob in which the sensor's noise is estimated
# Blind to planes and straight edges; a white noise of 1 has a standard deviation of 6 behind it.
_SECOND_DIFFERENCE = np.outer([1.0, -2.0, 1.0], [1.0, -2.0, 1.0])


@dataclass(frozen=True, eq=False)
class Result:
    """What the pipeline says of one frame.

    Attributes:
        frame: as it came.
        detection: blobs, probability and residual.
        targets: in frame pixels; ``blob`` is the row of ``detection.blobs``.
        patches: what was unmixed, ``float32 [B, n, n]``, DN above the background.
        left, top: column and row of the frame at which each patch starts, ``[B]``.
        latency_ms: by stage; ``total`` includes ``capture``, the time to read the frame.
    """

    frame: Frame
    detection: Detection
    targets: Targets
    patches: NDArray[np.float32]
    left: NDArray[np.int64]
    top: NDArray[np.int64]
    latency_ms: dict[str, float]


class Pipeline:
    """Detector, unmixer and refinement as one callable.

    Args:
        detector, unmixer: loaded models.
        refined: False leaves targets on the network's grid.
        config: priors and limits of the refinement.
    """

    def __init__(
        self, detector: Detector, unmixer: Unmixer, *, refined: bool = True, config: RefineConfig | None = None
    ) -> None:
        self.detector, self.unmixer = detector, unmixer
        self.refined, self.config = refined, config or RefineConfig()
        self.psf = Psf(unmixer.spec.sigma)

    def __call__(self, frame: Frame, *, capture_ms: float = 0.0) -> Result:
        """Process one frame; ``capture_ms`` is what it took to get it."""
        started = time.perf_counter()
        detection = self.detector(frame)
        detected = time.perf_counter()
        patches, left, top = cut_patches(detection, self.unmixer.spec.patch)
        targets = self.unmixer(patches)
        unmixed = time.perf_counter()
        if self.refined and len(patches):
            targets = refine_blobs(frame, detection, patches, left, top, targets, self.psf, self.config)
        targets = _to_frame(targets, frame, left, top, self.unmixer.spec.patch)
        done = time.perf_counter()
        spans = (detected - started, unmixed - detected, done - unmixed)
        stages = [capture_ms, *(1e3 * s for s in spans)]
        latency = dict(zip(STAGES, [*stages, sum(stages)]))
        return Result(frame, detection, targets, patches, left, top, latency)


def cut_patches(
    detection: Detection, size: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Patches of the residual around each blob, without the pixels of other blobs.

    Returns:
        ``float32 [B, size, size]``, and the column and row at which each starts, ``[B]``.
    """
    blobs = detection.blobs
    left, top = (np.round(v).astype(np.int64) - size // 2 for v in (blobs.x, blobs.y))
    patches = crop_windows(detection.residual, left, top, size)
    if blobs.label_map is not None and len(blobs):
        labels = crop_windows(blobs.label_map, left, top, size)
        foreign = (labels != 0) & (labels != np.arange(1, len(blobs) + 1)[:, None, None])
        patches = np.where(foreign, np.float32(0), patches)
    return patches.astype(np.float32), left, top


def local_noise(image: NDArray[np.generic], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation of the noise around positions, robustly from second differences, DN, ``[B]``.

    It is taken from the frame: the network's background follows the noise, so the residual has less.
    """
    half = _NOISE_WINDOW // 2 + 1
    left, top = (np.round(v).astype(np.int64) - half for v in (x, y))
    windows = crop_windows(image, left, top, 2 * half + 1).astype(np.float64)
    inner = ndimage.convolve(windows, _SECOND_DIFFERENCE[None], mode="nearest")[:, 1:-1, 1:-1]
    deviation: NDArray[np.float64] = np.median(np.abs(inner), axis=(1, 2))
    return 1.4826 * deviation / 6


def refine_blobs(
    frame: Frame,
    detection: Detection,
    patches: NDArray[np.float32],
    left: NDArray[np.int64],
    top: NDArray[np.int64],
    targets: Targets,
    psf: Psf,
    config: RefineConfig,
) -> Targets:
    """Refined targets in patch pixels.

    A spot that no set of point targets explains becomes one target at its centre, flagged
    ``EXTENDED``; so does one in which the network found nothing.
    """
    blobs = detection.blobs
    noise = local_noise(frame.data, blobs.x, blobs.y)
    limit = None
    if frame.full_scale is not None:
        # A pixel at full scale in the frame is at this level in the patch.
        headroom = frame.full_scale - crop_windows(frame.data, left, top, patches.shape[1]).astype(np.float32)
        limit = patches + headroom
    refined = refine(patches, targets, psf, noise=noise, full_scale=limit, config=config)
    extended = np.unique(refined.blob[(refined.flags & TargetFlag.EXTENDED) != 0])
    missing = np.setdiff1d(np.arange(len(patches)), refined.blob)
    whole = np.union1d(extended, missing)
    kept = refined.select(~np.isin(refined.blob, whole))
    return _joined(kept, _centroids(blobs, patches, left, top, whole, noise))


def _centroids(
    blobs: Blobs,
    patches: NDArray[np.float32],
    left: NDArray[np.int64],
    top: NDArray[np.int64],
    which: NDArray[np.int64],
    noise: NDArray[np.float64],
) -> Targets:
    """One target per blob: its flux-weighted centre and its flux, in patch pixels."""
    flux = np.maximum(patches[which], 0).sum(axis=(1, 2), dtype=np.float64)
    pixels = np.maximum(blobs.area[which], 1)
    # Centroid of A pixels under white noise: each axis errs by noise * sqrt(A) * spread / flux.
    sigma = noise[which] * np.sqrt(pixels) * np.sqrt(pixels / 12) / np.maximum(flux, 1e-9)
    return Targets(
        x=blobs.x[which] - left[which], y=blobs.y[which] - top[which], radiance=flux, sigma_x=sigma, sigma_y=sigma,
        sigma_radiance=noise[which] * np.sqrt(pixels), blob=which, score=blobs.score[which],
        flags=np.full(len(which), int(TargetFlag.EXTENDED)),
    )  # fmt: skip


def _joined(first: Targets, second: Targets) -> Targets:
    columns = {name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in vars(first)}
    return Targets(**columns).select(np.argsort(columns["blob"], kind="stable"))


def _to_frame(
    targets: Targets, frame: Frame, left: NDArray[np.int64], top: NDArray[np.int64], size: int
) -> Targets:
    height, width = frame.shape
    edge = (left < 0) | (top < 0) | (left + size > width) | (top + size > height)
    flags = targets.flags | np.where(edge[targets.blob], int(TargetFlag.EDGE), 0)
    moved = {"x": targets.x + left[targets.blob], "y": targets.y + top[targets.blob], "flags": flags}
    return Targets(**{**vars(targets), **moved})
