"""Damaged inputs of every kind: how many were read all the same, refused, taken for something else, or worse.

``python -m glint.benchmarks.robustness.fuzz --mutations 1000 --out results/fuzz.json``

Each mutation is read by the reader that the commands use, in a process of its own, so that a hang or a crash is only
counted. ``silent`` is what must not be: values or numbers of frames changed and nothing was said, though the format
has checksums or its form tells. ``unseen`` is what nobody can see: other values in a format without checksums.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from glint.benchmarks.robustness.kinds import KINDS, Kind, Reading
from glint.benchmarks.robustness.mutations import mutated
from glint.benchmarks.tool import Tool
from glint.cli import positive_int
from glint.errors import GlintError, InputError
from glint.progress import Progress, speaking

OUTCOMES = ("clean", "reported", "unseen", "silent", "traceback", "hang", "crash")
BAD = ("silent", "traceback", "hang", "crash")
HANG_S = 60.0  # without an answer
_MEMORY_BYTES = 12 << 30  # bytes of address space that a reader may take
_MOST_EXAMPLES = 5


def outcome(kind: Kind, path: Path, good: Reading) -> tuple[str, str]:
    """What became of a damaged file: one of :data:`OUTCOMES`, and why."""
    said = StringIO()
    try:
        with warnings.catch_warnings(), speaking(), redirect_stderr(said), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            reading = kind.read(path)
    except GlintError as error:
        return "reported", str(error)
    except Exception as error:  # the very thing that is looked for
        return "traceback", f"{type(error).__name__}: {error}"
    if reading.told or "warning: " in said.getvalue():
        return "reported", ""
    if reading == good:
        return "clean", ""
    if kind.checked or reading.form != good.form:
        return "silent", f"{reading.form}"[:200]
    return "unseen", ""


def fuzz(*, mutations: int = 1000, kinds: Sequence[str] = (), seed: int = 1) -> dict[str, Any]:
    """Damage every kind of input so often; arguments are the options of the tool.

    Returns:
        ``rows``: counts by kind and outcome, with examples of the bad ones; ``problems``: empty if all is well.

    Raises:
        InputError: if there is no such kind.
    """
    chosen = [kind for kind in KINDS if not kinds or kind.name in kinds]
    if len(chosen) < len(set(kinds)):
        raise InputError(f"kinds: expected some of {', '.join(kind.name for kind in KINDS)}")
    rows: list[dict[str, Any]] = []
    with Progress("fuzz", len(chosen) * mutations) as line, _Reader() as reader:
        for kind in chosen:
            counts: Counter[str] = Counter()
            examples: list[dict[str, Any]] = []
            for number in range(seed * 1_000_000, seed * 1_000_000 + mutations):
                found, why = reader.ask(kind.name, number)
                counts[found] += 1
                if found in BAD and len(examples) < _MOST_EXAMPLES:
                    examples.append({"mutation": number, "outcome": found, "why": why})
                line.update(len(rows) * mutations + sum(counts.values()), kind.name)
            rows.append(
                {"kind": kind.name, "tried": mutations, **{o: counts[o] for o in OUTCOMES}, "examples": examples}
            )
    problems = [f"{row['kind']}: {row[bad]} {bad}" for row in rows for bad in BAD if row[bad]]
    return {"mutations": mutations, "seed": seed, "rows": rows, "problems": problems}


class _Reader:
    """A process that reads what it is told to; another one takes its place when it dies or hangs."""

    def __init__(self) -> None:
        self._process: BaseProcess | None = None
        self._pipe: Connection

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def ask(self, kind: str, number: int) -> tuple[str, str]:
        """The outcome of one mutation."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
        try:
            self._pipe.send((kind, number))
            if self._pipe.poll(HANG_S):
                answer: tuple[str, str] = self._pipe.recv()
                return answer
            found = "hang", ""
        except (EOFError, OSError):
            self._process.join(5)
            found = "crash", f"exit code {self._process.exitcode}"
        self._end()
        return found

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def _serve(pipe: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    by_name = {kind.name: kind for kind in KINDS}
    made: dict[str, tuple[Path, bytes, Reading]] = {}
    with tempfile.TemporaryDirectory() as folder:
        while True:
            try:
                name, number = pipe.recv()
            except EOFError:
                return
            kind = by_name[name]
            if name not in made:
                place = Path(folder) / str(len(made))
                place.mkdir()
                path = kind.make(place)
                made[name] = path, path.read_bytes(), kind.read(path)
            path, content, good = made[name]
            path.write_bytes(mutated(content, number, text=kind.text))
            pipe.send(outcome(kind, path, good))


def text_of(result: dict[str, Any]) -> str:
    """The table."""
    lines = ["| kind | tried | " + " | ".join(OUTCOMES) + " |", "|---" * (2 + len(OUTCOMES)) + "|"]
    for row in result["rows"]:
        lines.append(f"| {row['kind']} | {row['tried']} | " + " | ".join(str(row[o]) for o in OUTCOMES) + " |")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    parser.add_argument("--mutations", type=positive_int, default=1000, help="of each kind (default: %(default)s)")
    parser.add_argument(
        "--kind", dest="kinds", action="append", default=[], metavar="NAME", help="again for more (default: all)"
    )
    parser.add_argument("--seed", type=positive_int, default=1, help="default: %(default)s")


TOOL = Tool("Damage inputs of every kind, and see what glint makes of them.", fuzz, add_arguments, text_of, file=True)


if __name__ == "__main__":
    sys.exit(TOOL())
