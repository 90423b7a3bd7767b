"""Masks of the spots, one PNG a frame in a folder, as ``glint detect`` writes them."""

from __future__ import annotations

from pathlib import Path

from glint.files import FileNames, FolderClaim, refuse_full
from glint.images import write_image
from glint.runtime.pipeline.pipeline import Result
from glint.runtime.sinks.base import Opening, Sink


class Masks(Sink):
    """``FOLDER/NAME.png`` of every frame: ``uint8``, 255 where a spot is and 0 elsewhere.

    Raises:
        OutputError: if the folder holds files and ``overwrite`` is not set; from ``write``, if one cannot be written.
    """

    def __init__(self, folder: Path, *, overwrite: bool) -> None:
        self.folder, self._names, self._claim = folder, FileNames(), FolderClaim(folder)
        refuse_full(folder, overwrite=overwrite, what="folder of masks")

    def write(self, result: Result) -> None:
        self._claim.take()
        name = self._names.of(result.frame.name, result.frame.index)
        write_image(self.folder / f"{name}.png", result.detection.mask)

    def close(self) -> None:
        self._claim.release()


def open_sink(opening: Opening) -> Sink:
    """What ``--masks`` asks for."""
    return Masks(opening.options["masks"], overwrite=opening.options["overwrite"])
