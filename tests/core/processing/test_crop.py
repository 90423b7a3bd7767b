"""Cutting and re-centring patches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_array_equal

from glint.errors import InputError
from glint.optics import Psf
from glint.processing.crop import border_level, crop_windows, recentre

quick = settings(deadline=None, max_examples=40, derandomize=True)


def test_a_window_inside_is_a_slice():
    image = np.arange(42, dtype=np.uint16).reshape(6, 7)
    windows = crop_windows(image, [2, 0], [1, 3], 3)
    assert windows.dtype == np.uint16
    assert_array_equal(windows[0], image[1:4, 2:5])
    assert_array_equal(windows[1], image[3:6, 0:3])


@quick
@given(left=st.integers(-20, 20), top=st.integers(-20, 20), size=st.integers(1, 9))
def test_windows_over_the_edge_are_those_of_a_padded_image(left, top, size):
    image = np.arange(42.0).reshape(6, 7)
    padded = np.pad(image, 40, mode="edge")
    expected = padded[40 + top : 40 + top + size, 40 + left : 40 + left + size]
    assert_array_equal(crop_windows(image, [left], [top], size)[0], expected)


def test_no_windows_are_an_empty_array():
    assert crop_windows(np.zeros((6, 7)), [], [], 3).shape == (0, 3, 3)


def test_border_level_is_the_median_of_the_outermost_ring():
    patch = np.full((5, 5), 100.0)
    ring = [(0, i) for i in range(5)] + [(4, i) for i in range(5)] + [(i, j) for i in (1, 2, 3) for j in (0, 4)]
    for value, pixel in enumerate(ring):
        patch[pixel] = value
    assert border_level(patch[None]).tolist() == [7.5]  # median of 0..15


def test_border_level_ignores_a_spot_on_part_of_the_border():
    patch = np.full((1, 11, 11), 20.0)
    patch[0, :4, :4] = 500
    assert border_level(patch).tolist() == [20.0]


def test_a_crop_of_the_same_size_is_the_patch():
    patches = np.random.default_rng(1).random((3, 7, 7))
    crops, left, top = recentre(patches, 7)
    assert_array_equal(crops, patches)
    assert left.tolist() == top.tolist() == [0, 0, 0]


def test_column_and_row_of_the_crop_follow_x_and_y():
    patch = Psf(0.5).render([6.0], [4.0], [200.0], (11, 11))
    crops, left, top = recentre(patch[None], 5)
    assert (left.tolist(), top.tolist()) == ([4], [2])
    assert_array_equal(crops[0], patch[2:7, 4:9])


@quick
@given(
    x=st.floats(3, 7),
    y=st.floats(3, 7),
    background=st.floats(-50, 200),
    size=st.sampled_from([5, 7]),
    gain=st.floats(1, 99),
)
def test_a_spot_comes_to_lie_within_a_pixel_of_the_centre_whatever_its_background(x, y, background, size, gain):
    patch = background + Psf(0.5).render([x], [y], [200.0 * gain], (11, 11))
    crops, left, top = recentre(patch[None], size)
    assert crops.shape == (1, size, size)
    # Half a pixel of rounding, and the pull of the level on the centroid of an undersampled spot.
    assert abs(x - left[0] - (size - 1) / 2) < 1
    assert abs(y - top[0] - (size - 1) / 2) < 1
    assert_array_equal(crops[0], patch[top[0] : top[0] + size, left[0] : left[0] + size])


@pytest.mark.parametrize("corner", [0, 10])
def test_a_spot_in_a_corner_gets_the_last_crop_that_fits(corner):
    patch = np.zeros((1, 11, 11))
    patch[0, corner, corner] = 9
    _, left, top = recentre(patch, 7)
    assert left.tolist() == top.tolist() == [min(corner, 4)]


def test_each_patch_is_moved_on_its_own():
    patches = np.stack([Psf().render([x], [y], [200.0], (11, 11)) for x, y in [(3, 7), (7, 3), (5, 5)]])
    crops, left, top = recentre(patches, 7)
    assert (left.tolist(), top.tolist()) == ([0, 4, 2], [4, 0, 2])
    assert_array_equal(crops[0], crops[1])
    assert_array_equal(crops[0], crops[2])


def test_a_crop_larger_than_the_patch_is_refused():
    with pytest.raises(InputError, match=r"12 pixels .* 11"):
        recentre(np.zeros((1, 11, 11)), 12)


@quick
@given(patches=arrays(np.uint16, st.tuples(st.integers(0, 5), st.just(9), st.just(9))), size=st.integers(1, 8))
def test_crops_are_slices_of_each_patch_and_copies(patches, size):
    crops, left, top = recentre(patches, size)
    assert crops.shape == (len(patches), size, size) and crops.dtype == np.uint16
    for patch, crop, x, y in zip(patches, crops, left, top):
        assert_array_equal(crop, patch[y : y + size, x : x + size])
    assert not np.shares_memory(crops, patches)


@pytest.mark.parametrize("size", [5, 7, 11])
def test_further_channels_are_cut_like_the_first_and_have_no_say(size):
    patches = np.stack([Psf().render([x], [y], [200.0], (11, 11)) for x, y in [(3, 7), (7, 3), (5, 5)]])
    other = np.random.default_rng(0).random(patches.shape) * 1e4
    alone, left, top = recentre(patches, size)
    both, left_both, top_both = recentre(np.stack([patches, other], axis=1), size)
    assert both.shape == (3, 2, size, size)
    assert (left.tolist(), top.tolist()) == (left_both.tolist(), top_both.tolist())
    assert_array_equal(both[:, 0], alone)
    assert_array_equal(both[:, 1], [o[y : y + size, x : x + size] for o, x, y in zip(other, left, top)])


@pytest.mark.parametrize("shape", [(0, 11, 11), (0, 2, 11, 11)])
def test_no_patches_are_recentred_to_none(shape):
    crops, left, top = recentre(np.zeros(shape, np.float32), 7)
    assert crops.shape == (*shape[:-2], 7, 7)
    assert len(left) == len(top) == 0


@pytest.mark.parametrize("level", [0.0, -30.0, 1e4])
def test_a_flat_patch_is_cut_in_its_middle(level):
    _, left, top = recentre(np.full((1, 11, 11), level), 7)
    assert (left.tolist(), top.tolist()) == ([2], [2])


def test_precision_is_kept():
    for dtype in (np.float32, np.float64):
        assert recentre(np.ones((1, 11, 11), dtype), 7)[0].dtype == dtype
