"""Runs that do not count, until the latency settles: first runs allocate, build engines and raise clocks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

_RUNS_PER_SIDE = 3  # runs on each side of the comparison
_SETTLED_SHARE = 0.1  # the medians may differ by this share
_MOST_S = 5.0  # after the first run; then it is good enough
_MOST_RUNS = 100


@dataclass(frozen=True)
class WarmUp:
    """How it went.

    Attributes:
        runs: how many.
        first_ms: what the first one took.
        last_ms: median of the last three.
        settled: whether the latency had settled, or time was up.
    """

    runs: int
    first_ms: float
    last_ms: float
    settled: bool


def warm_up(work: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> WarmUp:
    """Repeat until the medians of the last three runs and of the three before differ by at most 10 %.

    It gives up 5 seconds after the end of the first run, or after 100 runs.
    """
    times = [_seconds(work, clock)]
    ends = clock() + _MOST_S
    settled = False
    while not settled and clock() < ends and len(times) < _MOST_RUNS:
        times.append(_seconds(work, clock))
        before, last = median(times[-2 * _RUNS_PER_SIDE : -_RUNS_PER_SIDE] or times), median(times[-_RUNS_PER_SIDE:])
        settled = len(times) >= 2 * _RUNS_PER_SIDE and abs(last - before) <= _SETTLED_SHARE * before
    return WarmUp(len(times), round(1e3 * times[0], 3), round(1e3 * median(times[-_RUNS_PER_SIDE:]), 3), settled)


def _seconds(work: Callable[[], Any], clock: Callable[[], float]) -> float:
    started = clock()
    work()
    return clock() - started
