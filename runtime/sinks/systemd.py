"""Tells systemd that frames still come, so that it restarts a run in which they do not.

``deploy/glint.service`` is such a service.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from glint.runtime.pipeline.pipeline import Result
from glint.runtime.sinks.base import Sink

_PERIOD_S = 1.0


class Watchdog(Sink):
    """Says that the service is ready with the first result, and that it lives with later ones, once a second.

    Args:
        address: of the socket on which systemd listens, as in ``$NOTIFY_SOCKET``.
        clock: monotonic seconds.
    """

    def __init__(self, address: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._clock = clock
        self._next = clock()
        self._frames = self._targets = 0

    def write(self, result: Result) -> None:
        """Count one result and pass the word on, if it is time."""
        ready = "" if self._frames else "READY=1\n"
        self._frames += 1
        self._targets += len(result.targets)
        now = self._clock()
        if now >= self._next:
            self._next = now + _PERIOD_S
            self._say(f"{ready}WATCHDOG=1\nSTATUS={self._frames} frames, {self._targets} targets")

    def close(self) -> None:
        """Say that the end is wanted; may be called twice."""
        if self._socket.fileno() >= 0:
            self._say("STOPPING=1")
            self._socket.close()

    def _say(self, text: str) -> None:
        with suppress(OSError):  # nobody listens any more, or too busily
            self._socket.sendto(text.encode(), self._address)


def systemd_watchdog() -> Watchdog | None:
    """The watchdog of the service that this process is, or None."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    return Watchdog(address) if address[:1] in ("/", "@") else None
