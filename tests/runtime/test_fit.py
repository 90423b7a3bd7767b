"""The batched fit against scipy's least squares on the same objective, rendered by the normal distribution function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.special import ndtr

from glint.runtime import fit as module
from glint.runtime.fit import (
    BACKGROUND,
    PARAMETERS,
    PLANE,
    RADIANCE,
    SIGMA,
    SLOTS,
    Fit,
    Problem,
    Start,
    X,
    Y,
    fit_plane,
    fit_targets,
    plane_basis,
    render,
)

LONG = 60  # iterations; none of these fits needs more


@pytest.fixture
def to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits go on until single precision ends them, not a short step."""
    monkeypatch.setattr(module, "_STILL", 0.0)


@dataclass(frozen=True)
class Scene:
    """Patches with their truth, as arrays: theta [M, PARAMETERS] in float64, used [M, SLOTS]."""

    theta: np.ndarray
    used: np.ndarray
    problem: Problem


def model(theta: np.ndarray, used: np.ndarray, n: int) -> np.ndarray:
    """The documented model of one row of parameters, in double precision: ``[n, n]``."""
    x, y, s = theta[:SLOTS], theta[SLOTS : 2 * SLOTS], theta[2 * SLOTS : 3 * SLOTS] * used
    level, slope_x, slope_y, sigma = theta[3 * SLOTS :]
    edges = np.arange(n + 1) - 0.5
    columns, rows = (np.diff(ndtr((edges - v[:, None]) / sigma), axis=1) for v in (x, y))
    ramp = np.arange(n) - (n - 1) / 2
    return np.einsum("k,kr,kc->rc", s, rows, columns) + level + slope_x * ramp + slope_y * ramp[:, None]


def make_scene(
    counts: list[int], *, seed: int = 0, n: int = 11, noise: float = 2.0, full_scale: float = np.inf, sigma: float = 0.5
) -> Scene:
    """Targets at least 1.2 px apart on a slope under noise, clipped."""
    rng = np.random.default_rng(seed)
    m = len(counts)
    used = np.arange(SLOTS) < np.array(counts)[:, None]
    theta = np.zeros((m, PARAMETERS))
    for i, k in enumerate(counts):
        points = rng.uniform(1.5, n - 2.5, (1, 2))
        while len(points) < k:
            new = rng.uniform(1.5, n - 2.5, 2)
            if np.hypot(*(points - new).T).min() > 1.2:
                points = np.vstack([points, new])
        theta[i, :k], theta[i, SLOTS : SLOTS + k] = points.T
        theta[i, 2 * SLOTS : 2 * SLOTS + k] = rng.uniform(100, 400, k)
    theta[BACKGROUND] = rng.normal(0, [3, 0.3, 0.3], (m, PLANE))
    theta[SIGMA] = sigma
    image = np.stack([model(t, u, n) for t, u in zip(theta, used)])
    image = np.minimum(image + noise * rng.standard_normal(image.shape), full_scale)
    shape = image.shape
    problem = Problem(
        image.astype(np.float32), np.full(m, noise, np.float32), np.full(shape, full_scale, np.float32),
        np.ones(shape, dtype=bool),
    )  # fmt: skip
    return Scene(theta, used, problem)


def make_start(scene: Scene, *, seed: int = 1, sd: dict[Any, Any] | None = None, sigma_sd: float = 0.0) -> Start:
    """A start off the truth by a fifth of a pixel and a fifth of the radiance, and priors about other values.

    ``sd`` has the standard deviation of the priors by group (0: x, 1: y, 2: radiance, 3: background).
    """
    rng = np.random.default_rng(seed)
    used = np.hstack([scene.used] * 3)
    theta = scene.theta.copy()
    theta[X] += rng.uniform(-0.2, 0.2, theta[X].shape)
    theta[Y] += rng.uniform(-0.2, 0.2, theta[Y].shape)
    theta[RADIANCE] *= rng.uniform(0.8, 1.2, theta[RADIANCE].shape)
    theta[BACKGROUND] = 0
    theta[:, : 3 * SLOTS] *= used
    mean, information = theta.copy(), np.zeros_like(theta)
    for group, value in (sd or {}).items():
        where = (X, Y, RADIANCE, BACKGROUND)[group]
        information[where] = np.broadcast_to(np.asarray(value, dtype=float) ** -2, information[where].shape)
    information[:, : 3 * SLOTS] *= used
    mean[SIGMA] = theta[SIGMA] = 0.5
    information[SIGMA] = sigma_sd**-2 if sigma_sd else np.inf
    return Start(theta.astype(np.float32), scene.used, mean.astype(np.float32), information.astype(np.float32))


def student(off: np.ndarray, information: np.ndarray) -> np.ndarray:
    """The strain of a position: quadratic as a Gaussian's near the mean, logarithmic far from it."""
    return 2 * np.log1p(information * off**2 / 2)


def reference(problem: Problem, start: Start, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Solution and covariance of one row by scipy: free parameters only, priors as residuals, pixels censored.

    The covariance counts the prior of a position with its pull over its distance: information / (1 + strain / 2).
    """
    image, noise = problem.image[row].astype(float), float(problem.noise[row])
    full_scale, valid = problem.full_scale[row].astype(float), problem.valid[row]
    used, mean = start.used[row], start.mean[row].astype(float)
    information = start.information[row].astype(float)
    free = np.concatenate([np.flatnonzero(np.tile(used, 3)), 3 * SLOTS + np.arange(PLANE)])
    if np.isfinite(information[-1]):
        free = np.append(free, PARAMETERS - 1)
    theta = start.theta[row].astype(float)
    positions = free < 2 * SLOTS

    def residual(values: np.ndarray) -> np.ndarray:
        theta[free] = values
        expected = model(theta, used, len(image))
        counts = valid & ~((image >= full_scale) & (expected >= full_scale))
        pixels = (counts * (image - expected) / noise).ravel()
        off = (theta - mean)[free]
        heavy = np.sign(off) * np.sqrt(student(off, information[free]))
        return np.append(pixels, np.where(positions, heavy, np.sqrt(information[free]) * off))

    options = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-12, "x_scale": "jac", "max_nfev": 400}
    found = least_squares(residual, theta[free].copy(), jac="3-point", **options)
    solution = start.theta[row].astype(float)
    solution[free] = found.x
    covariance = np.full((PARAMETERS, PARAMETERS), np.nan)
    pixels = found.jac[: image.size]
    far = np.where(positions, information[free] * (solution - mean)[free] ** 2, 0)
    covariance[np.ix_(free, free)] = np.linalg.inv(pixels.T @ pixels + np.diag(information[free] / (1 + far / 2)))
    return solution, covariance


COUNTS = [1, 2, 3, 4, 5, 2, 1, 3]
CASES = {
    "plain": {},
    "with priors": {"sd": {0: 0.05, 1: 0.08, 2: 30.0, 3: [2.0, 0.4, 0.4]}},
    "known radiance": {"sd": {2: 8.66, 3: [2.0, 0.4, 0.4]}},
    "sigma free": {"sd": {3: [2.0, 0.4, 0.4]}, "sigma_sd": 0.02},
    "sigma free, with priors": {"sd": {0: 0.05, 1: 0.08, 2: 30.0}, "sigma_sd": 0.02},
}


def compare(case: dict[str, Any], clipped: bool, pixels: float, share: float) -> Fit:
    """The fit, after it was compared with scipy's solution to a number of pixels and a share of the radiance."""
    scene = make_scene(COUNTS, seed=3, full_scale=70.0 if clipped else np.inf)
    assert (scene.problem.image >= scene.problem.full_scale).any() == clipped
    start = make_start(scene, **case)
    fit = fit_targets(scene.problem, start, LONG)
    covariance = np.linalg.inv(fit.information.astype(np.float64))
    for row, count in enumerate(COUNTS):
        expected, uncertainty = reference(scene.problem, start, row)
        on = np.arange(SLOTS) < count
        for where in (X, Y):
            assert fit.theta[where][row, on] == pytest.approx(expected[None][where][0, on], abs=pixels)
        assert fit.theta[RADIANCE][row, on] == pytest.approx(expected[None][RADIANCE][0, on], rel=share)
        assert fit.theta[BACKGROUND][row] == pytest.approx(expected[None][BACKGROUND][0], abs=1e-2)
        assert fit.theta[row, -1] == pytest.approx(expected[-1], abs=pixels)
        known = np.flatnonzero(np.isfinite(np.diag(uncertainty)))
        got = np.sqrt(np.diag(covariance[row]))[known]
        assert got == pytest.approx(np.sqrt(np.diag(uncertainty))[known], rel=5e-3)
    return fit


@pytest.mark.parametrize("clipped", [False, True], ids=["linear", "censored"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_fit_is_scipys_least_squares_of_the_same_objective(
    case: dict[str, Any], clipped: bool, to_the_end: None
) -> None:
    compare(case, clipped, pixels=1e-4, share=1e-4)


@pytest.mark.parametrize("clipped", [False, True], ids=["linear", "censored"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_short_step_ends_a_fit_close_to_its_end(case: dict[str, Any], clipped: bool) -> None:
    assert compare(case, clipped, pixels=4e-4 if clipped else 2e-4, share=1e-3).converged.all()


def test_misfit_strain_and_counted_are_what_they_say() -> None:
    scene = make_scene([2, 4], full_scale=100.0)
    scene.problem.valid[0, :, 0] = False
    start = make_start(scene, sd={0: 0.1, 2: 40.0}, sigma_sd=0.02)
    fit = fit_targets(scene.problem, start, LONG)
    for row in range(2):
        expected = model(fit.theta[row].astype(float), scene.used[row], 11)
        image = scene.problem.image[row]
        counts = scene.problem.valid[row] & ~((image >= 100) & (expected >= 100))
        assert fit.counted[row] == counts.sum() < 121
        assert fit.misfit[row] == pytest.approx((counts * (image - expected) ** 2).sum() / 4, rel=1e-4)
        off, information = fit.theta[row] - start.mean[row], start.information[row]
        heavy = student(off[: 2 * SLOTS], information[: 2 * SLOTS]).sum()
        strain = heavy + (information * off**2)[2 * SLOTS :].sum()
        assert 1 < heavy < strain
        assert fit.strain[row] == pytest.approx(strain, rel=1e-4)
    assert fit.cost == pytest.approx((fit.misfit + fit.strain) / 2)
    assert fit.number.tolist() == [2, 4]
    assert render(scene.problem, fit)[1] == pytest.approx(
        model(fit.theta[1].astype(float), scene.used[1], 11), abs=1e-3
    )


@pytest.mark.parametrize("iterations", [1, 3, 6, LONG])
def test_a_patch_is_fitted_alike_alone_and_in_a_batch(iterations: int) -> None:
    scene = make_scene(COUNTS, seed=5, full_scale=150.0)
    start = make_start(scene, sd={0: 0.3, 1: 0.3, 3: [2.0, 0.4, 0.4]})
    together = fit_targets(scene.problem, start, iterations)
    for row in range(len(COUNTS)):
        index = np.array([row])
        alone = fit_targets(scene.problem.rows(index), start.rows(index), iterations)
        assert alone.theta[0] == pytest.approx(together.theta[row], rel=1e-5, abs=1e-5)
        assert alone.converged[0] == together.converged[row]


@pytest.mark.parametrize("sigma_sd", [0.0, 0.02])
def test_a_batch_in_groups_of_equal_number_is_fitted_as_its_parts_are(sigma_sd: float) -> None:
    counts = [1, 2, 3, 4, 5] * 30 + [0] * 5 + [3] * 40  # enough of each number to be fitted apart
    scene = make_scene(counts, seed=15)
    start = make_start(scene, sigma_sd=sigma_sd)
    together = fit_targets(scene.problem, start, 6)
    for first in range(0, len(counts), 20):
        index = np.arange(first, min(first + 20, len(counts)))
        part = fit_targets(scene.problem.rows(index), start.rows(index), 6)
        assert part.theta == pytest.approx(together.theta[index], rel=1e-4, abs=1e-4)
        assert part.information == pytest.approx(together.information[index], rel=1e-3, abs=1e-3)
        assert part.misfit == pytest.approx(together.misfit[index], rel=1e-3)
        assert np.array_equal(part.counted, together.counted[index])


def test_the_order_of_the_patches_does_not_matter() -> None:
    scene = make_scene(COUNTS, seed=6)
    start = make_start(scene, sigma_sd=0.02)
    order = np.random.default_rng(0).permutation(len(COUNTS))
    straight = fit_targets(scene.problem, start, 6)
    mixed = fit_targets(scene.problem.rows(order), start.rows(order), 6)
    assert mixed.theta == pytest.approx(straight.theta[order], rel=1e-5, abs=1e-5)


def test_the_order_of_the_slots_does_not_matter() -> None:
    scene = make_scene([3, 3])
    start = make_start(scene, sd={0: 0.3, 1: 0.3, 2: 80.0})
    order = np.array([4, 1, 3, 0, 2])
    columns = np.concatenate([order, SLOTS + order, 2 * SLOTS + order, np.arange(3 * SLOTS, PARAMETERS)])
    mixed = Start(start.theta[:, columns], start.used[:, order], start.mean[:, columns], start.information[:, columns])
    assert mixed.used[0].tolist() == [False, True, False, True, True]
    straight = fit_targets(scene.problem, start, LONG)
    assert fit_targets(scene.problem, mixed, LONG).theta == pytest.approx(
        straight.theta[:, columns], abs=2e-4, rel=1e-5
    )


@pytest.mark.parametrize("sigma_sd", [0.0, 0.02])
def test_an_unused_slot_never_moves_and_never_matters(sigma_sd: float) -> None:
    scene = make_scene([1, 2, 4], seed=7)
    start = make_start(scene, sd={0: 0.3, 1: 0.3}, sigma_sd=sigma_sd)
    plain = fit_targets(scene.problem, start, LONG)
    unused = np.hstack([~scene.used] * 3 + [np.zeros((3, PLANE + 1), dtype=bool)])
    assert not plain.theta[unused].any()
    # The same with targets of 500 DN in the middle of the patch where none are used.
    filled = start.theta.copy()
    filled[X] = np.where(scene.used, filled[X], 5.2)
    filled[Y] = np.where(scene.used, filled[Y], 4.8)
    filled[RADIANCE] = np.where(scene.used, filled[RADIANCE], 500)
    other = fit_targets(scene.problem, Start(filled, start.used, start.mean, start.information), LONG)
    assert np.array_equal(other.theta[unused], filled[unused])
    assert other.theta[~unused] == pytest.approx(plain.theta[~unused], abs=1e-5, rel=1e-6)
    assert other.misfit == pytest.approx(plain.misfit, rel=1e-5)
    assert render(scene.problem, other) == pytest.approx(render(scene.problem, plain), abs=1e-3)
    # Its rows and columns of the normal matrix are those of the identity: no covariance with anything.
    free = PARAMETERS - (sigma_sd == 0)
    for row in range(3):
        off = np.flatnonzero(unused[row, :free])
        assert other.information[row][np.ix_(off, np.arange(free))] == pytest.approx(np.eye(free)[off])


@pytest.mark.parametrize("share", [0.96, 1.04])
def test_sigma_as_a_parameter_finds_optics_that_are_off_by_four_percent(share: float) -> None:
    scene = make_scene(COUNTS, seed=8, noise=0.1, sigma=0.5 * share)
    free = fit_targets(scene.problem, make_start(scene, sigma_sd=0.1), LONG)
    held = fit_targets(scene.problem, make_start(scene), LONG)
    assert free.theta[SIGMA] == pytest.approx(0.5 * share, abs=2e-3)
    assert (held.theta[SIGMA] == np.float32(0.5)).all()
    used = np.hstack([scene.used] * 2)
    error = (free.theta - scene.theta)[:, : 2 * SLOTS][used]
    assert np.abs(error).max() < 0.01
    assert free.misfit.sum() < 0.5 * held.misfit.sum()


@pytest.mark.parametrize("parameter", ["x", "y", "radiance"])
def test_a_prior_pulls_one_bright_target_by_the_analytic_amount(parameter: str, to_the_end: None) -> None:
    """theta = truth + (F + P)^-1 P (mean - truth) where the model is linear over the pull: F from scipy's Jacobian.

    P of a position is weaker the farther its mean is from theta: the fixed point of both.
    """
    scene = make_scene([1], noise=0.2)
    at = {"x": 0, "y": SLOTS, "radiance": 2 * SLOTS}[parameter]
    clean = model(scene.theta[0], scene.used[0], 11)[None]
    problem = Problem(clean.astype(np.float32), *(getattr(scene.problem, n) for n in ("noise", "full_scale", "valid")))
    base = make_start(scene)
    theta, mean, information = scene.theta.astype(np.float32), base.mean.copy(), base.information.copy()
    mean[0], information[0, :-1] = theta[0], 0.0
    free = np.array([0, SLOTS, 2 * SLOTS, *range(3 * SLOTS, 3 * SLOTS + PLANE)])
    truth = Start(theta, scene.used, mean, information)
    _, covariance = reference(problem, truth, 0)
    fisher = np.linalg.inv(covariance[np.ix_(free, free)])
    k = int(np.flatnonzero(free == at)[0])
    sd = np.sqrt(covariance[at, at])
    for strength, distance in ((1.0, 2.0), (0.25, 1.0), (4.0, -1.5)):
        prior, weight = np.zeros_like(fisher), 1.0
        for _ in range(200):
            prior[k, k] = weight * strength / sd**2
            pull = np.linalg.solve(fisher + prior, prior[:, k] * distance * sd)
            if parameter != "radiance":
                weight = 1 / (1 + strength * (distance - pull[k] / sd) ** 2 / 2)
        mean[0, at], information[0, at] = theta[0, at] + distance * sd, strength / sd**2
        fit = fit_targets(problem, Start(theta.copy(), scene.used, mean, information), LONG)
        got = (fit.theta[0].astype(float) - theta[0])[free]
        assert got[k] == pytest.approx(pull[k], rel=0.01)
        every = np.sqrt(np.diag(covariance)[free])
        assert got / every == pytest.approx(pull / every, abs=0.02)
        spread = np.sqrt(np.linalg.inv(fit.information[0].astype(float))[at, at])
        assert spread == pytest.approx(sd / np.sqrt(1 + weight * strength), rel=0.01)


def test_a_position_that_the_network_is_wrong_about_is_not_bound_to_it(to_the_end: None) -> None:
    """Twenty stated deviations off on a bright target: the data win, and the network's word is hardly counted."""
    scene = make_scene([1], noise=0.3)
    start = make_start(scene, sd={0: 0.01, 1: 0.01})
    start.mean[0, [0, SLOTS]] = scene.theta[0, [0, SLOTS]] + 0.2
    fit = fit_targets(scene.problem, start, LONG)
    free = fit_targets(scene.problem, make_start(scene), LONG)
    assert fit.theta[0, [0, SLOTS]] == pytest.approx(free.theta[0, [0, SLOTS]], abs=2e-3)
    assert fit.information[0, 0, 0] < 1.05 * free.information[0, 0, 0]


@pytest.mark.parametrize("n", [5, 7, 9, 15])
def test_patches_of_other_sizes_are_fitted(n: int) -> None:
    scene = make_scene([1, 1, 1], n=n, noise=0.3)
    fit = fit_targets(scene.problem, make_start(scene), LONG)
    assert fit.theta[:, 0] == pytest.approx(scene.theta[:, 0], abs=0.01)
    assert fit.theta[:, SLOTS] == pytest.approx(scene.theta[:, SLOTS], abs=0.01)
    assert fit.converged.all()


def test_a_fit_that_starts_at_its_end_has_converged_there() -> None:
    scene = make_scene(COUNTS, seed=9)
    start = make_start(scene)
    first = fit_targets(scene.problem, start, LONG)
    again = fit_targets(
        scene.problem, Start(first.theta, *(getattr(start, n) for n in ("used", "mean", "information"))), 6
    )
    assert again.converged.all()
    assert again.theta == pytest.approx(first.theta, rel=1e-4, abs=1e-4)


def test_more_iterations_never_cost_more() -> None:
    scene = make_scene(COUNTS, seed=10, full_scale=120.0)
    start = make_start(scene, sd={0: 0.2})
    costs = np.stack([fit_targets(scene.problem, start, k).cost for k in range(1, 12)])
    assert (np.diff(costs, axis=0) <= 0).all()


def test_positions_stay_on_the_patch_and_radiances_positive() -> None:
    """Light that does not fit the start: the fit would like to leave the patch, or to be dark."""
    scene = make_scene([2, 2], noise=1.0)
    dark = Problem(-scene.problem.image, *(getattr(scene.problem, n) for n in ("noise", "full_scale", "valid")))
    edge = scene.problem.image.copy()
    edge[:] = 0
    edge[:, 5, 10] = 300  # of a target beyond the right edge
    beyond = Problem(edge, *(getattr(scene.problem, n) for n in ("noise", "full_scale", "valid")))
    for problem in (dark, beyond):
        fit = fit_targets(problem, make_start(scene), LONG)
        assert np.isfinite(fit.theta).all()
        used = scene.used
        assert (fit.theta[RADIANCE][used] > 0).all()
        for where in (X, Y):
            assert ((fit.theta[where][used] >= -0.5) & (fit.theta[where][used] <= 10.5)).all()


def test_no_patches_are_no_error() -> None:
    scene = make_scene([1, 2])
    nothing = np.zeros(0, dtype=np.int64)
    fit = fit_targets(scene.problem.rows(nothing), make_start(scene).rows(nothing), 6)
    assert fit.theta.shape == (0, PARAMETERS)


def test_replaced_rows_come_from_the_other_fit() -> None:
    scene = make_scene([1, 2, 3])
    short, long = (fit_targets(scene.problem, make_start(scene, seed=s), i) for s, i in ((1, 1), (2, LONG)))
    mixed = short.replaced(np.array([1]), long.rows(np.array([1])))
    for name in ("theta", "misfit", "information", "converged"):
        value = getattr(mixed, name)
        assert np.array_equal(value[[0, 2]], getattr(short, name)[[0, 2]])
        assert np.array_equal(value[1], getattr(long, name)[1])
    assert np.array_equal(mixed.start.theta[1], long.start.theta[1])
    assert not np.array_equal(short.theta[1], mixed.theta[1])  # the fits it was made of are as they were


def test_a_plane_is_fitted_as_numpy_fits_it() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (4, 9, 9)) + 3 * np.arange(9)
    weight = rng.random((4, 9, 9)) * (rng.random((4, 9, 9)) > 0.4)
    coefficients, inverse = fit_plane(values, weight)
    basis = plane_basis(9).T.astype(float)
    assert np.linalg.norm(basis, axis=0) == pytest.approx([9, *2 * [np.sqrt(9 * 60)]])
    for i in range(4):
        root = np.sqrt(weight[i].ravel())
        expected = np.linalg.lstsq(basis * root[:, None], values[i].ravel() * root, rcond=None)[0]
        assert coefficients[i] == pytest.approx(expected, rel=1e-6)
        assert inverse[i] == pytest.approx(np.linalg.inv((basis.T * root**2) @ basis), rel=1e-6)


def test_a_plane_without_weights_is_zero() -> None:
    assert not fit_plane(np.ones((2, 7, 7)), np.zeros((2, 7, 7)))[0].any()
    assert fit_plane(np.ones((0, 7, 7)), np.ones((0, 7, 7)))[0].shape == (0, 3)
