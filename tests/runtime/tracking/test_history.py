"""What lies behind a spot, by earlier frames of the scene."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from glint.optics import Psf
from glint.runtime.pipeline.behind import without
from glint.runtime.pipeline.detector import Detection
from glint.runtime.pipeline.sensor_correction import Conditioned
from glint.runtime.tracking.history import WINDOW_PX, Behind, History
from glint.runtime.tracking.registration import Shift
from glint.types import Blobs, Frame

SHAPE, NOISE, LIGHT = (80, 96), 1.0, 300.0
FRAMES = 40
NOBODY = np.zeros(0)


class Walk:
    """A target that moves through a rough scene under a camera that pans: frames, shifts and spots."""

    def __init__(self, speed: float = 0.6, roughness: float = 20.0, seed: int = 0, start: float = 40.0) -> None:
        self.rng = np.random.default_rng(seed)
        rough = ndimage.gaussian_filter(self.rng.standard_normal((140, 160)), 1.5)
        self.scene = 300 + roughness * rough / rough.std()
        self.spline = ndimage.spline_filter(self.scene, order=3)
        self.speed, self.start = speed, start

    def shift(self, index: int) -> Shift:
        return Shift(-0.31 * index, -0.17 * index)

    def behind(self, index: int) -> np.ndarray:
        shift = self.shift(index)
        corner = (10 - shift.y, 10 - shift.x)
        return ndimage.affine_transform(self.spline, np.ones(2), corner, SHAPE, order=3, prefilter=False)

    def place(self, index: int) -> tuple[float, float]:
        shift = self.shift(index)
        return shift.to_frame(self.start + self.speed * index, 40.0)

    def frame(self, index: int) -> tuple[np.ndarray, Blobs]:
        x, y = self.place(index)
        light = Psf(0.5).render(np.array([x]), np.array([y]), np.array([LIGHT]), SHAPE)
        data = self.behind(index) + light + NOISE * self.rng.standard_normal(SHAPE)
        label = (light > 10).astype(np.int32)
        blobs = Blobs(np.array([x]), np.array([y]), np.array([int(label.sum())]), np.ones(1), label)
        return data.astype(np.float32), blobs


def nobody() -> Blobs:
    return Blobs(NOBODY, NOBODY, NOBODY.astype(np.int64), NOBODY, np.zeros(SHAPE, dtype=np.int32))


def walk(walk: Walk, frames: int = FRAMES) -> tuple[History, np.ndarray, Blobs]:
    """The history of all frames but the last, and that."""
    history = History()
    for index in range(frames - 1):
        data, blobs = walk.frame(index)
        history.add(data, walk.shift(index), blobs, None)
    return history, *walk.frame(frames - 1)


def rough_left(walk: Walk, behind: Behind) -> float:
    """What is left of the scene under the spot, about a plane, DN rms."""
    x, y = (round(v) for v in walk.place(FRAMES - 1))
    part = np.s_[y - 4 : y + 5, x - 4 : x + 5]
    left = walk.behind(FRAMES - 1)[part] - behind.detail[0, 7:-7, 7:-7]
    row, column = np.mgrid[-4:5, -4:5]
    terms = np.stack([np.ones(81), row.ravel(), column.ravel()], axis=1)
    return float((left.ravel() - terms @ np.linalg.lstsq(terms, left.ravel(), rcond=None)[0]).std())


def test_the_scene_behind_a_spot_that_moves_is_known_to_a_fraction_of_the_noise() -> None:
    one = Walk()
    history, data, blobs = walk(one)
    behind = history.behind(data, one.shift(FRAMES - 1), blobs, np.ones(1))
    assert behind is not None and behind.rows.tolist() == [0]
    assert rough_left(one, behind._replace(detail=np.zeros_like(behind.detail))) > 8
    assert rough_left(one, behind) < 0.8 * NOISE


def test_a_camera_that_changes_its_gain_is_followed() -> None:
    one = Walk()
    history, data, blobs = walk(one)
    behind = history.behind(1.4 * data + 50, one.shift(FRAMES - 1), blobs, np.ones(1))
    assert behind is not None
    assert rough_left(one, behind._replace(detail=behind.detail / 1.4)) < NOISE


def test_a_spot_at_rest_is_not_taken_for_its_own_background() -> None:
    one = Walk(speed=0.0)
    history, data, blobs = walk(one)
    assert history.behind(data, one.shift(FRAMES - 1), blobs, np.ones(1)) is None
    unseen = History()
    for index in range(FRAMES - 1):  # the detector has not seen it so far
        unseen.add(one.frame(index)[0], one.shift(index), nobody(), None)
    assert unseen.behind(data, one.shift(FRAMES - 1), blobs, np.ones(1)) is None


def test_a_spot_that_was_a_candidate_is_not_taken_for_background_either() -> None:
    one = Walk(speed=0.0)
    history = History()
    for index in range(FRAMES - 1):
        data, blobs = one.frame(index)
        history.add(data, one.shift(index), nobody(), blobs)
    assert history.behind(*[one.frame(FRAMES - 1)[0], one.shift(FRAMES - 1)], blobs, np.ones(1)) is None


def test_nothing_is_said_where_the_registration_errs() -> None:
    one = Walk()
    history, data, blobs = walk(one)
    at = one.shift(FRAMES - 1)
    assert history.behind(data, Shift(at.x + 4, at.y - 3), blobs, np.ones(1)) is None
    assert history.behind(data, Shift(at.x, at.y, angle=0.1), blobs, np.ones(1)) is None


@pytest.mark.parametrize("shift", [Shift(known=False), Shift(blind=True)])
def test_nothing_is_said_of_another_scene_or_behind_a_shutter(shift: Shift) -> None:
    one = Walk()
    history, data, blobs = walk(one)
    assert history.behind(data, shift, blobs, np.ones(1)) is None


def test_a_cut_begins_a_new_history() -> None:
    one = Walk()
    history, data, blobs = walk(one)
    at = one.shift(FRAMES - 1)
    history.add(data, Shift(at.x, at.y, known=False), blobs, None)
    assert history.behind(data, at, blobs, np.ones(1)) is None


def test_nothing_is_said_of_a_smooth_sky_or_at_the_edge() -> None:
    smooth = Walk(roughness=0.0)
    history, data, blobs = walk(smooth)
    assert history.behind(data, smooth.shift(FRAMES - 1), blobs, np.ones(1)) is None
    edge = Walk(start=-4.0)  # it came in over the edge
    history, data, blobs = walk(edge)
    x, _ = edge.place(FRAMES - 1)
    assert x < WINDOW_PX / 2
    assert history.behind(data, edge.shift(FRAMES - 1), blobs, np.ones(1)) is None


def test_no_more_frames_are_kept_than_are_needed() -> None:
    history = History()
    for _ in range(100):
        history.add(np.zeros(SHAPE, dtype=np.uint16), Shift(), nobody(), None)
    assert len(history._past) == 10
    history.add(np.zeros((40, 40), dtype=np.uint16), Shift(), nobody(), None)  # another camera
    assert len(history._past) == 1


def test_a_frame_without_what_lies_behind_is_as_if_that_were_smooth() -> None:
    one = Walk()
    history, data, blobs = walk(one)
    behind = history.behind(data, one.shift(FRAMES - 1), blobs, np.ones(1))
    assert behind is not None
    level = (data / 100).astype(np.float32)
    seen = Conditioned(Frame(0, 0, data), 700.0)
    cleared, detection = without(seen, Detection(blobs, level, level, np.zeros_like(level), 100.0), behind)
    left, top = int(behind.left[0]), int(behind.top[0])
    part = np.s_[top : top + WINDOW_PX, left : left + WINDOW_PX]
    np.testing.assert_allclose(cleared.frame.data[part], data[part] - behind.detail[0], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(cleared.ceiling) - cleared.frame.data, 700 - data, atol=0.01)
    assert np.abs(detection.residual[part]).max() == 0  # so that a plane is laid through what is seen
    outside = np.ones(SHAPE, dtype=bool)
    outside[part] = False
    np.testing.assert_array_equal(cleared.frame.data[outside], data[outside])
    np.testing.assert_array_equal(detection.level[outside], level[outside])
    assert math.isclose(detection.scale, 100.0)
