"""What the detector doubts is a target once it has gone somewhere, not where light came and stays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from glint.runtime.tracking.evidence import Evidence
from glint.runtime.tracking.registration import Shift
from glint.runtime.tracking.rest import TRAVELLED_PX, Rest
from glint.runtime.tracking.tracker import Tracker
from glint.types import Blobs, Targets

PERIOD_S = 1 / 30
DOUBTED = 0.5
Way = Callable[[int], tuple[float, float]]


def gone(place: Way, *, shift: Way = lambda i: (0.0, 0.0), cut: int | None = None, frames: int = 30) -> bool:
    """Whether a thing has travelled that goes this way in the frame while the scene goes that way."""
    rest = Rest()
    for i in range(frames):
        here, way = np.array([place(i)]), np.array(shift(i))
        if i == 0:
            rest.bear(here - way, here)
        if i == cut:
            rest.start_anew()
        rest.move(here - way, here, way, PERIOD_S, np.ones(1, dtype=bool))
    return bool(rest.travelled[0])


@pytest.mark.parametrize(("px_per_frame", "travelled"), [(0.05, False), (0.08, False), (0.13, True), (1.0, True)])
def test_what_leaves_its_first_place_has_travelled(px_per_frame: float, travelled: bool) -> None:
    assert gone(lambda i: (10 + i * px_per_frame, 20.0)) == travelled


def test_what_hops_about_has_not_travelled() -> None:
    assert not gone(lambda i: (10.0 + 2.0 * (i % 2), 20.0))


def test_what_stays_in_the_frame_or_in_the_scene_has_not_travelled() -> None:
    pan: Way = lambda i: (0.5 * i, 0.0)  # noqa: E731
    assert not gone(lambda i: (50.0, 20.0), shift=pan)
    assert not gone(lambda i: (50.0 + 0.5 * i, 20.0), shift=pan)
    assert gone(lambda i: (50.0 - 0.5 * i, 20.0), shift=pan)


def test_a_swelling_scene_explains_a_tenth_of_the_camera_s_way() -> None:
    pan: Way = lambda i: (2.0 * i, 0.0)  # noqa: E731
    assert not gone(lambda i: (10 + 1.85 * i, 20.0), shift=pan)  # 4.4 px in the scene, of which 5.8 may be its swelling
    assert gone(lambda i: (10 + 1.6 * i, 20.0), shift=pan)


def test_places_before_a_cut_say_nothing() -> None:
    assert gone(lambda i: (10 + 0.2 * i, 20.0))
    assert not gone(lambda i: (10 + 0.2 * i, 20.0), cut=20)


def followed(place: Way, score: float, *, moving: float = 100.0, frames: int = 40) -> list[int]:
    """The numbers that the track of one spot has, frame by frame."""
    tracker, numbers = Tracker(evidence=Evidence.of("lsnet-s")), []
    one, none = np.ones(1), np.zeros(1, dtype=np.int64)
    for i in range(frames):
        x, y = np.array(place(i)).reshape(2, 1)
        target = Targets(x, y, 100 * one, 0.1 * one, 0.1 * one, one, none, score * one, none)
        spots = Blobs(x, y, 9 * one, score * one, moving=moving * one)
        numbers += tracker.update(
            round(i * PERIOD_S * 1e9), target, spots=spots, shift=Shift(), doubted=DOUBTED
        ).tolist()
    return numbers


def test_doubted_spots_are_confirmed_when_they_have_travelled() -> None:
    assert set(followed(lambda i: (30 + 0.02 * i, 40.0), DOUBTED)) == {-1}
    numbers = followed(lambda i: (30 + 0.3 * i, 40.0), DOUBTED)
    first = numbers.index(0)
    assert 0.3 * first >= TRAVELLED_PX - 0.3
    assert first < 16
    assert set(numbers[first:]) == {0}


@pytest.mark.parametrize(("score", "moving"), [(0.9, 100.0), (0.9, 0.0)])
def test_what_the_detector_is_sure_of_need_not_travel(score: float, moving: float) -> None:
    assert 0 in followed(lambda i: (30 + 0.02 * i, 40.0), score, moving=moving)[:12]
