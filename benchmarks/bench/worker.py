"""The parent's end of a case that is measured in a process of its own. What fails takes one row down, not the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

from glint.benchmarks.bench.cases import BenchCase
from glint.config import to_dict
from glint.errors import EngineError


class Worker:
    """The parent's end: a process that measures one case.

    Args:
        case: what it measures.

    Raises:
        EngineError: if a request fails, or the process dies of it.
    """

    def __init__(self, case: BenchCase) -> None:
        self.case = case
        threads = str(case.threads)
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        environment |= {f"{library}_NUM_THREADS": threads for library in ("OMP", "OPENBLAS", "MKL")}
        # A session of its own: Ctrl-C is the parent's to deal with.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "glint.benchmarks.bench.session"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=environment, start_new_session=True, text=True,
        )  # fmt: skip

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def ask(self, what: str, **arguments: Any) -> Any:
        """One request; returns what it is answered with."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None  # noqa: S101  (both are pipes)
        try:
            stdin.write(json.dumps({"do": what, "case": to_dict(self.case), **arguments}) + "\n")
            stdin.flush()
            line = stdout.readline()
        except OSError:
            line = ""
        if not line:
            raise EngineError(
                f"its process ended: {_end(self._process.wait())}",
                hint="was it out of memory? dmesg tells; give smaller sizes",
            )
        answer = json.loads(line)
        if "error" in answer:
            raise EngineError(answer["error"], hint=answer["hint"])
        return answer["result"]

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:  # what it did not read is lost, and that is fine
                    continue


def _end(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, probably out of memory" if name == "SIGKILL" else name
