"""One line on a terminal; elsewhere one every ten seconds."""

import io
import threading
import time
from types import SimpleNamespace

import pytest

from glint import progress
from glint.progress import Progress, told_if_slow

CLEAR = "\r\x1b[K"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_where_no_terminal_is_there_is_a_line_every_ten_seconds(clock):
    stream = io.StringIO()
    with Progress("run", 100, stream=stream, delay=0) as line:
        for step in range(1, 26):
            clock.now += 1
            line.update(step, "8 targets")
    assert stream.getvalue() == "run: 10/100, 0:10, 1:30 left  8 targets\nrun: 20/100, 0:20, 1:20 left  8 targets\n"
    assert line.done == 25


def test_nobody_is_told_who_did_not_ask(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_listeners", 0)
    line = Progress("run", 100, delay=0)
    clock.now += 60
    line.update(5)
    assert capsys.readouterr().err == ""


def test_what_is_over_before_the_delay_is_not_drawn(clock):
    stream = Terminal()
    with Progress("run", 10, stream=stream, delay=1.0) as line:
        clock.now += 0.9
        line.update(10)
    assert stream.getvalue() == ""


def test_the_line_shows_steps_time_and_time_left_and_is_wiped_at_the_end(clock):
    stream = Terminal()
    with Progress("run", 10, stream=stream) as line:
        line.update(1)
        clock.now += 75
        line.update(6, "8 targets")
        assert stream.getvalue() == f"{CLEAR}run: 6/10, 1:15, 1:00 left  8 targets"  # 75 s * 4 / 5
    assert stream.getvalue().endswith(f"targets{CLEAR}")


def test_the_first_step_which_starts_things_up_and_those_of_an_earlier_run_are_no_pace(clock):
    stream = Terminal()
    line = Progress("train", 1000, stream=stream, delay=0)
    clock.now += 220
    line.update(501)
    clock.now += 10
    line.update(511)
    assert stream.getvalue() == f"{CLEAR}train: 501/1000, 3:40{CLEAR}train: 511/1000, 3:50, 8:09 left"


def test_without_a_total_there_is_no_time_left(clock):
    stream = Terminal()
    line = Progress("run", stream=stream)
    clock.now += 3
    line.update(6)
    assert stream.getvalue() == f"{CLEAR}run: 6, 0:03"


def test_it_redraws_at_most_ten_times_a_second(clock):
    stream = Terminal()
    line = Progress("run", stream=stream, delay=0)
    for step in range(100):  # two seconds
        line.update(step)
        clock.now += 0.02
    assert 15 <= stream.getvalue().count(CLEAR) <= 21


def test_no_steps_yet_tell_no_time_left(clock):
    stream = Terminal()
    line = Progress("run", 10, stream=stream, delay=0)
    line.update(0)
    assert stream.getvalue() == f"{CLEAR}run: 0/10, 0:00"


def test_the_line_is_wiped_when_an_error_ends_the_block(clock):
    stream = Terminal()
    with pytest.raises(ValueError, match="stop"), Progress("run", stream=stream, delay=0) as line:
        line.update(1)
        raise ValueError("stop")
    assert stream.getvalue().endswith(CLEAR)


def test_a_long_note_does_not_wrap_without_end(clock):
    stream = Terminal()
    Progress("run", stream=stream, delay=0).update(1, "x" * 1000)
    assert len(stream.getvalue()) <= 160 + len(CLEAR)


def test_the_default_stream_is_standard_error(capsys, clock):
    line = Progress("run", delay=0)
    line.update(1)
    assert capsys.readouterr() == ("", "")  # captured: no terminal


def test_a_function_that_is_told_if_slow_is_told_at_every_call():
    stream = io.StringIO()
    shown = threading.Event()

    @told_if_slow("validate", stream=stream, delay=0.01)
    def slow(number):
        """Doubled, once something is told."""
        before = stream.getvalue().count("validate")
        for _ in range(500):
            if stream.getvalue().count("validate") > before:
                return 2 * number
            shown.wait(0.01)
        raise AssertionError("nothing told")

    assert slow(3) == 6 and slow(4) == 8
    assert stream.getvalue().splitlines() == ["validate", "validate"]


def test_a_terminal_that_is_gone_ends_nothing():
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    with Progress("run", 3, stream=Gone(), delay=0) as line:
        line._next = 0
        line.update(1)
    with told_if_slow("slow", stream=Gone(), delay=0.01):
        time.sleep(0.05)
