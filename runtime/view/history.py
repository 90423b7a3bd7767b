"""The last minutes of a run, one row per second, for those who begin to look late."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from glint.runtime.device.state import DeviceState
from glint.runtime.view.status import StreamStatus
from glint.runtime.view.telemetry import Snapshot

MOST_ROWS = 300


class History:
    """Rows made of the difference between two looks; written by one thread, read by any."""

    def __init__(self, length: int = MOST_ROWS) -> None:
        self._rows: deque[dict[str, Any]] = deque(maxlen=length)
        self._lock = threading.Lock()
        self._number = 0
        self._before: Snapshot | None = None

    def take(self, seconds: float, run: Snapshot, stream: StreamStatus, device: DeviceState | None) -> None:
        """Add a row; ``seconds`` have passed since the last one."""
        before = self._before
        row: dict[str, Any] = {
            "fps": round((run.frames - before.frames) / seconds, 2) if before and seconds > 0 else None,
            "latency_ms": _means(before, run),
            "dropped": sum(stream.dropped.values()),
            "gaps": run.gaps,
            "queued": sum(stream.queued.values()),
        }
        if device is not None:
            row |= {"hottest_c": device.hottest_c, "power_w": device.power_w, "throttled": device.throttled}
        with self._lock:
            self._before = run
            self._rows.append(row)
            self._number += 1

    def since(self, number: int) -> dict[str, Any]:
        """Rows from the ``number``-th on, as far as they are kept, and the number to ask for next."""
        with self._lock:
            oldest = self._number - len(self._rows)
            start = number if number <= self._number else 0  # of an earlier run
            return {
                "next": self._number,
                "rows": list(self._rows)[max(0, start - oldest) :],
                "length": self._rows.maxlen,
            }


def _means(before: Snapshot | None, now: Snapshot) -> dict[str, float]:
    """Mean latency by stage of the frames in between, ms."""
    means = {}
    for stage, histogram in now.latency.items():
        earlier = before.latency.get(stage) if before else None
        count = sum(histogram.counts) - (sum(earlier.counts) if earlier else 0)
        if count:
            means[stage] = round(1e3 * (histogram.total - (earlier.total if earlier else 0.0)) / count, 3)
    return means
