"""Patches simulated in PyTorch are those of NumPy: same images from the same draws, same laws of the draws."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from glint.errors import InputError
from glint.optics import Psf
from glint.processing import crop, grid
from glint.processing.normalise import Normaliser
from glint.simulation import patches
from glint.simulation.patches import CONDITIONS, CSIST_TRAINING, SENSOR_TRAINING, PatchConfig, Patches
from glint.training.networks.dscsnet import DSCSNetConfig
from glint.training.tasks import torch_patches as simulation
from glint.training.tasks.unmixing import DOMAINS, UNKNOWN_FULL_SCALE_SHARE, UnmixingTask

NUMBER = 4000


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(config, number=NUMBER, seed=1) -> Patches:
    """Patches of PyTorch, as NumPy arrays."""
    drawn = simulation.draw_patches(config, number, generator(seed))
    return Patches(**{f.name: getattr(drawn, f.name).numpy() for f in fields(Patches)})


def clean(drawn: Patches):
    """What the optical model alone makes of the drawn targets."""
    shape = drawn.image.shape[1:]
    rows = zip(drawn.sigma, drawn.x, drawn.y, drawn.radiance)
    return np.array([Psf(float(sigma)).render(x, y, radiance, shape) for sigma, x, y, radiance in rows])


def nearest(drawn: Patches, k: int):
    """Least distance between two targets in each patch of k."""
    rows = drawn.count == k
    x, y = drawn.x[rows, :k], drawn.y[rows, :k]
    distance = np.hypot(x[:, :, None] - x[:, None], y[:, :, None] - y[:, None])
    return distance[:, ~np.eye(k, dtype=bool)].min(axis=1)


# Images


def test_the_fields_have_the_types_of_the_numpy_simulator():
    ours, theirs = draw(SENSOR_TRAINING, 5), patches.simulate_patches(SENSOR_TRAINING, 5, np.random.default_rng(1))
    for field in fields(Patches):
        a, b = getattr(ours, field.name), getattr(theirs, field.name)
        assert (a.shape, a.dtype) == (b.shape, b.dtype), field.name


@pytest.mark.parametrize("sigma", [(0.5, 0.5), (0.4, 0.8)])
def test_the_image_is_the_rendered_truth(sigma):
    drawn = draw(replace(PatchConfig(), sigma=sigma), 300)
    assert_allclose(drawn.image, clean(drawn), rtol=1e-5, atol=1e-9)


def test_quantisation_and_saturation_are_those_of_the_conditions():
    for name, expected in (("8bit", lambda i: np.round(i)), ("8sat", lambda i: np.minimum(np.round(i), 255))):
        drawn = draw(CONDITIONS[name], 300)
        assert_array_equal(drawn.image, expected(clean(drawn)))


def test_background_and_slope_are_added():
    drawn = draw(PatchConfig(background=(5.0, 5.0), slope=(0.25, 0.25)), 20)
    row, column = np.mgrid[:11, :11]
    plane = 5 + 0.25 * (column - 5) + 0.25 * (row - 5)
    assert_allclose(drawn.image - clean(drawn), np.broadcast_to(plane, (20, 11, 11)), atol=1e-4)


def test_noise_is_white_and_of_the_drawn_level():
    drawn = draw(PatchConfig(noise=(0.0, 5.0)), 300)
    residual = (drawn.image - clean(drawn)) / drawn.noise[:, None, None]
    clear = drawn.noise > 0.1  # below, float32 rounds it away
    assert stats.kstest(residual[clear].ravel(), "norm").pvalue > 1e-3
    neighbours = np.corrcoef(residual[clear][:, :, 1:].ravel(), residual[clear][:, :, :-1].ravel())[0, 1]
    assert abs(neighbours) < 4 / np.sqrt(residual[clear].size)


# Distributions


@pytest.fixture(scope="module", params=["csist", "sensor"])
def both(request):
    scene = DOMAINS[request.param][0]
    return draw(scene, seed=3), patches.simulate_patches(scene, NUMBER, np.random.default_rng(4))


@pytest.mark.parametrize("name", ["count", "full_scale"])
def test_choices_are_drawn_equally_often(both, name):
    values = [np.nan_to_num(getattr(b, name), posinf=-1) for b in both]
    kinds = np.unique(values[1])
    table = [[np.sum(v == kind) for kind in kinds] for v in values]
    assert np.sum(table[0]) == NUMBER
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_steps_of_the_converter_are_drawn_equally_often(both):
    # A patch digitised in whole numbers is also one of 64ths, and a plain one is neither.
    table = [[np.sum((d.image * n == np.round(d.image * n)).all((1, 2))) for n in (1, 64)] for d in both]
    whole, fine = np.transpose(table)
    assert stats.chi2_contingency([whole, fine - whole, NUMBER - fine]).pvalue > 1e-3


@pytest.mark.parametrize("name", ["sigma", "noise", "background"])
def test_values_per_patch_have_one_law(both, name):
    assert stats.ks_2samp(*(getattr(b, name) for b in both)).pvalue > 1e-3


@pytest.mark.parametrize("name", ["x", "y", "radiance"])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_targets_have_one_law_for_every_count_and_slot(both, name, k):
    for slot in range(k):
        samples = [getattr(b, name)[b.count == k, slot] for b in both]
        assert stats.ks_2samp(*samples).pvalue > 1e-3
    assert all(not getattr(b, name)[b.count == k, k:].any() for b in both)


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_separations_have_one_law(both, k):
    ours, theirs = (nearest(b, k) for b in both)
    assert ours.min() >= 0.5 and ours.min() < 0.51
    assert stats.ks_2samp(ours, theirs).pvalue > 1e-3


def test_boxes_start_where_the_scene_says():
    # The middle of the targets tells base pixel and start together; five targets fill their box.
    scene = replace(SENSOR_TRAINING, targets=(5, 5))
    ours, theirs = draw(scene, seed=5), patches.simulate_patches(scene, NUMBER, np.random.default_rng(6))
    for name in ("x", "y"):
        middles = [(getattr(d, name).min(1) + getattr(d, name).max(1)) / 2 for d in (ours, theirs)]
        assert stats.ks_2samp(*middles).pvalue > 1e-3
        assert stats.ks_2samp(*(np.mod(m, 1) for m in middles)).pvalue > 1e-3
        # Targets of one patch share one box.
        assert np.ptp(getattr(ours, name), axis=1).max() <= 1


def test_base_pixels_are_drawn_equally_often():
    drawn = draw(PatchConfig(), seed=7)
    for column in (drawn.x, drawn.y):
        base = np.floor(column[:, 0] + 0.4).astype(int)
        assert stats.chisquare(np.bincount(base, minlength=9)[2:]).pvalue > 1e-3
        assert base.min() == 2 and base.max() == 8


def test_slopes_are_uniform_and_independent():
    drawn = draw(PatchConfig(slope=(-0.5, 0.5)), 1000)
    residual = drawn.image - clean(drawn)
    along_x, along_y = (residual[:, 5, 10] - residual[:, 5, 0]) / 10, (residual[:, 10, 5] - residual[:, 0, 5]) / 10
    for slope in (along_x, along_y):
        assert stats.kstest(slope, stats.uniform(-0.5, 1).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(along_x, along_y)[0, 1]) < 4 / np.sqrt(1000)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(count=st.lists(st.integers(1, 5), max_size=20), separation=st.floats(0, 0.6), seed=st.integers(0, 2**63 - 1))
def test_offsets_are_in_the_unit_square_and_apart(count, separation, seed):
    points = simulation.draw_offsets(torch.tensor(count, dtype=torch.int64), separation, generator(seed)).numpy()
    assert points.shape == (len(count), 5, 2)
    for k, group in zip(count, points):
        assert ((group[:k] >= 0) & (group[:k] <= 1)).all()
        distance = np.linalg.norm(group[:k, None] - group[None, :k], axis=-1)[~np.eye(k, dtype=bool)]
        assert (distance >= separation - 1e-12).all()


def test_one_seed_gives_the_same_patches_and_another_does_not():
    first, again, other = (draw(SENSOR_TRAINING, 30, seed) for seed in (1, 1, 2))
    for field in fields(Patches):
        assert_array_equal(getattr(first, field.name), getattr(again, field.name))
    assert (first.image != other.image).any()


# What the network sees


@pytest.mark.parametrize("scene", [CSIST_TRAINING, SENSOR_TRAINING])
@pytest.mark.parametrize("size", [5, 7, 9, 11])
def test_the_same_images_are_cut_alike(scene, size):
    image = patches.simulate_patches(scene, 2000, np.random.default_rng(8)).image
    for ours, theirs in zip(simulation.recentre(torch.from_numpy(image), size), crop.recentre(image, size)):
        assert_array_equal(ours.numpy(), theirs)


def test_flat_and_empty_patches_are_cut_alike():
    image = np.stack([np.zeros((11, 11)), np.full((11, 11), 7.0), np.full((11, 11), -3.0)]).astype(np.float32)
    for ours, theirs in zip(simulation.recentre(torch.from_numpy(image), 7), crop.recentre(image, 7)):
        assert_array_equal(ours.numpy(), theirs)


def test_a_crop_larger_than_the_patch_is_refused():
    with pytest.raises(InputError, match="13"):
        simulation.recentre(torch.zeros(2, 11, 11), 13)


@pytest.mark.parametrize("normaliser", [Normaliser("fixed", 235.0), Normaliser("peak", 1.0), Normaliser("peak", 300.0)])
def test_the_same_crops_are_normalised_alike(normaliser):
    image = patches.simulate_patches(SENSOR_TRAINING, 200, np.random.default_rng(9)).image
    value, scale = simulation.normalise(torch.from_numpy(image), normaliser)
    expected = normaliser.apply(image)
    assert_array_equal(value.numpy(), expected.value)
    assert_array_equal(scale.numpy(), expected.scale)


def test_a_normaliser_with_an_offset_is_refused():
    with pytest.raises(InputError, match="standard"):
        simulation.normalise(torch.zeros(2, 7, 7), Normaliser("standard"))


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    # Coarse coordinates: targets often share a cell, and some lie outside.
    place=hnp.arrays(np.float64, (4, 5, 2), elements=st.integers(-30, 90).map(lambda v: v / 10)),
    radiance=hnp.arrays(np.float64, (4, 5), elements=st.sampled_from([0.0, 60.0, 100.5, 250.0])),
)
def test_the_same_targets_are_encoded_alike(place, radiance):
    x, y = place[..., 0], place[..., 1]
    ours = simulation.encode(*(torch.from_numpy(np.ascontiguousarray(v)) for v in (x, y, radiance)), 7, 3)
    assert_array_equal(ours.numpy(), grid.encode(x, y, radiance, 7, 3))


@pytest.mark.parametrize("domain", ["csist", "sensor"])
def test_a_batch_shows_the_network_what_the_runtime_shows_it(domain):
    task = UnmixingTask("dscsnet-s", DSCSNetConfig(size=7, channels=4, hidden=8, stages=2, memory=1), domain)
    batch = {k: v.numpy() for k, v in task.batch(500, np.random.default_rng(10), torch.device("cpu")).items()}
    drawn = draw(task.scene, 500, int(np.random.default_rng(10).integers(2**63)))
    value, scale, left, top = task.prepare(drawn)
    assert_array_equal(batch["patch"][:, 0], value[:, 0])
    assert_array_equal(batch["scale"][:, 0], scale)
    saturated = value[:, 1].any(axis=(1, 2))
    told = (batch["patch"][:, 1] == value[:, 1]).all(axis=(1, 2))
    assert not batch["patch"][~told, 1].any()  # the whole patch is told or not
    assert stats.binomtest(int((saturated & ~told).sum()), int(saturated.sum()), UNKNOWN_FULL_SCALE_SHARE).pvalue > 1e-3
    truth = grid.encode(drawn.x - left[:, None], drawn.y - top[:, None], drawn.radiance, 7, 3)
    assert_array_equal(batch["grid"][:, 0], truth)
    used = drawn.radiance > 0
    assert_array_equal(batch["radiance"], drawn.radiance.astype(np.float32))
    for name, column, first in (("x", drawn.x, left), ("y", drawn.y, top)):
        assert_allclose(batch[name][used], (column - first[:, None])[used], rtol=1e-6, atol=1e-6)
        assert (batch[name][~used] < -1).all()  # outside every crop
