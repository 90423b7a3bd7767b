"""Which targets of an image are found, and what kind of targets they are: by size and by signal-to-clutter ratio.

Signal-to-clutter ratio (SCR): the brightest pixel of a target, above the background, over the standard deviation of
the background in the 21 x 21 pixels around it, which counts as 1 DN at least. The background is the image with its
targets inpainted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glint.errors import InputError
from glint.metrics.detection import components
from glint.metrics.matching import DETECTION_MATCH_PX, match_points
from glint.processing.inpaint import background_under, reach_of

SCR_EDGES = (3.0, 5.0, 10.0, 20.0)
AREA_EDGES_PX = (5.0, 10.0, 30.0, 80.0)
_AROUND_PX = 10  # to all sides
_LEAST_CLUTTER_DN = 1.0


@dataclass(frozen=True, eq=False)
class TargetMatches:
    """What one image says of its targets.

    Attributes:
        found: whether each is matched by a reported spot ``bool [N]``.
        area: pixels of each ``float64 [N]``; NaN if unknown.
        scr: signal-to-clutter ratio of each ``float64 [N]``; NaN if unknown.
        false: reported spots that match none.
    """

    found: NDArray[np.bool_]
    area: NDArray[np.float64]
    scr: NDArray[np.float64]
    false: int


def match_targets(
    predicted: NDArray[np.bool_], actual: NDArray[np.bool_], scr: NDArray[np.float64] | None = None
) -> TargetMatches:
    """Compare masks ``bool [H, W]`` by the one-to-one matching of :mod:`glint.metrics.detection`.

    Args:
        predicted, actual: the masks.
        scr: of the true components in scan order, or None if unknown.

    Raises:
        InputError: if the shapes differ.
    """
    if predicted.shape != actual.shape:
        raise InputError(
            f"the predicted mask has shape {predicted.shape}, the true one {actual.shape}",
            hint="predict at the size of the images: masks are compared pixel by pixel",
        )
    truth, areas = components(actual)
    guess, _ = components(predicted)
    distance = np.hypot(*(truth[:, None] - guess[None]).transpose(2, 0, 1))
    rows, columns = match_points(distance, DETECTION_MATCH_PX)
    found = np.zeros(len(truth), dtype=bool)
    found[rows] = True
    known = np.full(len(truth), np.nan) if scr is None else scr
    return TargetMatches(found, areas.astype(np.float64), known, len(guess) - len(columns))


def signal_to_clutter(image: NDArray[Any], actual: NDArray[np.bool_]) -> NDArray[np.float64]:
    """SCR of each 8-connected component of a mask ``bool [H, W]``, in scan order; NaN without any background."""
    spots, number = ndimage.label(actual, np.ones((3, 3)))
    if not number or reach_of(actual).all():
        return np.full(number, np.nan)
    background = background_under(image, actual)
    light = image - background
    ratios = np.empty(number)
    for k, window in enumerate(ndimage.find_objects(spots)):
        inside = spots[window] == k + 1
        ratios[k] = light[window][inside].max() / clutter(background, *window)
    return ratios


def clutter(background: NDArray[Any], rows: slice, columns: slice) -> float:
    """Standard deviation of a window and 10 pixels to all sides of it, DN, at least 1."""
    around = tuple(slice(max(0, s.start - _AROUND_PX), s.stop + _AROUND_PX) for s in (rows, columns))
    return max(float(background[around].std(dtype=np.float64)), _LEAST_CLUTTER_DN)


def found_by(value: NDArray[np.float64], found: NDArray[np.bool_], edges: Sequence[float]) -> list[dict[str, Any]]:
    """Targets and found ones by a property: bins below the first edge, between two, and from the last on.

    Args:
        value: of each target ``[N]``; targets of NaN are in no bin.
        found: whether each is found ``[N]``.
        edges: rising.

    Returns:
        For each bin ``low`` and ``high`` (None: no limit), ``targets``, ``found``, ``pd`` (percent; None without).
    """
    rows = []
    for low, high in zip((-math.inf, *edges), (*edges, math.inf)):
        inside = (value >= low) & (value < high)
        targets, hits = int(inside.sum()), int((inside & found).sum())
        limits = {"low": None if low == -math.inf else low, "high": None if high == math.inf else high}
        rows.append({**limits, "targets": targets, "found": hits, "pd": 100 * hits / targets if targets else None})
    return rows
