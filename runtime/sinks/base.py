"""Where results go: what a sink is."""

from __future__ import annotations

from abc import ABC, abstractmethod

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
