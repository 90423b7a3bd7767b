"""What grey levels are worth: frames of 8 bits in any disguise are known, others are measured by noise and range."""

import numpy as np
import pytest

from glint.depth import EIGHT_BITS, Depth, depth_of
from glint.types import Frame


def scene(seed=1, noise=1.5):
    rng = np.random.default_rng(seed)
    smooth = 60 + 30 * np.sin(np.arange(96) / 20)[:, None] + 20 * np.cos(np.arange(128) / 30)
    return np.round(smooth + noise * rng.standard_normal((96, 128)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_levels_of_eight_bits_are_worth_themselves(dtype):
    assert depth_of(scene().astype(dtype)) == EIGHT_BITS == Depth(1.0, known=True)


@pytest.mark.parametrize(("gain", "offset"), [(64, 0), (64, 21000), (3, 7), (256, 0)])
def test_a_frame_of_eight_bits_multiplied_and_shifted_is_known(gain, offset):
    assert depth_of((scene() * gain + offset).astype(np.uint16)) == Depth(gain, known=True)


@pytest.mark.parametrize(("gain", "offset"), [(1 / 255, 0.0), (0.05, 280.0), (64.0, -3000.0)])
def test_a_frame_of_eight_bits_in_floats_is_known(gain, offset):
    depth = depth_of((scene() * gain + offset).astype(np.float32))
    assert depth.known
    assert depth.unit == pytest.approx(gain, rel=1e-3)


@pytest.mark.parametrize("gain", [1.0, 1e-4, 7.3])
def test_a_deeper_frame_is_measured_by_its_noise(gain):
    rng = np.random.default_rng(3)
    depth = depth_of((gain * (5000 + 12 * rng.standard_normal((96, 128)))).astype(np.float32))
    assert not depth.known
    assert depth.unit == pytest.approx(2 * 12 * gain, rel=0.05)
    shifted = depth_of((5000 + 12 * rng.standard_normal((96, 128))).astype(np.uint16))
    assert shifted.unit == pytest.approx(24, rel=0.05)


def test_a_frame_of_little_noise_is_measured_by_its_range():
    ramp = np.linspace(0, 1, 96 * 128).reshape(96, 128).astype(np.float32)
    depth = depth_of(ramp)
    assert not depth.known
    assert depth.unit == pytest.approx(0.99 / 255, rel=0.02)


@pytest.mark.parametrize("data", [np.full((9, 9), 700.0), np.eye(9) * 3000, np.full((1, 1), 300.0)])
def test_frames_without_levels_have_a_unit_all_the_same(data):
    for dtype in (np.uint16, np.float32):
        depth = depth_of(data.astype(dtype))
        assert depth.unit > 0 and not depth.known


def test_a_frame_knows_its_depth():
    assert Frame(0, 0, scene().astype(np.uint8)).depth == EIGHT_BITS
    assert Frame(0, 0, (0.5 * scene()).astype(np.float32), full_scale=255).depth == EIGHT_BITS
    assert Frame(0, 0, (64 * scene()).astype(np.uint16)).depth.unit == 64
