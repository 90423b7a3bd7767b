"""What earlier frames say of spots that the detector doubts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from glint.optics import Psf
from glint.runtime.pipeline.cues import as_targets, at_their_places, is_part, part_of, with_expected, with_moving
from glint.runtime.pipeline.detector import Detection
from glint.types import Blobs, TargetFlag, Targets

SHAPE = 60, 80
_MAP = np.zeros(SHAPE, dtype=np.float32)


def spots(places: list[tuple[int, int]], score: float) -> Blobs:
    labels = np.zeros(SHAPE, dtype=np.int32)
    for row, (x, y) in enumerate(places, start=1):
        labels[y - 1 : y + 2, x - 1 : x + 2] = row
    x, y = np.array(places, dtype=np.float64).reshape(-1, 2).T
    return Blobs(x, y, np.full(len(places), 9), np.full(len(places), score), labels)


def detection(blobs: list[tuple[int, int]], candidates: list[tuple[int, int]]) -> Detection:
    return Detection(spots(blobs, 0.9), _MAP, _MAP, candidates=spots(candidates, 0.38), threshold=0.5)


def others(found: Detection) -> Blobs:
    assert found.candidates is not None
    return found.candidates


def test_a_spot_that_moves_is_a_blob_a_candidate_or_a_new_candidate() -> None:
    given_ = detection([(20, 20)], [(50, 20), (50, 40)])
    places = np.array([[21.5, 20.2, 7.0], [50.6, 20.9, 8.0], [30.2, 45.4, 9.0], [0.2, 30.0, 5.0]])
    told = with_moving(given_, places, _MAP)
    assert told.blobs.moving is not None and told.blobs.moving.tolist() == [7.0]
    assert np.array_equal(told.blobs.score, given_.blobs.score)
    more = others(told)
    assert more.moving is not None and more.moving.tolist() == [8.0, 0.0, 9.0]
    assert more.score.tolist() == [0.5, 0.38, 0.5]
    assert (more.x[0], more.y[0]) == (50.6, 20.9)  # where it moves, what lies behind it says nothing
    assert (more.x[2], more.y[2]) == (30.2, 45.4)
    assert more.label_map is not None and (more.label_map[44:47, 29:32] == 3).all()
    assert np.array_equal(others(given_).label_map, spots([(50, 20), (50, 40)], 0.38).label_map)  # as it was


def sky(things: str) -> np.ndarray:
    """Noise and something bright at x 40, y 30."""
    data = 100 + np.random.default_rng(0).standard_normal(SHAPE)
    part = {
        "post": np.s_[30:, 39:42], "corner": np.s_[30:, 40:], "twig": np.s_[30, 40:56],
        "nothing": np.s_[:0, :0], "points": np.s_[:0, :0], "point at a roof": np.s_[38:, :],
    }[things]  # fmt: skip
    data[part] += 40.0
    if "point" in things:
        x, y = (
            (np.array([40.2]), np.array([30.1]))
            if "roof" in things
            else (np.array([39.5, 41.6]), np.array([30.0, 31.0]))
        )
        data += Psf(0.5).render(x, y, np.full(len(x), 150.0), SHAPE)
    return data


@pytest.mark.parametrize(
    ("things", "part"),
    [
        ("points", False),
        ("point at a roof", False),
        ("nothing", False),
        ("post", True),
        ("corner", True),
        ("twig", True),
    ],
)
def test_light_that_goes_on_is_no_spot(things: str, part: bool) -> None:
    assert is_part(sky(things), 30, 40) is part
    moved = with_moving(detection([], []), np.array([[40.0, 30.0, 9.0]]), sky(things))
    assert len(others(moved)) == (0 if part else 1)
    found = with_moving(detection([(40, 30)], []), np.array([[40.0, 30.0, 9.0]]), sky(things))
    assert found.blobs.moving is not None and found.blobs.moving.tolist() == [9.0]  # the detector sees a spot


def test_light_goes_on_where_a_labelling_of_the_picture_says_so() -> None:
    rng, told = np.random.default_rng(2), 0
    for _ in range(200):
        data = ndimage.gaussian_filter(rng.standard_normal((40, 46)), rng.uniform(0.5, 4))
        row, column = int(rng.integers(0, 40)), int(rng.integers(0, 46))
        window = data[max(row - 12, 0) : row + 13, max(column - 12, 0) : column + 13]
        y, x = min(row, 12), min(column, 12)
        near = np.s_[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        level = np.median(window)
        labels, _ = ndimage.label(window > level + 0.7 * (window[near].max() - level), np.ones((3, 3)))
        edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
        goes_on = bool(np.isin(labels[near][labels[near] > 0], edge).any())
        assert is_part(data, row, column) is goes_on
        told += goes_on
    assert 50 < told < 150


def test_a_point_beside_the_edge_of_the_frame_is_a_spot() -> None:
    for x, y in ((2, 2), (SHAPE[1] - 3, 20), (20, SHAPE[0] - 3)):
        data = 100 + Psf(0.5).render(np.array([float(x)]), np.array([float(y)]), np.array([150.0]), SHAPE)
        assert not is_part(data, y, x)


def test_candidates_are_blobs_where_tracks_are_expected_and_no_blob_is() -> None:
    given_ = with_moving(detection([(20, 20)], [(50, 20), (24, 20), (50, 44)]), np.array([[50.0, 20.0, 8.0]]), _MAP)
    expected = np.array([[51.0, 20.5], [22.0, 20.0], [70.0, 50.0]])
    told = with_expected(given_, expected, np.full(3, 2.0))
    assert told.blobs.x.tolist() == [20.0, 50.0]
    assert told.blobs.score.tolist() == [0.9, 0.5]
    assert told.blobs.moving is not None and told.blobs.moving.tolist() == [0.0, 8.0]
    assert others(told).x.tolist() == [24.0, 50.0]
    assert told.blobs.boxes is not None and told.blobs.boxes.tolist() == [[19, 19, 3, 3], [49, 19, 3, 3]]
    boxes = others(told).boxes
    assert boxes is not None and boxes.tolist() == [[23, 19, 3, 3], [49, 43, 3, 3]]
    assert with_expected(given_, np.zeros((0, 2)), np.zeros(0)) is given_


@given(
    blobs=st.lists(st.tuples(st.integers(2, 9), st.integers(2, 6)), max_size=4, unique=True),
    candidates=st.lists(st.tuples(st.integers(2, 9), st.integers(2, 6)), max_size=4, unique=True),
    places=st.lists(st.tuples(st.floats(-5, 85), st.floats(-5, 65), st.floats(0.1, 99)), max_size=8),
)
def test_labels_name_the_rows(
    blobs: list[tuple[int, int]], candidates: list[tuple[int, int]], places: list[tuple[float, float, float]]
) -> None:
    on_grid = [[(8 * x, 8 * y) for x, y in which] for which in (blobs, candidates)]
    apart = detection(on_grid[0], [one for one in on_grid[1] if one not in on_grid[0]])
    table = np.array(places).reshape(-1, 3)
    told = with_expected(with_moving(apart, table, _MAP), table[:, :2], np.full(len(table), 2.0))
    for one in (told.blobs, others(told)):
        assert one.label_map is not None and (one.moving is not None or not places)
        assert len(one) == len(one.area) == (len(one) if one.moving is None else len(one.moving))
        assert one.label_map.max(initial=0) <= len(one)
    assert len(told.blobs) >= len(apart.blobs)
    assert np.array_equal(told.blobs.x[: len(apart.blobs)], apart.blobs.x)


def test_what_moves_becomes_a_target_with_its_own_light() -> None:
    told = others(with_moving(detection([], [(50, 20)]), np.array([[30.0, 40.0, 9.0]]), _MAP))
    (target,) = as_targets(told, np.array([1])).records()
    assert (target["x"], target["y"], target["radiance"], target["sigma_x"]) == (30.0, 40.0, 9.0, None)
    rest = part_of(told, np.array([True, False]))
    assert len(rest) == 1 and rest.label_map is not None and rest.label_map.max() == 1


@pytest.mark.parametrize(("flags", "score", "kept"), [(32, 0.5, False), (0, 0.5, True), (32, 0.6, True)])
def test_an_extended_fit_of_a_doubted_spot_gives_way_to_where_it_moves(flags: int, score: float, kept: bool) -> None:
    assert int(TargetFlag.EXTENDED) == 32
    blobs = Blobs(*np.array([[30.0], [20.0], [9.0], [score]]), np.zeros(SHAPE, dtype=np.int32), moving=np.array([5.0]))
    one = np.ones(1)
    target = Targets(31.5 * one, 21.0 * one, 50 * one, 0.1 * one, 0.1 * one, one, 0 * one, one, flags * one)
    told = at_their_places(target, Detection(blobs, _MAP, _MAP, threshold=0.5))
    assert (told.x[0], told.y[0]) == ((31.5, 21.0) if kept else (30.0, 20.0))
    assert np.isnan(told.sigma_x[0]) == (not kept)
