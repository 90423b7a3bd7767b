from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stream_parts import frame, result_of

from glint.runtime.sinks.summary import Spread, Summary
from glint.types import Frame, Gap, Targets


@given(st.lists(st.floats(1e-3, 1e5), min_size=1, max_size=200), st.sampled_from([0, 50, 95, 99, 100]))
def test_percentiles_are_those_of_all_values_to_half_a_percent(values: list[float], share: int) -> None:
    spread = Spread()
    for value in values:
        spread.add(value)
    expected = np.percentile(values, share, method="lower")
    assert spread.percentile(share) == pytest.approx(expected, rel=0.006)


def test_percentiles_rise() -> None:
    spread = Spread()
    for value in np.random.default_rng(0).lognormal(size=1000):
        spread.add(float(value))
    assert spread.as_dict()["p50"] < spread.as_dict()["p95"] < spread.as_dict()["p99"]


def test_zeros_have_percentiles_of_zero_and_nothing_has_none() -> None:
    spread = Spread()
    assert np.isnan(spread.percentile(50))
    spread.add(0.0)
    assert spread.percentile(50) == 0.0


def test_memory_does_not_grow_with_the_number_of_values() -> None:
    spread = Spread()
    for value in np.random.default_rng(0).uniform(1, 2, 10_000):
        spread.add(float(value))
    assert len(spread._bins) <= 72  # log(2) / log(1.01)


def some(places: list[tuple[float, float]]) -> Targets:
    x, y = np.array(places, dtype=np.float64).reshape(-1, 2).T
    ones = np.ones(len(x))
    return Targets(x, y, ones, ones, ones, ones, ones, ones, np.zeros(len(x)))


def test_counts_and_score_against_the_truth() -> None:
    summary = Summary()
    for index, found in enumerate([[(10.1, 10), (30, 30)], [(10, 10.3)]]):
        item = Frame(index, 0, np.zeros((4, 4), dtype=np.uint8), truth=some([(10, 10), (50, 50)]))
        summary.write(result_of(item, some(found), late=bool(index)))
    summary.gap(Gap(0, 1.25, "lost"))
    summary.gap(Gap(0, 0.5, "lost"))
    told = summary.as_dict()
    assert (told["frames"], told["targets"], told["late"]) == (2, 3, 1)
    assert told["gaps"] == {"count": 2, "seconds": 1.75}
    assert told["truth"]["targets"] == 4
    assert (told["truth"]["found"], told["truth"]["false"]) == (2, 1)
    assert told["truth"]["median_position_error_px"] == pytest.approx(0.1, rel=0.01)


def test_without_truth_there_is_no_score_and_without_frames_no_latency() -> None:
    summary = Summary()
    assert summary.as_dict()["latency_ms"] == {}
    summary.write(result_of(frame(0)))
    assert "truth" not in summary.as_dict()
