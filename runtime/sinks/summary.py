"""What a run amounts to, gathered result by result in bounded memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from glint.metrics.matching import UNMIXING_MATCH_PX, match_points
from glint.runtime.pipeline.pipeline import STAGES, Result
from glint.runtime.sinks.base import Sink
from glint.types import Gap, TargetFlag

_LOG_STEP = math.log(1.01)


class Spread:
    """Percentiles of any number of values >= 0, to 0.5 %: counts in bins that grow by 1 %."""

    def __init__(self) -> None:
        self.count = 0
        self._bins: dict[int, int] = {}
        self._least, self._most = math.inf, 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.count += 1
        self._least, self._most = min(self._least, value), max(self._most, value)
        index = round(math.log(max(value, 1e-9)) / _LOG_STEP)
        self._bins[index] = self._bins.get(index, 0) + 1

    def percentile(self, share: float) -> float:
        """The value below which ``share`` percent lie; NaN if there are none."""
        rank = share / 100 * (self.count - 1)
        seen = 0
        for index in sorted(self._bins):
            seen += self._bins[index]
            if seen > rank:
                return min(max(math.exp(index * _LOG_STEP), self._least), self._most)
        return math.nan

    def as_dict(self) -> dict[str, float]:
        """p50, p95 and p99."""
        return {f"p{share}": round(self.percentile(share), 3) for share in (50, 95, 99)}


class Summary(Sink):
    """Counts, latencies and, where the truth is known, the score."""

    def __init__(self) -> None:
        self.frames = self.targets = self.blobs = self.late = self.repeated = self.wide = self.damaged = 0
        self.truths = self.found = self.gaps = 0
        self.gap_seconds = 0.0
        self.has_truth = False
        self.error = Spread()
        self.latency = {stage: Spread() for stage in STAGES}

    def write(self, result: Result) -> None:
        self.frames += 1
        self.targets += len(result.targets)
        self.blobs += len(result.detection.blobs)
        self.late += result.late
        self.wide += int(np.count_nonzero(result.targets.flags & TargetFlag.EXTENDED))
        self.repeated += result.repeated
        self.damaged += bool(result.frame.damaged)
        for stage, value in result.latency_ms.items():
            self.latency[stage].add(value)
        truth, found = result.frame.truth, result.targets
        if truth is not None:
            self.has_truth = True
            distance = np.hypot(truth.x[:, None] - found.x, truth.y[:, None] - found.y)
            rows, columns = match_points(distance, UNMIXING_MATCH_PX)
            self.truths += len(truth)
            self.found += len(rows)
            for value in distance[rows, columns].tolist():
                self.error.add(value)

    def gap(self, gap: Gap) -> None:
        self.gaps += 1
        self.gap_seconds += gap.seconds

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready figures; ``truth`` only for a simulated source."""
        summary: dict[str, Any] = {
            "frames": self.frames,
            "blobs": self.blobs,
            "targets": self.targets,
            "extended": self.wide,
            "late": self.late,
            "repeated": self.repeated,
            "damaged": self.damaged,
            "gaps": {"count": self.gaps, "seconds": round(self.gap_seconds, 3)},
            "latency_ms": {stage: spread.as_dict() for stage, spread in self.latency.items()} if self.frames else {},
        }
        if self.has_truth:
            summary["truth"] = {
                "targets": self.truths,
                "found": self.found,
                "false": self.targets - self.found,
                "match_distance_px": UNMIXING_MATCH_PX,
                "median_position_error_px": round(self.error.percentile(50), 4) if self.error.count else None,
            }
        return summary
