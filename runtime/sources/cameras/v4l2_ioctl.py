"""The part of the Linux camera interface (V4L2) that capturing one-plane frames needs, 64-bit layout.

Sizes and numbers are those of ``<linux/videodev2.h>``.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import NamedTuple, Protocol

QUERYCAP, ENUM_FMT, G_FMT, S_FMT = 0x80685600, 0xC0405602, 0xC0D05604, 0xC0D05605
REQBUFS, QUERYBUF, QBUF, DQBUF = 0xC0145608, 0xC0585609, 0xC058560F, 0xC0585611
STREAMON, STREAMOFF, S_PARM = 0x40045612, 0x40045613, 0xC0CC5616

_CAPTURE, _MMAP, _FIELD_ANY = 1, 1, 0
_CAN_CAPTURE, _CAN_CAPTURE_PLANES, _CAN_STREAM, _DEVICE_CAPS = 0x1, 0x1000, 0x04000000, 0x80000000
_TIME_PER_FRAME = 0x1000
_ERROR, _CLOCK, _MONOTONIC = 0x40, 0xE000, 0x2000
_FORMAT = struct.Struct("<I4x12I152x")  # type, then width, height, fourcc, field, stride, size, ...
_BUFFER = struct.Struct("<5I4xqq16x2IQ2IiI")  # index, type, used, flags, field, time, sequence, memory, offset, ...
_REQUEST = struct.Struct("<5I")
_PARAMETERS = struct.Struct("<6I180x")  # type, capability, mode, numerator, denominator, ...
_DESCRIPTION = struct.Struct("<3I32s5I")


class Device(Protocol):
    """What a camera's file can do; tests give one of their own."""

    def fileno(self) -> int:
        """Becomes readable with each frame."""

    def ioctl(self, request: int, buffer: bytearray) -> None:
        """Fills the buffer in place; raises OSError."""

    def map(self, length: int, offset: int) -> memoryview:
        """Memory that the driver writes frames to."""

    def close(self) -> None:
        """Unmap and close."""


class DeviceFile:
    """A device file such as ``/dev/video0``.

    Raises:
        OSError: if it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._maps: list[memoryview] = []

    def fileno(self) -> int:
        """See ``Device``."""
        return self._descriptor

    def ioctl(self, request: int, buffer: bytearray) -> None:
        """See ``Device``."""
        from fcntl import ioctl

        ioctl(self._descriptor, request, buffer, True)

    def map(self, length: int, offset: int) -> memoryview:
        """See ``Device``."""
        from mmap import MAP_SHARED, PROT_READ, PROT_WRITE, mmap

        memory = memoryview(mmap(self._descriptor, length, MAP_SHARED, PROT_READ | PROT_WRITE, offset=offset))
        self._maps.append(memory)
        return memory

    def close(self) -> None:
        """See ``Device``."""
        for memory in self._maps:
            memory.release()
        self._maps.clear()
        os.close(self._descriptor)


class Layout(NamedTuple):
    """How a frame lies in memory: fourcc, width, height in pixels; stride and size in bytes."""

    fourcc: str
    width: int
    height: int
    stride: int
    size: int
    full_range: bool


class Filled(NamedTuple):
    """Buffer ``number``, which the driver has filled; ``t_ns`` is None if its clock is not the monotonic one."""

    number: int
    used: int
    t_ns: int | None
    sequence: int
    damaged: bool


def fourcc_of(code: int) -> str:
    """A format's four characters; ``-BE`` where the flag for big-endian is set."""
    text = (code & 0x7FFFFFFF).to_bytes(4, "little").decode("ascii", "replace")
    return text + ("-BE" if code & 0x80000000 else "")


def _code_of(fourcc: str) -> int:
    code = int.from_bytes(fourcc[:4].encode("ascii"), "little")
    return code | (0x80000000 if fourcc.endswith("-BE") else 0)


def capabilities(device: Device) -> tuple[bool, bool]:
    """(captures frames of one plane and streams them, captures frames of several planes)."""
    buffer = bytearray(104)
    device.ioctl(QUERYCAP, buffer)
    whole, own = struct.unpack_from("<2I", buffer, 84)
    flags = own if whole & _DEVICE_CAPS else whole
    return flags & (_CAN_CAPTURE | _CAN_STREAM) == _CAN_CAPTURE | _CAN_STREAM, bool(flags & _CAN_CAPTURE_PLANES)


def formats(device: Device) -> list[str]:
    """Four characters of each format that the camera offers."""
    found: list[str] = []
    while True:
        buffer = bytearray(_DESCRIPTION.pack(len(found), _CAPTURE, 0, b"", 0, 0, 0, 0, 0))
        try:
            device.ioctl(ENUM_FMT, buffer)
        except OSError:
            return found
        found.append(fourcc_of(_DESCRIPTION.unpack(buffer)[4]))


def set_format(device: Device, fourcc: str, size: tuple[int, int] | None) -> Layout:
    """Ask for a format and, unless the present one will do, a size; returns what the driver made of it."""
    buffer = bytearray(_FORMAT.pack(_CAPTURE, *12 * [0]))
    device.ioctl(G_FMT, buffer)
    width, height = size or _FORMAT.unpack(buffer)[1:3]
    buffer = bytearray(_FORMAT.pack(_CAPTURE, width, height, _code_of(fourcc), _FIELD_ANY, *8 * [0]))
    device.ioctl(S_FMT, buffer)
    _, width, height, code, _, stride, total, *rest = _FORMAT.unpack(buffer)
    return Layout(fourcc_of(code), width, height, stride, total, full_range=rest[4] == 1)


def set_rate(device: Device, fps: float) -> float | None:
    """Ask for a frame rate; returns what the driver made of it, None if it takes none."""
    denominator = round(fps * 1000)
    buffer = bytearray(_PARAMETERS.pack(_CAPTURE, 0, 0, 1000, denominator, 0))
    try:
        device.ioctl(S_PARM, buffer)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            return None
        raise
    _, capability, _, numerator, denominator, _ = _PARAMETERS.unpack(buffer)
    return denominator / numerator if capability & _TIME_PER_FRAME and numerator else None


def request_buffers(device: Device, count: int) -> list[memoryview]:
    """Buffers of the driver, mapped; it may give fewer or more."""
    request = bytearray(_REQUEST.pack(count, _CAPTURE, _MMAP, 0, 0))
    device.ioctl(REQBUFS, request)
    maps = []
    for index in range(_REQUEST.unpack(request)[0]):
        buffer = _buffer(index)
        device.ioctl(QUERYBUF, buffer)
        fields = _BUFFER.unpack(buffer)
        maps.append(device.map(fields[10], fields[9] & 0xFFFFFFFF))
    return maps


def queue_buffer(device: Device, index: int) -> None:
    """Give a buffer to the driver."""
    device.ioctl(QBUF, _buffer(index))


def take_buffer(device: Device) -> Filled:
    """The next filled buffer; BlockingIOError if there is none yet."""
    buffer = _buffer(0)
    device.ioctl(DQBUF, buffer)
    index, _, used, flags, _, seconds, micro, sequence, *_ = _BUFFER.unpack(buffer)
    t_ns = 1_000_000_000 * seconds + 1000 * micro if flags & _CLOCK == _MONOTONIC else None
    return Filled(index, used, t_ns, sequence, damaged=bool(flags & _ERROR))


def stream(device: Device, *, on: bool) -> None:
    """Start or stop the flow of frames."""
    device.ioctl(STREAMON if on else STREAMOFF, bytearray(struct.pack("<I", _CAPTURE)))


def _buffer(index: int) -> bytearray:
    return bytearray(_BUFFER.pack(index, _CAPTURE, 0, 0, 0, 0, 0, 0, _MMAP, 0, 0, 0, 0, 0))
