"""The level at which patches are clipped, from the patches themselves."""

from __future__ import annotations

import numpy as np
import pytest

from glint.runtime.unmixing.windows import clipping_level
from glint.simulation.patches import CONDITIONS, simulate_patches


def patches_of(condition: str, number: int = 200) -> np.ndarray:
    return simulate_patches(CONDITIONS[condition], number, np.random.default_rng(2)).image.astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1.0, 1 / 255, 64.0, 16383 / 255])
def test_clipped_patches_are_recognised_in_any_unit(scale: float, dtype: type) -> None:
    patches = patches_of("8sat").astype(dtype) * dtype(scale)
    assert clipping_level(patches) == patches.max()


@pytest.mark.parametrize("condition", ["float", "14bit", "8bit", "n1", "n5"])
@pytest.mark.parametrize("number", [3, 20, 200])
def test_brightest_pixels_alone_are_no_clipping(condition: str, number: int) -> None:
    assert clipping_level(patches_of(condition, number)) is None


def test_patches_over_their_own_peak_are_not_clipped() -> None:
    patches = patches_of("n1")
    assert clipping_level(patches / patches.max(axis=(1, 2), keepdims=True)) is None


@pytest.mark.parametrize("patches", [np.zeros((5, 11, 11)), np.full((5, 11, 11), 7.0), np.zeros((0, 11, 11))])
def test_patches_of_nothing_are_not_clipped(patches: np.ndarray) -> None:
    assert clipping_level(patches) is None
