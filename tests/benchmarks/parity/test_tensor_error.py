"""Errors of tensors against plain NumPy on all values at once."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from glint.benchmarks.parity.tensor_error import BINS_PER_OCTAVE, QUANTILES, TensorError, bin_edges
from glint.errors import InputError

WIDTH = 2 ** (1 / BINS_PER_OCTAVE)
NUMBERS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)


def collect(reference, candidate, pieces=1):
    error = TensorError()
    for one, two in zip(np.array_split(reference, pieces), np.array_split(candidate, pieces)):
        error.add(one, two)
    return error


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 200), st.integers(1, 4), st.data())
def test_every_figure_is_that_of_its_formula(number, pieces, data):
    one, two = (data.draw(arrays(np.float32, number, elements=NUMBERS)) for _ in range(2))
    share = data.draw(st.floats(0, 1))
    two = np.where(np.arange(number) < share * number, one, two)  # some agree exactly
    error = collect(one, two, pieces)
    r, e = one.astype(np.float64), np.abs(two.astype(np.float64) - one)

    figures = error.summary()
    assert figures["count"] == number and figures["not_finite"] == 0
    assert figures["peak"] == np.abs(r).max()
    assert figures["absolute"]["max"] == e.max()
    assert figures["absolute"]["mean"] == pytest.approx(e.mean())
    assert error.needed == pytest.approx(e.max() / max(np.abs(r).max(), 1e-30))
    if e.any() and r.any():
        assert error.sqnr == pytest.approx(10 * math.log10((r**2).sum() / (e**2).sum()))
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(e > 0, e / np.abs(r), 0.0)
    for kind, values in (("absolute", e), ("relative", relative)):
        for q in QUANTILES:
            exact = np.quantile(values, q, method="inverted_cdf")
            got = figures[kind][f"q{100 * q:g}"]
            assert (got is None) == (exact == np.inf)
            if got is not None:
                assert exact * (1 - 1e-12) <= got <= exact * WIDTH * (1 + 1e-12)
    assert figures["relative"]["max"] == (None if np.isinf(relative).any() else pytest.approx(relative.max()))
    assert error.bins.sum() == (e > 0).sum()


@given(arrays(np.float64, 20, elements=st.floats(1e-20, 1e20)))
def test_an_error_lies_in_the_bin_between_its_borders(errors):
    edges = bin_edges()
    bins = collect(np.zeros(20), errors).bins
    expected, _ = np.histogram(np.nextafter(errors, 0), edges)
    moved = np.abs(bins - expected).sum()
    assert moved <= 2 * np.isclose(errors[:, None], edges, rtol=1e-12).any(axis=1).sum()


def test_nothing_differs():
    error = collect(np.arange(5.0), np.arange(5.0))
    assert (error.sqnr, error.needed, error.largest) == (math.inf, 0, 0)
    figures = error.summary()
    assert figures["sqnr_db"] is None
    assert set(figures["absolute"].values()) == set(figures["relative"].values()) == {0}


def test_what_is_not_finite_is_counted_and_left_out():
    error = collect(np.array([1, np.nan, 2, np.inf]), np.array([1.5, 1, np.inf, np.inf]))
    assert (error.count, error.not_finite, error.largest, error.peak) == (1, 3, 0.5, 1)


def test_a_reference_of_zeros_has_no_signal():
    error = collect(np.zeros(3), np.array([0, 0.1, 0]))
    assert error.sqnr == -math.inf
    assert error.summary()["relative"]["mean"] is None


def test_halves_and_integers_are_compared_exactly():
    error = collect(np.array([65504], np.float16), np.array([-65504], np.float16))
    assert error.largest == 131008  # more than a float16 holds


def test_nothing_at_all_has_figures():
    figures = TensorError().summary()
    assert figures["count"] == 0 and figures["absolute"]["mean"] == 0


def test_shapes_must_agree():
    with pytest.raises(InputError, match="shape"):
        TensorError().add(np.zeros((2, 3)), np.zeros((3, 2)))


def test_errors_agree_with_those_of_polygraphys_comparator():
    pytest.importorskip("polygraphy", reason="polygraphy is not installed: the extra check")
    from polygraphy.comparator import IterationResult, SimpleCompareFunc

    rng = np.random.default_rng(0)
    one = rng.normal(size=(4, 3, 20)).astype(np.float32)
    two = (one + 1e-3 * rng.normal(size=one.shape)).astype(np.float32)
    ours = collect(one, two).summary()
    compare = SimpleCompareFunc(check_error_stat="max", atol=1.0, rtol=1.0)
    results = compare(IterationResult({"y": two}), IterationResult({"y": one}))
    theirs = results["y"]
    assert ours["absolute"]["max"] == pytest.approx(theirs.max_absdiff, rel=1e-5)
    assert ours["absolute"]["mean"] == pytest.approx(theirs.mean_absdiff, rel=1e-4)
    assert ours["relative"]["max"] == pytest.approx(theirs.max_reldiff, rel=1e-4)
