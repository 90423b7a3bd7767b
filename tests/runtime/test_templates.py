"""The bank of arrangements from which second starts are taken."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from glint.optics import Psf
from glint.runtime.templates import nearest_arrangements

PSF = Psf(0.5)
SHAPE = (11, 11)
Render = Callable[..., np.ndarray]


def test_a_rendered_arrangement_finds_itself_in_the_bank(render: Render) -> None:
    rng = np.random.default_rng(8)
    for count in (1, 3, 5):
        blank = np.zeros((1, *SHAPE))
        blank[0, 5, 5] = 1.0
        some = nearest_arrangements(blank, PSF, count, 20)
        pick = int(rng.integers(20))
        rows = [(some[0][0, pick, k], some[1][0, pick, k], 100.0) for k in range(count)]
        patch = render(rows, SHAPE)[None]
        x, y, radiance = nearest_arrangements(patch, PSF, count, 1)
        assert x.shape == (1, 1, count)
        assert sorted(x[0, 0]) == pytest.approx(sorted(r[0] for r in rows), abs=1e-9)
        assert sorted(y[0, 0]) == pytest.approx(sorted(r[1] for r in rows), abs=1e-9)
        assert radiance[0, 0] == pytest.approx([100.0] * count, rel=1e-6)


@pytest.mark.parametrize("n", [7, 9, 15])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_arrangements_are_apart_and_lie_about_the_spot(render: Render, n: int, count: int) -> None:
    middle = (n - 1) / 2
    patches = np.stack([render([(middle + dx, middle, 300.0)], (n, n)) for dx in (-0.6, 0.0, 0.6)])
    x, y, radiance = nearest_arrangements(patches, PSF, count, 4)
    assert x.shape == y.shape == radiance.shape == (3, 4, count)
    assert np.abs(x.mean(axis=2) - middle - np.array([[-0.6], [0.0], [0.6]])).max() < 0.5
    assert np.abs(y.mean(axis=2) - middle).max() < 0.5
    assert (radiance > 0).all()
    # Together they hold about the light of the spot.
    assert radiance.sum(axis=2) == pytest.approx(np.full((3, 4), 300.0), rel=0.6)
    gap = np.hypot(x[..., :, None] - x[..., None, :], y[..., :, None] - y[..., None, :])
    assert count == 1 or gap[..., ~np.eye(count, dtype=bool)].min() > 0.45


def test_arrangements_scale_with_the_light_and_not_with_anything_else(render: Render) -> None:
    patch = render([(4.8, 5.1, 200.0), (5.5, 5.2, 150.0)], SHAPE)[None]
    one, many = (nearest_arrangements(gain * patch, PSF, 2, 3) for gain in (1, 64))
    order_one, order_many = (np.argsort(r[0][0, :, 0]) for r in (one, many))
    for a, b, gain in zip(one, many, (1, 1, 64)):
        assert b[0, order_many] == pytest.approx(gain * a[0, order_one], rel=1e-9)


def test_a_dark_patch_gives_faint_arrangements_and_no_error() -> None:
    x, y, radiance = nearest_arrangements(np.zeros((2, *SHAPE)), PSF, 3, 2)
    assert np.isfinite(x).all() and np.isfinite(y).all()
    assert (radiance > 0).all() and radiance.max() < 1e-3
