"""PNG, JPEG and BMP before they are decoded: whole, undamaged as far as they can tell, one picture."""

from __future__ import annotations

import struct
import zlib

from glint.formats.stored import FormatError, UnknownFormatError, check_size

PNG, JPEG, BMP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM"
_MOST_DEFLATE_RATIO = 1032  # bytes that one compressed byte may give
_CHANNELS_BY_COLOUR = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of PNG's kinds of colour
# Of the passes of interlaced pictures: first column and row, and the steps across and down.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_MARKERS_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}  # markers of JPEG without a length
_SEQUENTIAL_MARKERS = {0xC0, 0xC1}  # of these, those in which every block has two bits at least
_MOST_PIXELS_PER_BYTE = 256
_PROBED_BYTES = 16  # bytes at the end of the pixels that a probe changes
_SIZE_MARKERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of JPEG that tell the size


def check_png(data: bytes) -> None:
    """Check that every chunk is there with its checksum, and that all of them are one picture.

    Raises:
        FormatError: if not.
    """
    position, packed, header = len(PNG), bytearray(), b""
    kinds: list[bytes] = []
    while not kinds or kinds[-1] != b"IEND":
        if position + 12 > len(data):
            if not kinds:
                raise UnknownFormatError("it ends behind its signature")
            raise FormatError("it is torn: its end is missing")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise FormatError(f"it is torn inside a chunk of {length} bytes")
        if zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise FormatError(f"it is damaged: the checksum of its chunk {kind.decode('latin-1')!r} is wrong")
        content = data[position + 8 : end - 4]
        if kind == b"IHDR":
            if header:
                raise FormatError("it has two headers")
            header = content
        elif kind == b"IDAT":
            packed += content
        elif kind == b"acTL" and content[:4] != b"\0\0\0\1":
            raise FormatError(f"it is animated: {int.from_bytes(content[:4], 'big')} pictures in one PNG")
        elif kind == b"fdAT":
            raise FormatError("it is animated: several pictures in one PNG")
        kinds.append(kind)
        position = end
    if kinds[0] != b"IHDR" or len(header) != 13:
        raise FormatError("it does not begin with its header")
    if data[position : position + len(PNG)] == PNG:
        raise FormatError("it holds several PNG files one behind the other")
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    check_size(width, height)
    needed = _png_bytes(width, height, bits * _CHANNELS_BY_COLOUR.get(colour, 1), interlaced=bool(interlaced))
    if needed - height > _MOST_DEFLATE_RATIO * len(packed):
        raise FormatError(f"{len(packed)} bytes cannot hold {width}x{height} pixels")
    try:
        stream = zlib.decompressobj()
        number = len(stream.decompress(bytes(packed), needed + 1))
        complete = stream.eof
    except zlib.error as error:
        raise FormatError(f"it is damaged: {error}") from error
    if number < needed or (number == needed and not complete):
        raise FormatError("it is torn: its pixels end too early")
    if number > needed:
        raise FormatError(f"it is damaged: it holds more than {width}x{height} pixels")


def png_full_scale(data: bytes) -> float | None:
    """White of a checked PNG that says how many bits its sensor had (sBIT), DN; None if it says nothing.

    A writer by the book has stretched the values to all bits; the lowest bits may be zeros.
    """
    place, depth, kind = len(PNG), 0, b""
    while kind != b"IDAT":
        length, kind = struct.unpack_from(">I4s", data, place)
        if kind == b"IHDR":
            depth = data[place + 16]
        elif kind == b"sBIT" and length == 1 and 0 < data[place + 8] < depth and depth in (8, 16):
            bits = data[place + 8]
            return float(((1 << bits) - 1) << (depth - bits))
        elif kind == b"IEND":
            break
        place += 12 + length
    return None


def _png_bytes(width: int, height: int, bits: int, *, interlaced: bool) -> int:
    """Bytes of all rows, each with one byte before it, in one pass or in Adam7's seven."""
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // across), -(-(height - y) // down)) for x, y, across, down in passes]
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0 and rows > 0)


def check_jpeg(data: bytes) -> None:
    """Check that the markers lead to the end, and that no further picture follows.

    Raises:
        FormatError: if not.
    """
    _last_scan(data)


def jpeg_probes(data: bytes) -> tuple[bytes, bytes] | None:
    """The file with the end of its pixels spoiled, and with more of them.

    A picture of the size that was written changes with the first, and not with the second. None where that tells
    nothing: of few bytes, and of progressive pictures, whose last bytes may change nothing.

    Raises:
        FormatError: as ``check_jpeg``.
    """
    start, end = _last_scan(data)
    if start > end:
        return None
    first = max(start, end - _PROBED_BYTES)
    if end - first < _PROBED_BYTES // 2:
        return None
    # No byte becomes a marker's, or follows one.
    tail = [
        b if b in (0xFF, 0xAA) or before == 0xFF else b ^ 0x55 for before, b in zip(data[first - 1 :], data[first:end])
    ]
    return data[:first] + bytes(tail) + data[end:], data[:end] + bytes(range(1, 65)) + data[end:]


def _last_scan(data: bytes) -> tuple[int, int]:
    """Where the last stretch of coded pixels begins and ends; of a progressive picture it begins behind its end."""
    position, sized, start, sequential = 2, False, 2, False
    while True:
        position = data.find(b"\xff", position)
        while position >= 0 and data[position + 1 : position + 2] == b"\xff":
            position += 1
        if position < 0 or position + 2 > len(data):
            raise FormatError("it is torn: its end is missing")
        marker = data[position + 1]
        position += 2
        if marker == 0:
            continue
        if marker in _MARKERS_WITHOUT_LENGTH:
            start = position
            continue
        if marker == 0xD9:
            break
        if position + 2 > len(data):
            raise FormatError("it is torn: its end is missing")
        length = int.from_bytes(data[position : position + 2], "big")
        if marker in _SIZE_MARKERS and length >= 8:
            height, width = struct.unpack_from(">HH", data[position : position + 7].ljust(7, b"\0"), 3)
            check_size(width, height)
            if marker in _SEQUENTIAL_MARKERS and width * height > _MOST_PIXELS_PER_BYTE * len(data):
                raise FormatError(f"{len(data)} bytes cannot hold {width}x{height} pixels")
            sized, sequential = True, marker in _SEQUENTIAL_MARKERS
        position += max(length, 2)
        start = position
    if not sized:
        raise FormatError("it holds no picture")
    if data.find(JPEG, position) >= 0:
        raise FormatError("it holds several JPEG pictures one behind the other")
    return start if sequential else position, data.rindex(b"\xff\xd9", 0, position)


def check_bmp(data: bytes) -> None:
    """Check that the file holds all pixels of an uncompressed picture.

    Raises:
        FormatError: if not.
    """
    if len(data) < 26:
        raise UnknownFormatError("it ends inside its header")
    start, size = struct.unpack_from("<II", data, 10)
    if size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    elif size >= 40 and len(data) >= 54:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    else:
        raise FormatError(f"its header of {size} bytes is not known")
    check_size(width, abs(height))
    row = (width * bits + 31) // 32 * 4
    whole = start + abs(height) * row
    if compression in (0, 3) and whole - 3 > len(data):
        raise FormatError(f"it is torn: {len(data)} bytes cannot hold {width}x{abs(height)} pixels")
    if compression == 0 and size <= 40 and len(data) >= whole + max(row, 64):  # later headers may be followed by more
        raise FormatError(f"it is damaged: {len(data)} bytes for {width}x{abs(height)} pixels, which have {whole}")
