from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patience import within

from glint.errors import InputError, SourceError, SourceLostError
from glint.processing.layout import looks_exchanged, row_length_of
from glint.progress import speaking
from glint.runtime.sources.open import open_source

FRAMES = np.random.default_rng(0).integers(0, 65536, (3, 5, 7)).astype(np.uint16)
URI = "raw:-?size=7x5&dtype=uint16"


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The other end of standard input."""
    read, write = os.pipe()
    with os.fdopen(read) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        yield write


def test_frames_come_from_standard_input(stdin: int) -> None:
    os.write(stdin, FRAMES.tobytes())
    os.close(stdin)
    frames = list(open_source(URI).frames())
    assert np.array_equal([f.data for f in frames], FRAMES)
    assert [f.index for f in frames] == [0, 1, 2]


def test_standard_input_that_ends_inside_a_frame_is_a_lost_source(stdin: int) -> None:
    os.write(stdin, FRAMES.tobytes()[:-3])
    os.close(stdin)
    frames = iter(open_source(URI))
    next(frames)
    next(frames)
    with pytest.raises(SourceLostError, match="inside frame 2, after 67 of its 70 bytes") as caught:
        next(frames)
    assert caught.value.exit_code == 4


def test_standard_input_that_comes_in_drops_is_put_together(stdin: int) -> None:
    def write() -> None:
        for start in range(0, 210, 11):
            os.write(stdin, FRAMES.tobytes()[start : start + 11])
            time.sleep(0.001)
        os.close(stdin)

    threading.Thread(target=write).start()
    assert np.array_equal([f.data for f in open_source(URI).frames()], FRAMES)


def test_without_standard_input_there_are_no_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SourceError, match="no standard input"):
        list(open_source(URI))


@pytest.mark.parametrize(
    ("dtype", "words", "full_scale"),
    [
        ("uint8", "dtype=uint8", 255.0),
        ("<u2", "dtype=uint16", None),
        ("<u2", "dtype=uint16&endian=little&bits=14", 16383.0),
        (">u2", "dtype=uint16&endian=big", None),
        ("<f4", "dtype=float32", None),
        (">f4", "dtype=float32&endian=big", None),
    ],
)
def test_a_file_of_every_type_is_read_bit_by_bit(tmp_path: Path, dtype: str, words: str, full_scale: float) -> None:
    expected = (FRAMES >> 8).astype(dtype)
    (tmp_path / "f.raw").write_bytes(expected.tobytes())
    source = open_source(f"raw:{tmp_path}/f.raw?size=7x5&{words}")
    frames = list(source.frames())
    assert not source.live
    assert source.total == 3
    assert np.array_equal([f.data for f in frames], expected)
    assert all(f.data.dtype.isnative and f.full_scale == full_scale for f in frames)
    assert sorted(f.t_ns for f in frames) == [f.t_ns for f in frames]


def test_a_rate_gives_the_times(tmp_path: Path) -> None:
    (tmp_path / "f.raw").write_bytes(FRAMES.tobytes())
    frames = open_source(f"raw:{tmp_path}/f.raw?size=7x5&dtype=uint16&fps=50").frames()
    assert [f.t_ns for f in frames] == [0, 20_000_000, 40_000_000]


def test_closing_ends_the_wait_for_a_pipe_that_nobody_writes_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    source = open_source(f"raw:{tmp_path}/pipe?size=7x5&dtype=uint16")
    threading.Timer(0.1, source.close).start()
    assert within(10, lambda: list(source)) == []


def test_closing_ends_a_wait_inside_a_frame(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    source = open_source(f"raw:{tmp_path}/pipe?size=7x5&dtype=uint16")
    writer: list[int] = []

    def write() -> None:
        writer.append(os.open(tmp_path / "pipe", os.O_WRONLY))
        os.write(writer[0], FRAMES.tobytes()[:100])

    threading.Thread(target=write).start()
    frames = iter(source)
    assert np.array_equal(within(10, lambda: next(frames)).data, FRAMES[0])
    threading.Timer(0.1, source.close).start()
    assert within(10, lambda: list(frames)) == []
    os.close(writer[0])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.integers(1, 4), st.integers(1, 4))
def test_any_bytes_are_whole_frames_or_said_to_be_none(tmp_path: Path, content: bytes, width: int, height: int) -> None:
    (tmp_path / "f.raw").write_bytes(content)
    frames, size = [], width * height
    try:
        for frame in open_source(f"raw:{tmp_path}/f.raw?size={width}x{height}&dtype=uint8"):
            frames.append(frame)
    except SourceLostError as error:
        assert len(content) % size
        assert f"after {len(content) % size} of its {size} bytes" in str(error)
    except SourceError:
        assert not content
    else:
        assert len(content) % size == 0
    assert b"".join(f.data.tobytes() for f in frames) == content[: len(frames) * size]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "uri",
    [
        "raw:", "raw:-", "raw:-?size=5x5", "raw:-?dtype=uint16", "raw:?size=5x5&dtype=uint16",
        "raw:-?size=5x5&dtype=int16", "raw:-?size=5x5&dtype=uint16&endian=middle", "raw:-?size=5x5&dtype=uint8&x=1",
    ],
)  # fmt: skip
def test_a_stream_that_is_not_described_is_an_input_error(uri: str) -> None:
    with pytest.raises(InputError):
        open_source(uri)


def test_a_file_that_is_missing_or_empty_is_a_source_error(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    for name, words in (("absent", "No such file"), ("empty", "no frame")):
        with pytest.raises(SourceError, match=words):
            list(open_source(f"raw:{tmp_path}/{name}?size=5x5&dtype=uint16"))


def smooth(height, width):
    rows, columns = np.mgrid[:height, :width]
    noise = np.random.default_rng(5).normal(0, 5, (height, width))
    return np.round(7000 + 900 * np.sin(columns / 11) + 700 * np.cos(rows / 9) + noise).astype(np.uint16)


@pytest.mark.parametrize(
    ("size", "dtype", "told"),
    [
        ("80x64", "uint16", ""),
        ("64x80", "uint16", "rows look 80 pixels long, and 64 are stated"),
        ("160x64", "uint8", "every second byte is nearly constant"),
    ],
)
def test_a_layout_that_the_pixels_speak_against_is_warned_of(tmp_path, size, dtype, told, capsys):
    (tmp_path / "a.raw").write_bytes(smooth(64, 80).tobytes())
    with speaking():
        assert len(list(open_source(f"raw:{tmp_path}/a.raw?size={size}&dtype={dtype}"))) == 1
    said = capsys.readouterr().err
    assert told in said
    assert told or "warning" not in said


def test_flat_pictures_and_noise_have_no_rows_to_tell():
    rng = np.random.default_rng(1)
    for data in (np.full((40, 60), 7, np.uint16), rng.integers(0, 9999, (40, 60)).astype(np.uint16)):
        assert row_length_of(data) is None


def clouds(rng, height, width):
    """A scene without a direction, standard deviation 1."""
    waves = np.fft.rfft2(rng.normal(size=(height, width)))
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    scene = np.fft.irfft2(waves / (0.03 + np.hypot(rows, columns)) ** 1.5, (height, width))
    return (scene - scene.mean()) / scene.std()


def words(picture):
    return np.round(8000 + 300 * picture).astype(np.uint16)


def turned(picture):
    """The same pixels with width and height exchanged."""
    return picture.ravel().reshape(picture.shape[::-1])


SIZES = [(96, 128), (192, 256), (240, 320), (256, 320)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_an_exchanged_size_is_seen_through_noise_as_strong_as_the_scene(size, seed):
    rng = np.random.default_rng(seed)
    picture = words(clouds(rng, *size) + rng.normal(size=size))
    assert row_length_of(turned(picture)) is None  # what stands below is not much more unlike than what stands beside
    assert looks_exchanged(turned(picture))
    assert not looks_exchanged(picture)
    columns = words(rng.normal(size=size) + 0.5 * rng.normal(size=(1, size[1])))  # of their own levels, without a scene
    assert looks_exchanged(turned(columns))
    assert not looks_exchanged(columns)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from(SIZES),
    parts=st.sets(st.sampled_from(["scene", "rows", "columns", "stripes", "taps", "drift"])),
)
def test_no_true_frame_looks_exchanged_whatever_its_noise(seed, size, parts):
    rng, (height, width) = np.random.default_rng(seed), size
    y, x = np.mgrid[:height, :width]
    made = {
        "scene": lambda: rng.uniform(0, 2) * clouds(rng, *size),
        "rows": lambda: 2 * rng.normal(size=(height, 1)),
        "columns": lambda: 2 * rng.normal(size=(1, width)),
        "stripes": lambda: 2 * np.cos(2 * np.pi * (rng.uniform(0, 0.5) * x + rng.uniform(-0.5, 0.5) * y)),
        "taps": lambda: np.repeat(rng.normal(size=(height, 8)), width // 8, axis=1),
        "drift": lambda: np.cumsum(rng.normal(0, 0.05, height * width)).reshape(size),
    }
    picture = words(sum((made[part]() for part in sorted(parts)), rng.normal(size=size)).clip(-20, 20))
    assert not looks_exchanged(picture)


def test_noise_flat_and_small_pictures_tell_nothing_of_their_size():
    rng = np.random.default_rng(1)
    for data in (np.full((40, 60), 7, np.uint16), rng.integers(0, 9999, (80, 96)), np.eye(15, 40), np.ones((64, 64))):
        assert not looks_exchanged(data.astype(np.uint16))
        assert not looks_exchanged(turned(data.astype(np.uint16)))


def test_a_noisy_stream_with_an_exchanged_size_is_warned_of(tmp_path, capsys):
    rng = np.random.default_rng(3)
    (tmp_path / "a.raw").write_bytes(words(clouds(rng, 96, 128) + rng.normal(size=(96, 128))).tobytes())
    for size, told in (("96x128", "width and height look exchanged"), ("128x96", "")):
        with speaking():
            list(open_source(f"raw:{tmp_path}/a.raw?size={size}&dtype=uint16"))
        said = capsys.readouterr().err
        assert told in said and (told or "warning" not in said)
        assert not told or "size=128x96?" in said
