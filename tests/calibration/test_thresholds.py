"""Four rules for a threshold, against independent references."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr

from glint.calibration.thresholds import LARGEST_CODE, METHODS, entropy, minmax, mse, percentile

BINS = 2048


def histogram(values, largest=None):
    values = np.abs(values)
    top = float(values.max()) if largest is None else largest
    return np.histogram(values, bins=BINS, range=(0, top))[0].astype(np.int64), top


def rounding_error(values, threshold):
    step = threshold / LARGEST_CODE
    return float(np.square(values - np.clip(np.round(values / step), -LARGEST_CODE, LARGEST_CODE) * step).sum())


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3), st.sampled_from(list(METHODS)))
def test_a_threshold_is_positive_within_the_range_and_follows_the_scale(seed, scale, name):
    values = np.random.default_rng(seed).standard_t(3, 2000)
    counts, top = histogram(values)
    threshold = METHODS[name](counts, top)
    assert 0 < threshold <= top
    assert METHODS[name](counts, top * scale) == pytest.approx(threshold * scale, rel=1e-9)


def test_min_max_clips_nothing():
    assert minmax(*histogram(np.array([1.0, -7.5]))) == 7.5


def test_the_percentile_is_numpys_to_a_bin():
    values = np.random.default_rng(0).normal(size=200_000)
    counts, top = histogram(values)
    expected = np.percentile(np.abs(values), 99.99)
    assert expected <= percentile(counts, top) <= expected + 2 * top / BINS


@pytest.mark.parametrize("values", [
    np.random.default_rng(1).normal(size=20_000), np.random.default_rng(2).laplace(size=20_000),
    np.append(np.random.default_rng(3).uniform(-1, 1, 20_000), 40.0), np.random.default_rng(4).standard_t(2, 20_000),
])  # fmt: skip
def test_the_error_of_the_mse_threshold_is_the_least_there_is(values):
    counts, top = histogram(values)
    best = min(rounding_error(values, t) for t in np.linspace(0.01, 1, 500) * top)
    assert rounding_error(values, mse(counts, top)) <= 1.02 * best


def divergence(counts, end, levels=128):
    """Kullback-Leibler divergence of clipping at a bin, written down in the plainest way."""
    counts = counts.astype(float)
    counts[0] = counts[1]
    reference = counts[:end].copy()
    reference[-1] += counts[end:].sum()
    candidate = np.zeros(end)
    for code in range(levels):
        members = [i for i in range(end) if i * levels // end == code]
        filled = [i for i in members if reference[i] > 0]
        for i in filled:
            candidate[i] = sum(counts[members]) / len(filled)
    return rel_entr(reference / reference.sum(), candidate / candidate.sum()).sum()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_entropy_threshold_has_the_least_divergence_of_those_tried(seed):
    values = np.random.default_rng(seed).laplace(size=400_000)
    counts, top = histogram(values)
    found = entropy(counts, top)
    end = round(found / top * BINS)
    mine = divergence(counts, end)
    assert all(mine <= divergence(counts, other) * (1 + 1e-9) for other in range(128, BINS + 1, 15 * 16))
    assert found < 0.9 * top  # a long tail is not worth its codes


def test_outliers_are_clipped_by_all_but_min_max():
    values = np.append(np.random.default_rng(0).normal(size=300_000), [60.0, -60.0])
    counts, top = histogram(values)
    assert minmax(counts, top) == 60
    assert all(METHODS[name](counts, top) < 40 for name in ("percentile", "entropy", "mse"))


@pytest.mark.parametrize("name", METHODS)
def test_tensors_without_any_or_with_one_value_have_thresholds_too(name):
    assert METHODS[name](np.zeros(BINS, dtype=np.int64), 0.0) == 0.0
    assert METHODS[name](*histogram(np.full(1000, 3.0))) == pytest.approx(3.0, rel=0.02)
    assert METHODS[name](*histogram(np.zeros(1000), 2.0)) > 0
