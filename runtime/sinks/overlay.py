"""Pictures of results for people, one a frame, in a folder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glint.files import FileNames, FolderClaim, refuse_full
from glint.images import write_image
from glint.runtime.pipeline.picture import draw_picture
from glint.runtime.pipeline.pipeline import Result
from glint.runtime.sinks.base import Opening, Sink
from glint.runtime.sinks.track_tails import Points
from glint.types import Targets


def draw_overlay(
    result: Result, truth: Targets | None = None, tails: Mapping[int, Points] | None = None
) -> NDArray[np.uint8]:
    """The picture of a result, RGB, ``uint8 [H, W, 3]`` (see ``pipeline.picture``), with truth and tails of tracks."""
    return draw_picture(result.frame, result.spots, result.targets, truth, (tails or {}).values())


class Pictures(Sink):
    """``FOLDER/NAME.png`` of every frame.

    Raises:
        OutputError: if the folder holds files and ``overwrite`` is not set; from ``write``, if one cannot be written.
    """

    what: str  # names the folder in messages

    def __init__(self, folder: Path, *, overwrite: bool) -> None:
        self.folder, self._names, self._claim = folder, FileNames(), FolderClaim(folder)
        refuse_full(folder, overwrite=overwrite, what=self.what)

    @abstractmethod
    def picture(self, result: Result) -> NDArray[np.uint8]:
        """What is written of a frame, ``[H, W]`` or RGB ``[H, W, 3]``."""

    def write(self, result: Result) -> None:
        self._claim.take()
        name = self._names.of(result.frame.name, result.frame.index)
        write_image(self.folder / f"{name}.png", self.picture(result))

    def close(self) -> None:
        self._claim.release()


class Overlays(Pictures):
    """Frames with what was found in them."""

    what = "overlay folder"

    def picture(self, result: Result) -> NDArray[np.uint8]:
        return draw_overlay(result, result.frame.truth)


def open_sink(opening: Opening) -> Sink:
    """What ``--overlay`` asks for."""
    return Overlays(opening.options["overlay"], overwrite=opening.options["overwrite"])
