"""What is said to the person at the terminal: nothing where nobody asked, or nobody is looking."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from glint.errors import redact

_LINE_PERIOD_S = 10.0
_listeners = 0


@contextmanager
def speaking() -> Iterator[None]:
    """While it is entered, :func:`talk` and lines of progress are heard: by the command line, else by nobody."""
    global _listeners
    _listeners += 1
    try:
        yield
    finally:
        _listeners -= 1


def talk(text: str) -> None:
    """A line for the person at the terminal, on standard error, while something is :func:`speaking`."""
    if _listeners and sys.stderr is not None:  # without it, print would take standard output
        with suppress(OSError, ValueError):  # whoever listened may be gone
            print(redact(text), file=sys.stderr, flush=True)


class Progress:
    """A status line on standard error, redrawn at most ten times a second.

    First after ``delay`` seconds: what is over by then needs no line. Where no terminal is, a line of its own every
    ten seconds. On standard error only while something is :func:`speaking`.

    Args:
        what: first word of the line, e.g. ``"run"``.
        total: steps to be done, or None if unknown.
        stream: where to draw (default: standard error).
        delay: seconds before the first drawing.
    """

    def __init__(
        self, what: str, total: int | None = None, *, stream: TextIO | None = None, delay: float = 1.0
    ) -> None:
        self.what, self.total = what, total
        self.stream = stream if stream is not None else sys.stderr
        self.done = 0
        self._start = time.monotonic()
        self._first = (0, self._start)  # step and time from which the pace is taken: the first one starts things up
        self._heard = stream is not None or _listeners > 0
        self._terminal = self.stream.isatty()
        self._next = self._start + (delay if self._terminal else _LINE_PERIOD_S)
        self._drawn = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._drawn:
            self._write("\r\x1b[K")

    def update(self, done: int, note: str = "") -> None:
        """Say that ``done`` steps are over; ``note`` is a few more words."""
        now = time.monotonic()
        if self.done == 0:
            self._first = (done, now)
        self.done = done
        if not self._heard or now < self._next:
            return
        text = self._line(now, note)[:160]
        if self._terminal:
            self._next, self._drawn = now + 0.1, True
            self._write("\r\x1b[K" + text)
        else:
            self._next = now + _LINE_PERIOD_S
            self._write(text + "\n")

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # whoever looked may be gone, and the work goes on
            self.stream.write(text)
            self.stream.flush()

    def _line(self, now: float, note: str) -> str:
        count = f"{self.done}/{self.total}" if self.total else f"{self.done}"
        left, (first, since) = "", self._first
        if self.total and first < self.done <= self.total:
            left = f", {_duration((now - since) * (self.total - self.done) / (self.done - first))} left"
        return f"{self.what}: {count}, {_duration(now - self._start)}{left}{'  ' + note if note else ''}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


@contextmanager
def told_if_slow(text: str, *, stream: TextIO | None = None, delay: float = 2.0) -> Iterator[None]:
    """Say ``text`` on standard error if what happens inside takes longer than ``delay`` seconds.

    Every ten seconds it is said again, with the time that has passed. On standard error only while something is
    :func:`speaking`.
    """
    heard = stream is not None or _listeners > 0
    if not heard:
        yield
        return
    over = threading.Event()
    into = stream if stream is not None else sys.stderr
    teller = threading.Thread(target=_tell, args=(text, into, delay, over), daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


def _tell(text: str, stream: TextIO, delay: float, over: threading.Event) -> None:
    start, wait, said = time.monotonic(), delay, text
    while not over.wait(wait):
        with suppress(OSError, ValueError):
            print(said, file=stream, flush=True)
        wait = _LINE_PERIOD_S
        said = f"{text}: {_duration(time.monotonic() - start + wait)}"
