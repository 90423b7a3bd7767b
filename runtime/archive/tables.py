"""Results as Arrow tables and back: unrounded, typed, with units and conventions in the schemas' metadata."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from glint import __version__
from glint.runtime.pipeline.pipeline import Result
from glint.runtime.tracking.tracks import Tracks
from glint.types import FLAG_TEXT, Blobs, Targets

_CONVENTIONS = (
    "x is the column and y the row, pixel centres are integers, the origin is the centre of the top-left pixel; "
    "null is unknown"
)
_UNITS = {
    "frame": "number in the recording, from 0; null in a row that is no frame (see note)",
    "t_ns": "ns, of the recording's own clock; of images: 30 per second",
    "utc_ns": "ns since 1970 by the clock on the wall; null if unknown",
    "repeated": "the pixels of the frame before; null where that one belongs to another chunk",
    "damaged": "why its pixels may be wrong; null: nothing speaks against them",
    "note": "why there is no frame: skipped, gap or lost; null for a frame",
    "target": "row of the target in its frame, from 0",
    "x": "px", "y": "px", "vx": "px/s", "vy": "px/s", "radiance": "DN", "sigma_x": "px", "sigma_y": "px",
    "sigma_radiance": "DN", "count_probability": "1", "score": "1", "area": "px", "age_s": "s",
    "log_odds": "natural logarithm of the odds of a target over clutter",
    "blob": "number of the spot in its frame, from 0",
    "blobs": "spots; x, y, left, top, width and height in px, area in pixels; dark: darker than its surroundings",
    "n": "targets in the spot",
    "flags": "bits: " + "; ".join(f"{flag.value} {flag.name}: {text}" for flag, text in FLAG_TEXT.items()),
    "track": "number in its recording, from 0, in order of confirmation",
    "seen": "it has a target in this frame", "static": "it has not moved", "confirmed": "told for the first time",
    **{f"var_{axis}": "px^2" for axis in "xy"}, **{f"cov_{axis}_v{axis}": "px^2/s" for axis in "xy"},
    **{f"var_v{axis}": "px^2/s^2" for axis in "xy"},
}  # fmt: skip
_INTEGERS = {"blob": pa.int32(), "flags": pa.int32(), "area": pa.int64()}
_TARGET = [(f.name, _INTEGERS.get(f.name, pa.float64())) for f in fields(Targets)]
_SPOT = [*((name, _INTEGERS.get(name, pa.float64())) for name in ("x", "y", "area", "score")), ("dark", pa.bool_())]
_BOX = ("left", "top", "width", "height")
_BLOB = [*_SPOT, *((name, pa.int32()) for name in _BOX)]


def _schema(columns: Sequence[tuple[str, Any]]) -> Any:
    told = [pa.field(n, t, metadata={"unit": _UNITS[n]} if n in _UNITS else None) for n, t in columns]
    about = {"glint": __version__, "conventions": _CONVENTIONS}
    return pa.schema(told, metadata=about)


_KEY_COLUMNS = [("recording", pa.string()), ("frame", pa.int64()), ("t_ns", pa.int64())]
FRAMES = _schema(
    [
        *_KEY_COLUMNS, ("utc_ns", pa.int64()), ("name", pa.string()), ("repeated", pa.bool_()),
        ("damaged", pa.string()), ("targets", pa.int32()), ("note", pa.string()),
        ("blobs", pa.list_(pa.struct(_BLOB))), ("candidates", pa.list_(pa.struct(_TARGET))),
        ("candidate_blobs", pa.list_(pa.struct(_SPOT))),
    ]
)  # fmt: skip
TARGETS = _schema([*_KEY_COLUMNS, ("target", pa.int32()), *_TARGET, ("n", pa.int32())])
TRACKS = _schema(
    [
        *_KEY_COLUMNS, ("track", pa.int64()), ("target", pa.int32()),
        *((name, pa.float64()) for name in ("x", "y", "vx", "vy")),
        *((name, pa.float64()) for a in "xy" for name in (f"var_{a}", f"cov_{a}_v{a}", f"var_v{a}")),
        ("age_s", pa.float64()), ("log_odds", pa.float64()), ("radiance", pa.float64()), ("seen", pa.bool_()),
        ("static", pa.bool_()), ("confirmed", pa.bool_()),
    ]
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class FrameRow:
    """What is kept of one frame.

    Attributes:
        frame: its number.
        t_ns: its time by the recording's own clock.
        utc_ns: its time by the clock on the wall, or None.
        name: of its file, or "".
        repeated: whether it holds the pixels of the frame before; None if that is not known.
        damaged: why its pixels may be wrong, or None.
        targets, blobs: what was found.
        boxes: of the blobs, ``int64 [N, 4]`` (see ``Blobs.boxes``).
        candidates, candidate_blobs: what was too uncertain; None if nobody asked.
    """

    frame: int
    t_ns: int
    utc_ns: int | None
    name: str
    repeated: bool | None
    damaged: str | None
    targets: Targets
    blobs: Blobs
    boxes: NDArray[np.int64]
    candidates: Targets | None = None
    candidate_blobs: Blobs | None = None

    @staticmethod
    def of(result: Result, *, repeated: bool | None) -> FrameRow:
        """What is kept of a result."""
        frame, seen, boxes = result.frame, result.detection, result.blobs.boxes
        assert boxes is not None  # noqa: S101  (a detector labels pixels)
        return FrameRow(
            frame.index, frame.t_ns, frame.utc_ns, frame.name, repeated, frame.damaged or None,
            result.targets, seen.blobs, boxes, result.candidates, seen.candidates,
        )  # fmt: skip


def frames_table(recording: str, rows: Sequence[FrameRow], notes: Sequence[tuple[int | None, str, str]] = ()) -> Any:
    """One row per frame, then one per note: its time, a name and the text."""
    n, m = len(rows), len(notes)
    nothing: list[Any] = [None] * m
    columns = {
        "recording": [recording] * (n + m),
        "frame": [r.frame for r in rows] + nothing,
        "t_ns": [r.t_ns for r in rows] + [t for t, _, _ in notes],
        "utc_ns": [r.utc_ns for r in rows] + nothing,
        "name": [r.name for r in rows] + [name for _, name, _ in notes],
        "repeated": [r.repeated for r in rows] + nothing,
        "damaged": [r.damaged for r in rows] + nothing,
        "targets": [len(r.targets) for r in rows] + nothing,
        "note": [None] * n + [text for _, _, text in notes],
        "blobs": _nested([{**_spots(r.blobs), **dict(zip(_BOX, r.boxes.T))} for r in rows], _BLOB, m),
        "candidates": _nested([None if r.candidates is None else vars(r.candidates) for r in rows], _TARGET, m),
        "candidate_blobs": _nested(
            [None if r.candidate_blobs is None else _spots(r.candidate_blobs) for r in rows], _SPOT, m
        ),
    }
    arrays = [c if isinstance(c, pa.Array) else pa.array(c, f.type) for c, f in zip(columns.values(), FRAMES)]
    return pa.Table.from_arrays(arrays, schema=FRAMES)


def targets_table(recording: str, rows: Sequence[FrameRow]) -> Any:
    """One row per target."""
    lengths = [len(r.targets) for r in rows]
    whole = Targets.concatenate([r.targets for r in rows])
    counted: list[np.ndarray[Any, Any]] = [np.zeros(0, dtype=np.int64)]
    for row in rows:
        _, place, number = np.unique(row.targets.blob, return_inverse=True, return_counts=True)
        counted.append(number[place])
    columns: dict[str, Any] = {
        "recording": [recording] * sum(lengths),
        "frame": np.repeat([r.frame for r in rows], lengths).astype(np.int64),
        "t_ns": [r.t_ns for r, n in zip(rows, lengths) for _ in range(n)],
        "target": np.concatenate([np.zeros(0, dtype=np.int64), *(np.arange(n) for n in lengths)]),
        **{name: getattr(whole, name) for name, _ in _TARGET},
        "n": np.concatenate(counted),
    }
    return _table(columns, TARGETS)


def tracks_table(recording: str, results: Sequence[Result]) -> Any:
    """One row per frame and confirmed track."""
    pairs = [(r, r.tracks) for r in results if r.tracks is not None and len(r.tracks)]
    lengths = [len(t) for _, t in pairs]
    columns: dict[str, Any] = {
        "recording": [recording] * sum(lengths),
        "frame": np.repeat([r.frame.index for r, _ in pairs], lengths).astype(np.int64),
        "t_ns": [r.frame.t_ns for (r, _), n in zip(pairs, lengths) for _ in range(n)],
        "track": _joined([t.number for _, t in pairs], np.int64),
        "target": [row for r, t in pairs for row in _targets_of(r, t)],
        **{name: _joined([getattr(t, name) for _, t in pairs]) for name in ("x", "y", "vx", "vy")},
        **{
            name: _joined([t.covariance[:, a, k] for _, t in pairs])
            for a, axis in enumerate("xy")
            for k, name in enumerate((f"var_{axis}", f"cov_{axis}_v{axis}", f"var_v{axis}"))
        },
        "age_s": _joined([t.age_s for _, t in pairs]),
        "log_odds": _joined([t.score for _, t in pairs]),
        "radiance": _joined([t.radiance for _, t in pairs]),
        "seen": _joined([t.seen for _, t in pairs], np.bool_),
        "static": _joined([t.static for _, t in pairs], np.bool_),
        "confirmed": _joined([np.isin(t.number, t.confirmed) for _, t in pairs], np.bool_),
    }
    return _table(columns, TRACKS)


def _joined(parts: Sequence[Any], dtype: Any = np.float64) -> Any:
    return np.concatenate([np.zeros(0, dtype=dtype), *parts])


def _targets_of(result: Result, tracks: Tracks) -> list[int | None]:
    owner = {} if result.track is None else {int(n): row for row, n in enumerate(result.track) if n >= 0}
    return [owner.get(int(n)) for n in tracks.number]


def _table(columns: dict[str, Any], schema: Any) -> Any:
    return pa.Table.from_arrays([_array(columns[f.name], f.type) for f in schema], schema=schema)


def _array(values: Any, kind: Any) -> Any:
    return pa.array(values, kind, from_pandas=True)  # NaN is null


def _spots(blobs: Blobs) -> dict[str, Any]:
    """The columns of blobs, whether they are dark among them."""
    return {**vars(blobs), "dark": np.zeros(len(blobs), dtype=np.bool_) if blobs.dark is None else blobs.dark}


def _blobs_of(columns: dict[str, Any]) -> Blobs:
    """The same back."""
    dark = columns["dark"] if columns["dark"].any() else None
    return Blobs(**{name: columns[name] for name in ("x", "y", "area", "score")}, dark=dark)


def _nested(parts: Sequence[dict[str, Any] | None], columns: Sequence[tuple[str, Any]], further: int) -> Any:
    """A list of structures for each record of columns, null for None; then ``further`` nulls."""
    lengths = [0 if p is None else len(p["x"]) for p in parts]
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    values = [_joined([p[n] for p in parts if p is not None]) for n, _ in columns]
    kinds = [pa.field(n, t) for n, t in columns]
    inside = pa.StructArray.from_arrays([_whole(v, f.type) for v, f in zip(values, kinds)], fields=kinds)
    offsets = [*(None if p is None else int(e) for p, e in zip(parts, ends)), *([None] * further), int(ends[-1])]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), inside, type=pa.list_(pa.struct(kinds)))


def _whole(values: Any, kind: Any) -> Any:
    return _array(values if pa.types.is_floating(kind) else values.astype(kind.to_pandas_dtype()), kind)


def frame_rows(frames: Any, targets: Any) -> list[FrameRow]:
    """The rows of two tables, as they were before; what is no frame is left out."""
    frames = frames.filter(frames["note"].is_null())
    whole = Targets(**{n: _numbers(targets[n].combine_chunks()) for n, _ in _TARGET})
    ends = np.cumsum(np.asarray(frames["targets"], dtype=np.int64))
    starts = ends - np.asarray(frames["targets"], dtype=np.int64)
    plain = frames.select(["frame", "t_ns", "utc_ns", "name", "repeated", "damaged"]).to_pylist()
    blobs, candidates, others = (_unnested(frames[n]) for n in ("blobs", "candidates", "candidate_blobs"))
    rows = []
    for place, (row, start, end) in enumerate(zip(plain, starts, ends)):
        found, unsure, spots = blobs[place], candidates[place], others[place]
        assert found is not None  # noqa: S101  (only notes have no blobs)
        rows.append(
            FrameRow(
                **row, targets=whole.select(np.arange(start, end)), blobs=_blobs_of(found),
                boxes=np.stack([found[side] for side in _BOX], axis=1).astype(np.int64),
                candidates=None if unsure is None else Targets(**unsure),
                candidate_blobs=None if spots is None else _blobs_of(spots),
            )
        )  # fmt: skip
    return rows


def _numbers(array: Any) -> Any:
    floats = pa.types.is_floating(array.type)
    return array.fill_null(np.nan).to_numpy(zero_copy_only=False) if floats else np.asarray(array)


def _unnested(column: Any) -> list[dict[str, Any] | None]:
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    inside = array.values
    columns = {inside.type.field(i).name: _numbers(inside.field(i)) for i in range(inside.type.num_fields)}
    offsets, there = np.asarray(array.offsets), np.asarray(array.is_valid())
    return [
        {n: c[a:b] for n, c in columns.items()} if valid else None
        for a, b, valid in zip(offsets[:-1], offsets[1:], there)
    ]


def parquet(table: Any, about: dict[str, Any] | None = None) -> bytes:
    """A table as a Parquet file; ``about`` goes into its metadata, as JSON."""
    told = {**(table.schema.metadata or {}), **({b"about": json.dumps(about).encode()} if about else {})}
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(told), sink, compression="zstd")
    return sink.getvalue()


def about_of(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """What :func:`parquet` was told."""
    about: dict[str, Any] = json.loads((metadata or {}).get(b"about", b"{}"))
    return about
