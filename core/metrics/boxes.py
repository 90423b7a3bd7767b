"""Detection scores where targets have boxes: is it found, and how many other spots are reported?

A target is found if the centroid of a reported spot (8-connected pixels) lies in its box, widened about its centre to
:data:`BOX_FACTOR` times its width and height. Every spot outside of that is false: what else an image holds is
unlabelled, so that some of them may be real.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glint.metrics.detection import components

BOX_FACTOR = 1.5


@dataclass(frozen=True)
class BoxCounts:
    """What one image says: whether its target is found, and the number of false spots."""

    found: bool
    false: int


@dataclass(frozen=True)
class BoxScore:
    """Scores of a set of images: ``pd`` in percent (NaN without images), false spots per image, images."""

    pd: float
    false_per_frame: float
    images: int


def count_box(predicted: NDArray[np.bool_], box: tuple[int, int, int, int]) -> BoxCounts:
    """Compare a predicted mask ``bool [H, W]`` with a box: first column and row, width and height, pixels."""
    x, y, width, height = box
    centres, _ = components(predicted)
    away = np.abs(centres - (x + (width - 1) / 2, y + (height - 1) / 2))
    near = (away <= BOX_FACTOR * np.array([width, height]) / 2).all(axis=1)
    return BoxCounts(bool(near.any()), int((~near).sum()))


def score_boxes(counts: Iterable[BoxCounts]) -> BoxScore:
    """Scores of all images together."""
    rows = list(counts)
    if not rows:
        return BoxScore(float("nan"), float("nan"), 0)
    return BoxScore(100 * float(np.mean([r.found for r in rows])), float(np.mean([r.false for r in rows])), len(rows))
