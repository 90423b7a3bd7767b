"""Folders of infrared images whose targets have boxes and points: ``points.json`` beside ``images/``.

The file holds an object for each image's name: ``box`` [x, y, width, height] in whole pixels, ``point`` [x, y] in
pixels, ``good`` (whether a mask can be trusted), and, if known, ``area`` in pixels and ``scr``. One target of an image
is told; what lies outside its box is unlabelled and may hold others. Split lists: see :mod:`glint.data.datasets`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from glint.data.datasets import split_images
from glint.errors import InputError
from glint.files import read_json
from glint.processing.peak_mask import half_peak_mask as half_peak_mask

POINTS_FILE = "points.json"
_MOST_NUMBER = 1e12  # the largest number that the file may hold
_HINT = "expected box [x, y, width, height], point [x, y] and good (true or false)"


@dataclass(frozen=True, eq=False)
class BoxedImage:
    """One image with a target of which the box is known.

    Attributes:
        name: of the image.
        image: as stored ``[H, W]``.
        box: first column and row, width and height of the target's box, pixels; not tight.
        point: x and y of the target, pixels.
        good: whether :attr:`mask` can be trusted.
        scr: signal-to-clutter ratio of the target, or None if unknown.
        area: of the target, pixels, or None if unknown.
    """

    name: str
    image: NDArray[Any]
    box: tuple[int, int, int, int]
    point: tuple[float, float]
    good: bool
    scr: float | None = None
    area: float | None = None

    @property
    def inside(self) -> tuple[slice, slice]:
        """Rows and columns of the box."""
        x, y, width, height = self.box
        return slice(y, y + height), slice(x, x + width)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """What has more than half of the peak's contrast inside the box and touches the peak, ``bool [H, W]``."""
        return half_peak_mask(self.image, self.box)


def is_boxed(root: Path) -> bool:
    """Whether a folder's targets have boxes instead of masks."""
    return (root / POINTS_FILE).is_file()


def boxed_images(root: Path, split: str) -> Iterator[BoxedImage]:
    """Read a split image by image.

    Raises:
        SourceError: if the list or an image is missing or unreadable.
        InputError: if ``points.json`` is missing or malformed, or an image's entry is missing or wrong; it is named.
    """
    entries: dict[str, Any] = read_json(root / POINTS_FILE, what="boxes", kind=dict)
    for name, image in split_images(root, split):
        if name not in entries:
            raise InputError(f"{root / POINTS_FILE}: split {split} names {name!r}, but it has no entry", hint=_HINT)
        yield _boxed(name, image, entries[name], where=f"{root / POINTS_FILE}: {name}")


def _boxed(name: str, image: NDArray[Any], entry: Any, *, where: str) -> BoxedImage:
    if not isinstance(entry, dict):
        raise InputError(f"{where}: expected an object, got {entry!r}", hint=_HINT)
    box, point, good = entry.get("box"), entry.get("point"), entry.get("good")
    height, width = image.shape
    if not _are(box, int, 4) or not _are(point, (int, float), 2) or not isinstance(good, bool):
        raise InputError(f"{where}: got box {box!r}, point {point!r}, good {good!r}", hint=_HINT)
    x, y, w, h = box
    if min(x, y) < 0 or min(w, h) < 1 or x + w > width or y + h > height:
        raise InputError(f"{where}: box {box} is not inside of the image of {width} x {height} pixels", hint=_HINT)
    if not (0 <= point[0] <= width - 1 and 0 <= point[1] <= height - 1):
        raise InputError(f"{where}: point {point} is not inside of the image of {width} x {height} pixels", hint=_HINT)
    known = {}
    for key in ("scr", "area"):
        value = entry.get(key)
        if value is not None and not _are([value], (int, float), 1):
            raise InputError(f"{where}: expected a number as {key}, got {value!r}", hint="write the file again")
        known[key] = None if value is None else float(value)
    return BoxedImage(name, image, (x, y, w, h), (float(point[0]), float(point[1])), good, **known)


def _are(values: Any, kind: Any, number: int) -> TypeGuard[list[Any]]:
    """Whether something is a list of so many finite numbers."""
    return (
        isinstance(values, list)
        and len(values) == number
        and all(isinstance(v, kind) and not isinstance(v, bool) and abs(v) <= _MOST_NUMBER for v in values)
    )
