"""A V4L2 driver in Python: byte layouts written out from <linux/videodev2.h>, not taken from glint."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Sequence

import numpy as np

NAMES = {
    0x80685600: "QUERYCAP", 0xC0405602: "ENUM_FMT", 0xC0D05604: "G_FMT", 0xC0D05605: "S_FMT", 0xC0145608: "REQBUFS",
    0xC0585609: "QUERYBUF", 0xC058560F: "QBUF", 0xC0585611: "DQBUF", 0x40045612: "STREAMON", 0x40045613: "STREAMOFF",
    0xC0CC5616: "S_PARM",
}  # fmt: skip
SIZES = {
    "QUERYCAP": 104, "ENUM_FMT": 64, "G_FMT": 208, "S_FMT": 208, "REQBUFS": 20, "QUERYBUF": 88, "QBUF": 88,
    "DQBUF": 88, "STREAMON": 4, "STREAMOFF": 4, "S_PARM": 204,
}  # fmt: skip


class FakeCamera:
    """Offers formats, one size and one rate; ``show`` fills the next buffer that is queued.

    Args:
        fourccs: formats on offer; the first is what it falls back to.
        size: the only (width, height).
        stride: bytes of a row.
        fps: the only rate, None: it cannot be set.
        flags: device capabilities.
    """

    def __init__(
        self,
        fourccs: Sequence[bytes] = (b"Y16 ",),
        *,
        size: tuple[int, int] = (7, 5),
        stride: int = 14,
        fps: float | None = 30.0,
        flags: int = 0x04000001,
        full_range: bool = False,
    ) -> None:
        self.fourccs, self.size, self.stride, self.fps, self.flags = fourccs, size, stride, fps, flags
        self.full_range = full_range
        self.calls: list[str] = []
        self.buffers = [bytearray(stride * size[1]) for _ in range(3)]
        self.queued: list[int] = []
        self.filled: list[tuple[int, int, int, int, int]] = []  # index, used, flags, nanoseconds, sequence
        self.closed = self.streaming = False
        self.gone = False
        self._read, self._write = os.pipe()

    def fileno(self) -> int:
        return self._read

    def close(self) -> None:
        assert not self.closed
        self.closed = True
        os.close(self._read)
        os.close(self._write)

    def map(self, length: int, offset: int) -> memoryview:
        assert length == len(self.buffers[offset // 4096])
        return memoryview(self.buffers[offset // 4096])

    def unplug(self) -> None:
        """Every further request fails, and a waiting reader is told."""
        self.gone = True
        os.write(self._write, b"x")

    def show(
        self, image: np.ndarray, t_ns: int, sequence: int, *, flags: int = 0x2000, used: int | None = None
    ) -> None:
        """One frame, with this time and number; by default stamped by the monotonic clock."""
        index = self.queued.pop(0)
        rows = np.frombuffer(self.buffers[index], np.uint8).reshape(self.size[1], self.stride)
        rows[:] = 0xEE  # what lies in the padding
        raw = np.ascontiguousarray(image).view(np.uint8).reshape(self.size[1], -1)
        rows[:, : raw.shape[1]] = raw
        self.filled.append((index, len(self.buffers[index]) if used is None else used, flags, t_ns, sequence))
        os.write(self._write, b"x")

    def ioctl(self, request: int, buffer: bytearray) -> None:
        name = NAMES[request]
        assert len(buffer) == SIZES[name]
        self.calls.append(name)
        if self.gone:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        getattr(self, f"_{name.lower()}")(buffer)

    def _querycap(self, buffer: bytearray) -> None:
        struct.pack_into("<II", buffer, 84, self.flags | 0x80000000, self.flags)

    def _enum_fmt(self, buffer: bytearray) -> None:
        index = struct.unpack_from("<I", buffer)[0]
        if index >= len(self.fourccs):
            raise OSError(errno.EINVAL, "")
        buffer[44:48] = self.fourccs[index]

    def _g_fmt(self, buffer: bytearray) -> None:
        struct.pack_into("<II", buffer, 8, *self.size)

    def _s_fmt(self, buffer: bytearray) -> None:
        asked = bytes(buffer[16:20])
        struct.pack_into("<II", buffer, 8, *self.size)
        buffer[16:20] = asked if asked in self.fourccs else self.fourccs[0]
        struct.pack_into("<II", buffer, 24, self.stride, self.stride * self.size[1])
        struct.pack_into("<I", buffer, 48, 1 if self.full_range else 0)

    def _s_parm(self, buffer: bytearray) -> None:
        if self.fps is None:
            raise OSError(errno.ENOTTY, "")
        struct.pack_into("<IIII", buffer, 4, 0x1000, 0, 1000, round(1000 * self.fps))

    def _reqbufs(self, buffer: bytearray) -> None:
        struct.pack_into("<I", buffer, 0, len(self.buffers))

    def _querybuf(self, buffer: bytearray) -> None:
        index = struct.unpack_from("<I", buffer)[0]
        struct.pack_into("<I", buffer, 64, 4096 * index)
        struct.pack_into("<I", buffer, 72, len(self.buffers[index]))

    def _qbuf(self, buffer: bytearray) -> None:
        index, kind = struct.unpack_from("<II", buffer)
        assert kind == 1
        assert struct.unpack_from("<I", buffer, 60)[0] == 1  # memory: mmap
        assert index not in self.queued
        self.queued.append(index)

    def _dqbuf(self, buffer: bytearray) -> None:
        if not self.filled:
            raise BlockingIOError(errno.EAGAIN, "")
        os.read(self._read, 1)
        index, used, flags, t_ns, sequence = self.filled.pop(0)
        struct.pack_into("<IIII", buffer, 0, index, 1, used, flags)
        struct.pack_into("<qq", buffer, 24, t_ns // 1_000_000_000, t_ns % 1_000_000_000 // 1000)
        struct.pack_into("<I", buffer, 56, sequence)

    def _streamon(self, buffer: bytearray) -> None:
        assert struct.unpack("<I", buffer) == (1,)
        assert self.queued
        self.streaming = True

    def _streamoff(self, buffer: bytearray) -> None:
        self.streaming = False
