"""The comparators without a network: what they must reach, and their parts against references."""

from dataclasses import replace

import numpy as np
import pytest

from glint.benchmarks.peers.sparse import CELLS, Ista, NnlsFit, tune_ista
from glint.benchmarks.peers.template_fit import (
    TemplateFit,
    TemplateFitConfig,
    _best_rows,
    base_windows,
    border_deviation,
)
from glint.errors import InputError
from glint.metrics.unmixing import score_unmixing
from glint.optics import Psf
from glint.simulation.patches import CONDITIONS, simulate_patches

INFINITE = np.array([np.inf])


def score(method, condition, number=200, seed=5, **changes):
    patches = simulate_patches(replace(CONDITIONS[condition], **changes), number, np.random.default_rng(seed))
    found = method(patches.image, patches.full_scale)
    assert (np.diff(found.blob) >= 0).all()
    return score_unmixing(
        found.blob, found.x, found.y, found.radiance, found.score,
        truth_x=patches.x, truth_y=patches.y, truth_radiance=patches.radiance,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("condition", "least_map", "least_count"), [("float", 99, 99), ("8sat", 90, 98), ("n1", 81, 98), ("n5", 48, 95)]
)
def test_the_template_fit_is_as_strong_as_it_is_known_to_be(condition, least_map, least_count):
    result = score(TemplateFit(), condition)
    assert result.cso_map > least_map
    assert result.count_accuracy >= least_count


def test_a_background_ruins_the_template_fit_unless_its_level_is_taken_away():
    ruined = score(TemplateFit(), "8sat", background=(10.0, 10.0))
    kept = score(TemplateFit(TemplateFitConfig(level=True)), "8sat", background=(10.0, 10.0))
    assert ruined.cso_map < 40
    assert kept.cso_map > 90


def test_the_template_fit_takes_a_radiance_range():
    told = score(TemplateFit(TemplateFitConfig(radiance=(60.0, 250.0))), "8sat", radiance=(60.0, 250.0))
    untold = score(TemplateFit(), "8sat", radiance=(60.0, 250.0))
    assert told.cso_map > untold.cso_map


def test_counts_that_are_not_tried_could_not_have_won(monkeypatch):
    patches = simulate_patches(CONDITIONS["n1"], 60, np.random.default_rng(2))
    method = TemplateFit(TemplateFitConfig(starts=4, survivors=2))
    pruned = method(patches.image, patches.full_scale)
    original = TemplateFit._bounds

    def every_count_allowed(self, flux, images):
        bound = original(self, flux, images)
        return np.where(np.isfinite(bound), -1.0 + 0.1 * np.arange(6)[:, None], np.inf)

    monkeypatch.setattr(TemplateFit, "_bounds", every_count_allowed)
    tried = method(patches.image, patches.full_scale)
    assert np.array_equal(pruned.blob, tried.blob)
    # How long a fit is polished depends a little on its batch.
    assert np.quantile(np.abs(pruned.x - tried.x), 0.95) < 1e-3


def test_the_window_lies_about_the_base_pixel_even_at_the_edge():
    patches = simulate_patches(replace(CONDITIONS["float"], targets=(2, 5)), 300, np.random.default_rng(1))
    windows, left, top = base_windows(patches.image.astype(np.float64), -0.4)
    assert windows.shape == (300, 7, 7)
    used = patches.radiance > 0
    for first, place in ((left, patches.x), (top, patches.y)):
        offset = (place - (first + 3)[:, None])[used]
        assert offset.min() >= -0.4 - 1e-9
        assert offset.max() <= 0.6 + 1e-9
    inside = (left >= 0) & (left <= 4) & (top >= 0) & (top <= 4)
    i = int(np.flatnonzero(inside)[0])
    assert np.array_equal(windows[i], patches.image[i, top[i] : top[i] + 7, left[i] : left[i] + 7])


def test_the_noise_of_the_border_is_found_and_rounding_is_not_forgotten():
    rng = np.random.default_rng(0)
    assert np.median(border_deviation(3 * rng.standard_normal((400, 11, 11)))) == pytest.approx(3, rel=0.05)
    assert border_deviation(np.full((1, 11, 11), 7.0))[0] == pytest.approx(0.3)
    assert border_deviation(np.full((1, 11, 11), 7.2))[0] == pytest.approx(0.03)


def test_the_best_of_each_group_are_kept():
    cost = np.array([3.0, 1.0, 2.0, 9.0, 5.0, 7.0])
    assert sorted(_best_rows(cost, 3, 2).tolist()) == [1, 2, 4, 5]
    assert _best_rows(cost, 3, 1).tolist() == [1, 4]
    assert sorted(_best_rows(cost, 3, 3).tolist()) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("bad", [{"survivors": 0}, {"starts": 2, "survivors": 3}, {"radiance": (0.0, 5.0)}])
def test_settings_that_cannot_be_are_refused(bad):
    with pytest.raises(InputError):
        TemplateFitConfig(**bad)


def test_ista_ends_where_its_objective_is_least():
    patch = simulate_patches(CONDITIONS["float"], 1, np.random.default_rng(4)).image[:, 2:9, 2:9]
    phi, weight = Psf(0.5).sampling_matrix(7, CELLS), 5.0

    def duality_gap(x):
        """The l1 problem's own bound: how far from the minimum x can be at most."""
        rest = patch[0].ravel() - phi @ x
        primal = 0.5 * rest @ rest + weight * np.abs(x).sum()
        dual = rest * min(1.0, weight / np.abs(phi.T @ rest).max())
        return (primal - (dual @ patch[0].ravel() - 0.5 * dual @ dual)) / primal

    plain, fast, brief, brief_fast = (
        duality_gap(Ista(weight, steps, accelerated=momentum).solve(patch)[0].ravel())
        for steps, momentum in ((10_000, False), (2000, True), (50, False), (50, True))
    )
    assert 0 <= plain < 1e-3
    assert 0 <= fast < 1e-3
    assert brief_fast < brief


def test_tuning_ista_picks_the_weight_that_scores_best():
    patches = simulate_patches(CONDITIONS["8sat"], 40, np.random.default_rng(6))
    best = tune_ista(Ista(iterations=60, accelerated=True), patches, (3.0, 1e5))
    assert best.weight == 3.0
    assert best.iterations == 60


def test_ista_finds_no_more_than_the_literature_says():
    result = score(Ista(8.0, 200, accelerated=True), "8sat", number=60)
    assert 3 < result.cso_map < 25


def test_ista_refuses_a_negative_weight():
    with pytest.raises(InputError, match="weight"):
        Ista(-1.0)


def test_nnls_and_a_fit_lie_between_ista_and_the_template_fit():
    assert 55 < score(NnlsFit(), "8sat").cso_map < 80
    assert 30 < score(NnlsFit(), "n1").cso_map < 60


def test_nnls_of_one_target_between_cells_is_one_target():
    image = Psf(0.5).render(np.array([5.17]), np.array([4.83]), np.array([200.0]), (11, 11))[None]
    found = NnlsFit()(image, INFINITE)
    assert len(found) == 1
    assert (found.x[0], found.y[0], found.radiance[0]) == pytest.approx((5.17, 4.83, 200.0), abs=1e-3)


def test_a_dark_patch_holds_nothing():
    assert len(NnlsFit()(np.zeros((1, 11, 11)), INFINITE)) == 0
    assert len(Ista(5.0, 10)(np.zeros((1, 11, 11)), INFINITE)) == 0
