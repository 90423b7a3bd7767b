"""Waiting that another thread can end: for a descriptor to become readable, for a frame to be due."""

from __future__ import annotations

import os
import select
import threading
import time


class Closed(Exception):  # noqa: N818  (nothing went wrong)
    """The wait was ended by ``close``."""


class InterruptibleWait:
    """Waits for one descriptor after the other; ``close`` ends the wait, from any thread.

    Its own descriptors exist from the first wait to ``close``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = self._waiting = False
        self._ends: tuple[int, int] | None = None

    def wait(self, descriptor: int, seconds: float | None) -> bool:
        """True when the descriptor can be read or has failed, False after so many seconds (None: never).

        Raises:
            Closed: once ``close`` was called.
        """
        return self._poll([descriptor], seconds)

    def sleep(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            Closed: once ``close`` was called.
        """
        self._poll([], seconds)

    def close(self) -> None:
        """End what waits now or later."""
        with self._lock:
            self._closed = True
            if self._ends is not None and self._waiting:
                os.write(self._ends[1], b"x")
            else:
                self._release()

    def _poll(self, descriptors: list[int], seconds: float | None) -> bool:
        with self._lock:
            if self._closed:
                raise Closed
            if self._ends is None:
                self._ends = os.pipe()
            self._waiting = True
        poll = select.poll()  # unlike select(), it takes descriptors above 1023
        for descriptor in (self._ends[0], *descriptors):
            poll.register(descriptor, select.POLLIN)
        try:
            ready = poll.poll(None if seconds is None else max(0.0, 1e3 * seconds))
        finally:
            with self._lock:
                self._waiting = False
                if self._closed:
                    self._release()
        if self._closed:
            raise Closed
        return bool(ready)

    def _release(self) -> None:
        if self._ends is not None:
            os.close(self._ends[0])
            os.close(self._ends[1])
            self._ends = None


class Pacer:
    """Holds frames back until they are due; ``close`` ends a wait, from any thread.

    Whoever comes late moves all that follows: nothing is delivered in a burst to catch up.
    """

    def __init__(self) -> None:
        self._closed = threading.Event()
        self._start: int | None = None

    def wait(self, offset_ns: int) -> int:
        """Wait until ``offset_ns`` after the first frame; returns the monotonic time, nanoseconds.

        Raises:
            Closed: once ``close`` was called.
        """
        now = time.monotonic_ns()
        if self._start is None or now > self._start + offset_ns:
            self._start = now - offset_ns
        due = self._start + offset_ns
        if self._closed.wait((due - now) / 1e9):
            raise Closed
        return max(time.monotonic_ns(), due)

    def close(self) -> None:
        """End what waits now or later."""
        self._closed.set()
