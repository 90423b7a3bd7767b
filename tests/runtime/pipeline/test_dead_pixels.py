"""Dead pixels are learned from a stream, and targets are none."""

import numpy as np
import pytest
from scipy import ndimage

from glint.optics import Psf
from glint.runtime.pipeline.dead_pixels import WATCHED_FRAMES, DeadPixels, LearningConditioner
from glint.types import Frame

SHAPE = (48, 64)
HOT, COLD, STUCK = (10, 20), (30, 40), (5, 5)


def frames(number, *, moving=True, dead=True):
    rng = np.random.default_rng(1)
    ground = 3000 + 200 * np.sin(np.arange(SHAPE[1]) / 7) + 100 * np.cos(np.arange(SHAPE[0]) / 5)[:, None]
    for n in range(number):
        x = 8 + (0.7 * n if moving else 0.0)
        target = Psf(0.5).render(np.array([x]), np.array([20.0]), np.array([3000.0]), SHAPE)
        data = np.round(ground + target + rng.normal(0, 6, SHAPE)).astype(np.uint16)
        if dead:
            data[HOT], data[COLD], data[STUCK] = 9000 + n, 100, 3100
        yield Frame(n, n, data)


@pytest.mark.parametrize("moving", [True, False])
def test_hot_cold_and_stuck_pixels_are_learned_and_replaced(moving):
    learn = LearningConditioner()
    *_, last = [(frame, learn(frame).frame.data) for frame in frames(WATCHED_FRAMES + 1, moving=moving)]
    frame, corrected = last
    changed = np.argwhere(np.abs(corrected - frame.data) > 0)
    assert {tuple(place) for place in changed.tolist()} == {HOT, COLD, STUCK}
    assert abs(float(corrected[HOT]) - float(frame.data[HOT[0], HOT[1] + 1])) < 60


def test_a_sensor_without_dead_pixels_stays_as_it_is():
    learn = LearningConditioner()
    for frame in frames(WATCHED_FRAMES + 1, dead=False):
        assert learn(frame).frame is frame


def test_frames_that_repeat_are_no_news_and_another_size_begins_anew():
    watch = DeadPixels(SHAPE)
    (frame,) = frames(1)
    for _ in range(2 * WATCHED_FRAMES):
        watch.look(frame.data)
    assert watch.dead is None
    learn = LearningConditioner()
    for item in frames(WATCHED_FRAMES):
        learn(item)
    assert learn(Frame(0, 0, np.full((8, 8), 7, np.uint16))).frame.shape == (8, 8)


def test_a_scene_that_looks_dead_all_over_is_left_alone():
    watch = DeadPixels((64, 64))
    rng = np.random.default_rng(2)
    pattern = np.where(np.indices((64, 64)).sum(axis=0) % 8 == 0, 4000, 1000)
    pattern[1::2] = 1000
    for _ in range(WATCHED_FRAMES):
        watch.look((pattern + rng.normal(0, 2, (64, 64))).astype(np.uint16))
    assert watch.dead is not None
    assert not watch.dead.any()


def learned(plant, *, spot=None):
    """What is learned of 24 frames of a moving scene with ``spot`` (x, y, sigma, DN at its peak) standing still."""
    rng, watch = np.random.default_rng(3), DeadPixels((48, 64))
    rows, columns = np.mgrid[:48, :64]
    for number in range(WATCHED_FRAMES):
        scene = 7300 + 90 * np.sin((columns + number) / 9) + 70 * np.cos((rows + 0.5 * number) / 7)
        if spot is not None:
            x, y, sigma, peak = spot
            light = Psf(sigma).render(np.array([x]), np.array([y]), np.array([1.0]), (48, 64))
            scene = scene + peak * light / light.max()
        frame = np.round(scene + rng.normal(0, 6, (48, 64)))
        plant(frame, number)
        watch.look(frame.clip(0, 16383).astype(np.uint16))
    return watch.dead


@pytest.mark.parametrize(
    ("where", "plant"),
    [
        (np.s_[20, 5:25], lambda part, number: part + 1500),
        (np.s_[20, 5:25], lambda part, number: 0 * part + 16383),
        (np.s_[5:25, 30], lambda part, number: part + 1500),
        (np.s_[20, 30:32], lambda part, number: part + 2000),
        (np.s_[20, 30], lambda part, number: part + 2000 * (number % 2)),
        (np.s_[20, 30], lambda part, number: part + 2000 * (number % 8 == 0)),
    ],
    ids=["a hot row", "a saturated row", "a hot column", "two side by side", "every second frame", "every eighth"],
)
def test_rows_pairs_and_blinking_pixels_are_learned(where, plant):
    def planted(frame, number):
        frame[where] = plant(frame[where], number)

    wanted = np.zeros((48, 64), dtype=bool)
    wanted[where] = True
    dead = learned(planted)
    assert (dead | ~wanted).all()
    assert (ndimage.binary_dilation(wanted, np.ones((3, 3))) | ~dead).all()


@pytest.mark.parametrize("peak", [80, 400, 4000])
@pytest.mark.parametrize("sigma", [0.45, 0.6, 1.0])
@pytest.mark.parametrize("place", [(30.0, 20.0), (30.5, 20.0), (30.0, 20.5), (30.5, 20.5), (30.25, 20.3)])
def test_a_target_that_hovers_is_not_learned_away(place, sigma, peak):
    assert not learned(lambda frame, number: None, spot=(*place, sigma, peak)).any()
