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

from glint.errors import InputError, SourceError, SourceLostError
from glint.runtime.sources.base import Source, check_like
from glint.runtime.sources.uri import full_scale_of_bits, one_of, parameters, positive, split_path
from glint.runtime.sources.waiting import Closed, InterruptibleWait
from glint.types import Frame, FrameSize


@dataclass(frozen=True)
class RawLayout:
    """What the bytes mean.

    Attributes:
        size: (width, height).
        dtype: of a pixel, with its byte order.
        fps: frames per second, or None: times are those of arrival.
        full_scale: the sensor's, or None.
    """

    size: tuple[int, int]
    dtype: np.dtype[Any]
    fps: float | None = None
    full_scale: float | None = None

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return self.size[0] * self.size[1] * self.dtype.itemsize


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
        if path is not None and Path(path).is_file():
            self.total = Path(path).stat().st_size // layout.frame_bytes
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
            raise SourceError(f"{self.uri} holds no frame")

    def _check_full_scale(self, data: NDArray[Any]) -> None:
        stated = self.layout.full_scale
        if stated is not None and data.dtype.kind == "u" and data.max() > stated:
            raise SourceError(
                f"{self.uri}: values up to {data.max()} exceed the stated full scale of {stated:.0f}",
                hint="give the bits that the values have (bits=16 if they are aligned to the top), or is endian wrong?",
            )

    def close(self) -> None:
        self._waker.close()

    def _open(self) -> int:
        try:
            if self.path is None:
                if sys.stdin is None:
                    raise SourceError(f"{self.uri}: there is no standard input")
                return sys.stdin.fileno()
            # A named pipe without a writer must not hold us where close() cannot wake us.
            return os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            if isinstance(error, SourceError):
                raise
            reason = getattr(error, "strerror", None) or str(error)
            raise SourceError(f"{self.uri}: {reason}") from error

    def _read(self, descriptor: int, index: int) -> NDArray[Any] | None:
        """The next frame, None at the end."""
        width, height = self.layout.size
        data: NDArray[Any] = np.empty((height, width), self.layout.dtype)
        rest = data.data.cast("B")
        while rest:
            self._waker.wait(descriptor, None)
            try:
                count = os.readv(descriptor, [rest])
            except BlockingIOError:
                continue
            except OSError as error:
                raise SourceLostError(f"{self.uri}: {error.strerror or error}") from error
            if not count:
                break
            rest = rest[count:]
        if len(rest) == data.nbytes:
            return None
        if rest:
            raise SourceLostError(
                f"{self.uri} ended inside frame {index}, after {data.nbytes - len(rest)} of its {data.nbytes} bytes",
                hint="is the size right? the frames before it are good",
            )
        return data.astype(data.dtype.newbyteorder("="), copy=False)


def open_raw(uri: str) -> RawSource:
    """``raw:-?size=640x512&dtype=uint16[&endian=big][&fps=30][&bits=14]``, or ``raw:FILE?...``.

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
    }
    values = parameters(uri, query, known)
    missing = [name for name in ("size", "dtype") if name not in values]
    if missing or not path:
        what = " and ".join(missing) or "a file (or - for standard input)"
        raise InputError(f"{uri}: {what} missing", hint="e.g. raw:-?size=640x512&dtype=uint16")
    dtype = np.dtype(values["dtype"]).newbyteorder(">" if values.get("endian") == "big" else "<")
    full_scale = values.get("bits") or (255.0 if dtype.itemsize == 1 else None)
    layout = RawLayout(values["size"], dtype, values.get("fps"), full_scale)
    return RawSource(uri, None if path == "-" else path, layout)
