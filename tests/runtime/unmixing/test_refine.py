"""The refinement by itself: no network, rendered by the normal distribution function, candidates made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from refined_scenes import CLUSTERS, PSF, SCENES, SHAPE, Make, Render, has, in_order, perturbed, table
from scipy.optimize import least_squares

from glint.optics import Psf
from glint.runtime.unmixing.refine import RefineConfig, refine
from glint.simulation.patches import CONDITIONS, simulate_patches
from glint.types import TargetFlag, Targets


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_without_noise_the_truth_is_recovered(render: Render, make_candidates: Make, number: int, seed: int) -> None:
    truth = SCENES[number]
    found = refine(render(truth, SHAPE)[None], make_candidates(perturbed(truth, seed)), PSF, noise=np.array([0.3]))
    assert len(found) == number
    got, expected = table(found), in_order(truth)
    assert np.abs(got[:, :2] - expected[:, :2]).max() < 1e-3
    assert got[:, 2] == pytest.approx(expected[:, 2], rel=1e-3)
    assert not found.flags.any()


@pytest.mark.parametrize("sigma", [0.4, 0.7, 1.0])
def test_the_truth_is_recovered_for_other_optics_and_patch_sizes(
    render: Render, make_candidates: Make, sigma: float
) -> None:
    truth = [(4.3, 8.6, 300.0), (9.1, 5.2, 200.0)]
    found = refine(render(truth, (14, 14), sigma)[None], make_candidates(perturbed(truth)), Psf(sigma))
    assert table(found) == pytest.approx(in_order(truth), rel=1e-3)


def test_many_patches_of_different_counts_come_back_in_order_with_their_numbers(
    render: Render, make_candidates: Make
) -> None:
    counts = [3, 1, 4, 1, 2]
    patches = np.stack([render(SCENES[k], SHAPE) for k in counts])
    rows = [row for i, k in enumerate(counts) for row in perturbed(SCENES[k], i, patch=i)]
    found = refine(patches, make_candidates(rows[::-1]), PSF)
    assert found.blob.tolist() == sorted(found.blob.tolist())
    for i, k in enumerate(counts):
        assert table(found.select(found.blob == i)) == pytest.approx(in_order(SCENES[k]), rel=1e-3)


def test_patches_do_not_influence_each_other(render: Render, make_candidates: Make) -> None:
    rng = np.random.default_rng(0)
    patches = np.stack([render(SCENES[k], SHAPE) + rng.normal(0, s, SHAPE) for k, s in ((1, 1), (2, 4), (1, 2))])
    rows = [row for i, k in enumerate((1, 2, 1)) for row in perturbed(SCENES[k], i, patch=i)]
    noise = np.array([1.0, 4.0, 2.0])
    together = refine(patches, make_candidates(rows), PSF, noise=noise)
    for i in range(3):
        start = make_candidates([(0, *row[1:]) for row in rows if row[0] == i])
        alone = refine(patches[i : i + 1], start, PSF, noise=noise[i : i + 1])
        assert table(alone) == pytest.approx(table(together.select(together.blob == i)), rel=1e-6)


def scipy_fit(
    image: np.ndarray, render: Render, truth: tuple[float, float, float], noise: float, sigma: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The documented objective for one target, by scipy: solution (x, y, radiance) and the data's standard deviations.

    The plane's prior comes from the pixels that the target does not light, and from a share of the peak; the
    target's from the network's prediction ``sigma`` about ``truth``: Student's with two degrees of freedom for
    the position, a Gaussian for the radiance. The deviations are those without it.
    """
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] - 5.0
    planes = np.stack([np.ones(SHAPE), x, y], axis=-1)
    dark = np.hypot(x + 5 - truth[0], y + 5 - truth[1]) >= 5 * 0.5
    rest = image - planes @ np.linalg.lstsq(planes[dark], image[dark], rcond=None)[0]
    kept = dark & (np.abs(rest) < 3 * rest[dark].std(ddof=3))
    plane = np.linalg.lstsq(planes[kept], image[kept], rcond=None)[0]
    measured = noise * np.sqrt(np.diag(np.linalg.inv(planes[kept].T @ planes[kept])))
    plane_sd = np.hypot(0.01 * image.max() * np.array([1, 0.2, 0.2]), measured)
    left, top = (int(np.clip(round(v - 3), 0, 4)) for v in truth[:2])
    window = np.s_[top : top + 7, left : left + 7]

    # The prior is one of the plane about the middle of the window.
    middle = np.array([[1, left - 2, top - 2], [0, 1, 0], [0, 0, 1]])

    def residual(theta: np.ndarray) -> np.ndarray:
        model = render([theta[:3]], SHAPE) + planes @ theta[3:]
        parts = [(image - model)[window].ravel() / noise, middle @ (theta[3:] - plane) / plane_sd]
        if sigma is None:
            return np.concatenate(parts)
        off = (theta[:3] - truth) / sigma
        heavy = np.sign(off[:2]) * np.sqrt(2 * np.log1p(off[:2] ** 2 / 2))
        return np.concatenate([*parts, heavy, off[2:]])

    found = least_squares(residual, [*truth, *plane], xtol=1e-13, ftol=1e-13, x_scale="jac")
    data = found.jac[: 49 + 3]
    return found.x[:3], np.sqrt(np.diag(np.linalg.inv(data.T @ data)))[:3]


@pytest.mark.parametrize("trust", [np.inf, 1.5, 0.7])
@pytest.mark.parametrize(("x", "y", "seed"), [(5.3, 4.6, 5), (5.3, 4.6, 6), (7.6, 3.1, 7), (2.85, 7.4, 8)])
def test_a_noisy_target_is_fitted_as_scipy_fits_it(
    render: Render, make_candidates: Make, x: float, y: float, seed: int, trust: float
) -> None:
    noise, guess, spread = 3.0, (x - 0.1, y + 0.2, 170.0), (0.04, 0.05, 9.0)
    background = 2.0 + 0.8 * np.arange(11) - 1.1 * np.arange(11)[:, None]
    image = render([(x, y, 150.0)], SHAPE) + background + np.random.default_rng(seed).normal(0, noise, SHAPE)
    expected, deviation = scipy_fit(image, render, guess, noise, None if np.isinf(trust) else trust * np.array(spread))
    candidates = make_candidates([(0, *guess)], presence=0.999, spread=spread)
    config = RefineConfig(trust=trust, rounds=0, restarts=0)
    found = refine(image[None], candidates, PSF, noise=np.array([noise]), config=config)
    assert len(found) == 1
    assert [found.x[0], found.y[0]] == pytest.approx(expected[:2], abs=1e-3)
    assert found.radiance[0] == pytest.approx(expected[2], rel=1e-3)
    sigmas = [found.sigma_x[0], found.sigma_y[0], found.sigma_radiance[0]]
    # The network has seen the same data: its word replaces what they say only where it is much sharper.
    if np.isfinite(trust):
        deviation = np.where(np.array(spread) ** 2 < 0.5 * deviation**2, spread, deviation)
    assert sigmas == pytest.approx(deviation, rel=0.01)
    # The data's is the Fisher information of the optical model.
    if np.isinf(trust):
        fisher = PSF.fisher([found.x[0]], [found.y[0]], [found.radiance[0]], SHAPE, noise)
        assert sigmas[:2] == pytest.approx(1 / np.sqrt(np.diag(fisher))[:2], rel=0.02)


def test_stated_sigmas_are_the_scatter_of_many_noisy_fits(render: Render, make_candidates: Make) -> None:
    number, noise = 300, 2.0
    rng = np.random.default_rng(11)
    truth = np.column_stack([rng.uniform(4, 6, (number, 2)), rng.uniform(100, 200, number)])
    patches = np.stack([render([row], SHAPE) for row in truth]) + rng.normal(0, noise, (number, *SHAPE))
    start = make_candidates(np.column_stack([np.arange(number), truth + np.array([0.1, -0.1, 10.0])]))
    found = refine(patches, start, PSF, noise=np.full(number, noise))
    single = np.bincount(found.blob, minlength=number)[found.blob] == 1
    assert single.sum() > 0.9 * number
    found, expected = found.select(single), truth[found.blob[single]]
    for i, name in enumerate(("x", "y", "radiance")):
        error = (getattr(found, name) - expected[:, i]) / getattr(found, f"sigma_{name}")
        assert error.std() == pytest.approx(1, abs=0.25), name
        assert abs(error.mean()) < 4 / np.sqrt(number), name


def test_uncertainty_grows_with_the_noise_and_the_score_falls(render: Render, make_candidates: Make) -> None:
    patch = render(SCENES[1], SHAPE)[None]
    quiet, loud = (refine(patch, make_candidates(perturbed(SCENES[1])), PSF, noise=np.array([s])) for s in (1.0, 4.0))
    for name in ("sigma_x", "sigma_y", "sigma_radiance"):
        assert getattr(loud, name)[0] == pytest.approx(4 * getattr(quiet, name)[0], rel=0.05)
    assert 0 < loud.score[0] < quiet.score[0] <= 1


@pytest.mark.parametrize("noise", [0.5, 3.0])
def test_noise_that_is_not_given_is_taken_from_the_surroundings(
    render: Render, make_candidates: Make, noise: float
) -> None:
    number = 40
    patches = render(CLUSTERS[2], SHAPE) + 5 + np.random.default_rng(2).normal(0, noise, (number, *SHAPE))
    start = make_candidates([row for i in range(number) for row in perturbed(CLUSTERS[2], patch=i)])
    implicit, explicit = refine(patches, start, PSF), refine(patches, start, PSF, noise=np.full(number, noise))
    assert np.median(implicit.sigma_x) == pytest.approx(np.median(explicit.sigma_x), rel=0.1)
    hot = patches.copy()
    hot[:, 0, 3] = 1e3  # one pixel is broken
    assert np.median(refine(hot, start, PSF).sigma_x) == pytest.approx(np.median(implicit.sigma_x), rel=0.1)


def test_there_is_always_the_noise_of_rounding(render: Render, make_candidates: Make) -> None:
    patch, start = render(CLUSTERS[1], SHAPE)[None], make_candidates(perturbed(CLUSTERS[1]))
    rounded = refine(np.round(patch), start, PSF)
    given = refine(patch, start, PSF, noise=np.array([1e-6]))
    floor = refine(patch, start, PSF, noise=np.array([0.3]))
    fine = refine(patch, start, PSF)  # no whole numbers: a finer converter
    assert given.sigma_x[0] == pytest.approx(floor.sigma_x[0], rel=1e-3)
    assert rounded.sigma_x[0] == pytest.approx(floor.sigma_x[0], rel=0.1)
    assert fine.sigma_x[0] == pytest.approx(0.1 * floor.sigma_x[0], rel=0.1)


@pytest.mark.parametrize("trust", [1.2, np.inf])
@pytest.mark.parametrize("number", [2, 4, 5])
def test_targets_in_one_place_that_may_not_merge_are_not_known_apart(
    render: Render, make_candidates: Make, number: int, trust: float
) -> None:
    """Their columns of the Jacobian are the same: the data say nothing of each, and the matrix is singular."""
    start = make_candidates([(0, 5.1, 5.1, 200.0 / number)] * number, presence=0.999)
    config = RefineConfig(trust=trust, rounds=0)
    found = refine(render([(5, 5, 200.0)], SHAPE)[None], start, PSF, noise=np.ones(1), config=config)
    assert len(found) == number
    if np.isfinite(trust):  # what the network says is all there is
        assert found.sigma_x == pytest.approx(0.3, rel=1e-3)
    else:
        assert np.all((found.sigma_x > 3) | np.isnan(found.sigma_x))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_target_too_many_in_the_start_is_taken_out(render: Render, make_candidates: Make, number: int) -> None:
    truth = SCENES[number]
    x, y, s = truth[0]
    ghost = [(0, x + 0.6, y + 0.3, 0.3 * s, 0.6)]
    found = refine(render(truth, SHAPE)[None], make_candidates(perturbed(truth) + ghost), PSF)
    assert len(found) == number
    assert table(found) == pytest.approx(in_order(truth), rel=5e-3)


def test_a_target_too_many_that_the_network_is_sure_of_is_taken_out(render: Render, make_candidates: Make) -> None:
    """The light contradicts it: the fit is poor, so the count is looked at again, and one of two would be dark."""
    start = make_candidates([(0, 5.2, 4.7, 110.0), (0, 5.9, 5.9, 90.0)], presence=0.99, spread=(0.05, 0.05, 10))
    found = refine(render(CLUSTERS[1], SHAPE)[None], start, PSF, noise=np.array([0.5]))
    assert table(found) == pytest.approx(np.array(CLUSTERS[1]), rel=2e-3)


@pytest.mark.parametrize("seen", [0.0, 0.3], ids=["unseen", "doubted"])
@pytest.mark.parametrize("number", [2, 3, 4])
def test_a_target_missing_in_the_start_is_put_in(
    render: Render, make_candidates: Make, number: int, seen: float
) -> None:
    truth = CLUSTERS[number]
    *sure, last = perturbed(truth)
    start = make_candidates([*sure, (*last, seen)])
    assert start.count().tolist() == [number - 1]
    found = refine(render(truth, SHAPE)[None], start, PSF, noise=np.array([0.3]))
    assert len(found) == number
    # The network's word is up to 30 % wrong on radiances that the data of a close cluster tell to some 10 %.
    got, expected = table(found), in_order(truth)
    assert got[:, :2] == pytest.approx(expected[:, :2], abs=0.01)
    assert got[:, 2] == pytest.approx(expected[:, 2], rel=0.03)
    assert np.abs(np.sort(found.radiance) - np.sort(expected[:, 2])).max() < found.sigma_radiance.max()


def test_one_start_between_two_close_targets_is_split(render: Render, make_candidates: Make) -> None:
    truth = [(4.7, 5.1, 200.0), (5.6, 5.3, 200.0)]
    patch = render(truth, SHAPE)[None]
    found = refine(patch, make_candidates([(0, 5.15, 5.2, 380.0)]), PSF)
    assert len(found) == 2
    assert np.sort(found.x) == pytest.approx([4.7, 5.6], abs=0.02)


def test_two_starts_on_one_target_become_one(render: Render, make_candidates: Make) -> None:
    start = make_candidates([(0, 5.15, 4.7, 110.0), (0, 5.25, 4.75, 90.0)])
    assert len(refine(render(SCENES[1], SHAPE)[None], start, PSF)) == 1


def test_a_crowd_of_starts_on_one_target_thins_out(render: Render, make_candidates: Make) -> None:
    start = make_candidates([(0, 5.15, 4.7, 70.0), (0, 5.25, 4.8, 80.0), (0, 5.2, 4.6, 60.0)])
    found = refine(render(CLUSTERS[1], SHAPE)[None], start, PSF)
    assert table(found) == pytest.approx(np.array(CLUSTERS[1]), rel=2e-3)


def test_noise_alone_seldom_adds_a_target(render: Render, make_candidates: Make) -> None:
    number = 100
    patches = render(SCENES[1], SHAPE) + np.random.default_rng(1).normal(0, 2, (number, *SHAPE))
    start = make_candidates([(i, 5.0, 5.0, 180.0) for i in range(number)])
    found = refine(patches, start, PSF, noise=np.full(number, 2.0))
    assert (np.bincount(found.blob, minlength=number) == 1).mean() > 0.9


def test_never_more_targets_than_allowed(render: Render, make_candidates: Make) -> None:
    rng = np.random.default_rng(0)
    rows = [(0, x, y, 100) for x in (2, 5, 8) for y in (3, 7)]
    patch = render([r[1:] for r in rows], SHAPE)[None] + rng.normal(0, 1, SHAPE)
    assert len(refine(patch, make_candidates(rows), PSF)) == 5
    assert len(refine(patch, make_candidates(rows), PSF, config=RefineConfig(max_targets=2))) == 2


def test_no_rounds_leave_the_number_of_targets_as_it_was(render: Render, make_candidates: Make) -> None:
    found = refine(
        render(SCENES[2], SHAPE)[None], make_candidates(perturbed(SCENES[2])), PSF, config=RefineConfig(rounds=0)
    )
    assert table(found) == pytest.approx(in_order(SCENES[2]), rel=1e-3)


def test_faint_close_pairs_are_called_ambiguous_more_often_than_bright_far_ones(
    render: Render, make_candidates: Make
) -> None:
    number, rng = 120, np.random.default_rng(0)

    def share(truth: list[tuple[float, float, float]], noise: float) -> float:
        patches = render(truth, SHAPE) + rng.normal(0, noise, (number, *SHAPE))
        rows = [row for i in range(number) for row in perturbed(truth, i, patch=i)]
        found = refine(patches, make_candidates(rows), PSF, noise=np.full(number, noise))
        return float(has(found, TargetFlag.COUNT_AMBIGUOUS).mean())

    assert share([(4.7, 5.0, 40), (5.3, 5.0, 40)], 3.0) > 2 * share(SCENES[2], 1.0)


def test_a_fit_that_was_given_no_time_is_flagged(render: Render, make_candidates: Make) -> None:
    patch, start = render(SCENES[1], SHAPE)[None], make_candidates([(0, 5.6, 4.2, 100.0)])
    hurried = refine(patch, start, PSF, config=RefineConfig(iterations=1))
    assert has(hurried, TargetFlag.NOT_CONVERGED).all()
    assert not has(refine(patch, start, PSF), TargetFlag.NOT_CONVERGED).any()


@pytest.mark.parametrize("number", [0, 3])
def test_no_starts_give_no_targets(make_candidates: Make, number: int) -> None:
    found = refine(np.zeros((number, *SHAPE)), make_candidates([], number), PSF)
    assert len(found) == 0
    assert found.blob.dtype == np.int64


def test_an_offset_of_the_background_is_fitted_away(render: Render, make_candidates: Make) -> None:
    found = refine((render(SCENES[2], SHAPE) + 4.0)[None], make_candidates(perturbed(SCENES[2])), PSF)
    assert table(found) == pytest.approx(in_order(SCENES[2]), rel=0.01)


def pairs(render: Render, make_candidates: Make, config: RefineConfig | None) -> tuple[Targets, np.ndarray]:
    """Sixty noisy pairs half a pixel apart, all of radiance 230, and the errors of their radiances."""
    number, noise = 60, 3.0
    rng = np.random.default_rng(8)
    truth = [(4.8, 5.1, 230.0), (5.4, 5.1, 230.0)]
    patches = render(truth, SHAPE) + rng.normal(0, noise, (number, *SHAPE))
    rows: list[Any] = [row for i in range(number) for row in perturbed(truth, i, patch=i)]
    found = refine(patches, make_candidates(rows), PSF, noise=np.full(number, noise), config=config)
    return found, found.radiance - 230


def test_a_known_radiance_narrows_what_is_found(render: Render, make_candidates: Make) -> None:
    free, free_error = pairs(render, make_candidates, None)
    known, known_error = pairs(render, make_candidates, RefineConfig(radiance=(230.0, 10.0)))
    assert abs(len(known) - 120) <= abs(len(free) - 120)
    assert np.sqrt(np.mean(known_error**2)) < 0.5 * np.sqrt(np.mean(free_error**2))
    assert known.sigma_radiance.max() <= 10.0
    assert np.median(known.sigma_x) < np.median(free.sigma_x)


def test_a_wide_prior_changes_nothing(render: Render, make_candidates: Make) -> None:
    patch, start = render(SCENES[3], SHAPE)[None], make_candidates(perturbed(SCENES[3]))
    free = refine(patch, start, PSF)
    wide = refine(patch, start, PSF, config=RefineConfig(radiance=(200.0, 1e6)))
    assert table(wide) == pytest.approx(table(free), rel=1e-4)


@pytest.mark.parametrize("level", [0.0, 3.0])
def test_noise_alone_is_no_target(make_candidates: Make, level: float) -> None:
    noise = 2.0
    patches = level + np.random.default_rng(3).normal(0, noise, (200, *SHAPE))
    start = make_candidates([(i, 5.0, 5.0, 10.0) for i in range(200)])
    found = refine(patches, start, PSF, noise=np.full(200, noise))
    # The brightest of about 50 resolved places in a patch of noise passes the test now and then.
    assert len(np.unique(found.blob)) < 0.1 * 200
    assert len(refine(np.zeros((1, *SHAPE)), make_candidates([(0, 5.0, 5.0, 10.0)]), PSF)) == 0


def test_a_second_start_mends_what_a_bad_first_one_cannot(make_candidates: Make) -> None:
    """Five targets in one pixel, and starts in a row through their centre: from there the fit gets stuck."""
    number = 40
    patches = simulate_patches(replace(CONDITIONS["14bit"], targets=(5, 5)), number, np.random.default_rng(2))
    rows = [
        (i, x + d, y, 235.0) for i, (x, y) in enumerate(zip(patches.x.mean(1), patches.y.mean(1)))
        for d in (-0.6, -0.3, 0.0, 0.3, 0.6)
    ]  # fmt: skip
    share = {}
    for restarts in (0, 3):
        config = RefineConfig(restarts=restarts, radiance=(235.0, 8.66))
        found = refine(patches.image, make_candidates(rows), PSF, config=config)
        right = 0
        for i in range(number):
            mine = found.select(found.blob == i)
            gap = np.hypot(mine.x[:, None] - patches.x[i], mine.y[:, None] - patches.y[i])
            right += len(mine) == 5 and gap.min(axis=0).max() < 0.05
        share[restarts] = right / number
    assert share[0] < 0.7
    assert share[3] > share[0] + 0.2
