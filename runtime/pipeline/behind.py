"""A frame without what is known to lie behind its spots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from glint.runtime.pipeline.detector import Detection
from glint.runtime.pipeline.sensor_correction import Conditioned
from glint.runtime.tracking.history import Behind
from glint.types import Frame

Earlier = Callable[[Frame, Frame, Detection], tuple[Detection, Behind | None]]
"""Says what earlier frames know of a frame: as it came, as the detector saw it, and what that found. Gives which spots
there are, and what lies behind them."""


def with_more(behind: Behind | None, more: Behind | None) -> Behind | None:
    """What is known of some spots and of others."""
    if behind is None or more is None:
        return behind or more
    return Behind(*(np.concatenate(pair) for pair in zip(behind, more)))


def without(seen: Conditioned, detection: Detection, behind: Behind) -> tuple[Conditioned, Detection]:
    """A frame and its detection as if the background were a plane around some of its spots.

    There the detector's own background is what is seen: a plane through that leaves noise and what is not explained.
    Where two windows overlap, each pixel is the nearer spot's.
    """
    frame = seen.frame
    off = np.zeros(frame.shape, dtype=np.float32)
    nearest = np.full(frame.shape, np.inf, dtype=np.float32)
    size = behind.detail.shape[1]
    ramp = np.arange(size) - size // 2
    distance = np.hypot(ramp, ramp[:, None]).astype(np.float32)
    for left, top, detail in zip(behind.left.tolist(), behind.top.tolist(), behind.detail):
        part = np.s_[top : top + size, left : left + size]
        nearer = distance < nearest[part]
        off[part][nearer] = detail[nearer]
        nearest[part][nearer] = distance[nearer]
    level = detection.level - off / np.float32(detection.scale)
    background = np.zeros_like(level) if detection.background is None else detection.background
    ceiling = None if seen.ceiling is None else np.asarray(seen.ceiling - off, dtype=np.float32)
    cleared = Conditioned(replace(frame, data=frame.data - off), ceiling)
    return cleared, replace(detection, level=level, background=np.where(np.isfinite(nearest), level, background))
