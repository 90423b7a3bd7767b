"""Continuing a background under what covers it."""

import numpy as np
import pytest

from glint.errors import InputError
from glint.processing.inpaint import background_under, inpaint


def test_inpainting_continues_harmonic_images_exactly():
    y, x = np.mgrid[:20, :24].astype(float)
    image = x**2 - y**2 + 3 * x  # its discrete Laplacian is zero
    hole = np.zeros(image.shape, dtype=bool)
    hole[5:11, 7:14] = True
    spoilt = np.where(hole, -1000.0, image)
    assert np.abs(inpaint(spoilt, hole) - image).max() < 1e-9


def test_inpainting_changes_nothing_outside_the_hole_and_needs_some_outside():
    image = np.random.default_rng(0).random((8, 8))
    hole = np.zeros((8, 8), dtype=bool)
    hole[0, :3] = True  # at the frame's edge
    filled = inpaint(image, hole)
    assert np.array_equal(filled[~hole], image[~hole])
    assert filled[hole].min() >= image.min() and filled[hole].max() <= image.max()
    with pytest.raises(InputError):
        inpaint(image, np.ones((8, 8), dtype=bool))


def test_the_background_under_a_target_is_continued_from_beyond_its_blur():
    rows, columns = np.mgrid[:30, :32].astype(float)
    plane = 2 * columns - rows
    mask = np.zeros(plane.shape, dtype=bool)
    mask[12:14, 9:12] = True
    spoilt = plane.copy()
    spoilt[10:16, 7:14] = 900  # the target and two pixels around it
    assert np.abs(background_under(spoilt, mask) - plane).max() < 1e-9
