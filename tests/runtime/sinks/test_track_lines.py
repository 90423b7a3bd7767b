from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_results import made_result

from glint.errors import OutputError
from glint.runtime.sinks.records import frame_record
from glint.runtime.sinks.track_lines import TrackLines
from glint.runtime.tracking.tracks import Tracks


def tracks(numbers: list[int], t_ns: int = 0, **parts: Any) -> Tracks:
    n = len(numbers)
    some = np.arange(n) + 0.5
    covariance = np.ones((n, 2, 3))
    flags = np.arange(n) % 2 == 1, np.ones(n, dtype=bool)
    return Tracks(np.array(numbers), some, some, some, some, covariance, some, some, *flags, some, t_ns=t_ns, **parts)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_track_has_a_line_every_second_and_one_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "tracks.jsonl"
    sink = TrackLines(path, overwrite=False)
    for i in range(70):
        numbers = [0, 1] if i < 65 else [1]
        t = i * 33_333_334
        ends = (0,) if i == 65 else ()
        sink.write(replace(made_result(i), tracks=tracks(numbers, t, lost=ends)))
    sink.close()
    found = [(line["track"], line["frame"], line["ended"]) for line in lines(path)]
    assert found == [(0, 30, False), (1, 30, False), (0, 60, False), (1, 60, False), (0, 64, True), (1, 69, True)]
    assert lines(path)[1]["flags"] == ["STATIC"]


def test_repeated_frames_and_results_without_tracks_write_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tracks.jsonl"
    sink = TrackLines(path, overwrite=False)
    sink.write(made_result())
    sink.write(replace(made_result(), tracks=tracks([0]), repeated=True))
    sink.close()
    assert lines(path) == []
    with pytest.raises(OutputError):
        TrackLines(path, overwrite=False)


def test_events_and_the_time_stand_in_the_line_of_the_frame() -> None:
    told = tracks([3], confirmed=(3,), lost=(1, 2), utc="2026-01-01T00:00:00.000Z")
    record = frame_record(replace(made_result(), tracks=told))
    assert record["utc"] == "2026-01-01T00:00:00.000Z"
    assert [(e["event"], e["track"]) for e in record["events"]] == [("confirmed", 3), ("lost", 1), ("lost", 2)]
    assert "utc" not in frame_record(made_result())
