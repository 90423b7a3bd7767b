from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_camera import FakeCamera
from patience import within

from glint.errors import InputError, SourceError, SourceLostError
from glint.runtime.sources.cameras import v4l2_ioctl as v4l2
from glint.runtime.sources.cameras.live import Reconnect
from glint.runtime.sources.cameras.v4l2 import CameraConfig, CameraSource
from glint.runtime.sources.open import open_source
from glint.types import Frame, Gap

SECOND = 1_000_000_000
IMAGES = np.random.default_rng(0).integers(0, 65536, (9, 5, 7)).astype(np.uint16)
POLICY = Reconnect(timeout=20, first=0.01, give_up=20)


def source_of(*cameras: FakeCamera | OSError, policy: Reconnect = POLICY, **config: object) -> CameraSource:
    """A source that finds these cameras, one after the other."""
    left = list(cameras)

    def open_device(path: str) -> v4l2.Device:
        assert path == "/dev/video7"
        camera = left.pop(0)
        if isinstance(camera, OSError):
            raise camera
        return camera

    return CameraSource("v4l2:///dev/video7", CameraConfig("/dev/video7", **config), policy, open_device=open_device)  # type: ignore[arg-type]


def begin(
    source: CameraSource, camera: FakeCamera, image: np.ndarray, **shown: int
) -> tuple[Iterator[Frame | Gap], Frame]:
    """Start the source; the first frame is shown as soon as the camera streams."""

    def show() -> None:
        while not camera.streaming:
            time.sleep(0.002)
        camera.show(image, **{"t_ns": SECOND, "sequence": 0, **shown})  # type: ignore[arg-type]

    threading.Thread(target=show).start()
    items = iter(source)
    first = within(20, lambda: next(items))
    assert isinstance(first, Frame)
    return items, first


def test_sixteen_bits_come_through_with_the_time_of_capture() -> None:
    camera = FakeCamera(stride=20)
    items, first = begin(source_of(camera), camera, IMAGES[0], t_ns=5_123_456_000)
    assert np.array_equal(first.data, IMAGES[0])
    assert (first.data.dtype, first.t_ns, first.full_scale) == (np.uint16, 5_123_456_000, None)
    for number in range(1, 9):  # more than there are buffers: each is given back
        camera.show(IMAGES[number], t_ns=(5 + number) * SECOND, sequence=number)
        frame = within(20, lambda: next(items))
        assert isinstance(frame, Frame)
        assert (frame.index, frame.t_ns) == (number, (5 + number) * SECOND)
        assert np.array_equal(frame.data, IMAGES[number])
    assert np.array_equal(first.data, IMAGES[0])  # a copy, not the driver's memory
    items.close()  # type: ignore[attr-defined]
    assert camera.closed
    assert not camera.streaming


@pytest.mark.parametrize(
    ("fmt", "fourcc", "dtype", "full_scale"),
    [
        ("y16", b"Y16 ", "<u2", None),
        ("y16be", b"Y16\xa0", ">u2", None),
        ("y14", b"Y14 ", "<u2", 16383.0),
        ("y12", b"Y12 ", "<u2", 4095.0),
        ("y10", b"Y10 ", "<u2", 1023.0),
        ("grey", b"GREY", "u1", 255.0),
    ],
)
def test_every_grey_format_is_read_as_it_is(fmt: str, fourcc: bytes, dtype: str, full_scale: float | None) -> None:
    camera = FakeCamera([b"MJPG", fourcc])
    image = IMAGES[0].astype(dtype)
    items, frame = begin(source_of(camera, fmt=fmt), camera, image)
    assert np.array_equal(frame.data, image)
    assert frame.data.dtype.isnative
    assert frame.full_scale == full_scale
    items.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("fmt", "fourcc", "first"), [("yuyv", b"YUYV", 0), ("uyvy", b"UYVY", 1)])
def test_colour_is_refused_unless_it_is_grey_or_its_luma_is_asked_for(fmt: str, fourcc: bytes, first: int) -> None:
    luma = IMAGES[0].astype(np.uint8)
    for chroma, asked in ((128, False), (90, True), (90, False)):
        pairs = np.full((5, 14), chroma, np.uint8)
        pairs[:, first::2] = luma
        camera = FakeCamera([fourcc], full_range=True)
        source = source_of(camera, fmt=fmt, luma=asked)
        if chroma == 90 and not asked:
            with pytest.raises(SourceError, match="in colour") as caught:
                begin(source, camera, pairs)
            assert "gray=luma" in (caught.value.hint or "")
        else:
            items, frame = begin(source, camera, pairs)
            assert np.array_equal(frame.data, luma)
            assert frame.full_scale == 255.0
            items.close()  # type: ignore[attr-defined]
        assert camera.closed


def test_what_the_driver_drops_or_damages_leaves_a_gap() -> None:
    camera = FakeCamera()
    items, _ = begin(source_of(camera), camera, IMAGES[0], sequence=4)
    camera.show(IMAGES[1], t_ns=2 * SECOND, sequence=8)
    assert next(items) == Gap(2 * SECOND, 1.0, "the driver dropped 3 frames")
    assert isinstance(next(items), Frame)
    camera.show(IMAGES[2], t_ns=3 * SECOND, sequence=9, flags=0x2040)
    camera.show(IMAGES[3], t_ns=4 * SECOND, sequence=10, used=30)  # half a picture
    camera.show(IMAGES[4], t_ns=5 * SECOND, sequence=11)
    gap, frame = next(items), next(items)
    assert isinstance(gap, Gap)
    assert "damaged" in gap.reason
    assert gap.seconds == 3.0
    assert isinstance(frame, Frame)
    assert np.array_equal(frame.data, IMAGES[4])
    items.close()  # type: ignore[attr-defined]


def test_a_foreign_clock_gives_way_to_the_time_of_arrival() -> None:
    camera = FakeCamera()
    before = time.monotonic_ns()
    items, frame = begin(source_of(camera), camera, IMAGES[0], flags=0)
    assert before <= frame.t_ns <= time.monotonic_ns()
    items.close()  # type: ignore[attr-defined]


def test_a_camera_that_is_unplugged_comes_back() -> None:
    one, two = FakeCamera(), FakeCamera()
    items, _ = begin(source_of(one, OSError(errno.ENOENT, "No such file"), two), one, IMAGES[0])

    def replug() -> None:
        one.unplug()
        while not two.streaming:
            time.sleep(0.002)
        two.show(IMAGES[1], t_ns=9 * SECOND, sequence=0)

    threading.Thread(target=replug).start()
    gap, frame = within(20, lambda: (next(items), next(items)))
    assert gap == Gap(9 * SECOND, 8.0, "the camera is gone")
    assert np.array_equal(frame.data, IMAGES[1])
    assert one.closed
    items.close()  # type: ignore[attr-defined]


def test_a_camera_that_falls_silent_is_lost() -> None:
    camera = FakeCamera()
    source = source_of(camera, policy=Reconnect(timeout=0.5, give_up=0))
    items, _ = begin(source, camera, IMAGES[0])
    with pytest.raises(SourceLostError, match=r"no frame for 0\.5 s"):
        within(20, lambda: next(items))
    assert camera.closed


def test_closing_ends_the_wait_for_a_frame() -> None:
    camera = FakeCamera()
    source = source_of(camera)
    items, _ = begin(source, camera, IMAGES[0])
    threading.Timer(0.1, source.close).start()
    assert within(10, lambda: list(items)) == []
    assert camera.closed


@pytest.mark.parametrize(
    ("camera", "config", "words", "hint"),
    [
        (FakeCamera([b"YUYV", b"GREY"]), {}, "no Y16; it offers YUYV, GREY", "fmt=grey"),
        (FakeCamera([b"MJPG"]), {}, "it offers MJPG", "gst:"),
        (FakeCamera(), {"size": (640, 512)}, "no frames of 640x512; the nearest are 7x5", ""),
        (FakeCamera(), {"fps": 60.0}, "no 60 frames per second; the nearest is 30", ""),
        (FakeCamera(fps=None), {"fps": 60.0}, "its rate cannot be set", ""),
        (FakeCamera(flags=0x04001000), {}, "one plane", "gst:v4l2src device=/dev/video7"),
        (FakeCamera(flags=0x04000002), {}, "one plane", "/dev/video"),
        (OSError(errno.EACCES, "Permission denied"), {}, "Permission denied", "group video"),
        (OSError(errno.EBUSY, "Device or resource busy"), {}, "busy", "another program"),
    ],
)
def test_what_the_camera_cannot_do_is_said_and_never_replaced(
    camera: FakeCamera | OSError, config: dict[str, object], words: str, hint: str
) -> None:
    with pytest.raises(SourceError, match=words) as caught:
        list(source_of(camera, **config))
    assert hint in (caught.value.hint or "")
    assert caught.value.exit_code == (3 if words == "busy" else 2)
    assert isinstance(camera, OSError) or camera.closed


def test_what_it_can_do_is_taken() -> None:
    camera = FakeCamera()
    items, frame = begin(source_of(camera, size=(7, 5), fps=30.0, full_scale=16383.0), camera, IMAGES[0])
    assert frame.full_scale == 16383.0
    assert "S_PARM" in camera.calls
    items.close()  # type: ignore[attr-defined]


def test_the_uri_says_it_all() -> None:
    source = open_source("v4l2:///dev/video7?fmt=grey&size=640x512&fps=60&bits=8&gray=luma&timeout=2&give_up=9")
    assert isinstance(source, CameraSource)
    assert source.config == CameraConfig("/dev/video7", "grey", (640, 512), 60.0, True, 255.0)
    assert source.policy == Reconnect(timeout=2, give_up=9)
    plain = open_source("v4l2:///dev/video7")
    assert isinstance(plain, CameraSource)
    assert plain.config == CameraConfig("/dev/video7")


@pytest.mark.parametrize(
    "uri",
    ["v4l2://", "v4l2://video0", "v4l2:///dev/video0?fmt=mjpg", "v4l2:///dev/video0?size=big", "v4l2:///dev/v?fps=0"],
)
def test_a_malformed_camera_is_an_input_error(uri: str) -> None:
    with pytest.raises(InputError):
        open_source(uri)


def test_a_file_that_is_no_camera_is_a_source_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path, words in ((tmp_path / "absent", "No such file"), (tmp_path / "file", "ioctl|device")):
        with pytest.raises(SourceError, match=words):
            list(open_source(f"v4l2://{path}"))
    with pytest.raises(SourceError, match="is a device") as caught:
        open_source("/dev/null")
    assert "v4l2:///dev/null" in (caught.value.hint or "")


def test_a_device_file_is_mapped_and_closed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(16)) * 256)
    before = len(list(Path("/proc/self/fd").iterdir()))
    device = v4l2.DeviceFile(str(tmp_path / "file"))
    memory = device.map(4096, 0)
    assert bytes(memory[:3]) == b"\0\1\2"
    with pytest.raises(OSError, match="ioctl"):
        v4l2.capabilities(device)
    device.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
