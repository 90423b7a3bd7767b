"""The measured width of the PSF: true within its stated error, on single targets only."""

from dataclasses import replace

import numpy as np
import pytest

from glint.errors import InputError
from glint.optics import Psf
from glint.runtime.commands.psf import spots_of_frame, spots_of_patches
from glint.runtime.unmixing import psf_fit
from glint.runtime.unmixing.psf_fit import PsfWindows, fit_psf
from glint.simulation.patches import CONDITIONS, PatchConfig, simulate_patches
from glint.simulation.scenes import SceneConfig, simulate_scene
from glint.types import Blobs, Frame


def blobs_of(truth):
    """One blob per group, at its flux centre: a detector that misses nothing."""
    groups = np.unique(truth.blob)
    rows = [truth.blob == g for g in groups]
    x, y = ([np.average(v[r], weights=truth.radiance[r]) for r in rows] for v in (truth.x, truth.y))
    return Blobs(x, y, np.ones(len(rows), dtype=int), np.ones(len(rows)))


def scene_spots(sigma, bits, seed, *, clusters=0, singles=15, frames=2, sky=False, **more):
    config = SceneConfig(
        width=256, height=224, frames=frames, clusters=clusters, singles=singles, bits=bits, sigma=sigma, seed=seed,
        **more,
    )  # fmt: skip
    ramp = 40 + 0.05 * np.arange(256)
    background = None if sky else np.broadcast_to(ramp, (224, 256))
    return PsfWindows.concatenate([spots_of_frame(f, blobs_of(t)) for f, t in simulate_scene(config, background)])


@pytest.mark.parametrize("sigma", [0.45, 0.5, 0.6, 0.8])
@pytest.mark.parametrize("bits", [8, 14])
def test_sigma_is_recovered_within_its_error(sigma, bits):
    estimate, _ = fit_psf(scene_spots(sigma, bits, seed=4, frames=4))
    assert estimate.used >= 30
    assert abs(estimate.sigma - sigma) < 3 * estimate.sigma_error
    assert estimate.sigma_error < 0.015 * sigma / 0.5


def test_the_stated_error_is_the_real_one():
    strain = []
    for seed in range(60):
        sigma = 0.45 + 0.005 * seed
        estimate, _ = fit_psf(scene_spots(sigma, 8 if seed % 2 else 14, seed, singles=12))
        strain.append((estimate.sigma - sigma) / estimate.sigma_error)
    strain = np.array(strain)
    assert abs(strain.mean()) < 0.45
    assert 0.75 < np.sqrt((strain**2).mean()) < 1.35
    assert 0.54 < (np.abs(strain) < 1).mean() < 0.85


def test_clusters_among_the_targets_are_left_out():
    for seed in range(4):
        estimate, _ = fit_psf(scene_spots(0.5, 8, seed, clusters=6, singles=14, frames=3))
        assert abs(estimate.sigma - 0.5) < max(4 * estimate.sigma_error, 0.012)
        assert estimate.rejected["not a point"] + estimate.rejected["wider"] >= 10


def test_a_sky_with_clouds_is_no_obstacle():
    for seed in range(3):
        estimate, _ = fit_psf(scene_spots(0.55, 8, seed, sky=True, singles=20))
        assert abs(estimate.sigma - 0.55) < max(4 * estimate.sigma_error, 0.02)


def test_patches_of_the_benchmark_tell_the_sigma_of_their_single_targets():
    config = replace(CONDITIONS["n1"], targets=(1, 2), sigma=(0.53, 0.53))
    patches = simulate_patches(config, 150, np.random.default_rng(1))
    estimate, _ = fit_psf(spots_of_patches(patches.image, None))
    assert abs(estimate.sigma - 0.53) < 3 * estimate.sigma_error
    assert estimate.used <= 1.15 * (patches.count == 1).sum()


def test_the_scatter_of_an_uneven_psf_is_seen_and_widens_the_error():
    rng = np.random.default_rng(0)
    even = PatchConfig(targets=(1, 1), noise=(0.5, 0.5), sigma=(0.5, 0.5))
    uneven = replace(even, sigma=(0.48, 0.52))
    one, other = (fit_psf(spots_of_patches(simulate_patches(c, 80, rng).image, None))[0] for c in (even, uneven))
    assert other.scatter == pytest.approx(0.04 / np.sqrt(12), rel=0.5)
    assert one.scatter < 0.5 * other.scatter
    assert other.sigma_error > 1.5 * one.sigma_error


def frame_with(*targets, size=64, level=30.0, full_scale=255.0):
    x, y, s = (np.array(v, dtype=float) for v in zip(*targets))
    image = level + Psf(0.5).render(x, y, s, (size, size))
    data = np.clip(np.round(image + np.random.default_rng(0).standard_normal(image.shape)), 0, full_scale)
    return Frame(0, 0, data.astype(np.uint8), full_scale=full_scale)


def reasons_of(frame, blobs):
    with pytest.raises(InputError) as caught:
        fit_psf(spots_of_frame(frame, blobs))
    return str(caught.value)


def blobs_at(*places, label_map=None):
    x, y = (np.array(v, dtype=float) for v in zip(*places))
    return Blobs(x, y, np.ones(len(x), dtype=int), np.ones(len(x)), label_map)


def test_each_reason_to_leave_a_spot_out_is_told():
    targets = [(3.0, 30.0, 150.0), (20.0, 20.0, 900.0), (40.0, 40.0, 5.0), (30.0, 10.0, 150.0)]
    labels = np.zeros((64, 64), dtype=np.int32)
    labels[9:12, 29:32] = 4
    labels[9:12, 33:36] = 5
    message = reasons_of(frame_with(*targets), blobs_at(*(t[:2] for t in targets), (34.0, 10.0), label_map=labels))
    for words in ("only 0 of 5", "1 edge", "1 saturated", "1 faint", "2 crowded", "at least 5"):
        assert words in message


def test_extended_spots_and_pairs_are_no_points():
    wide = Psf(0.5).render(np.array([20.0, 20.7]), np.array([20.0, 20.0]), np.array([150.0, 150.0]), (64, 64))
    disc = 60.0 * (np.hypot(np.arange(64) - 45, np.arange(64)[:, None] - 45) < 3)
    noise = np.random.default_rng(0).standard_normal((64, 64))
    frame = Frame(0, 0, np.round(30 + wide + disc + noise).astype(np.uint8), full_scale=255.0)
    assert "2 not a point" in reasons_of(frame, blobs_at((20.35, 20.0), (45.0, 45.0)))


def test_too_few_spots_and_none_are_refused_with_a_hint():
    spots = scene_spots(0.5, 8, 1, singles=3, frames=1)
    with pytest.raises(InputError, match="only 3 of 3") as caught:
        fit_psf(spots)
    assert "frames" in (caught.value.hint or "")
    with pytest.raises(InputError, match=r"only 0 of 0.*none found"):
        fit_psf(spots.take(np.zeros(0, dtype=int)))
    with pytest.raises(InputError, match="at least 2"):
        fit_psf(spots, least=1)


@pytest.mark.parametrize(
    "bad", [np.zeros((3, 7, 7)), np.zeros((11, 11)), np.zeros((3, 11, 9)), np.full((1, 11, 11), np.nan)]
)
def test_arrays_that_are_no_patches_are_refused(bad):
    with pytest.raises(InputError, match="patches"):
        spots_of_patches(bad, None)


def test_derivatives_are_those_of_the_profile():
    theta, sigma = np.array([[4.3, 5.1, 100.0, 0, 0, 0]]), np.array([0.55])
    h = psf_fit._derivatives(theta, sigma, 11, 4)
    step = 1e-3

    def value(by):
        return Psf(0.55).profile(np.array([4.3 + by]), 11)[0]

    differences = {
        1: (value(step) - value(-step)) / (2 * step),
        2: (value(step) - 2 * value(0) + value(-step)) / step**2,
        3: (value(2 * step) - 2 * value(step) + 2 * value(-step) - value(-2 * step)) / (2 * step**3),
    }
    assert np.allclose(h[0, 0, 0], value(0))
    for order, expected in differences.items():
        assert np.allclose(h[order, 0, 0], expected * 0.55**order, atol=1e-4)
    # The fourth is the derivative of the third.
    shift = step * np.eye(6)[:1]
    ahead, behind = (psf_fit._derivatives(t, sigma, 11, 4)[3, 0, 0] for t in (theta + shift, theta - shift))
    assert np.allclose(h[4, 0, 0], 0.55 * (ahead - behind) / (2 * step), atol=1e-4)


@pytest.mark.parametrize("noise", [0.8, 2.0, 7.3])
@pytest.mark.parametrize("size", [11, 21])
def test_the_noise_of_whole_numbers_is_no_step_of_the_median(noise, size):
    rng = np.random.default_rng(3)
    patches = np.round(300 + noise * rng.standard_normal((200, size, size))).astype(np.uint16)
    found = psf_fit._noise(spots_of_patches(patches, None))
    assert found.mean() == pytest.approx(np.hypot(noise, 12**-0.5), rel=0.08)


def test_bright_spots_in_large_windows_of_whole_numbers_are_points():
    rng = np.random.default_rng(1)
    places = 10 + rng.uniform(-0.5, 0.5, (40, 2))
    images = [Psf(0.5).render([x], [y], 160.0, (21, 21)) for x, y in places]
    patches = np.round(300 + np.array(images) + 2 * rng.standard_normal((40, 21, 21))).astype(np.uint16)
    estimate, _ = fit_psf(spots_of_patches(patches, None))
    assert estimate.used >= 34
    assert abs(estimate.sigma - 0.5) < 3 * estimate.sigma_error
