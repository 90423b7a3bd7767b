"""A file as bytes that are there: nothing is read past its end, nothing but a regular file is opened."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

MOST_PIXELS = 1 << 26  # of one picture, 8192 x 8192


class FormatError(ValueError):
    """What a file says of itself cannot be: it is torn, damaged, or of a kind that is not read."""


class UnknownFormatError(FormatError):
    """A file is of none of the formats that are announced."""


class StoredFile:
    """Bytes of an open file by their place.

    Attributes:
        size: bytes of the whole file when it was opened.
    """

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self.size = stream, size

    def at(self, offset: int, count: int) -> bytes:
        """``count`` bytes from ``offset`` on.

        Raises:
            FormatError: if the file does not have them.
        """
        if not 0 <= offset <= offset + count <= self.size:
            raise FormatError(f"it is cut off: bytes {offset} to {offset + count} of {self.size}")
        self._stream.seek(offset)
        data = self._stream.read(count)
        if len(data) != count:
            raise FormatError("it became shorter while it was read")
        return data

    def whole(self) -> bytes:
        """All of it."""
        return self.at(0, self.size)


@contextmanager
def opened(path: Path) -> Iterator[StoredFile]:
    """Open a regular file; a pipe or a device would never end.

    Raises:
        OSError: what the system says.
        FormatError: if it is something else.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FormatError("it is no regular file")
        yield StoredFile(stream, status.st_size)


def stated_full_scale(maximum: int) -> float | None:
    """The level at which a sensor saturates, if a header's maximum is one of a sensor: all ones, of less than 16 bits.

    Another number may be the highest value that the picture happens to have, and 65535 the container's.
    """
    return float(maximum) if 0 < maximum < (1 << 16) - 1 and maximum & (maximum + 1) == 0 else None


def check_size(width: int, height: int) -> None:
    """Refuse what no picture has.

    Raises:
        FormatError: if there is no pixel, or there are more than :data:`MOST_PIXELS`.
    """
    if width < 1 or height < 1 or width * height > MOST_PIXELS:
        raise FormatError(f"expected 1 to {MOST_PIXELS} pixels, got {width}x{height}")
