"""Pixels that the refinement may not trust: saturated, masked, no numbers; targets that are not points."""

from __future__ import annotations

import numpy as np
import pytest
from refined_scenes import CLUSTERS, PSF, SCENES, SHAPE, Make, Render, has, perturbed, same, table

from glint.runtime.unmixing.refine import refine
from glint.types import TargetFlag


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


@pytest.mark.parametrize("sigma", [2.0, 2.5])
def test_an_extended_blob_is_flagged(render: Render, make_candidates: Make, sigma: float) -> None:
    patch = render([(5.0, 5.0, 4000)], SHAPE, sigma)[None]
    found = refine(patch, make_candidates([(0, 4.5, 5.0, 900), (0, 5.5, 5.3, 900)]), PSF, noise=np.array([1.0]))
    assert len(found) >= 1
    assert has(found, TargetFlag.EXTENDED).all()


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
