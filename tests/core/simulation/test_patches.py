"""The patch simulator keeps the protocol of CSIST-100K and its own settings."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from glint.errors import InputError
from glint.optics import Psf
from glint.simulation.patches import (
    CONDITIONS,
    CSIST_TRAINING,
    SENSOR_TRAINING,
    PatchConfig,
    Patches,
    draw_offsets,
    simulate_patches,
)


def draw(config, number=400, seed=1):
    return simulate_patches(config, number, np.random.default_rng(seed))


def clean(patches):
    """What the optical model alone makes of the drawn targets, patch by patch."""
    size = patches.image.shape[1:]
    rows = zip(patches.sigma, patches.x, patches.y, patches.radiance)
    return np.array([Psf(float(sigma)).render(x, y, radiance, size) for sigma, x, y, radiance in rows])


def used(patches):
    return np.arange(patches.x.shape[1]) < patches.count[:, None]


# Protocol


@pytest.fixture(scope="module")
def protocol():
    return draw(CONDITIONS["float"], 5000)


def test_patches_have_the_documented_types(protocol):
    assert (protocol.image.shape, protocol.image.dtype) == ((5000, 11, 11), np.float32)
    assert protocol.x.shape == protocol.y.shape == protocol.radiance.shape == (5000, 5)
    assert len(protocol) == 5000
    assert np.isinf(protocol.full_scale).all()


def test_each_number_of_targets_is_equally_likely(protocol):
    counts = np.bincount(protocol.count, minlength=6)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 1e-3


def test_unused_slots_are_zero(protocol):
    for column in (protocol.x, protocol.y, protocol.radiance):
        assert not column[~used(protocol)].any()


def test_targets_are_at_least_half_a_pixel_apart(protocol):
    points = np.stack([protocol.x, protocol.y], axis=-1)
    distance = np.linalg.norm(points[:, :, None] - points[:, None], axis=-1)
    pairs = used(protocol)[:, :, None] & used(protocol)[:, None] & ~np.eye(5, dtype=bool)
    assert distance[pairs].min() >= 0.5
    assert distance[pairs].min() < 0.51  # the bound is used


def test_targets_of_a_patch_share_a_box_of_one_pixel_that_starts_0_4_before_its_base_pixel(protocol):
    for column in (protocol.x, protocol.y):
        base = np.floor(column + 0.4)[used(protocol)]
        first = np.repeat(np.floor(column[:, 0] + 0.4), protocol.count)
        assert_array_equal(base, first)
        assert set(first.tolist()) == set(range(2, 9))


def test_radiances_are_uniform_from_220_to_250(protocol):
    radiance = protocol.radiance[used(protocol)]
    assert stats.kstest(radiance, stats.uniform(220, 30).cdf).pvalue > 1e-3


def test_single_targets_are_uniform_in_their_box(protocol):
    single = protocol.count == 1
    for column in (protocol.x, protocol.y):
        offset = np.mod(column[single, 0] + 0.4, 1)
        assert stats.kstest(offset, "uniform").pvalue > 1e-3


def test_the_image_is_the_rendered_truth(protocol):
    some = Patches(**{f.name: getattr(protocol, f.name)[:300] for f in fields(Patches)})
    assert_allclose(some.image, clean(some), rtol=2**-24, atol=1e-9)  # rounding to float32, erf tails


def test_the_count_is_the_flux_over_the_mean_radiance(protocol):
    # k * 220 > (k - 1/2) * 235 and k * 250 < (k + 1/2) * 235 for k up to 5; the patch holds all flux.
    assert_array_equal(np.round(protocol.image.sum(axis=(1, 2)) / 235), protocol.count)


def test_share_of_patches_beyond_8_bits_grows_with_the_count_as_in_the_benchmark(protocol):
    peak = protocol.image.max(axis=(1, 2))
    share = [100 * np.mean(peak[protocol.count == k] > 255) for k in range(1, 6)]
    assert share == pytest.approx([0, 0, 27, 100, 100], abs=4.5)  # 1,000 patches: 3 sigma of 27 %
    assert peak.max() < 5 * 250 * 0.6827**2  # all five on one pixel centre


# Sensor effects


def test_quantisation_rounds_to_whole_numbers():
    patches = draw(CONDITIONS["8bit"])
    assert_array_equal(patches.image, np.round(clean(patches)))
    assert patches.image.max() > 255


def test_saturation_clips_at_full_scale():
    patches = draw(CONDITIONS["8sat"])
    assert_array_equal(patches.image, np.minimum(np.round(clean(patches)), 255))
    assert (patches.full_scale == 255).all()


def test_14_bits_are_steps_of_one_64th_with_little_noise():
    patches = draw(CONDITIONS["14bit"])
    assert_array_equal(patches.image * 64, np.round(patches.image * 64))
    residual = patches.image - clean(patches)
    # White noise of 4 steps and a rounding of 1/sqrt(12) step; 48,400 samples.
    assert residual.std() == pytest.approx(np.hypot(0.0625, 1 / 64 / np.sqrt(12)), rel=0.02)


@pytest.mark.parametrize(("name", "level"), [("n1", 1), ("n2", 2), ("n5", 5)])
def test_noise_is_white_and_of_the_named_level(name, level):
    patches = draw(CONDITIONS[name])
    residual = (patches.image - clean(patches)) / level
    assert stats.kstest(residual.ravel(), "norm").pvalue > 1e-3
    neighbours = np.corrcoef(residual[:, :, 1:].ravel(), residual[:, :, :-1].ravel())[0, 1]
    assert abs(neighbours) < 4 / np.sqrt(residual.size)
    assert (patches.noise == level).all()


def test_background_and_slope_are_added():
    patches = draw(PatchConfig(background=(5.0, 5.0), slope=(0.25, 0.25)), 20)
    row, column = np.mgrid[:11, :11]
    plane = 5 + 0.25 * (column - 5) + 0.25 * (row - 5)
    assert_allclose(patches.image - clean(patches), np.broadcast_to(plane, (20, 11, 11)), atol=1e-4)


def test_drawn_background_is_reported_and_slopes_differ_per_axis():
    patches = draw(PatchConfig(background=(-10.0, 10.0), slope=(-0.5, 0.5)), 200)
    residual = patches.image - clean(patches)
    assert_allclose(residual[:, 5, 5], patches.background, atol=1e-4)
    along_x = (residual[:, 5, 10] - residual[:, 5, 0]) / 10
    along_y = (residual[:, 10, 5] - residual[:, 0, 5]) / 10
    assert np.abs(np.concatenate([along_x, along_y])).max() <= 0.5 + 1e-5
    assert abs(np.corrcoef(along_x, along_y)[0, 1]) < 0.3


def test_each_patch_is_rendered_with_its_own_sigma():
    patches = draw(PatchConfig(sigma=(0.4, 0.7)))
    assert stats.kstest(patches.sigma, stats.uniform(0.4, 0.3).cdf).pvalue > 1e-3
    assert_allclose(patches.image, clean(patches), rtol=2**-24, atol=1e-9)


def test_noise_of_a_range_is_log_uniform_above_0_02():
    noise = draw(PatchConfig(noise=(0.0, 5.0)), 2000).noise
    law = stats.uniform(np.log(0.02), np.log(5 / 0.02))
    assert stats.kstest(np.log(noise), law.cdf).pvalue > 1e-3


@pytest.mark.parametrize("noise", [(0.0, 0.01), (0.005, 0.01), (0.0, 0.02), (1.0, 1.0), (0.0, 0.0)])
def test_noise_stays_in_its_range(noise):
    drawn = draw(PatchConfig(noise=noise), 20).noise
    low, high = noise
    assert ((low * (1 - 1e-12) <= drawn) & (drawn <= high * (1 + 1e-12))).all()  # exp(log(x)) is x to rounding


def test_one_of_several_quanta_and_full_scales_is_drawn():
    patches = draw(PatchConfig(quantum=(0.0, 1.0), full_scale=(0.0, 200.0)))
    assert set(patches.full_scale.tolist()) == {200.0, np.inf}
    whole = (patches.image == np.round(patches.image)).all(axis=(1, 2))
    assert 0.4 < whole.mean() < 0.6
    assert (patches.image.max(axis=(1, 2)) <= patches.full_scale).all()


def test_the_training_scene_covers_every_test_condition():
    for config in CONDITIONS.values():
        assert CSIST_TRAINING.noise[0] <= config.noise[0] <= CSIST_TRAINING.noise[1]
        assert set(config.quantum) <= set(CSIST_TRAINING.quantum)
        assert set(config.full_scale) <= set(CSIST_TRAINING.full_scale)
        assert CSIST_TRAINING.box_start[0] <= config.box_start[0] <= CSIST_TRAINING.box_start[1]


def test_sensor_patches_keep_their_bounds():
    patches = draw(SENSOR_TRAINING)
    radiance = patches.radiance[used(patches)]
    assert 60 <= radiance.min() < 70 < 240 < radiance.max() <= 250
    for column in (patches.x, patches.y):
        values = np.where(used(patches), column, np.nan)
        assert np.nanmin(values) >= 2 - 1
        assert np.nanmax(values) <= 8 + 1
        assert np.nanmax(np.nanmax(values, axis=1) - np.nanmin(values, axis=1)) <= 1


# Randomness


def test_one_seed_gives_the_same_patches_and_another_does_not():
    first, again, other = draw(SENSOR_TRAINING, 30), draw(SENSOR_TRAINING, 30), draw(SENSOR_TRAINING, 30, seed=2)
    for field in fields(Patches):
        assert_array_equal(getattr(first, field.name), getattr(again, field.name))
    assert (first.image != other.image).any()


def test_no_patches_are_an_empty_set():
    patches = draw(PatchConfig(), 0)
    assert len(patches) == 0
    assert patches.image.shape == (0, 11, 11)


def test_a_negative_number_is_refused():
    with pytest.raises(InputError, match="-1"):
        draw(PatchConfig(), -1)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(count=st.lists(st.integers(1, 5), min_size=1, max_size=20), separation=st.floats(0, 0.6))
def test_offsets_are_in_the_unit_square_apart_and_as_many_as_asked(count, separation):
    points = draw_offsets(np.array(count), separation, np.random.default_rng(1))
    assert points.shape == (len(count), 5, 2)
    assert_array_equal((~np.isnan(points)).all(-1).sum(-1), count)
    for k, group in zip(count, points):
        assert np.isnan(group[k:]).all()
        assert ((group[:k] >= 0) & (group[:k] <= 1)).all()
        distance = np.linalg.norm(group[:k, None] - group[None, :k], axis=-1)[~np.eye(k, dtype=bool)]
        assert (distance >= separation - 1e-12).all()


def test_no_offsets_are_drawn_for_a_count_of_0():
    points = draw_offsets(np.array([0, 2]), 0.5, np.random.default_rng(1))
    assert np.isnan(points[0]).all()
    assert (~np.isnan(points[1])).all(-1).sum() == 2


def test_five_targets_find_room_at_a_separation_of_0_6():
    patches = draw(PatchConfig(targets=(5, 5), separation=0.6), 5)
    assert (patches.count == 5).all()


# Settings


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"targets": (0, 5)}, "targets"),
        ({"targets": (1, 6)}, "targets"),
        ({"targets": (4, 2)}, "targets"),
        ({"separation": -0.1}, "separation"),
        ({"separation": 0.7}, "separation"),
        ({"base": (-1, 8)}, "base"),
        ({"base": (2, 11)}, "base"),
        ({"size": 8}, "base"),
        ({"sigma": (0.0, 0.5)}, "sigma"),
        ({"radiance": (0.0, 250.0)}, "radiance"),
        ({"radiance": (250.0, 220.0)}, "radiance"),
        ({"noise": (-1.0, 1.0)}, "noise"),
        ({"box_start": (0.0, -0.4)}, "box_start"),
        ({"slope": (1.0, 0.0)}, "slope"),
        ({"background": (float("nan"), 0.0)}, "background"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(change, name):
    with pytest.raises(InputError, match=name):
        replace(PatchConfig(), **change)
