from __future__ import annotations

import io
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glint.errors import GlintError, InputError, MissingDependencyError, SourceError, SourceLostError
from glint.formats.mp4 import stated_sizes
from glint.progress import speaking
from glint.runtime.sources.grey import grey_of
from glint.runtime.sources.open import open_source

av = pytest.importorskip("av", reason="needs PyAV: pip install '.[video]'")

from fake_streams import HEIGHT, WIDTH, encode, fill, noise  # noqa: E402


def save(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(
    ("pixels", "bits", "codec", "container", "ending", "full_scale"),
    [
        ("gray", 8, "ffv1", "matroska", "mkv", 255.0),
        ("gray9le", 9, "ffv1", "matroska", "mkv", 511.0),
        ("gray10le", 10, "ffv1", "matroska", "mkv", 1023.0),
        ("gray12le", 12, "ffv1", "matroska", "mkv", 4095.0),
        ("gray14le", 14, "ffv1", "matroska", "mkv", 16383.0),
        ("gray16le", 16, "ffv1", "matroska", "mkv", None),
        ("gray16le", 16, "ffv1", "mp4", "mp4", None),
        ("gray16le", 16, "ffvhuff", "avi", "avi", None),
        ("gray16le", 16, "ffvhuff", "nut", "nut", None),
        ("gray16be", 16, "rawvideo", "nut", "nut", None),
        ("gray12le", 12, "rawvideo", "nut", "nut", 4095.0),
        ("yuv420p", 8, "ffv1", "matroska", "mkv", None),
        ("yuv422p10le", 10, "ffv1", "matroska", "mkv", None),
    ],
)
def test_grey_video_is_read_bit_by_bit(
    tmp_path: Path, pixels: str, bits: int, codec: str, container: str, ending: str, full_scale: float | None
) -> None:
    images = noise(4, bits)
    try:
        content = encode(images, container, codec, pixels)
    except (av.error.FFmpegError, ValueError):
        pytest.skip(f"this FFmpeg writes no {pixels} with {codec}")
    source = open_source(save(tmp_path / f"clip.{ending}", content))
    frames = list(source.frames())
    assert not source.live
    assert [f.index for f in frames] == [0, 1, 2, 3]
    assert np.array_equal([f.data for f in frames], images)
    assert all(f.data.dtype == images.dtype and f.full_scale == full_scale for f in frames)
    assert source.skipped == []
    assert np.allclose([f.t_ns / 1e9 for f in frames], np.arange(4) / 30, atol=6e-4)


def test_the_sensors_depth_can_be_told(tmp_path: Path) -> None:
    path = save(tmp_path / "clip.mkv", encode(noise(1, 14), "matroska", "ffv1", "gray16le"))
    (frame,) = open_source(f"{path}?bits=14").frames()
    assert frame.full_scale == 16383.0
    (same,) = open_source(f"file://{path}?bits=14").frames()
    assert np.array_equal(frame.data, same.data)


def test_times_are_those_of_the_stream(tmp_path: Path) -> None:
    content = encode(noise(4), "matroska", "ffv1", "gray16le", stamps=[30, 33, 60, 62])
    frames = open_source(save(tmp_path / "clip.mkv", content)).frames()
    assert [f.t_ns for f in frames] == [0, 100_000_000, 1_000_000_000, 1_067_000_000]


def picture(pixels: str, image: np.ndarray | None = None) -> av.VideoFrame:
    return fill(av.VideoFrame(WIDTH, HEIGHT, pixels), noise(1, 8)[0] if image is None else image)


@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p", "yuv444p", "yuv422p", "nv12", "yuv410p"])
def test_a_grey_picture_in_a_colour_format_is_taken_and_a_coloured_one_refused(pixels: str) -> None:
    frame = picture(pixels)
    data, _ = grey_of(frame, luma=False, where="x")
    assert np.array_equal(data, noise(1, 8)[0])
    np.frombuffer(frame.planes[1], np.uint8).reshape(-1, frame.planes[1].line_size)[-1, 3] = 140  # one coloured spot
    with pytest.raises(SourceError, match="in colour") as caught:
        grey_of(frame, luma=False, where="x")
    assert "gray=luma" in (caught.value.hint or "")
    data, _ = grey_of(frame, luma=True, where="x")
    assert np.array_equal(data, noise(1, 8)[0])


@pytest.mark.parametrize(("pixels", "first"), [("yuyv422", 0), ("uyvy422", 1), ("yvyu422", 0)])
def test_packed_luma_is_taken_the_same_way(pixels: str, first: int) -> None:
    frame = av.VideoFrame(WIDTH, HEIGHT, pixels)
    rows = np.frombuffer(frame.planes[0], np.uint8).reshape(HEIGHT, -1)
    rows[:] = 128
    rows[:, first : 2 * WIDTH : 2] = noise(1, 8)[0]
    data, _ = grey_of(frame, luma=False, where="x")
    assert np.array_equal(data, noise(1, 8)[0])
    rows[5, 1 - first] = 100
    with pytest.raises(SourceError, match="in colour"):
        grey_of(frame, luma=False, where="x")


@pytest.mark.parametrize("pixels", ["rgb24", "bgr24", "rgba", "gbrp"])
def test_equal_channels_are_grey_and_others_take_the_stated_luma(pixels: str) -> None:
    image = noise(1, 8)[0]
    frame = av.VideoFrame.from_ndarray(np.repeat(image[..., None], 3, axis=2), format="rgb24").reformat(format=pixels)
    data, full_scale = grey_of(frame, luma=False, where="x")
    assert np.array_equal(data, image)
    assert full_scale == 255.0
    colours = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(colours, format="rgb24").reformat(format=pixels)
    with pytest.raises(SourceError, match="in colour"):
        grey_of(frame, luma=False, where="x")
    data, _ = grey_of(frame, luma=True, where="x")
    red, green, blue = colours.astype(float).transpose(2, 0, 1)
    assert np.abs(data - (0.299 * red + 0.587 * green + 0.114 * blue)).max() <= 0.5 + 1e-9


def test_bits_at_the_top_of_a_word_are_brought_down() -> None:
    frame = av.VideoFrame(WIDTH, HEIGHT, "p010le")
    for plane, level in zip(frame.planes, (noise(1, 10)[0], 512)):
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size).view(np.uint16)
        rows[: plane.height, :WIDTH] = np.asarray(level) << 6
    data, _ = grey_of(frame, luma=False, where="x")
    assert np.array_equal(data, noise(1, 10)[0])


@pytest.mark.parametrize("pixels", ["rgb48le", "rgb555le", "ya16le", "monob", "bayer_rggb8"])
def test_a_format_that_would_be_cut_down_is_refused(pixels: str) -> None:
    with pytest.raises(SourceError, match=pixels):
        grey_of(av.VideoFrame(WIDTH, HEIGHT, pixels), luma=True, where="x")


@pytest.mark.parametrize(("range_", "full_scale"), [(0, None), (1, 235.0), (2, 255.0)])
def test_the_range_of_luma_gives_the_full_scale(range_: int, full_scale: float | None) -> None:
    frame = picture("yuv420p")
    frame.color_range = range_
    assert grey_of(frame, luma=False, where="x")[1] == full_scale


def test_a_coloured_file_is_refused_with_the_way_out(tmp_path: Path) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    path = tmp_path / "day.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "bgr0"
        output.mux(stream.encode(av.VideoFrame.from_ndarray(colours, format="rgb24").reformat(format="bgr0")))
        output.mux(stream.encode(None))
    with pytest.raises(SourceError, match="in colour") as caught:
        list(open_source(str(path)))
    assert "gray=luma" in (caught.value.hint or "")
    assert len(list(open_source(f"{path}?gray=luma"))) == 1


@pytest.mark.parametrize(("container", "ending", "codec"), [("matroska", "mkv", "ffv1"), ("avi", "avi", "ffvhuff")])
def test_a_file_that_is_cut_off_gives_its_frames_and_then_says_so(
    tmp_path: Path, container: str, ending: str, codec: str
) -> None:
    images = noise(30)
    content = encode(images, container, codec, "gray16le")
    frames = []
    with pytest.raises(SourceLostError, match=r"is cut off|breaks off"):
        for frame in open_source(save(tmp_path / f"half.{ending}", content[: len(content) // 2])):
            frames.append(frame)
    assert 10 <= len(frames) <= 16
    assert np.array_equal([f.data for f in frames], images[: len(frames)])  # type: ignore[union-attr]


def test_a_damaged_packet_is_skipped_and_counted(tmp_path: Path) -> None:
    content = bytearray(encode(noise(6), "nut", "png", "gray16be"))
    start = len(content) // 2
    content[start : start + 40] = bytes(40)
    source = open_source(save(tmp_path / "bad.nut", bytes(content)))
    frames = list(source.frames())
    good = noise(6).tobytes()
    assert 3 <= len(frames) <= 5
    assert all(f.data.tobytes() in good for f in frames)
    assert source.skipped
    assert "bad.nut" in source.skipped[0].name


SMALL = encode(noise(2)[:, :16, :16], "matroska", "ffv1", "gray16le")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_ends_in_anything_but_frames_and_errors_of_glint(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(SMALL)[: data.draw(st.integers(0, len(SMALL)))]
    for position, value in data.draw(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4)):
        if content:
            content[position % len(content)] = value
    try:
        frames = list(open_source(save(tmp_path / "f.mkv", bytes(content))).frames())
    except GlintError:
        return
    assert frames


def test_what_is_no_video_is_a_source_error(tmp_path: Path) -> None:
    for content in (b"", b"no video" * 100):
        with pytest.raises(SourceError, match=r"clip\.mkv"):
            list(open_source(save(tmp_path / "clip.mkv", content)))
    with pytest.raises(SourceError, match="no such file"):
        open_source(str(tmp_path / "absent.mkv"))
    with pytest.raises(InputError, match="colour"):
        open_source(f"{tmp_path}/clip.mkv?colour=red")


def test_without_pyav_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "clip.mkv", b"")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependencyError, match="PyAV") as caught:
        list(open_source(path))
    assert "[video]" in (caught.value.hint or "")
    assert caught.value.exit_code == 3


def two_streams(first: np.ndarray, second: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        streams = []
        for _ in range(2):
            stream = container.add_stream("ffv1", rate=30)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "gray16le"
            streams.append(stream)
        for a, b in zip(first, second):
            for stream, image in zip(streams, (a, b)):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray16le")))
        for stream in streams:
            container.mux(stream.encode(None))
    return buffer.getvalue()


def test_one_of_several_streams_is_chosen_and_all_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = noise(3, 16), noise(3, 16)[::-1].copy()
    path = save(tmp_path / "dual.mkv", two_streams(first, second))
    assert np.array_equal([f.data for f in open_source(path).frames()], first)
    assert "stream=0 (ffv1" in (shown := capsys.readouterr().err) and "stream=1 (ffv1" in shown
    assert np.array_equal([f.data for f in open_source(f"{path}?stream=1").frames()], second)
    assert capsys.readouterr().err == ""
    with pytest.raises(SourceError, match="no video stream 2"):
        list(open_source(f"{path}?stream=2"))


@pytest.mark.parametrize("bad", [0, 2])
def test_a_coloured_picture_refuses_the_source_only_as_the_first(tmp_path: Path, bad: int) -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(5):
            rgb = np.full((HEIGHT, WIDTH, 3), 40 + index, np.uint8)
            if index == bad:
                rgb[4:12, 4:12, 0] = 250
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    source = open_source(save(tmp_path / "dot.mkv", buffer.getvalue()))
    if bad == 0:
        with pytest.raises(SourceError, match="colour"):
            list(source)
        return
    assert len(list(source.frames())) == 4
    assert sum(source.skips.values()) == 1 and "colour" in source.skipped[0].reason


def test_a_flipped_bit_is_never_silent(tmp_path: Path) -> None:
    images = noise(8)
    content = encode(images, "matroska", "ffv1", "gray16le")
    path, marked = tmp_path / "clip.mkv", 0
    rng = np.random.default_rng(1)
    for place in rng.integers(len(content) // 4, len(content), 30):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        source = open_source(save(path, bytes(damaged)))
        try:
            frames = list(source.frames())
        except SourceError:
            continue
        unlike = [f for f in frames if not any(np.array_equal(f.data, image) for image in images)]
        marked += len(unlike)
        assert all(frame.damaged for frame in unlike)
        assert len(frames) + sum(source.skips.values()) >= len(images)
    assert marked


def test_complaints_of_libav_reach_nobody_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = bytearray(encode(noise(4), "matroska", "ffv1", "gray16le"))
    content[len(content) // 2] ^= 1
    assert list(open_source(save(tmp_path / "secret.mkv", bytes(content))).frames())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("ending", ["mp4", "ts", "mkv"])
@pytest.mark.parametrize("kind", ["hls", "concat", "sdp"])
def test_a_playlist_fetches_nothing(tmp_path: Path, kind: str, ending: str) -> None:
    (tmp_path / "other.mkv").write_bytes(encode(noise(2), "matroska", "ffv1", "gray16le"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        host = f"127.0.0.1:{server.getsockname()[1]}"
        text = {
            "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://{host}/a.ts\n#EXT-X-ENDLIST\n",
            "concat": "ffconcat version 1.0\nfile other.mkv\n",
            "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 33\n",
        }[kind]
        with pytest.raises(SourceError):
            list(open_source(save(tmp_path / f"clip.{ending}", text.encode())).frames())
        with pytest.raises(TimeoutError):
            server.accept()


def test_frames_that_are_missing_between_others_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stamps = [n for n in range(14) if n not in (6, 7)]
    path = save(tmp_path / "a.mkv", encode(noise(12), "matroska", "ffv1", "gray16le", stamps=stamps))
    source = open_source(path)
    with speaking():
        assert len(list(source.frames())) == 12
    assert source.missing == 2
    assert "2 frames are missing" in capsys.readouterr().err
    stamps = [0, 1, 4, 5, 9, 11, 17, 20]
    content = encode(noise(8), "matroska", "ffv1", "gray16le", stamps=stamps)
    uneven = open_source(save(tmp_path / "b.mkv", content))
    assert len(list(uneven.frames())) == 8
    assert uneven.missing == 0


def test_a_container_that_tells_another_size_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """H.264 has its own word for the size; FFV1 takes the container's, and has checksums."""
    try:
        content = encode(noise(2, 8), "mp4", "libx264", "yuv420p")
    except (av.error.FFmpegError, ValueError):
        pytest.skip("this FFmpeg has no libx264")
    path = tmp_path / "clip.mp4"
    with speaking():
        list(open_source(save(path, content)).frames())
    assert "says that its pictures" not in capsys.readouterr().err
    assert stated_sizes(path) == {(WIDTH, HEIGHT)}
    place = content.index(b"avc1", content.index(b"stsd")) + 28
    assert content[place : place + 4] == WIDTH.to_bytes(2, "big") + HEIGHT.to_bytes(2, "big")
    with speaking():
        list(open_source(save(path, content[:place] + (WIDTH + 8).to_bytes(2, "big") + content[place + 2 :])).frames())
    assert f"says that its pictures are {WIDTH + 8}x{HEIGHT}, and they are {WIDTH}x{HEIGHT}" in capsys.readouterr().err


def test_boxes_of_any_kind_end(tmp_path: Path) -> None:
    content = encode(noise(1, 8), "mp4", "ffv1", "gray")
    path = tmp_path / "clip.mp4"
    rng = np.random.default_rng(1)
    for _ in range(300):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 4):
            damaged[place] = rng.choice([0, 1, 255, rng.integers(256)])
        path.write_bytes(bytes(damaged[: rng.integers(1, len(content) + 1)]))
        assert len(stated_sizes(path)) <= 3
    path.write_bytes(b"\0\0\0\0moov" * 1000)
    assert stated_sizes(path) == set()
