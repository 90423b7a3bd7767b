"""Targets darker than their surroundings beside bright ones: a frame is looked at as it is, and upside down."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.processing.connected import laid_over, numbers_of, relabelled
from glint.runtime.pipeline.detector import Detection, Detector
from glint.runtime.pipeline.sensor_correction import Conditioned
from glint.runtime.pipeline.spots import SpotPatches
from glint.runtime.unmixing.optics_state import OpticsState
from glint.types import Blobs, Frame, TargetFlag, Targets


@dataclass(frozen=True, eq=False)
class Found:
    """What one look at a frame gives.

    Attributes:
        detection: blobs and maps.
        spots: patches around the blobs.
        targets, candidates: in frame pixels; None if nobody asked for candidates.
        optics: what is known of the PSF by now.
        seconds: spent on detection, unmixing and refinement.
    """

    detection: Detection
    spots: SpotPatches
    targets: Targets
    candidates: Targets | None
    optics: OpticsState
    seconds: tuple[float, float, float]


def turned(seen: Conditioned) -> Conditioned:
    """The frame with bright and dark exchanged: the same type, the same least and greatest value.

    An integer pixel at 0 is as clipped as one at full scale; of corrected frames nobody knows where 0 was.
    """
    data = seen.frame.data
    low, high = data.min(), data.max()
    if data.dtype.kind == "f":
        return Conditioned(replace(seen.frame, data=(low - data) + high), None)
    ends = int(low) + int(high)
    return Conditioned(replace(seen.frame, data=(ends - data.astype(np.int32)).astype(data.dtype)), float(ends))


def detect(detector: Detector, frame: Frame) -> Detection:
    """The targets of a frame, also the dark ones where these are wanted."""
    bright = detector(frame)
    if not frame.dark_too:
        return bright
    return _joined(bright, detector(turned(Conditioned(frame, None)).frame))[0]


def joined(bright: Found, dark: Found) -> Found:
    """Both looks as one: the rows of bright blobs, then those of dark ones, whose targets are flagged ``DARK``."""
    detection, rows = _joined(bright.detection, dark.detection)
    spots = [_spots_at(found.spots, keep) for found, keep in zip((bright, dark), rows)]
    marked = replace(dark.targets, flags=dark.targets.flags | int(TargetFlag.DARK))
    targets = [_targets_at(bright.targets, rows[0], 0), _targets_at(marked, rows[1], int(rows[0].sum()))]
    candidates = None
    if bright.candidates is not None and dark.candidates is not None and bright.detection.candidates is not None:
        flags = dark.candidates.flags | int(TargetFlag.DARK)
        shifted = replace(dark.candidates, blob=dark.candidates.blob + len(bright.detection.candidates), flags=flags)
        candidates = Targets.concatenate([bright.candidates, shifted])
    first, second, third = (a + b for a, b in zip(bright.seconds, dark.seconds))
    return Found(
        detection,
        SpotPatches(**{name: np.concatenate([vars(part)[name] for part in spots]) for name in vars(spots[0])}),
        Targets.concatenate(targets), candidates, dark.optics, (first, second, third),
    )  # fmt: skip


def _joined(bright: Detection, dark: Detection) -> tuple[Detection, tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """The detection of both, and which rows of each are in it: of two that share pixels, the more probable one."""
    keep = np.ones(len(bright.blobs), dtype=bool), np.ones(len(dark.blobs), dtype=bool)
    one, other = bright.blobs.label_map, dark.blobs.label_map
    if one is not None and other is not None:
        shared = (one > 0) & (other > 0)
        for a, b in np.unique(np.stack([one[shared], other[shared]], axis=1) - 1, axis=0).tolist():
            first = bright.blobs.score[a] >= dark.blobs.score[b]
            keep[1 if first else 0][b if first else a] = False
    candidates = None
    if bright.candidates is not None and dark.candidates is not None:
        every = np.ones(len(bright.candidates), dtype=bool), np.ones(len(dark.candidates), dtype=bool)
        candidates = _blobs_of(bright.candidates, dark.candidates, every)
    whole = replace(
        bright, blobs=_blobs_of(bright.blobs, dark.blobs, keep), candidates=candidates,
        probability=np.maximum(bright.probability, dark.probability),
    )  # fmt: skip
    return whole, keep


def _blobs_of(bright: Blobs, dark: Blobs, keep: tuple[NDArray[np.bool_], NDArray[np.bool_]]) -> Blobs:
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(blobs, name)[rows] for blobs, rows in zip((bright, dark), keep)])
        for name in ("x", "y", "area", "score")
    }
    number, labels = int(keep[0].sum()), None
    if bright.label_map is not None and dark.label_map is not None:
        first, second = numbers_of(keep[0]), numbers_of(keep[1], number)
        labels = laid_over(bright.label_map, first, relabelled(dark.label_map, second))
    return Blobs(**columns, label_map=labels, dark=np.arange(len(columns["x"])) >= number)


def _spots_at(spots: SpotPatches, keep: NDArray[np.bool_]) -> SpotPatches:
    return SpotPatches(**{name: column[keep] for name, column in vars(spots).items()})


def _targets_at(targets: Targets, keep: NDArray[np.bool_], first: int) -> Targets:
    """Targets of the blobs that are kept, whose rows begin at ``first``."""
    rows = np.cumsum(keep) - 1 + first
    kept = targets.select(keep[targets.blob]) if len(targets) else targets
    return replace(kept, blob=rows[kept.blob]) if len(kept) else kept
