"""Stacks of frames in NumPy's files: ``.npy``, and one array of an ``.npz``."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.casting import as_pixels
from glint.errors import InputError, SourceError
from glint.files import MOST_ARRAY_BYTES
from glint.runtime.sources.base import Source
from glint.runtime.sources.images import FrameTimes, full_scale_of, parse_times
from glint.runtime.sources.uri import take
from glint.types import Frame

SUFFIXES = (".npy", ".npz")


class ArraySource(Source):
    """The frames of an array ``[N, H, W]`` or ``[H, W]`` of numbers; an ``.npy`` is read frame by frame.

    Args:
        uri: what the user asked for.
        stack: the array.
        times: of its frames.

    Raises:
        InputError: if it has another shape; on iteration, if its numbers do not survive.
    """

    def __init__(self, uri: str, stack: NDArray[Any], times: FrameTimes) -> None:
        super().__init__(uri)
        if stack.dtype.kind not in "buif":
            raise InputError(f"{self.uri}: expected an array of numbers, got {stack.dtype}")
        self.stack = stack[None] if stack.ndim == 2 else stack
        if self.stack.ndim != 3 or 0 in self.stack.shape or self.stack.shape[-1] in (3, 4):
            raise InputError(
                f"{self.uri}: expected frames [N, H, W] or one [H, W], got {list(stack.shape)}",
                hint="frames have one channel of infrared, and stand behind each other on the first axis",
            )
        self.total, self.times = len(self.stack), times

    def __iter__(self) -> Iterator[Frame]:
        for index in range(len(self.stack)):
            data = as_pixels(f"{self.uri}: frame {index}", self.stack[index])
            t_ns, utc_ns = self.times.of(index)
            yield Frame(index, t_ns, data, full_scale=full_scale_of(data), utc_ns=utc_ns)


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
            return ArraySource(uri, np.lib.format.open_memmap(path, mode="r"), times)
        return ArraySource(uri, _member(uri, path, wanted), times)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError | SourceError):
            raise
        # NumPy's own message may advise to allow pickles, which run code: it is not passed on.
        raise SourceError(
            f"{path} is torn, damaged, or not an array of numbers", hint="write it with numpy.save"
        ) from error


def _member(uri: str, path: Path, wanted: str | None) -> NDArray[Any]:
    """The array of an archive that is asked for, or the only one."""
    with zipfile.ZipFile(path) as archive:
        sizes = {name.removesuffix(".npy"): archive.getinfo(name).file_size for name in archive.namelist()}
        name = next(iter(sizes)) if wanted is None and len(sizes) == 1 else wanted
        if name not in sizes:
            raise InputError(
                f"{path} holds the arrays {', '.join(sizes) or 'none'}: which?" if wanted is None
                else f"{path} holds no array {wanted!r}, but {', '.join(sizes)}",
                hint=f"{path}?array={next(iter(sizes), 'NAME')}",
            )  # fmt: skip
        if sizes[name] > MOST_ARRAY_BYTES:
            raise SourceError(
                f"{path}: {name} takes {sizes[name]} bytes", hint="write it with numpy.save: it is not read whole"
            )
    with np.load(path, allow_pickle=False) as arrays:
        stack: NDArray[Any] = arrays[name]
    return stack
