"""What a check is, and what becomes of it; each runs in a process of its own, so that a crash is a result too."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from glint.errors import GlintError

PASS, FAIL, SKIPPED = "PASS", "FAIL", "SKIPPED"
_MARK = "gpu_check result: "
_TAIL_CHARACTERS = 2000  # characters of a step's talk that are kept


class Skip(Exception):  # noqa: N818  (no error: it says why a step does not run here)
    """A step cannot run here; the text says what it lacks."""


@dataclass(frozen=True)
class Step:
    """One check.

    Attributes:
        name: one word.
        what: it proves, for the report.
        work: does it; returns figures, raises :class:`Skip` or any error.
        gpu: whether it needs one.
    """

    name: str
    what: str
    work: Callable[[], dict[str, Any]]
    gpu: bool = True


@dataclass(frozen=True)
class Result:
    """What became of a step: ``PASS``, ``FAIL`` or ``SKIPPED``, why, what it measured, seconds, and what it said."""

    name: str
    what: str
    state: str
    reason: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    said: str = ""


def perform(step: Step) -> Result:
    """Run a step in this process."""
    started = time.perf_counter()
    state, reason, figures = PASS, "", {}
    try:
        figures = step.work()
    except Skip as skip:
        state, reason = SKIPPED, str(skip)
    except GlintError as error:
        state, reason = FAIL, f"{error}" + (f" ({error.hint})" if error.hint else "")
    except Exception as error:
        state, reason = FAIL, f"{type(error).__name__}: {error}"
    return Result(step.name, step.what, state, reason, figures, round(time.perf_counter() - started, 2))


def answer(step: Step) -> None:
    """The child's end of :func:`run_apart`."""
    print(_MARK + json.dumps(asdict(perform(step))), flush=True)


def run_apart(step: Step, *, seconds: float) -> Result:
    """Run a step in a process of its own; one that hangs or crashes has failed."""
    command = [sys.executable, "-m", "glint.benchmarks.gpu_check", "--step", step.name]
    started = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        reason = f"not over after {seconds:.0f} s: --minutes N gives it more"
        return Result(step.name, step.what, FAIL, reason, seconds=round(seconds, 2))
    said = done.stderr[-_TAIL_CHARACTERS:]
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            return Result(**{**json.loads(line.removeprefix(_MARK)), "said": said})
    reason = f"the process ended with code {done.returncode}"
    return Result(step.name, step.what, FAIL, reason, {}, round(time.perf_counter() - started, 2), said)


def run_all(steps: tuple[Step, ...], *, missing: str, minutes: float) -> Iterator[Result]:
    """Run steps one after the other; the next is skipped once the time is over.

    Args:
        steps: in order.
        missing: why steps that need a GPU are skipped, "" if there is one.
        minutes: for all of them.
    """
    end = time.monotonic() + 60 * minutes
    for step in steps:
        left = end - time.monotonic()
        if step.gpu and missing:
            yield Result(step.name, step.what, SKIPPED, missing)
        elif left < 1:
            yield Result(step.name, step.what, SKIPPED, f"the {minutes:g} minutes are over")
        else:
            yield run_apart(step, seconds=left)


def verdict(results: list[Result]) -> str:
    """``failed`` if a step failed, else ``incomplete`` if one was skipped, else ``passed``."""
    states = {result.state for result in results}
    return "failed" if FAIL in states else "incomplete" if SKIPPED in states else "passed"
