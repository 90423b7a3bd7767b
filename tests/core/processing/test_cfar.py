"""Odds of targets against the clutter of their frame."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from glint.errors import InputError
from glint.processing.cfar import Cfar, against_clutter

RULE = Cfar(cell=4, rank=3, sure=0.8, calm=0.25, least=0.2, most=0.5)


def frame(*likely: float, shape: tuple[int, int] = (16, 20)) -> np.ndarray:
    """A frame of 0.1 with one likely pixel in each of its first cells."""
    values = np.full(shape, 0.1, dtype=np.float32)
    for i, value in enumerate(likely):
        values[4 * (i // 5) + 1, 4 * (i % 5) + 2] = value
    return values


def test_calm_frame_is_left_as_it_is():
    calm = frame(0.95, 0.7, 0.3, 0.25)
    assert against_clutter(calm, RULE) is calm


def test_odds_are_those_over_the_clutter():
    cluttered = frame(0.6, 0.45, 0.4, 0.35)  # the third cell: odds of 2/3, twice those of a calm frame
    assert RULE.odds(cluttered) == pytest.approx(0.5)
    assert against_clutter(cluttered, RULE)[1, 2] == pytest.approx(0.6 / 0.4 * 0.5 / (1 + 0.6 / 0.4 * 0.5))


def test_calmer_frames_gain_a_little():
    assert RULE.odds(frame()) == pytest.approx((1 / 3) / (1 / 4))


def test_sure_targets_are_no_clutter_and_clutter_has_an_end():
    assert RULE.odds(frame(*[0.9] * 12)) == RULE.odds(frame())
    assert RULE.odds(frame(*[0.78] * 12)) == pytest.approx(1 / 3)  # as if it were 0.5


def test_clutter_of_few_cells_is_not_known():
    assert RULE.odds(np.full((8, 4), 0.6, dtype=np.float32)) == 1.0


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.floats(0, 1, width=32)))
def test_order_stays(probability):
    held = against_clutter(probability, RULE)
    assert held.dtype == np.float32 and held.shape == probability.shape
    assert (held <= 1).all() and (held >= 0).all()
    order = np.argsort(probability, axis=None, kind="stable")
    assert (np.diff(held.ravel()[order]) >= -1e-7).all()


@settings(max_examples=30, deadline=None)
@given(arrays(np.float32, (13, 22), elements=st.floats(0, 0.75, width=32)))
def test_cells_are_those_of_a_maximum_filter(probability):
    padded = np.pad(probability, ((0, 3), (0, 2)), mode="edge")
    largest = ndimage.maximum_filter(padded, size=4, origin=(-2, -2), mode="nearest")[::4, ::4]
    third = np.sort(largest, axis=None)[-3]
    clutter = min(max(float(third), 0.2), 0.5)
    assert RULE.odds(probability) == pytest.approx((1 / 3) / (clutter / (1 - clutter)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"cell": 0},
        {"cell": 10**9},
        {"rank": 0},
        {"least": 0.0},
        {"least": 0.3},
        {"calm": 0.6},
        {"sure": 0.5},
        {"most": 0.9},
    ],
)
def test_nonsense_is_refused(wrong):
    with pytest.raises(InputError, match="Cfar: expected"):
        Cfar(**wrong)
