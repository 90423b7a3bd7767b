"""Spots as COCO annotations: boxes, masks and scores, as FiftyOne, CVAT and pycocotools read them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from glint import __version__
from glint.data.datasets import image_files
from glint.errors import OutputError, system_errors_as
from glint.files import atomic_path, refuse_existing
from glint.runtime.pipeline.pipeline import Result
from glint.runtime.sinks.base import Opening, Sink

_IN_MEMORY_BYTES = 8 << 20  # bytes of annotations; more wait in a temporary file
_CATEGORY = {"id": 1, "name": "target", "supercategory": "infrared"}


class CocoFile(Sink):
    """One document: an image per frame, an annotation per spot of the detector; it appears when it is whole.

    An annotation has ``bbox``, ``area``, ``score``, ``segmentation`` (uncompressed RLE) and, beyond COCO, ``targets``:
    x, y and radiance of each target in the spot. A spot may hold several targets, or none.

    Args:
        path: the file.
        names: file names of images by their stems; frames that are not among them keep their own name.
        overwrite: replace an existing one.

    Raises:
        OutputError: if the file exists and ``overwrite`` is not set, or cannot be written.
    """

    def __init__(self, path: Path, names: dict[str, str], *, overwrite: bool = False) -> None:
        refuse_existing(path, overwrite=overwrite)
        self.path, self._overwrite, self._names = path, overwrite, names
        self._images, self._annotations = _spool(), _spool()
        self._number = self._frames = 0

    def write(self, result: Result) -> None:
        frame, blobs, targets = result.frame, result.detection.blobs, result.targets
        image = {
            "id": frame.index, "file_name": self._names.get(frame.name, frame.name or f"{frame.index:06d}"),
            "width": frame.shape[1], "height": frame.shape[0], "t_ns": frame.t_ns, "date_captured": result.utc,
        }  # fmt: skip
        self._add(self._images, image, first=not self._frames)
        self._frames += 1
        labels = blobs.label_map
        for row, record in enumerate(blobs.records()):
            mine = targets.select(targets.blob == row)
            points = np.stack([mine.x, mine.y, mine.radiance], axis=1).round(3).tolist()
            annotation = {
                "id": self._number + 1, "image_id": frame.index, "category_id": 1, "iscrowd": 0,
                "bbox": record["box"], "area": record["area"], "score": record["score"],
                "segmentation": None if labels is None else run_lengths(labels == row + 1), "targets": points,
            }  # fmt: skip
            self._add(self._annotations, annotation, first=not self._number)
            self._number += 1

    def close(self) -> None:
        """Write the document; may be called twice."""
        if self._images.closed:
            return
        if self._frames:
            self._write_document()
        self._images.close()
        self._annotations.close()

    def _write_document(self) -> None:
        head = {"info": {"description": "found by glint", "version": __version__}, "categories": [_CATEGORY]}
        with (
            atomic_path(self.path, overwrite=self._overwrite) as temporary,
            temporary.open("w", encoding="utf-8") as file,
        ):
            file.write(json.dumps(head)[:-1])
            for name, part in (("images", self._images), ("annotations", self._annotations)):
                part.seek(0)
                file.write(f', "{name}": [')
                file.writelines(part)
                file.write("]")
            file.write("}\n")

    def _add(self, part: IO[str], record: dict[str, Any], *, first: bool) -> None:
        line = ("\n" if first else ",\n") + json.dumps(record, allow_nan=False)
        with system_errors_as(OutputError, f"cannot keep annotations for {self.path}"):
            part.write(line)


def _spool() -> Any:
    return tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES, mode="w+", encoding="utf-8")


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """COCO's uncompressed RLE of a mask ``[H, W]``: lengths of runs of 0 and 1 in turn, column by column."""
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], edges, [mask.size]]))
    return {"size": list(mask.shape), "counts": (counts[:-1] if counts[-1] == 0 else counts).tolist()}


def open_sink(opening: Opening) -> Sink:
    """What ``--coco`` asks for."""
    folder = Path(opening.uri.partition("?")[0])
    names = {path.stem: path.name for path in image_files(folder)} if folder.is_dir() else {}
    return CocoFile(opening.options["coco"], names, overwrite=opening.options["overwrite"])
