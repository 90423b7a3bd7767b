"""A picture of every frame with what was found in it."""

from __future__ import annotations

from pathlib import Path

from glint.errors import OutputError
from glint.images import write_image
from glint.runtime.overlay import draw_overlay
from glint.runtime.pipeline import Result
from glint.runtime.sinks import Sink


class Overlays(Sink):
    """A picture of every frame in a folder."""

    def __init__(self, folder: Path, *, overwrite: bool) -> None:
        self.folder = folder
        if not overwrite and folder.is_dir() and any(folder.iterdir()):
            raise OutputError(f"overlay folder {folder} is not empty", hint="choose another or pass --overwrite")

    def write(self, result: Result) -> None:
        """See the base class."""
        name = result.frame.name or f"{result.frame.index:06d}"
        write_image(self.folder / f"{name}.png", draw_overlay(result, result.frame.truth))
