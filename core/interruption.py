"""Ctrl-C, SIGTERM and SIGHUP as a request: the run ends in order instead of wherever it happens to be."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
            for number in ENDING:
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


class Deferral:
    """While it is entered, signals wait; it may be entered several times. Outside of the main thread it is idle.

    For libraries that call back into Python from C: an exception that a signal raises there is lost or becomes another.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._waiting: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Deferral:
        if threading.current_thread() is threading.main_thread():
            self._depth += 1
            if self._depth == 1:
                self._before = {number: signal.getsignal(number) for number in ENDING}
                for number in self._taken():
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *error: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            self._depth -= 1
            if self._depth == 0:
                for number in self._taken():
                    signal.signal(number, self._before[number])
                self.handle()

    def handle(self) -> None:
        """Do now what the signals that wait are there for; raises KeyboardInterrupt if that is it."""
        if threading.current_thread() is threading.main_thread():
            while self._waiting:
                number = self._waiting.pop(0)
                self._before[number](number, None)

    def _taken(self) -> list[int]:
        return [number for number, handler in self._before.items() if callable(handler)]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._waiting.append(number)
