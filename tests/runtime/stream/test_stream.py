from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from stream_parts import FakePipeline, FakeSink, FakeSource, frame

from glint.errors import EngineError, InputError, OutputError, SourceLostError
from glint.interruption import Interruption
from glint.runtime.pipeline.pipeline import Result
from glint.runtime.stream import stream as module
from glint.runtime.stream.stream import Stream
from glint.types import Frame, Gap


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def balanced(stream: Stream, sink: FakeSink) -> bool:
    return stream.captured == len(sink.indices) + sum(stream.dropped.values())


def test_every_frame_of_a_file_gives_a_result_in_order_however_slow_the_parts_are() -> None:
    rng = np.random.default_rng(0)
    waits = rng.uniform(0, 0.01, 30)
    source = FakeSource([part for i in range(30) for part in (float(waits[-i]), frame(i))])
    sink = FakeSink(0.002)
    stream = Stream(source, FakePipeline(lambda index: waits[index]), [sink])
    stream.run()
    assert sink.indices == list(range(30))
    assert stream.captured == 30
    assert stream.dropped == {}
    assert sink.closed == 1


def test_the_three_parts_work_at_the_same_time_each_in_a_thread_of_its_own() -> None:
    source = FakeSource([part for i in range(12) for part in (0.05, frame(i))])
    pipeline, sink = FakePipeline(0.05), FakeSink(0.05)
    started = time.monotonic()
    Stream(source, pipeline, [sink]).run()
    assert time.monotonic() - started < 12 * 0.15 * 0.75  # one after the other takes 1.8 s
    assert pipeline.threads == {threading.get_ident()}
    assert len(sink.threads) == 1
    assert sink.threads != pipeline.threads


def test_without_drops_a_slow_pipeline_makes_the_source_wait() -> None:
    source = FakeSource([frame(i) for i in range(10)])
    ahead: list[int] = []
    pipeline = FakePipeline(lambda index: ahead.append(source.given - index) or 0.02)  # type: ignore[func-returns-value]
    stream = Stream(source, pipeline, [FakeSink()])
    stream.run()
    assert max(ahead) <= 4  # in work, two waiting, one in the hand of the source
    assert stream.waited_s["source"] > 0.05


def test_a_slow_sink_makes_the_pipeline_wait_and_loses_nothing() -> None:
    sink = FakeSink(0.03)
    stream = Stream(FakeSource([frame(i) for i in range(10)]), FakePipeline(), [sink])
    stream.run()
    assert sink.indices == list(range(10))
    assert stream.waited_s["detector"] > 0.05


@pytest.mark.parametrize("slow", ["pipeline", "sink"])
@pytest.mark.parametrize(("drop", "waiting"), [("latest", 1), ("oldest", 8)])
def test_frames_that_come_too_fast_are_dropped_before_the_detector_and_counted(
    drop: Any, waiting: int, slow: str
) -> None:
    source = FakeSource([part for i in range(60) for part in (0.002, frame(i))])
    sink = FakeSink(0.02 if slow == "sink" else 0.0)
    stream = Stream(source, FakePipeline(0.02 if slow == "pipeline" else 0.0), [sink], drop=drop)
    stream.run()
    assert stream.captured == 60
    assert set(stream.dropped) == {"queue"}
    assert balanced(stream, sink)
    assert sink.indices == sorted(set(sink.indices))
    assert sink.indices[-waiting:] == list(range(60 - waiting, 60))  # the last ones were waiting, and newest


def test_a_result_tells_how_many_frames_were_dropped_before_it() -> None:
    source = FakeSource([part for i in range(60) for part in (0.002, frame(i))])
    sink = FakeSink()
    Stream(source, FakePipeline(0.02), [sink], drop="latest").run()
    results = [item for item in sink.got if isinstance(item, Result)]
    missing = np.diff([-1, *sink.indices]) - 1
    assert [r.dropped.get("queue", 0) for r in results] == missing.tolist()


def test_live_sources_keep_the_latest_frame_and_files_keep_all() -> None:
    for live, expected in ((True, "latest"), (False, "none")):
        assert Stream(FakeSource([], live=live), FakePipeline(), []).drop == expected


def test_gaps_keep_their_place_and_are_never_dropped() -> None:
    gaps = [Gap(time.monotonic_ns(), 0.1 * i, "lost") for i in range(5)]
    items = [part for i, gap in enumerate(gaps) for part in (frame(2 * i), gap, frame(2 * i + 1), 0.002)]
    sink = FakeSink()
    Stream(FakeSource(items), FakePipeline(0.01), [sink], drop="latest").run()
    assert [item for item in sink.got if isinstance(item, Gap)] == gaps
    order = [item.frame.index if isinstance(item, Result) else 2 * gaps.index(item) + 0.5 for item in sink.got]
    assert order == sorted(order)


def test_a_lost_source_is_raised_after_all_its_frames_were_written() -> None:
    sink = FakeSink(0.01)
    source = FakeSource([*(frame(i) for i in range(6)), SourceLostError("gone")])
    with pytest.raises(SourceLostError, match="gone"):
        Stream(source, FakePipeline(0.01), [sink]).run()
    assert sink.indices == list(range(6))
    assert sink.closed == 1


@pytest.mark.parametrize("error", [OutputError("disk full"), BrokenPipeError(), ValueError("a bug")])
def test_a_failing_sink_ends_the_run_with_its_error_and_closes_all_sinks(error: Exception) -> None:
    def forever() -> Iterator[Any]:
        for i in range(10**9):
            yield frame(i)

    sinks = [FakeSink(), FakeSink(fail_at=3, error=error), FakeSink()]
    source = FakeSource(forever())
    with pytest.raises(type(error)) as caught:
        Stream(source, FakePipeline(0.001), sinks).run()
    assert caught.value is error
    assert [sink.indices for sink in sinks] == [[0, 1, 2, 3], [0, 1, 2], [0, 1, 2]]
    assert [sink.closed for sink in sinks] == [1, 1, 1]
    assert source.closed.is_set()


def test_a_failing_pipeline_ends_the_run_but_what_it_made_is_written() -> None:
    class Broken(FakePipeline):
        def __call__(self, item: Frame, **told: Any) -> Result:
            if item.index == 4:
                raise EngineError("the device has gone")
            return super().__call__(item, **told)

    sink = FakeSink(0.01)
    source = FakeSource([part for i in range(9) for part in (frame(i), 0.001)] + [1000.0])
    stream = Stream(source, Broken(), [sink])
    with pytest.raises(EngineError, match="the device has gone"):
        stream.run()
    assert sink.indices == [0, 1, 2, 3]
    assert balanced(stream, sink)


def test_a_source_that_waits_for_its_camera_is_woken_when_a_sink_fails() -> None:
    source = FakeSource([frame(0), frame(1), 1000.0])
    started = time.monotonic()
    with pytest.raises(OutputError):
        Stream(source, FakePipeline(), [FakeSink(fail_at=1, error=OutputError("full"))]).run()
    assert time.monotonic() - started < 10


def test_an_error_while_closing_a_sink_is_an_error_and_the_other_sinks_are_closed() -> None:
    class Broken(FakeSink):
        def close(self) -> None:
            raise OutputError("the end does not fit on the disk")

    sinks = [Broken(), FakeSink()]
    with pytest.raises(OutputError, match="does not fit"):
        Stream(FakeSource([frame(0)]), FakePipeline(), sinks).run()
    assert sinks[1].closed == 1


class Signals(Interruption):
    """Signals that come when the test says so."""

    def come(self) -> None:
        self.requested = True


def test_a_signal_ends_the_run_with_what_is_in_work_and_counts_the_rest() -> None:
    signals = Signals()

    def forever() -> Iterator[Any]:
        for i in range(10**9):
            yield frame(i)
            if i == 20:
                signals.come()

    sink = FakeSink(0.005)
    stream = Stream(FakeSource(forever()), FakePipeline(0.001), [sink])
    stream.run(signals)
    assert stream.interrupted
    assert sink.indices == list(range(len(sink.indices)))
    assert sink.closed == 1
    assert 10 <= len(sink.indices) <= 21
    assert balanced(stream, sink)
    assert set(stream.dropped) <= {"stopped"}


def test_a_signal_while_the_source_waits_ends_the_run_at_once() -> None:
    signals = Signals()
    source = FakeSource([frame(0), signals.come, 1000.0])
    started = time.monotonic()
    stream = Stream(source, FakePipeline(), [FakeSink()])
    stream.run(signals)
    assert stream.interrupted
    assert time.monotonic() - started < 10


def test_a_sink_that_stands_still_cannot_hold_an_interrupted_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.2)
    signals, free = Signals(), threading.Event()

    class Stuck(FakeSink):
        def write(self, result: Result) -> None:
            signals.come()
            free.wait(60)

    stream = Stream(FakeSource([frame(i) for i in range(20)]), FakePipeline(), [Stuck()])
    started = time.monotonic()
    stream.run(signals)
    free.set()
    assert stream.interrupted
    assert time.monotonic() - started < 10
    assert stream.dropped["stopped"] >= 2


def test_a_late_frame_is_dropped_before_the_detector() -> None:
    now = time.monotonic_ns()
    items = [frame(0, now - 10**12), frame(1, now + 10**12), frame(2, now - 10**12), frame(3, now + 10**12)]
    sink = FakeSink()
    stream = Stream(FakeSource(items, live=True), FakePipeline(), [sink], drop="oldest", deadline_ms=60_000, warm=False)
    stream.run()
    assert sink.indices == [1, 3]
    assert stream.dropped == {"late": 2}
    assert [r.dropped for r in sink.got if isinstance(r, Result)] == [{"late": 1}, {"late": 1}]


def test_a_late_frame_is_only_marked_where_none_may_be_dropped() -> None:
    now = time.monotonic_ns()
    pipeline, sink = FakePipeline(), FakeSink()
    items = [frame(0, now - 10**9), frame(1, now + 10**12)]
    stream = Stream(FakeSource(items, live=True), pipeline, [sink], drop="none", deadline_ms=500, warm=False)
    stream.run()
    assert sink.indices == [0, 1]
    assert [r.late for r in sink.got if isinstance(r, Result)] == [True, False]
    assert stream.dropped == {}
    assert pipeline.calls[0]["deadline_ns"] == pytest.approx(now - 5 * 10**8, abs=10**6)


def test_a_result_after_the_deadline_is_late_and_files_count_from_the_detector() -> None:
    sink = FakeSink()
    pipeline = FakePipeline(lambda index: 0.2 if index == 1 else 0.0)
    source = FakeSource([frame(i, 0) for i in range(4)])  # their times are those of another day
    Stream(source, pipeline, [sink], deadline_ms=100, warm=False).run()
    assert [r.late for r in sink.got if isinstance(r, Result)] == [False, True, False, False]


def test_the_age_of_a_live_frame_is_told_as_capture_and_queue() -> None:
    pipeline = FakePipeline(lambda index: 0.05)
    items = [frame(0, time.monotonic_ns() - 3 * 10**8), frame(1)]
    Stream(FakeSource(items, live=True), pipeline, [], drop="none", warm=False).run()
    first, second = pipeline.calls
    assert 300 <= first["capture_ms"] < 400
    assert first["queue_ms"] < 50
    assert second["capture_ms"] < 50
    assert 30 <= second["queue_ms"] < 300


def test_frames_of_files_tell_how_long_they_took_to_read_and_no_queue() -> None:
    pipeline = FakePipeline()
    Stream(FakeSource([0.05, frame(0, 0), 0.01, frame(1, 0)]), pipeline, []).run()
    assert 50 <= pipeline.calls[0]["capture_ms"] < 300
    assert 10 <= pipeline.calls[1]["capture_ms"] < 300
    assert [call["queue_ms"] for call in pipeline.calls] == [0.0, 0.0]


def test_warming_up_takes_a_live_frame_and_gives_no_result_of_it() -> None:
    source = FakeSource([frame(0), 0.3, frame(1)], live=True)
    pipeline, sink = FakePipeline(0.002), FakeSink()
    stream = Stream(source, pipeline, [sink])
    stream.run()
    assert stream.warm_up is not None
    assert stream.warm_up.runs >= 6
    assert sink.indices == [1]
    assert stream.dropped == {"warm-up": 1}
    assert [r.dropped for r in sink.got if isinstance(r, Result)] == [{"warm-up": 1}]


def test_warming_up_loses_no_frame_of_a_file() -> None:
    pipeline, sink = FakePipeline(0.002), FakeSink()
    stream = Stream(FakeSource([frame(0), frame(1)]), pipeline, [sink], warm=True)
    stream.run()
    assert sink.indices == [0, 1]
    assert [call["index"] for call in pipeline.calls].count(0) == stream.warm_up.runs + 1  # type: ignore[union-attr]


def test_tracks_are_asked_once_per_result_in_order() -> None:
    seen: list[int] = []

    def track(result: Result) -> Result:
        seen.append(result.frame.index)
        return replace(result, track=np.full(2, result.frame.index))

    sink = FakeSink()
    Stream(FakeSource([other_frame(i) for i in range(3)]), FakePipeline(), [sink], track=track).run()
    assert seen == [0, 1, 2]
    assert [r.track.tolist() for r in sink.got] == [[0, 0], [1, 1], [2, 2]]  # type: ignore[union-attr]


def other_frame(index: int) -> Frame:
    return replace(frame(index), data=np.full((4, 6), index, dtype=np.uint16))


def test_frames_with_the_bytes_of_the_one_before_are_told_and_no_evidence() -> None:
    seen: list[int] = []

    def track(result: Result) -> Result:
        seen.append(result.frame.index)
        return replace(result, track=np.full(len(result.targets), 7))

    items = [replace(other_frame(i), data=other_frame(i // 3).data) for i in range(9)]
    sink = FakeSink()
    Stream(FakeSource(items), FakePipeline(), [sink], track=track).run()
    results = [r for r in sink.got if isinstance(r, Result)]
    assert seen == [0, 3, 6]
    assert [r.repeated for r in results] == [False, True, True] * 3
    assert all(r.track is not None for r in results)


@pytest.mark.parametrize("options", [{"drop": "newest"}, {"deadline_ms": 0}, {"deadline_ms": float("nan")}])
def test_a_bad_option_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        Stream(FakeSource([]), FakePipeline(), [], **options)


def test_a_source_without_frames_ends_at_once() -> None:
    sink = FakeSink()
    Stream(FakeSource([]), FakePipeline(), [sink]).run()
    assert (sink.got, sink.closed) == ([], 1)
