"""Detection scores: IoU, nIoU, F1 over pixels; Pd and Fa over connected components (8-neighbours).

Pd: share of the true components that a predicted component matches one-to-one, with centroids less
than 3 px apart (as many matches as possible, then the closest). Fa: pixels of unmatched predicted
components over all pixels. ``legacy`` pairs as the widely copied code does: each true component, in
scan order, takes the first predicted component within 3 px that is not taken yet. (Many copies also
drop unmatched components whose area equals a matched one's, which lowers Fa: that is not copied.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glint.errors import InputError
from glint.metrics.matching import DETECTION_MATCH_PX, match_points

MATCHINGS = ("one-to-one", "legacy")
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.int8)


@dataclass(frozen=True)
class ImageCounts:
    """What one image adds to the scores, all whole numbers.

    Attributes:
        intersection, predicted, actual: pixels in both masks, in the prediction, in the truth.
        targets, found: true components, and those matched.
        false_pixels: pixels of unmatched predicted components.
        pixels: of the image.
    """

    intersection: int
    predicted: int
    actual: int
    targets: int
    found: int
    false_pixels: int
    pixels: int


FIGURES = {"iou": ("IoU", "%"), "niou": ("nIoU", "%"), "f1": ("F1", "%"), "pd": ("Pd", "%"), "fa": ("Fa", "1e-6")}
"""How each figure of a :class:`DetectionScore` is written, and its unit; texts and reports show all of them."""


@dataclass(frozen=True)
class DetectionScore:
    """Scores of a set of images; percent except ``fa``.

    Attributes:
        iou: intersection over union of all pixels of all images.
        niou: mean of each image's IoU; an empty image that stays empty counts 100.
        f1: of pixels.
        pd: true components found.
        fa: false pixels per million pixels.
        targets, images: how many.
        matching: ``one-to-one`` or ``legacy``.
    """

    iou: float
    niou: float
    f1: float
    pd: float
    fa: float
    targets: int
    images: int
    matching: str


def components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Centroids (x, y) ``[N, 2]`` and areas ``[N]`` of the 8-connected components, in scan order."""
    labels, number = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
    index = np.arange(1, number + 1)
    areas = np.bincount(labels.ravel(), minlength=number + 1)[1:]
    centroids = np.array(ndimage.center_of_mass(mask, labels, index), dtype=np.float64).reshape(-1, 2)
    return centroids[:, ::-1], areas


def _match_legacy(distance: NDArray[np.float64]) -> NDArray[np.int64]:
    taken: list[int] = []
    for row in distance:
        free = [j for j in np.flatnonzero(row < DETECTION_MATCH_PX) if j not in taken]
        taken.extend(int(j) for j in free[:1])
    return np.array(taken, dtype=np.int64)


def count_image(
    predicted: NDArray[np.bool_], actual: NDArray[np.bool_], *, matching: str = "one-to-one"
) -> ImageCounts:
    """Compare a predicted with a true mask, both ``bool [H, W]``.

    Raises:
        InputError: if the shapes differ or the matching is unknown.
    """
    if predicted.shape != actual.shape:
        raise InputError(
            f"the predicted mask has shape {predicted.shape}, the true one {actual.shape}",
            hint="predict at the size of the images: masks are compared pixel by pixel",
        )
    if matching not in MATCHINGS:
        raise InputError(f"matching: expected one of {', '.join(MATCHINGS)}, got {matching!r}")
    truth, _ = components(actual)
    guess, areas = components(predicted)
    distance = np.hypot(*(truth[:, None] - guess[None]).transpose(2, 0, 1))
    one_to_one = matching == "one-to-one"
    matched = match_points(distance, DETECTION_MATCH_PX)[1] if one_to_one else _match_legacy(distance)
    return ImageCounts(
        intersection=int((predicted & actual).sum()),
        predicted=int(predicted.sum()),
        actual=int(actual.sum()),
        targets=len(truth),
        found=len(matched),
        false_pixels=int(areas.sum() - areas[matched].sum()),
        pixels=actual.size,
    )


def score_detection(counts: Iterable[ImageCounts], *, matching: str = "one-to-one") -> DetectionScore:
    """Scores of all images together; ``matching`` is what the counts were made with."""
    table = _table(counts)
    figures = {name: float(value[0]) for name, value in _figures(table[None]).items()}
    return DetectionScore(**figures, targets=int(table[:, 3].sum()), images=len(table), matching=matching)


def bootstrap_detection(
    counts: Iterable[ImageCounts], *, samples: int = 2000, seed: int = 1
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of the scores when the images are drawn anew, with replacement.

    Args:
        counts: of every image.
        samples: draws of as many images as there are.
        seed: of the draws.

    Returns:
        Low and high of each of :data:`FIGURES`, in its unit; NaN where a score is unknown.
    """
    table = _table(counts)
    if not len(table):
        return dict.fromkeys(FIGURES, (float("nan"), float("nan")))
    drawn = np.random.default_rng(seed).integers(len(table), size=(samples, len(table)))
    intervals = {}
    for name, values in _figures(table[drawn]).items():
        known = values[~np.isnan(values)]
        low, high = np.percentile(known, (2.5, 97.5)) if len(known) else (np.nan, np.nan)
        intervals[name] = (float(low), float(high))
    return intervals


def _table(counts: Iterable[ImageCounts]) -> NDArray[np.int64]:
    """One row per image, the fields of ``ImageCounts`` in their order: ``[N, 7]``."""
    return np.array([list(vars(c).values()) for c in counts], dtype=np.int64).reshape(-1, 7)


def _figures(tables: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """The scores of several sets of images: ``[S, N, 7]`` -> name -> ``[S]``; NaN where undefined."""
    each = np.moveaxis(tables, -1, 0)  # [7, S, N]
    intersection, predicted, actual, targets, found, false_pixels, pixels = each.sum(-1)
    union = each[1] + each[2] - each[0]
    per_image = np.where(union > 0, each[0] / np.maximum(union, 1), 1.0)
    return {
        "iou": 100 * _ratio(intersection, predicted + actual - intersection),
        "niou": 100 * _ratio(per_image.sum(-1), np.full(len(tables), tables.shape[1])),
        "f1": 100 * _ratio(2 * intersection, predicted + actual),
        "pd": 100 * _ratio(found, targets),
        "fa": 1e6 * _ratio(false_pixels, pixels),
    }


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
