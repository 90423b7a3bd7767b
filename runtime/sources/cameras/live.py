"""Live sources that come back: lost connections are made again, what was missed becomes a gap."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from numpy.typing import NDArray

from glint.cli import talk
from glint.errors import InputError, SourceAbsentError, SourceError, SourceLostError, redact
from glint.runtime.sources.base import Source
from glint.runtime.sources.uri import Converter, not_negative, positive
from glint.runtime.sources.waiting import Closed, InterruptibleWait
from glint.types import Frame, Gap


@dataclass(frozen=True)
class Reconnect:
    """When a live source counts as lost, and how it is asked for again.

    Attributes:
        timeout: seconds without a frame after which it is lost.
        first, longest: pause before the first attempt and the longest one, seconds; each pause is
            twice the one before.
        give_up: seconds after which it is given up; 0: at once.
    """

    timeout: float = 5.0
    first: float = 0.5
    longest: float = 30.0
    give_up: float = 300.0

    def __post_init__(self) -> None:
        if not (0 < self.timeout <= 3600 and 0 < self.first <= self.longest and self.give_up >= 0):
            raise InputError(
                f"reconnect: expected 0 < timeout <= 3600, 0 < first <= longest, give_up >= 0, got {self}",
                hint="timeout and give_up are seconds, e.g. #timeout=5&give_up=300",
            )


RECONNECT_PARAMETERS: dict[str, Converter] = {"timeout": positive, "give_up": not_negative}


def reconnect_of(values: dict[str, Any]) -> Reconnect:
    """The policy that the parameters of a URI ask for."""
    return Reconnect(**{name: values[name] for name in RECONNECT_PARAMETERS if name in values})


class Captured(NamedTuple):
    """One frame as a device gives it: ``lost`` says why frames before it are missing, ``damaged`` is the frame's."""

    t_ns: int
    data: NDArray[Any]
    full_scale: float | None = None
    lost: str = ""
    damaged: str = ""


class Connection(ABC):
    """An open device or stream."""

    @abstractmethod
    def read(self, seconds: float) -> Captured | None:
        """The next frame, or None at the end of a stream that has one.

        Raises:
            SourceError: if it cannot be opened or holds no grey frames.
            SourceLostError: if nothing came for so many seconds, or it broke.
            Closed: if the source was closed.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of it; called once, never waits long."""


class LiveSource(Source):
    """A camera or stream: frames at their own pace, gaps where it was lost, for one iteration.

    The first connection must succeed within ``wait_s``. One that is lost later is made again with pauses that double;
    the first frame after it follows a ``Gap``. Frames that a device drops or damages also leave one.

    Attributes:
        wait_s: seconds for which a device or sender that is not there yet is asked for again; 0: it must be there.

    Raises:
        SourceAbsentError: on iteration, if it is not there or gives no frame.
        SourceError: on iteration, if it is not what it should be.
        SourceLostError: on iteration, if it was lost and did not come back in time.
    """

    live = True
    wait_s = 0.0

    def __init__(self, uri: str, policy: Reconnect) -> None:
        super().__init__(uri)
        self.policy = policy
        self.waker = InterruptibleWait()

    @abstractmethod
    def connect(self) -> Connection:
        """Start to open the device; waits with ``self.waker`` only.

        Raises:
            SourceError: if it cannot be opened.
        """

    def close(self) -> None:
        self.waker.close()

    def __iter__(self) -> Iterator[Frame | Gap]:
        index, last = 0, None
        try:
            for captured, missing in self._captures():
                t_ns = captured.t_ns if last is None else max(last, captured.t_ns)
                if missing and last is not None:
                    yield Gap(t_ns, (t_ns - last) / 1e9, missing)
                yield Frame(index, t_ns, captured.data, full_scale=captured.full_scale, damaged=captured.damaged)
                index, last = index + 1, t_ns
        except Closed:
            return
        finally:
            self.close()

    def _captures(self) -> Iterator[tuple[Captured, str]]:
        """What is captured, each with the reason why something is missing before it."""
        connection, captured = self._first()
        missing = ""
        while True:
            try:
                while captured is not None:
                    yield captured, missing or captured.lost
                    missing = ""
                    captured = connection.read(self.policy.timeout)
                return
            except SourceLostError as error:
                missing = redact(str(error))
            finally:
                connection.close()
            connection, captured = self._come_back(missing)

    def _first(self) -> tuple[Connection, Captured | None]:
        started, pause = time.monotonic(), self.policy.first
        while True:
            try:
                return self._attempt()
            except SourceAbsentError as error:
                if time.monotonic() + pause - started > self.wait_s:
                    raise
                talk(f"{error}; trying again in {pause:g} s")
            self.waker.sleep(pause)
            pause = min(2 * pause, self.policy.longest)

    def _attempt(self) -> tuple[Connection, Captured | None]:
        """A connection and its first frame."""
        connection = self.connect()
        try:
            return connection, connection.read(self.policy.timeout)
        except SourceLostError as error:
            connection.close()
            raise SourceAbsentError(f"{self.uri}: {redact(str(error))}", hint=error.hint) from None
        except BaseException:
            connection.close()
            raise

    def _come_back(self, reason: str) -> tuple[Connection, Captured | None]:
        started, pause, latest = time.monotonic(), self.policy.first, f"{self.uri}: {reason}"
        while time.monotonic() + pause - started <= self.policy.give_up:
            talk(f"{latest}; trying again in {pause:g} s")
            self.waker.sleep(pause)
            try:
                return self._attempt()
            except SourceError as error:
                latest = str(error)
            pause = min(2 * pause, self.policy.longest)
        raise SourceLostError(
            f"{self.uri}: {reason}; it did not come back within {self.policy.give_up:g} s",
            hint="look at the camera and the network; give_up=SECONDS waits longer",
        )
