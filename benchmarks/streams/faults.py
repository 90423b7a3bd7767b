"""Faults for the soak: a source that has them, and clients of the live view that behave as clients do."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace

from glint.runtime.sources.base import Source
from glint.types import Frame, Gap

FAULTS = ("skip", "gap", "repeat", "resize", "stall", "damage")
_FAULT_PERIOD_FRAMES = 10  # frames between two faults
_STALL_S = 0.2
_PAUSE_S = 0.1  # between two requests
_IDLE_CONNECTIONS = 3  # connections that never ask, of each round


class FaultySource(Source):
    """Another source's frames, with a fault at every tenth.

    Attributes:
        injected: faults so far, by what they are.
    """

    def __init__(self, inner: Source) -> None:
        super().__init__(inner.uri)
        self.inner, self.live = inner, inner.live
        self.injected: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Frame | Gap]:
        index = 0
        for number, item in enumerate(self.inner.frames()):
            fault = (
                FAULTS[number // _FAULT_PERIOD_FRAMES % len(FAULTS)]
                if number % _FAULT_PERIOD_FRAMES == _FAULT_PERIOD_FRAMES - 1
                else ""
            )
            if fault:
                self.injected[fault] += 1
            if fault == "skip":
                self.skip(f"frame {number}", "a fault of the soak")
                continue
            if fault == "gap":
                yield Gap(item.t_ns, 0.1, "a fault of the soak")
            elif fault == "stall":
                time.sleep(_STALL_S)
            elif fault == "resize":
                item = replace(item, data=item.data[:-16, :-16].copy(), truth=None)
            elif fault == "damage":
                item = replace(item, damaged="a fault of the soak")
            yield replace(item, index=index)
            index += 1
            if fault == "repeat":
                yield replace(item, index=index)
                index += 1

    def close(self) -> None:
        self.inner.close()


class Clients:
    """Ask a server for its paths all the time, hang on without asking, and send what is no request.

    Attributes:
        answered: requests by their status.
        failed: requests without an answer, others with one behind them: at the end the server is gone.
    """

    def __init__(self, host: str, port: int, paths: tuple[str, ...]) -> None:
        self._host, self._port, self._paths = host, port, paths
        self.answered: Counter[int] = Counter()
        self.failed = self._unanswered = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clients", daemon=True)

    def __enter__(self) -> Clients:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(_PAUSE_S):
            idle = [self._connected() for _ in range(_IDLE_CONNECTIONS)]
            for path in self._paths:
                self._ask(path)
            for connection in idle:
                if connection is not None:
                    with suppress(OSError):
                        connection.sendall(b"\x00 nonsense\r\n\r\n")
                    connection.close()

    def _connected(self) -> socket.socket | None:
        with suppress(OSError):
            return socket.create_connection((self._host, self._port), timeout=2)
        return None

    def _ask(self, path: str) -> None:
        try:
            with closing(http.client.HTTPConnection(self._host, self._port, timeout=20)) as connection:
                connection.request("GET", path)
                answer = connection.getresponse()
                answer.read()
            self.answered[answer.status] += 1
            self.failed, self._unanswered = self.failed + self._unanswered, 0
        except (OSError, http.client.HTTPException):
            self._unanswered += 1
