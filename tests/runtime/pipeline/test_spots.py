"""Patches around blobs, cut out of the residual, and the noise of their surroundings."""

from __future__ import annotations

import numpy as np
import pytest
from sloping_sky import SHAPE, Render, as_frame, plane

from glint.runtime.pipeline.detector import Detection, find_blobs
from glint.runtime.pipeline.spots import cut_spots, local_noise
from glint.types import Blobs


def detect(image: np.ndarray, background: np.ndarray, light: np.ndarray, level: float = 5.0) -> Detection:
    """A detection made by hand: blobs where the true light exceeds a level."""
    probability = (light > level).astype(np.float32)
    residual = (image - background).astype(np.float32)
    return Detection(find_blobs(probability, residual.__getitem__, 0.5), probability, residual)


def test_patches_lie_around_the_blobs(render: Render) -> None:
    light = render([(20, 30, 400), (50, 12, 300)], SHAPE)
    spots = cut_spots(as_frame(plane() + light), detect(plane() + light, plane(), light), 11)
    assert spots.patches.shape == spots.valid.shape == (2, 11, 11)
    assert sorted(zip(spots.left.tolist(), spots.top.tolist())) == [(15, 25), (45, 7)]
    for patch, left, top in zip(spots.patches, spots.left, spots.top):
        assert patch == pytest.approx(light[top : top + 11, left : left + 11], abs=0.02)


def test_light_that_the_network_took_for_background_is_given_back(render: Render) -> None:
    light = render([(30.3, 20.6, 500)], SHAPE)
    image = plane() + light
    spots = cut_spots(as_frame(image), detect(image, plane() + 0.3 * light, light), 11)
    left, top = spots.left[0], spots.top[0]
    assert spots.patches[0] == pytest.approx(light[top : top + 11, left : left + 11], abs=0.5)
    assert spots.patches[0].sum() == pytest.approx(500, rel=0.01)


def test_the_background_is_continued_from_a_plane_not_a_constant(render: Render) -> None:
    light = render([(30, 20, 300)], SHAPE)
    steep = 6 * plane()
    spots = cut_spots(as_frame(steep + light), detect(steep + light, steep, light), 11)
    assert spots.patches[0] == pytest.approx(light[15:26, 25:36], abs=0.05)


def test_pixels_of_another_blob_are_blanked_and_not_valid(render: Render) -> None:
    near = render([(30, 20, 500)], SHAPE)
    far = render([(34, 21, 700)], SHAPE)
    image = plane() + near + far
    detection = detect(image, plane(), near + far)
    assert len(detection.blobs) == 2
    spots = cut_spots(as_frame(image), detection, 11)
    for i, (left, top) in enumerate(zip(spots.left, spots.top)):
        label = detection.blobs.label_map[top : top + 11, left : left + 11]
        own, foreign = label == i + 1, (label != 0) & (label != i + 1)
        assert foreign.any()
        assert not spots.patches[i][foreign].any()
        assert not spots.valid[i][foreign].any()
        assert spots.valid[i][own].all()
        assert not spots.valid[i].all()  # far from the blob nothing of it is left to fit


def test_a_large_blob_keeps_the_light_of_its_own_mask(render: Render) -> None:
    light = render([(30, 20, 3000)], SHAPE, 2.0)
    image = plane() + light
    spots = cut_spots(as_frame(image), detect(image, plane(), light, 20), 11)
    assert spots.patches[0].max() == pytest.approx(light.max(), rel=0.1)


def test_patches_beyond_the_edge_replicate_it(render: Render) -> None:
    light = render([(1, 2, 400)], SHAPE)
    image = np.full(SHAPE, 100.0) + light
    spots = cut_spots(as_frame(image), detect(image, np.full(SHAPE, 100.0), light), 11)
    assert (spots.left[0], spots.top[0]) == (-4, -3)
    assert np.isfinite(spots.patches).all()
    assert spots.patches[0, 3:, 4:] == pytest.approx(light[:8, :7], abs=0.5)


def test_without_a_label_map_the_residual_is_cut_as_it_is(render: Render) -> None:
    light = render([(30, 20, 400)], SHAPE).astype(np.float32)
    blobs = Blobs([30.2], [19.8], [5], [0.9])
    spots = cut_spots(as_frame(plane() + light), Detection(blobs, light, light), 11)
    assert np.array_equal(spots.patches[0], light[15:26, 25:36])
    assert spots.valid.all()


def test_no_blobs_give_an_empty_stack() -> None:
    image = plane()
    spots = cut_spots(as_frame(image), detect(image, image, np.zeros(SHAPE)), 11)
    assert spots.patches.shape == (0, 11, 11)
    assert len(spots.left) == len(spots.top) == 0


@pytest.mark.parametrize("sigma", [0.7, 3.0, 40.0])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_local_noise_is_the_noise_that_was_added(sigma: float, dtype: type) -> None:
    rng = np.random.default_rng(0)
    image = (1000 + 10 * plane((128, 128)) + rng.normal(0, sigma, (128, 128))).astype(dtype)
    x, y = (rng.uniform(15, 112, 40) for _ in range(2))
    rounding = 0.29 if dtype == np.uint16 else 0
    assert np.median(local_noise(image, x, y)) == pytest.approx(np.hypot(sigma, rounding), rel=0.1)


def test_local_noise_sees_neither_an_edge_nor_the_target_itself(render: Render) -> None:
    image = np.random.default_rng(1).normal(0, 2, SHAPE) + render([(30, 24, 2000)], SHAPE)
    image[:, 33:] += 150  # a straight skyline
    assert local_noise(image, np.array([30.0]), np.array([24.0]))[0] == pytest.approx(2, rel=0.3)


def test_local_noise_is_that_of_the_neighbourhood() -> None:
    image = np.random.default_rng(2).normal(0, 1, (60, 120))
    image[:, 60:] *= 8
    quiet, loud = local_noise(image, np.array([25.0, 95.0]), np.array([30.0, 30.0]))
    assert loud == pytest.approx(8 * quiet, rel=0.3)


def test_local_noise_of_no_positions_is_empty() -> None:
    assert local_noise(plane(), np.zeros(0), np.zeros(0)).shape == (0,)
