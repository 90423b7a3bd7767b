"""Masks of the spots, one PNG a frame in a folder, as ``glint detect`` writes them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from glint.runtime.pipeline.pipeline import Result
from glint.runtime.sinks.base import Opening, Sink
from glint.runtime.sinks.overlay import Pictures


class Masks(Pictures):
    """``uint8``, 255 where a spot is and 0 elsewhere."""

    what = "folder of masks"

    def picture(self, result: Result) -> NDArray[np.uint8]:
        return result.detection.mask


def open_sink(opening: Opening) -> Sink:
    """What ``--masks`` asks for."""
    return Masks(opening.options["masks"], overwrite=opening.options["overwrite"])
