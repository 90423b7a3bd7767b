"""Cameras of the kernel: ``v4l2:///dev/video0?fmt=y16&size=640x512&fps=30``."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.errors import InputError, SourceAbsentError, SourceError, SourceLostError
from glint.runtime.sources.cameras import v4l2_ioctl as v4l2
from glint.runtime.sources.cameras.live import (
    RECONNECT_PARAMETERS,
    Captured,
    Connection,
    LiveSource,
    Reconnect,
    reconnect_of,
)
from glint.runtime.sources.grey import packed_luma
from glint.runtime.sources.uri import full_scale_of_bits, one_of, parameters, positive
from glint.types import FrameSize

_BUFFERS = 4

_GONE = (errno.ENODEV, errno.EIO, errno.ENXIO, errno.EPIPE, errno.EPROTO)


@dataclass(frozen=True)
class PixelFormat:
    """A format of frames: its V4L2 name, the type of a value, values per pixel, the sensor's full scale.

    ``luma`` is the first luma among the values of a 4:2:2 format, None for grey.
    """

    fourcc: str
    dtype: np.dtype[Any]
    values: int = 1
    full_scale: float | None = None
    luma: int | None = None


_SHORT = np.dtype("<u2")
FORMATS = {
    "y16": PixelFormat("Y16 ", _SHORT),
    "y16be": PixelFormat("Y16 -BE", np.dtype(">u2")),
    "y14": PixelFormat("Y14 ", _SHORT, full_scale=16383.0),
    "y12": PixelFormat("Y12 ", _SHORT, full_scale=4095.0),
    "y10": PixelFormat("Y10 ", _SHORT, full_scale=1023.0),
    "grey": PixelFormat("GREY", np.dtype(np.uint8), full_scale=255.0),
    "yuyv": PixelFormat("YUYV", np.dtype(np.uint8), values=2, luma=0),
    "uyvy": PixelFormat("UYVY", np.dtype(np.uint8), values=2, luma=1),
}


@dataclass(frozen=True)
class CameraConfig:
    """What to ask a camera for.

    Attributes:
        path: device file.
        fmt: name in ``FORMATS``.
        size: (width, height); None: what the camera is set to.
        fps: frames per second; None: what the camera is set to.
        luma: take the luma of colour pictures.
        full_scale: the sensor's, if the format does not tell.
    """

    path: str
    fmt: str = "y16"
    size: tuple[int, int] | None = None
    fps: float | None = None
    luma: bool = False
    full_scale: float | None = None


class CameraSource(LiveSource):
    """A V4L2 camera; times are those of the driver, on the monotonic clock.

    Args:
        uri: what the user asked for.
        config: format, size and rate: the camera must offer exactly these.
        policy: when it is lost and what to do then.
        open_device: gives the device of a path.
    """

    def __init__(
        self,
        uri: str,
        config: CameraConfig,
        policy: Reconnect,
        *,
        open_device: Callable[[str], v4l2.Device] = v4l2.DeviceFile,
    ) -> None:
        super().__init__(uri, policy)
        self.config, self._open_device = config, open_device
        self.size = None if config.size is None else FrameSize(*config.size)

    def connect(self) -> Connection:
        try:
            device = self._open_device(self.config.path)
        except OSError as error:
            raise _absent(self.uri, error) from error
        try:
            return _Camera(device, self)
        except OSError as error:
            device.close()
            if isinstance(error, SourceError):
                raise
            raise _absent(self.uri, error) from error


def _absent(uri: str, error: OSError) -> SourceError:
    """What a device that cannot be opened is: not there now, or nothing that could be."""
    kind = SourceError if error.errno in (errno.EACCES, errno.ENOTTY, errno.ENOTDIR) else SourceAbsentError
    return kind(f"{uri}: {error.strerror or error}", hint=_hint(error))


def _hint(error: OSError) -> str | None:
    return {
        errno.ENOENT: "is it plugged in? v4l2-ctl --list-devices lists cameras; --wait-source SECONDS waits for it",
        errno.EACCES: "add yourself to the group video",
        errno.EBUSY: "another program uses the camera",
        errno.ENOTTY: "this is no camera",
    }.get(error.errno or 0)


class _Camera(Connection):
    def __init__(self, device: v4l2.Device, source: CameraSource) -> None:
        uri, config = source.uri, source.config
        self._device, self._uri, self._config, self._waker = device, uri, config, source.waker
        self._source, self._delivered = source, False
        self._format = FORMATS[config.fmt]
        self._layout = _negotiate(device, uri, config)
        self._row = self._layout.width * self._format.values * self._format.dtype.itemsize
        self._maps = v4l2.request_buffers(device, _BUFFERS)
        self._sequence: int | None = None
        for index in range(len(self._maps)):
            v4l2.queue_buffer(device, index)
        v4l2.stream(device, on=True)

    def read(self, seconds: float) -> Captured:
        deadline, lost = time.monotonic() + seconds, ""
        while self._waker.wait(self._device.fileno(), deadline - time.monotonic()):
            try:
                filled = v4l2.take_buffer(self._device)
                arrived = time.monotonic_ns()
                data = None if self._is_damaged(filled) else self._copy(filled.number)
                v4l2.queue_buffer(self._device, filled.number)
            except BlockingIOError:
                continue
            except OSError as error:
                raise SourceLostError(
                    _loss(error), hint="is it plugged in? dmesg tells; --wait-source SECONDS waits for it"
                ) from error
            missing = 0 if self._sequence is None else (filled.sequence - self._sequence - 1) % 2**32
            self._sequence = filled.sequence
            if 0 < missing < 2**31:
                lost = f"the driver dropped {missing} frames"
                self._source.missing += missing
            if data is None:
                lost = "the driver marked a frame as damaged"
                self._source.missing += 1
                continue
            try:
                grey = self._grey(data)
            except SourceError as error:
                if not self._delivered:
                    raise
                lost = str(error).removeprefix(f"{self._uri}: ")
                self._source.skip("a frame", lost)
                continue
            self._delivered = True
            return Captured(filled.t_ns or arrived, grey, self._full_scale(), lost)
        raise SourceLostError(
            f"no frame for {seconds:g} s", hint="does v4l2-ctl --stream-mmap deliver? timeout=SECONDS waits longer"
        )

    def close(self) -> None:
        try:
            v4l2.stream(self._device, on=False)
        except OSError:
            pass  # it is gone already
        finally:
            self._device.close()

    def _is_damaged(self, filled: v4l2.Filled) -> bool:
        whole = self._layout.stride * (self._layout.height - 1) + self._row
        return filled.damaged or filled.used < whole

    def _copy(self, index: int) -> NDArray[Any]:
        """The picture without the padding of its rows, as it lies in memory: ``[H, values * W]``."""
        layout = self._layout
        rows = np.ndarray((layout.height, self._row), np.uint8, self._maps[index], strides=(layout.stride, 1))
        return np.ascontiguousarray(rows).copy().view(self._format.dtype)

    def _grey(self, data: NDArray[Any]) -> NDArray[Any]:
        if self._format.luma is not None:
            return packed_luma(data, self._format.luma, luma=self._config.luma, where=self._uri)
        return data.astype(data.dtype.newbyteorder("="), copy=False)

    def _full_scale(self) -> float | None:
        of_range = 255.0 if self._format.luma is not None and self._layout.full_range else None
        return self._config.full_scale or self._format.full_scale or of_range


def _loss(error: OSError) -> str:
    return "the camera is gone" if error.errno in _GONE else f"the camera failed: {error.strerror or error}"


def _negotiate(device: v4l2.Device, uri: str, config: CameraConfig) -> v4l2.Layout:
    """Set format, size and rate; a driver that makes something else of them is refused."""
    format_ = FORMATS[config.fmt]
    one_plane, planes = v4l2.capabilities(device)
    if not one_plane:
        hint = f"use gst:v4l2src device={config.path} ! ..." if planes else "choose another /dev/video file"
        raise SourceError(f"{uri} does not stream frames of one plane", hint=hint)
    layout = v4l2.set_format(device, format_.fourcc, config.size)
    if layout.fourcc != format_.fourcc:
        offered = v4l2.formats(device)
        known = [name for name, known in FORMATS.items() if known.fourcc in offered]
        raise SourceError(
            f"{uri}: the camera has no {format_.fourcc.strip()}; it offers {', '.join(offered) or 'nothing'}",
            hint=f"use fmt={known[0]}" if known else "use gst:v4l2src ! ... ! videoconvert",
        )
    size = (layout.width, layout.height)
    if config.size not in (None, size):
        raise SourceError(
            f"{uri}: the camera has no frames of {config.size[0]}x{config.size[1]}; "
            f"the nearest are {size[0]}x{size[1]}",
            hint="leave size out, or take what the camera offers",
        )
    if config.fps is not None:
        rate = v4l2.set_rate(device, config.fps)
        if rate is None or abs(rate - config.fps) > 0.01 * config.fps:
            offer = "its rate cannot be set" if rate is None else f"the nearest is {rate:g}"
            raise SourceError(
                f"{uri}: the camera has no {config.fps:g} frames per second; {offer}",
                hint="leave fps out, or take what the camera offers",
            )
    return layout


def open_camera(uri: str) -> CameraSource:
    """``v4l2:///dev/video0?fmt=y16&size=640x512&fps=30``.

    Raises:
        InputError: if a parameter is unknown or malformed.
    """
    path, _, query = uri.removeprefix("v4l2://").partition("?")
    if not path.startswith("/"):
        raise InputError(
            f"{uri}: expected the device file, e.g. v4l2:///dev/video0?fmt=y16",
            hint="v4l2-ctl --list-devices shows what there is",
        )
    known = {"fmt": one_of(*FORMATS), "size": FrameSize.parse, "fps": positive, "gray": one_of("luma")}
    values = parameters(uri, query, {**known, "bits": full_scale_of_bits, **RECONNECT_PARAMETERS})
    asked = {name: values[name] for name in ("fmt", "size", "fps") if name in values}
    config = CameraConfig(path, **asked, luma="gray" in values, full_scale=values.get("bits"))
    return CameraSource(uri, config, reconnect_of(values))
