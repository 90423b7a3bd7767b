from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_results import made_tracks

from glint.errors import InputError
from glint.runtime.tracking.registration import Shift
from glint.runtime.tracking.zones import SETTLED_FRAMES, Zone, ZoneWatch, read_zones

SQUARE = Zone("square", ((10, 10), (20, 10), (20, 20), (10, 20)))


def events(watch: ZoneWatch, x: float, *, lost: tuple[int, ...] = (), shift: float = 0.0) -> list[tuple[str, int, str]]:
    numbers = [] if lost else [7]
    tracks = made_tracks(numbers, x=[x][: len(numbers)], y=[15.0][: len(numbers)], lost=lost)
    return [(c.event, c.track, c.zone) for c in watch(tracks, Shift(shift, 0.0))]


def test_points_in_a_polygon_with_a_bay() -> None:
    bay = Zone("bay", ((0, 0), (10, 0), (10, 10), (5, 2), (0, 10)))
    x, y = np.array([1.0, 5, 5, 9, -1, 11]), np.array([5.0, 1, 5, 5, 5, 5])
    assert bay.holds(x, y).tolist() == [True, True, False, True, False, False]
    # Area by counting points of a fine grid against the shoelace formula.
    gx, gy = (a.ravel() + 0.005 for a in np.meshgrid(np.arange(0, 10, 0.05), np.arange(0, 10, 0.05)))
    corners = np.array(bay.polygon)
    after = np.roll(corners, -1, axis=0)
    area = abs((corners[:, 0] * after[:, 1] - corners[:, 1] * after[:, 0]).sum()) / 2
    assert bay.holds(gx, gy).sum() * 0.05**2 == pytest.approx(area, rel=0.01)


def test_a_track_enters_and_leaves_once_it_has_settled_there() -> None:
    watch = ZoneWatch([SQUARE])
    assert events(watch, 5.0) == []
    flickers = [events(watch, x) for x in (11.0, 9.0, 11.0, 11.0)]
    assert flickers == [[]] * 4
    assert events(watch, 12.0) == [("enter", 7, "square")]
    assert [events(watch, 25.0) for _ in range(SETTLED_FRAMES)] == [[]] * (SETTLED_FRAMES - 1) + [
        [("leave", 7, "square")]
    ]
    assert events(watch, 25.0) == []


def test_a_track_that_is_told_inside_enters_and_one_that_ends_inside_leaves() -> None:
    watch = ZoneWatch([SQUARE])
    assert events(watch, 15.0) == [("enter", 7, "square")]
    assert events(watch, 0.0, lost=(7,)) == [("leave", 7, "square")]
    assert events(watch, 0.0, lost=(7,)) == []


def test_zones_of_the_scene_move_with_it() -> None:
    scene = ZoneWatch([Zone("there", SQUARE.polygon, "scene")])
    assert events(scene, 15.0) == [("enter", 7, "there")]
    turned = [events(scene, 15.0 + 30.0 + i, shift=30.0 + i) for i in range(5)]
    assert turned == [[]] * 5
    frame = ZoneWatch([SQUARE])
    assert events(frame, 15.0 + 30.0, shift=30.0) == []


def test_a_file_of_zones(tmp_path: Path) -> None:
    path = tmp_path / "zones.json"
    corners = [[10, 10], [20, 10], [20.0, 20], [10, 20]]
    rows = [{"name": "square", "polygon": corners}, {"name": "there", "polygon": corners, "in": "scene"}]
    path.write_text(json.dumps({"zones": rows}))
    assert read_zones(path) == (SQUARE, Zone("there", SQUARE.polygon, "scene"))


@pytest.mark.parametrize(
    "content",
    [
        [], {}, {"zones": []}, {"zones": [3]}, {"zones": [{"polygon": [[0, 0], [1, 0], [0, 1]]}]},
        {"zones": [{"name": "a", "polygon": [[0, 0], [1, 0]]}]},
        {"zones": [{"name": "a", "polygon": [[0, 0], [1, 0], [0]]}]},
        {"zones": [{"name": "a", "polygon": [[0, 0], [1, 0], [0, 10**400]]}]},
        {"zones": [{"name": "a", "polygon": [[0, 0], [1, 0], [0, True]]}]},
        {"zones": [{"name": "a", "polygon": [[0, 0], [1, 0], [0, 1]], "in": "world"}]},
        {"zones": [{"name": "a", "polygon": [[0, 0], [1, 0], [0, 1]], "colour": 1}]},
        {"zones": [{"name": "a", "polygon": [[0, 0], [1, 0], [0, 1]]}] * 2},
    ],
)  # fmt: skip
def test_what_is_no_file_of_zones_is_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "zones.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="zone"):
        read_zones(path)
