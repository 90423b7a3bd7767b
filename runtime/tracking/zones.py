"""Alarm zones: polygons, and which tracks enter and leave them.

A zone lies in the frame or in the scene; the scene is the first frame, wherever the camera turns. A track that is first
told inside a zone enters it. Later it enters or leaves when it has been on the other side for ``SETTLED_FRAMES``
frames, so that one on the border makes no noise, and it leaves when it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from glint.errors import InputError
from glint.files import read_json
from glint.runtime.tracking.registration import Shift
from glint.runtime.tracking.tracks import Crossing, Tracks

FloatArray = NDArray[np.float64]
SETTLED_FRAMES = 3  # frames
_FARTHEST_PX = 1e6  # px
_HINT = 'write {"zones": [{"name": "gate", "polygon": [[10, 10], [90, 10], [50, 60]], "in": "frame"}]}'


@dataclass(frozen=True)
class Zone:
    """A polygon.

    Attributes:
        name: of the zone.
        polygon: corners (x, y), pixels; the last is joined to the first.
        where: what the corners are pixels of.

    Raises:
        InputError: if there are fewer than three corners, or one is no finite number.
    """

    name: str
    polygon: tuple[tuple[float, float], ...]
    where: Literal["frame", "scene"] = "frame"

    def __post_init__(self) -> None:
        corners = np.asarray(self.polygon, dtype=np.float64)
        if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3 or not np.isfinite(corners).all():
            raise InputError(
                f"zone {self.name!r}: expected at least three corners [x, y], got {self.polygon}",
                hint="a zone is a polygon in pixels: [[0, 0], [100, 0], [100, 50]]",
            )

    def holds(self, x: FloatArray, y: FloatArray) -> NDArray[np.bool_]:
        """Which points lie inside, ``bool [N]`` (even-odd rule)."""
        inside = np.zeros(len(x), dtype=np.bool_)
        for (ax, ay), (bx, by) in zip(self.polygon, (*self.polygon[1:], self.polygon[0])):
            crosses = (ay > y) != (by > y)
            if crosses.any():
                inside ^= crosses & (x < ax + (y - ay) * (bx - ax) / ((by - ay) or 1.0))
        return inside


def read_zones(path: Path) -> tuple[Zone, ...]:
    """The zones of a JSON file.

    Raises:
        InputError: if it holds anything else, or two zones have one name.
    """
    table = read_json(path, what="zones", kind=dict)
    rows = table.get("zones")
    if not isinstance(rows, list) or not rows:
        raise InputError(f"zones {path}: expected a list of zones, got {type(rows).__name__}", hint=_HINT)
    zones = tuple(_zone(path, row) for row in rows)
    names = [zone.name for zone in zones]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"zones {path}: {twice[0]!r} is there twice", hint="give each zone a name of its own")
    return zones


def _zone(path: Path, row: Any) -> Zone:
    name, polygon, where = (row.get(key) for key in ("name", "polygon", "in")) if isinstance(row, dict) else (None,) * 3
    unknown = sorted(row.keys() - {"name", "polygon", "in"}) if isinstance(row, dict) else []
    if unknown:
        raise InputError(f"zones {path}: no field {unknown[0]!r}", hint=_HINT)
    if not isinstance(name, str) or not name or where not in (None, "frame", "scene"):
        raise InputError(f'zones {path}: expected a name, a polygon and "in" of frame or scene, got {row}', hint=_HINT)
    corners = polygon if isinstance(polygon, list) else []
    if not all(isinstance(c, list) and len(c) == 2 and all(_is_place(v) for v in c) for c in corners):
        raise InputError(f"zones {path}: {name!r}: expected corners [x, y], got {polygon}", hint=_HINT)
    return Zone(name, tuple((float(x), float(y)) for x, y in corners), where or "frame")


def _is_place(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _FARTHEST_PX


class ZoneWatch:
    """Remembers which track is in which zone.

    Args:
        zones: any number.
    """

    def __init__(self, zones: Sequence[Zone] = ()) -> None:
        self.zones = tuple(zones)
        self._inside: dict[tuple[int, str], bool] = {}
        self._other: dict[tuple[int, str], int] = {}  # frames on the other side

    def __call__(self, tracks: Tracks, shift: Shift) -> tuple[Crossing, ...]:
        """What happens with the tracks of the next frame, whose scene lies there."""
        found: list[Crossing] = []
        for zone in self.zones:
            scene = zone.where == "scene"
            x, y = shift.to_scene(tracks.x, tracks.y) if scene else (tracks.x, tracks.y)
            for number, inside in zip(tracks.number.tolist(), zone.holds(x, y).tolist()):
                if self._changes((number, zone.name), inside):
                    found.append(Crossing("enter" if inside else "leave", number, zone.name))
            for number in tracks.lost:
                if self._inside.pop((number, zone.name), False):
                    found.append(Crossing("leave", number, zone.name))
                self._other.pop((number, zone.name), None)
        return tuple(found)

    def _changes(self, key: tuple[int, str], inside: bool) -> bool:
        before = self._inside.get(key)
        if before is None:
            self._inside[key] = inside
            return inside
        count = self._other.get(key, 0) + 1 if inside != before else 0
        self._other[key] = count
        if count < SETTLED_FRAMES:
            return False
        self._inside[key], self._other[key] = inside, 0
        return True
