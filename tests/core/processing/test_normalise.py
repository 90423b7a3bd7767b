"""From DN to network units and back."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from glint.errors import InputError
from glint.processing.normalise import KINDS, Normaliser

quick = settings(deadline=None, max_examples=40, derandomize=True)
patch = np.random.default_rng(1).uniform(10, 250, (3, 6, 7))


def test_fixed_divides_by_its_scale():
    result = Normaliser("fixed", 50.0).apply(np.array([[[100, 25], [0, 50]]], dtype=np.uint8))
    assert result.value.tolist() == [[[2, 0.5], [0, 1]]]
    assert result.value.dtype == np.float32
    assert (result.offset.tolist(), result.scale.tolist()) == ([[[0]]], [[[50]]])


def test_peak_brings_the_brightest_pixel_of_every_patch_to_1():
    result = Normaliser("peak").apply(patch)
    assert_array_equal(result.value.max(axis=(1, 2)), 1)
    assert_allclose(result.value, patch / patch.max(axis=(1, 2), keepdims=True), rtol=1e-6)


def test_peak_does_not_blow_up_a_dark_patch():
    result = Normaliser("peak", 4.0).apply(np.array([[[1.0, 2.0]], [[-8.0, -9.0]]]))
    assert result.value.tolist() == [[[0.25, 0.5]], [[-2.0, -2.25]]]


def test_standard_has_mean_0_and_deviation_1():
    result = Normaliser("standard").apply(patch)
    assert_allclose(result.value.mean(axis=(1, 2)), 0, atol=1e-6)
    assert_allclose(result.value.std(axis=(1, 2)), 1, rtol=1e-6)


def test_standard_of_a_constant_frame_is_0():
    result = Normaliser("standard", 1.0).apply(np.full((5, 5), 77, dtype=np.uint16))
    assert not result.value.any()
    assert (result.offset, result.scale) == (77, 1)


def test_standard_loses_no_digits_on_large_16_bit_frames():
    data = np.random.default_rng(2).integers(60000, 60100, (1024, 1280)).astype(np.uint16)
    result = Normaliser("standard").apply(data)
    whole = data.astype(object)  # Python's integers: exact
    mean = whole.sum() / data.size
    spread = math.sqrt(int(((whole - 60050) ** 2).sum()) / data.size - (mean - 60050) ** 2)
    assert result.offset.item() == np.float32(mean)
    assert result.scale.item() == pytest.approx(spread, rel=1e-6)


@quick
@given(gain=st.floats(0.01, 100), offset=st.floats(-1000, 1000))
def test_standard_knows_neither_gain_nor_offset_and_peak_no_gain(gain, offset):
    # float32 data hold about 1e-7 of the offset: 1e-4 DN of a spread of 0.7 DN at the least.
    moved = Normaliser("standard", 1e-6).apply(gain * patch + offset)
    assert_allclose(moved.value, Normaliser("standard", 1e-6).apply(patch).value, atol=1e-3)
    scaled = Normaliser("peak", 1e-6).apply(gain * patch)
    assert_allclose(scaled.value, Normaliser("peak", 1e-6).apply(patch).value, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_value_times_scale_plus_offset_is_the_data(kind, dtype):
    data = patch.astype(dtype)
    result = Normaliser(kind, 3.0).apply(data)
    assert result.offset.shape == result.scale.shape == (3, 1, 1)
    assert_allclose(result.value * result.scale + result.offset, data, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_data_are_left_alone(kind):
    data = patch.astype(np.float32)
    before = data.copy()
    Normaliser(kind, 2.0).apply(data)
    assert_array_equal(data, before)


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="fixed, peak, standard, got 'minmax'"):
        Normaliser("minmax")


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_a_scale_must_be_finite_and_positive(scale):
    with pytest.raises(InputError, match="scale"):
        Normaliser("fixed", scale)
