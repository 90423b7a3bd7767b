"""What an MP4 or MOV file says of its pictures, apart from what these say of themselves."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_BOX_PATH = (b"moov", b"trak", b"mdia", b"minf", b"stbl")  # boxes inside each other, down to the descriptions
_MOST_DESCRIPTION_BYTES = 1 << 16  # bytes of the descriptions that are read
_MOST_BOXES = 10_000


def stated_sizes(path: Path) -> set[tuple[int, int]]:
    """Width and height in the descriptions of all tracks of pictures, pixels; empty if it is no such file.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        return set(_sizes(file, 0, size, _BOX_PATH, [_MOST_BOXES]))


def _sizes(file: BinaryIO, start: int, end: int, way: tuple[bytes, ...], left: list[int]) -> Iterator[tuple[int, int]]:
    while start + 8 <= end and left[0] > 0:
        left[0] -= 1
        file.seek(start)
        length, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if length == 1:  # the length follows, in 64 bits
            length, head = int.from_bytes(file.read(8), "big"), 16
        stop = end if length == 0 else start + length
        if stop > end or stop < start + head:
            return
        if way and kind == way[0]:
            yield from _sizes(file, start + head, stop, way[1:], left)
        elif not way and kind == b"stsd":
            file.seek(start + head)
            content = file.read(min(stop - start - head, _MOST_DESCRIPTION_BYTES))
            if len(content) >= 44:  # version, number, then the first description: its head, 24 bytes, the size
                width, height = struct.unpack_from(">HH", content, 40)
                if width and height:  # of sound one of them is 0
                    yield width, height
        start = stop
