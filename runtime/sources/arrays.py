"""Stacks of frames in NumPy's files: ``.npy``, and one array of an ``.npz``."""

from __future__ import annotations

import math
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.casting import as_pixels
from glint.errors import InputError, SourceError, SourceLostError, system_errors_as
from glint.files import npy_header, read_npy
from glint.runtime.sources.base import Source, check_like
from glint.runtime.sources.images import FrameTimes, parse_times
from glint.runtime.sources.uri import take
from glint.types import Frame

_MOST_CHANNELS = 4  # a last axis of so many is one of channels, not of columns

ReadFrame = Callable[[int], NDArray[Any]]


class ArraySource(Source):
    """The frames of an array ``[N, H, W]`` or ``[H, W]`` of numbers.

    A frame whose numbers cannot be used is skipped and counted; only the first one refuses the array.

    Args:
        uri: what the user asked for.
        shape, dtype: of the array.
        read: gives one frame ``[H, W]`` by its number.
        times: of its frames.

    Raises:
        InputError: if it has another shape or holds no numbers; on iteration, if those of the first frame do not
            survive.
        SourceLostError: on iteration, if the file became shorter.
    """

    def __init__(
        self, uri: str, shape: tuple[int, ...], dtype: np.dtype[Any], read: ReadFrame, times: FrameTimes
    ) -> None:
        super().__init__(uri)
        if dtype.kind not in "uif":
            raise InputError(f"{self.uri}: expected an array of numbers, got {dtype}", hint="save pixels, in DN")
        if len(shape) not in (2, 3) or 0 in shape or shape[-1] <= _MOST_CHANNELS:
            raise InputError(
                f"{self.uri}: expected frames [N, H, W] or one [H, W], got {list(shape)}",
                hint="frames have one channel of infrared, and stand behind each other on the first axis",
            )
        self.total = shape[0] if len(shape) == 3 else 1
        self.times, self._read = times, read

    def __iter__(self) -> Iterator[Frame]:
        self.start_over()
        shape: tuple[int, ...] | None = None
        for index in range(self.total or 0):
            try:
                data = as_pixels(f"{self.uri}: frame {index}", self._read(index))
                check_like(data, shape)
            except SourceLostError:
                raise
            except (InputError, SourceError) as error:
                if shape is None:
                    raise SourceError(f"{self.uri}: frame {index}: {_said(error, self.uri)}", hint=error.hint) from None
                self.skip(f"frame {index}", _said(error, self.uri))
                continue
            shape = data.shape
            t_ns, utc_ns = self.times.of(index)
            yield Frame(index, t_ns, data, full_scale=255.0 if data.dtype == np.uint8 else None, utc_ns=utc_ns)


def _said(error: Exception, uri: str) -> str:
    """The reason, without the name and the number of the frame."""
    return str(error).removeprefix(f"{uri}: frame ").lstrip("0123456789").removeprefix(": ")


def open_array(uri: str, path: Path, query: str) -> ArraySource:
    """``FILE.npy`` or ``FILE.npz[?array=NAME]``, with the parameters of :func:`parse_times`.

    Raises:
        SourceError: if it cannot be read.
        InputError: if a parameter is unknown, or it is not clear which array is meant.
    """
    wanted, query = take(query, "array")
    times = parse_times(uri, query)
    try:
        if path.suffix.lower() == ".npy":
            return _of_file(uri, path, times)
        stack = _member(uri, path, wanted)
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile) as error:  # of an archive with a password
        if isinstance(error, InputError | SourceError):
            raise
        raise SourceError(
            f"{path} is torn, damaged, or not an array of numbers", hint="write it with numpy.save"
        ) from error
    return _of_array(uri, stack, times)


def _of_array(uri: str, stack: NDArray[Any], times: FrameTimes) -> ArraySource:
    return ArraySource(uri, stack.shape, stack.dtype, stack.__getitem__ if stack.ndim == 3 else lambda _: stack, times)


def _of_file(uri: str, path: Path, times: FrameTimes) -> ArraySource:
    """An ``.npy`` file, frame by frame: it may be larger than the memory."""
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        header = npy_header(stream, size, str(path))
        if header.fortran:
            stream.seek(0)
            return _of_array(uri, read_npy(stream, size, str(path)), times)
    shape = header.shape[-2:]
    count = math.prod(shape) * header.dtype.itemsize

    def read(index: int) -> NDArray[Any]:
        # Not mapped: pages of a file that became shorter end the process.
        with system_errors_as(SourceLostError, f"{uri}: frame {index}"), path.open("rb") as again:
            again.seek(header.start + index * count)
            content = again.read(count)
        if len(content) != count:
            raise SourceLostError(
                f"{uri} became shorter while it was read: frame {index} is not there",
                hint="let the file be finished before it is read",
            )
        return np.frombuffer(content, header.dtype).reshape(shape).astype(header.dtype.newbyteorder("="))

    return ArraySource(uri, header.shape, header.dtype, read, times)


def _member(uri: str, path: Path, wanted: str | None) -> NDArray[Any]:
    """The array of an archive that is asked for, or the only one; its checksum is held against it."""
    with zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        names = [info.filename.removesuffix(".npy") for info in members]
        name = names[0] if wanted is None and len(set(names)) == 1 else wanted
        if name not in names:
            raise InputError(
                f"{path} holds the arrays {', '.join(names) or 'none'}: which?" if wanted is None
                else f"{path} holds no array {wanted!r}, but {', '.join(names) or 'none'}",
                hint=f"{path}?array={names[0]}" if names else "write it with numpy.savez",
            )  # fmt: skip
        if Counter(names)[name] > 1:
            raise InputError(f"{path} holds {Counter(names)[name]} arrays {name!r}", hint="write it with numpy.savez")
        info = members[names.index(name)]
        with archive.open(info) as stream:
            return read_npy(stream, info.file_size, f"{path}: {name}")
