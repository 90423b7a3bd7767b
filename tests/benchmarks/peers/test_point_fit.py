"""The fit of the classical comparators against the optical model, SciPy and the Fisher information."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from glint.benchmarks.peers.point_fit import (
    Images,
    PointFit,
    Priors,
    _linearise,
    _solve,
    as_targets,
    fit_points,
    profiles,
    variances,
)
from glint.optics import Psf
from glint.types import TargetFlag

N = 7


def batch(number, count, seed, noise=0.5, limit=np.inf):
    rng = np.random.default_rng(seed)
    position = 2.6 + rng.random((2, count, number))
    radiance = rng.uniform(220, 250, (count, number))
    clean = Psf(0.5).render(position[0].T, position[1].T, radiance.T, (N, N))
    data = np.minimum(clean + noise * rng.standard_normal(clean.shape), limit)
    data = np.moveaxis(data, 0, -1).copy()
    truth = PointFit(position, radiance, np.zeros(number))
    return Images(data, np.full(number, noise), data >= limit), truth


def moved(truth, by, seed):
    rng = np.random.default_rng(seed)
    return PointFit(truth.position + by * rng.standard_normal(truth.position.shape), truth.radiance * 1.05, truth.cost)


def residuals(theta, images, index, priors):
    """The cost as a vector, written from its definition."""
    x, y, s = theta.reshape(3, -1)
    model = Psf(priors.sigma).render(x, y, s, (N, N))
    rest = (images.data[..., index] - model) / images.noise[index]
    rest[images.saturated[..., index] & (model >= images.data[..., index])] = 0
    parts = [rest.ravel()]
    if priors.radiance:
        parts.append((s - priors.radiance[0]) / priors.radiance[1])
    if priors.box:
        place = np.concatenate([x, y])
        parts.append((place - np.clip(place, *priors.box)) / priors.softness)
    return np.concatenate(parts)


def test_profiles_are_those_of_the_optics():
    place = np.random.default_rng(0).uniform(0, 6, (2, 3, 4))
    value, slope = profiles(place, N, 0.45)
    assert np.abs(np.moveaxis(value, 0, -1) - Psf(0.45).profile(place, N)).max() < 1e-12
    assert np.abs(np.moveaxis(slope, 0, -1) - Psf(0.45).profile_derivative(place, N)).max() < 1e-12


@pytest.mark.parametrize("limit", [np.inf, 150.0])
@pytest.mark.parametrize("priors", [Priors(0.5), Priors(0.5, (235.0, 8.66), (2.9, 3.3), 0.1)])
def test_normal_matrix_gradient_and_cost_are_those_of_the_residuals(limit, priors):
    images, truth = batch(4, 3, 1, limit=limit)
    start = moved(truth, 0.1, 2)
    state = _linearise(images, start.position, start.radiance, priors)
    for i in range(4):
        theta = np.concatenate([start.position[0, :, i], start.position[1, :, i], start.radiance[:, i]])
        here = residuals(theta, images, i, priors)
        columns = []
        for j in range(len(theta)):
            step = np.zeros(len(theta))
            step[j] = 1e-5
            difference = residuals(theta + step, images, i, priors) - residuals(theta - step, images, i, priors)
            columns.append(difference / 2e-5)
        jacobian = np.stack(columns, axis=1)
        assert state.cost[i] == pytest.approx(here @ here, rel=1e-9)
        scale = np.abs(jacobian.T @ jacobian).max()
        assert np.abs(state.normal[..., i] - jacobian.T @ jacobian).max() < 1e-5 * scale
        expected = -jacobian.T @ here
        assert np.abs(state.gradient[:, i] - expected).max() < 1e-5 * np.abs(expected).max()


@given(st.integers(1, 15), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_the_batched_solution_is_lapacks(size, seed):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((5, size, size + 2))
    matrix, right, damping = root @ np.swapaxes(root, 1, 2), rng.standard_normal((5, size)), rng.random(5)
    damped = matrix + damping[:, None, None] * matrix * np.eye(size)
    expected = np.linalg.solve(damped, right[..., None])[..., 0]
    actual = _solve(np.moveaxis(matrix, 0, -1), right.T, damping).T
    assert np.allclose(actual, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("limit", [np.inf, 150.0])
def test_the_minimum_is_that_of_scipy(limit):
    priors = Priors(0.5, (235.0, 8.66), (2.6, 3.6))
    images, truth = batch(8, 2, 3, limit=limit)
    start = moved(truth, 0.05, 4)
    fit = fit_points(images, start, priors, 50)
    for i in range(8):
        theta = np.concatenate([start.position[0, :, i], start.position[1, :, i], start.radiance[:, i]])
        best = least_squares(residuals, theta, args=(images, i, priors), x_scale=[1, 1, 1, 1, 200, 200])
        assert fit.cost[i] <= 2 * best.cost + 1e-3


def test_fits_that_are_done_leave_the_batch_without_disturbing_the_others():
    images, truth = batch(12, 2, 5)
    start = moved(truth, 0.1, 6)
    together = fit_points(images, start, Priors(0.5), 40)
    for i in range(12):
        alone = fit_points(images.take(np.array([i])), start.take(np.array([i])), Priors(0.5), 40)
        assert alone.cost[0] == pytest.approx(together.cost[i], rel=1e-6)


def test_variances_are_the_inverse_of_the_fisher_information():
    images, truth = batch(1, 2, 7, noise=0.7)
    x, y, s = truth.position[0, :, 0], truth.position[1, :, 0], truth.radiance[:, 0]
    inverse = np.diag(np.linalg.inv(Psf(0.5).fisher(x, y, s, (N, N), 0.7))).reshape(2, 3).T.ravel()
    # The saturated pixels of other tests apart, the two are one; the residual does not enter.
    assert np.allclose(variances(images, truth, Priors(0.5))[:, 0], inverse, rtol=1e-3)


def test_targets_come_by_patch_in_its_coordinates():
    images, truth = batch(3, 2, 8, limit=150.0)
    targets = as_targets(images, truth, Priors(0.5), np.array([4, 5, 9]), np.array([1, 0, -1]), np.array([2, 0, 0]))
    assert targets.blob.tolist() == [4, 4, 5, 5, 9, 9]
    assert np.allclose(targets.x[:2], truth.position[0, :, 0] + 1)
    assert np.allclose(targets.y[:2], truth.position[1, :, 0] + 2)
    assert np.allclose(targets.radiance, truth.radiance.T.ravel())
    assert ((targets.score > 0) & (targets.score <= 1)).all()
    assert (targets.flags == int(TargetFlag.SATURATED)).all() == bool(images.saturated.any(axis=(0, 1)).all())
