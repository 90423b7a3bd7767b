from __future__ import annotations

import threading
import time
from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from glint.runtime.stream.bounded_queue import BoundedQueue


def test_what_goes_in_comes_out_in_order() -> None:
    queue: BoundedQueue[int] = BoundedQueue(3)
    assert all(queue.put(i, 0) for i in range(3))
    assert [queue.take(0) for _ in range(4)] == [0, 1, 2, None]


def test_a_full_queue_refuses_after_the_time_that_one_would_wait_and_says_how_long_that_was() -> None:
    queue: BoundedQueue[int] = BoundedQueue(1)
    assert queue.put(0, 0)
    started = time.monotonic()
    assert not queue.put(1, 0.05)
    assert time.monotonic() - started >= 0.05
    assert queue.waited_s >= 0.05
    assert queue.rest() == [0]


def test_a_waiting_giver_goes_on_as_soon_as_something_is_taken() -> None:
    queue: BoundedQueue[int] = BoundedQueue(1)
    queue.put(0, 0)
    timer = threading.Timer(0.05, lambda: queue.take(0))
    timer.start()
    assert queue.put(1, 30)
    timer.join()
    assert queue.take(0) == 1


def test_a_waiting_taker_is_woken_by_the_end() -> None:
    queue: BoundedQueue[int] = BoundedQueue(1)
    timer = threading.Timer(0.05, queue.end)
    timer.start()
    started = time.monotonic()
    assert queue.take(30) is None
    assert time.monotonic() - started < 10
    timer.join()


def test_a_queue_is_over_when_it_has_ended_and_is_empty() -> None:
    queue: BoundedQueue[int] = BoundedQueue(2)
    queue.put(0, 0)
    assert not queue.over
    queue.end()
    assert not queue.over
    assert queue.take(0) == 0
    assert queue.over


@given(
    capacity=st.integers(1, 4),
    steps=st.lists(st.one_of(st.tuples(st.just("put"), st.booleans()), st.just(("take", False))), max_size=60),
)
def test_a_dropping_queue_loses_the_oldest_that_need_not_be_kept(capacity: int, steps: list[tuple[str, bool]]) -> None:
    queue: BoundedQueue[int] = BoundedQueue(capacity, drop=True)
    model: deque[tuple[int, bool]] = deque()
    dropped = 0
    for number, (step, keep) in enumerate(steps):
        if step == "take":
            assert queue.take(0) == (model.popleft()[0] if model else None)
            continue
        if len(model) >= capacity:
            victim = next((item for item in model if not item[1]), None)
            if victim is not None:
                model.remove(victim)
                dropped += 1
        model.append((number, keep))
        assert queue.put(number, 0, keep=keep)
    assert queue.dropped == dropped
    assert len(queue) == len(model)
    assert queue.rest() == [number for number, _ in model]
