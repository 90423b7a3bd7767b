"""Frames, gaps and results to record, and the comparison of what comes back."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np

from glint.runtime.pipeline.detector import Detection
from glint.runtime.pipeline.pipeline import Result
from glint.runtime.sources.base import Skipped
from glint.runtime.sources.recording_format import RecordingFile, encode_frame, encode_gap, read_recording
from glint.types import Blobs, Frame, Gap, Targets

SECOND = 1_000_000_000
NOTHING = np.zeros(0)


def frame(
    index: int, *, dtype: type = np.uint16, shape: tuple[int, int] = (6, 7), seconds: float | None = None
) -> Frame:
    rng = np.random.default_rng(index)
    data = rng.standard_normal(shape) if dtype == np.float32 else rng.integers(0, np.iinfo(dtype).max + 1, shape)
    t_ns = round(SECOND * (index / 10 if seconds is None else seconds)) + 123_456_789
    return Frame(index, t_ns, data.astype(dtype), name=f"näme {index}", full_scale=16383.0)


def result(item: Frame, targets: int = 0) -> Result:
    """What a pipeline would say: as many targets, nothing else."""
    columns = {name: np.zeros(targets) for name in ("x", "y", "radiance", "sigma_x", "sigma_y", "sigma_radiance")}
    found = Targets(**columns, blob=np.zeros(targets), score=np.zeros(targets), flags=np.zeros(targets))
    blobs = Blobs(NOTHING, NOTHING, NOTHING, NOTHING)
    detection = Detection.__new__(Detection)
    object.__setattr__(detection, "blobs", blobs)
    return Result(item, detection, found, None, {})  # type: ignore[arg-type]


def same(one: Frame, other: Frame) -> bool:
    """All that is kept of a frame, bit by bit."""
    keys = (one.index, one.t_ns, one.name, one.full_scale, one.data.dtype, one.shape)
    others = (other.index, other.t_ns, other.name, other.full_scale, other.data.dtype, other.shape)
    return keys == others and one.data.tobytes() == other.data.tobytes()


def write(path: Path, items: list[Frame | Gap]) -> Path:
    file = RecordingFile(path, source="rtsp://me:secret@camera/live")
    for number, item in enumerate(items):
        file.append(encode_frame(item) if isinstance(item, Frame) else encode_gap(item, number))
    file.close()
    return path


def read(path: Path) -> tuple[list[Frame | Gap], list[Skipped]]:
    everything = list(read_recording(path))
    return [i for i in everything if not isinstance(i, Skipped)], [i for i in everything if isinstance(i, Skipped)]


def member(name: str, content: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info.tobuf() + content + bytes(-len(content) % 512)
