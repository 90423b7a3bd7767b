"""Ctrl-C, SIGTERM and SIGHUP as a request: the run ends in order instead of wherever it happens to be."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interruption:
    """While it is entered, the first signal only sets ``requested``; the second raises KeyboardInterrupt.

    It takes over the signals that Python handles (a process that ignores Ctrl-C goes on ignoring it),
    and only in the main thread: elsewhere nobody gets them.
    """

    def __init__(self) -> None:
        self.requested = False
        self._raising = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if callable(signal.getsignal(number)):
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A block that the first signal already interrupts: one that may take minutes and can be thrown away."""
        self._raising = True
        try:
            if self.requested:
                raise KeyboardInterrupt
            yield
        finally:
            self._raising = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.requested = self.requested, True
        if again or self._raising:
            raise KeyboardInterrupt
