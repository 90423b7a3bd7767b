"""The CSIST-100K folder format: one PNG and one XML per patch.

``images/image_<id>.png`` (8 bit) and ``annotations/CSO<id>.xml``; readers also meet ``COS<id>.xml``
and both kinds of file in one folder. In these files the image row is ``xc`` and the column ``yc``;
in glint x is the column: reader and writer swap them.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.errors import InputError, OutputError, SourceError
from glint.files import write_bytes
from glint.images import read_image, write_image
from glint.simulation.patches import Patches

_MOST_XML_BYTES = 1 << 20  # bytes; an annotation of five targets has two thousand
_IMAGE = re.compile(r"image_(\d+)\.png$")
_ANNOTATION = re.compile(r"(?:CSO|COS)(\d+)\.xml$")
_FORMAT_HINT = "expected the XML files of CSIST-100K"


def write_csist(folder: Path, patches: Patches, *, first: int = 0) -> None:
    """Write patches as ``images/`` and ``annotations/``; pixels are rounded and clipped to 0..255.

    Raises:
        OutputError: if the folder holds such files already or cannot be written.
    """
    images, annotations = folder / "images", folder / "annotations"
    if any(d.is_dir() and any(d.iterdir()) for d in (images, annotations)):
        raise OutputError(f"{folder} holds patches already", hint="choose an empty folder")
    for i in range(len(patches)):
        number = first + i
        pixels = np.clip(np.round(patches.image[i]), 0, 255).astype(np.uint8)
        write_image(images / f"image_{number}.png", pixels)
        write_bytes(annotations / f"CSO{number}.xml", _annotation(patches, i, number))


def _annotation(patches: Patches, i: int, number: int) -> bytes:
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = f"image_{number}.png"
    size = ElementTree.SubElement(root, "size")
    for name, value in zip(("width", "height", "depth"), (*patches.image.shape[:0:-1], 1)):
        ElementTree.SubElement(size, name).text = str(value)
    ElementTree.SubElement(root, "sigma").text = repr(float(patches.sigma[i]))
    for k in range(int(patches.count[i])):
        target = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(target, "name").text = "target"
        coordinate = ElementTree.SubElement(target, "coordinate")
        values = (patches.y[i, k], patches.x[i, k], patches.radiance[i, k])
        for name, number_ in zip(("xc", "yc", "brightness"), values):
            ElementTree.SubElement(coordinate, name).text = repr(float(number_))
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root)) + b"\n"


def read_csist(folder: Path) -> Patches:
    """Read all patches below a folder, ordered by their number.

    Raises:
        SourceError: if there are none, an image has no annotation, or a file is unreadable.
        InputError: if an annotation is malformed or the images differ in size.
    """
    images = _numbered(folder, _IMAGE)
    annotations = _numbered(folder, _ANNOTATION)
    if not images:
        raise SourceError(
            f"{folder} holds no image_<id>.png", hint="expected the layout of CSIST-100K; glint simulate writes it"
        )
    missing = sorted(images.keys() - annotations.keys())
    if missing:
        raise SourceError(
            f"{folder}: {len(missing)} images have no annotation, the first is {images[missing[0]].name}",
            hint="each image_<id>.png needs its Annotations file",
        )
    numbers = sorted(images)
    pixels = [read_image(images[n]) for n in numbers]
    if len({p.shape for p in pixels}) != 1 or pixels[0].shape[0] != pixels[0].shape[1]:
        raise InputError(f"{folder}: expected square images of one size", hint="take out what is no image of the set")
    targets, sigmas = zip(*(_parse(annotations[n]) for n in numbers))
    slots = max(5, max(len(t) for t in targets))
    table = np.zeros((len(numbers), slots, 3))
    for row, rows in zip(table, targets):
        row[: len(rows)] = rows
    unknown = np.full(len(numbers), np.nan)
    return Patches(
        image=np.stack(pixels).astype(np.float32), x=table[..., 0], y=table[..., 1], radiance=table[..., 2],
        count=np.array([len(t) for t in targets]), sigma=np.array(sigmas), noise=unknown, background=unknown,
        full_scale=np.full(len(numbers), 255.0 if pixels[0].dtype == np.uint8 else np.inf),
    )  # fmt: skip


def _numbered(folder: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder", hint="is the name right, seen from this folder? ls tells")
    found: dict[int, Path] = {}
    for path in sorted(folder.rglob("*.*")):
        if match := pattern.fullmatch(path.name):
            other = found.setdefault(int(match.group(1)), path)
            if other != path:
                raise InputError(f"{path} and {other} have the same number", hint="read one folder of them at a time")
    return found


def _parse(path: Path) -> tuple[NDArray[Any], float]:
    """Targets ``[K, 3]`` as (x, y, radiance), and sigma."""
    try:
        text = path.read_bytes()
        # Entities can expand without bound: an annotation has no use for a document type.
        if len(text) > _MOST_XML_BYTES or b"\0" in text or b"<!DOCTYPE" in text:
            raise InputError(
                f"{path}: not an annotation (too long, in UTF-16, or it declares a document type)", hint=_FORMAT_HINT
            )
        root = ElementTree.fromstring(text)  # noqa: S314  (checked above)
        rows = [
            [float(_text(o, f"coordinate/{name}")) for name in ("yc", "xc", "brightness")] for o in root.iter("object")
        ]
        sigma = float(_text(root, "sigma"))
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from error
    except InputError:
        raise
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(f"{path} is not a CSIST annotation: {error}", hint=_FORMAT_HINT) from error
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    if not (np.isfinite(table).all() and (table[:, 2] > 0).all() and np.isfinite(sigma) and sigma > 0):
        raise InputError(
            f"{path}: expected finite coordinates, and brightness and sigma positive",
            hint="take the image out, or correct its annotation",
        )
    return table, sigma


def _text(element: ElementTree.Element, path: str) -> str:
    value = element.findtext(path)
    if value is None:
        raise KeyError(f"missing {path}")
    return value
