"""Results as JSON-ready objects: the lines of a file, the messages of a publisher, the rows of the live view."""

from __future__ import annotations

import json
from typing import Any

from glint.runtime.pipeline.pipeline import Result
from glint.types import Gap


def target_records(result: Result) -> list[dict[str, Any]]:
    """One object per target (see ``Targets.records``).

    Where targets are tracked, each has its ``track``: a number, or None as long as its track is not confirmed.
    """
    return result.records()


def frame_record(result: Result) -> dict[str, Any]:
    """The JSON line of one frame, without what the stream says of itself: late, repeated and dropped frames."""
    return {key: value for key, value in result.to_dict().items() if key not in ("late", "repeated", "dropped")}


def gap_record(gap: Gap) -> dict[str, Any]:
    """The JSON line of a gap in a live source."""
    return {"event": "gap", "t_ns": gap.t_ns, "seconds": round(gap.seconds, 3), "reason": gap.reason}


def event_records(result: Result) -> list[dict[str, Any]]:
    """What became of tracks with this frame, each with the frame and its times."""
    if result.tracks is None:
        return []
    frame = {"frame": result.frame.index, "t_ns": result.frame.t_ns, "utc": result.tracks.utc}
    return [{**event, **frame} for event in result.tracks.events()]


def encode_record(record: Any) -> bytes:
    """A record as a message: JSON without blanks, UTF-8."""
    return json.dumps(record, allow_nan=False, separators=(",", ":")).encode()
