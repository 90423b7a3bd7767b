"""What a detector's validation measures: each set apart, empty frames, and one figure to choose by.

``score``, percent: the mean over the sets of nIoU (sets with masks) and Pd (sets with boxes), less
:data:`ALARM_COST_PERCENT` for every false alarm per frame (mean over empty frames' folders and sets with boxes, of each
:data:`MOST_ALARMS_PER_FRAME` at most).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.data.boxes import BoxedImage, boxed_images
from glint.data.datasets import LabelledImage, labelled_images
from glint.images import read_image
from glint.metrics.boxes import count_box, score_boxes
from glint.metrics.detection import ImageCounts, bootstrap_detection, components, count_image, score_detection
from glint.progress import Progress
from glint.training.tasks.data_sets import DataSet

THRESHOLD = 0.5  # of the probability
ALARM_COST_PERCENT = 4.0  # percent
MOST_ALARMS_PER_FRAME = 5.0  # per frame

Probability = Callable[[NDArray[Any]], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Validation:
    """Frames that nothing is learned from.

    Attributes:
        masks: of the sets with masks, by name.
        boxes: of the sets with boxes, by name.
        empty: files of held-back empty frames, by folder.
    """

    masks: dict[str, list[LabelledImage]]
    boxes: dict[str, list[BoxedImage]]
    empty: dict[str, list[Path]]

    @staticmethod
    def of(sets: Sequence[DataSet], empty: Sequence[tuple[str, list[Path]]], limit: int | None = None) -> Validation:
        """The validation splits of sets, and held-back empty frames; of each at most ``limit``, evenly taken."""
        return Validation(
            {s.root.resolve().name: _some(list(labelled_images(s.root, "val")), limit) for s in sets if not s.boxed},
            {s.root.resolve().name: _some(list(boxed_images(s.root, "val")), limit) for s in sets if s.boxed},
            {name: _some(files, limit) for name, files in empty if files},
        )

    @property
    def labelled(self) -> int:
        """Number of labelled frames."""
        return sum(len(v) for v in self.masks.values()) + sum(len(v) for v in self.boxes.values())

    def samples(self, number: int) -> list[tuple[str, NDArray[Any], NDArray[np.bool_]]]:
        """Name, image and true mask of some labelled frames, evenly taken."""
        labelled = [s for group in (self.masks, self.boxes) for some in group.values() for s in some]
        return [(s.name, s.image, s.mask) for s in _some(labelled, number)]

    def score(self, probability: Probability) -> dict[str, Any]:
        """Scores of a detector, with a line of progress.

        Args:
            probability: of a target ``[H, W]``, of a frame ``[H, W]``.

        Returns:
            ``score``; ``iou``, ``niou``, ``f1``, ``pd`` and ``fa`` of all images with masks together with their
            ``intervals``; ``sets`` and ``empty``: the figures of each.
        """
        frames = sum(len(some) for group in (self.masks, self.boxes, self.empty) for some in group.values())
        with Progress("validate", frames) as line:
            return self._score(_counted(probability, line))

    def _score(self, probability: Probability) -> dict[str, Any]:
        pooled: list[ImageCounts] = []
        sets: dict[str, dict[str, float | None]] = {}
        empty: dict[str, dict[str, float]] = {}
        merits, alarms = [], []
        for name, images in self.masks.items():
            counts = [count_image(probability(s.image) > THRESHOLD, s.mask) for s in images]
            figures = score_detection(counts)
            sets[name] = {k: _rounded(getattr(figures, k)) for k in ("iou", "niou", "pd", "fa")}
            merits.append(figures.niou)
            pooled.extend(counts)
        for name, boxed in self.boxes.items():
            found = score_boxes(count_box(probability(b.image) > THRESHOLD, b.box) for b in boxed)
            sets[name] = {"pd": round(found.pd, 2), "false_per_frame": round(found.false_per_frame, 3)}
            merits.append(found.pd)
            alarms.append(found.false_per_frame)
        for name, files in self.empty.items():
            number = [len(components(probability(read_image(path)) > THRESHOLD)[0]) for path in files]
            empty[name] = {"frames": len(number), "false_per_frame": round(float(np.mean(number)), 3)}
            alarms.append(float(np.mean(number)))
        cost = ALARM_COST_PERCENT * float(np.mean(np.minimum(alarms, MOST_ALARMS_PER_FRAME))) if alarms else 0.0
        result: dict[str, Any] = {"score": round(float(np.mean(merits)) - cost, 3) if merits else None}
        if pooled:
            result |= _together(pooled)
        return {**result, "sets": sets, "empty": empty}


def _counted(probability: Probability, line: Progress) -> Probability:
    """The same, with each frame counted by the line."""

    def one(frame: NDArray[Any]) -> NDArray[np.float32]:
        line.update(line.done + 1)
        return probability(frame)

    return one


def _together(counts: list[ImageCounts]) -> dict[str, Any]:
    score, intervals = asdict(score_detection(counts)), bootstrap_detection(counts)
    return {
        **{name: round(score[name], 3) for name in intervals},
        "intervals": {name: [round(v, 2) if v == v else None for v in limits] for name, limits in intervals.items()},
    }


def _rounded(value: float) -> float | None:
    """To two digits; None for NaN, which JSON does not know."""
    return None if value != value else round(value, 2)


def _some(items: list[Any], limit: int | None) -> list[Any]:
    """At most ``limit`` of the items, evenly taken, in their order."""
    if limit is None or len(items) <= limit:
        return items
    return [items[i * len(items) // limit] for i in range(limit)]
