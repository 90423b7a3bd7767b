from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from glint.benchmarks.streams.tracks import Calibration, VideoScore, labelled_videos, score
from glint.errors import SourceError
from glint.runtime.tracking.evidence import SCORES
from glint.runtime.tracking.registration import Shift
from glint.runtime.tracking.tracks import Tracks

BOX = (40.0, 30.0, 10.0, 8.0)


def tracks(places: dict[int, tuple[float, float, bool]]) -> Tracks:
    n = len(places)
    table = np.array(list(places.values()), dtype=np.float64).reshape(n, 3)
    zero, one = np.zeros(n), np.ones(n, dtype=bool)
    numbers = np.array(list(places), dtype=np.int64)
    return Tracks(
        numbers, table[:, 0], table[:, 1], zero, zero, np.zeros((n, 2, 3)), zero, zero, table[:, 2] > 0, one, zero
    )


def test_coverage_counts_from_the_fifth_boxed_frame_and_false_tracks_are_those_off_the_box() -> None:
    counts = VideoScore()
    counts.add(None, tracks({9: (0, 0, False)}))
    for i in range(14):
        here = {0: (45.0, 34.0, i < 8), 1: (45 + 14.0, 34.0, False), 2: (200.0, 34.0, i < 10), 3: (5.0, 5.0, True)}
        counts.add(BOX, tracks(here if i >= 6 else {}))
    assert (counts.frames, counts.boxed, counts.confirmed_at) == (15, 14, 7)
    figures = score({"a": counts})
    assert figures["covered"] == 80.0  # 8 of 10
    assert counts.false == 1  # number 2; 3 was always static, 1 is near
    assert figures["false_per_minute"] == pytest.approx(1 / (15 / 30 / 60), rel=1e-3)


def test_a_video_that_never_has_a_track_counts_as_infinitely_late() -> None:
    late, never = VideoScore(frames=1, confirmed_at=4), VideoScore(frames=1)
    assert score({"a": late, "b": late, "c": never})["frames_to_confirm"] == 4
    assert score({"a": late, "b": never, "c": never})["frames_to_confirm"] is None


def test_calibration_gives_back_the_rates_that_made_the_spots() -> None:
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(4000):
        spots = [(45.0, 34.0, 0.95)] if rng.random() < 0.6 else []
        spots += [(*rng.uniform((60, 60), (300, 240)), 0.6) for _ in range(rng.poisson(0.5))]
        spots.append((200.0, 20.0, 0.99))  # stays
        frames.append((BOX, Shift(), (256, 320), np.array(spots).reshape(-1, 3)))
    table = Calibration()
    table.add(frames)
    evidence = table.evidence("made")
    kind = SCORES.index(0.5)
    assert evidence.target[SCORES.index(0.9)] == pytest.approx(0.8 * 0.6 + 0.2 * 0.6 / len(SCORES), abs=0.03)
    assert evidence.target.sum() == pytest.approx(0.6, abs=0.03)
    assert evidence.target.min() > 0.01
    assert evidence.clutter[kind] * 256 * 320 == pytest.approx(0.5, abs=0.05)
    assert evidence.clutter[-1] * 256 * 320 < 0.001
    assert evidence.again[kind] < 0.01


def test_videos_are_taken_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / f"{name}.mp4").touch()
    (tmp_path / "boxes.json").write_text(json.dumps({n: {"boxes": [[1, 2, 3, 4], None]} for n in "dbca"}))
    assert [p.stem for p, _ in labelled_videos(tmp_path, "tune", None)] == ["a", "c"]
    assert [p.stem for p, _ in labelled_videos(tmp_path, "report", 1)] == ["b"]
    (tmp_path / "b.mp4").unlink()
    with pytest.raises(SourceError, match="names b"):
        list(labelled_videos(tmp_path, "all", None))
