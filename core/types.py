"""The currency of glint: frozen, validated records that every part takes and gives.

Coordinates: ``x`` is the column and ``y`` the row, pixel centres are integers, the origin is the
centre of the top-left pixel; everything is in pixels of the frame unless a name says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import IntFlag
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from glint.depth import EIGHT_BITS, Depth, depth_of
from glint.errors import InputError

MOST_SIDE_PX = 16384
_FLOAT, _INTEGER = np.dtype(np.float64), np.dtype(np.int64)
FRAME_DTYPES: tuple[np.dtype[Any], ...] = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))


class TargetFlag(IntFlag):
    """What a user should know before trusting one target; several may be set."""

    SATURATED = 1
    EDGE = 2
    NOT_CONVERGED = 4
    COUNT_AMBIGUOUS = 8
    ON_GRID = 16
    EXTENDED = 32
    UNREFINED = 64
    DARK = 128
    UNRESOLVED = 256


FLAG_TEXT = {
    TargetFlag.SATURATED: "a pixel of the spot is at full scale: the radiance is inferred from the others",
    TargetFlag.EDGE: "the patch reaches over the edge of the frame; the missing pixels are not fitted",
    TargetFlag.NOT_CONVERGED: "the refinement stopped before its step was small",
    TargetFlag.COUNT_AMBIGUOUS: "the number of targets in the spot is wrong more often than once in four",
    TargetFlag.EXTENDED: "the spot is not made of point targets of this PSF",
    TargetFlag.ON_GRID: "the position is a cell centre of the network's grid, not refined",
    TargetFlag.UNREFINED: "the frame was late, so that the position is the network's, not refined",
    TargetFlag.DARK: "the target is darker than its surroundings: its radiance is what is missing there",
    TargetFlag.UNRESOLVED: "another target of the spot is nearer than both places are certain",
}


_DIGITS = {
    "x": 5, "y": 5, "radiance": 3, "sigma_x": 5, "sigma_y": 5, "sigma_radiance": 3, "score": 6, "count_probability": 4,
}  # fmt: skip


def flag_names(value: int) -> list[str]:
    """Names of the set flags, in order of their bits, e.g. ``['EDGE', 'ON_GRID']``."""
    return list(_flag_names(value))


@lru_cache(maxsize=256)
def _flag_names(value: int) -> tuple[str, ...]:
    return tuple(flag.name or "" for flag in TargetFlag if value & flag)


def _column(owner: str, name: str, value: ArrayLike, dtype: np.dtype[Any], length: int | None) -> NDArray[Any]:
    if type(value) is np.ndarray and value.dtype == dtype and not value.flags.writeable and value.base is None:
        array = value  # a column of another record, which nobody writes to
    else:
        array = np.array(value, dtype=dtype)  # a copy: the caller's array stays the caller's
    if array.ndim != 1:
        raise InputError(f"{owner}.{name}: expected one dimension, got shape {array.shape}")
    if length is not None and len(array) != length:
        raise InputError(f"{owner}.{name}: expected {length} entries like the other columns, got {len(array)}")
    array.setflags(write=False)
    return array


class FrameSize(NamedTuple):
    """Size of a frame, pixels. The shape of its array is the other way round: (height, width)."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @staticmethod
    def parse(text: str) -> FrameSize:
        """The size that ``WIDTHxHEIGHT`` names.

        Raises:
            InputError: if it is none, or a side is 0 or more than :data:`MOST_SIDE_PX`.
        """
        match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
        size = FrameSize(int(match[1]), int(match[2])) if match is not None else FrameSize(0, 0)
        if not all(1 <= side <= MOST_SIDE_PX for side in size):
            raise InputError(f"expected WIDTHxHEIGHT, e.g. 640x512, at most {MOST_SIDE_PX} each, got {text!r}")
        return size


@dataclass(frozen=True, eq=False)
class Frame:
    """One image as it left the sensor.

    Attributes:
        index: number of the frame in its source, from 0.
        t_ns: monotonic time of capture in nanoseconds.
        data: ``uint8``, ``uint16`` or ``float32`` ``[H, W]``; finite if it is ``float32``.
        name: where it came from (a file's name), or "".
        full_scale: the value at which the sensor saturates, or None if unknown.
        truth: the targets that a simulation put into it, or None.
        damaged: why its pixels may be wrong (what its decoder complained of, pictures before it that are missing),
            or "".
        utc_ns: time of capture by the clock on the wall, nanoseconds since 1970, or None if unknown.
        dark_too: targets that are darker than their surroundings are looked for beside bright ones.
    """

    index: int
    t_ns: int
    data: NDArray[Any]
    name: str = ""
    full_scale: float | None = None
    truth: Targets | None = None
    damaged: str = ""
    utc_ns: int | None = None
    dark_too: bool = False

    def __post_init__(self) -> None:
        data = self.data
        if not isinstance(data, np.ndarray) or data.dtype not in FRAME_DTYPES:
            got = getattr(data, "dtype", type(data).__name__)
            hint = "give the array itself to a pipeline, which casts it, or cast it: array.astype(numpy.float32)"
            raise InputError(f"Frame.data: expected an array of uint8, uint16 or float32, got {got}", hint=hint)
        if data.ndim != 2 or 0 in data.shape:
            hint = "one image at a time; glint.stream takes several, [N, H, W]"
            raise InputError(f"Frame.data: expected [H, W] with at least one pixel, got shape {data.shape}", hint=hint)
        if data.dtype == np.float32 and not np.isfinite(data).all():
            hint = "fill them with what is around; pixels that never work go into dead_pixels"
            raise InputError("Frame.data: expected finite values, got NaN or infinity", hint=hint)
        if self.full_scale is not None and not 0 < self.full_scale < np.inf:
            hint = "it is the level in DN at which a pixel is saturated; None: there is none"
            raise InputError(f"Frame.full_scale: expected a positive number or None, got {self.full_scale}", hint=hint)

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return int(self.data.shape[0]), int(self.data.shape[1])

    @property
    def eight_bit(self) -> bool:
        """Whether its DN are those of images of 8 bits, which were made to be looked at."""
        return self.data.dtype == np.uint8 or self.full_scale == 255

    @cached_property
    def depth(self) -> Depth:
        """What its levels are worth in those of images of 8 bits (see :mod:`glint.depth`)."""
        return EIGHT_BITS if self.eight_bit else depth_of(self.data)


@dataclass(frozen=True)
class Gap:
    """A stretch of time for which a live source had no frames: they are lost, not invented.

    Attributes:
        t_ns: monotonic time at which the source was there again, nanoseconds.
        seconds: since its last frame.
        reason: what went wrong, without credentials.
        utc_ns: the same moment by the clock on the wall, nanoseconds since 1970, or None if unknown.
    """

    t_ns: int
    seconds: float
    reason: str
    utc_ns: int | None = None


@dataclass(frozen=True, eq=False)
class Blobs:
    """What the detector found in one frame, one row per connected spot.

    Attributes:
        x, y: flux-weighted centre, pixels, ``float64 [N]``.
        area: pixels, ``int64 [N]``.
        score: highest target probability inside the spot, in [0, 1], ``float64 [N]``.
        label_map: ``int32 [H, W]``, 0 for background and i + 1 for row i, or None.
        dark: which are darker than their surroundings, ``bool [N]``; None: none is.
        moving: radiance of what is there and was not in the last frames of the scene, DN, ``float64 [N]``; 0: nothing;
            None: nobody looked.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    area: NDArray[np.int64]
    score: NDArray[np.float64]
    label_map: NDArray[np.int32] | None = None
    dark: NDArray[np.bool_] | None = None
    moving: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        columns = {"x": _FLOAT, "y": _FLOAT, "area": _INTEGER, "score": _FLOAT}
        more = {"dark": np.dtype(np.bool_), "moving": _FLOAT}
        _set_columns(self, {**columns, **{n: kind for n, kind in more.items() if getattr(self, n) is not None}})

    def __len__(self) -> int:
        return len(self.x)

    @cached_property
    def boxes(self) -> NDArray[np.int64] | None:
        """Left, top, width and height of each spot, pixels, ``int64 [N, 4]``; None without a label map."""
        if self.label_map is None:
            return None
        places = np.flatnonzero(self.label_map != 0)  # of bits: that is much faster
        row = self.label_map.ravel()[places] - 1
        y, x = np.divmod(places, self.label_map.shape[1])
        least, most = np.full((2, len(self)), np.iinfo(np.int64).max), np.full((2, len(self)), -1)
        for axis, values in enumerate((x, y)):
            np.minimum.at(least[axis], row, values)
            np.maximum.at(most[axis], row, values)
        return np.stack([*least, *(most - least + 1)], axis=1)

    def records(self) -> list[dict[str, Any]]:
        """One JSON-ready object per spot; its ``box`` is None without a label map. A dark one says so."""
        boxes = [None] * len(self) if self.boxes is None else self.boxes.tolist()
        columns = self.x.round(3).tolist(), self.y.round(3).tolist(), self.area.tolist(), self.score.round(6).tolist()
        rows = [
            {"x": x, "y": y, "area": area, "score": score, "box": box}
            for x, y, area, score, box in zip(*columns, boxes)
        ]
        for row in () if self.dark is None else np.flatnonzero(self.dark).tolist():
            rows[row]["dark"] = True
        return rows


def _zeros() -> NDArray[Any]:
    return np.zeros(0)


@dataclass(frozen=True, eq=False)
class Targets:
    """Unmixed targets, one row each.

    Attributes:
        x, y: position, pixels, ``float64 [N]``.
        radiance: total flux in DN of the frame, ``float64 [N]``.
        sigma_x, sigma_y: standard deviation of the position, pixels; NaN if unknown.
        sigma_radiance: standard deviation of the radiance, DN; NaN if unknown.
        blob: row of the blob (or number of the patch) that the target was taken out of.
        score: confidence in [0, 1].
        flags: bits of :class:`TargetFlag`.
        count_probability: that its blob holds as many targets as it is said to; NaN if unknown, or left away.
    """

    x: NDArray[np.float64] = field(default_factory=_zeros)
    y: NDArray[np.float64] = field(default_factory=_zeros)
    radiance: NDArray[np.float64] = field(default_factory=_zeros)
    sigma_x: NDArray[np.float64] = field(default_factory=_zeros)
    sigma_y: NDArray[np.float64] = field(default_factory=_zeros)
    sigma_radiance: NDArray[np.float64] = field(default_factory=_zeros)
    blob: NDArray[np.int64] = field(default_factory=_zeros)
    score: NDArray[np.float64] = field(default_factory=_zeros)
    flags: NDArray[np.int64] = field(default_factory=_zeros)
    count_probability: NDArray[np.float64] = field(default_factory=_zeros)

    def __post_init__(self) -> None:
        if not len(self.count_probability):
            object.__setattr__(self, "count_probability", np.full(np.size(self.x), np.nan))
        _set_columns(self, _OF_TARGETS)

    def __len__(self) -> int:
        return len(self.x)

    @staticmethod
    def concatenate(parts: Sequence[Targets]) -> Targets:
        """All rows of several tables, in their order."""
        if len(parts) == 1:
            return parts[0]
        return Targets._of({n: np.concatenate([getattr(p, n) for p in parts]) for n in _OF_TARGETS} if parts else {})

    def select(self, rows: NDArray[Any]) -> Targets:
        """The rows that an index or boolean array names, in its order."""
        return Targets._of({name: getattr(self, name)[rows] for name in _OF_TARGETS})

    @staticmethod
    def _of(columns: dict[str, NDArray[Any]]) -> Targets:
        """Targets of arrays that were just made, which are not copied."""
        columns = {"count_probability": np.full(len(columns["x"]), np.nan), **columns} if columns else vars(Targets())
        shape = np.shape(columns["x"])
        for name, column in columns.items():
            right = type(column) is np.ndarray and column.dtype == _OF_TARGETS[name] and column.shape == shape
            if not right or len(shape) != 1:
                return Targets(**columns)  # which puts it right, or says what is wrong
            column.setflags(write=False)
        new = object.__new__(Targets)
        vars(new).update(columns)
        return new

    def changed(self, **columns: NDArray[Any]) -> Targets:
        """The same targets with other columns, arrays that were just made."""
        return Targets._of({**vars(self), **columns})

    def records(self, *, counts: bool = False) -> list[dict[str, Any]]:
        """One JSON-ready object per target; an unknown uncertainty is ``None``.

        Positions are rounded to 1e-5 px and radiances to 1e-3 DN, far below what can be measured. With ``counts`` each
        says how many targets its blob has, ``n``, and how probable that is.
        """
        columns = {name: getattr(self, name) for name in _OF_TARGETS if name != "count_probability"}
        if counts:
            blob = self.blob - self.blob.min(initial=0)
            columns |= {"n": np.bincount(blob)[blob], "count_probability": self.count_probability}
        lists = {n: c.round(_DIGITS[n]).tolist() if n in _DIGITS else c.tolist() for n, c in columns.items()}
        for name in _DIGITS.keys() & columns.keys():
            lists[name] = [None if value != value else value for value in lists[name]]
        lists["flags"] = [flag_names(value) for value in lists["flags"]]
        return [dict(zip(lists, values)) for values in zip(*lists.values())]


_OF_TARGETS = {f.name: _INTEGER if f.name in {"blob", "flags"} else _FLOAT for f in fields(Targets)}


def _set_columns(record: Any, dtypes: dict[str, np.dtype[Any]]) -> None:
    """Store every column as a read-only array of its dtype, all as long as ``x``."""
    length: int | None = None
    owner, columns = type(record).__name__, vars(record)
    for name, dtype in dtypes.items():
        array = columns[name] = _column(owner, name, columns[name], dtype, length)
        length = len(array)
