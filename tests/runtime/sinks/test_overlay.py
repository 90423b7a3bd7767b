from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from glint.runtime.pipeline.detector import Detection
from glint.runtime.pipeline.picture import _hidden, _window, stretch
from glint.runtime.pipeline.pipeline import Result, SpotPatches
from glint.runtime.sinks.overlay import draw_overlay
from glint.types import Blobs, Frame, Targets

Make = Callable[..., Targets]
Render = Callable[..., np.ndarray]


def result(image: np.ndarray, targets: Targets, corners: list[tuple[int, int]]) -> Result:
    """A result made by hand: patches of 11 pixels at the corners (left, top)."""
    left, top = (np.array([c[i] for c in corners], dtype=np.int64) for i in (0, 1))
    padded = np.pad(image.astype(np.float32), 16, mode="edge")
    patches = np.array([padded[t + 16 : t + 27, a + 16 : a + 27] for a, t in corners], dtype=np.float32)
    patches = patches.reshape(-1, 11, 11)
    number = np.zeros(len(corners))
    blobs = Blobs(left + 5.0, top + 5.0, number, number)
    plain = np.zeros(image.shape, np.float32)
    full_scale = np.full(patches.shape, np.inf, dtype=np.float32)
    spots = SpotPatches(patches, np.ones(patches.shape, dtype=bool), left, top, np.zeros(len(patches)), full_scale)
    return Result(Frame(0, 0, image), Detection(blobs, plain, plain), targets, spots, {})


def colourful(picture: np.ndarray, strongest: int) -> int:
    """Pixels in which one channel stands well above both others."""
    others = [c for c in range(3) if c != strongest]
    values = picture.astype(int)
    return int((values[..., strongest] > values[..., others].max(axis=-1) + 60).sum())


@pytest.fixture
def scene(render: Render) -> np.ndarray:
    return np.round(50 + render([(30.2, 20.4, 300)], (48, 64))).astype(np.uint8)


def test_a_picture_holds_the_enlarged_frame_and_a_strip_below(scene: np.ndarray, make_targets: Make) -> None:
    picture = draw_overlay(result(scene, make_targets([(0, 30.2, 20.4, 300)]), [(25, 15)]))
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    assert picture.shape[1] % 64 == 0
    zoom = picture.shape[1] // 64
    assert picture.shape[0] > 48 * zoom
    corner = picture[: 5 * zoom, : 5 * zoom]  # no marks here: the stretched frame, pixel by pixel
    assert np.array_equal(corner[..., 0], np.kron(stretch(scene)[:5, :5], np.ones((zoom, zoom), np.uint8)))


def test_found_targets_are_marked_in_red(scene: np.ndarray, make_targets: Make) -> None:
    found = draw_overlay(result(scene, make_targets([(0, 30.2, 20.4, 300)]), [(25, 15)]))
    empty = draw_overlay(result(scene, Targets(), [(25, 15)]))
    assert colourful(found, 0) > colourful(empty, 0)


def test_truth_is_marked_in_green_only_if_there_is_one(scene: np.ndarray, make_targets: Make) -> None:
    shown = result(scene, make_targets([(0, 30.2, 20.4, 300)]), [(25, 15)])
    assert colourful(draw_overlay(shown, make_targets([(0, 30.0, 20.0, 300)])), 1) > 0
    assert colourful(draw_overlay(shown), 1) == 0


def test_marks_stand_where_the_targets_are(scene: np.ndarray, make_targets: Make) -> None:
    def mark(x: float, y: float) -> tuple[float, float]:
        frame = draw_overlay(result(scene, Targets(), [(25, 15)]), make_targets([(0, x, y, 300)]))[: 3 * 48]
        rows, columns = np.nonzero((frame[..., 0] > 200) & (frame[..., 2] > 200) & (frame[..., 1] < 120))
        return columns.mean(), rows.mean()

    (x0, y0), (x1, y1) = mark(28, 20), mark(31, 22)
    assert (x1 - x0) / 3 == pytest.approx((y1 - y0) / 2, rel=0.1)  # to the right and down, at one scale
    assert x1 - x0 == pytest.approx(9, abs=0.5)


def test_a_result_without_blobs_is_still_a_picture(scene: np.ndarray) -> None:
    picture = draw_overlay(result(scene, Targets(), []))
    assert picture.shape[0] > 48
    assert colourful(picture, 0) == colourful(picture, 1) == 0


def test_truth_without_blobs_is_no_error(scene: np.ndarray, make_targets: Make) -> None:
    assert draw_overlay(result(scene, Targets(), []), make_targets([(0, 30, 20, 300)])).dtype == np.uint8


def test_more_blobs_than_there_is_room_for_are_no_error(scene: np.ndarray, make_targets: Make) -> None:
    corners = [(5 * i, 3 * i) for i in range(9)]
    targets = make_targets([(i, 5 * i + 5, 3 * i + 5, 100) for i in range(9)])
    crowded = draw_overlay(result(scene, targets, corners))
    assert crowded.shape[1] == draw_overlay(result(scene, Targets(), [])).shape[1]


def test_blobs_and_targets_over_the_edge_are_no_error(scene: np.ndarray, make_targets: Make) -> None:
    targets = make_targets([(0, -0.4, 47.4, 100), (0, 200.0, -90.0, 5)])
    assert draw_overlay(result(scene, targets, [(-5, 42)])).shape[2] == 3


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (200, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_frames_of_any_size_and_type_are_drawn(shape: tuple[int, int], dtype: type) -> None:
    assert draw_overlay(result(np.full(shape, 7, dtype), Targets(), [(0, 0)])).dtype == np.uint8


def test_large_frames_are_not_enlarged() -> None:
    assert draw_overlay(result(np.zeros((20, 1700), np.uint8), Targets(), [])).shape[1] == 1700


def test_drawing_leaves_the_frame_as_it_was(scene: np.ndarray, make_targets: Make) -> None:
    before = scene.copy()
    draw_overlay(result(scene, make_targets([(0, 30.2, 20.4, 300)]), [(25, 15)]))
    assert np.array_equal(scene, before)


def test_stretch_spreads_the_range_over_eight_bits_in_order() -> None:
    values = np.linspace(1000, 1100, 10000).reshape(100, 100).astype(np.uint16)
    out = stretch(values)
    assert out.dtype == np.uint8
    assert (out.min(), out.max()) == (0, 255)
    assert (np.diff(out.ravel().astype(int)) >= 0).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_stretch_of_a_constant_is_a_constant(dtype: type) -> None:
    assert len(np.unique(stretch(np.full((9, 9), 200, dtype)))) == 1


def test_stretch_is_not_thrown_off_by_one_hot_pixel() -> None:
    values = np.random.default_rng(0).normal(100, 10, (100, 100)).astype(np.float32)
    values[3, 4] = 1e7
    assert stretch(values).std() > 20


def test_marks_are_seen_on_bright_ground(make_targets: Make) -> None:
    bright = np.full((48, 64), 255, np.uint8)
    bright[0, :8] = 0  # what the stretch begins at
    picture = draw_overlay(result(bright, Targets(), [(25, 15)]))[: 48 * 3].astype(int)
    marked = picture[45:80, 75:110].min(axis=-1)
    assert (marked == 0).any()  # the dark rim of the corners


def test_missed_truth_has_a_mark_of_its_own_in_the_frame(scene: np.ndarray, make_targets: Make) -> None:
    shown = result(scene, make_targets([(0, 30.2, 20.4, 300)]), [(25, 15)])

    def violet(truth: Targets) -> int:
        frame = draw_overlay(shown, truth)[: 48 * 3].astype(int)
        return int(((frame[..., 0] > 200) & (frame[..., 2] > 200) & (frame[..., 1] < 120)).sum())

    assert violet(make_targets([(0, 30.1, 20.4, 300)])) == 0
    assert violet(make_targets([(0, 30.1, 20.4, 300), (0, 10.0, 40.0, 300)])) > 20


def test_members_that_would_hide_each_other_are_magnified_more() -> None:
    middle = np.array([5.0, 5.4])
    assert _window(11, np.array([5.0]), np.array([5.0])) == (2, 2, 7)
    assert _window(11, np.array([3.0, 7.0]), np.array([5.0, 5.0])) == (2, 2, 7)
    left, top, side = _window(11, middle, middle)
    assert side == 3 and left <= 5 and top <= 5 and left + side > 6 and top + side > 6
    assert _window(11, np.array([3.0, 3.3, 7.0]), np.array([5.0, 5.0, 5.0]))[2] in (5, 7)  # all of them stay in it


def test_targets_under_one_cross_are_counted(scene: np.ndarray, make_targets: Make) -> None:
    apart = [(0, 29.2, 20.4, 300), (0, 31.2, 20.4, 300)]
    one_cross = draw_overlay(result(scene, make_targets([*apart, (0, 31.21, 20.4, 300)]), [(25, 15)]))
    two = draw_overlay(result(scene, make_targets(apart), [(25, 15)]))
    inset = slice(3 * 48, 3 * 48 + 160), slice(0, 170)
    assert colourful(one_cross[inset], 0) > colourful(two[inset], 0) + 10  # the words x2
    assert _hidden([(10, 10), (40, 40), (10.5, 10)]) == [(10, 10, 2)]
    assert _hidden([(10, 10), (40, 40)]) == []
