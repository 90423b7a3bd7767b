"""One result as a browser is given it: a small picture, the facts drawn on it, and one cluster magnified."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glint.runtime.pipeline.pipeline import Result
from glint.runtime.sinks.track_tails import Points
from glint.types import Blobs

MOST_TARGETS = 400  # of a frame, brightest first
_MOST_BLOBS = 400
_LONGEST_SIDE_PX = 1280  # px of the picture; larger frames are reduced
_STRETCH_PIXELS = 40_000  # pixels that the stretch of a frame is found from
_JPEG_QUALITY = 88
_AROUND_PX = 10  # px on each side of a cluster's centre that its view shows
_NEAR_PX = 20.0  # px within which a cluster is the one that was pointed at


@dataclass(frozen=True, eq=False)
class ViewFrame:
    """A result that waits to be looked at.

    Attributes:
        number: counts from 1.
        result: what was found.
        tails: recent positions by track.
    """

    number: int
    result: Result
    tails: Mapping[int, Points]


def display_range(data: NDArray[Any]) -> tuple[float, float]:
    """DN that are shown black and white: percentiles of a sample of the pixels, at least 1 DN apart."""
    step = max(1, int(np.sqrt(data.size / _STRETCH_PIXELS)))
    low, high = np.percentile(data[::step, ::step], (0.5, 99.9))
    return float(low), float(max(high, low + 1.0))


def picture(data: NDArray[Any], low: float, high: float) -> tuple[bytes, int]:
    """A frame as JPEG and the factor it was reduced by.

    Each pixel of a reduced picture is the brightest of those it stands for, so that no small target is lost.
    """
    factor = -(-max(data.shape) // _LONGEST_SIDE_PX)
    if factor > 1:
        rows, columns = (-(-s // factor) for s in data.shape)
        padded = np.pad(data, ((0, rows * factor - data.shape[0]), (0, columns * factor - data.shape[1])), mode="edge")
        data = padded.reshape(rows, factor, columns, factor).max(axis=(1, 3))
    scaled = np.clip((data.astype(np.float32) - low) * np.float32(255 / (high - low)), 0, 255)
    stream = io.BytesIO()
    Image.fromarray(scaled.astype(np.uint8)).save(stream, format="JPEG", quality=_JPEG_QUALITY)
    return stream.getvalue(), factor


def frame_facts(shown: ViewFrame, low: float, high: float, factor: int) -> dict[str, Any]:
    """What is drawn on the picture and written in the table, JSON-ready, in pixels of the frame."""
    result, targets = shown.result, shown.result.targets
    count = np.bincount(targets.blob, minlength=len(result.spots.left)) if len(targets) else np.zeros(0, int)
    blobs = [
        [int(left), int(top), int(count[i]) if i < len(count) else 0]
        for i, (left, top) in enumerate(zip(result.spots.left[:_MOST_BLOBS], result.spots.top[:_MOST_BLOBS]))
    ]
    rows = result.records()
    rows.sort(key=lambda row: -(row["radiance"] or 0.0))
    return {
        "number": shown.number,
        "frame": result.frame.index,
        "name": result.frame.name,
        "height": result.frame.shape[0],
        "width": result.frame.shape[1],
        "factor": factor,
        "range": [round(low, 1), round(high, 1)],
        "patch": result.spots.patches.shape[-1],
        "blobs": blobs,
        "targets": rows[:MOST_TARGETS],
        "found": len(rows),
        "tracks": _track_facts(result),
        "tails": {str(t): [[round(x, 2), round(y, 2)] for x, y in points] for t, points in shown.tails.items()},
        "latency_ms": {k: round(v, 2) for k, v in result.latency_ms.items()},
    }


def _track_facts(result: Result) -> list[dict[str, Any]]:
    """Confirmed tracks: number, place, the way that they go in a second (px), and whether they are static or seen."""
    tracks = result.tracks
    if tracks is None:
        return []
    keys = ("track", "x", "y", "vx", "vy", "static", "seen")
    columns = (tracks.number, tracks.x, tracks.y, tracks.vx, tracks.vy, tracks.static, tracks.seen)
    rows = zip(*(c[:MOST_TARGETS].tolist() for c in columns))
    return [{k: round(v, 2) if isinstance(v, float) else v for k, v in zip(keys, row)} for row in rows]


def cluster_facts(result: Result, at: tuple[float, float] | None) -> dict[str, Any] | None:
    """One cluster magnified: the frame around it, and its patch above the background.

    Args:
        result: what was found.
        at: where somebody pointed, frame pixels; None takes the cluster with most targets.

    Returns:
        Centre, ``crop`` and ``patch`` (None if no cluster is near ``at``), each with the row and column it starts
        at and its values in DN; None if nothing was found and nobody pointed anywhere.
    """
    blobs, spots, frame = result.detection.blobs, result.spots, result.frame
    blob = _most_crowded(result) if at is None else _nearest(blobs, at)
    if blob is not None:
        x, y = float(blobs.x[blob]), float(blobs.y[blob])
    elif at is not None:
        x, y = at
    else:
        return None
    facts: dict[str, Any] = {
        "x": round(x, 2),
        "y": round(y, 2),
        "blob": blob,
        "crop": values_around(frame.data, x, y),
        "patch": None,
    }
    if blob is not None:
        facts["patch"] = _values(spots.patches[blob], int(spots.left[blob]), int(spots.top[blob]))
    return facts


def values_around(data: NDArray[Any], x: float, y: float) -> dict[str, Any]:
    """The pixels around a place, with the row and column that they start at."""
    height, width = data.shape
    left = int(np.clip(round(x) - _AROUND_PX, 0, max(0, width - 2 * _AROUND_PX - 1)))
    top = int(np.clip(round(y) - _AROUND_PX, 0, max(0, height - 2 * _AROUND_PX - 1)))
    return _values(data[top : top + 2 * _AROUND_PX + 1, left : left + 2 * _AROUND_PX + 1], left, top)


def _most_crowded(result: Result) -> int | None:
    count = np.bincount(result.targets.blob, minlength=len(result.detection.blobs))
    return int(np.argmax(count)) if len(count) else None


def _nearest(blobs: Blobs, at: tuple[float, float]) -> int | None:
    distance = np.hypot(blobs.x - at[0], blobs.y - at[1])
    return int(np.argmin(distance)) if len(distance) and distance.min() <= _NEAR_PX else None


def _values(window: NDArray[Any], left: int, top: int) -> dict[str, Any]:
    rounded = np.round(window.astype(np.float64), 1)
    return {"left": left, "top": top, "rows": rounded.tolist()}
