"""What the bytes at the end of a film say of whether it is whole, where its container does not tell its length."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import BinaryIO

_TS_PACKET_BYTES, _TS_SYNC = (188, 192, 204), 0x47
_NUT_INDEX = b"NX\xdd\x67\x2f\x23\xe6\x4e"
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_MOST_HEADER_BYTES = 1 << 12
_MOST_BOXES = 100_000
UNPROVEN = "whether frames are missing behind the last one cannot be told"


def end_of(path: Path, container: str) -> tuple[str, str]:
    """What shows that a film is cut off, and what speaks for it; each "" if nothing does.

    Args:
        path: the file.
        container: as libav calls it.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if "mpegts" in container:
            return _ts(file, size), ""
        if "yuv4mpegpipe" in container:
            return _y4m(file, size), ""
        if "matroska" in container:
            return _matroska(file, size), ""
        if container == "nut":
            return "", "" if _has_index(file, size) else f"it has no index at its end: {UNPROVEN}"
        if "mp4" in container:
            number = _movies(file, size)
            return "", "" if number < 2 else f"it holds {number} films one behind the other, and only the first is read"
    return "", ""


def _matroska(file: BinaryIO, size: int) -> str:
    """The segment, behind the head, tells how long it is, unless it was written as a stream."""
    file.seek(0)
    head = file.read(_MOST_HEADER_BYTES)
    place = 0
    for mark in (_EBML, _SEGMENT):
        if head[place : place + 4] != mark or place + 4 >= len(head):
            return ""
        first = head[place + 4]
        width = 9 - first.bit_length()  # bytes of the length: as many zeros as lead in the first one, and one
        length = int.from_bytes(head[place + 4 : place + 4 + width], "big") & ((1 << 7 * width) - 1)
        unknown = length == (1 << 7 * width) - 1
        place += 4 + width + (length if mark == _EBML else 0)
    lacking = place + length - size
    return (
        f"it lacks {lacking} of the bytes that its head promises" if not unknown and width < 9 and lacking > 0 else ""
    )


def _ts(file: BinaryIO, size: int) -> str:
    """Packets have one length, and each begins with the same byte."""
    file.seek(0)
    head = file.read(3 * max(_TS_PACKET_BYTES))
    for length in _TS_PACKET_BYTES:
        first = length - 188 if length == 192 else 0
        if len(head) > first + length and head[first] == head[first + length] == _TS_SYNC:
            return f"it ends after {size % length} bytes of a packet of {length}" if size % length else ""
    return ""


def _y4m(file: BinaryIO, size: int) -> str:
    """Frames have one length, which the header tells for the layouts that are known."""
    file.seek(0)
    head, newline, _ = file.read(_MOST_HEADER_BYTES).partition(b"\n")
    fields = {word[:1]: word[1:] for word in head.split()[1:]}
    layout = re.fullmatch(rb"(mono|420|422|444|411)[a-z]*(?:p?(\d+))?", fields.get(b"C", b"420"))
    if not newline or layout is None or not all(fields.get(k, b"").isdigit() for k in (b"W", b"H")):
        return ""
    width, height = int(fields[b"W"]), int(fields[b"H"])
    across, down = {b"mono": (0, 0), b"420": (2, 2), b"422": (2, 1), b"444": (1, 1), b"411": (4, 1)}[layout[1]]
    samples = width * height + (2 * -(-width // across) * -(-height // down) if across else 0)
    frame = samples * (2 if int(layout[2] or 8) > 8 else 1)
    position = len(head) + 1
    while position < size:
        file.seek(position)
        mark, newline, _ = file.read(256).partition(b"\n")
        if not mark.startswith(b"FRAME") or not newline:
            return "it ends inside a frame" if size - position < 6 else ""
        position += len(mark) + 1 + frame
    return "it ends inside a frame" if position > size else ""


def _has_index(file: BinaryIO, size: int) -> bool:
    """Whether the last thing is the index, whose length stands before its checksum."""
    if size < 20:
        return False
    file.seek(size - 12)
    (length,) = struct.unpack(">Q", file.read(8))
    if not 20 <= length <= size:
        return False
    file.seek(size - length)
    return file.read(8) == _NUT_INDEX


def _movies(file: BinaryIO, size: int) -> int:
    """How many films stand one behind the other: boxes ``moov``."""
    position = number = boxes = 0
    while position + 8 <= size and boxes < _MOST_BOXES:
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        number += kind == b"moov"
        if length < 8:  # to the end, or damaged
            break
        position, boxes = position + length, boxes + 1
    return number
