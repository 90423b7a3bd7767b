"""Arrays, frames and image files that a program hands over one by one, as a source."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.casting import as_pixels
from glint.errors import InputError
from glint.images import read_picture
from glint.runtime.sources.base import Source
from glint.types import Frame

Item = NDArray[Any] | Frame | str | Path
_MOST_CHANNELS = 4  # a last axis of so many is one of channels, not of columns


class ItemSource(Source):
    """What an iterable holds: arrays ``[H, W]``, frames, and paths of images; each is read when it is due.

    Args:
        items: a list, or any other iterable; an array ``[N, H, W]`` is one, too.
        uri: what manifests and messages call it.

    Raises:
        GlintError: on iteration, for an item that is none of these or cannot be read: all were asked for by name.
    """

    def __init__(self, items: Iterable[Item], uri: str) -> None:
        super().__init__(uri)
        self.total = len(items) if isinstance(items, Sized) else None
        self._items = items

    def __iter__(self) -> Iterator[Frame]:
        return (frame_of(item, index) for index, item in enumerate(self._items))


def frame_of(item: Item, index: int = 0) -> Frame:
    """An item as a frame that was captured now; one that is a frame stays what it is.

    Args:
        item: array ``[H, W]`` of integers or floats (see ``casting.as_pixels``), which is copied; path; frame.
        index: number of the frame.

    Raises:
        InputError: if it is something else, or its numbers do not survive.
        SourceError: if the file cannot be read.
    """
    if isinstance(item, Frame):
        return item
    if isinstance(item, str | Path):
        picture = read_picture(Path(item))
        return Frame(index, time.monotonic_ns(), picture.data, name=Path(item).stem, full_scale=picture.full_scale)
    data = as_pixels(f"frame {index}", item)
    if data.ndim == 3 and data.shape[-1] <= _MOST_CHANNELS:
        raise InputError(f"frame {index}: expected [H, W], got channels: {data.shape}", hint="take one of them")
    return Frame(index, time.monotonic_ns(), data, full_scale=255.0 if data.dtype == np.uint8 else None)


def items_of(source: Any) -> ItemSource:
    """A source of an array ``[N, H, W]`` or ``[H, W]``, of one frame, or of an iterable of items.

    Raises:
        InputError: if it is neither, or the array has another shape.
    """
    if isinstance(source, Frame):
        return ItemSource([source], "a frame")
    if isinstance(source, np.ndarray):
        shape = "x".join(map(str, source.shape))
        if source.ndim == 2:
            return ItemSource([source], f"an array of {shape}")
        if source.ndim != 3 or source.shape[-1] <= _MOST_CHANNELS:
            got = f"{source.dtype} {list(source.shape)}"
            hint = "frames have one channel of infrared" if source.ndim > 2 else None
            raise InputError(f"source: expected an array [N, H, W] or [H, W], got {got}", hint=hint)
        return ItemSource(source, f"an array of {shape}")
    if isinstance(source, Iterable):
        count = f"{len(source)} items" if isinstance(source, Sized) else "items"
        return ItemSource(source, f"{count} of a {type(source).__name__}")
    raise InputError(
        f"source: expected a URI, a path, an array [N, H, W] or a list of arrays or paths, got {type(source).__name__}",
        hint='glint.stream("night/"), glint.stream(array)',
    )
