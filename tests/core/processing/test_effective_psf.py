"""The sampled PSF against renderings of one that is no Gaussian."""

from __future__ import annotations

import numpy as np
import pytest

from glint.errors import InputError
from glint.optics import Psf
from glint.processing.effective_psf import STEP_PX, IsolatedSpots, effective_psf

N, REACH = 15, 4.0


def two_gaussians(sigmas: tuple[float, float], shares: tuple[float, float], x: float, y: float) -> np.ndarray:
    return sum(w * Psf(s).render([x], [y], 1.0, (N, N)) for s, w in zip(sigmas, shares))


def grid_of(sigmas: tuple[float, float], shares: tuple[float, float]) -> np.ndarray:
    """The pixel integrals at offsets: a point at minus the offset, seen by the middle pixel."""
    offsets = np.arange(-REACH, REACH + STEP_PX / 2, STEP_PX)
    middle = N // 2
    return np.array(
        [[two_gaussians(sigmas, shares, middle - dx, middle - dy)[middle, middle] for dx in offsets] for dy in offsets]
    )


def made_spots(
    sigmas: tuple[float, float], shares: tuple[float, float], noise: float, number: int = 80
) -> IsolatedSpots:
    rng = np.random.default_rng(4)
    x, y = N // 2 + rng.uniform(-0.5, 0.5, (2, number))
    radiance = rng.uniform(500, 1500, number)
    light = np.array([s * two_gaussians(sigmas, shares, a, b) for a, b, s in zip(x, y, radiance)])
    light += noise * rng.standard_normal(light.shape)
    off = 0.03 * rng.standard_normal((2, number))
    shape = light.shape
    return IsolatedSpots(
        light, np.ones(shape, dtype=bool), np.full(number, noise), x + off[0], y + off[1], 1.05 * radiance
    )


@pytest.mark.parametrize("sigmas, shares", [((0.6, 1.4), (0.7, 0.3)), ((0.8, 0.8), (0.5, 0.5))])
def test_the_sampled_psf_is_that_of_the_optics(sigmas: tuple[float, float], shares: tuple[float, float]) -> None:
    truth, start = grid_of(sigmas, shares), grid_of((0.8, 0.8), (0.5, 0.5))
    found = effective_psf(made_spots(sigmas, shares, 1.0), start * truth.sum() / start.sum())
    assert np.abs(found - truth).max() < 0.03 * truth.max()
    if sigmas[0] != sigmas[1]:
        assert np.abs(start - truth).max() > 0.1 * truth.max()


def test_a_bad_pixel_leaves_no_mark() -> None:
    spots = made_spots((0.7, 0.7), (0.5, 0.5), 1.0)
    start = grid_of((0.7, 0.7), (0.5, 0.5))
    spots.light[5, 9, 9] += 400
    spots.valid[7, 7, 7] = False
    spots.light[7, 7, 7] = np.float64(1e5)
    assert np.abs(effective_psf(spots, start) - start).max() < 0.03 * start.max()


def test_no_spots_and_an_even_grid_are_refused() -> None:
    spots = made_spots((0.7, 0.7), (0.5, 0.5), 1.0, number=3)
    with pytest.raises(InputError, match="odd size"):
        effective_psf(spots, np.ones((4, 4)))
