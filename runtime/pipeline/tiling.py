"""Frames larger than a network takes: overlapping tiles, each trusted in its own part only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from glint.errors import InputError

OVERLAP_PX = 64  # that neighbouring tiles share; the middle of it is the seam
Maps = tuple[NDArray[np.float32], ...]


@dataclass(frozen=True)
class Span:
    """One tile along one axis: pixels ``first`` to ``first + length``, of which ``[start, stop)`` are its own."""

    first: int
    start: int
    stop: int


def spans(length: int, tile: int, overlap: int = OVERLAP_PX) -> list[Span]:
    """Tiles that cover an axis, each of ``tile`` pixels; their own parts cover every pixel once.

    The last one is moved back to end with the axis. An axis that is not longer than a tile has one.

    Raises:
        InputError: if the overlap leaves a tile no room of its own.
    """
    if not 0 <= overlap < tile:
        raise InputError(
            f"tiles of {tile} pixels cannot overlap by {overlap}",
            hint="tiles must be larger than the overlap that the network needs: give a larger --tile",
        )
    firsts = [0]
    while firsts[-1] + tile < length:
        firsts.append(min(firsts[-1] + tile - overlap, length - tile))
    seams = [0, *((a + tile + b) // 2 for a, b in pairwise(firsts)), length]
    return [Span(first, start, stop) for first, start, stop in zip(firsts, seams, seams[1:])]


def in_tiles(image: NDArray[np.float32], size: tuple[int, int], work: Callable[[NDArray[np.float32]], Maps]) -> Maps:
    """Maps of an image, put together from those of its tiles.

    Args:
        image: ``float32 [H, W]``, at least ``size``.
        size: height and width of a tile.
        work: makes maps of a tile, of its size.
    """
    maps: Maps = ()
    for row in spans(image.shape[0], size[0], min(OVERLAP_PX, size[0] // 2)):
        for column in spans(image.shape[1], size[1], min(OVERLAP_PX, size[1] // 2)):
            tile = image[row.first : row.first + size[0], column.first : column.first + size[1]]
            own = np.s_[row.start : row.stop, column.start : column.stop]
            inside = np.s_[
                row.start - row.first : row.stop - row.first, column.start - column.first : column.stop - column.first
            ]
            parts = work(np.ascontiguousarray(tile))
            maps = maps or tuple(np.empty_like(image) for _ in parts)
            for whole, part in zip(maps, parts):
                whole[own] = part[inside]
    return maps
