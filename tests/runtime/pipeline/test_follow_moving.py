"""From frames in which the detector sees nothing to targets: what moves is told by the frames before."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
from scipy import ndimage

from glint.cards import DEFAULT_DETECTOR, DEFAULT_UNMIXER, TensorSpec, load_card
from glint.optics import Psf
from glint.runtime.engines.base import Arrays, EngineProxy
from glint.runtime.pipeline.detector import Detector
from glint.runtime.pipeline.follow import CANDIDATES_ABOVE, Follower
from glint.runtime.pipeline.pipeline import Pipeline, Result
from glint.runtime.pipeline.rehearsal import one_in_each
from glint.runtime.pipeline.settings import Roi
from glint.runtime.sources.open import open_any
from glint.runtime.stream.stream import Stream
from glint.runtime.unmixing.unmixer import Unmixer

SHAPE = 96, 128
SPEED = np.array([0.9, 0.4])
START = np.array([40.0, 30.0])
FRAMES = 30
_TREES = 60 * ndimage.gaussian_filter(np.random.default_rng(5).standard_normal(SHAPE), 1.5)


def _blind(outputs: Sequence[TensorSpec], arrays: Arrays) -> Arrays:
    """A detector that sees nothing, and a background that is all of the frame."""
    frame = arrays["frame"]
    return {out.name: 0.9 * frame if out.name == "background" else 0 * frame for out in outputs}


def frames(*, twice: int | None = None) -> np.ndarray:
    rng, told = np.random.default_rng(6), []
    for index in range(FRAMES):
        x, y = START + index * SPEED
        light = Psf(0.5).render(np.array([x]), np.array([y]), np.array([120.0]), SHAPE)
        told.append(np.round(100 + _TREES + light + rng.standard_normal(SHAPE)).astype(np.uint8))
    if twice is not None:
        told[twice] = told[twice - 1]
    return np.stack(told)


def results(data: np.ndarray, *, moving: bool = True, roi: Roi | None = None) -> list[Result]:
    (detector, _), (unmixer, _) = load_card(DEFAULT_DETECTOR), load_card(DEFAULT_UNMIXER)
    detects = EngineProxy(detector, partial(_blind, detector.outputs))
    unmixes = EngineProxy(unmixer, partial(one_in_each, unmixer.outputs))
    with Pipeline(
        Detector(detects, detector), Unmixer(unmixes, unmixer), psf=Psf(0.5), roi=roi, candidates_above=CANDIDATES_ABOVE
    ) as pipeline:
        follow = Follower(moving=moving, roi=roi, timed=False)
        return list(Stream(open_any(data), pipeline, (), track=follow).results())


def test_what_the_detector_does_not_see_is_told_when_its_track_is_confirmed() -> None:
    told = results(frames())
    assert not any(len(result.targets) for result in told[:8])
    last = told[-1]
    assert last.tracks is not None and len(last.tracks) == 1
    assert not last.tracks.static[0]
    assert last.tracks.vx[0] == pytest.approx(30 * SPEED[0], abs=4)
    for result in told[18:]:
        truth = START + result.frame.index * SPEED
        assert len(result.targets) == 1 and len(result.blobs) == 1
        assert np.hypot(result.targets.x[0] - truth[0], result.targets.y[0] - truth[1]) < 0.5
        assert result.track is not None and result.track.tolist() == [0]
        assert result.blobs.score[0] == 0.5


def test_nothing_moves_where_nobody_asks() -> None:
    assert not any(len(result.targets) for result in results(frames(), moving=False))


def test_digits_that_change_have_no_tracks() -> None:
    """A clock in the picture is new light at every second, and stays where it is."""
    told, rng = frames(), np.random.default_rng(8)
    digits = rng.integers(0, 2, (10, 5, 3)) * 120
    told[:, 80:85, 100:103] = 60
    for index in range(FRAMES):
        told[index, 80:85, 100:103] += digits[index // 3].astype(np.uint8)
    last = results(told)[-1]
    assert last.tracks is not None and last.tracks.number.tolist() == [0]
    assert np.hypot(last.tracks.x - START[0] - 29 * SPEED[0], last.tracks.y - START[1] - 29 * SPEED[1]) < 1


@pytest.mark.parametrize(("roi", "inside"), [((30, 20, 60, 60), True), ((70, 50, 40, 40), False)])
def test_what_moves_outside_of_the_region_is_not_told(roi: Roi, inside: bool) -> None:
    told = results(frames(), roi=roi)
    assert any(len(result.targets) for result in told) == inside


def test_a_repeated_frame_keeps_what_earlier_frames_told() -> None:
    """It is no evidence, and nothing has moved in it."""
    before, again = results(frames(twice=25))[24:26]
    assert again.repeated and not before.repeated
    assert len(before.targets) == 1
    assert again.targets.x.tolist() == before.targets.x.tolist()
    assert again.to_dict()["blobs"] == before.to_dict()["blobs"]
    assert again.track is not None and again.track.tolist() == [0]
