"""Spots that move against what the last frames of the scene showed."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from glint.optics import Psf
from glint.runtime.tracking.moving import MOST_SPOTS, moving_spots
from glint.runtime.tracking.registration import Shift
from glint.runtime.tracking.scene_memory import WARM_FRAMES, SceneMemory

SHAPE = 96, 120
PSF = Psf(0.6)
TREES = 30 * ndimage.gaussian_filter(np.random.default_rng(1).standard_normal((140, 170)), 1.2) / 0.23


def view(pan: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a camera sees of the trees that has panned by some pixels."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return ndimage.map_coordinates(TREES, [rows + 20 - pan[1], columns + 20 - pan[0]], order=3)


def frames(number: int, targets: NDArray[np.float64], *, pan: float = 0.0, noise: float = 1.0):
    """Frames, shifts, and the targets' places in the frame, of ``[N, 5]`` x, y, velocities in the scene, radiance."""
    rng = np.random.default_rng(7)
    for index in range(number):
        moved = np.array([pan, 0.5 * pan]) * index
        place = targets[:, :2] + index * targets[:, 2:4] + moved
        light = PSF.render(*place.T, targets[:, 4], SHAPE)
        frame = 100 + view(moved) + light + noise * rng.standard_normal(SHAPE)
        yield frame.astype(np.float32), Shift(*moved), place


@pytest.mark.parametrize("pan", [0.0, 0.37, -1.9])
@pytest.mark.parametrize(("speed", "learned"), [(0.4, 8), (1.3, WARM_FRAMES)])
def test_points_over_trees_are_found_where_they_are(pan: float, speed: float, learned: int) -> None:
    """The trees leave 30 DN, as much as the points' peaks; against themselves they leave none."""
    targets = np.array([[30.0, 40.0, speed, 0.0, 120.0], [80.0, 60.0, -0.6 * speed, 0.8 * speed, 120.0]])
    memory, errors, missed = SceneMemory(), [], 0
    for index, (frame, shift, place) in enumerate(frames(27, targets, pan=pan)):
        memory.take(frame, shift)
        found = moving_spots(memory, 0.5)
        if index < WARM_FRAMES:
            assert not len(found)
        inside = ((place > 10) & (place < np.array(SHAPE[::-1]) - 10)).all(axis=1)
        if index >= learned:  # until then, the memory of a slow point's places is of its own light
            gap = np.hypot(*(found[:, None, :2] - place[None, inside]).T).min(axis=1, initial=np.inf)
            missed += int((gap > 1).sum())
            errors += gap[gap < 1].tolist()
            assert len(found) <= 2
    assert missed <= 0.1 * len(errors)
    assert np.sqrt((np.array(errors) ** 2).mean()) < 0.3


def test_a_scene_at_rest_and_a_turn_of_the_camera_tell_of_none() -> None:
    memory = SceneMemory()
    for frame, shift, _ in frames(40, np.zeros((0, 5)), pan=0.3):
        memory.take(frame, shift)
        assert not len(moving_spots(memory, 0.5))


def test_what_passes_leaves_less_behind_than_what_flickers() -> None:
    """Places that change by the same light, for four frames in a row or in every second one."""
    spread = {}
    for name, lit in (("passes", {6, 7, 8, 9}), ("flickers", {6, 8, 10, 12})):
        memory, rng = SceneMemory(), np.random.default_rng(5)
        for index in range(16):
            frame = 100 + rng.standard_normal(SHAPE)
            frame[40, 50] += 40 * (index in lit)
            memory.take(frame.astype(np.float32), Shift())
        spread[name] = np.sqrt(memory.variance[40, 50] / np.median(memory.variance))
    assert spread["passes"] < 2
    assert spread["flickers"] > 1.4 * spread["passes"]


def test_frames_that_repeat_themselves_leave_a_quantum_of_noise() -> None:
    """In frames of 8 bits that a codec repeats, a level more is no spot."""
    memory, still = SceneMemory(), np.round(100 + view(np.zeros(2))).astype(np.uint8)
    for _ in range(20):
        memory.take(still, Shift())
    changed = still.copy()
    changed[50, 50] += 2
    memory.take(changed, Shift())
    assert not len(moving_spots(memory, 1.0))
    changed[50, 50] += 100
    memory.take(changed, Shift())
    (found,) = moving_spots(memory, 1.0)
    assert np.hypot(found[0] - 50, found[1] - 50) < 0.1


def test_a_frame_in_which_everything_changes_says_nothing() -> None:
    """A jerk that registration has not seen, and more spots than targets come at once."""
    memory, rng = SceneMemory(), np.random.default_rng(3)
    for frame, shift, _ in frames(20, np.zeros((0, 5))):
        memory.take(frame, shift)
    jerked = 100 + view(np.array([0.0, 1.5])) + rng.standard_normal(SHAPE)
    memory.take(jerked.astype(np.float32), Shift())
    assert not len(moving_spots(memory, 0.5))
    for number in (MOST_SPOTS, MOST_SPOTS + 1):
        calm = SceneMemory()
        for frame, shift, _ in frames(20, np.zeros((0, 5))):
            calm.take(frame, shift)
        x, y = 15.0 + 20 * (np.arange(number) % 5), 15.0 + 25 * (np.arange(number) // 5)
        crowd = 100 + view(np.zeros(2)) + PSF.render(x, y, np.full(number, 200.0), SHAPE) + rng.standard_normal(SHAPE)
        calm.take(crowd.astype(np.float32), Shift())
        assert len(moving_spots(calm, 0.5)) == (number if number <= MOST_SPOTS else 0)


def test_a_memory_begins_anew_with_a_cut_and_sleeps_behind_a_shutter() -> None:
    memory = SceneMemory()
    for frame, shift, _ in frames(20, np.zeros((0, 5))):
        memory.take(frame, shift)
    assert not memory.began and not memory.blind
    memory.take(np.zeros(SHAPE, dtype=np.float32), Shift(blind=True))
    assert memory.blind and not len(moving_spots(memory, 0.5))
    memory.take(frame, shift)
    assert not memory.blind and np.abs(memory.changed).max() > 0  # what it knew, it knows
    memory.take(frame, Shift(known=False))
    assert memory.began and not memory.changed.any()


def test_the_memory_is_the_same_wherever_the_scene_begins() -> None:
    """It goes round, by whole pixels: each row is compared in two parts."""
    rng, at_rest = np.random.default_rng(6), SceneMemory()
    pictures = [(100 + view(np.zeros(2)) + 3 * rng.standard_normal(SHAPE)).astype(np.float32) for _ in range(12)]
    for picture in pictures:
        at_rest.take(picture, Shift())
    for start in ((0, 1), (5, 0), (37, 71), (95, 119)):
        moved = SceneMemory()
        for picture in pictures:
            moved.take(picture, Shift(x=float(start[1]), y=float(start[0])))
        for name in ("changed", "variance", "count"):
            turned = np.roll(getattr(moved, name), start, axis=(0, 1))
            assert turned == pytest.approx(getattr(at_rest, name), rel=1e-4, abs=1e-4)


def test_small_frames_are_taken() -> None:
    memory = SceneMemory()
    for size in ((1, 1), (8, 8), (17, 16), (16, 200)):
        memory.take(np.zeros(size, dtype=np.uint8), Shift())
        assert not len(moving_spots(memory, 1.0))
