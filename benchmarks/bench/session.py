"""The child's end of a case: ``python -m glint.benchmarks.bench.session``.

It takes requests as JSON lines on standard input and answers each with one on standard output, so that
rows take turns while each keeps its own memory, threads and libraries.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from glint.benchmarks.bench.cases import PIPELINE, BenchCase
from glint.benchmarks.bench.stats import SETTLED_WINDOWS, settled
from glint.benchmarks.bench.subjects import DetectorSubject, PipelineSubject, Subject, UnmixerSubject
from glint.config import from_dict
from glint.errors import GlintError, first_line
from glint.files import sha256


def open_subject(case: BenchCase) -> Subject:
    """Load what a case needs.

    Raises:
        GlintError: one of its subclasses, if it cannot be.
    """
    if case.task.startswith("peer"):
        from glint.benchmarks.bench.peer_subjects import open_peer

        return open_peer(case)
    makers: dict[str, Callable[[BenchCase], Subject]] = {
        "unmix": UnmixerSubject, "detect": DetectorSubject, PIPELINE: PipelineSubject,
    }  # fmt: skip
    return makers[case.task](case)


_WINDOW_S = 0.1  # of warming up: a window is this long and at least one call


_UNMEASURED_SHARE = 0.1  # share of a turn that goes by unmeasured: caches have seen other rows since


_RUNS = 20  # of a TensorRT engine, split into its stages


class Session:
    """The child's end: what the requests do."""

    def __init__(self) -> None:
        self.subject: Any = None
        self.memory: dict[str, int | None] = {}
        self.pace_ms = 0.0  # of a call, once warm

    def open(self, case: BenchCase) -> dict[str, Any]:
        """Load the case; its unit, and the size of its files."""
        before = resident()
        self.subject = open_subject(case)
        self.memory = {"before_bytes": before, "loaded_bytes": resident()}
        return {"amount": self.subject.amount, "unit": self.subject.unit}

    def warm_up(self, case: BenchCase, seconds: float) -> dict[str, Any]:
        """Call until the last windows' medians agree, or the time is over."""
        began = time.perf_counter()
        medians: list[float] = []
        calls = 0
        while not settled(medians) and (len(medians) < SETTLED_WINDOWS or time.perf_counter() - began < seconds):
            samples = self._calls(_WINDOW_S)
            calls += len(samples)
            medians.append(statistics.median(sample["total"] for sample in samples))
        spent = time.perf_counter() - began
        self.pace_ms = medians[-1]
        return {"settled": settled(medians), "calls": calls, "seconds": round(spent, 3), "ms": medians[-1]}

    def run(self, case: BenchCase, seconds: float) -> dict[str, list[float]]:
        """A turn: milliseconds of each call, by stage. What fills a turn by itself needs no getting used to again."""
        if self.pace_ms < 1e3 * _UNMEASURED_SHARE * seconds:
            self._calls(_UNMEASURED_SHARE * seconds)
        samples = self._calls(seconds)
        return {stage: [sample[stage] for sample in samples] for stage in samples[0]}

    def _calls(self, seconds: float) -> list[dict[str, float]]:
        """Calls for so long, at least one."""
        end = time.perf_counter() + seconds
        samples: list[dict[str, float]] = [self.subject.call()]
        while time.perf_counter() < end:
            samples.append(self.subject.call())
        return samples

    def finish(self, case: BenchCase) -> dict[str, Any]:
        """What is known after the last turn: memory, what ran it, and the stages of a TensorRT engine."""
        self.memory["peak_bytes"] = peak()
        facts = {"memory": self.memory, "engine": self.subject.facts()}
        if case.engine == "tensorrt" and case.task in ("unmix", "detect"):
            facts["stages"] = self.subject.gpu_stages(_RUNS)
        return facts

    def judge(self, case: BenchCase, **options: Any) -> dict[str, Any]:
        """Accuracy, and parity with the fp32 model on ONNX Runtime."""
        from glint.benchmarks.bench.accuracy import judge

        return judge(case, self.subject, **options)

    def work(self, case: BenchCase, known: dict[str, Any] | None) -> dict[str, Any]:
        """Work of one call (``known`` from another row of the place), files, and precisions of the model."""
        from glint.benchmarks.bench.roofline import Work, precision_shares, work
        from glint.benchmarks.bench.subjects import model_files

        if case.engine.startswith("torch"):
            files, shares = None, None
        else:
            paths = model_files(case)
            files = [{"file": p.name, "bytes": p.stat().st_size, "sha256": sha256(p)} for p in paths]
            shares = precision_shares(paths[0])
        done = asdict(work(case)) if known is None else {name: known[name] for name in Work.__dataclass_fields__}
        return {**done, "files": files, "shares": shares}

    def limits(self, case: BenchCase, seconds: float) -> dict[str, Any]:
        """What the machine can do at best."""
        from glint.benchmarks.bench.roofline import limits

        return limits(case.threads, seconds)


def resident() -> int | None:
    """Memory of this process now, bytes; None where the system does not say."""
    return _status("VmRSS")


def peak() -> int | None:
    """Most memory that this process has had at once, bytes."""
    return _status("VmHWM")


def _status(name: str) -> int | None:
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(name + ":"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        pass
    return None


def _answer(session: Session, request: dict[str, Any]) -> dict[str, Any]:
    case = from_dict(BenchCase, request.pop("case"), where="case")
    action: Callable[..., Any] = getattr(session, request.pop("do"))
    try:
        return {"result": action(case, **request)}
    except GlintError as error:
        return {"error": str(error), "hint": error.hint}
    except Exception as error:  # of any library: it ends this row, and the others go on
        return {"error": f"{type(error).__name__}: {first_line(error)}", "hint": None}


def serve() -> None:
    """Answer requests until the parent goes."""
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    session = Session()
    for line in sys.stdin:
        answers.write(json.dumps(_answer(session, json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
