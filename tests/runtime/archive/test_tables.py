"""Results survive the way through Parquet, to the last bit, and say what their columns mean."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="archives need pyarrow")

import pyarrow as pa
import pyarrow.parquet as pq

from glint.runtime.archive.tables import (
    FRAMES,
    TARGETS,
    TRACKS,
    FrameRow,
    about_of,
    frame_rows,
    frames_table,
    parquet,
    targets_table,
)
from glint.types import Blobs, Targets


def targets(number: int, seed: int) -> Targets:
    rng = np.random.default_rng(seed)
    columns = {n: rng.normal(size=number) for n in ("x", "y", "radiance", "sigma_x", "sigma_y", "sigma_radiance")}
    columns["sigma_x"][: number // 2] = np.nan
    return Targets(
        **columns, blob=rng.integers(0, 3, number), score=rng.random(number), flags=rng.integers(0, 127, number)
    )


def blobs(number: int, *, dark: bool = False) -> Blobs:
    columns = np.arange(number) / 3, np.arange(number) / 7, np.arange(number) + 1, np.full(number, 0.5)
    return Blobs(*columns, dark=np.arange(number) % 2 == 1 if dark else None)


def boxes(number: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.arange(4 * number, dtype=np.int64).reshape(number, 4)


def rows() -> list[FrameRow]:
    utc_ns = 1_800_000_000_123_456_789
    return [
        FrameRow(5, 0, None, "a", None, None, targets(3, 0), blobs(3), boxes(3), targets(2, 1), blobs(2)),
        FrameRow(6, 2**60 + 1, utc_ns, "", False, "damage", targets(0, 0), blobs(0), boxes(0), targets(0, 0), blobs(0)),
        FrameRow(8, 7, None, "c", True, None, targets(4, 2), blobs(3, dark=True), boxes(3), None, None),
        FrameRow(9, 8, None, "d", True, None, targets(1, 2), blobs(1), boxes(1), targets(2, 1), blobs(2, dark=True)),
    ]


def through_parquet(table: pa.Table) -> pa.Table:
    return pq.read_table(io.BytesIO(parquet(table)))


def same(a: object, b: object) -> bool:
    if a is None or b is None:
        return a is b
    return all(
        np.array_equal(x, getattr(b, n), equal_nan=True) if isinstance(x, np.ndarray) else x == getattr(b, n)
        for n, x in vars(a).items()
    )


@pytest.mark.parametrize("notes", [[], [(None, "x.png", "skipped: torn"), (9, "", "gap of 1.000 s: cable")]])
def test_rows_come_back_to_the_last_bit(notes: list[tuple[int | None, str, str]]) -> None:
    before = rows()
    frames, found = (through_parquet(t) for t in (frames_table("cam", before, notes), targets_table("cam", before)))
    assert frames.num_rows == 4 + len(notes)
    after = frame_rows(frames, found)
    assert len(after) == 4
    for a, b in zip(before, after):
        assert (a.frame, a.t_ns, a.utc_ns, a.name) == (b.frame, b.t_ns, b.utc_ns, b.name)
        assert (a.repeated, a.damaged) == (b.repeated, b.damaged)
        assert np.array_equal(a.boxes, b.boxes)
        for name in ("targets", "blobs", "candidates", "candidate_blobs"):
            assert same(getattr(a, name), getattr(b, name)), name


def test_nothing_is_a_table_too() -> None:
    empty = [FrameRow(0, 0, None, "", None, None, Targets(), blobs(0), boxes(0))]
    frames, found = through_parquet(frames_table("cam", empty)), through_parquet(targets_table("cam", empty))
    assert found.num_rows == 0
    assert found.schema.equals(TARGETS)
    assert len(frame_rows(frames, found)[0].targets) == 0


def test_the_same_rows_make_the_same_file() -> None:
    first, second = (parquet(targets_table("cam", rows()), {"key": "k"}) for _ in range(2))
    assert first == second
    assert about_of(pq.read_schema(io.BytesIO(first)).metadata) == {"key": "k"}


def test_targets_tell_how_many_are_in_their_blob() -> None:
    found = targets_table("cam", rows())
    for frame in (5, 8):
        part = found.filter(pa.array([f == frame for f in found["frame"].to_pylist()])).to_pydict()
        assert part["n"] == [part["blob"].count(b) for b in part["blob"]]
        assert part["target"] == list(range(len(part["n"])))


@pytest.mark.parametrize("schema", [FRAMES, TARGETS, TRACKS])
def test_units_and_conventions_stand_in_the_schema(schema: pa.Schema) -> None:
    kept = pq.read_schema(io.BytesIO(parquet(schema.empty_table())))
    assert b"pixel centres are integers" in kept.metadata[b"conventions"]
    for name in {"t_ns", "x", "radiance", "flags"} & set(schema.names):
        assert kept.field(name).metadata[b"unit"]
