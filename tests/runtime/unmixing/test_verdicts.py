"""Counts of spots beside clouds, through optics that are no Gaussian, and in places that cannot be told apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import ndtr

from glint.runtime.unmixing.optics_state import KNOWN, OpticsState
from glint.runtime.unmixing.refine import RefineConfig
from glint.runtime.unmixing.shapes import measure_shapes
from glint.runtime.unmixing.verdicts import judge_spots
from glint.runtime.unmixing.windows import Windows, cut_windows
from glint.types import Blobs, Frame, TargetFlag, Targets

Render = Callable[..., np.ndarray]
SIZE, NOISE = 21, 4.0
WIDE, SHARE = 1.3, 0.35  # px: of the second Gaussian of a PSF that is none, and its share of the light
SIGMA = 0.76  # px: of the Gaussian that comes nearest
OFFSETS = np.arange(-3, 3.01, 0.25)


def windows_of(image: np.ndarray, mask: np.ndarray) -> Windows:
    """The windows about the connected spots of a mask; here one."""
    rows, columns = np.nonzero(mask)
    one = np.ones(1)
    blobs = Blobs(one * columns.mean(), one * rows.mean(), one.astype(int) * mask.sum(), one, mask.astype(np.int32))
    return cut_windows(Frame(0, 0, image), blobs, NOISE * one, NOISE * one)


def judged(windows: Windows, state: OpticsState, start: Targets, config: RefineConfig | None = None) -> Targets:
    return judge_spots(windows, measure_shapes(windows), start, state, config or RefineConfig(), 0.5)


def points(x: list[float], y: list[float], radiance: float) -> Targets:
    one = np.ones(len(x))
    rows = [np.array(x), np.array(y), radiance * one, 0.1 * one, 0.1 * one, 0.1 * radiance * one]
    return Targets(*rows, 0 * one.astype(int), 0 * one, 0 * one.astype(int), one)


def test_light_of_a_cloud_beside_a_spot_is_no_target(render: Render) -> None:
    spot, sigma = render([(20.2, 20.1, 600.0)], (41, 41), 0.8), 0.8
    cloud = render([(18.6, 17.6, 260.0), (21.6, 17.6, 260.0)], (41, 41), 0.9)
    data = 100 + spot + cloud + np.random.default_rng(2).normal(0, NOISE, spot.shape)
    windows = windows_of(data.astype(np.float32), spot > 0.3 * spot.max())
    start = points([8.6, 11.6, 10.2], [7.6, 7.6, 10.1], 300.0)
    found = judged(windows, OpticsState(KNOWN, sigma), start)
    assert len(found) == 1
    assert np.hypot(found.x[0] - 10.2, found.y[0] - 10.1) < 0.5
    everywhere = replace(windows, home=np.ones_like(windows.home))  # the same light, all of it in the mask
    assert len(judged(everywhere, OpticsState(KNOWN, sigma), start)) == 3


def pixels(offset: np.ndarray, sigma: float) -> np.ndarray:
    return ndtr((offset + 0.5) / sigma) - ndtr((offset - 0.5) / sigma)


def two_gaussians(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of one target, at offsets from it: ``[rows, columns]``."""
    return sum(w * np.outer(pixels(y, s), pixels(x, s)) for w, s in ((1 - SHARE, 0.6), (SHARE, WIDE)))


def sampled() -> OpticsState:
    beyond = two_gaussians(OFFSETS, OFFSETS) - np.outer(pixels(OFFSETS, SIGMA), pixels(OFFSETS, SIGMA))
    return OpticsState(KNOWN, SIGMA, samples=beyond)


def seen(places: list[tuple[float, float, float]], seed: int) -> Windows:
    steps = np.arange(41)
    image = sum(s * two_gaussians(steps - x, steps - y) for x, y, s in places)
    data = 100 + image + np.random.default_rng(seed).normal(0, NOISE, image.shape)
    return windows_of(data.astype(np.float32), image > 0.1 * image.max())


def test_a_psf_is_fitted_as_it_was_sampled() -> None:
    rng = np.random.default_rng(1)
    for seed in range(6):
        x, y = 20 + rng.uniform(-0.5, 0.5, 2)
        windows = seen([(x, y, 3000.0)], seed)
        left, top = int(windows.left[0]), int(windows.top[0])
        found = judged(windows, sampled(), Targets())
        assert len(found) == 1 and not found.flags.any()
        assert np.hypot(found.x[0] + left - x, found.y[0] + top - y) < 0.04
        assert found.radiance[0] == pytest.approx(3000, rel=0.03)
        gaussian = judged(windows, OpticsState(KNOWN, SIGMA), Targets())
        assert len(gaussian) > 1 or abs(gaussian.radiance[0] - 3000) > 150


def test_two_points_of_a_sampled_psf_are_two() -> None:
    places = [(19.3, 20.2, 3000.0), (21.1, 19.8, 2500.0)]
    windows = seen(places, 9)
    left, top = int(windows.left[0]), int(windows.top[0])
    found = judged(windows, sampled(), points([10.0, 11.0], [10.0, 10.0], 2700.0))
    assert len(found) == 2
    truth = np.array(places)
    assert np.allclose(np.column_stack([found.x + left, found.y + top]), truth[:, :2], atol=0.1)
    assert np.allclose(found.radiance, truth[:, 2], rtol=0.06)


def test_targets_in_one_place_are_flagged_and_counted_by_their_light(render: Render) -> None:
    """Noise hides where two are that are half a pixel apart; told radiances still tell two from one."""
    image = render([(20.0, 20.0, 100.0), (20.4, 20.2, 100.0)], (41, 41), 0.5)
    data = 50 + image + np.random.default_rng(5).normal(0, NOISE, image.shape)
    windows = windows_of(data.astype(np.float32), image > 10)
    found = judged(windows, OpticsState(KNOWN, 0.5), Targets(), RefineConfig(radiance=(100.0, 8.0)))
    assert len(found) == 2
    gap = np.hypot(*np.diff([found.x, found.y], axis=1)[:, 0])
    error = np.sqrt(0.5 * (found.sigma_x**2 + found.sigma_y**2).sum())
    assert bool(found.flags[0] & TargetFlag.UNRESOLVED) == (gap < error)
