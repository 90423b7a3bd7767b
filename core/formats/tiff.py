"""The pages of a TIFF: every one is found and held against the bytes of the file before a decoder sees it.

A decoder gets each page as a TIFF of its own that holds nothing else: no further page, no orientation (pixels
come as they are stored, as those of all formats), and black as zero (white as zero is undone by the reader, in
8 and 16 bits alike). So whatever else a file says can change nothing.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from glint.formats.stored import FormatError, StoredFile, check_size, stated_full_scale

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_PAGES = 1_000_000
_MOST_TAG_VALUES = 1 << 20  # of one tag
_TYPES = {1: "B", 2: "s", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _DESCRIPTION, _STRIPS = 256, 257, 258, 259, 262, 270, 273
_SAMPLES, _ROWS, _STRIP_BYTES, _SUBFILE, _TILES, _TILE_BYTES, _JPEG_TABLES = 277, 278, 279, 254, 324, 325, 347
_PLANAR, _TILE_WIDTH, _TILE_HEIGHT = 284, 322, 323
_DEPTH, _EXTRA, _SAMPLE_FORMAT, _SIGNED, _MOST_SAMPLE = 32997, 338, 339, 2, 341
# What decides how the bytes of a page become pixels; nothing else is handed on.
_KEPT_TAGS = (
    _WIDTH, _HEIGHT, _BITS, _COMPRESSION, 266, _SAMPLES, _ROWS, _PLANAR, 292, 317, 320, _TILE_WIDTH, _TILE_HEIGHT,
    _EXTRA, _SAMPLE_FORMAT, _JPEG_TABLES, 530, 532,
)  # fmt: skip
_PLAIN, _DEFLATE = 1, (8, 32946)
_MOST_COMPRESSION_RATIO = 5000  # that any of its compressions reaches


@dataclass(frozen=True)
class Page:
    """One page, ready for a decoder.

    Attributes:
        content: a TIFF that holds it alone, with black as zero.
        white_at: the value that stood for black where white is zero, or None.
        full_scale: the level of the sensor's full scale, if bits or tags tell, or None.
    """

    content: bytes
    white_at: int | None
    full_scale: float | None = None


class _Layout:
    """How numbers stand in a file: byte order, and whether offsets have 8 bytes."""

    def __init__(self, magic: bytes) -> None:
        self.order = "<" if magic[:1] == b"I" else ">"
        self.big = b"+" in magic

    def unpack(self, form: str, data: bytes) -> tuple[Any, ...]:
        return struct.unpack(self.order + form, data)


Tags = dict[int, tuple[int, list[int] | bytes]]  # by number: type and values


def read_pages(file: StoredFile) -> Iterator[Page | FormatError]:
    """The pages in their order; in place of one that is torn, damaged or no picture of its own, what is wrong with it.

    Raises:
        FormatError: if the file is damaged so that its pages cannot be told.
    """
    layout = _Layout(file.at(0, 4))
    directories = list(_directories(file, layout))
    for number, tags in enumerate(directories, start=1):
        try:
            if _one(tags, _SUBFILE, 0) & 5:
                raise FormatError("it is a smaller copy or a mask of another one")
            yield _page(file, layout, tags)
        except FormatError as error:
            yield FormatError(f"page {number} of {len(directories)}: {error}")


def count_pages(file: StoredFile) -> int:
    """How many pages there are.

    Raises:
        FormatError: if that cannot be told.
    """
    return sum(1 for _ in _directories(file, _Layout(file.at(0, 4))))


def _directories(file: StoredFile, layout: _Layout) -> Iterator[Tags]:
    offset = layout.unpack("Q", file.at(8, 8))[0] if layout.big else layout.unpack("I", file.at(4, 4))[0]
    seen: set[int] = set()
    while offset:
        if offset in seen or len(seen) >= _MOST_PAGES:
            raise FormatError("it is damaged: its pages go round in a circle")
        seen.add(offset)
        tags, offset = _directory(file, layout, offset)
        yield from _stack(tags) if len(seen) == 1 and not offset else [tags]
    if not seen:
        raise FormatError("it holds no page")


def _directory(file: StoredFile, layout: _Layout, offset: int) -> tuple[Tags, int]:
    head, entry, link = (8, 20, "Q") if layout.big else (2, 12, "I")
    (count,) = layout.unpack("Q" if layout.big else "H", file.at(offset, head))
    if not 0 < count < 4096:
        raise FormatError(f"it is damaged: a page of {count} tags")
    table = file.at(offset + head, count * entry + struct.calcsize(link))
    tags = {}
    for place in range(0, count * entry, entry):
        tag, kind, number = layout.unpack(f"HH{link}", table[place : place + entry - struct.calcsize(link)])
        if kind in _TYPES and tag in {*_KEPT_TAGS, *_READ_TAGS, *_DATA_TAGS}:
            tags[tag] = (kind, _values(file, layout, kind, number, table[place + entry - struct.calcsize(link) :]))
    (following,) = layout.unpack(link, table[count * entry :])
    return tags, following


_READ_TAGS = (_PHOTOMETRIC, _DESCRIPTION, _SUBFILE, _DEPTH, _MOST_SAMPLE)
_DATA_TAGS = (_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES)


def _values(file: StoredFile, layout: _Layout, kind: int, number: int, inside: bytes) -> list[int] | bytes:
    form, link = _TYPES[kind], "Q" if layout.big else "I"
    size = number * struct.calcsize(form)
    if number > _MOST_TAG_VALUES:
        raise FormatError(f"it is damaged: a tag of {number} values")
    if size > struct.calcsize(link):
        inside = file.at(layout.unpack(link, inside[: struct.calcsize(link)])[0], size)
    if kind in (2, 7):
        return inside[:size]
    return list(layout.unpack(f"{number}{form}", inside[:size]))


def _one(tags: Tags, tag: int, default: int) -> int:
    _, values = tags.get(tag, (0, [default]))
    if isinstance(values, bytes) or not values:
        raise FormatError(f"it is damaged: tag {tag} has no number")
    return int(values[0])


def _all(tags: Tags, tag: int) -> list[int]:
    _, values = tags.get(tag, (0, []))
    return [] if isinstance(values, bytes) else list(values)


def _bytes_of(tags: Tags) -> tuple[int, int, int, int]:
    """Width, height, samples and the bytes of the pixels, not compressed."""
    width, height, samples = _one(tags, _WIDTH, 0), _one(tags, _HEIGHT, 0), _one(tags, _SAMPLES, 1)
    check_size(width, height)
    bits = _all(tags, _BITS) or [1]
    if not (0 < samples <= 5 and all(0 < b <= 64 for b in bits)):
        raise FormatError(f"it is damaged: {samples} samples of {bits[:5]} bits")
    per_pixel = bits[0] * samples if len(bits) < samples else sum(bits[:samples])
    return width, height, samples, height * ((width * per_pixel + 7) // 8)


def _stack(tags: Tags) -> Iterator[Tags]:
    """ImageJ describes large stacks by one page: the others follow its pixels."""
    _, text = tags.get(_DESCRIPTION, (2, b""))
    match = re.search(rb"^images=(\d{1,7})\s*$", text, re.MULTILINE) if isinstance(text, bytes) else None
    number = int(match[1]) if match is not None and isinstance(text, bytes) and text.startswith(b"ImageJ=") else 1
    yield tags
    if number > 1:
        *_, size = _bytes_of(tags)
        if _one(tags, _COMPRESSION, _PLAIN) != _PLAIN or not _all(tags, _STRIPS):
            raise FormatError(f"it says that it holds {number} pictures, and has one page")
        start = _one(tags, _STRIPS, 0)
        for index in range(1, number):
            strips = {_STRIPS: (16, [start + index * size]), _STRIP_BYTES: (16, [size])}
            yield {**tags, **strips, _ROWS: (4, [_one(tags, _HEIGHT, 0)])}


def _page(file: StoredFile, layout: _Layout, tags: Tags) -> Page:
    width, height, _, size = _bytes_of(tags)
    tiled = bool(_all(tags, _TILES))
    offsets, counts = (_all(tags, t) for t in ((_TILES, _TILE_BYTES) if tiled else (_STRIPS, _STRIP_BYTES)))
    compression = _one(tags, _COMPRESSION, _PLAIN)
    if len(offsets) == 1 and not counts and compression == _PLAIN:
        counts = [size]
    pieces = _pieces(tags, width, height, tiled)
    if not offsets or len(offsets) != len(counts) or len(offsets) < pieces:
        raise FormatError(f"it is damaged: {len(offsets)} pieces of pixels and {len(counts)} lengths; needs {pieces}")
    data = [file.at(offset, count) for offset, count in zip(offsets, counts)]
    there = sum(counts)
    if (compression == _PLAIN and there < size) or size > _MOST_COMPRESSION_RATIO * there:
        raise FormatError(f"it is torn: {there} bytes cannot hold {width}x{height} pixels")
    if compression == _PLAIN and not tiled and there >= size + 4 * len(counts) + width:
        raise FormatError(f"it is damaged: {there} bytes for {width}x{height} pixels, which have {size}")
    if compression in _DEFLATE:
        for piece in data:
            _check_deflate(piece, size)
    photometric = _one(tags, _PHOTOMETRIC, 1)
    white_is_zero = photometric == 0
    bits, formats = _one(tags, _BITS, 1), _all(tags, _SAMPLE_FORMAT)
    if _one(tags, _DEPTH, 1) > 1:
        raise FormatError(f"it holds {_one(tags, _DEPTH, 1)} layers in one page; expected one")
    if bits < 16 and _SIGNED in formats:
        raise FormatError(f"its values are signed, of {bits} bits; expected values from 0")
    if 0 in _all(tags, _EXTRA):
        raise FormatError("it holds another picture beside its own (a sample without a meaning)")
    if white_is_zero and (bits > 16 or formats not in ([], [1])):
        raise FormatError(f"white is zero in {bits} bits that are no whole numbers from 0: black cannot be told")
    kept = {tag: tags[tag] for tag in _KEPT_TAGS if tag in tags}
    kept[_PHOTOMETRIC] = (3, [1 if white_is_zero else photometric])
    content = _written(layout.order, kept, data, (_TILES, _TILE_BYTES) if tiled else (_STRIPS, _STRIP_BYTES))
    return Page(content, (1 << bits) - 1 if white_is_zero else None, _full_scale(tags, bits, white_is_zero))


def _full_scale(tags: Tags, bits: int, white_is_zero: bool) -> float | None:
    """Of 9 to 15 bits that the pixels have, or of a tag that states the highest sample (not where white is zero)."""
    if 8 < bits < 16:
        return float((1 << bits) - 1)
    kind, values = tags.get(_MOST_SAMPLE, (0, []))
    stated = not white_is_zero and kind in (3, 4) and len(values) > 0
    return stated_full_scale(int(values[0])) if stated else None


def _pieces(tags: Tags, width: int, height: int, tiled: bool) -> int:
    """How many strips or tiles the pixels need."""
    planes = _one(tags, _SAMPLES, 1) if _one(tags, _PLANAR, 1) == 2 else 1
    if tiled:
        across, down = _one(tags, _TILE_WIDTH, 0), _one(tags, _TILE_HEIGHT, 0)
        if across < 1 or down < 1:
            raise FormatError("it is damaged: tiles without a size")
        check_size(across, down)
        return planes * -(-width // across) * -(-height // down)
    rows = _one(tags, _ROWS, height)
    if rows < 1:
        raise FormatError("it is damaged: strips without rows")
    return planes * -(-height // rows)


def _check_deflate(piece: bytes, size: int) -> None:
    try:
        stream = zlib.decompressobj()
        stream.decompress(piece, 4 * size + (1 << 22))  # a tile may be larger than the page
        complete = stream.eof
    except zlib.error as error:
        raise FormatError(f"it is damaged: {error}") from error
    if not complete:
        raise FormatError("it is torn: its pixels end too early")


def _written(order: str, tags: Tags, data: list[bytes], places: tuple[int, int]) -> bytes:
    """A TIFF of one page."""
    offsets, position = [], 8
    for piece in data:
        offsets.append(position)
        position += len(piece) + len(piece) % 2
    whole = {**tags, places[0]: (4, offsets), places[1]: (4, [len(piece) for piece in data])}
    body = b"".join(piece + bytes(len(piece) % 2) for piece in data)
    table, further = b"", b""
    behind = 8 + len(body) + 2 + 12 * len(whole) + 4
    for tag, (kind, values) in sorted(whole.items()):
        kind, form = {16: (4, "I"), 18: (4, "I"), 13: (4, "I"), 17: (9, "i")}.get(kind, (kind, _TYPES[kind]))
        try:
            raw = values if isinstance(values, bytes) else struct.pack(f"{order}{len(values)}{form}", *values)
        except struct.error as error:
            raise FormatError(f"it is damaged: tag {tag}") from error
        number = len(values)
        if len(raw) > 4:
            table += struct.pack(f"{order}HHII", tag, kind, number, behind + len(further))
            further += raw + bytes(len(raw) % 2)
        else:
            table += struct.pack(f"{order}HHI", tag, kind, number) + raw.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(body))
    return head + body + struct.pack(f"{order}H", len(whole)) + table + bytes(4) + further
