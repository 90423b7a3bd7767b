"""Clusters in boxes of any place and size."""

from __future__ import annotations

import numpy as np
import pytest

from glint.benchmarks.tables.boxes import markdown, spread_patches
from glint.benchmarks.tables.optics import scattered
from glint.optics import Psf


def test_clusters_fill_their_box_at_any_phase() -> None:
    patches = spread_patches(1.5, 400, np.random.default_rng(0))
    used = patches.radiance > 0
    assert np.array_equal(used.sum(axis=1), patches.count)
    phases, extents = [], []
    for x, y, lit in zip(patches.x, patches.y, used):
        places = np.column_stack([x, y])[lit]
        gaps = np.hypot(*(places[:, None] - places).transpose(2, 0, 1))[np.triu_indices(len(places), 1)]
        assert (gaps >= 0.5).all()
        extents.append(np.ptp(places, axis=0).max())
        phases.append(places.mean(axis=0) - 5)
    assert 1.2 < max(extents) <= 1.5
    assert np.ptp(phases, axis=0).min() > 1.5
    light = Psf(0.5).render(patches.x, patches.y, patches.radiance, (11, 11))
    assert abs(np.std(patches.image - light) - np.hypot(1, 12**-0.5)) < 0.02


def test_the_tables_have_a_row_for_each_condition() -> None:
    rows = {"boxes": [{"model": "a", "box": "[-0.5, 0.5]", "cso_map": 95.0}], "spreads": [{"side": 1.5}]}
    text = markdown(rows)
    assert "| a " in text and "1.5" in text


def test_the_bound_is_that_of_fisher_and_grows_where_pixels_are_saturated() -> None:
    truth = np.array([[5.1, 4.9, 240.0]])
    light = Psf(0.5).render(*truth.T, (11, 11))
    expected = np.sqrt(np.diag(np.linalg.inv(Psf(0.5).fisher(*truth.T, (11, 11), 1.0))))
    rng = np.random.default_rng(1)
    off, clipped = (
        np.array([scattered(truth, 0.5, 1.0, rng, full_scale=limit)[0, :3] - truth[0] for _ in range(400)])
        for limit in (np.inf, 0.9 * light.max())
    )
    assert off.std(axis=0) == pytest.approx(expected, rel=0.15)
    assert (clipped.std(axis=0) > 1.2 * off.std(axis=0)).any()
