"""The likelihood ratio of a point, held against least squares by NumPy."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glint.errors import InputError
from glint.optics import Psf
from glint.processing.point_evidence import PointEvidence, with_point_evidence

EVIDENCE = PointEvidence(above=0.4, least=5.0, weight=0.2)


def t_value(window: np.ndarray, variance: float) -> float:
    """The best t value of a point's radiance in 9 x 9 pixels, by a least-squares fit of point and plane."""
    row, column = np.mgrid[-4:5, -4:5]
    best = 0.0
    for sigma, x, y in itertools.product((0.5, 0.7, 1.0), (-0.25, 0.25), (-0.25, 0.25)):
        point = Psf(sigma).render(np.array([4 + x]), np.array([4 + y]), np.ones(1), (9, 9)).ravel()
        design = np.stack([np.ones(81), column.ravel(), row.ravel(), point], axis=1)
        fit, left, *_ = np.linalg.lstsq(design, window.ravel().astype(np.float64), rcond=None)
        error = np.sqrt((left[0] / 77 + variance) * np.linalg.inv(design.T @ design)[3, 3])
        best = max(best, fit[3] / error)
    return best


def scene(seed: int, radiance: float, at: tuple[int, int] = (20, 24)) -> tuple[np.ndarray, np.ndarray]:
    """A noisy slope with a point, and a probability that peaks there."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:40, :48].astype(np.float64)
    level = 50 + 0.3 * row - 0.2 * column + rng.normal(0, 1, (40, 48))
    level += Psf(0.7).render(np.array([at[1] + 0.1]), np.array([at[0] - 0.2]), np.array([radiance]), (40, 48))
    probability = np.full((40, 48), 0.2, dtype=np.float32)
    probability[at[0] - 1 : at[0] + 2, at[1] - 1 : at[1] + 2] = 0.42
    probability[at] = 0.45
    return level.astype(np.float32), probability


@given(st.integers(0, 10_000), st.floats(0, 200), st.floats(0.01, 4))
def test_gain_is_that_of_the_fit(seed: int, radiance: float, rounding: float) -> None:
    level, probability = scene(seed, radiance)
    lifted = with_point_evidence(probability, level, EVIDENCE, rounding)
    pixels = itertools.product((19, 20, 21), (23, 24, 25))
    t = max(t_value(level[r - 4 : r + 5, c - 4 : c + 5], rounding**2 / 12) for r, c in pixels)
    logit = np.log(probability / (1 - probability))
    expected = logit + 0.2 * max(0.0, t - 5.0) * (probability > 0.4)
    np.testing.assert_allclose(np.log(lifted / (1 - lifted)), expected, atol=2e-3)


def test_unit_of_the_level_does_not_matter() -> None:
    level, probability = scene(3, 60.0)
    there = with_point_evidence(probability, level, EVIDENCE, 1.0)
    for scale, offset in ((64.0, 0.0), (1 / 255, 0.0), (1.0, -50.0)):
        moved = (level.astype(np.float64) * scale + offset).astype(np.float32)
        np.testing.assert_allclose(with_point_evidence(probability, moved, EVIDENCE, scale), there, atol=1e-4)
    assert there[20, 24] > 0.6


def test_hot_pixel_is_no_point() -> None:
    level = np.zeros((40, 48), dtype=np.float32)
    level[20, 24] = 1e4
    _, probability = scene(0, 0.0)
    told = with_point_evidence(probability, level, PointEvidence(), 0.01)
    np.testing.assert_array_equal(told, probability)


def test_what_the_network_denies_stays() -> None:
    level, probability = scene(5, 300.0)
    probability[:] = np.minimum(probability, 0.39)
    np.testing.assert_array_equal(with_point_evidence(probability, level, EVIDENCE, 1.0), probability)


@pytest.mark.parametrize("at", [(0, 0), (39, 47), (1, 46), (38, 0)])
def test_edges_go_on(at: tuple[int, int]) -> None:
    level, _ = scene(1, 0.0)
    level = (level + Psf(0.7).render(np.array([at[1]]), np.array([at[0]]), np.array([150.0]), (40, 48))).astype(
        np.float32
    )
    probability = np.full((40, 48), 0.2, dtype=np.float32)
    probability[at] = 0.45
    lifted = with_point_evidence(probability, level, EVIDENCE, 1.0)
    padded = np.pad(level, 5, mode="edge")
    shifts = itertools.product((-1, 0, 1), (-1, 0, 1))
    t = max(t_value(padded[at[0] + 1 + i : at[0] + 10 + i, at[1] + 1 + j : at[1] + 10 + j], 1 / 12) for i, j in shifts)
    expected = np.log(0.45 / 0.55) + 0.2 * (t - 5)
    assert t > 6
    np.testing.assert_allclose(np.log(lifted[at] / (1 - lifted[at])), expected, atol=2e-3)


def test_one_of_equal_neighbours_is_looked_at() -> None:
    """A plateau is lifted around its first pixel alone, and sure pixels stay finite."""
    level, probability = scene(2, 120.0)
    probability[19:22, 23:26] = 1.0
    lifted = with_point_evidence(probability, level, EVIDENCE, 1.0)
    assert np.isfinite(lifted).all() and (lifted <= 1).all()
    probability[19:22, 23:26] = 0.45
    changed = np.argwhere(with_point_evidence(probability, level, EVIDENCE, 1.0) != probability)
    assert changed.min(0).tolist() == [18, 22] and changed.max(0).tolist() == [20, 24]


@pytest.mark.parametrize(
    "wrong", [{"above": 0.0}, {"above": 1.0}, {"least": 0.0}, {"weight": -1.0}, {"weight": np.nan}]
)
def test_wrong_rules_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="PointEvidence: expected"):
        PointEvidence(**wrong)
