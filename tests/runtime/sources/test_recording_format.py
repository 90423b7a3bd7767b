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
from recorded_frames import SECOND, frame, member, read, result, same, write

from glint.errors import SourceError, SourceLostError
from glint.runtime.sinks.recorder import Recorder
from glint.runtime.sources.open import open_source
from glint.runtime.sources.recording_format import encode_frame, recordings
from glint.types import Frame, Gap

HELPERS = Path(__file__).parents[2] / "helpers"


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
        "import sys, time; sys.path.insert(0, sys.argv[2]); from recorded_frames import frame, result\n"
        "from glint.runtime.sinks.recorder import Recorder\n"
        "sink = Recorder(sys.argv[1])\n"
        "for i in range(5): sink.write(result(frame(i)))\n"
        "print('written', flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "kept"), str(HELPERS)]
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


def test_the_header_of_pixels_has_the_stated_length() -> None:
    # Readers in other languages rely on it: magic, version, length, then 128 bytes in all.
    record = encode_frame(frame(0))
    start = record.find(b"\x93NUMPY")
    assert struct.unpack("<H", record[start + 8 : start + 10])[0] + 10 == 128
