"""Measuring groups of cases in turns, and the rows of the report that come out of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from glint.benchmarks.bench import machine as bench_machine
from glint.benchmarks.bench.cases import PIPELINE, BenchCase, Skip
from glint.benchmarks.bench.roofline import Work, roofline
from glint.benchmarks.bench.stats import Interval, paired_ratio, quantiles, summarise
from glint.benchmarks.bench.worker import Worker
from glint.config import to_dict
from glint.errors import EngineError
from glint.progress import Progress

LEAST_ROUNDS = 5  # rounds, however slow the rows are
_HISTOGRAM_BINS = 40


@dataclass(frozen=True)
class Effort:
    """How much time is taken.

    Attributes:
        seconds: measured per row.
        rounds: turns that it is spread over.
        warm_up: seconds at most until a row's latency must have settled.
        patches: that unmixers are scored on.
        limits: seconds for the machine's own limits.
        points: of each curve of the cost's growth, from the smallest size on.
        deadline: seconds after which nothing new is begun; None: never.
    """

    seconds: float = 10.0
    rounds: int = 10
    warm_up: float = 10.0
    patches: int = 500
    limits: float = 4.0
    points: int = 8
    deadline: float | None = None


QUICK = Effort(seconds=1.2, rounds=6, warm_up=1.5, patches=200, limits=1.5, points=6, deadline=70.0)


@dataclass(eq=False)
class Measurement:
    """What is known of a case so far.

    Attributes:
        case: what is measured.
        opened, warm_up, finished, judged, work: answers of its process.
        rounds: per turn, milliseconds of each call by stage.
        states: of the device, after each turn.
    """

    case: BenchCase
    opened: dict[str, Any] = field(default_factory=dict)
    warm_up: dict[str, Any] = field(default_factory=dict)
    rounds: list[dict[str, list[float]]] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    finished: dict[str, Any] = field(default_factory=dict)
    judged: dict[str, Any] = field(default_factory=dict)
    work: dict[str, Any] | None = None

    def medians(self, stage: str) -> list[float]:
        """One observation per round: the median of its calls, milliseconds; empty if there is no such stage."""
        return [float(np.median(turn[stage])) for turn in self.rounds if stage in turn]

    def samples(self, stage: str) -> list[float]:
        """All calls' milliseconds."""
        return [v for turn in self.rounds for v in turn[stage]]


class Bench:
    """Measures groups; what is measured stays here when it is interrupted.

    Args:
        effort: how much time is taken.
        judging: options for the judges (see ``accuracy.judge``); None: no row is judged.
        total: groups that there will be, for the progress line.

    Attributes:
        groups: measurements by group.
        skipped: cases that could not be measured, and why.
    """

    def __init__(self, effort: Effort, *, judging: dict[str, Any] | None = None, total: int | None = None) -> None:
        self.effort, self.judging = effort, judging
        self.groups: list[list[Measurement]] = []
        self.skipped: list[Skip] = []
        self._verdicts: dict[Any, dict[str, Any]] = {}
        self._line = Progress("bench", total)
        self._began = time.monotonic()

    def group(self, cases: Sequence[BenchCase]) -> list[Measurement]:
        """Measure cases in turns; returns those that could be."""
        rows: list[Measurement] = []
        self.groups.append(rows)
        deadline = self.effort.deadline
        if deadline is not None and time.monotonic() - self._began > deadline:
            self.skipped += [Skip(case.name, "no time left for it") for case in cases]
            return rows
        with self._line, ExitStack() as stack:
            running: list[tuple[Measurement, Worker]] = []
            for case in cases:
                self._say(f"opening {case.name}")
                worker = stack.enter_context(Worker(case))
                one = Measurement(case)
                if self._try(case.name, lambda o=one, w=worker: self._open(o, w)):  # type: ignore[misc]
                    running.append((one, worker))
            self._take_turns(rows, running)
            for one, worker in running:
                self._say(f"judging {one.case.name}")
                what = f"{one.case.name}: what follows the times"
                self._try(what, lambda o=one, w=worker: self._finish(o, w, rows))  # type: ignore[misc]
        return rows

    def _try(self, what: str, step: Callable[[], None]) -> bool:
        """Run a step of a row; a failure is noted, and the other rows go on."""
        try:
            step()
        except EngineError as error:
            hint = f" ({error.hint})" if error.hint else ""
            self.skipped.append(Skip(what, f"{error}{hint}"))
            return False
        return True

    def _open(self, one: Measurement, worker: Worker) -> None:
        one.opened = worker.ask("open")
        self._say(f"warming up {one.case.name}")
        one.warm_up = worker.ask("warm_up", seconds=self.effort.warm_up)

    def _take_turns(self, rows: list[Measurement], running: list[tuple[Measurement, Worker]]) -> None:
        """Rounds until every row has had its time; slow rows end the rounds early, but not before the least number."""
        turn = self.effort.seconds / self.effort.rounds
        slowest = max((one.warm_up["ms"] / 1e3 for one, _ in running), default=0.0)
        number = self.effort.rounds if slowest <= turn else max(LEAST_ROUNDS, round(self.effort.seconds / slowest))
        number = min(number, self.effort.rounds)
        for index in range(number):
            first = index % max(len(running), 1)
            for one, worker in [*running[first:], *running[:first]]:
                self._say(f"round {index + 1} of {number}, {one.case.name}")

                def take(one: Measurement = one, worker: Worker = worker) -> None:
                    one.rounds.append(worker.ask("run", seconds=turn))

                if not self._try(one.case.name, take):
                    running.remove((one, worker))
                    continue
                if one not in rows:
                    rows.append(one)
                one.states.append(bench_machine.sample())

    def _finish(self, one: Measurement, worker: Worker, rows: list[Measurement]) -> None:
        one.finished = worker.ask("finish")
        if self.judging is None:
            return
        case = one.case
        key = (case.subject, case.engine, case.precision, case.size if case.task == PIPELINE else None, case.checkpoint)
        if key not in self._verdicts:
            self._verdicts[key] = worker.ask("judge", **self.judging)
        one.judged = self._verdicts[key]
        if case.task in ("unmix", "detect"):
            known = next((other.work for other in rows if other.work and other.case.place == case.place), None)
            one.work = worker.ask("work", known=known)

    def _say(self, note: str) -> None:
        self._line.update(len(self.groups) - 1, note)


def rows_of(group: Sequence[Measurement], limits: dict[str, Any] | None, baseline: str) -> list[dict[str, Any]]:
    """The rows of a group, each with its ratio to the baseline.

    Args:
        group: measurements of one group.
        limits: of the machine (see ``roofline.limits``); None: not measured.
        baseline: name or variant of the row that the others are compared with; the first one if there is none.
    """
    measured = [one for one in group if one.rounds]
    if not measured:
        return []
    base = next((one for one in measured if baseline in (one.case.name, one.case.variant)), measured[0])
    return [_row(one, base, limits) for one in measured]


def _row(one: Measurement, base: Measurement, limits: dict[str, Any] | None) -> dict[str, Any]:
    case, amount = one.case, one.opened["amount"]
    stages = list(one.rounds[0])
    times: dict[str, Any] = {stage: summarise(one.samples(stage)) for stage in stages}
    times |= {stage: summarise(values) for stage, values in one.finished.get("stages", {}).items()}
    total = times["total"]["median"]
    row: dict[str, Any] = {
        "name": case.name, "place": case.place, "variant": case.variant, "case": to_dict(case),
        "amount": amount, "unit": one.opened["unit"],
        "times_ms": times,
        "rounds_ms": {stage: one.medians(stage) for stage in ("total", "network") if stage in stages},
        "quantiles_ms": quantiles(one.samples("total")), "histogram": _histogram(one.samples("total")),
        "per_second": 1e3 * amount / total,
        "warm_up": one.warm_up, "device": bench_machine.condense(one.states, 1e3 / total),
        "memory": one.finished.get("memory"), "engine": one.finished.get("engine"),
        "accuracy": one.judged.get("accuracy"), "parity": one.judged.get("parity"),
        "files": (one.work or {}).get("files"), "shares": (one.work or {}).get("shares"),
        "ratio": {"to": base.case.name, "of": _compared(case, base.case), **_ratios(one, base)},
        "limit": _limit(one, limits, times),
    }  # fmt: skip
    return row


def _compared(case: BenchCase, base: BenchCase) -> str:
    """What the ratio is of: rows of one model differ in the network, others in everything."""
    return "network" if case.place == base.place and case.task in ("unmix", "detect") else "total"


def _ratios(one: Measurement, base: Measurement) -> dict[str, Any]:
    """Speed against the baseline's, of the whole and of the network alone, from the rounds that both have."""
    ratios = {}
    for stage in ("total", "network"):
        mine, theirs = one.medians(stage), base.medians(stage)
        both = min(len(mine), len(theirs))
        ratio: Interval | None = paired_ratio(mine[:both], theirs[:both]) if both and min(mine + theirs) > 0 else None
        ratios[stage] = None if ratio is None else asdict(ratio)
    return ratios


def _limit(one: Measurement, limits: dict[str, Any] | None, times: dict[str, Any]) -> dict[str, Any] | None:
    if one.work is None or limits is None:
        return None
    on_gpu = one.case.engine == "tensorrt" or one.finished.get("engine", {}).get("device") == "cuda"
    device = "gpu" if on_gpu else "cpu"
    done = Work(**{name: one.work[name] for name in Work.__dataclass_fields__})
    limit = roofline(done, one.case.precision, limits[device])
    reached = None if limit["limit_ms"] is None else limit["limit_ms"] / times["network"]["median"]
    return {"of": device, **limit, "reached": reached}


def _histogram(samples: Sequence[float]) -> dict[str, list[float]]:
    """Counts of a row's calls; what is beyond the 99.5th percentile is in the last bin."""
    values = np.asarray(samples)
    high = float(np.percentile(values, 99.5)) * 1.0001
    low = float(values.min())
    bins = min(_HISTOGRAM_BINS, 3 + 2 * int(np.sqrt(len(values))))
    counts, edges = np.histogram(np.minimum(values, high), bins=bins, range=(low, max(high, low * 1.001 + 1e-9)))
    return {"edges": [float(v) for v in edges], "counts": [int(v) for v in counts]}


def groups_of(cases: Sequence[BenchCase]) -> list[list[BenchCase]]:
    """Cases by place, in order."""
    groups: dict[str, list[BenchCase]] = {}
    for case in cases:
        groups.setdefault(case.place, []).append(case)
    return list(groups.values())
