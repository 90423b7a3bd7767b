from __future__ import annotations

import io
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from patience import within
from PIL import Image

from glint.errors import GlintError, InputError, SourceError, SourceLostError
from glint.runtime.sources.cameras.live import Reconnect
from glint.runtime.sources.cameras.rtsp import NetworkSource
from glint.runtime.sources.open import open_source
from glint.types import Frame, Gap

av = pytest.importorskip("av", reason="needs PyAV: pip install '.[video]'")

from fake_streams import H264_MEDIA, HEIGHT, WIDTH, RtspServer, TcpServer, packets, rtp_h264, rtp_program  # noqa: E402
from fake_streams import noise as images  # noqa: E402

IMAGES = images(4)
SIXTEEN = packets(IMAGES, "nut", "rawvideo", "gray16le")  # the last part is the trailer
LEVELS = np.repeat(np.array([40, 80, 120, 160, 200], np.uint8), HEIGHT * WIDTH).reshape(5, HEIGHT, WIDTH)
PROGRAM = b"".join(packets(LEVELS, "mpegts", "mpeg2video", "yuv420p"))
PATIENT = Reconnect(timeout=20, first=0.05, give_up=20)  # where nothing stalls
HASTY = Reconnect(timeout=1, first=0.05, give_up=20)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Threads and descriptors of a source end with it."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield
    deadline = time.monotonic() + 20
    while any(t.name == "glint-network" for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def levels(items: list[Frame | Gap]) -> list[int]:
    """Frames of LEVELS by number, -1 for a gap."""
    return [-1 if isinstance(i, Gap) else round((i.data.mean() - 40) / 40) for i in items]


def take(source: NetworkSource, number: int) -> list[Frame | Gap]:
    """So many items, then away."""
    items = iter(source)
    found = within(60, lambda: [next(items) for _ in range(number)])
    items.close()  # type: ignore[attr-defined]
    return found  # type: ignore[no-any-return]


def test_sixteen_bits_come_through_and_a_sender_that_dies_and_returns_leaves_a_gap() -> None:
    with TcpServer(SIXTEEN[:3], [*SIXTEEN[:4], "stall"]) as server:
        found = take(NetworkSource(f"tcp://127.0.0.1:{server.port}", PATIENT), 8)
    gap = found.pop(3)
    assert isinstance(gap, Gap)
    assert (gap.reason, gap.seconds > 0, gap.t_ns) == ("the sender has closed the stream", True, found[3].t_ns)
    assert [f.index for f in found if isinstance(f, Frame)] == list(range(7))
    assert np.array_equal([f.data for f in found], IMAGES[[0, 1, 2, 0, 1, 2, 3]])  # type: ignore[union-attr]
    times = [f.t_ns for f in found]
    assert times == sorted(times)
    assert times[-1] <= time.monotonic_ns()


def test_a_sender_that_stalls_counts_as_lost_after_the_timeout() -> None:
    with TcpServer([*SIXTEEN[:2], "stall"]) as server:
        first, second, gap, third = take(NetworkSource(f"tcp://127.0.0.1:{server.port}", HASTY), 4)
    assert isinstance(gap, Gap)
    assert gap.reason == "no data for 1 s"
    assert gap.seconds >= 1
    assert np.array_equal([f.data for f in (first, second, third)], IMAGES[[0, 1, 0]])  # type: ignore[union-attr]


def test_a_sender_that_never_returns_is_lost() -> None:
    source_items = []
    with TcpServer(SIXTEEN[:2], ends=True) as server:
        policy = Reconnect(timeout=20, first=0.05, give_up=0.3)
        with pytest.raises(SourceLostError, match="did not come back") as caught:
            for item in NetworkSource(f"tcp://127.0.0.1:{server.port}", policy):
                source_items.append(item)
    assert caught.value.exit_code == 4
    assert len(source_items) == 2


@pytest.fixture
def nobody() -> int:
    """A port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_sender_that_is_not_there_is_an_error_at_once(nobody: int) -> None:
    with pytest.raises(SourceError, match="refused") as caught:
        within(20, lambda: list(open_source(f"tcp://127.0.0.1:{nobody}")))
    assert caught.value.exit_code == 3


def test_a_sender_of_anything_else_is_an_error(nobody: int) -> None:
    with TcpServer([b"no video at all" * 1000]) as server, pytest.raises(SourceError):
        within(20, lambda: list(open_source(f"tcp://127.0.0.1:{server.port}#timeout=5")))


@pytest.mark.parametrize("script", [["stall"], [*SIXTEEN[:2], "stall"]])
def test_closing_ends_a_wait_long_before_the_timeout(script: list[bytes | str]) -> None:
    with TcpServer(script) as server:
        source = open_source(f"tcp://127.0.0.1:{server.port}#timeout=15")
        threading.Timer(0.5, source.close).start()
        began = time.monotonic()
        within(60, lambda: list(source))
        assert time.monotonic() - began < 12


def test_rtsp_stalls_dies_and_comes_back(capfd: pytest.CaptureFixture[str]) -> None:
    program = rtp_program(PROGRAM)
    with RtspServer([program, "stall"], [program], [program, "stall"], user="user:sEcrEt") as server:
        url = f"rtsp://user:sEcrEt@127.0.0.1:{server.port}/live"
        source = NetworkSource(url, HASTY)
        found = []
        items = iter(source)
        while levels(found).count(-1) < 2 or levels(found)[-1] != 2:
            found.append(within(60, lambda: next(items)))
        items.close()  # type: ignore[attr-defined]
        assert server.refused
    runs = " ".join(map(str, levels(found))).split(" -1 ")
    assert all("0 1 2 3 4".startswith(run) for run in runs)  # frames in order, from the start after each gap
    assert [i.index for i in found if isinstance(i, Frame)] == list(range(len(found) - levels(found).count(-1)))
    reasons = [i.reason for i in found if isinstance(i, Gap)]
    assert reasons[0].startswith("no ")
    assert "sEcrEt" not in "".join([*capfd.readouterr(), *reasons, source.uri])


@pytest.mark.skipif("libx264" not in av.codecs_available, reason="this PyAV has no H.264 encoder")
def test_rtsp_of_a_usual_camera_is_grey_h264() -> None:
    stream = rtp_h264(LEVELS)
    with RtspServer([stream], media=H264_MEDIA) as server:
        found = take(NetworkSource(f"rtsp://127.0.0.1:{server.port}/live", PATIENT), 7)
    runs = " ".join(map(str, levels(found))).split(" -1 ")
    assert len(runs) == 2
    assert all("0 1 2 3 4".startswith(run) for run in runs)


def test_rtsp_with_a_wrong_password_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    with RtspServer([rtp_program(PROGRAM)], user="user:sEcrEt") as server:
        uri = f"rtsp://user:wrOng@127.0.0.1:{server.port}/live?token=wrOng"
        with pytest.raises(SourceError) as caught:
            within(30, lambda: list(open_source(uri)))
    assert "password" in (caught.value.hint or "")
    assert "wrOng" not in leaks(caught.value, capfd)


def leaks(error: GlintError, capfd: pytest.CaptureFixture[str]) -> str:
    """All that a person could get to see of an error."""
    return "".join([*traceback.format_exception(error), repr(error), error.hint or "", *capfd.readouterr()])


def test_no_failure_tells_a_secret(nobody: int, capfd: pytest.CaptureFixture[str]) -> None:
    with TcpServer(SIXTEEN[:2], ends=True) as server, TcpServer([b"x" * 1000]) as other:
        places = {"camera.invalid:1": SourceError, f"127.0.0.1:{nobody}": SourceError}
        places |= {f"127.0.0.1:{other.port}": SourceError, f"127.0.0.1:{server.port}": SourceLostError}
        for place, kind in places.items():
            for scheme in ("tcp", "rtsp") if kind is SourceError else ("tcp",):
                uri = f"{scheme}://sEcrEt:s%45crEt@{place}/a?key=sEcrEt#timeout=3&give_up=0"
                with pytest.raises(GlintError) as caught:
                    within(30, lambda uri=uri: list(open_source(uri)))
                assert "crEt" not in leaks(caught.value, capfd)
    malformed = "rtsp://sEcrEt:sEcrEt@camera/a?key=sEcrEt#colour=red"
    with pytest.raises(InputError) as wrong:
        open_source(malformed)
    assert "crEt" not in leaks(wrong.value, capfd)


def test_udp_comes_back_after_a_silence() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sending, done = threading.Event(), threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not done.is_set():
                for start in range(0, len(PROGRAM), 7 * 188):
                    if sending.wait(0.1):
                        sender.sendto(PROGRAM[start : start + 7 * 188], ("127.0.0.1", port))
                    time.sleep(0.002)

    thread = threading.Thread(target=send)
    thread.start()
    sending.set()
    try:
        items = iter(NetworkSource(f"udp://127.0.0.1:{port}", HASTY))
        assert isinstance(within(30, lambda: next(items)), Frame)
        sending.clear()
        threading.Timer(2.5, sending.set).start()
        seen = [within(30, lambda: next(items))]
        while not (isinstance(seen[-1], Gap) and seen[-1].reason.startswith("no ")):  # damaged data leaves gaps too
            seen.append(within(30, lambda: next(items)))
        assert isinstance(within(30, lambda: next(items)), Frame)
        items.close()  # type: ignore[attr-defined]
    finally:
        done.set()
        thread.join(10)


def test_a_stream_in_colour_is_refused_unless_its_luma_is_asked_for() -> None:
    frames = images(3, 8)
    parts = packets(frames, "nut", "rawvideo", "rgb24")
    with TcpServer([*parts[:3], "stall"]) as server:
        url = f"tcp://127.0.0.1:{server.port}"
        with pytest.raises(SourceError, match="in colour") as caught:
            within(30, lambda: list(open_source(url)))
        assert "gray=luma" in (caught.value.hint or "")
        source = open_source(f"{url}#gray=luma&bits=8")
        frame = within(30, lambda: next(iter(source)))
        assert (frame.shape, frame.data.dtype, frame.full_scale) == ((HEIGHT, WIDTH), np.uint8, 255.0)
        source.close()


@pytest.mark.parametrize("uri", ["rtsp://", "udp://#timeout=3", "tcp://a:1#timeout=0", "rtsp://a/#transport=pigeon"])
def test_a_malformed_address_is_an_input_error(uri: str) -> None:
    with pytest.raises(InputError):
        open_source(uri)


def test_what_follows_the_hash_is_for_glint_and_the_rest_for_the_camera() -> None:
    source = open_source("rtsp://camera/live?channel=1#timeout=2&give_up=7&transport=udp&gray=luma&bits=14")
    assert isinstance(source, NetworkSource)
    assert source._url == "rtsp://camera/live?channel=1"
    assert (source.policy, source.transport) == (Reconnect(timeout=2, give_up=7), "udp")
    assert (source.luma, source.full_scale) == (True, 16383.0)
    odd = open_source("rtsp://me:pass#word@camera/live")
    assert isinstance(odd, NetworkSource)
    assert odd._url == "rtsp://me:pass#word@camera/live"


def mjpeg(frames: np.ndarray) -> list[bytes]:
    """What a camera answers to a request of its MJPEG: the head, then one part for each frame."""
    parts = [b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n"]
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, format="JPEG")
        head = f"--b\r\nContent-Type: image/jpeg\r\nContent-Length: {file.tell()}\r\n\r\n"
        parts.append(head.encode() + file.getvalue() + b"\r\n")
    return parts


def test_mjpeg_of_a_camera_comes_through() -> None:
    with TcpServer([*mjpeg(np.concatenate([LEVELS, LEVELS])), "stall"]) as server:
        found = take(open_source(f"http://127.0.0.1:{server.port}/video.mjpg?user=me#timeout=20"), 5)
    assert levels(found) == [0, 1, 2, 3, 4]
    assert all(isinstance(i, Frame) and i.data.dtype == np.uint8 for i in found)


def test_a_redirection_and_a_playlist_lead_nowhere() -> None:
    with TcpServer([*mjpeg(LEVELS), "stall"]) as secret:
        target = f"http://127.0.0.1:{secret.port}/a".encode()
        answers = (
            b"HTTP/1.0 302 Found\r\nLocation: " + target + b"\r\n\r\n",
            b"HTTP/1.0 200 OK\r\nContent-Type: application/vnd.apple.mpegurl\r\n\r\n#EXTM3U\n#EXTINF:1,\n"
            + target
            + b"\n",
        )
        for answer in answers:
            with TcpServer([answer]) as server, pytest.raises(SourceError):
                take(open_source(f"http://127.0.0.1:{server.port}/a.m3u8#timeout=2"), 1)
        assert secret.accepted == 0


def test_a_csi_sensor_is_a_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glint.runtime.sources.cameras.gstreamer.shutil.which", lambda name: "/usr/bin/gst-launch-1.0")
    assert "nvarguscamerasrc sensor-id=1" in open_source("csi://1").uri
    with pytest.raises(SourceError, match="csi:// is not known"):
        open_source("csi://camera")
