"""Folders of infrared images with masks: SIRST and everything laid out like it.

``images/NAME.png``, ``masks/NAME.png`` (same stem, non-zero is target) and split lists
``train.txt``, ``val.txt``, ... with one stem per line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.errors import InputError, SourceError
from glint.images import SUFFIXES, read_image


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """One image with its truth: ``image`` as stored ``[H, W]``, ``mask`` ``bool [H, W]``."""

    name: str
    image: NDArray[Any]
    mask: NDArray[np.bool_]


def image_files(folder: Path) -> list[Path]:
    """The images directly in a folder, sorted by name.

    Raises:
        SourceError: if the folder is missing or holds no image.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder")
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not files:
        raise SourceError(f"{folder} holds no images", hint=f"looked for {', '.join(SUFFIXES)}")
    return files


def read_split(root: Path, split: str) -> list[str]:
    """The stems that a split list names.

    Raises:
        SourceError: if the list is missing.
        InputError: if it is empty or names a stem twice.
    """
    path = root / f"{split}.txt"
    if not path.is_file():
        found = ", ".join(sorted(p.stem for p in root.glob("*.txt"))) or "none"
        raise SourceError(f"{path}: no such split list", hint=f"splits in {root}: {found}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: {error}") from error
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names or len(set(names)) != len(names):
        raise InputError(f"{path}: expected distinct names, one per line, got {len(names)} lines")
    return names


def _by_stem(folder: Path) -> dict[str, Path]:
    files = image_files(folder)
    stems = {p.stem: p for p in files}
    if len(stems) < len(files):
        twice = next(p for p in files if stems[p.stem] != p)
        raise InputError(f"{folder} holds two images called {twice.stem!r}")
    return stems


def labelled_images(root: Path, split: str) -> Iterator[LabelledImage]:
    """Read a split image by image.

    Raises:
        SourceError: if an image or mask is missing or unreadable.
        InputError: if a mask has another shape than its image.
    """
    files, masks = _by_stem(root / "images"), _by_stem(root / "masks")
    for name in read_split(root, split):
        if name not in files or name not in masks:
            raise SourceError(f"{root}: split {split} names {name!r}, but its image or mask is missing")
        image, mask = read_image(files[name]), read_image(masks[name]) > 0
        if image.shape != mask.shape:
            raise InputError(f"{masks[name]}: mask of shape {mask.shape} for an image of shape {image.shape}")
        yield LabelledImage(name, image, mask)
