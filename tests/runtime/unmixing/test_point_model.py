"""The model of points of any width, and their fit, against scipy's least squares on an oversampled rendering."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares
from scipy.special import ndtr

from glint.runtime.unmixing.fit import ANY_WIDTH_PX, Patch, Prior, fit_points, log_evidence
from glint.runtime.unmixing.point_model import shine_any

N = 13
GAUSSIAN = np.empty((0, 0))  # no correction


def rendered(x: float, y: float, s: float, u: float, e: float, shear: float, over: int = 48) -> np.ndarray:
    """A Gaussian whose rows are integrals of the normal distribution, summed over many heights in each pixel."""
    along, across = math.exp(u + e), math.exp(u - e)
    heights = (np.arange(N * over) + 0.5) / over - 0.5 - y
    weight = np.exp(-0.5 * (heights / across) ** 2) / (across * math.sqrt(2 * math.pi) * over)
    edges = np.arange(N + 1) - 0.5
    rows = np.diff(ndtr((edges - x - shear * heights[:, None]) / along), axis=1)
    return s * (weight[:, None] * rows).reshape(N, over, N).sum(axis=1)


def patch_of(image: np.ndarray, noise: float) -> Patch:
    return Patch(image, noise, np.full(image.shape, np.inf), np.ones(image.shape, dtype=bool))


def no_prior(points: int = 1) -> Prior:
    return Prior(np.zeros(3 * points + 6), np.zeros(3 * points + 6))


@settings(max_examples=25, deadline=None)
@given(
    st.floats(4.5, 7.5), st.floats(4.5, 7.5), st.floats(math.log(0.4), math.log(2)), st.floats(-0.25, 0.25),
    st.floats(-0.5, 0.5),
)  # fmt: skip
def test_the_model_is_the_integral_over_pixels(x: float, y: float, u: float, e: float, shear: float) -> None:
    jacobian, model = np.empty((9, N * N)), np.empty(N * N)
    shine_any(np.array([x, y, 100.0, 0, 0, 0, u, e, shear]), jacobian, model, N)
    expected = rendered(x, y, 100.0, u, e, shear)
    assert model.reshape(N, N) == pytest.approx(expected, abs=2e-3 * expected.max())


@pytest.mark.parametrize("shape_free", [0, 1, 3])
def test_the_jacobian_is_the_slope_of_the_model(shape_free: int) -> None:
    theta = np.array([5.3, 6.8, 100.0, 3.0, 0.2, -0.1, math.log(0.8), 0.1, -0.3])
    free = 6 + shape_free
    jacobian, model = np.empty((free, N * N)), np.empty(N * N)
    shine_any(theta, jacobian, model, N)
    for i in range(free):
        step = np.zeros(9)
        step[i] = 1e-5
        above, below = np.empty(N * N), np.empty(N * N)
        shine_any(theta + step, np.empty((free, N * N)), above, N)
        shine_any(theta - step, np.empty((free, N * N)), below, N)
        assert jacobian[i] == pytest.approx((above - below) / 2e-5, abs=1e-6 * np.abs(jacobian[i]).max())


@pytest.mark.parametrize("seed", range(4))
def test_a_noisy_ellipse_is_fitted_as_scipy_fits_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = np.array([6.2, 5.7, 900.0, 10, 0.3, -0.2, math.log(1.1), 0.15, 0.3])
    ramp = np.arange(N) - (N - 1) / 2
    plane = 10 + 0.3 * ramp - 0.2 * ramp[:, None]
    image = rendered(*truth[:3], *truth[6:]) + plane + rng.normal(0, 3, (N, N))

    def rest(p: np.ndarray) -> np.ndarray:
        return ((image - rendered(*p[:3], *p[6:], 8) - p[3] - p[4] * ramp - p[5] * ramp[:, None]) / 3).ravel()

    expected = least_squares(rest, truth, x_scale="jac")
    start = np.array([6.0, 6.0, 600.0, 0, 0, 0, 0.0, 0, 0])
    fit = fit_points(patch_of(image, 3.0), start, no_prior(), 3, 50, ANY_WIDTH_PX, GAUSSIAN)
    deviation = np.sqrt(np.diag(np.linalg.inv(expected.jac.T @ expected.jac)))
    assert np.abs((fit.theta - expected.x) / deviation).max() < 0.04  # of the reference's heights
    assert fit.misfit == pytest.approx(2 * expected.cost, rel=1e-3)
    assert np.sqrt(np.diag(np.linalg.inv(fit.information))) == pytest.approx(deviation, rel=0.03)


def test_a_held_shape_stays_and_pixels_that_do_not_count_have_no_say() -> None:
    image = rendered(6.0, 6.0, 500.0, math.log(0.7), 0.0, 0.0)
    valid = np.ones((N, N), dtype=bool)
    valid[:, 9:] = False
    spoiled = np.where(valid, image, 1e4)
    start = np.array([6.3, 5.8, 400.0, 0, 0, 0, math.log(0.7), 0, 0])
    fit = fit_points(patch_of(spoiled, 1.0)._replace(valid=valid), start, no_prior(), 0, 40, ANY_WIDTH_PX, GAUSSIAN)
    assert fit.theta[-3:] == pytest.approx(start[-3:])
    assert fit.theta[:3] == pytest.approx([6.0, 6.0, 500.0], rel=1e-3)
    assert fit.counted == valid.sum()


def test_the_evidence_of_a_linear_model_is_exact() -> None:
    """With the point and its shape pinned by priors, only Gaussian linear parameters are left."""
    rng = np.random.default_rng(1)
    image = rendered(6.0, 6.0, 50.0, math.log(0.7), 0.0, 0.0) + rng.normal(0, 1, (N, N))
    mean = np.array([6.0, 6.0, 40.0, 0, 0, 0, math.log(0.7), 0, 0])
    variance = np.array([1e-10, 1e-10, 100.0, 4.0, 0.01, 0.01, 1.0, 1.0, 1.0])
    prior = Prior(mean, 1 / variance)
    fit = fit_points(patch_of(image, 1.0), mean.copy(), prior, 0, 30, ANY_WIDTH_PX, GAUSSIAN)
    ramp = np.arange(N) - (N - 1) / 2
    ones = np.ones((N, N))
    columns = [rendered(6.0, 6.0, 1.0, math.log(0.7), 0, 0), ones, ones * ramp, ones * ramp[:, None]]
    basis = np.stack([c.ravel() for c in columns], axis=1)
    covariance = np.eye(N * N) + basis @ np.diag(variance[2:6]) @ basis.T
    off = image.ravel() - 40.0 * basis[:, 0]
    exact = -0.5 * (off @ np.linalg.solve(covariance, off) + np.linalg.slogdet(covariance)[1])
    assert log_evidence(fit, prior) == pytest.approx(exact, abs=0.05)
