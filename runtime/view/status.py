"""What a running stream tells those who watch it, beyond the results and gaps that every sink is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StreamStatus:
    """Counters of a stream at one moment; called for about once a second, from other threads.

    Attributes:
        source: URI of the source, without credentials.
        engine: what runs the networks, e.g. ``tensorrt``.
        captured: frames that the source has delivered.
        dropped: frames that were not processed, by place or reason, e.g. ``{"queue": 3, "late": 1}``.
        queued: frames and results that wait, by queue.
        live: the source has a pace of its own, so that a silence means trouble.
    """

    source: str = ""
    engine: str = ""
    captured: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    queued: Mapping[str, int] = field(default_factory=dict)
    live: bool = False
