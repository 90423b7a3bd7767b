"""Does a split hold what another was trained on? Shared names are refused, near-duplicates listed.

Two frames are near-duplicates if their thumbnails look the same: the frame is averaged to 32 x 32
cells and differenced along rows and columns (the smooth sky that all frames share must not count),
and the normalised correlation of the differences is at least 0.8 for some shift of up to 3 cells
(frames of one scene are often cropped differently). On SIRST that lists neighbouring frames of
one sequence and crops of one picture. It is a hint to look, not a verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glint.data.datasets import AUTOMATIC, list_name, own_folder, read_split, split_file, split_images
from glint.errors import InputError

CELLS_PER_SIDE = 32
MOST_SHIFT_CELLS = 3
ALIKE_CORRELATION = 0.8
_MOST_NAMED = 5

Named = tuple[str, NDArray[Any]]


@dataclass(frozen=True)
class NearDuplicate:
    """A pair of frames that look the same; ``correlation`` is in [-1, 1]."""

    first: str
    second: str
    correlation: float


def training_list(root: Path, split: str) -> str | None:
    """What a split was most likely held out from: the training list that stands beside its own, or None.

    For a list ``test...`` that is ``trainval...`` or ``train...``, for any other ``train...``; a training
    list itself was held out from nothing.
    """
    if list_name(root, split) == AUTOMATIC:
        return "train" if split == "val" else None
    if own_folder(root, split) is not None:
        others = ("trainval", "train") if split == "test" else ("train",)
        return next((name for name in others if name != split and own_folder(root, name) is not None), None)
    own = split_file(root, split)
    kind, underscore, rest = own.stem.partition("_")
    for training in {"test": ("trainval", "train"), "train": (), "trainval": ()}.get(kind, ("train",)):
        beside = own.with_name(f"{training}{underscore}{rest}.txt")
        plain = own.with_name(f"{training}.txt")
        for path in (beside, plain):
            if path.is_file():
                return path.relative_to(root).with_suffix("").as_posix()
    return None


def refuse_shared_names(root: Path, first: str, second: str) -> None:
    """Stop if two splits name the same image.

    Raises:
        InputError: if they do; it names some of them.
        SourceError: if a list is missing.
    """
    if own_folder(root, first) is not None or own_folder(root, second) is not None:
        return  # names of different folders mean different images
    there = set(read_split(root, first))
    shared = [name for name in read_split(root, second) if name in there]
    if shared:
        some = ", ".join([*shared[:_MOST_NAMED], *(["..."] if len(shared) > _MOST_NAMED else [])])
        raise InputError(
            f"{root}: the splits {first} and {second} share {len(shared)} images: {some}",
            hint="what was trained on cannot be used to measure: take them out of one of the lists",
        )


def near_duplicates(
    first: Iterable[Named], second: Iterable[Named], *, alike: float = ALIKE_CORRELATION
) -> list[NearDuplicate]:
    """Pairs of a frame of the one and a frame of the other that look the same, most alike first.

    Args:
        first, second: names and frames ``[H, W]``.
        alike: least correlation.
    """
    names1, edges1 = _thumbnails(first)
    names2, edges2 = _thumbnails(second)
    if not (names1 and names2):
        return []
    size = edges1.shape[-1] - 2 * MOST_SHIFT_CELLS
    middle = _unit(edges2[:, :, MOST_SHIFT_CELLS : MOST_SHIFT_CELLS + size, MOST_SHIFT_CELLS : MOST_SHIFT_CELLS + size])
    best = np.full((len(names1), len(names2)), -1.0)
    for row in range(2 * MOST_SHIFT_CELLS + 1):
        for column in range(2 * MOST_SHIFT_CELLS + 1):
            shifted = _unit(edges1[:, :, row : row + size, column : column + size])
            np.maximum(best, shifted @ middle.T, out=best)
    pairs = [NearDuplicate(names1[i], names2[j], round(float(best[i, j]), 3)) for i, j in np.argwhere(best >= alike)]
    return sorted(pairs, key=lambda pair: -pair.correlation)


def split_duplicates(root: Path, first: str, second: str) -> list[NearDuplicate]:
    """Near-duplicates between two splits that share no name.

    Raises:
        InputError: if they share a name.
        SourceError: if a list or an image is missing or unreadable.
    """
    refuse_shared_names(root, first, second)
    return near_duplicates(split_images(root, first), split_images(root, second))


def _thumbnails(frames: Iterable[Named]) -> tuple[Sequence[str], NDArray[np.float64]]:
    """Names and differences along rows and columns ``[N, 2, CELLS_PER_SIDE - 1, CELLS_PER_SIDE - 1]``."""
    names, edges = [], []
    for name, frame in frames:
        small = Image.fromarray(frame.astype(np.float32)).resize((CELLS_PER_SIDE, CELLS_PER_SIDE), Image.Resampling.BOX)
        cells = np.asarray(small, dtype=np.float64)
        names.append(name)
        edges.append(np.stack([np.diff(cells, axis=0)[:, :-1], np.diff(cells, axis=1)[:-1]]))
    return names, np.array(edges)


def _unit(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of length 1 ``[N, K]``; a frame without any edge stays zero and is like nothing."""
    flat = edges.reshape(len(edges), -1)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.divide(flat, length, out=np.zeros_like(flat), where=length > 1e-9)
