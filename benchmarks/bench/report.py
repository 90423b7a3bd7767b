"""What a run of ``glint bench`` tells: its rows, and what makes them doubtful."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from glint import __version__
from glint.benchmarks.bench import machine as bench_machine
from glint.benchmarks.bench.cases import BenchCase, Skip, weights_key
from glint.benchmarks.bench.turns import Bench, Effort, rows_of
from glint.benchmarks.bench.worker import Worker
from glint.cli import talk
from glint.config import to_dict
from glint.errors import EngineError, InputError

FORMAT = 1


class Report:
    """A report that is whole at any time.

    Args:
        command, effort, threads: what was asked for.
        skipped: cases that are not measured.
        runner: measures.
        baseline: what rows are compared with.
    """

    def __init__(
        self, command: str, effort: Effort, skipped: Sequence[Skip], runner: Bench, baseline: str, *, threads: int
    ) -> None:
        self.effort, self.skipped, self.runner, self.baseline = effort, list(skipped), runner, baseline
        self.limits: dict[str, Any] | None = None
        self.growth: list[dict[str, Any]] = []
        self._head = {
            "format": FORMAT, "kind": "glint bench", "glint": __version__, "command": command,
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"), "machine": bench_machine.machine(),
            "versions": bench_machine.versions(), "settings": {**to_dict(effort), "threads": threads},
        }  # fmt: skip
        self._began = time.monotonic()

    def fill(self, measure: Callable[[], None]) -> dict[str, Any]:
        """Measure; Ctrl-C ends it, and what has been measured by then is the report."""
        interrupted = False
        try:
            measure()
        except KeyboardInterrupt:
            interrupted = True
        rows = [row for group in self.runner.groups for row in rows_of(group, self.limits, self.baseline)]
        return {
            **self._head, "seconds": round(time.monotonic() - self._began, 1), "interrupted": interrupted,
            "warnings": warnings(self._head["machine"], rows), "limits": self.limits, "rows": rows,
            "skipped": [asdict(skip) for skip in [*self.skipped, *self.runner.skipped]], "growth": self.growth,
        }  # fmt: skip


def warnings(machine: Any, rows: Sequence[dict[str, Any]]) -> list[str]:
    """What makes figures doubtful: a busy machine, held-down clocks, latencies that never settled."""
    found = [bench_machine.busy(machine)] if bench_machine.busy(machine) else []
    for row in rows:
        device = row["device"]
        if device["throttled_by"] or device["over_current_events"]:
            reasons = ", ".join(device["throttled_by"]) or f"{device['over_current_events']} over-current events"
            found.append(f"{row['name']}: the device was throttled ({reasons})")
        if not row["warm_up"]["settled"]:
            found.append(f"{row['name']}: the latency had not settled after {row['warm_up']['seconds']:.1f} s")
    return [text for text in found if text]


def ask_limits(common: BenchCase, seconds: float) -> dict[str, Any] | None:
    """What the machine can do at best, measured in a process of its own; None if that fails."""
    with Worker(common) as worker:
        try:
            found: dict[str, Any] = worker.ask("limits", seconds=seconds)
        except EngineError as error:
            talk(f"bench: the machine's limits are not known: {error}")
            return None
    return found


def weights_by_key(checkpoints: Sequence[Path]) -> dict[str, str]:
    """Checkpoints by ``weights_key``.

    Raises:
        InputError: if two have the same.
        ModelError: if one is unusable.
    """
    found: dict[str, str] = {}
    if checkpoints:
        from glint.training.checkpoint import load_checkpoint
    for path in checkpoints:
        info, _ = load_checkpoint(path)
        key = weights_key(info.network, {"data": info.data})
        if key in found:
            raise InputError(f"two checkpoints are of {key}: {found[key]} and {path}", hint="give one of them")
        found[key] = str(path.resolve())
    return found
