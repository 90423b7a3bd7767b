"""Where results go: what a sink is, and what it is opened with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from glint.runtime.device.state import DeviceState
from glint.runtime.pipeline.pipeline import Result
from glint.types import Gap


class Sink(ABC):
    """What takes the results of a run, one by one and in order, in a thread of its own."""

    @abstractmethod
    def write(self, result: Result) -> None:
        """Take one result.

        Raises:
            OutputError: if it cannot be written; the run ends.
        """

    def gap(self, gap: Gap) -> None:  # noqa: B027  (not every output shows gaps)
        """Take note of a gap in the source."""

    def close(self) -> None:  # noqa: B027
        """Finish what is open, so that what was written so far is valid."""

    def linger(self, done: Callable[[], bool]) -> None:  # noqa: B027
        """Stay for who still looks, if that was asked for; called after ``close``, at the very end.

        Args:
            done: True from Ctrl-C on, and at once where the run was interrupted or failed: nobody waits.
        """


@dataclass(frozen=True)
class Opening:
    """What ``open_sink(opening)`` of a sink's module is given.

    Attributes:
        options: of ``glint run``, by name.
        uri: of the source.
        status: gives the counters of the stream (a ``StreamStatus``).
        device: gives the state of the device.
    """

    options: Mapping[str, Any]
    uri: str
    status: Callable[[], Any]
    device: Callable[[], DeviceState]
