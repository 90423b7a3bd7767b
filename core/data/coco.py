"""Masks of targets out of COCO annotations, as FiftyOne, CVAT, Roboflow and ``glint run --coco`` write them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.errors import InputError
from glint.files import read_json
from glint.processing.peak_mask import half_peak_mask

_FORMAT_HINT = "export in the format COCO (instances)"
FILES = (
    "annotations.json", "labels.json", "_annotations.coco.json", "instances.json",
    "annotations/instances_default.json",
)  # fmt: skip
"""Where the annotations of a folder of images may be."""


def coco_file(root: Path) -> Path | None:
    """The annotations of a folder, or None."""
    return next((root / name for name in FILES if (root / name).is_file()), None)


class CocoMasks:
    """The annotations of one file; every category is a target.

    Args:
        path: of the document.

    Raises:
        InputError: if it is no COCO document.
    """

    def __init__(self, path: Path) -> None:
        document = read_json(path, what="annotations", kind=dict)
        images, annotations = document.get("images"), document.get("annotations")
        if not isinstance(images, list) or not isinstance(annotations, list):
            raise InputError(
                f"annotations {path}: expected the lists images and annotations of COCO", hint=_FORMAT_HINT
            )
        self.path = path
        self._of: dict[str, list[dict[str, Any]]] = defaultdict(list)
        try:
            names = {image["id"]: PurePosixPath(image["file_name"]).stem for image in images}
            self.names = set(names.values())
            for annotation in annotations:
                self._of[names[annotation["image_id"]]].append(annotation)
        except (KeyError, TypeError) as error:
            raise InputError(f"annotations {path}: an image or annotation lacks {error}", hint=_FORMAT_HINT) from error

    def mask(self, name: str, image: NDArray[Any]) -> NDArray[np.bool_]:
        """The targets of an image, ``bool [H, W]``.

        A segmentation (polygons, RLE) is taken as it is; of a box alone, what has half of its peak's contrast (see
        :func:`half_peak_mask`).

        Raises:
            InputError: if an annotation is malformed, or its RLE is of another size.
        """
        mask = np.zeros(image.shape, dtype=bool)
        for annotation in self._of.get(name, ()):
            where = f"annotations {self.path}: annotation {annotation.get('id')} of {name}"
            try:
                mask |= self._one(annotation, image, where)
            except (KeyError, TypeError, ValueError) as error:
                if isinstance(error, InputError):
                    raise
                raise InputError(f"{where} is malformed: {error}", hint=_FORMAT_HINT) from error
        return mask

    def _one(self, annotation: dict[str, Any], image: NDArray[Any], where: str) -> NDArray[np.bool_]:
        shape, parts = image.shape, annotation.get("segmentation")
        if isinstance(parts, dict):
            counts = parts["counts"]
            counts = run_lengths_of(counts) if isinstance(counts, str) else counts
            if tuple(parts["size"]) != shape or sum(counts) != image.size:
                raise InputError(
                    f"{where} is for an image of {parts['size']}, the image has {list(shape)} pixels",
                    hint="export the annotations again for images of this size",
                )
            return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(shape, order="F")
        if parts:
            polygons = [np.array(polygon, dtype=np.float64).reshape(-1, 2) for polygon in parts]
            return np.logical_or.reduce([filled(polygon, (shape[0], shape[1])) for polygon in polygons])
        left, top, width, height = (float(v) for v in annotation["bbox"])
        x, y = max(0, int(np.floor(left))), max(0, int(np.floor(top)))
        right, bottom = min(shape[1], int(np.ceil(left + width))), min(shape[0], int(np.ceil(top + height)))
        if right <= x or bottom <= y:
            raise InputError(
                f"{where}: its box {annotation['bbox']} is not inside of the image",
                hint="boxes are [left, top, width, height] in pixels of the image",
            )
        return half_peak_mask(image, (x, y, right - x, bottom - y))


def run_lengths_of(text: str) -> list[int]:
    """The lengths of runs out of COCO's compressed RLE.

    A character holds five bits of a number, the lowest first, and a sixth one while more follow; from the fourth number
    on it is the difference to the one two places before.

    Raises:
        ValueError: if it ends inside a number.
    """
    lengths: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            number -= (bits & 16) << (shift - 4)  # the sign
            lengths.append(number + (lengths[-2] if len(lengths) > 2 else 0))
            number = shift = 0
    if shift:
        raise ValueError("its RLE ends inside a number")
    return lengths


def filled(polygon: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels whose centre is inside of a polygon, ``bool [H, W]``.

    Args:
        polygon: corners x and y, ``[N, 2]``; (0, 0) is the corner of the first pixel, as in COCO.
        shape: rows and columns.
    """
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    inside = np.zeros(shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0)):
        if y0 != y1:  # an edge turns what lies to the left of it
            inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside
