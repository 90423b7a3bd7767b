"""The soak finds what grows and what gets lost."""

import time

import pytest

from glint.benchmarks.streams.overhead import pipeline_overhead
from glint.benchmarks.streams.soak import SCENE, Bounded, Look, Paced, growth, problems, rate_problems, soak
from glint.runtime.sources.open import open_source

MIB = 1 << 20


def looks(memory, threads=lambda i: 5, files=lambda i: 20):
    return [Look(float(i), int(memory(i)), threads(i), files(i)) for i in range(100)]


def test_steady_memory_has_not_grown():
    grown = growth(looks(lambda i: 200 * MIB + (i % 3) * MIB))
    assert abs(grown["memory_percent"]) < 0.6
    assert (grown["threads"], grown["files"]) == (0, 0)
    assert problems(0, grown) == []


def test_what_is_allocated_in_the_beginning_is_no_growth():
    assert growth(looks(lambda i: (200 + 20 * min(i, 10)) * MIB))["memory_percent"] == 0


@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ({"memory": lambda i: (200 + 0.06 * i) * MIB}, "memory grew by 2"),
        ({"threads": lambda i: 5 + i // 30}, "threads"),
        ({"files": lambda i: 20 + i // 30}, "files"),
    ],
)
def test_what_grows_is_a_problem(parts, word):
    (problem,) = problems(0, growth(looks(**{"memory": lambda i: 200 * MIB, **parts})))
    assert word in problem


def test_a_frame_that_nobody_knows_of_is_a_problem():
    assert "1 frames" in problems(1, growth(looks(lambda i: 200 * MIB)))[0]


def test_a_source_ends_when_its_time_is_over():
    started = time.monotonic()
    frames = list(Bounded(open_source(SCENE), 0.3))
    assert 0.3 <= time.monotonic() - started < 20
    assert frames


def test_frames_come_when_they_are_due_and_at_once_after_a_stall():
    source, moments = Paced(open_source(SCENE), 50.0), []
    started = time.monotonic()
    for frame in source:
        moments.append(time.monotonic() - started)
        assert frame.t_ns <= time.monotonic_ns()
        if len(moments) == 2:
            time.sleep(0.2)  # ten frames
        if len(moments) == 20:
            break
    assert all(moment >= number / 50 for number, moment in enumerate(moments))
    assert moments[-1] < 20  # caught up, on whatever machine
    assert source.live and source.due >= 18  # when the twentieth was asked for


def test_frames_that_were_due_and_not_processed_are_a_problem():
    assert rate_problems(1000, 1000) == rate_problems(1000, 997) == rate_problems(0, 0) == []
    assert rate_problems(1000, 990) == ["990 frames of 1000 that were due"]


def test_a_soak_accounts_for_every_frame_and_says_that_it_was_too_short():
    report = soak(minutes=0.02, threads=1)
    assert report["captured"] == report["frames"] + sum(report["dropped"].values()) > 0
    assert "too short" in report["problems"][0]


def test_the_overhead_of_the_pipeline_is_told_by_stage():
    scene = "synthetic://?size=96x80&frames=2&clusters=2&singles=2&radiance=180-240&seed=2"
    report = pipeline_overhead(scene=scene, repeats=2)
    times = report["cpu_ms"]
    assert report["frames"] == 4
    assert report["blobs_per_frame"] >= 1
    assert times["total"]["p50"] >= max(times[s]["p50"] for s in ("detect", "cut", "unmix", "refine"))
    assert times["unrefined"]["p50"] > 0
    assert all(0 <= v["p50"] <= v["p95"] <= v["p99"] for v in times.values())


def test_faults_and_clients_are_accounted_for():
    report = soak(minutes=0.1, threads=1, faults=True, view=True)
    assert report["captured"] == report["frames"] + sum(report["dropped"].values()) > 0
    assert sum(report["faults"].values()) > 0
    assert report["clients"]["200"] > 0
    assert [p for p in report["problems"] if "too short" not in p] == []
