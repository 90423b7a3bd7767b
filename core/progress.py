"""What is said to the person at the terminal: nothing where nobody asked, or nobody is looking."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TextIO

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
            print(text, file=sys.stderr, flush=True)


class Progress:
    """A status line on standard error, redrawn at most ten times a second.

    Draws only when the stream is a terminal, and first after ``delay`` seconds: what is over by
    then needs no line. On standard error only while something is :func:`speaking`.

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
        self._next = self._start + delay
        self._drawn = False
        self._live = self.stream.isatty() and (stream is not None or _listeners > 0)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn:
            self.stream.write("\r\x1b[K")
            self.stream.flush()

    def update(self, done: int, note: str = "") -> None:
        """Say that ``done`` steps are over; ``note`` is a few more words."""
        self.done = done
        now = time.monotonic()
        if not self._live or now < self._next:
            return
        self._next = now + 0.1
        self._drawn = True
        self.stream.write("\r\x1b[K" + self._line(now - self._start, note)[:160])
        self.stream.flush()

    def _line(self, elapsed: float, note: str) -> str:
        count = f"{self.done}/{self.total}" if self.total else f"{self.done}"
        left = ""
        if self.total and 0 < self.done <= self.total:
            left = f", {_duration(elapsed * (self.total - self.done) / self.done)} left"
        return f"{self.what}: {count}, {_duration(elapsed)}{left}{'  ' + note if note else ''}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


@contextmanager
def told_if_slow(text: str, *, stream: TextIO | None = None, delay: float = 2.0) -> Iterator[None]:
    """Say ``text`` on standard error, once, if what happens inside takes longer than ``delay`` seconds.

    Only where the stream is a terminal, and on standard error only while something is :func:`speaking`.
    """
    heard = stream is not None or _listeners > 0
    stream = stream if stream is not None else sys.stderr
    if not (heard and stream.isatty()):
        yield
        return
    timer = threading.Timer(delay, print, [text], {"file": stream, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
