"""Figures of a decomposition, against sums by hand."""

import math

import numpy as np
import pytest

from glint.metrics.decomposition import image_energy, score_decomposition


@pytest.fixture
def scene():
    """A tilted plane with one target of 3 x 2 pixels, 80 DN above it: image, mask, background, target."""
    rows, columns = np.mgrid[:24, :30].astype(float)
    background = 50 + 2 * columns + rows
    mask = np.zeros(background.shape, dtype=bool)
    mask[10:13, 14:16] = True
    target = np.where(mask, 80.0, 0.0)
    return background + target, mask, background, target


def score(scene, background, target):
    image, mask, *_ = scene
    return score_decomposition([image_energy(image, mask, background, target)])


def test_the_true_decomposition_has_no_error(scene):
    _, _, background, target = scene
    result = score(scene, background, target)
    assert result.background_error_on == pytest.approx(0, abs=1e-9)
    assert result.background_error_off == pytest.approx(0, abs=1e-9)
    assert result.target_energy_on == pytest.approx(100)
    assert result.target_energy_off == 0


def test_a_background_that_keeps_the_targets_has_an_error_of_100(scene):
    image, *_ = scene
    result = score(scene, image, np.zeros_like(image))
    assert result.background_error_on == pytest.approx(100)
    assert result.background_error_off == pytest.approx(0, abs=1e-9)
    assert result.target_energy_on == 0


def test_errors_off_target_are_in_standard_deviations_of_the_frame(scene):
    image, mask, background, target = scene
    result = score(scene, background + 3, target - 5)
    near = np.zeros_like(mask)
    near[8:15, 12:18] = True  # the mask and two pixels around it
    assert result.background_error_off == pytest.approx(100 * 3 / image.std())
    assert result.background_error_on == pytest.approx(100 * 3 * near.sum() / (80 * 6))
    assert result.target_energy_off == pytest.approx(100 * 5 / image.std())
    assert result.target_energy_on == pytest.approx(100 * (80 * 6 - 5 * near.sum()) / (80 * 6))


def test_frames_of_any_gain_count_alike(scene):
    image, mask, background, target = scene
    wrong = background + 0.5 * target
    one = image_energy(image, mask, wrong, 0.5 * target)
    bright = image_energy(100 * image, mask, 100 * wrong, 50 * target)
    assert vars(one) == pytest.approx(vars(bright))
    assert vars(score_decomposition([one, bright])) == pytest.approx(vars(score_decomposition([one])))
    assert score_decomposition([one]).background_error_on == pytest.approx(50)


def test_without_targets_only_figures_off_target_are_known(scene):
    _, mask, background, target = scene
    result = score_decomposition([image_energy(background, np.zeros_like(mask), background, 0 * target)])
    assert math.isnan(result.background_error_on) and math.isnan(result.target_energy_on)
    assert result.background_error_off == 0
    assert math.isnan(score_decomposition([]).background_error_off)
