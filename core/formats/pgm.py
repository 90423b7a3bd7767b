"""Portable greymaps, with 8 or 16 bits, in bytes or in words; a file may hold several, one behind the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.formats.stored import FormatError, StoredFile, check_size

MAGIC = (b"P5", b"P2")
_FIELD = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])+(\d{1,9})")
_MOST_HEADER_BYTES = 65536  # bytes, comments included
_MOST_BYTES_PER_VALUE = 8  # bytes of a value in words and what parts it from the next, on average


def read_pgm(file: StoredFile) -> Iterator[tuple[NDArray[Any], int]]:
    """The pictures ``uint8`` or ``uint16`` ``[H, W]``, values as stored, and the maximum that each one's header states.

    Raises:
        FormatError: if it is torn, or a value exceeds the maximum.
    """
    offset = 0
    while True:
        head = file.at(offset, min(_MOST_HEADER_BYTES, file.size - offset))
        (width, height, maximum), start = _header(head)
        check_size(width, height)
        if not 0 < maximum < 65536:
            raise FormatError(f"its maximum is {maximum}; expected 1 to 65535")
        dtype: np.dtype[Any] = np.dtype(np.uint8 if maximum < 256 else ">u2")
        if head[:2] == b"P5":
            count = width * height * dtype.itemsize
            # One byte parts the header from the pixels; Windows makes two of it, and then nothing follows.
            gap = 2 if head[start : start + 2] == b"\r\n" and file.size == offset + start + 2 + count else 1
            data = np.frombuffer(file.at(offset + start + gap, count), dtype)
            offset += start + gap + count
        else:
            data, offset = _in_words(file.at(offset + start, file.size - offset - start), width * height), file.size
        if int(data.max()) > maximum:
            raise FormatError(f"it is damaged: a value of {data.max()} above its maximum of {maximum}")
        last = not file.at(offset, min(64, file.size - offset)).strip()
        if not last and file.at(offset, min(2, file.size - offset)) not in MAGIC:
            raise FormatError("it is damaged: there is something else behind its pixels")
        yield data.reshape(height, width).astype(dtype.newbyteorder("=")), maximum
        if last:
            return


def _header(head: bytes) -> tuple[tuple[int, int, int], int]:
    values, position = [], 2
    for _ in range(3):
        match = _FIELD.match(head, position)
        if match is None:
            raise FormatError("its header is damaged")
        values.append(int(match[1]))
        position = match.end()
    if not head[position : position + 1].isspace():
        raise FormatError("its header is damaged")
    return (values[0], values[1], values[2]), position


def _in_words(text: bytes, count: int) -> NDArray[np.int64]:
    if len(text) > 64 + _MOST_BYTES_PER_VALUE * 4 * count:
        raise FormatError("it is damaged: too long for its pixels")
    words = re.sub(rb"#[^\r\n]*", b"", text).split()
    if len(words) != count or not all(word.isdigit() and len(word) < 10 for word in words):
        raise FormatError(f"expected {count} numbers, got {len(words)} words")
    return np.array([int(word) for word in words])
