"""Recordings of events: what is kept, what makes room, and full disks."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from recorded_frames import SECOND, frame, read, result

from glint.errors import InputError, OutputError
from glint.runtime.sinks import recorder as recorder_module
from glint.runtime.sinks.recorder import Recorder
from glint.runtime.sources.recording_format import recordings
from glint.types import Frame, Gap


def events(folder: Path) -> list[list[int]]:
    """Indices of the frames in each file."""
    return [[i.index for i in read(p)[0] if isinstance(i, Frame)] for p in recordings(folder)]


def test_an_event_is_kept_with_what_was_before_and_after(tmp_path: Path) -> None:
    sink = Recorder(tmp_path, events=True, before_s=0.3, after_s=0.2)
    with_targets = {10, 11, 13, 30}
    for i in range(40):  # ten frames per second
        sink.write(result(frame(i), targets=int(i in with_targets)))
    sink.close()
    assert events(tmp_path) == [[7, 8, 9, 10, 11, 12, 13, 14, 15], [27, 28, 29, 30, 31, 32]]


def test_frames_between_close_events_are_kept_once(tmp_path: Path) -> None:
    sink = Recorder(tmp_path, events=True, before_s=0.5, after_s=0.2)
    for i in range(20):
        sink.write(result(frame(i), targets=int(i in (5, 9))))
    sink.close()
    assert events(tmp_path) == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11]]


def test_without_an_event_nothing_is_created(tmp_path: Path) -> None:
    sink = Recorder(tmp_path / "kept", events=True)
    for i in range(5):
        sink.write(result(frame(i)))
    sink.close()
    assert not (tmp_path / "kept").exists()


def test_the_ring_of_waiting_frames_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "RING_BYTES", 4 * frame(0).data.nbytes)
    sink = Recorder(tmp_path, events=True, before_s=3600, after_s=0)
    for i in range(50):
        sink.write(result(frame(i), targets=int(i == 49)))
    sink.close()
    assert events(tmp_path) == [[45, 46, 47, 48, 49]]


def test_a_gap_inside_the_time_before_an_event_is_kept(tmp_path: Path) -> None:
    sink = Recorder(tmp_path, events=True, before_s=1, after_s=0)
    sink.gap(Gap(0, 1.0, "too old"))
    sink.write(result(frame(20)))
    sink.gap(Gap(2 * SECOND + 200_000_000, 0.1, "unplugged"))
    sink.write(result(frame(23), targets=1))
    sink.close()
    (path,) = recordings(tmp_path)
    assert [type(i).__name__ for i in read(path)[0]] == ["Frame", "Gap", "Frame"]


def test_the_oldest_files_make_room_and_the_bound_holds_over_runs(tmp_path: Path) -> None:
    most = 40_000
    for _ in range(2):
        sink = Recorder(tmp_path, max_bytes=most)
        for i in range(40):
            sink.write(result(frame(i)))
            assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= most
        sink.close()
    kept = recordings(tmp_path)
    assert len(kept) > 2
    assert len({p.name.rpartition("-")[0] for p in kept}) == 1  # nothing of the first run is left
    indices = [i for numbers in events(tmp_path) for i in numbers]
    assert indices == list(range(indices[0], 40))
    assert sum(p.stat().st_size for p in kept) > most // 2


def test_only_recordings_are_ever_deleted(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious" * 1000)
    (tmp_path / "20200101-other.tar").write_bytes(bytes(5000))
    sink = Recorder(tmp_path, max_bytes=20_000)
    for i in range(40):
        sink.write(result(frame(i)))
    sink.close()
    assert (tmp_path / "notes.txt").stat().st_size == 8000
    assert (tmp_path / "20200101-other.tar").exists()


def test_a_frame_that_can_never_fit_is_an_output_error(tmp_path: Path) -> None:
    sink = Recorder(tmp_path, max_bytes=2000)
    with pytest.raises(OutputError, match="do not fit"):
        sink.write(result(frame(0)))
    sink.close()


class FullDisk:
    """A file that takes so many bytes and then nothing more."""

    def __init__(self, stream: io.FileIO, room: int) -> None:
        self._stream, self._room = stream, room

    def write(self, data: memoryview) -> int:
        if not self._room:
            raise OSError(28, "No space left on device")
        written = self._stream.write(data[: self._room])
        self._room -= written
        return written

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def test_a_full_disk_is_an_output_error_and_leaves_a_valid_file(tmp_path: Path) -> None:
    sink = Recorder(tmp_path)
    sink.write(result(frame(0)))
    file = sink._file
    assert file is not None
    file._stream = FullDisk(file._stream, room=700)  # type: ignore[assignment]
    with pytest.raises(OutputError, match="No space left"):
        sink.write(result(frame(1)))
    sink.close()
    (path,) = recordings(tmp_path)
    items, skipped = read(path)
    assert [i.index for i in items if isinstance(i, Frame)] == [0]
    assert "no end mark" in skipped[0].reason and len(skipped) == 1


def test_a_real_full_disk_does_the_same(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; sys.path.insert(0, sys.argv[2]); from recorded_frames import frame, result\n"
        "from glint.errors import OutputError\n"
        "from glint.runtime.sinks.recorder import Recorder\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "sink = Recorder(sys.argv[1])\n"
        "try:\n"
        "    for i in range(100): sink.write(result(frame(i)))\n"
        "except OutputError as error: print(error)\n"
        "sink.close()"
    )
    words = [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parents[2] / "helpers")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert "cannot write" in done.stdout
    (path,) = recordings(tmp_path)
    items, skipped = read(path)
    assert [i.index for i in items if isinstance(i, Frame)] == list(range(len(items)))
    assert len(items) > 3
    assert "no end mark" in skipped[0].reason and len(skipped) == 1


def test_a_file_in_place_of_the_folder_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        Recorder(tmp_path / "file")
    with pytest.raises(OutputError, match="cannot write"):
        Recorder(tmp_path / "file" / "inside").write(result(frame(0)))


@pytest.mark.parametrize("arguments", [{"before_s": -1}, {"after_s": float("nan")}, {"max_bytes": 0}])
def test_impossible_arguments_are_refused(tmp_path: Path, arguments: dict[str, float]) -> None:
    with pytest.raises(InputError, match="recorder"):
        Recorder(tmp_path, **arguments)  # type: ignore[arg-type]
