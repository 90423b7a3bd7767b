"""How a stream is doing: what the live view and the metrics ask for while it runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StreamStatus:
    """Counts since the start; see ``docs/streams.md`` for what they count.

    Attributes:
        frames: results that the outputs have taken.
        targets: in them.
        dropped: frames that gave no result, by the place where they were dropped.
        late: results that came after their deadline.
        gaps: times at which a live source had lost its frames.
        waiting: frames before the detector and results before the outputs, now.
        fps: results per second of late.
        idle_s: seconds since the last result, or since the start.
    """

    frames: int
    targets: int
    dropped: dict[str, int]
    late: int
    gaps: int
    waiting: tuple[int, int]
    fps: float
    idle_s: float
