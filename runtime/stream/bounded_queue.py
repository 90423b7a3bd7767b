"""A bounded queue between two threads, which may drop what is oldest instead of making the giver wait."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class BoundedQueue(Generic[T]):
    """First in, first out, for one giver and one taker.

    Args:
        capacity: items that wait at most.
        drop: a full queue loses its oldest item to a new one; else the giver waits.

    Attributes:
        dropped: items lost so far.
        waited_s: seconds for which the giver found it full.
    """

    def __init__(self, capacity: int, *, drop: bool = False) -> None:
        self.capacity, self.drop = capacity, drop
        self.dropped, self.waited_s = 0, 0.0
        self._items: deque[tuple[T, bool]] = deque()
        self._changed = threading.Condition()
        self._ended = False

    def __len__(self) -> int:
        return len(self._items)

    @property
    def over(self) -> bool:
        """Nothing is left and nothing will come."""
        with self._changed:
            return self._ended and not self._items

    def put(self, item: T, timeout: float, *, keep: bool = False) -> bool:
        """Give an item; one to ``keep`` is never dropped (and may exceed the capacity of a queue that drops).

        Returns:
            False if the queue was full for ``timeout`` seconds: the item was not taken.
        """
        with self._changed:
            if self.drop:
                if len(self._items) >= self.capacity:
                    self._lose_oldest()
            elif len(self._items) >= self.capacity:
                started = time.monotonic()
                free = self._changed.wait_for(lambda: len(self._items) < self.capacity, timeout)
                self.waited_s += time.monotonic() - started
                if not free:
                    return False
            self._items.append((item, keep))
            self._changed.notify_all()
            return True

    def _lose_oldest(self) -> None:
        for i, (_, keep) in enumerate(self._items):
            if not keep:
                del self._items[i]
                self.dropped += 1
                return

    def take(self, timeout: float) -> T | None:
        """The oldest item; None if there was none for ``timeout`` seconds, or at once if the queue is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._ended, timeout)
            if not self._items:
                return None
            item, _ = self._items.popleft()
            self._changed.notify_all()
            return item

    def end(self) -> None:
        """Nothing more will be put in."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def rest(self) -> list[T]:
        """What nobody will take any more."""
        with self._changed:
            items = [item for item, _ in self._items]
            self._items.clear()
            return items
