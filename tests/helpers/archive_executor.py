"""An executor of archives without processes of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Here:
    """One thing after the other, in this process; see :class:`glint.runtime.archive.plan.Executor`."""

    def map(self, make: Callable[[], Callable[[T], R]], items: Sequence[T]) -> Iterator[R]:
        """What the work makes of the items."""
        if items:
            work = make()
            yield from map(work, items)
