"""Folders of infrared images with masks: SIRST, NUDT-SIRST, IRSTD-1K and everything laid out like them.

``images/NAME.png`` and ``masks/NAME.png`` or ``masks/NAME_pixels0.png`` (see :func:`read_mask`), or
``IRSTD1k_Img/`` and ``IRSTD1k_Label/``; greyscale of 8 or 16 bits. Split lists have one name per line,
with or without the file's suffix: ``train.txt`` in the folder itself, in a folder of it (``50_50/``,
``idx_427/``), or with the data set's name behind it (``img_idx/train_NUDT-SIRST.txt``).
``backgrounds/`` holds frames without targets, if there are any. SIRST-v2's ``mixed/``, ``annotations/masks/`` and
``splits/val_full.txt`` are known, too, and COCO annotations (:mod:`glint.data.coco`) instead of masks, with the images
in ``images/``, ``data/`` (FiftyOne), ``images/default/`` (CVAT) or beside them (Roboflow). A split may be a folder of
its own (``trainval/images/``, ``test/images/``, as SIRST-Aug is; ``valid/`` stands for ``val``). A folder without any
list is split by itself (:func:`automatic_split`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.cli import talk
from glint.data.coco import CocoMasks, coco_file
from glint.errors import InputError, SourceError
from glint.images import SUFFIXES, read_image

IMAGE_FOLDERS = ("images/default", "images", "IRSTD1k_Img", "mixed", "data")
MASK_FOLDERS = ("masks", "IRSTD1k_Label", "annotations/masks")
AUTOMATIC = "automatic"
_OTHER_NAMES = {"val": "valid"}  # of folders of splits
_WHOLE = "full"  # of several lists of a split, the one that has all of it (SIRST-v2)
_SEQUENCES_PER_VALIDATION_ONE = 5  # of so many sequences one validates
MASK_ENDING = "_pixels0"  # what SIRST's own masks have behind the image's name
_MOST_TARGET_SHARE = 0.5  # share of an image; targets are small
_BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_MOST_NAMED_VALUES = 8  # of a mask
_GREATEST_ID = 64  # of classes and objects that are numbered


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """One image with its truth.

    Attributes:
        name: of the image.
        image: as stored ``[H, W]``.
        mask: of the targets ``bool [H, W]``.
        full_scale: the value at which the sensor saturates, or None if unknown.
    """

    name: str
    image: NDArray[Any]
    mask: NDArray[np.bool_]
    full_scale: float | None = None


def natural_order(path: Path) -> tuple[Any, ...]:
    """What paths are sorted by: numbers in their names by value, so that ``2.png`` stands before ``10.png``."""
    parts = re.split(r"([0-9]+)", str(path))
    return (*((int(part) if index % 2 else part) for index, part in enumerate(parts)), str(path))


def image_files(folder: Path) -> list[Path]:
    """The images directly in a folder, in natural order of their names.

    Raises:
        SourceError: if the folder is missing or holds no image.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder", hint="is the name right, seen from this folder? ls tells")
    found = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    files = sorted(found, key=natural_order)
    if not files:
        raise SourceError(f"{folder} holds no images", hint=f"looked for {', '.join(SUFFIXES)}")
    return files


def split_file(root: Path, split: str) -> Path:
    """The list of a split.

    Args:
        root: folder of the data set.
        split: ``train``, ``test``, ...; with its folder, e.g. ``50_50/train``, where there are several.

    Raises:
        SourceError: if there is none.
        InputError: if there are several.
    """
    if not root.is_dir():
        raise SourceError(f"{root}: no such folder", hint="is the name right, seen from this folder? ls tells")
    exact = root / f"{split}.txt"
    if exact.is_file():
        return exact
    lists = sorted([*root.glob("*.txt"), *root.glob("*/*.txt")])
    for found in (
        [path for path in lists if path.stem == split],
        [path for path in lists if path.stem == f"{split}_{_WHOLE}"],
        [path for path in lists if path.stem.startswith(f"{split}_")],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            names = [path.relative_to(root).with_suffix("").as_posix() for path in found]
            raise InputError(
                f"{root} has {len(found)} lists for the split {split!r}", hint=f"name {' or '.join(names)}"
            )
    there = ", ".join(path.relative_to(root).with_suffix("").as_posix() for path in lists) or "none"
    raise SourceError(f"{exact}: no such split list", hint=f"splits in {root}: {there}")


def list_name(root: Path, split: str) -> str:
    """The list of a split, relative to its folder; the split's own folder, ``NAME/``; or ``automatic``.

    Raises:
        GlintError: as :func:`split_file`.
    """
    own = own_folder(root, split)
    if own is not None:
        return f"{own.name}/"
    return AUTOMATIC if _is_automatic(root, split) else split_file(root, split).relative_to(root).as_posix()


def own_folder(root: Path, split: str) -> Path | None:
    """The folder of a split that has one, ``ROOT/SPLIT/images``; a list goes before it."""
    listed = [path for path in (*root.glob("*.txt"), *root.glob("*/*.txt")) if path.stem.split("_")[0] == split]
    places = (root / name for name in (split, _OTHER_NAMES.get(split, split)))
    return None if listed else next((place for place in places if images_of(place) is not None), None)


def _is_automatic(root: Path, split: str) -> bool:
    """Whether nobody has split the folder, and ``train`` or ``val`` is asked for."""
    lists = (*root.glob("*.txt"), *root.glob("*/*.txt"))
    return split in ("train", "val") and images_of(root) is not None and not lists


def automatic_split(names: Iterable[str], split: str) -> list[str]:
    """``train`` or ``val`` of a folder without lists: about every fifth sequence validates, by the hash of its name.

    Frames whose names differ in their last number only are one sequence and stay together, because they look alike;
    where there are fewer than ten sequences, every frame is one. A name is always on the same side.

    Raises:
        InputError: if one of the two would be empty.
    """
    names = list(names)
    sequences = {name: re.sub(r"[\W_]*\d+$", "", name) for name in names}
    if len(set(sequences.values())) < 2 * _SEQUENCES_PER_VALIDATION_ONE:
        sequences = {name: name for name in names}
    held = {
        name: hashlib.sha256(sequences[name].encode()).digest()[0] % _SEQUENCES_PER_VALIDATION_ONE == 0
        for name in names
    }
    if len(set(held.values())) < 2:
        raise InputError(
            f"{len(names)} images are too few to be split by themselves", hint="write train.txt and val.txt"
        )
    return [name for name in names if held[name] == (split == "val")]


def read_split(root: Path, split: str) -> list[str]:
    """The names of images (without suffix) that a split list holds, in its order (see :func:`automatic_split`).

    Raises:
        SourceError: if the list is missing.
        InputError: if it is empty or names an image twice, or if there are several lists.
    """
    own = own_folder(root, split)
    if own is not None:
        return list(files_by_stem(_image_folder(own)))
    if _is_automatic(root, split):
        return automatic_split(files_by_stem(_image_folder(root)), split)
    path = split_file(root, split)
    try:
        content = path.read_bytes()
        text = content.decode(_encoding(content))
        if "\0" in text:
            raise UnicodeDecodeError("utf-16", content, 0, 1, "zeros among the letters")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8 or UTF-16"
        raise SourceError(f"{path}: {reason}", hint="expected one name per line, in UTF-8") from error
    names = [_without_suffix(line.strip()) for line in text.splitlines() if line.strip()]
    if not names or len(set(names)) != len(names):
        raise InputError(
            f"{path}: expected distinct names, one per line, got {len(names)} lines",
            hint="write every name once, on a line of its own",
        )
    return names


def _encoding(content: bytes) -> str:
    """Of a list; without a mark, zeros at every other place are those of UTF-16."""
    if content[:2] in _BYTE_ORDER_MARKS:
        return _BYTE_ORDER_MARKS[content[:2]]
    if len(content) % 2 == 0 and b"\0" in content:
        for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
            if not any(content[first::2]):
                return encoding
    return "utf-8-sig"


def _without_suffix(name: str) -> str:
    return name.rsplit(".", 1)[0] if name.lower().endswith(SUFFIXES) else name


def is_labelled(root: Path, split: str) -> bool:
    """Whether a folder is a set of images with masks or COCO annotations, and not one of frames."""
    place = own_folder(root, split) or root
    labels = coco_file(place) is not None or any((place / name).is_dir() for name in MASK_FOLDERS)
    return labels and images_of(place) is not None


def images_of(root: Path) -> Path | None:
    """The folder of a set's images, which may lie beside its COCO annotations; None if there is none."""
    folders = (root / name for name in IMAGE_FOLDERS)
    return next((one for one in folders if one.is_dir()), root if coco_file(root) is not None else None)


def _image_folder(root: Path) -> Path:
    found = images_of(root)
    return _folder(root, IMAGE_FOLDERS) if found is None else found


def _folder(root: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise SourceError(f"{root} has no folder {' or '.join(names)}", hint="glint evaluate expects images/ and masks/")


def files_by_stem(folder: Path) -> dict[str, Path]:
    """The images of a folder by their names without suffix.

    Raises:
        SourceError: if the folder is missing or holds no image.
        InputError: if two differ in their suffix only.
    """
    files = image_files(folder)
    stems = {p.stem: p for p in files}
    if len(stems) < len(files):
        twice = next(p for p in files if stems[p.stem] != p)
        raise InputError(f"{folder} holds two images called {twice.stem!r}", hint="leave one of them there")
    return stems


def split_files(root: Path, split: str) -> list[Path]:
    """The images of a split.

    Raises:
        SourceError: if one is missing.
    """
    files = files_by_stem(_image_folder(own_folder(root, split) or root))
    names = read_split(root, split)
    missing = next((name for name in names if name not in files), None)
    if missing is not None:
        raise SourceError(
            f"{root}: split {split} names {missing!r}, but its image is missing",
            hint="take the name out of the list, or put the image into its folder",
        )
    return [files[name] for name in names]


def split_images(root: Path, split: str) -> Iterator[tuple[str, NDArray[Any]]]:
    """Name and image of a split, without the masks.

    Raises:
        SourceError: if an image is missing or unreadable.
    """
    for path in split_files(root, split):
        yield path.stem, read_image(path)


def labelled_images(root: Path, split: str) -> Iterator[LabelledImage]:
    """Read a split image by image.

    Raises:
        SourceError: if an image or mask is missing or unreadable.
        InputError: if a mask has another shape than its image, or cannot be a mask.
    """
    place = own_folder(root, split) or root
    annotations = coco_file(place)
    if annotations is not None and not any((place / name).is_dir() for name in MASK_FOLDERS):
        coco = CocoMasks(annotations)
        for name, image in split_images(root, split):
            if name not in coco.names:
                raise InputError(
                    f"{annotations}: split {split} names {name!r}, but it has no such image",
                    hint="export the annotations again, or take the name out of the list",
                )
            yield LabelledImage(name, image, coco.mask(name, image))
        return
    masks, told = files_by_stem(_folder(place, MASK_FOLDERS)), False
    for name, image in split_images(root, split):
        path = masks.get(name) or masks.get(name + MASK_ENDING)
        if name in masks and name + MASK_ENDING in masks:
            raise InputError(
                f"{_folder(place, MASK_FOLDERS)} holds two masks of {name!r}: {name} and {name}{MASK_ENDING}",
                hint="leave one of them there",
            )
        if path is None:
            hint = f"expected {name} or {name}{MASK_ENDING} in {_folder(place, MASK_FOLDERS)}"
            raise SourceError(f"{root}: split {split} names {name!r}, but its mask is missing", hint=hint)
        mask, grey = read_mask(path)
        if grey and not told:
            talk(f"masks: {grey}; cut at half of full scale (this and further ones like it)")
            told = True
        if image.shape != mask.shape:
            raise InputError(
                f"{path}: mask of shape {mask.shape} for an image of shape {image.shape}",
                hint="take the image out of the list, or put a mask of its size there",
            )
        yield LabelledImage(name, image, mask)


def read_mask(path: Path) -> tuple[NDArray[np.bool_], str]:
    """A mask of targets ``bool [H, W]``, and what is to be said of its grey levels, or "".

    Two values: the greater one is target. One value: target if it is not 0. More values: those above half of full
    scale are, as of JPEG, brushes and resized masks; full scale is that of the file's type (1 of floating numbers),
    or the greatest value where that is less than half of it. Palettes count as the greys that they show.

    Raises:
        SourceError: if it cannot be read.
        InputError: if targets cover more than half of the image, as they do in a mask that is inverted, or if its
            values are several small whole numbers: those of classes or objects.
    """
    data = read_image(path)
    values = np.unique(data)
    least, most = float(values[0]), float(values[-1])
    grey = ""
    if len(values) <= 2:
        mask = data > (least if len(values) == 2 else 0)
    else:
        if data.dtype.kind == "u" and most <= _GREATEST_ID:
            some = ", ".join(f"{v:g}" for v in values[:_MOST_NAMED_VALUES])
            raise InputError(
                f"mask {path}: its {len(values)} values {some} ... are small, as of classes or objects",
                hint="save 0 where nothing is and 255 where a target is",
            )
        full = 1.0 if data.dtype.kind == "f" else float(np.iinfo(data.dtype).max)
        level = 0.5 * (full if full / 2 <= most <= full else most)
        mask = data > level
        named = ": " + ", ".join(f"{v:g}" for v in values) if len(values) <= _MOST_NAMED_VALUES else ""
        grey = f"{path.name} holds {len(values)} grey levels from {least:g} to {most:g}{named}"
    share = float(mask.mean())
    if share > _MOST_TARGET_SHARE:
        raise InputError(
            f"mask {path}: {100 * share:.0f} % of it are targets; expected small ones on 0",
            hint="is the mask inverted? 0 is background, the greatest value is target",
        )
    return mask, grey


def background_images(folder: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """Name and image of every frame of a folder of frames without targets, sorted by name.

    Raises:
        SourceError: if the folder is missing, holds no image, or an image is unreadable.
    """
    for path in image_files(folder):
        yield path.stem, read_image(path)
