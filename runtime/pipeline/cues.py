"""What earlier frames say of spots that the detector doubts: which may be targets, and which are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.compiled import entry
from glint.processing.connected import laid_over, numbers_of, relabelled
from glint.runtime.pipeline.detector import Detection
from glint.types import Blobs, TargetFlag, Targets

_NEAR_BLOB_PX = 3  # px to all sides in which a blob accounts for what has changed
_NEAR_CANDIDATE_PX = 2  # the same of a candidate
_WINDOW_PX = 12  # px to all sides of a spot in which it must end: what is larger, the detector finds
_LEVEL_SHARE = 0.7  # of its height over their median, at which its light is followed
_SPOT_PX = 1  # px to all sides that a spot of its own is given


def with_moving(detection: Detection, places: NDArray[np.float64], data: NDArray[Any]) -> Detection:
    """The detection with spots that move among its candidates; each is as probable as the least of blobs.

    Args:
        detection: of a frame, with candidates.
        places: of spots that move, x, y, pixels, and radiance, DN, ``[N, 3]``. Those at the frame's edge
            are passed over, and what is part of something larger that the detector has not found.
        data: the frame's pixels ``[H, W]``.
    """
    candidates, blobs = detection.candidates, detection.blobs
    if not len(places):
        return detection
    assert candidates is not None  # noqa: S101  (a tracker asked for them)
    assert candidates.label_map is not None and blobs.label_map is not None  # noqa: S101  (a detector makes them)
    height, width = blobs.label_map.shape
    score, labels = candidates.score.copy(), candidates.label_map
    known, moving = np.zeros(len(blobs)), np.zeros(len(candidates))
    at = np.stack([candidates.x, candidates.y], axis=1)
    fresh: list[tuple[float, float, float]] = []
    for x, y, radiance in places.tolist():
        column, row = round(x), round(y)
        if not (_SPOT_PX <= column < width - _SPOT_PX and _SPOT_PX <= row < height - _SPOT_PX):
            continue
        at_blob, at_candidate = (
            _labels(one, row, column, px)
            for one, px in ((blobs.label_map, _NEAR_BLOB_PX), (candidates.label_map, _NEAR_CANDIDATE_PX))
        )
        if len(at_blob):
            known[at_blob] = radiance
        elif is_part(data, row, column):
            continue
        elif len(at_candidate):
            moving[at_candidate] = radiance
            score[at_candidate] = detection.threshold
            at[at_candidate] = x, y
        else:
            labels = labels.copy() if labels is candidates.label_map else labels
            fresh.append((x, y, radiance))
            labels[_around(row, column, _SPOT_PX)] = len(candidates) + len(fresh)
    more = np.array(fresh, dtype=np.float64).reshape(-1, 3)
    x, y = np.concatenate([at, more[:, :2]]).T
    area = np.append(candidates.area, np.full(len(more), (2 * _SPOT_PX + 1) ** 2))
    score = np.append(score, np.full(len(more), detection.threshold))
    others = Blobs(x, y, area, score, labels, moving=np.append(moving, more[:, 2]))
    marked = replace(blobs, moving=known)
    vars(marked)["boxes"] = blobs.boxes  # else the whole label map is searched when somebody asks
    return replace(detection, blobs=marked, candidates=others)


def is_part(data: NDArray[Any], row: int, column: int) -> bool:
    """Whether the light at a place goes on beyond what a spot lights: the end of a post, the edge of a roof."""
    window = data[
        max(row - _WINDOW_PX, 0) : row + _WINDOW_PX + 1, max(column - _WINDOW_PX, 0) : column + _WINDOW_PX + 1
    ].astype(np.float64)
    y, x = min(row, _WINDOW_PX), min(column, _WINDOW_PX)
    return bool(_reaches_edge(window, y, x))


@entry("f8[2] i8 i8")
def _reaches_edge(window: NDArray[np.float64], y: int, x: int) -> int:
    """1 if bright pixels lead from a place, or one beside it, to the window's edge, else 0."""
    height, width = window.shape
    top = window[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].max()
    level = np.median(window)
    level += _LEVEL_SHARE * (top - level)
    done, waiting = window <= level, np.empty((height * width + 1, 2), dtype=np.int64)
    waiting[0, 0], waiting[0, 1], number = y, x, 1
    while number > 0:
        number -= 1
        row, column = waiting[number, 0], waiting[number, 1]
        for i in range(max(row - 1, 0), min(row + 2, height)):
            for j in range(max(column - 1, 0), min(column + 2, width)):
                if done[i, j]:
                    continue
                if i == 0 or j == 0 or i == height - 1 or j == width - 1:
                    return 1
                done[i, j] = True
                waiting[number, 0], waiting[number, 1], number = i, j, number + 1
    return 0


def with_expected(detection: Detection, places: NDArray[np.float64], reach: NDArray[np.float64]) -> Detection:
    """The detection with those candidates among its blobs that stand where confirmed tracks are expected.

    Args:
        detection: of a frame, with candidates.
        places: at which targets are expected, x and y ``[N, 2]``, pixels.
        reach: how far from there they may be, pixels ``[N]``. Where a blob is as near, no candidate is taken.
    """
    candidates, blobs = detection.candidates, detection.blobs
    assert candidates is not None  # noqa: S101  (a tracker asked for them)
    if not len(candidates) or not len(places):
        return detection
    expected = ~(_distance(places, blobs).min(axis=1, initial=np.inf) <= reach + _NEAR_BLOB_PX)
    distance = np.where(expected[:, None], _distance(places, candidates), np.inf)
    nearest = distance.argmin(axis=1)
    taken = np.unique(nearest[distance[np.arange(len(places)), nearest] <= reach])
    if not len(taken):
        return detection
    moved = np.isin(np.arange(len(candidates)), taken)
    return replace(detection, blobs=_joined(blobs, candidates, moved), candidates=part_of(candidates, ~moved))


def part_of(blobs: Blobs, kept: NDArray[np.bool_]) -> Blobs:
    """Some of the blobs, labelled anew."""
    assert blobs.label_map is not None  # noqa: S101  (a detector makes it)
    return Blobs(
        blobs.x[kept], blobs.y[kept], blobs.area[kept], blobs.score[kept],
        relabelled(blobs.label_map, numbers_of(kept)), moving=None if blobs.moving is None else blobs.moving[kept],
    )  # fmt: skip


def as_targets(spots: Blobs, rows: NDArray[np.int64]) -> Targets:
    """Some spots that move as a target each: their places are known, and what light has come there."""
    assert spots.moving is not None  # noqa: S101  (they move)
    unknown, none = np.full(len(rows), np.nan), np.zeros(len(rows), dtype=np.int64)
    x, y, radiance, score = (column[rows] for column in (spots.x, spots.y, spots.moving, spots.score))
    return Targets(x, y, radiance, unknown, unknown, unknown, rows, score, none)


def at_their_places(targets: Targets, detection: Detection) -> Targets:
    """The targets of blobs, those that the detector doubted and that are ``EXTENDED`` where they were seen to move.

    The fit of such a spot takes what lies behind it for its light.
    """
    blobs = detection.blobs
    if blobs.moving is None:
        return targets
    doubted = (blobs.moving > 0) & (blobs.score <= detection.threshold)
    rows = np.flatnonzero(doubted[targets.blob] & ((targets.flags & int(TargetFlag.EXTENDED)) != 0))
    if not len(rows):
        return targets
    columns = {name: getattr(targets, name).copy() for name in ("x", "y", "sigma_x", "sigma_y")}
    for name, value in (("x", blobs.x), ("y", blobs.y)):
        columns[name][rows] = value[targets.blob[rows]]
        columns[f"sigma_{name}"][rows] = np.nan
    return targets.changed(**columns)


@entry("i4[2] i8 i8 i8")
def _labels(labels: NDArray[np.int32], row: int, column: int, px: int) -> NDArray[np.int64]:
    """The spots within some pixels of a place, each once."""
    height, width = labels.shape
    found, number = np.empty((2 * px + 1) ** 2, dtype=np.int64), 0
    for i in range(max(row - px, 0), min(row + px + 1, height)):
        for j in range(max(column - px, 0), min(column + px + 1, width)):
            spot = labels[i, j] - 1
            if spot >= 0 and not (found[:number] == spot).any():
                found[number], number = spot, number + 1
    return found[:number].copy()


def _around(row: int, column: int, px: int) -> tuple[slice, slice]:
    return np.s_[max(row - px, 0) : row + px + 1, max(column - px, 0) : column + px + 1]


def _distance(places: NDArray[np.float64], blobs: Blobs) -> NDArray[np.float64]:
    """Pixels, ``[places, blobs]``."""
    distance: NDArray[np.float64] = np.hypot(places[:, :1] - blobs.x, places[:, 1:] - blobs.y)
    return distance


def _joined(blobs: Blobs, candidates: Blobs, moved: NDArray[np.bool_]) -> Blobs:
    x, y, area, score = (
        np.append(getattr(blobs, n), getattr(candidates, n)[moved]) for n in ("x", "y", "area", "score")
    )
    assert blobs.label_map is not None and candidates.label_map is not None  # noqa: S101  (a detector makes them)
    marks = None
    if blobs.moving is not None and candidates.moving is not None:
        marks = np.append(blobs.moving, candidates.moving[moved])
    labels = laid_over(candidates.label_map, numbers_of(moved, len(blobs)), blobs.label_map.copy())
    return Blobs(x, y, area, score, labels, moving=marks)
