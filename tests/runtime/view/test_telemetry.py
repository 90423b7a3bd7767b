from __future__ import annotations

import math
from dataclasses import replace

import pytest
from exposition_format import parse
from hypothesis import given
from hypothesis import strategies as st
from made_results import made_result, made_tracks

from glint.runtime.device.state import DeviceState
from glint.runtime.tracking.tracks import Crossing
from glint.runtime.view.history import History
from glint.runtime.view.prometheus_text import metrics_text
from glint.runtime.view.status import StreamStatus
from glint.runtime.view.telemetry import BUCKETS_S, STALL_S, Telemetry
from glint.types import Gap


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_counts_go_up_with_results_and_gaps() -> None:
    telemetry = Telemetry()
    telemetry.add(made_result(0, [(0, 30, 20, 300), (1, 5, 6, 100)]))
    telemetry.add(made_result(1, []))
    telemetry.add_gap(Gap(0, 2.5, "lost"))
    run = telemetry.snapshot()
    assert (run.frames, run.blobs, run.targets, run.last_targets) == (2, 2, 2, 0)
    assert (run.gaps, run.gap_seconds) == (1, 2.5)


def test_tracks_their_events_and_repeated_frames_are_counted() -> None:
    telemetry = Telemetry()
    telemetry.add(made_result())
    assert telemetry.snapshot().tracks is None
    assert not any("track" in name for name in parse(metrics_text(telemetry.snapshot(), StreamStatus())))
    crossed = (Crossing("enter", 1, "gate"), Crossing("enter", 2, "gate"), Crossing("leave", 0, "gate"))
    telemetry.add(replace(made_result(), tracks=made_tracks([1, 2], confirmed=(1, 2), crossed=crossed)))
    telemetry.add(replace(made_result(), tracks=made_tracks([2], lost=(1,)), repeated=True))
    run = telemetry.snapshot()
    assert (run.repeated, run.tracks, run.track_events) == (1, 1, {"confirmed": 2, "lost": 1})
    assert run.zone_events == {("gate", "enter"): 2, ("gate", "leave"): 1}
    text = metrics_text(run, StreamStatus())
    assert 'glint_track_events_total{event="confirmed"} 2' in text
    assert 'glint_zone_events_total{zone="gate",event="leave"} 1' in text
    assert "glint_frames_repeated_total 1" in text
    parse(text)


def test_a_run_starts_goes_well_stalls_recovers_and_ends() -> None:
    clock = Clock()
    telemetry = Telemetry(clock)
    assert telemetry.snapshot().state == "starting"
    telemetry.add(made_result())
    assert telemetry.snapshot().state == "ok"
    clock.now += STALL_S + 0.1
    assert telemetry.snapshot().state == "stalled"
    telemetry.add(made_result())
    assert telemetry.snapshot().state == "ok"
    telemetry.end()
    assert telemetry.snapshot().state == "ended"


def test_a_source_that_never_delivers_stalls_too() -> None:
    clock = Clock()
    telemetry = Telemetry(clock)
    clock.now += STALL_S + 0.1
    assert telemetry.snapshot().state == "stalled"


def test_the_rate_is_that_of_the_last_seconds() -> None:
    clock = Clock()
    telemetry = Telemetry(clock)
    for period in (0.01, 0.1):
        for _ in range(100):
            clock.now += period
            telemetry.add(made_result())
    assert telemetry.snapshot().fps == pytest.approx(10)
    clock.now += 10
    assert telemetry.snapshot().fps == 0


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=50))
def test_histograms_count_as_prometheus_reads_them(latencies: list[float]) -> None:
    telemetry = Telemetry()
    for ms in latencies:
        telemetry.add(made_result(latency={"detect": ms}))
    samples = parse(metrics_text(telemetry.snapshot(), StreamStatus()))
    name = "glint_stage_latency_seconds"
    for edge in BUCKETS_S:
        text = repr(int(edge)) if edge == int(edge) else repr(edge)
        counted = samples[f"{name}_bucket", (("le", text), ("stage", "detect"))]
        assert counted == sum(ms / 1e3 <= edge for ms in latencies)
    assert samples[f"{name}_bucket", (("le", "+Inf"), ("stage", "detect"))] == len(latencies)
    assert samples[f"{name}_count", (("stage", "detect"),)] == len(latencies)
    assert samples[f"{name}_sum", (("stage", "detect"),)] == pytest.approx(sum(latencies) / 1e3)


def test_all_of_the_stream_and_the_device_is_told() -> None:
    stream = StreamStatus("video.mkv", "tensorrt", 12, {"queue": 2, "late": 1}, {"frames": 3}, live=True)
    device = DeviceState(0, {"tj-thermal": 51.5}, {"VDD_IN": 6.25}, {"gpu": 306.0}, {"gpu": 625.0}, 0.5, 0.25, 2000,
                         "0 15W", ("gpu-throttle-alert",), 39)  # fmt: skip
    samples = parse(metrics_text(Telemetry().snapshot(), stream, device))
    assert samples["glint_frames_captured_total", ()] == 12
    assert samples["glint_frames_dropped_total", (("at", "late"),)] == 1
    assert samples["glint_queue_length", (("queue", "frames"),)] == 3
    assert samples["glint_device_temperature_celsius", (("zone", "tj-thermal"),)] == 51.5
    assert samples["glint_device_power_watts", (("rail", "VDD_IN"),)] == 6.25
    assert samples["glint_device_clock_hertz", (("clock", "gpu"),)] == 306e6
    assert samples["glint_device_throttled", ()] == 1
    assert samples["glint_device_over_current_events_total", ()] == 39
    assert samples["glint_healthy", ()] == 0


def test_what_the_device_does_not_tell_is_left_out() -> None:
    samples = parse(metrics_text(Telemetry().snapshot(), StreamStatus(), DeviceState(0)))
    assert {name for name, _ in samples if "device" in name} == {"glint_device_throttled"}


@given(st.text(), st.dictionaries(st.text(), st.integers(0, 10**9), max_size=3))
def test_any_text_survives_as_a_label(source: str, dropped: dict[str, int]) -> None:
    samples = parse(metrics_text(Telemetry().snapshot(), StreamStatus(source, "", 1, dropped)))
    assert any(("source", source) in labels for name, labels in samples if name == "glint_info")
    for place, number in dropped.items():
        assert samples["glint_frames_dropped_total", (("at", place),)] == number


def test_what_is_no_number_is_written_as_prometheus_does() -> None:
    device = DeviceState(0, {"a": math.nan, "b": math.inf, "c": -math.inf})
    text = metrics_text(Telemetry().snapshot(), StreamStatus(), device)
    assert 'zone="a"} NaN\n' in text
    assert 'zone="b"} +Inf\n' in text
    assert 'zone="c"} -Inf\n' in text


def test_history_keeps_rates_and_means_of_each_second() -> None:
    telemetry, history = Telemetry(), History(length=3)
    history.take(1.0, telemetry.snapshot(), StreamStatus(), None)
    for ms in (10.0, 30.0):
        telemetry.add(made_result(latency={"detect": ms}))
    history.take(0.5, telemetry.snapshot(), StreamStatus(dropped={"queue": 2}), DeviceState(0, {"a": 50.0}))
    history.take(1.0, telemetry.snapshot(), StreamStatus(dropped={"queue": 2}), None)
    past = history.since(0)
    assert [row["fps"] for row in past["rows"]] == [None, 4.0, 0.0]
    assert [row["latency_ms"] for row in past["rows"]] == [{}, {"detect": 20.0}, {}]
    assert [row["dropped"] for row in past["rows"]] == [0, 2, 2]
    assert past["rows"][1]["hottest_c"] == 50.0


def test_history_gives_what_is_new_and_forgets_what_is_old() -> None:
    telemetry, history = Telemetry(), History(length=3)
    for n in range(5):
        history.take(1.0, telemetry.snapshot(), StreamStatus(dropped={"queue": n}), None)
    assert [row["dropped"] for row in history.since(0)["rows"]] == [2, 3, 4]
    assert [row["dropped"] for row in history.since(4)["rows"]] == [4]
    assert history.since(5) == {"next": 5, "rows": [], "length": 3}
    assert len(history.since(77)["rows"]) == 3  # a page that watched an earlier run
