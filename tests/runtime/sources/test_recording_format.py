from __future__ import annotations

import io
import json
import os
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glint.errors import GlintError, InputError, OutputError, SourceError, SourceLostError
from glint.runtime.pipeline.detector import Detection
from glint.runtime.pipeline.pipeline import Result
from glint.runtime.sinks import recorder as recorder_module
from glint.runtime.sinks.recorder import Recorder
from glint.runtime.sources.base import Skipped
from glint.runtime.sources.open import open_source
from glint.runtime.sources.recording_format import RecordingFile, encode_frame, encode_gap, read_recording, recordings
from glint.runtime.sources.replay import ReplaySource
from glint.types import Blobs, Frame, Gap, Targets

SECOND = 1_000_000_000
NOTHING = np.zeros(0)


def frame(
    index: int, *, dtype: type = np.uint16, shape: tuple[int, int] = (6, 7), seconds: float | None = None
) -> Frame:
    rng = np.random.default_rng(index)
    data = rng.standard_normal(shape) if dtype == np.float32 else rng.integers(0, np.iinfo(dtype).max + 1, shape)
    t_ns = round(SECOND * (index / 10 if seconds is None else seconds)) + 123_456_789
    return Frame(index, t_ns, data.astype(dtype), name=f"näme {index}", full_scale=16383.0)


def result(item: Frame, targets: int = 0) -> Result:
    """What a pipeline would say: as many targets, nothing else."""
    columns = {name: np.zeros(targets) for name in ("x", "y", "radiance", "sigma_x", "sigma_y", "sigma_radiance")}
    found = Targets(**columns, blob=np.zeros(targets), score=np.zeros(targets), flags=np.zeros(targets))
    blobs = Blobs(NOTHING, NOTHING, NOTHING, NOTHING)
    detection = Detection.__new__(Detection)
    object.__setattr__(detection, "blobs", blobs)
    return Result(item, detection, found, None, {})  # type: ignore[arg-type]


def same(one: Frame, other: Frame) -> bool:
    """All that is kept of a frame, bit by bit."""
    keys = (one.index, one.t_ns, one.name, one.full_scale, one.data.dtype, one.shape)
    others = (other.index, other.t_ns, other.name, other.full_scale, other.data.dtype, other.shape)
    return keys == others and one.data.tobytes() == other.data.tobytes()


def write(path: Path, items: list[Frame | Gap]) -> Path:
    file = RecordingFile(path, source="rtsp://me:secret@camera/live")
    for number, item in enumerate(items):
        file.append(encode_frame(item) if isinstance(item, Frame) else encode_gap(item, number))
    file.close()
    return path


def read(path: Path) -> tuple[list[Frame | Gap], list[Skipped]]:
    everything = list(read_recording(path))
    return [i for i in everything if not isinstance(i, Skipped)], [i for i in everything if isinstance(i, Skipped)]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_what_is_recorded_is_replayed_bit_by_bit(tmp_path: Path, dtype: type) -> None:
    frames = [frame(i, dtype=dtype, shape=(512, 640) if i == 0 else (6, 7 + i)) for i in range(4)]
    sink = Recorder(tmp_path / "kept", source="rtsp://me:secret@camera/live?key=secret")
    for item in frames:
        sink.write(result(item))
    sink.gap(Gap(5 * SECOND, 1.5, "unplugged"))
    sink.close()
    source = open_source(f"replay:{tmp_path}/kept")
    *replayed, gap = list(source)
    assert not source.live
    assert len(replayed) == len(frames)
    assert all(isinstance(b, Frame) and same(a, b) for a, b in zip(frames, replayed))
    assert gap == Gap(5 * SECOND, 1.5, "unplugged")
    assert source.skipped == []
    assert sink.recorded == 4
    for path in recordings(tmp_path / "kept"):
        assert b"secret" not in path.read_bytes()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.integers(0, 2**32),
    side=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    dtype=st.sampled_from([np.uint8, np.uint16, np.float32]),
    t_ns=st.integers(0, 2**63 - 1),
    index=st.integers(0, 2**63 - 1),
    name=st.text(max_size=40),
    full_scale=st.none() | st.floats(1e-3, 1e9),
)
def test_every_frame_survives_the_round_trip(
    tmp_path: Path, data: int, side: tuple[int, int], dtype: type, t_ns: int, index: int, name: str, full_scale: float
) -> None:
    image = (np.random.default_rng(data).random(side) * 60000).astype(dtype)
    original = Frame(index, t_ns, image, name.encode("utf-8", "replace").decode(), full_scale)
    path = tmp_path / f"{time.monotonic_ns()}.tar"
    (back,), skipped = read(write(path, [original]))
    assert isinstance(back, Frame)
    assert same(original, back)
    assert skipped == []


def test_others_can_unpack_it(tmp_path: Path) -> None:
    original = frame(3)
    path = write(tmp_path / "r.tar", [original, Gap(7, 0.5, "gone")])
    with tarfile.open(path) as archive:
        names = archive.getnames()
        pixels = np.load(io.BytesIO(archive.extractfile("000000003.npy").read()), allow_pickle=False)  # type: ignore[union-attr]
        record = json.loads(archive.extractfile("000000003.json").read())  # type: ignore[union-attr]
        about = json.loads(archive.extractfile("recording.json").read())  # type: ignore[union-attr]
    assert names == ["recording.json", "000000003.json", "000000003.npy", "000000001.gap.json"]
    assert np.array_equal(pixels, original.data)
    assert (record["t_ns"], record["dtype"], record["shape"]) == (original.t_ns, "uint16", [6, 7])
    assert (about["format"], about["version"]) == ("glint recording", 1)
    assert about["source"] == "rtsp://***@camera/live"


def test_a_recording_of_a_killed_process_holds_all_of_its_frames(tmp_path: Path) -> None:
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[2]); from test_recording_format import *\n"
        "sink = Recorder(sys.argv[1])\n"
        "for i in range(5): sink.write(result(frame(i)))\n"
        "print('written', flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "kept"), str(Path(__file__).parent)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        os.kill(process.pid, signal.SIGKILL)
    frames: list[Frame] = []
    with pytest.raises(SourceLostError, match="no end mark"):
        frames.extend(open_source(f"replay:{tmp_path}/kept").frames())
    assert [f.index for f in frames] == list(range(5))
    assert all(same(frame(i), f) for i, f in enumerate(frames))


def test_a_truncated_file_gives_its_whole_frames_and_says_what_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "r.tar", [frame(i) for i in range(3)])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 1024 - 512 + 17])  # into the pixels of the last one
    items, skipped = read(path)
    assert [i.index for i in items if isinstance(i, Frame)] == [0, 1]
    assert len(skipped) == 1
    assert "cut off inside 000000002.npy" in skipped[0].reason


def test_a_damaged_frame_is_skipped_and_named(tmp_path: Path) -> None:
    path = write(tmp_path / "r.tar", [frame(i) for i in range(3)])
    content = bytearray(path.read_bytes())
    content[content.find(frame(1).data.tobytes()) + 5] ^= 0x10
    path.write_bytes(content)
    items, (skipped,) = read(path)
    assert [i.index for i in items if isinstance(i, Frame)] == [0, 2]
    assert "000000001.npy" in skipped.name
    assert "damaged" in skipped.reason


def test_behind_a_damaged_header_reading_goes_on(tmp_path: Path) -> None:
    path = write(tmp_path / "r.tar", [frame(i) for i in range(4)])
    content = bytearray(path.read_bytes())
    start = content.find(b"000000001.json")
    content[start : start + 300] = bytes(300)
    path.write_bytes(content)
    items, skipped = read(path)
    assert [i.index for i in items if isinstance(i, Frame)] == [0, 2, 3]
    assert skipped


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_ends_in_anything_but_good_frames_and_words(tmp_path: Path, data: st.DataObject) -> None:
    originals = {i: frame(i) for i in range(3)}
    path = tmp_path / "r.tar"
    path.unlink(missing_ok=True)
    content = bytearray(write(path, [originals[0], Gap(5, 0.5, "x"), originals[1], originals[2]]).read_bytes())
    content = content[: data.draw(st.integers(0, len(content)))]
    for position, value in data.draw(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6)):
        if content:
            content[position % len(content)] = value
    path.write_bytes(content)
    try:
        items, _ = read(path)
    except SourceError as error:
        assert "no recording" in str(error) or "version" in str(error)
        return
    for item in items:
        if isinstance(item, Frame):  # a checked frame is the original's pixels, or none at all
            assert item.data.tobytes() in {f.data.tobytes() for f in originals.values()}


def member(name: str, content: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info.tobuf() + content + bytes(-len(content) % 512)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.dictionaries(st.sampled_from(["index", "t_ns", "name", "full_scale", "dtype", "shape", "crc32"]), JSON)
)
def test_records_that_lie_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    pixels = io.BytesIO()
    np.save(pixels, np.ones((2, 3), np.uint16))
    record = {
        "index": 0, "t_ns": 1, "name": "", "full_scale": None, "dtype": "uint16", "shape": [2, 3],
        "crc32": zlib.crc32(pixels.getvalue()), **changes,
    }  # fmt: skip
    path = tmp_path / "lie.tar"
    members = member("0.json", json.dumps(record).encode()) + member("0.npy", pixels.getvalue())
    path.write_bytes(members + bytes(1024))
    try:
        items, skipped = read(path)
    except SourceError:
        return
    assert len(items) + len(skipped) == 1
    for item in items:
        assert isinstance(item, Frame)
        assert item.data.shape == (2, 3)


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"no recording" * 200, bytes(2048), member("0.json", b"[" * 60000), member("0.npy", b"")],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.tar").write_bytes(content)
    with pytest.raises(SourceError, match="no recording"):
        read(tmp_path / "r.tar")


def test_a_recording_of_a_newer_kind_is_refused(tmp_path: Path) -> None:
    about = json.dumps({"format": "glint recording", "version": 2}).encode()
    (tmp_path / "r.tar").write_bytes(member("recording.json", about))
    with pytest.raises(SourceError, match="version 2"):
        read(tmp_path / "r.tar")


def test_a_size_that_no_file_has_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("0.npy")
    info.size = -512
    content = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    (tmp_path / "r.tar").write_bytes(content)
    with pytest.raises(SourceError):
        read(tmp_path / "r.tar")


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
        "import resource, signal, sys; sys.path.insert(0, sys.argv[2]); from test_recording_format import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "sink = Recorder(sys.argv[1])\n"
        "try:\n"
        "    for i in range(100): sink.write(result(frame(i)))\n"
        "except OutputError as error: print(error)\n"
        "sink.close()"
    )
    words = [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)]
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


def test_the_header_of_pixels_has_the_stated_length() -> None:
    # Readers in other languages rely on it: magic, version, length, then 128 bytes in all.
    record = encode_frame(frame(0))
    start = record.find(b"\x93NUMPY")
    assert struct.unpack("<H", record[start + 8 : start + 10])[0] + 10 == 128


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
