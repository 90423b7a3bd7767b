"""The fit of one patch against scipy's least squares on the same objective, rendered by the normal distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.special import ndtr

from glint.runtime.unmixing.fit import Fit, Patch, Start, fit_targets, prior_weight
from glint.runtime.unmixing.normal_equations import PLANE
from glint.runtime.unmixing.point_model import render, targets_of

LONG = 60  # iterations; none of these fits needs more
N = 11


@dataclass(frozen=True)
class Scene:
    """A patch with its truth, a row of parameters."""

    theta: np.ndarray
    patch: Patch

    @property
    def count(self) -> int:
        return (len(self.theta) - PLANE - 1) // 3


def model(theta: np.ndarray, n: int) -> np.ndarray:
    """The documented model of a row of parameters: ``[n, n]``."""
    k = (len(theta) - PLANE - 1) // 3
    x, y, s = theta[:k], theta[k : 2 * k], theta[2 * k : 3 * k]
    level, slope_x, slope_y, sigma = theta[3 * k :]
    edges = np.arange(n + 1) - 0.5
    columns, rows = (np.diff(ndtr((edges - v[:, None]) / sigma), axis=1) for v in (x, y))
    ramp = np.arange(n) - (n - 1) / 2
    return np.einsum("k,kr,kc->rc", s, rows, columns) + level + slope_x * ramp + slope_y * ramp[:, None]


def make_scene(
    count: int, *, seed: int = 0, n: int = N, noise: float = 2.0, full_scale: float = np.inf, sigma: float = 0.5
) -> Scene:
    """Targets at least 1.2 px apart on a slope under noise, clipped at a share of the brightest pixel."""
    rng = np.random.default_rng([seed, count])
    points = rng.uniform(1.5, n - 2.5, (1, 2))
    while len(points) < count:
        new = rng.uniform(1.5, n - 2.5, 2)
        if np.hypot(*(points - new).T).min() > 1.2:
            points = np.vstack([points, new])
    theta = np.concatenate([*points.T, rng.uniform(100, 400, count), rng.normal(0, [3, 0.3, 0.3]), [sigma]])
    image = model(theta, n) + noise * rng.standard_normal((n, n))
    limit = np.full((n, n), full_scale * image.max())
    return Scene(theta, Patch(np.minimum(image, limit), noise, limit, np.ones((n, n), dtype=bool)))


def make_start(scene: Scene, *, seed: int = 1, sd: dict[int, Any] | None = None, sigma_sd: float = 0.0) -> Start:
    """A start off the truth by a fifth of a pixel and a fifth of the radiance, and priors about it.

    ``sd`` has the standard deviation of the priors by group (0: x, 1: y, 2: radiance, 3: background).
    """
    rng = np.random.default_rng([seed, scene.count])
    k = scene.count
    theta = scene.theta.copy()
    theta[: 2 * k] += rng.uniform(-0.2, 0.2, 2 * k)
    theta[2 * k : 3 * k] *= rng.uniform(0.8, 1.2, k)
    theta[3 * k :] = 0, 0, 0, 0.5
    information = np.zeros_like(theta)
    for group, value in (sd or {}).items():
        information[group * k : (group * k + k if group < 3 else -1)] = np.asarray(value, dtype=float) ** -2
    information[-1] = sigma_sd**-2 if sigma_sd else np.inf
    return Start(theta, theta.copy(), information)


def cost(fit: Fit) -> float:
    return 0.5 * (fit.misfit + fit.strain)


def to_the_end(patch: Patch, start: Start) -> Fit:
    """Fits from where the last one ended, until there is nothing left to gain: a single one ends at a short step."""
    fit = fit_targets(patch, start, LONG)
    for _ in range(30):
        again = fit_targets(patch, Start(fit.theta, start.mean, start.information), LONG)
        if np.abs(again.theta - fit.theta).max() < 1e-12:
            break
        fit = again
    return again


def student(off: np.ndarray, information: np.ndarray) -> np.ndarray:
    """The strain of a position: quadratic as a Gaussian's near the mean, logarithmic far from it."""
    return 2 * np.log1p(information * off**2 / 2)


def reference(patch: Patch, start: Start) -> tuple[np.ndarray, np.ndarray]:
    """Solution and covariance by scipy: free parameters only, priors as residuals, pixels censored.

    The covariance counts the prior of a position with its pull over its distance: information / (1 + strain / 2).
    """
    free = len(start.theta) - int(np.isinf(start.information[-1]))
    mean, information = start.mean[:free], start.information[:free]
    positions = np.arange(free) < 2 * ((len(start.theta) - PLANE - 1) // 3)

    def residual(values: np.ndarray) -> np.ndarray:
        expected = model(np.append(values, start.theta[free:]), len(patch.image))
        counts = patch.valid & ~((patch.image >= patch.full_scale) & (expected >= patch.full_scale))
        pixels = (counts * (patch.image - expected) / patch.noise).ravel()
        off = values - mean
        heavy = np.sign(off) * np.sqrt(student(off, information))
        return np.append(pixels, np.where(positions, heavy, np.sqrt(information) * off))

    options = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-14, "x_scale": "jac", "max_nfev": 400}
    found = least_squares(residual, start.theta[:free].copy(), jac="3-point", **options)
    pixels = found.jac[: patch.image.size]
    far = np.where(positions, information * (found.x - mean) ** 2, 0)
    covariance = np.linalg.inv(pixels.T @ pixels + np.diag(information / (1 + far / 2)))
    return np.append(found.x, start.theta[free:]), covariance


CASES = {
    "plain": {},
    "with priors": {"sd": {0: 0.05, 1: 0.08, 2: 30.0, 3: [2.0, 0.4, 0.4]}},
    "known radiance": {"sd": {2: 8.66, 3: [2.0, 0.4, 0.4]}},
    "sigma free": {"sd": {3: [2.0, 0.4, 0.4]}, "sigma_sd": 0.02},
    "sigma free, with priors": {"sd": {0: 0.05, 1: 0.08, 2: 30.0}, "sigma_sd": 0.02},
}


@pytest.mark.parametrize("clipped", [False, True], ids=["linear", "censored"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_fit_is_scipys_least_squares_of_the_same_objective(case: dict[str, Any], clipped: bool) -> None:
    for count in (1, 2, 3, 4, 5):
        scene = make_scene(count, seed=3, full_scale=0.7 if clipped else np.inf)
        assert (scene.patch.image >= scene.patch.full_scale).any() == clipped
        start = make_start(scene, **case)
        expected, covariance = reference(scene.patch, start)
        sd = np.sqrt(np.diag(covariance))
        free = len(sd)
        end = to_the_end(scene.patch, start)
        assert end.converged
        assert (end.theta - expected)[:free] / sd == pytest.approx(np.zeros(free), abs=1e-6)
        assert end.theta[free:] == pytest.approx(start.theta[free:], abs=0)
        assert np.linalg.inv(end.information) == pytest.approx(covariance, abs=1e-4 * np.outer(sd, sd).max())
        assert np.sqrt(np.diag(np.linalg.inv(end.information))) == pytest.approx(sd, rel=1e-4)
        # A single fit ends at a short step: what is left is far below any noise.
        fit = fit_targets(scene.patch, start, LONG)
        assert fit.converged
        assert (fit.theta - expected)[:free] / sd == pytest.approx(np.zeros(free), abs=0.02)
        assert (fit.theta - expected)[: 2 * count] == pytest.approx(np.zeros(2 * count), abs=5e-4)
        assert cost(end) <= cost(fit) <= cost(end) + 1e-3


def test_misfit_strain_and_counted_are_what_they_say() -> None:
    for count in (2, 4):
        scene = make_scene(count, full_scale=0.5)
        scene.patch.valid[:, 0] = False
        start = make_start(scene, sd={0: 0.1, 2: 40.0}, sigma_sd=0.02)
        fit = fit_targets(scene.patch, start, LONG)
        image, expected = scene.patch.image, model(fit.theta, N)
        limit = scene.patch.full_scale
        counts = scene.patch.valid & ~((image >= limit) & (expected >= limit))
        assert fit.counted == counts.sum() < N * N - N
        assert fit.misfit == pytest.approx((counts * (image - expected) ** 2).sum() / 4, rel=1e-8)
        off, information = fit.theta - start.mean, start.information
        heavy = student(off, information)[: 2 * count].sum()
        strain = heavy + (information * off**2)[2 * count :].sum()
        assert 0 < heavy < strain
        assert fit.strain == pytest.approx(strain, rel=1e-10)
        for name in Start._fields:
            assert np.array_equal(getattr(fit.start, name), getattr(start, name))
        assert targets_of(fit.theta) == count
        assert render(fit.theta, N) == pytest.approx(expected, abs=1e-7)


def test_the_information_is_the_second_derivative_of_the_cost_without_the_curvature_of_the_model() -> None:
    """Jacobian by differences of the model; the priors' share is what :func:`prior_weight` says."""
    scene = make_scene(3, seed=4, full_scale=0.5)
    scene.patch.valid[2:4, 5] = False
    start = make_start(scene, sd={0: 0.1, 1: 0.2, 2: 40.0, 3: 2.0}, sigma_sd=0.02)
    fit = fit_targets(scene.patch, start, LONG)
    limit = scene.patch.full_scale
    counts = scene.patch.valid & ~((scene.patch.image >= limit) & (model(fit.theta, N) >= limit))
    assert counts.sum() < N * N - 2
    columns = []
    for i in range(len(fit.theta)):
        step = np.zeros_like(fit.theta)
        step[i] = 1e-6
        columns.append(((model(fit.theta + step, N) - model(fit.theta - step, N)) / 2e-6)[counts])
    jacobian = np.stack(columns) / scene.patch.noise
    priors = [prior_weight(fit.start, fit.theta, i) for i in range(len(fit.theta))]
    expected = jacobian @ jacobian.T + np.diag(priors)
    scale = np.sqrt(np.diag(expected))
    assert fit.information / np.outer(scale, scale) == pytest.approx(expected / np.outer(scale, scale), abs=1e-7)
    off = (fit.theta - start.mean)[:6]
    assert priors[:6] == pytest.approx(start.information[:6] / (1 + start.information[:6] * off**2 / 2), rel=1e-12)
    assert priors[6:] == pytest.approx(start.information[6:], rel=0)


@pytest.mark.parametrize("sigma_sd", [0.0, 0.02])
def test_the_order_of_the_targets_does_not_matter(sigma_sd: float) -> None:
    scene = make_scene(3)
    start = make_start(scene, sd={0: 0.3, 1: 0.3, 2: 80.0}, sigma_sd=sigma_sd)
    order = np.array([2, 0, 1])
    columns = np.concatenate([order, 3 + order, 6 + order, np.arange(9, 13)])
    mixed = fit_targets(scene.patch, Start(*(v[columns] for v in start)), LONG)
    straight = fit_targets(scene.patch, start, LONG)
    assert mixed.theta == pytest.approx(straight.theta[columns], rel=1e-9, abs=1e-9)
    free = columns[: len(straight.information)]
    assert mixed.information == pytest.approx(straight.information[np.ix_(free, free)], rel=1e-8, abs=1e-6)


def test_pixels_that_do_not_count_do_not_matter() -> None:
    scene = make_scene(2)
    start = make_start(scene, sd={0: 0.3})
    valid = np.random.default_rng(0).random((N, N)) > 0.2
    first, second = (
        fit_targets(scene.patch._replace(image=np.where(valid, scene.patch.image, other), valid=valid), start, LONG)
        for other in (0.0, 1e4)
    )
    assert first.counted == second.counted == valid.sum()
    assert np.array_equal(first.theta, second.theta)
    assert first.misfit == second.misfit


@pytest.mark.parametrize("share", [0.96, 1.04])
def test_sigma_as_a_parameter_finds_optics_that_are_off_by_four_percent(share: float) -> None:
    for count in (1, 2, 3, 4, 5):
        scene = make_scene(count, seed=8, noise=0.1, sigma=0.5 * share)
        free = fit_targets(scene.patch, make_start(scene, sigma_sd=0.1), LONG)
        held = fit_targets(scene.patch, make_start(scene), LONG)
        assert free.theta[-1] == pytest.approx(0.5 * share, abs=2e-3)
        assert held.theta[-1] == 0.5
        assert (free.theta - scene.theta)[: 2 * count] == pytest.approx(np.zeros(2 * count), abs=0.01)
        assert free.misfit < 0.5 * held.misfit


@pytest.mark.parametrize("parameter", ["x", "y", "radiance"])
def test_a_prior_pulls_one_bright_target_by_the_analytic_amount(parameter: str) -> None:
    """theta = truth + (F + P)^-1 P (mean - truth) where the model is linear over the pull: F from scipy's Jacobian.

    P of a position is weaker the farther its mean is from theta: the fixed point of both.
    """
    scene = make_scene(1, noise=0.2)
    at = {"x": 0, "y": 1, "radiance": 2}[parameter]
    patch = scene.patch._replace(image=model(scene.theta, N))
    truth = scene.theta
    _, covariance = reference(patch, Start(truth, truth, np.append(np.zeros(6), np.inf)))
    fisher, every = np.linalg.inv(covariance), np.sqrt(np.diag(covariance))
    sd = every[at]
    for strength, distance in ((1.0, 2.0), (0.25, 1.0), (4.0, -1.5)):
        prior, weight = np.zeros_like(fisher), 1.0
        for _ in range(200):
            prior[at, at] = weight * strength / sd**2
            pull = np.linalg.solve(fisher + prior, prior[:, at] * distance * sd)
            if parameter != "radiance":
                weight = 1 / (1 + strength * (distance - pull[at] / sd) ** 2 / 2)
        mean, information = truth.copy(), np.append(np.zeros(6), np.inf)
        mean[at], information[at] = truth[at] + distance * sd, strength / sd**2
        fit = to_the_end(patch, Start(truth.copy(), mean, information))
        assert (fit.theta - truth)[:-1] / every == pytest.approx(pull / every, abs=5e-3)
        spread = np.sqrt(np.linalg.inv(fit.information)[at, at])
        assert spread == pytest.approx(sd / np.sqrt(1 + weight * strength), rel=1e-2)


def test_a_position_that_the_network_is_wrong_about_is_not_bound_to_it() -> None:
    """Twenty stated deviations off on a bright target: the data win, and the network's word is hardly counted."""
    scene = make_scene(1, noise=0.3)
    start = make_start(scene, sd={0: 0.01, 1: 0.01})
    start.mean[:2] = scene.theta[:2] + 0.2
    fit, free = (to_the_end(scene.patch, s) for s in (start, make_start(scene)))
    assert fit.theta[:2] == pytest.approx(free.theta[:2], abs=2e-3)
    assert fit.information[0, 0] < 1.05 * free.information[0, 0]


@pytest.mark.parametrize("n", [5, 7, 9, 15])
def test_patches_of_other_sizes_are_fitted(n: int) -> None:
    for seed in range(3):
        scene = make_scene(1, seed=seed, n=n, noise=0.3)
        fit = fit_targets(scene.patch, make_start(scene), LONG)
        assert fit.theta[:2] == pytest.approx(scene.theta[:2], abs=0.01)
        assert fit.converged


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_fit_that_starts_at_its_end_has_converged_there(count: int) -> None:
    scene = make_scene(count, seed=9)
    start = make_start(scene)
    first = to_the_end(scene.patch, start)
    again = fit_targets(scene.patch, Start(first.theta, start.mean, start.information), 1)
    assert again.converged
    assert again.theta == pytest.approx(first.theta, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_more_iterations_never_cost_more(count: int) -> None:
    scene = make_scene(count, seed=10, full_scale=0.5)
    start = make_start(scene, sd={0: 0.2})
    fits = [fit_targets(scene.patch, start, k) for k in range(1, 12)]
    assert not fits[0].converged
    assert (np.diff([cost(fit) for fit in fits]) <= 0).all()
    assert cost(fits[0]) > cost(fits[-1])


def test_a_fit_leaves_its_start_as_it_was_and_comes_out_the_same_again() -> None:
    scene = make_scene(4, seed=11)
    start = make_start(scene, sd={0: 0.2}, sigma_sd=0.02)
    before = [v.copy() for v in start]
    first, second = (fit_targets(scene.patch, start, LONG) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(before, start))
    for name in Fit._fields[1:]:
        assert np.array_equal(getattr(first, name), getattr(second, name)), name


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("beyond", "border"), [(-1.3, -0.5), (11.3, 10.5)])
def test_positions_stay_on_the_patch(axis: int, beyond: float, border: float) -> None:
    scene = make_scene(1, noise=1.0)
    truth = np.array([5.0, 5.0, 3000.0, 0, 0, 0, 0.5])
    truth[axis] = beyond
    theta = truth.copy()
    theta[axis] = np.clip(beyond, 0.2, 9.8)
    start = Start(theta, theta, np.array([0, 0, 0, 1.0, 100, 100, np.inf]))
    fit = fit_targets(scene.patch._replace(image=model(truth, N)), start, LONG)
    assert fit.theta[axis] == border
    assert fit.theta[1 - axis] == pytest.approx(5, abs=0.01)


def test_radiances_stay_positive_where_the_fit_would_like_them_dark() -> None:
    scene = make_scene(2, noise=1.0)
    fit = fit_targets(scene.patch._replace(image=-scene.patch.image), make_start(scene), LONG)
    assert np.isfinite(fit.theta).all()
    assert ((fit.theta[:4] >= -0.5) & (fit.theta[:4] <= 10.5)).all()
    assert (fit.theta[4:6] > 0).all()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_step_is_never_far(axis: int, sign: int) -> None:
    """Two thirds of a pixel off, a free step would go all the way at least: the model is only locally linear."""
    truth = np.array([5.2, 4.9, 300.0, 0, 0, 0, 0.5])
    theta = truth.copy()
    theta[axis] -= 0.66 * sign
    patch = make_scene(1).patch._replace(image=model(truth, N))
    start = Start(theta, theta, np.array([0, 0, 1e4, 1e4, 1e4, 1e4, np.inf]))
    moved = fit_targets(patch, start, 1).theta - theta
    assert moved[axis] == pytest.approx(0.3 * sign, abs=1e-12)
    assert fit_targets(patch, start, LONG).theta == pytest.approx(truth, abs=1e-3)


@pytest.mark.parametrize(("sigma", "share"), [(1.0, 1.25), (0.3, 0.8)])
def test_a_step_changes_sigma_by_a_share_of_it_at_most(sigma: float, share: float) -> None:
    truth = np.array([5.2, 4.9, 300.0, 0, 0, 0, sigma])
    theta = np.append(truth[:-1], 0.5)
    patch = make_scene(1).patch._replace(image=model(truth, N))
    start = Start(theta, theta, np.array([1e6, 1e6, 1e4, 1e4, 1e4, 1e4, 0]))
    assert fit_targets(patch, start, 1).theta[-1] == pytest.approx(share * 0.5)


def test_a_pixel_that_is_no_number_ends_nowhere() -> None:
    scene = make_scene(1)
    scene.patch.image[4, 5] = np.nan
    start = make_start(scene)
    fit = fit_targets(scene.patch, start, LONG)
    assert not fit.converged
    assert np.array_equal(fit.theta, start.theta)


def test_targets_in_one_place_move_as_one() -> None:
    """Equal columns of the Jacobian: the matrix is singular, and what the data do not tell does not move."""
    scene = make_scene(1, noise=0.5)
    x, y, s, *plane = scene.theta
    theta = np.array([x + 0.1, x + 0.1, y - 0.1, y - 0.1, 0.5 * s, 0.5 * s, *plane])
    fit = fit_targets(scene.patch, Start(theta, theta, np.append(np.zeros(9), np.inf)), LONG)
    alone = make_start(scene)
    alone.theta[:] = [x + 0.1, y - 0.1, s, *plane]
    single = fit_targets(scene.patch, alone, LONG)
    assert fit.converged
    assert fit.theta == pytest.approx([*np.repeat(single.theta[:2], 2), *[single.theta[2] / 2] * 2, *single.theta[3:]])
    assert fit.misfit == pytest.approx(single.misfit)
