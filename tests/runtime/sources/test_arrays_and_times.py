"""Stacks in NumPy's files, several paths, devices and raw files by their names, and the times of frames of files."""

from __future__ import annotations

import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from glint.clock import utc_of, utc_text
from glint.errors import InputError, SourceError, SourceLostError
from glint.runtime.sources.open import open_frames, open_source

STACK = np.arange(3 * 40 * 50, dtype=np.uint16).reshape(3, 40, 50)


@pytest.fixture
def folder(tmp_path):
    for name, value in (("a_1", 1), ("a_2", 2), ("a_10", 10)):
        Image.fromarray(np.full((40, 50), value, np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path


def values(source):
    return [int(frame.data[0, 0]) for frame in source.frames()]


def test_a_stack_is_read_frame_by_frame(tmp_path):
    np.save(tmp_path / "s.npy", STACK)
    source = open_source(str(tmp_path / "s.npy"))
    frames = list(source.frames())
    assert source.total == 3
    assert all((f.data == s).all() and f.data.dtype == s.dtype for f, s in zip(frames, STACK))
    assert [f.t_ns for f in frames] == [0, 33333333, 66666667]


def test_one_image_is_a_stack_of_one(tmp_path):
    np.save(tmp_path / "s.npy", STACK[0].astype(np.float64))
    (frame,) = open_source(str(tmp_path / "s.npy")).frames()
    assert frame.data.dtype == np.float32


def test_an_archive_of_one_array_needs_no_name_and_one_of_two_does(tmp_path):
    np.savez(tmp_path / "one.npz", STACK)
    assert open_source(f"{tmp_path}/one.npz").total == 3
    np.savez(tmp_path / "two.npz", frames=STACK, dark=STACK[0])
    with pytest.raises(InputError, match="holds the arrays frames, dark: which") as caught:
        open_source(f"{tmp_path}/two.npz")
    assert "?array=frames" in caught.value.hint
    assert open_source(f"{tmp_path}/two.npz?array=dark&fps=10").total == 1
    with pytest.raises(InputError, match="no array 'x'"):
        open_source(f"{tmp_path}/two.npz?array=x")


@pytest.mark.parametrize(
    "array", [np.zeros((2, 3, 4, 5)), np.zeros((40, 50, 3)), np.zeros(5), np.zeros((0, 40, 40)), np.zeros((40, 50, 1))]
)
def test_other_shapes_are_refused(tmp_path, array):
    np.save(tmp_path / "s.npy", array)
    with pytest.raises(InputError, match="expected frames"):
        open_source(str(tmp_path / "s.npy"))


def test_a_torn_file_and_objects_are_refused(tmp_path):
    np.save(tmp_path / "s.npy", STACK)
    (tmp_path / "torn.npy").write_bytes((tmp_path / "s.npy").read_bytes()[:-9])
    (tmp_path / "more.npy").write_bytes((tmp_path / "s.npy").read_bytes() * 2)  # as numpy.save does, called twice
    np.save(tmp_path / "o.npy", np.array([{}, None]), allow_pickle=True)
    (tmp_path / "no.npz").write_bytes(b"PK nothing")
    for name, why in (
        ("torn", "bytes for uint16"),
        ("more", "bytes for uint16"),
        ("o", "not an .npy array of numbers"),
    ):
        with pytest.raises(InputError, match=why):
            open_source(str(tmp_path / f"{name}.npy"))
    with pytest.raises(SourceError, match="torn, damaged, or not an array"):
        open_source(str(tmp_path / "no.npz"))


def test_archives_hold_arrays_and_whatever_else(tmp_path):
    np.save(tmp_path / "s.npy", STACK)
    content = (tmp_path / "s.npy").read_bytes()

    def archive(*members):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as made:
            for name, data in members:
                made.writestr(name, data)
        return open_source(f"{tmp_path}/a.npz")

    assert archive(("readme.txt", "x"), ("a.npy", content)).total == 3
    for members, why in (
        ([("a.txt", "x")], "holds the arrays none"),
        ([("a.npy", b"\0" * 1000)], "not an .npy array"),
        ([("a.npy", content[:-9])], "bytes for uint16"),
    ):
        with pytest.raises(InputError, match=why):
            archive(*members)
    with pytest.warns(UserWarning, match="Duplicate"), pytest.raises(InputError, match="holds 2 arrays 'a'"):
        archive(("a.npy", content), ("a.npy", content))


def test_a_bad_frame_of_an_array_is_skipped_and_the_first_one_refused(tmp_path):
    stack = STACK.astype(np.float32)
    stack[1, 3, 4] = np.nan
    np.save(tmp_path / "s.npy", stack)
    source = open_source(f"{tmp_path}/s.npy")
    assert [frame.index for frame in source.frames()] == [0, 2]
    assert source.skips == {"the frame holds NaN or infinite values": 1}
    np.save(tmp_path / "s.npy", stack[1:])
    with pytest.raises(SourceError, match="frame 0: the frame holds NaN"):
        list(open_source(f"{tmp_path}/s.npy"))


def test_an_array_that_becomes_shorter_is_lost(tmp_path):
    np.save(tmp_path / "s.npy", STACK)
    frames = open_source(f"{tmp_path}/s.npy").frames()
    next(frames)
    os.truncate(tmp_path / "s.npy", 128 + STACK[0].nbytes + 10)
    with pytest.raises(SourceLostError, match="became shorter"):
        list(frames)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", ">u2", "<i8", "f2", ">f4", "f8"])
def test_numbers_of_all_kinds_come_as_they_are(tmp_path, dtype, order):
    stack = np.asarray((STACK % 200).astype(dtype), order=order)
    np.save(tmp_path / "s.npy", stack)
    frames = list(open_source(f"{tmp_path}/s.npy").frames())
    assert all((f.data == s).all() for f, s in zip(frames, stack, strict=True))


def test_a_pattern_that_the_shell_took_apart_is_in_natural_order(folder):
    shell = sorted(str(p) for p in folder.iterdir())
    assert [p[-8:] for p in shell] == ["/a_1.png", "a_10.png", "/a_2.png"]
    assert values(open_frames(shell)) == [1, 2, 10]


def test_paths_in_an_order_of_their_own_keep_it(folder):
    source = open_frames([f"{folder}/a_2.png", f"{folder}/a_1.png", f"{folder}/a_10.png"])
    assert values(source) == [2, 1, 10]
    assert source.uri == f"{folder}/a_2.png and 2 more"
    assert values(open_frames([f"{folder}/a_2.png"])) == [2]


def test_what_does_not_go_together_is_refused(folder):
    (folder / "v.mkv").write_bytes(b"")
    with pytest.raises(InputError, match="is no image: only images go together"):
        open_frames([f"{folder}/a_1.png", f"{folder}/v.mkv"])
    with pytest.raises(SourceError, match="one of several folders"):
        open_frames([str(folder), f"{folder}/a_1.png"])
    with pytest.raises(SourceError, match="no such file"):
        open_frames(["x.png", f"{folder}/a_1.png"])


def test_raw_frames_and_devices_say_what_to_write(tmp_path):
    (tmp_path / "x.raw").write_bytes(b"1234")
    with pytest.raises(InputError, match="do not tell their size") as caught:
        open_source(str(tmp_path / "x.raw"))
    assert caught.value.hint.startswith(f"raw:{tmp_path}/x.raw?size=WIDTHxHEIGHT")
    assert open_source("/dev/video97").uri == "v4l2:///dev/video97"


def test_frames_of_files_have_stated_times(folder):
    times = lambda uri: [(f.t_ns, f.utc_ns) for f in open_source(uri).frames()]  # noqa: E731
    assert times(str(folder)) == times(str(folder)) == [(0, None), (33333333, None), (66666667, None)]
    assert [t for t, _ in times(f"{folder}?fps=25")] == [0, 40_000_000, 80_000_000]
    begun = 1_800_000_000 * 10**9
    assert times(f"{folder}/*.png?fps=10&start=2027-01-15T08:00:00Z")[1] == (10**8, begun + 10**8)
    for number, name in enumerate(("a_1", "a_2", "a_10")):
        os.utime(folder / f"{name}.png", ns=(0, begun + number * 5 * 10**8))
    assert times(f"{folder}?times=files")[2] == (10**9, begun + 10**9)


@pytest.mark.parametrize("query", ["fps=0", "fps=x", "times=now", "start=tomorrow", "fsp=3"])
def test_malformed_times_are_refused(folder, query):
    with pytest.raises(InputError, match=query.partition("=")[0]):
        open_source(f"{folder}?{query}")


def test_utc_stands_beside_the_monotonic_clock():
    import time

    now = time.monotonic_ns()
    assert abs(utc_of(now) - time.time_ns()) < 10**9
    assert utc_of(now) - utc_of(now - 10**9) == pytest.approx(10**9, abs=10**7)
    assert utc_text(1_800_000_000_120_999_999) == "2027-01-15T08:00:00.120Z"
