"""The refinement by itself: no network, rendered by the normal distribution function, candidates made by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from glint.cards import UnmixerSpec
from glint.errors import InputError
from glint.optics import Psf
from glint.processing.candidates import Candidates
from glint.runtime.unmixing import refine as module
from glint.runtime.unmixing.refine import RefineConfig, refine, refine_config
from glint.simulation.patches import CONDITIONS, simulate_patches
from glint.types import TargetFlag, Targets

PSF = Psf(0.5)
SHAPE = (11, 11)
Render = Callable[..., np.ndarray]
Make = Callable[..., Candidates]

# Far apart: the fit needs the whole patch. CLUSTERS fit into a window of it.
SCENES = {
    1: [(5.2, 4.7, 200.0)],
    2: [(3.3, 5.1, 180.0), (7.2, 5.6, 90.0)],
    3: [(3.1, 3.4, 120.0), (7.6, 3.2, 200.0), (5.3, 7.7, 160.0)],
    4: [(2.7, 2.6, 100.0), (7.8, 3.1, 150.0), (3.2, 7.9, 200.0), (7.6, 7.4, 250.0)],
}

CLUSTERS = {
    1: [(5.2, 4.7, 200.0)],
    2: [(4.7, 5.1, 200.0), (5.6, 5.3, 160.0)],
    3: [(4.6, 4.5, 240.0), (5.5, 4.6, 180.0), (5.0, 5.4, 200.0)],
    4: [(4.5, 4.5, 240.0), (5.5, 4.6, 180.0), (4.6, 5.5, 200.0), (5.5, 5.5, 220.0)],
}


def table(targets: Targets) -> np.ndarray:
    """Rows (x, y, radiance) in order of y, then x, rounded enough to order them stably."""
    rows = np.column_stack([targets.x, targets.y, targets.radiance])
    return rows[np.lexsort((rows[:, 0].round(2), rows[:, 1].round(2)))]


def in_order(truth: list[tuple[float, float, float]]) -> np.ndarray:
    return np.array(sorted(truth, key=lambda t: (t[1], t[0])))


def perturbed(truth: list[tuple[float, float, float]], seed: int = 0, patch: int = 0) -> list[tuple[float, ...]]:
    """The truth, up to 0.2 px and 30 % wrong."""
    rng = np.random.default_rng(seed)
    return [
        (patch, x + rng.uniform(-0.2, 0.2), y + rng.uniform(-0.2, 0.2), s * rng.uniform(0.7, 1.3)) for x, y, s in truth
    ]


def has(targets: Targets, flag: TargetFlag) -> np.ndarray:
    return (targets.flags & flag) != 0


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


def test_censoring_recovers_the_radiance_of_a_clipped_target(render: Render, make_candidates: Make) -> None:
    truth = [(5.2, 4.9, 2000.0)]
    patch = np.minimum(render(truth, SHAPE), 255)[None]
    flux = patch.sum()
    assert flux < 0.7 * 2000  # the clipping is serious
    found = refine(patch, make_candidates([(0, 5.0, 5.0, flux)]), PSF, full_scale=255.0)
    assert len(found) == 1
    assert abs(found.radiance[0] - 2000) < 0.1 * (2000 - flux)
    assert np.hypot(found.x[0] - 5.2, found.y[0] - 4.9) < 0.02
    assert has(found, TargetFlag.SATURATED).all()


def test_full_scale_may_differ_from_pixel_to_pixel(render: Render, make_candidates: Make) -> None:
    """A patch above a sloping background clips at another level in each pixel."""
    limit = 255 - np.add.outer(6.0 * np.arange(11), 3.0 * np.arange(11))
    truth = [(5.2, 4.9, 1500.0)]
    patch = np.minimum(render(truth, SHAPE), limit)[None]
    found = refine(patch, make_candidates([(0, 5.0, 5.0, 800.0)]), PSF, full_scale=limit[None])
    assert found.radiance[0] == pytest.approx(1500, rel=0.05)


def test_a_target_below_full_scale_is_not_called_saturated(render: Render, make_candidates: Make) -> None:
    patch = render(SCENES[1], SHAPE)[None]
    assert not has(
        refine(patch, make_candidates(perturbed(SCENES[1])), PSF, full_scale=255.0), TargetFlag.SATURATED
    ).any()


def test_a_saturated_pixel_outside_the_valid_mask_saturates_nobody(render: Render, make_candidates: Make) -> None:
    patch = np.minimum(render([(3.0, 5.0, 200), (9.0, 5.0, 5000)], SHAPE), 255)[None]
    valid = np.ones((1, *SHAPE), dtype=bool)
    valid[..., 6:] = False
    found = refine(patch, make_candidates([(0, 3.1, 5.1, 180)]), PSF, full_scale=255.0, valid=valid)
    assert len(found) == 1
    assert not has(found, TargetFlag.SATURATED).any()


def test_where_every_pixel_is_censored_nothing_is_claimed_with_confidence(make_candidates: Make) -> None:
    # The sun fills the patch: all pixels are at full scale, which is at the background, 0 DN of the patch.
    found = refine(np.zeros((1, *SHAPE)), make_candidates([(0, 5, 5, 100), (0, 6.5, 5, 100)]), PSF, full_scale=0.0)
    assert len(found) > 0
    assert np.all(found.score < 0.5)
    assert np.all((found.sigma_x > 0.1) | np.isnan(found.sigma_x))


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


@pytest.mark.parametrize("sigma", [2.0, 2.5])
def test_an_extended_blob_is_flagged(render: Render, make_candidates: Make, sigma: float) -> None:
    patch = render([(5.0, 5.0, 4000)], SHAPE, sigma)[None]
    found = refine(patch, make_candidates([(0, 4.5, 5.0, 900), (0, 5.5, 5.3, 900)]), PSF, noise=np.array([1.0]))
    assert len(found) >= 1
    assert has(found, TargetFlag.EXTENDED).all()


def test_a_fit_that_was_given_no_time_is_flagged(render: Render, make_candidates: Make) -> None:
    patch, start = render(SCENES[1], SHAPE)[None], make_candidates([(0, 5.6, 4.2, 100.0)])
    hurried = refine(patch, start, PSF, config=RefineConfig(iterations=1))
    assert has(hurried, TargetFlag.NOT_CONVERGED).all()
    assert not has(refine(patch, start, PSF), TargetFlag.NOT_CONVERGED).any()


def test_the_valid_mask_keeps_targets_and_light_of_others_out(render: Render, make_candidates: Make) -> None:
    own, other = (3.2, 5.1, 150.0), (8.4, 5.0, 400.0)
    valid = np.ones((1, *SHAPE), dtype=bool)
    valid[..., 6:] = False
    start = make_candidates(perturbed([own, other]))
    found = refine(render([own, other], SHAPE)[None], start, PSF, valid=valid)
    assert table(found) == pytest.approx(np.array([own]), rel=2e-3)


def test_a_patch_whose_starts_all_lie_outside_the_mask_has_no_targets(render: Render, make_candidates: Make) -> None:
    valid = np.zeros((1, *SHAPE), dtype=bool)
    assert len(refine(render(SCENES[1], SHAPE)[None], make_candidates(perturbed(SCENES[1])), PSF, valid=valid)) == 0


@pytest.mark.parametrize("number", [0, 3])
def test_no_starts_give_no_targets(make_candidates: Make, number: int) -> None:
    found = refine(np.zeros((number, *SHAPE)), make_candidates([], number), PSF)
    assert len(found) == 0
    assert found.blob.dtype == np.int64


def test_the_inputs_are_left_as_they_were(render: Render, make_candidates: Make) -> None:
    patch, start = render(SCENES[2], SHAPE)[None], make_candidates(perturbed(SCENES[2]))
    before = patch.copy(), start.x.copy(), start.radiance.copy()
    refine(patch, start, PSF)
    assert all(np.array_equal(a, b) for a, b in zip(before, (patch, start.x, start.radiance)))


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


def some(number: int, condition: str = "n2", seed: int = 0, spread: float = 0.08) -> tuple[Any, Candidates]:
    """Patches with 1 to 5 targets, and what a calibrated network that errs by ``spread`` pixels would say of them."""
    patches = simulate_patches(CONDITIONS[condition], number, np.random.default_rng(seed))
    rng = np.random.default_rng(seed + 1)
    k = patches.x.shape[1]
    columns = np.zeros((7, number, 6), dtype=np.float32)
    for i, (truth, sd) in enumerate(((patches.x, spread), (patches.y, spread), (patches.radiance, 9.0))):
        columns[1 + i, :, :k] = truth + rng.normal(0, sd, truth.shape)
        columns[4 + i, :, :k] = sd
    columns[:, :, :k] *= patches.radiance > 0
    columns[0, :, :k] = np.where(patches.radiance > 0, 0.995, 0)
    return patches, Candidates(*columns)


def same(got: Targets, expected: Targets) -> None:
    """Equal up to rounding, unknown uncertainties included."""
    assert got.blob.tolist() == expected.blob.tolist()
    assert got.flags.tolist() == expected.flags.tolist()
    for name in ("x", "y", "radiance", "sigma_x", "sigma_y", "sigma_radiance", "score"):
        assert getattr(got, name) == pytest.approx(getattr(expected, name), rel=1e-9, abs=1e-9, nan_ok=True), name


def numbered(targets: Targets, patch: int) -> Targets:
    return Targets(**{**vars(targets), "blob": np.full(len(targets), patch)})


def test_a_patch_is_refined_alike_alone_and_in_a_batch() -> None:
    patches, candidates = some(40)
    together = refine(patches.image, candidates, PSF)
    for i in range(0, 40, 3):
        alone = refine(patches.image[i : i + 1], candidates.rows(np.array([i])), PSF)
        same(numbered(alone, i), together.select(together.blob == i))


def test_the_order_of_the_patches_does_not_matter() -> None:
    patches, candidates = some(40, seed=4)
    order = np.random.default_rng(1).permutation(40)
    straight = refine(patches.image, candidates, PSF)
    mixed = refine(patches.image[order], candidates.rows(order), PSF)
    back = Targets(**{**vars(mixed), "blob": order[mixed.blob]})
    same(back.select(np.lexsort((back.x, back.blob))), straight)


def test_the_same_call_gives_the_same_numbers() -> None:
    patches, candidates = some(40, "n5", seed=7)
    first, second = (refine(patches.image, candidates, PSF) for _ in range(2))
    for name in vars(first):
        assert np.array_equal(getattr(first, name), getattr(second, name), equal_nan=True), name


def shuffled(array: np.ndarray) -> np.ndarray:
    """The same numbers with other strides, none of them positive."""
    return np.asfortranarray(array[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, ">f8"])
@pytest.mark.parametrize("order", [np.ascontiguousarray, shuffled])
def test_numbers_are_refined_alike_however_they_are_stored(dtype: Any, order: Callable[..., np.ndarray]) -> None:
    """And nothing is compiled for them: that would keep a running camera waiting for a minute."""
    patches, candidates = some(12, seed=5)
    image = np.maximum(np.round(patches.image), 0).astype(np.float64)
    limit, valid = np.minimum(np.full(image.shape, 150.0), image.max(axis=(1, 2), keepdims=True)), image < 1e3
    expected = refine(image, candidates, PSF, noise=np.full(12, 3.0), full_scale=limit, valid=valid)
    assert has(expected, TargetFlag.SATURATED).any()
    compiled_for = len(module._refine_all.dispatcher.signatures)  # type: ignore[attr-defined]
    stored = [order(v) for v in (image.astype(dtype), limit.astype(np.float32), valid)]
    for array in stored:
        array.setflags(write=False)
    config = RefineConfig(misfit=0.02, noise_floor=np.float32(0.3), background_share=0.01)
    found = refine(stored[0], candidates, PSF, noise=3, full_scale=stored[1], valid=stored[2], config=config)
    assert len(module._refine_all.dispatcher.signatures) == compiled_for  # type: ignore[attr-defined]
    same(found, expected)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"patches": np.zeros(SHAPE)}, "patches"),
        ({"patches": np.zeros((2, 11, 9))}, "patches"),
        ({"patches": np.zeros((3, *SHAPE))}, "candidates"),
        ({"valid": np.ones((2, 9, 9), dtype=bool)}, "valid"),
        ({"full_scale": np.ones((2, 9, 9))}, "full_scale"),
        ({"noise": np.ones(3)}, "noise"),
    ],
)
def test_shapes_that_do_not_fit_together_are_refused(make_candidates: Make, bad: dict[str, Any], words: str) -> None:
    """The compiled code would read beyond the end of the smaller one."""
    arguments = {"patches": np.zeros((2, *SHAPE)), "candidates": make_candidates([(0, 5, 5, 100)], 2), **bad}
    with pytest.raises(InputError, match=f"refine: expected {words}"):
        refine(**arguments, psf=PSF)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e155])
def test_a_pixel_that_is_no_number_spoils_its_own_patch_only(
    render: Render, make_candidates: Make, value: float
) -> None:
    patches = np.stack([render(CLUSTERS[2], SHAPE)] * 2)
    patches[1, 4, 5] = value
    start = make_candidates([row for i in range(2) for row in perturbed(CLUSTERS[2], patch=i)])
    found = refine(patches, start, PSF, noise=1.0)
    alone = refine(patches[:1], start.rows(np.array([0])), PSF, noise=1.0)
    same(found.select(found.blob == 0), alone)
    spoilt = found.select(found.blob == 1)
    assert (spoilt.flags != 0).all()
    assert np.isfinite([spoilt.x, spoilt.y, spoilt.radiance]).all()


def test_a_shifted_patch_gives_shifted_targets(render: Render, make_candidates: Make) -> None:
    base = refine(render(CLUSTERS[3], SHAPE)[None], make_candidates(perturbed(CLUSTERS[3])), PSF, noise=np.array([0.3]))
    for dx, dy in ((-2, 1), (2, 2), (0, -2)):
        moved = [(x + dx, y + dy, s) for x, y, s in CLUSTERS[3]]
        start = make_candidates(perturbed(CLUSTERS[3])).moved([dx], [dy])
        found = refine(render(moved, SHAPE)[None], start, PSF, noise=np.array([0.3]))
        assert found.x - dx == pytest.approx(base.x, abs=1e-4)
        assert found.y - dy == pytest.approx(base.y, abs=1e-4)


@pytest.mark.parametrize(("restarts", "most"), [(0, 5), (3, 3)])
def test_a_transposed_patch_gives_transposed_targets(restarts: int, most: int) -> None:
    """Crowds have second starts from arrangements that are drawn once, and not symmetric: they are left out there."""
    patches, c = some(60, seed=2)
    few = patches.count <= most
    c, image = c.rows(np.flatnonzero(few)), patches.image[few]
    config = RefineConfig(restarts=restarts)
    straight = refine(image, c, PSF, config=config)
    turned = Candidates(c.presence, c.y, c.x, c.radiance, c.sigma_y, c.sigma_x, c.sigma_radiance)
    found = refine(image.swapaxes(1, 2), turned, PSF, config=config)
    order = np.lexsort((found.y, found.blob))
    assert found.blob[order].tolist() == straight.blob.tolist()
    for mine, theirs, rel in (
        ("x", "y", 1e-3),
        ("y", "x", 1e-3),
        ("sigma_x", "sigma_y", 1e-2),
        ("radiance", "radiance", 1e-3),
    ):
        assert getattr(found, mine)[order] == pytest.approx(getattr(straight, theirs), rel=rel, abs=1e-3)


@pytest.mark.parametrize("n", [5, 7, 9, 15])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_patches_of_other_sizes_are_refined(render: Render, make_candidates: Make, n: int, number: int) -> None:
    truth = [(x + (n - 11) / 2, y + (n - 11) / 2, s) for x, y, s in CLUSTERS[number]]
    found = refine(render(truth, (n, n))[None], make_candidates(perturbed(truth)), PSF)
    assert len(found) == number
    assert table(found)[:, :2] == pytest.approx(in_order(truth)[:, :2], abs=5e-3)
    assert table(found)[:, 2] == pytest.approx(in_order(truth)[:, 2], rel=1e-2)


def coverage(condition: str, count: int, trust: float) -> float:
    """Share of the position errors within one stated sigma; what :func:`some` says errs by 0.08 px on its own."""
    patches, candidates = some(1200, condition, seed=count)
    rows = np.flatnonzero(patches.count == count)
    config = RefineConfig(radiance=(235.0, 8.66), trust=trust)
    found = refine(patches.image[rows], candidates.rows(rows), PSF, config=config)
    right = np.bincount(found.blob, minlength=len(rows)) == count
    assert right.mean() > 0.97
    found = found.select(right[found.blob])
    x, y = (getattr(patches, axis)[rows[found.blob], :count] for axis in "xy")
    nearest = np.hypot(x - found.x[:, None], y - found.y[:, None]).argmin(axis=1)
    which = np.arange(len(found)), nearest
    error = np.concatenate([(found.x - x[which]) / found.sigma_x, (found.y - y[which]) / found.sigma_y])
    assert abs(np.mean(error)) < 4 / np.sqrt(len(error))
    return float(np.mean(np.abs(error) < 1))


@pytest.mark.parametrize(
    ("condition", "count"), [("n1", 1), ("n1", 2), ("n1", 3), ("n1", 4), ("n2", 3), ("n5", 1), ("n5", 2), ("n5", 3)]
)
def test_two_thirds_of_the_errors_lie_within_one_stated_sigma(condition: str, count: int) -> None:
    """Of what the data alone say: the network is only the start."""
    assert coverage(condition, count, trust=np.inf) == pytest.approx(0.683, abs=0.05)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("condition", ["n1", "n5"])
def test_a_network_that_errs_on_its_own_makes_stated_sigmas_cautious_and_never_bold(condition: str, count: int) -> None:
    """Real networks err with the data, so their information is not added to the data's.

    Errors that are independent of the data make the fit better than stated: the variance is 1 / (F + P), the
    stated one 1 / F down to P = 2 F, and then 1 / P. So between 68 % and P(|t| < sqrt 3) = 92 % lie within it.
    """
    assert 0.683 - 0.05 < coverage(condition, count, trust=1.0) < 0.917


def test_a_stated_sigma_is_the_datas_or_the_networks_if_much_better(render: Render, make_candidates: Make) -> None:
    """Of x the network knows far more than the data, of y hardly; the score counts both, widened by the trust."""
    rows, spread = [(3.2, 4.7, 200.0), (7.2, 5.7, 200.0)], np.array([0.02, 0.03, 8.0])
    x, y, radiance = (list(v) for v in zip(*rows))
    fisher = PSF.fisher(x, y, radiance, SHAPE, 4.0)
    data = np.diag(fisher)[:2]  # so far apart that they know nothing of each other
    assert spread[0] ** 2 < 0.4 / data[0]
    assert spread[1] ** 2 > 0.6 / data[1]
    for trust in (0.5, 1.0, 3.0):
        start = make_candidates([(0, *row) for row in rows], presence=0.999, spread=tuple(spread))
        found = refine(render(rows, SHAPE)[None], start, PSF, noise=np.array([4.0]), config=RefineConfig(trust=trust))
        assert found.sigma_x[0] == pytest.approx(spread[0], rel=1e-3)
        assert found.sigma_y[0] == pytest.approx(data[1] ** -0.5, rel=0.03)
        both = data + (trust * spread[:2]) ** -2
        assert found.score[0] == pytest.approx(np.exp(-(1 / both).sum() / 0.01), rel=0.03)


def test_of_a_lone_target_the_data_tell_how_well_it_is_known(render: Render, make_candidates: Make) -> None:
    """Whatever the network says: no estimate from the same pixels can be better."""
    data = np.diag(PSF.fisher([5.2], [4.7], [200.0], SHAPE, 4.0))
    start = make_candidates([(0, 5.2, 4.7, 200.0)], presence=0.999, spread=(0.001, 0.001, 0.1))
    found = refine(render(CLUSTERS[1], SHAPE)[None], start, PSF, noise=np.array([4.0]))
    assert [found.sigma_x[0], found.sigma_y[0]] == pytest.approx(data[:2] ** -0.5, rel=0.03)


@pytest.mark.parametrize("share", [0.96, 1.04])
@pytest.mark.parametrize(("count", "gain"), [(1, 0.6), (2, 0.9), (3, 0.85)])
def test_optics_that_vary_are_fitted_where_that_is_said(
    render: Render, make_candidates: Make, count: int, gain: float, share: float
) -> None:
    number, truth = 60, CLUSTERS[count]
    expected = np.array(truth)
    patches = render(truth, SHAPE, 0.5 * share) + np.random.default_rng(3).normal(0, 0.5, (number, *SHAPE))
    start = make_candidates([row for i in range(number) for row in perturbed(truth, i, patch=i)], presence=0.99)

    def measure(config: RefineConfig) -> tuple[float, float]:
        """Share of right counts, and the position error where the count is right."""
        found = refine(patches, start, PSF, noise=np.full(number, 0.5), config=config)
        right = np.bincount(found.blob, minlength=number) == count
        found = found.select(right[found.blob])
        gap = np.hypot(found.x[:, None] - expected[:, 0], found.y[:, None] - expected[:, 1]).min(axis=1)
        return float(right.mean()), float(np.sqrt(np.mean(gap**2)))

    (_, held), (right, free) = measure(RefineConfig()), measure(RefineConfig(sigma_sd=0.017))
    assert right == 1
    assert free < gain * held


def test_uncertain_optics_make_positions_of_close_targets_uncertain(render: Render, make_candidates: Make) -> None:
    patch, start = render(CLUSTERS[3], SHAPE)[None], make_candidates(perturbed(CLUSTERS[3]), presence=0.99)
    held, free = (
        refine(patch, start, PSF, noise=np.array([0.5]), config=RefineConfig(sigma_sd=sd)) for sd in (0.0, 0.02)
    )
    assert (free.sigma_x > held.sigma_x).all()
    assert (free.sigma_radiance > held.sigma_radiance).all()
    assert free.sigma_radiance.sum() > 1.02 * held.sigma_radiance.sum()


@pytest.mark.parametrize(("odds", "kept"), [(0.5, 0.5), (0.3, 0.25), (0.1, 0.1)])
def test_a_doubted_target_stays_where_it_shines_and_is_faint_or_gone_where_it_does_not(
    render: Render, make_candidates: Make, odds: float, kept: float
) -> None:
    """Noise alone favours a faint target more by a unit or two of log likelihood: more doubt than that removes it."""
    bright, doubted = CLUSTERS[2]
    start = make_candidates([(i, *row) for i in range(50) for row in ((*bright, 0.999), (*doubted, odds))])
    numbers = {}
    for truth in ([bright], [bright, doubted]):
        noisy = render(truth, SHAPE) + np.random.default_rng(4).normal(0, 1, (50, *SHAPE))
        found = refine(noisy, start, PSF, noise=np.ones(50))
        numbers[len(truth)] = np.bincount(found.blob, minlength=50)
        if len(truth) == 1:
            ghost = numbers[1][found.blob] == 2
            faint = found.select(ghost & (found.radiance < 0.5 * bright[2]))
            assert len(faint) == (numbers[1] == 2).sum()
            assert faint.radiance.max(initial=0) < 0.15 * bright[2]
    assert (numbers[2] == 2).all()
    assert np.mean(numbers[1] == 2) <= kept


row = st.tuples(
    st.integers(0, 2), st.floats(-4, 14), st.floats(-4, 14), st.floats(-50, 2000), st.floats(0, 1),
)  # fmt: skip


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    n=st.sampled_from([7, 9, 11, 15]),
    truth=st.lists(st.tuples(st.floats(-1, 12), st.floats(-1, 12), st.floats(0, 3000)), max_size=6),
    rows=st.lists(row, max_size=6),
    spread=st.floats(0.002, 4),
    noise=st.sampled_from([None, 0.0, 0.5, 30.0]),
    full_scale=st.sampled_from([None, 255.0, 20.0, 0.0]),
    masked=st.booleans(),
    prior=st.sampled_from([None, (235.0, 8.66)]),
    sigma_sd=st.sampled_from([0.0, 0.02]),
)
def test_whatever_comes_in_targets_are_finite_on_the_patch_and_in_order(
    render: Render, make_candidates: Make, seed: int, n: int, truth: Any, rows: Any, spread: float, noise: float | None,
    full_scale: float | None, masked: bool, prior: tuple[float, float] | None, sigma_sd: float,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    patches = render(truth, (n, n)) + rng.normal(0, rng.choice([0.0, 1.0, 20.0]), (3, n, n))
    patches = np.minimum(patches, np.inf if full_scale is None else full_scale)
    valid = rng.random(patches.shape) > 0.2 if masked else None
    candidates = make_candidates(rows, 3, spread=(spread, spread, 100 * spread))
    config = RefineConfig(radiance=prior, sigma_sd=sigma_sd)
    sd = None if noise is None else np.full(3, noise)
    found = refine(patches, candidates, PSF, noise=sd, full_scale=full_scale, valid=valid, config=config)
    for name in ("x", "y", "radiance", "score"):
        assert np.isfinite(getattr(found, name)).all(), name
    for value in (found.x, found.y):
        assert ((value >= -0.5) & (value <= n - 0.5)).all()
    assert (found.radiance >= 0).all()
    assert ((found.score >= 0) & (found.score <= 1)).all()
    for name in ("sigma_x", "sigma_y", "sigma_radiance"):
        assert not (getattr(found, name) <= 0).any()  # NaN says unknown
    assert (np.lexsort((found.x, found.blob)) == np.arange(len(found))).all()
    assert len(found) == 0 or np.bincount(found.blob, minlength=3).max() <= 5
    assert not np.isin(found.blob, np.flatnonzero(candidates.count() == 0)).any()


@pytest.mark.parametrize(
    "bad",
    [
        {"max_targets": 0}, {"max_targets": 6}, {"restarts": -1}, {"restarts": 101}, {"rounds": -1}, {"iterations": 0},
        {"trust": 0.0}, {"sigma_sd": -0.1}, {"background_share": 0.0}, {"radiance": (0.0, 1.0)},
        {"radiance": (1.0, -1.0)}, {"trust": float("nan")},
    ],
)  # fmt: skip
def test_settings_outside_their_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="RefineConfig"):
        RefineConfig(**bad)


def test_what_a_card_knows_is_used_unless_the_user_knows_better() -> None:
    spec = UnmixerSpec(radiance_prior=(235.0, 8.66), sigma_sd=0.017)
    assert refine_config(spec) == RefineConfig(radiance=(235.0, 8.66), sigma_sd=0.017)
    assert refine_config(spec, radiance=(100.0, 5.0)).radiance == (100.0, 5.0)
    assert refine_config(UnmixerSpec()) == RefineConfig()
