"""What samples say: against NumPy, against known ratios and powers, and how often intervals hold the truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glint.benchmarks.bench.stats import (
    LEAST_ROUNDS,
    fit_growth,
    paired_ratio,
    quantiles,
    settled,
    summarise,
    unpaired_ratio,
)
from glint.errors import InputError

times = st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=300)


@settings(deadline=None)
@given(times)
def test_a_summary_is_what_numpy_says(samples):
    summary = summarise(samples)
    assert summary["n"] == len(samples)
    for name, function in (("median", np.median), ("mean", np.mean), ("std", np.std), ("min", min), ("max", max)):
        assert summary[name] == pytest.approx(function(samples), rel=1e-12, abs=1e-12)
    for level, least in ((90, 10), (95, 20), (99, 100)):
        wanted = np.percentile(samples, level) if len(samples) >= least else None
        assert summary[f"p{level}"] == (wanted if wanted is None else pytest.approx(wanted))


@settings(deadline=None)
@given(times)
def test_quantiles_are_a_distribution(samples):
    found = quantiles(samples)
    assert (found[0], found[-1], len(found)) == (min(samples), max(samples), 101)
    assert found == sorted(found)


def test_no_sample_is_no_summary():
    with pytest.raises(InputError, match="at least one"):
        summarise([])


@pytest.mark.parametrize(
    ("medians", "over"),
    [
        ([], False),
        ([1.0, 1.0], False),
        ([1.0, 1.0, 1.0], True),
        ([9.0, 1.0, 1.02, 1.04], True),
        ([1.0, 1.0, 1.06], False),
        ([1.0, 1.0, 1.0, 0.9], False),
    ],
)
def test_warming_up_is_over_when_three_windows_agree(medians, over):
    assert settled(medians) == over


@settings(deadline=None)
@given(st.floats(0.1, 10), st.integers(LEAST_ROUNDS, 12), st.integers(0, 99))
def test_drift_that_both_rows_share_cancels(factor, rounds, seed):
    drift = np.exp(np.random.default_rng(seed).normal(0, 1, rounds))
    ratio = paired_ratio(drift, factor * drift)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((factor,) * 3)


def test_ratios_of_two_runs_are_of_the_geometric_means():
    ratio = unpaired_ratio([2.0, 8.0], [1.0, 4.0])
    assert ratio.value == pytest.approx(2)
    assert (ratio.low, ratio.high) == (None, None)  # of two rounds nothing can be said


@pytest.mark.parametrize("rounds", [5, 10])
def test_intervals_hold_the_truth_as_often_as_they_say(rounds):
    rng = np.random.default_rng(1)
    inside = dict.fromkeys(("paired", "unpaired"), 0)
    for _ in range(200):
        first, second = np.exp(rng.normal(0, 0.05, (2, rounds)))
        paired, unpaired = paired_ratio(first, 1.5 * second), unpaired_ratio(1.5 * first, second)
        for name, found in (("paired", paired), ("unpaired", unpaired)):
            inside[name] += found.low <= 1.5 <= found.high
    assert all(180 <= number <= 200 for number in inside.values())


def test_rounds_must_be_common():
    with pytest.raises(InputError, match="got 2 and 3"):
        paired_ratio([1.0, 1.0], [1.0, 1.0, 1.0])
    with pytest.raises(InputError, match="got 0 and 1"):
        unpaired_ratio([], [1.0])


@settings(deadline=None)
@given(st.floats(0.4, 2.5), st.floats(0, 3), st.floats(0.01, 100))
def test_the_power_of_a_cost_is_found_above_what_it_starts_from(power, start, slope):
    sizes = np.array([1, 4, 16, 64, 256, 1024.0])
    costs = {size: [slope * (start * 64**power + size**power)] * LEAST_ROUNDS for size in sizes}
    growth = fit_growth(costs)
    assert growth.exponent.value == pytest.approx(power, abs=0.05)
    assert growth.exponent.low <= growth.exponent.value + 1e-9 and growth.exponent.high >= growth.exponent.value - 1e-9
    cost = growth.start + growth.slope * sizes**growth.exponent.value
    np.testing.assert_allclose(cost, [values[0] for values in costs.values()], rtol=0.05)


def test_noise_widens_the_interval_of_a_power_about_the_truth():
    rng = np.random.default_rng(3)
    costs = {s: (5 + s) * np.exp(rng.normal(0, 0.05, 10)) for s in (1, 3, 10, 30, 100, 300, 1000)}
    exponent = fit_growth(costs).exponent
    assert exponent.low < 1 < exponent.high
    assert 0.02 < exponent.high - exponent.low < 0.5


def test_a_cost_that_stays_has_no_power():
    growth = fit_growth({1: [10.0], 10: [10.1], 100: [10.5]})
    assert (growth.exponent, growth.slope) == (None, 0)
    assert growth.start == pytest.approx(10.2)


def test_two_sizes_are_no_growth():
    with pytest.raises(InputError, match="three sizes, got 2"):
        fit_growth({1: [1.0], 2: [2.0]})
    with pytest.raises(InputError, match="observations"):
        fit_growth({1: [1.0], 2: [2.0], 3: []})
