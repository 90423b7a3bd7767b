"""Raw frames one after the other: ``raw:-?size=640x512&dtype=uint16`` from standard input, or a file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.cli import talk
from glint.errors import InputError, SourceError, SourceLostError, system_errors_as
from glint.processing.layout import looks_exchanged, row_length_of
from glint.runtime.sources.base import Source, check_like
from glint.runtime.sources.uri import full_scale_of_bits, one_of, parameters, positive, split_path
from glint.runtime.sources.waiting import Closed, InterruptibleWait
from glint.types import Frame, FrameSize

_MOST_FRAME_BYTES = 1 << 31  # of a frame
_FEW_VALUES, _MANY_VALUES = 16, 128  # of the high and the low bytes of values of 16 bits


@dataclass(frozen=True)
class RawLayout:
    """What the bytes mean.

    Attributes:
        size: (width, height).
        dtype: of a pixel, with its byte order.
        fps: frames per second, or None: times are those of arrival.
        full_scale: the sensor's, or None.
        header: bytes before the first frame.
        frame_header: bytes before each frame.
        stride: bytes from one row to the next; 0: those of its pixels.

    Raises:
        InputError: if rows are longer than their stride, or frames longer than any are.
    """

    size: tuple[int, int]
    dtype: np.dtype[Any]
    fps: float | None = None
    full_scale: float | None = None
    header: int = 0
    frame_header: int = 0
    stride: int = 0

    def __post_init__(self) -> None:
        if self.stride and self.stride < self.row_bytes:
            raise InputError(
                f"stride={self.stride}: a row of {self.size[0]} pixels has {self.row_bytes} bytes",
                hint="stride counts bytes from one row to the next, the pixels of a row included",
            )
        if self.frame_bytes > _MOST_FRAME_BYTES:
            raise InputError(
                f"frames of {self.frame_bytes} bytes; expected at most {_MOST_FRAME_BYTES}",
                hint="are size, dtype and stride right?",
            )

    @property
    def row_bytes(self) -> int:
        """Bytes of the pixels of a row."""
        return self.size[0] * self.dtype.itemsize

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame, with what stands before it."""
        return self.frame_header + self.size[1] * (self.stride or self.row_bytes)

    def pixels(self, block: NDArray[np.uint8]) -> NDArray[Any]:
        """The picture ``[H, W]`` of the bytes of a frame."""
        rows = block[self.frame_header :].reshape(self.size[1], -1)[:, : self.row_bytes]
        data: NDArray[Any] = np.ascontiguousarray(rows).view(self.dtype)
        return data.astype(self.dtype.newbyteorder("="), copy=False)


class RawSource(Source):
    """Frames without any header.

    Args:
        uri: what the user asked for.
        path: file or named pipe; None: standard input.
        layout: what the bytes mean.

    Raises:
        SourceError: on iteration, if it cannot be opened or holds no byte.
        SourceLostError: on iteration, if it ends inside a frame.
    """

    def __init__(self, uri: str, path: str | None, layout: RawLayout) -> None:
        super().__init__(uri)
        self.path, self.layout = path, layout
        self.size = FrameSize(*layout.size)
        if path is not None and Path(path).is_file():
            self.total = max(0, Path(path).stat().st_size - layout.header) // layout.frame_bytes
        self._waker = InterruptibleWait()

    def __iter__(self) -> Iterator[Frame]:
        descriptor = self._open()
        index, good = 0, False
        self.start_over()
        try:
            while (data := self._read(descriptor, index)) is not None:
                try:
                    check_like(data, None)
                except SourceError as error:
                    if not good:
                        raise SourceError(f"{self.uri}: frame {index}: {error}", hint=error.hint) from None
                    self.skip(f"frame {index}", str(error))
                    index += 1
                    continue
                if not good:
                    self._check_full_scale(data)
                    self._doubt(data)
                good = True
                t_ns = time.monotonic_ns() if self.layout.fps is None else round(1e9 * index / self.layout.fps)
                yield Frame(index, t_ns, data, full_scale=self.layout.full_scale)
                index += 1
        except Closed:
            return
        finally:
            if self.path is not None:
                os.close(descriptor)
        if not index:
            raise SourceError(
                f"{self.uri} holds no frame",
                hint="does its program write frames to standard output? is the file empty?",
            )

    def _check_full_scale(self, data: NDArray[Any]) -> None:
        stated = self.layout.full_scale
        if stated is not None and not self.top_aligned and data.dtype.kind == "u" and data.max() > stated:
            raise SourceError(
                f"{self.uri}: values up to {data.max()} exceed the stated full scale of {stated:.0f}",
                hint="give the bits that the values have, align=msb if they stand at the top; is endian right?",
            )

    def _doubt(self, data: NDArray[Any]) -> None:
        """Say what the first frame tells against the layout that was stated."""
        length = row_length_of(data)
        if length is not None:
            talk(
                f"warning: {self.uri}: rows look {length} pixels long, and {data.shape[1]} are stated: "
                "are size, stride, header and dtype right?"
            )
        elif looks_exchanged(data):
            talk(
                f"warning: {self.uri}: width and height look exchanged: pixels {data.shape[0]} apart are more alike "
                f"than those {data.shape[1]} apart: size={data.shape[0]}x{data.shape[1]}?"
            )
        elif data.dtype == np.uint8 and data.shape[1] > 1:
            few, many = sorted(len(np.unique(data[:, first::2])) for first in (0, 1))
            if few <= _FEW_VALUES and many >= _MANY_VALUES:
                talk(f"warning: {self.uri}: every second byte is nearly constant: are these values of 16 bits (dtype)?")

    def close(self) -> None:
        self._waker.close()

    def _open(self) -> int:
        with system_errors_as(SourceError, self.uri, hint="is the name right? raw:- reads standard input"):
            if self.path is None:
                if sys.stdin is None:
                    raise SourceError(
                        f"{self.uri}: there is no standard input", hint="name a file or a pipe instead of -"
                    )
                return sys.stdin.fileno()
            # A named pipe without a writer must not hold us where close() cannot wake us.
            return os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def _read(self, descriptor: int, index: int) -> NDArray[Any] | None:
        """The next frame, None at the end."""
        layout = self.layout
        if not index and layout.header and self._fill(descriptor, layout.header) is None:
            raise SourceError(
                f"{self.uri} is shorter than its header of {layout.header} bytes", hint="is header=BYTES right?"
            )
        block = self._fill(descriptor, layout.frame_bytes)
        if block is None:
            return None
        if len(block) < layout.frame_bytes:
            raise SourceLostError(
                f"{self.uri} ended inside frame {index}, after {len(block)} of its {layout.frame_bytes} bytes",
                hint="are size, header and stride right? the frames before it are good",
            )
        return layout.pixels(block)

    def _fill(self, descriptor: int, count: int) -> NDArray[np.uint8] | None:
        """So many bytes, or fewer at the end, or None if there are none."""
        block: NDArray[np.uint8] = np.empty(count, np.uint8)
        rest = block.data
        while rest:
            self._waker.wait(descriptor, None)
            try:
                number = os.readv(descriptor, [rest])
            except BlockingIOError:
                continue
            except OSError as error:
                raise SourceLostError(f"{self.uri}: {error.strerror or error}") from error
            if not number:
                break
            rest = rest[number:]
        return None if len(rest) == count else block[: count - len(rest)]


def _bytes(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError("expected a number of bytes")
    return int(text)


def open_raw(uri: str) -> RawSource:
    """``raw:-?size=640x512&dtype=uint16[&endian=big][&fps=30][&bits=14]``, or ``raw:FILE?...``.

    Also ``header=BYTES`` before the first frame, ``frame_header=BYTES`` before each, ``stride=BYTES`` of a row.

    Raises:
        InputError: if the size is missing, or a parameter is unknown or malformed.
    """
    path, query = split_path(uri.removeprefix("raw:"))
    known = {
        "size": FrameSize.parse,
        "dtype": one_of("uint8", "uint16", "float32"),
        "endian": one_of("little", "big"),
        "fps": positive,
        "bits": full_scale_of_bits,
        "header": _bytes,
        "frame_header": _bytes,
        "stride": _bytes,
    }
    values = parameters(uri, query, known)
    missing = [name for name in ("size", "dtype") if name not in values]
    if missing or not path:
        what = " and ".join(missing) or "a file (or - for standard input)"
        raise InputError(f"{uri}: {what} missing", hint="e.g. raw:-?size=640x512&dtype=uint16")
    dtype = np.dtype(values["dtype"]).newbyteorder(">" if values.get("endian") == "big" else "<")
    full_scale = values.get("bits") or (255.0 if dtype.itemsize == 1 else None)
    places = {name: values[name] for name in ("header", "frame_header", "stride") if name in values}
    layout = RawLayout(values["size"], dtype, values.get("fps"), full_scale, **places)
    return RawSource(uri, None if path == "-" else path, layout)
