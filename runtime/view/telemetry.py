"""What a run looks like from outside: counters, latencies, and whether frames still come."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from glint.runtime.pipeline.pipeline import Result
from glint.runtime.tracking.tracks import Tracks
from glint.types import Gap

BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
STALL_S = 5.0  # without a frame for longer, a run counts as stalled
_RATE_WINDOW_S = 5.0


@dataclass(frozen=True)
class Histogram:
    """Observations by size.

    Attributes:
        counts: observations up to each of ``BUCKETS_S``, and above the last one; not cumulative.
        total: sum of all observations, seconds.
    """

    counts: tuple[int, ...]
    total: float


@dataclass(frozen=True)
class Snapshot:
    """Telemetry at one moment.

    Attributes:
        frames, blobs, targets: since the start.
        last_targets: in the last frame.
        repeated: frames with the bytes of the one before.
        tracks: that live; None if targets are not tracked.
        track_events: of tracks since the start, by name, and ``zone_events`` by zone and name.
        gaps: of the source, and ``gap_seconds`` their length together.
        fps: frames per second over the last 5 s; 0 without frames.
        age_s: since the last frame was done, or since the start if there was none.
        state: ``starting``, ``ok``, ``stalled`` (no frame for 5 s) or ``ended``.
        latency: by stage.
    """

    frames: int
    blobs: int
    targets: int
    last_targets: int
    repeated: int
    tracks: int | None
    track_events: dict[str, int]
    zone_events: dict[tuple[str, str], int]
    gaps: int
    gap_seconds: float
    fps: float
    age_s: float
    state: str
    latency: dict[str, Histogram]


class Telemetry:
    """Counts results and gaps; written by one thread, read by any.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._last = clock()
        self._frames = self._blobs = self._targets = self._last_targets = self._gaps = self._repeated = 0
        self._tracks: int | None = None
        self._track_events: dict[str, int] = {}
        self._zone_events: dict[tuple[str, str], int] = {}
        self._gap_seconds = 0.0
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}
        self._arrivals: deque[float] = deque(maxlen=512)
        self._ended = False

    def add(self, result: Result) -> None:
        """Count one result."""
        with self._lock:
            self._last = self._clock()
            self._arrivals.append(self._last)
            self._frames += 1
            self._blobs += len(result.detection.blobs)
            self._last_targets = len(result.targets)
            self._targets += self._last_targets
            self._repeated += result.repeated
            if result.tracks is not None:
                self._add_tracks(result.tracks)
            for stage, milliseconds in result.latency_ms.items():
                counts = self._counts.setdefault(stage, [0] * (len(BUCKETS_S) + 1))
                counts[bisect_left(BUCKETS_S, milliseconds / 1e3)] += 1
                self._sums[stage] = self._sums.get(stage, 0.0) + milliseconds / 1e3

    def _add_tracks(self, tracks: Tracks) -> None:
        self._tracks = len(tracks)
        for event, numbers in (("confirmed", tracks.confirmed), ("lost", tracks.lost)):
            self._track_events[event] = self._track_events.get(event, 0) + len(numbers)
        for crossing in tracks.crossed:
            key = crossing.zone, crossing.event
            self._zone_events[key] = self._zone_events.get(key, 0) + 1

    def add_gap(self, gap: Gap) -> None:
        """Count one gap."""
        with self._lock:
            self._gaps += 1
            self._gap_seconds += gap.seconds

    def end(self) -> None:
        """No more results will come."""
        with self._lock:
            self._ended = True

    def snapshot(self) -> Snapshot:
        """All of it at one moment."""
        with self._lock:
            now = self._clock()
            age = now - self._last
            recent = [t for t in self._arrivals if t > now - _RATE_WINDOW_S]
            span = recent[-1] - recent[0] if len(recent) > 1 else 0.0
            if self._ended:
                state = "ended"
            elif age > STALL_S:
                state = "stalled"
            else:
                state = "ok" if self._frames else "starting"
            return Snapshot(
                frames=self._frames, blobs=self._blobs, targets=self._targets, last_targets=self._last_targets,
                repeated=self._repeated, tracks=self._tracks, track_events=dict(self._track_events),
                zone_events=dict(self._zone_events),
                gaps=self._gaps, gap_seconds=self._gap_seconds,
                fps=(len(recent) - 1) / span if span > 0 else 0.0, age_s=age, state=state,
                latency={s: Histogram(tuple(c), self._sums[s]) for s, c in self._counts.items()},
            )  # fmt: skip
