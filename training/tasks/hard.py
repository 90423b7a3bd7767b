"""Hard negatives: where a detector raised false alarms in the frames that it is trained on.

A false alarm covers a few pixels of one frame in ten, so that crops drawn at random hardly ever show it. They are
looked for by a model that was trained for a while, and crops around them are trained on in the next round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glint.config import from_dict, to_dict
from glint.data.datasets import labelled_images
from glint.errors import InputError
from glint.files import read_json, write_json
from glint.images import read_image
from glint.metrics.detection import components
from glint.progress import Progress
from glint.training.tasks.data_sets import DataSet, empty_frames

_LEAST_TARGET_DISTANCE_PX = 3  # nearer marks are a target's edge

Frame = TypeVar("Frame")
Probability = Callable[[NDArray[Any]], NDArray[np.float32]]


@dataclass(frozen=True)
class HardPlace:
    """One false alarm.

    Attributes:
        set: folder of the frame.
        frame: its name.
        place: row and column.
    """

    set: str
    frame: str
    place: tuple[int, int]

    def frame_of(self, frames: Mapping[tuple[str, str], Frame]) -> Frame:
        """The one that it is in, of frames by folder and name.

        Raises:
            InputError: if it is not among them.
        """
        if (self.set, self.frame) not in frames:
            raise InputError(
                f"hard place in {self.set}: no frame {self.frame!r} is trained on there",
                hint="give the same --data and --backgrounds as when the places were looked for",
            )
        return frames[self.set, self.frame]


@dataclass(frozen=True)
class HardPlaces:
    """False alarms of one model.

    Attributes:
        found_by: hash of its weights.
        places: all of them.
    """

    found_by: str
    places: tuple[HardPlace, ...]

    @staticmethod
    def read(path: Path) -> HardPlaces:
        """The file that :meth:`write` wrote.

        Raises:
            InputError: if it is no such file.
        """
        try:
            return from_dict(HardPlaces, read_json(path, what="hard places"), where=str(path))
        except ValueError as error:
            raise InputError(str(error), hint="python -m glint.training.mine writes such files") from error

    def write(self, path: Path) -> None:
        """As JSON, atomically."""
        write_json(path, to_dict(self))


def mine(
    probability: Probability, sets: Sequence[DataSet], backgrounds: Sequence[Path], threshold: float
) -> Iterator[HardPlace]:
    """False alarms in the training frames: of the sets with masks, and of the empty ones that are not held back.

    Args:
        probability: of a target ``[H, W]``, of a frame ``[H, W]``.
        sets: of a training run; the surroundings of boxes are not known, such sets are passed over.
        backgrounds: further folders of empty frames.
        threshold: probability above which a pixel is an alarm.

    Yields:
        The places, with a line of progress on the way.
    """
    masked = [s for s in sets if not s.boxed]
    empty = [(name, path) for name, trained, _ in empty_frames(sets, backgrounds) for path in trained]
    with Progress("mine") as line:
        for of in masked:
            for sample in labelled_images(of.root, "train"):
                near = ndimage.binary_dilation(sample.mask, np.ones((3, 3)), _LEAST_TARGET_DISTANCE_PX)
                found = _alarms(probability(sample.image) > threshold, near)
                yield from (HardPlace(of.root.resolve().name, sample.name, place) for place in found)
                line.update(line.done + 1)
        for name, path in empty:
            marks = probability(read_image(path)) > threshold
            yield from (HardPlace(name, path.stem, place) for place in _alarms(marks, np.zeros_like(marks)))
            line.update(line.done + 1)


def _alarms(marks: NDArray[np.bool_], near: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Row and column of each mark off the targets."""
    labels, _ = ndimage.label(marks, np.ones((3, 3)))
    false = ~np.isin(labels, np.unique(labels[near])) & marks
    for x, y in components(false)[0]:
        yield round(y), round(x)
