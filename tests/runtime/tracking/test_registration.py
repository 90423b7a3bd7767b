from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from glint.runtime.tracking.registration import Registration, Shift
from glint.runtime.tracking.roll import box_mean

NONE = np.zeros(0)


def scene(seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return 40 * ndimage.gaussian_filter(rng.standard_normal((320, 400)), 3) + ndimage.gaussian_filter(
        200 * rng.standard_normal((320, 400)), 12
    )


def seen(background: Any, x: float, y: float, noise: float, rng: np.random.Generator) -> Any:
    spline = ndimage.spline_filter(background, order=3)
    part = ndimage.affine_transform(
        spline, np.ones(2), offset=(40 + y, 40 + x), output_shape=(224, 256), prefilter=False
    )
    return part + noise * rng.standard_normal(part.shape)


@pytest.mark.parametrize("speed", [0.0, 0.3, 1.7])
def test_a_pan_is_followed_to_a_tenth_of_a_pixel(speed: float) -> None:
    rng, background, register = np.random.default_rng(1), scene(), Registration()
    errors = []
    for i in range(15):
        x, y = speed * i, -0.6 * speed * i
        shift = register(seen(background, x, y, 0.5, rng), NONE, NONE)
        assert shift.known
        errors.append((shift.x + x, shift.y + y))
    assert np.sqrt(np.mean(np.square(errors))) < 0.1


def rolled(background: Any, x: float, y: float, degrees: float, shape: tuple[int, int], noise: float, rng: Any) -> Any:
    """A frame of a camera at x, y of the background, turned about its middle."""
    a, middle = np.deg2rad(degrees), (np.array(shape) - 1) / 2
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])  # of y and x, from frame to background
    spline = ndimage.spline_filter(background, order=3)
    offset = np.array([40 + y, 40 + x]) + middle - turn @ middle
    part = ndimage.affine_transform(spline, turn, offset=offset, output_shape=shape, order=3, prefilter=False)
    return part + noise * rng.standard_normal(shape)


@pytest.mark.parametrize("degrees", [0.05, 0.2, -0.5])
def test_a_camera_that_rolls_while_it_pans_is_followed_to_a_tenth_of_a_pixel(degrees: float) -> None:
    rng, background, register, shape = np.random.default_rng(1), scene(), Registration(), (224, 256)
    y, x = np.mgrid[8:224:20, 8:256:20].reshape(2, -1).astype(float)
    middle = np.array([127.5, 111.5])
    before, errors = None, []
    for i in range(12):
        at, a = np.array([0.9 * i, -0.4 * i]), np.deg2rad(degrees * i)
        frame = rolled(background, *at, degrees * i, shape, 0.5, rng)
        bx, by = np.array([60.0 + 7 * i, 150.0]), np.array([80.0, 60.0 + 8 * i])  # two targets on their own ways
        for u, v in zip(bx.astype(int), by.astype(int)):
            frame[v - 1 : v + 2, u - 1 : u + 2] += 300
        shift = register(frame, bx, by)
        assert shift.known
        # the scene is the first frame: where its places lie now by the warp itself
        off = np.stack([x, y]) - middle[:, None] - at[:, None]
        true = np.stack([np.cos(a) * off[0] - np.sin(a) * off[1], np.cos(a) * off[1] + np.sin(a) * off[0]])
        error = np.stack(shift.to_frame(x, y)) - true - middle[:, None]
        if before is not None:
            errors.append(error - before)
        before = error
    assert np.sqrt(np.mean(np.square(errors).sum(axis=1))) < 0.1
    assert np.sqrt(np.mean(before**2)) < 0.3


def test_places_go_from_the_frame_to_the_scene_and_back() -> None:
    shift, x, y = Shift(3.0, -2.0, angle=0.3), np.array([1.0, 50.0]), np.array([7.0, -4.0])
    np.testing.assert_allclose(shift.to_frame(*shift.to_scene(x, y)), [x, y])
    assert shift.to_frame(0.0, 0.0) == (3.0, -2.0)
    right = np.subtract(shift.to_frame(1.0, 0.0), shift.to_frame(0.0, 0.0))
    np.testing.assert_allclose(right, [np.cos(0.3), np.sin(0.3)])  # from x to y


@pytest.mark.parametrize("speed", [0.0, 0.7])
def test_a_camera_that_does_not_roll_is_not_said_to(speed: float) -> None:
    rng, background, register = np.random.default_rng(3), scene(4), Registration()
    shifts = [register(seen(background, speed * i, 0.3 * speed * i, 1.0, rng), NONE, NONE) for i in range(15)]
    assert {shift.angle for shift in shifts} == {0.0}


def test_targets_that_move_on_their_own_do_not_count() -> None:
    rng, background, register = np.random.default_rng(2), scene(), Registration()
    for i in range(10):
        frame = seen(background, 0, 0, 0.3, rng)
        x, y = np.array([60.0 + 3 * i, 150.0 - 2 * i]), np.array([80.0, 100.0 + 3 * i])
        for a, b in zip(x.astype(int), y.astype(int)):
            frame[b - 1 : b + 2, a - 1 : a + 2] += 300
        shift = register(frame, x, y)
    assert np.hypot(shift.x, shift.y) < 0.1


def test_overlay_text_does_not_hold_a_turning_camera() -> None:
    rng, background, register = np.random.default_rng(3), scene(), Registration()
    text = (rng.random((10, 80)) < 0.4) * 200.0
    for i in range(10):
        frame = seen(background, 4.0 * i, 0, 0.3, rng)
        frame[5:15, 20:100] = text
        shift = register(frame, NONE, NONE)
    assert shift.x == pytest.approx(-36, abs=0.5)


def test_another_scene_is_unknown_and_the_next_frame_goes_on_from_there() -> None:
    rng, register = np.random.default_rng(4), Registration()
    first, second = scene(5), scene(6)
    assert register(seen(first, 0, 0, 0.3, rng), NONE, NONE).known
    assert not register(seen(second, 0, 0, 0.3, rng), NONE, NONE).known
    after = register(seen(second, 1.0, 0, 0.3, rng), NONE, NONE)
    assert after.known
    assert after.x == pytest.approx(-1, abs=0.1)


def test_a_frame_without_anything_to_see_is_no_error() -> None:
    register = Registration()
    for _ in range(3):
        shift = register(np.zeros((64, 80), dtype=np.uint8), NONE, NONE)
    assert (shift.x, shift.y) == (0, 0)


def test_an_empty_sky_counts_as_at_rest() -> None:
    rng, register = np.random.default_rng(7), Registration()
    shifts = [register(3 * rng.standard_normal((224, 256)), NONE, NONE) for _ in range(12)]
    assert [s.known for s in shifts[2:]] == [True] * 10
    assert max(abs(s.x) + abs(s.y) for s in shifts) == 0


def test_the_scene_goes_on_behind_a_shutter() -> None:
    rng, background, register = np.random.default_rng(8), scene(), Registration()
    pattern = 0.3 * rng.standard_normal((224, 256))
    for i in range(20):
        shut = 8 <= i < 14
        frame = 500 + 0.3 * rng.standard_normal((224, 256)) if shut else seen(background, 0.4 * i, 0, 0.3, rng)
        shift = register(frame + pattern, NONE, NONE)
        assert (shift.known, shift.blind) == (True, shut)
        if not shut:
            assert shift.x == pytest.approx(-0.4 * i, abs=0.1)


def test_a_jump_of_the_gain_changes_nothing() -> None:
    rng, background, register = np.random.default_rng(9), scene(), Registration()
    for i in range(12):
        gain, level = (1.0, 0.0) if i < 6 else (0.25, 3000.0)
        shift = register(level + gain * seen(background, 0.5 * i, 0, 0.3, rng), NONE, NONE)
        assert shift.known
        assert not shift.blind
        assert shift.x == pytest.approx(-0.5 * i, abs=0.1)


def test_a_scene_that_comes_back_is_the_same() -> None:
    rng, register = np.random.default_rng(10), Registration()
    first, second = scene(5), scene(6)
    for i in range(5):
        register(seen(first, 0.5 * i, 0, 0.3, rng), NONE, NONE)
    away = [register(seen(second, 0, 0, 0.3, rng), NONE, NONE) for _ in range(3)]
    assert [s.known for s in away] == [False, True, True]
    back = register(seen(first, 4.0, 0, 0.3, rng), NONE, NONE)
    assert back.x == pytest.approx(-4.0, abs=0.1)


def test_a_picture_that_agrees_with_itself_a_little_way_off_does_not_jump() -> None:
    rng, register = np.random.default_rng(11), Registration()
    twigs = np.zeros((320, 400))
    twigs[200:, 60:300] = 60 * ndimage.gaussian_filter(rng.standard_normal((120, 240)), 1)
    twigs += 0.35 * np.roll(twigs, (8, 8), axis=(0, 1))
    for i in range(6):
        shift = register(seen(twigs, 0.1 * i, 0, 0.5, rng), NONE, NONE)
        assert np.hypot(shift.x + 0.1 * i, shift.y) < 0.3


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_bright_line_that_goes_out_of_view_is_no_turn(seed: int) -> None:
    """The level around what is not seen changes along the edge: that is all of the turn."""
    rng, (height, width) = np.random.default_rng(seed), (284, 316)
    y, x = np.mgrid[:height, :width]
    ground = 100 + 12 * ndimage.gaussian_filter(rng.standard_normal((height, width)), 2)
    ground += 80 * np.exp(-0.5 * ((x - 6 - 0.03 * y) / 1.5) ** 2)
    register, turned = Registration(), 0
    for i in range(20):
        at = ndimage.shift(ground, (0, -0.4 * i), order=3, mode="nearest")[30:254, :256]
        frame = np.round(at + rng.standard_normal(at.shape)).clip(0, 255).astype(np.uint8)
        turned += register(frame, np.zeros(0), np.zeros(0)).angle != 0
    assert turned == 0


@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (9, 4), (40, 61)])
@pytest.mark.parametrize("size", [3, 9])
def test_the_mean_around_each_pixel_is_that_of_scipy(shape: tuple[int, int], size: int) -> None:
    picture = np.random.default_rng(4).normal(50, 20, shape).astype(np.float32)
    assert box_mean(picture, size) == pytest.approx(ndimage.uniform_filter(picture, size), abs=2e-5)
