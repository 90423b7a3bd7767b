"""Results as JSON-ready objects: the lines of a file, the messages of a publisher, the rows of the live view."""

from __future__ import annotations

import json
from typing import Any

from glint.clock import utc_text
from glint.runtime.pipeline.pipeline import Result
from glint.types import Gap

TARGET_COLUMNS = (
    "frame", "name", "t_ns", "utc", "track", "x", "y", "radiance", "sigma_x", "sigma_y", "sigma_radiance", "blob",
    "score", "flags", "n", "count_probability",
)  # fmt: skip
"""Of tables with one row per target."""


def target_rows(result: Result) -> list[dict[str, Any]]:
    """One row of :data:`TARGET_COLUMNS` per target; what is unknown is None or left away."""
    frame = {"frame": result.frame.index, "name": result.frame.name, "t_ns": result.frame.t_ns, "utc": result.utc}
    return [{**frame, **row} for row in result.records()]


def frame_record(result: Result) -> dict[str, Any]:
    """The JSON line of one frame as a message: without blobs, and what the stream says of itself."""
    left_out = ("blobs", "late", "repeated", "dropped")
    return {key: value for key, value in result.to_dict().items() if key not in left_out}


def gap_record(gap: Gap) -> dict[str, Any]:
    """The JSON line of a gap in a live source."""
    utc = None if gap.utc_ns is None else utc_text(gap.utc_ns)
    return {"event": "gap", "t_ns": gap.t_ns, "utc": utc, "seconds": round(gap.seconds, 3), "reason": gap.reason}


def event_records(result: Result) -> list[dict[str, Any]]:
    """What became of tracks with this frame, each with the frame and its times."""
    if result.tracks is None:
        return []
    frame = {"frame": result.frame.index, "t_ns": result.frame.t_ns, "utc": result.tracks.utc}
    return [{**event, **frame} for event in result.tracks.events()]


def encode_record(record: Any) -> bytes:
    """A record as a message: JSON without blanks, UTF-8."""
    return json.dumps(record, allow_nan=False, separators=(",", ":")).encode()
