from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_results import made_result, made_tracks

from glint.errors import OutputError
from glint.runtime.sinks.records import event_records, frame_record
from glint.runtime.sinks.track_files import BOX_PX, COLUMNS, MotFile, TrackTable
from glint.runtime.sinks.track_lines import TrackLines
from glint.runtime.tracking.tracks import Crossing


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_track_has_a_line_every_second_and_one_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "tracks.jsonl"
    sink = TrackLines(path, overwrite=False)
    for i in range(70):
        numbers = [0, 1] if i < 65 else [1]
        t = i * 33_333_334
        ends = (0,) if i == 65 else ()
        sink.write(replace(made_result(i), tracks=made_tracks(numbers, t, lost=ends)))
    sink.close()
    found = [(line["track"], line["frame"], line["ended"]) for line in lines(path)]
    assert found == [(0, 30, False), (1, 30, False), (0, 60, False), (1, 60, False), (0, 64, True), (1, 69, True)]
    assert lines(path)[1]["flags"] == ["STATIC"]


def test_repeated_frames_and_results_without_tracks_write_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tracks.jsonl"
    sink = TrackLines(path, overwrite=False)
    sink.write(made_result())
    sink.write(replace(made_result(), tracks=made_tracks([0]), repeated=True))
    sink.close()
    assert lines(path) == []
    with pytest.raises(OutputError):
        TrackLines(path, overwrite=False)


def test_events_and_the_time_stand_in_the_line_of_the_frame() -> None:
    crossed = (Crossing("enter", 3, "gate"),)
    told = made_tracks([3], confirmed=(3,), lost=(1, 2), crossed=crossed, utc="2026-01-01T00:00:00.000Z")
    result = replace(made_result(4), tracks=told)
    record = frame_record(result)
    assert record["utc"] == "2026-01-01T00:00:00.000Z"
    assert [(e["event"], e["track"], e.get("zone")) for e in record["events"]] == [
        ("confirmed", 3, None), ("lost", 1, None), ("lost", 2, None), ("enter", 3, "gate"),
    ]  # fmt: skip
    alone = event_records(result)
    assert alone[3] == {
        "event": "enter",
        "track": 3,
        "zone": "gate",
        "frame": 4,
        "t_ns": 40000000,
        "utc": record["utc"],
    }
    assert event_records(made_result()) == []
    assert frame_record(made_result())["utc"] is None


def test_a_run_that_fails_before_its_first_result_leaves_no_file(tmp_path: Path) -> None:
    for kind, name in ((TrackLines, "t.jsonl"), (TrackTable, "t.csv"), (MotFile, "t.txt")):
        kind(tmp_path / name, overwrite=False).close()
    assert list(tmp_path.iterdir()) == []


def test_a_table_has_a_row_per_track_and_frame(tmp_path: Path) -> None:
    path = tmp_path / "tracks.csv"
    sink = TrackTable(path, overwrite=False)
    sink.write(made_result(0))
    sink.write(replace(made_result(1), tracks=made_tracks([0, 2], utc="2026-01-01T00:00:00.000Z")))
    sink.write(replace(made_result(2), tracks=made_tracks([0, 2]), repeated=True))
    sink.close()
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [(r["frame"], r["track"], r["x"], r["flags"], r["seen"]) for r in rows] == [
        ("1", "0", "0.5", "", "1"), ("1", "2", "1.5", "STATIC", "1"),
    ]  # fmt: skip
    assert (rows[0]["utc"], rows[0]["cov_y_vy"]) == ("2026-01-01T00:00:00.000Z", "1.0")


def test_mot_counts_from_one_and_has_the_target_in_the_middle_of_its_box(tmp_path: Path) -> None:
    path = tmp_path / "tracks.txt"
    sink = MotFile(path, overwrite=False)
    sink.write(replace(made_result(0), tracks=made_tracks([])))
    sink.write(replace(made_result(1), tracks=made_tracks([0, 2])))
    sink.write(replace(made_result(2), tracks=made_tracks([2]), repeated=True))
    sink.close()
    rows = [[float(v) for v in line.split(",")] for line in path.read_text().splitlines()]
    assert [row[:2] for row in rows] == [[2, 1], [2, 3], [3, 3]]
    left, top, width, height, *rest = rows[1][2:]
    assert (width, height, rest) == (BOX_PX, BOX_PX, [1, -1, -1, -1])
    assert (left + width / 2 - 1, top + height / 2 - 1) == (1.5, 1.5)
