"""Two engines on the same task: the scores of both, their difference, and how sure it is.

Both see the same patches or images, so that the interval is a paired bootstrap: whole patches (or
images) are drawn with replacement, the same ones for both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.metrics.detection import ImageCounts, score_detection
from glint.metrics.unmixing import Ranking, rank_detections
from glint.runtime.unmixing.unmix import STAGES
from glint.simulation.patches import Patches
from glint.types import Targets

REPLICATES = 500
_INTERVAL_PERCENTILES = (2.5, 97.5)  # percentiles


@dataclass(frozen=True)
class Difference:
    """One score of both.

    Attributes:
        data: name of the set.
        score: ``CSO-mAP grid``, ``CSO-mAP network``, ``CSO-mAP refined``, ``count refined``; ``IoU``, ``nIoU``,
            ``Pd``, ``Fa``. Percent, but Fa per million pixels.
        reference, candidate: the scores; NaN if there is nothing to score.
        low, high: 95 % interval of candidate - reference.
    """

    data: str
    score: str
    reference: float
    candidate: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """Candidate minus reference."""
        return self.candidate - self.reference


def compare_unmixing(
    data: str,
    patches: Patches,
    reference: dict[str, Targets],
    candidate: dict[str, Targets],
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> list[Difference]:
    """Differences of an unmixer's scores.

    Args:
        data: name of the set.
        patches: with the truth.
        reference, candidate: targets by stage, as ``task_score.run_unmixer`` gives them.
        replicates, seed: of the bootstrap.
    """
    sides = (reference, candidate)
    rankings = {stage: [_ranking(side[stage], patches) for side in sides] for stage in STAGES}
    hits = [_count_is_right(side["refined"], patches) for side in sides]

    def scores(weight: NDArray[np.float64]) -> list[list[float]]:
        rows = [[100 * float(np.mean(r.precisions(weight))) for r in pair] for pair in rankings.values()]
        return [*rows, [100 * float(weight @ hit / weight.sum()) for hit in hits]]

    names = [*(f"CSO-mAP {stage}" for stage in STAGES), "count refined"]
    return _differences(data, names, scores, len(patches), replicates, seed)


def compare_detection(
    data: str,
    reference: Sequence[ImageCounts],
    candidate: Sequence[ImageCounts],
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> list[Difference]:
    """Differences of a detector's scores on the same images (``task_score.score_detector``)."""
    tables = [np.array([list(vars(c).values()) for c in side], dtype=np.int64) for side in (reference, candidate)]

    def scores(weight: NDArray[np.float64]) -> list[list[float]]:
        rows = np.repeat(np.arange(len(weight)), weight.astype(np.int64))
        found = [score_detection([ImageCounts(*row) for row in table[rows].tolist()]) for table in tables]
        return [[getattr(score, name) for score in found] for name in ("iou", "niou", "pd", "fa")]

    return _differences(data, ["IoU", "nIoU", "Pd", "Fa"], scores, len(reference), replicates, seed)


def from_reference(patches: Patches, reference: Targets) -> Patches:
    """The same patches with the targets that a reference finds as their truth, for data without any."""
    number = np.bincount(reference.blob, minlength=len(patches))
    slot = np.arange(len(reference)) - np.repeat(np.cumsum(number) - number, number)
    truth = np.zeros((3, len(patches), max(1, int(number.max(initial=0)))))
    columns = (reference.x, reference.y, np.maximum(reference.radiance, 1e-6))  # radiance 0 is an empty slot
    for table, column in zip(truth, columns):
        table[reference.blob, slot] = column
    rest = {f.name: getattr(patches, f.name) for f in fields(Patches)}
    return Patches(**{**rest, "x": truth[0], "y": truth[1], "radiance": truth[2], "count": number})


def _ranking(targets: Targets, patches: Patches) -> Ranking:
    return rank_detections(
        targets.blob, targets.x, targets.y, targets.score,
        truth_x=patches.x, truth_y=patches.y, truth_radiance=patches.radiance,
    )  # fmt: skip


def _count_is_right(targets: Targets, patches: Patches) -> NDArray[np.bool_]:
    counts = np.bincount(targets.blob, minlength=len(patches))
    right: NDArray[np.bool_] = counts == (patches.radiance > 0).sum(axis=1)
    return right


def _differences(
    data: str,
    names: Sequence[str],
    scores: Callable[[NDArray[np.float64]], Any],
    number: int,
    replicates: int,
    seed: int,
) -> list[Difference]:
    """Rows of (reference, candidate) of all data and the spread of their differences over the replicates."""
    whole = np.asarray(scores(np.ones(number)))
    rng = np.random.default_rng(seed)
    draws = (rng.multinomial(number, np.full(number, 1 / number)).astype(np.float64) for _ in range(replicates))
    drawn = np.array([np.diff(scores(weight), axis=1)[:, 0] for weight in draws])  # [R, scores]
    low, high = np.percentile(drawn, _INTERVAL_PERCENTILES, axis=0)
    return [Difference(data, name, *map(float, row)) for name, row in zip(names, np.column_stack([whole, low, high]))]
