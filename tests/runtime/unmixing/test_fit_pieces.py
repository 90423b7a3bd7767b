"""The pieces of a fit by themselves: the profile of a target along an axis, and the solution of its equations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from glint.optics import pixel_profiles
from glint.runtime.unmixing.normal_equations import factorise, substitute
from glint.runtime.unmixing.point_model import pixel_profile


def profile(coordinate: float, sigma: float, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    value, slope, width = np.empty(n), np.empty(n), np.empty(n)
    pixel_profile(coordinate, sigma, value, slope, width)
    return value, slope, width


some_profile = {"coordinate": st.floats(-3, 15), "sigma": st.floats(0.2, 3)}


@settings(deadline=None)
@given(**some_profile, n=st.integers(1, 15))
def test_a_profile_and_its_derivatives_are_those_of_the_optics(coordinate: float, sigma: float, n: int) -> None:
    expected = pixel_profiles(np.array(coordinate), sigma, n)
    for mine, theirs, error in zip(profile(coordinate, sigma, n), expected, (2e-10, 2e-7, 1e-6)):
        assert mine == pytest.approx(theirs, abs=error)


@settings(deadline=None)
@given(**some_profile)
def test_a_profile_is_the_integral_of_the_normal_density_and_its_derivatives_those_of_it(
    coordinate: float, sigma: float
) -> None:
    value, slope, width = profile(coordinate, sigma, 12)
    edges = np.arange(13) - 0.5
    assert value == pytest.approx(np.diff(ndtr((edges - coordinate) / sigma)), abs=2e-10)
    step = 1e-3
    for derivative, dx, ds in ((slope, step, 0.0), (width, 0.0, step)):
        ahead, behind = (profile(coordinate + sign * dx, sigma + sign * ds, 12)[0] for sign in (1, -1))
        assert derivative == pytest.approx((ahead - behind) / (2 * step), abs=1e-4)


def solved(matrix: np.ndarray, values: np.ndarray) -> np.ndarray:
    matrix, values = matrix.copy(), values.copy()
    matrix[np.triu_indices(len(matrix), 1)] = np.nan  # only the lower triangle is looked at
    factorise(matrix)
    substitute(matrix, values)
    return values


@settings(deadline=None)
@given(n=st.integers(1, 19), seed=st.integers(0, 1000), exponent=st.floats(-5, 0))
def test_a_correlation_matrix_is_solved_to_the_digits_that_its_condition_leaves(
    n: int, seed: int, exponent: float
) -> None:
    """Residual at rounding, as of any backward stable solver; error of it times the condition, as numpy's."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(n, n)))[0]
    matrix = turn * np.logspace(exponent, 0, n) @ turn.T
    scale = np.sqrt(np.diag(matrix))
    matrix /= np.outer(scale, scale)
    truth = rng.normal(size=n)
    got = solved(matrix, matrix @ truth)
    assert matrix @ got == pytest.approx(matrix @ truth, abs=1e-13 * max(1, np.abs(truth).max()))
    assert got == pytest.approx(truth, abs=1e-13 * np.linalg.cond(matrix))


@pytest.mark.parametrize("n", [2, 5, 19])
def test_a_singular_matrix_has_a_solution_of_its_damping(n: int) -> None:
    """All parameters do the same, as targets in one place do: they share the step."""
    damping = 1e-7 + 1e-9  # the least that a fit ever has
    got = solved(np.ones((n, n)) + damping * np.eye(n), np.full(n, 3.0))
    assert got == pytest.approx(np.full(n, 3.0 / n), rel=1e-6)
    assert np.isfinite(solved(np.ones((n, n)), np.full(n, 3.0))).all()
