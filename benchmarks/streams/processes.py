"""Commands of glint with all processes that they start: what these use, and their end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def command(*words: str, environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """``glint WORDS`` in a session of its own; what is left of it at the end, Ray's processes too, is killed.

    So nothing goes on when the caller is interrupted. Its standard error is not shown.

    Args:
        words: after ``glint``.
        environment: beside this process's.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "glint", *words], stderr=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    try:
        yield process
    finally:
        while left := session(process.pid):  # one may start another one meanwhile
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.poll()  # it stays in the list until it is asked for


def session(leader: int) -> dict[int, float]:
    """CPU seconds of all processes of a session, those whose parent has died among them; the dead are left out."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[3]) == leader and fields[0] not in "ZX":
            found[int(path.parent.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def name_of(pid: int) -> str:
    """What a process calls itself, "" if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    except OSError:
        return ""
