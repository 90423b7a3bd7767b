"""Replays: their pace, their end, and recordings that are missing or damaged."""

from __future__ import annotations

import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded_frames import SECOND, frame, member, result, same, write

from glint.errors import GlintError, InputError, SourceError, SourceLostError
from glint.runtime.sinks.recorder import Recorder
from glint.runtime.sources.open import open_source
from glint.runtime.sources.recording_format import recordings
from glint.runtime.sources.replay import ReplaySource


def test_a_replay_at_its_own_speed_is_live_and_keeps_its_pace(tmp_path: Path) -> None:
    path = write(tmp_path / "r.tar", [frame(i) for i in range(4)])
    source = open_source(f"replay:{path}?speed=2")
    assert source.live
    before = time.monotonic_ns()
    times = [f.t_ns for f in source.frames()]
    assert before <= times[0]
    assert times[-1] - times[0] >= 0.15 * SECOND
    assert times[-1] <= time.monotonic_ns()
    assert not open_source(f"replay:{path}?speed=max").live


def test_closing_ends_the_wait_for_the_next_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "r.tar", [frame(0), frame(1, seconds=3000)])
    source = open_source(f"replay:{path}?speed=1")
    items = iter(source)
    next(items)
    source.close()
    assert list(items) == []


def test_a_folder_with_several_runs_asks_for_one(tmp_path: Path) -> None:
    for _ in range(2):
        sink = Recorder(tmp_path)
        sink.write(result(frame(0)))
        sink.close()
    with pytest.raises(SourceError, match="2 runs") as caught:
        open_source(f"replay:{tmp_path}")
    pattern = (caught.value.hint or "").rpartition(" ")[2]
    source = open_source(pattern)
    assert isinstance(source, ReplaySource)
    assert source.files == recordings(tmp_path)[1:]
    assert len(list(source)) == 1


@pytest.mark.parametrize("uri", ["replay:", "replay:{}", "replay:{}/absent.tar", "replay:{}/*.tar"])
def test_a_place_without_recordings_is_a_source_error(tmp_path: Path, uri: str) -> None:
    with pytest.raises(SourceError):
        open_source(uri.format(tmp_path))


@pytest.mark.parametrize("speed", ["0", "-1", "nan", "inf", "fast", ""])
def test_a_speed_that_is_none_is_an_input_error(tmp_path: Path, speed: str) -> None:
    path = write(tmp_path / "r.tar", [frame(0)])
    with pytest.raises(InputError, match="speed"):
        open_source(f"replay:{path}?speed={speed}")


def test_a_recording_without_any_frame_is_a_source_error(tmp_path: Path) -> None:
    path = write(tmp_path / "r.tar", [])
    with pytest.raises(GlintError, match="no frame"):
        list(open_source(f"replay:{path}"))


def recorded(folder: Path, frames: int = 4) -> Path:
    sink = Recorder(folder)
    for i in range(frames):
        sink.write(result(frame(i)))
    sink.close()
    (path,) = recordings(folder)
    return path


def test_a_frame_that_is_missing_is_named_and_ends_the_replay_as_lost(tmp_path: Path) -> None:
    path = recorded(tmp_path / "kept")
    with tarfile.open(path) as archive:
        kept = [(m.name, archive.extractfile(m).read()) for m in archive if "000000002" not in m.name]  # type: ignore[union-attr]
    path.write_bytes(b"".join(member(*one) for one in kept) + bytes(1024))
    source, delivered = open_source(f"replay:{path}"), []
    with pytest.raises(SourceLostError, match="lacks 1"):
        delivered.extend(f.index for f in source.frames())
    assert delivered == [0, 1, 3]
    assert "after 1, up to 2" in source.skipped[0].reason


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), value=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_recording_never_loses_a_frame_in_silence(tmp_path: Path, place: int, value: int, cut: bool) -> None:
    folder = tmp_path / f"{place}-{value}-{cut}"
    path = recorded(folder)
    content = bytearray(path.read_bytes())
    place %= len(content) - 1024
    if cut:
        del content[place:]
    else:
        content[place] ^= value
    path.write_bytes(content)
    source, delivered, told = open_source(f"replay:{path}"), [], False
    try:
        delivered.extend(source.frames())
    except SourceError:
        told = True
    assert told or source.skipped or [f.index for f in delivered] == [0, 1, 2, 3]
    assert all(same(frame(f.index), f) for f in delivered)
