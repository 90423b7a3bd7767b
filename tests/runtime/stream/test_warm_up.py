from __future__ import annotations

from collections.abc import Callable

import pytest

from glint.runtime.stream.warm_up import WarmUp, warm_up


def warmed(seconds: Callable[[int], float]) -> WarmUp:
    """With a clock that runs only while something is done."""
    now, run = [0.0], [0]

    def work() -> None:
        now[0] += seconds(run[0])
        run[0] += 1

    return warm_up(work, lambda: now[0])


def test_a_steady_latency_has_settled_after_six_runs() -> None:
    done = warmed(lambda run: 0.01)
    assert (done.runs, done.settled) == (6, True)
    assert done.first_ms == done.last_ms == pytest.approx(10)


def test_a_slow_first_run_does_not_count() -> None:
    done = warmed(lambda run: 60.0 if run == 0 else 0.01)
    assert (done.runs, done.settled) == (6, True)
    assert done.first_ms == pytest.approx(60_000)
    assert done.last_ms == pytest.approx(10)


def test_it_goes_on_while_the_latency_falls() -> None:
    done = warmed(lambda run: 0.01 + 0.1 * 0.7**run)
    assert done.settled
    assert 10 < done.runs < 20
    assert done.last_ms == pytest.approx(10, rel=0.1)


def test_one_slow_run_among_fast_ones_is_no_change() -> None:
    assert warmed(lambda run: 0.05 if run == 4 else 0.01).runs == 6


def test_it_gives_up_after_five_seconds_or_a_hundred_runs() -> None:
    slow = warmed(lambda run: 0.5 * 1.1**run)
    assert not slow.settled
    assert slow.runs <= 10
    endless = warmed(lambda run: 1e-6 if run % 6 < 3 else 2e-6)
    assert (endless.settled, endless.runs) == (False, 100)
