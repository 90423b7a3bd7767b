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
    rows = result.targets.records()
    if result.track is not None:
        for row, track in zip(rows, result.track.tolist()):
            row["track"] = track if track >= 0 else None
    return rows


def frame_record(result: Result) -> dict[str, Any]:
    """The JSON line of one frame."""
    return {
        "frame": result.frame.index,
        "name": result.frame.name,
        "t_ns": result.frame.t_ns,
        "targets": target_records(result),
        "latency_ms": {k: round(v, 3) for k, v in result.latency_ms.items()},
    }


def gap_record(gap: Gap) -> dict[str, Any]:
    """The JSON line of a gap in a live source."""
    return {"event": "gap", "t_ns": gap.t_ns, "seconds": round(gap.seconds, 3), "reason": gap.reason}


def encode_record(record: Any) -> bytes:
    """A record as a message: JSON without blanks, UTF-8."""
    return json.dumps(record, allow_nan=False, separators=(",", ":")).encode()
