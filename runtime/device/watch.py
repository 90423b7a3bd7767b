"""A look at the device once a second while something runs, and what it amounts to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from glint.runtime.device.state import DeviceState, read_device_state


class DeviceWatch:
    """Reads the device's state in a thread of its own, from entering the block to leaving it.

    Args:
        read: gives the present state; must not raise.
        period: seconds between two looks.
    """

    def __init__(self, read: Callable[[], DeviceState] = read_device_state, period: float = 1.0) -> None:
        self._read, self._period = read, period
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="device-watch", daemon=True)
        self._first = self._latest = read()
        self._hottest = self._first.hottest_c
        self._throttled_s = 0.0
        self._reasons: dict[str, None] = {}
        self._power: dict[str, tuple[float, float]] = {}  # joules and seconds by rail

    def __enter__(self) -> DeviceWatch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._take(self._read())  # what happened since the last look, and a run too short for a second one

    def state(self) -> DeviceState:
        """The last look, at most a period old while the block runs."""
        return self._latest

    def report(self) -> dict[str, Any]:
        """JSON-ready account so far, for the manifest of a run.

        ``throttled`` marks a run whose clocks were held down, by heat or by over-current: its latencies are not
        those of the device. ``throttled_seconds`` counts heat only, as over-current lasts for moments.
        """
        with self._lock:
            first, last = self._first, self._latest
            events = None
            if first.over_current_events is not None and last.over_current_events is not None:
                events = max(0, last.over_current_events - first.over_current_events)
            return {
                "throttled": bool(self._reasons) or bool(events),
                "throttled_seconds": round(self._throttled_s, 1),
                "throttled_by": [*self._reasons, *(["over-current"] if events else [])],
                "over_current_events": events,
                "hottest_c": self._hottest,
                "mean_power_w": {rail: round(j / s, 3) for rail, (j, s) in self._power.items() if s > 0},
                "power_mode": last.power_mode,
                "clock_limit_mhz": last.clock_limit_mhz,
            }

    def _watch(self) -> None:
        while not self._stop.wait(self._period):
            self._take(self._read())

    def _take(self, state: DeviceState) -> None:
        """A state counts for the time since the look before it."""
        with self._lock:
            seconds = (state.t_ns - self._latest.t_ns) / 1e9
            if state.throttled:
                self._throttled_s += seconds
                self._reasons.update(dict.fromkeys(state.throttled_by))
            for rail, watts in state.power_w.items():
                joules, span = self._power.get(rail, (0.0, 0.0))
                self._power[rail] = joules + watts * seconds, span + seconds
            known = [t for t in (self._hottest, state.hottest_c) if t is not None]
            self._hottest = max(known, default=None)
            self._latest = state
