from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import within

from glint.runtime.sources.waiting import Closed, InterruptibleWait, Pacer


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def wait_to_the_end(waker: InterruptibleWait, descriptor: int) -> None:
    with pytest.raises(Closed):
        waker.wait(descriptor, None)


def test_a_wait_ends_when_there_is_something_to_read(pipe: tuple[int, int]) -> None:
    waker = InterruptibleWait()
    assert not waker.wait(pipe[0], 0.01)
    os.write(pipe[1], b"x")
    assert within(10, lambda: waker.wait(pipe[0], None))
    waker.close()


@pytest.mark.parametrize("early", [True, False])
def test_closing_ends_waits_that_have_begun_and_that_come_later(pipe: tuple[int, int], early: bool) -> None:
    before = descriptors()
    waker = InterruptibleWait()
    if early:
        waker.close()
    else:
        threading.Timer(0.1, waker.close).start()
    with pytest.raises(Closed):
        within(10, lambda: waker.wait(pipe[0], None))
    with pytest.raises(Closed):
        waker.sleep(60)
    waker.close()
    assert descriptors() == before


def test_a_waker_that_never_waited_holds_nothing() -> None:
    before = descriptors()
    InterruptibleWait()
    assert descriptors() == before


def test_many_closers_at_once_do_no_harm(pipe: tuple[int, int]) -> None:
    before = descriptors()
    for _ in range(50):
        waker = InterruptibleWait()
        closers = [threading.Thread(target=waker.close) for _ in range(4)]
        waiter = threading.Thread(target=wait_to_the_end, args=(waker, pipe[0]))
        for thread in (waiter, *closers):
            thread.start()
        for thread in (waiter, *closers):
            thread.join(10)
            assert not thread.is_alive()
    assert descriptors() == before


def test_frames_are_held_back_until_they_are_due() -> None:
    pacer = Pacer()
    times = [pacer.wait(offset) for offset in (0, 30_000_000, 60_000_000)]
    assert times[1] - times[0] >= 30_000_000
    assert times[2] - times[0] >= 60_000_000
    assert times[2] <= time.monotonic_ns()


def test_who_comes_late_gets_no_burst() -> None:
    pacer = Pacer()
    pacer.wait(0)
    time.sleep(0.1)
    late = pacer.wait(10_000_000)
    assert pacer.wait(40_000_000) - late >= 20_000_000  # 30 ms, less what passed between its clock and ours


def test_closing_a_pacer_ends_its_wait() -> None:
    pacer = Pacer()
    pacer.wait(0)
    threading.Timer(0.05, pacer.close).start()
    with pytest.raises(Closed):
        within(10, lambda: pacer.wait(3600 * 10**9))
