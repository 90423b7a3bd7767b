"""What the refinement states of its own errors, and what it makes of doubted targets and uncertain optics."""

from __future__ import annotations

import numpy as np
import pytest
from refined_scenes import CLUSTERS, PSF, SHAPE, Make, Render, perturbed, some

from glint.runtime.unmixing.refine import RefineConfig, refine


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
