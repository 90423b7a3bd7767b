"""A detector on frames without targets: false alarms, Pd of planted targets, flux of planted clusters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glint.benchmarks.evaluate.detection_scores import Predict, Prediction
from glint.benchmarks.evaluate.planted import Array, Planted, plant
from glint.data.datasets import LabelledImage
from glint.metrics.detection import components
from glint.metrics.matching import match_points

SCRS = (1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0)
SINGLES_PER_LEVEL = 3  # singles of each SCR on a frame
CLUSTERS_PER_FRAME = 8  # on a frame
CLUSTER_SCR = (5.0, 40.0)  # drawn log-uniformly
MATCH_PX = 3.0  # between a target and the centre of the spot that finds it
_WORST_FRAMES = 5  # frames that are named


def evaluate_backgrounds(
    predict: Predict,
    frames: Iterable[tuple[str, Array]],
    *,
    threshold: float = 0.5,
    seed: int = 1,
    trained: Iterable[str] = (),
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Measure a detector on empty frames, and on the same with planted targets (see ``planted``).

    Args:
        predict: what is measured.
        frames: name and image of each.
        threshold: a pixel is predicted if its probability exceeds this.
        seed: of what is planted.
        trained: names of frames that the model has seen; their false alarms are told apart.
        progress: called with the number of frames done.

    Returns:
        ``false_alarms``, ``pd_by_scr`` and ``flux``, ready for JSON; unknown figures are None, as is ``flux``
        where the predictions hold no background.
    """
    seen = set(trained)
    alarms: dict[str, int] = {}
    singles: dict[float, list[bool]] = {scr: [] for scr in SCRS}
    flux: list[NDArray[np.float64] | None] = []
    for index, (name, image) in enumerate(frames):
        rng = np.random.default_rng((seed, index))
        bare, _ = components(_look(predict, image).probability > threshold)
        alarms[name] = len(bare)
        points = plant(image, SCRS * SINGLES_PER_LEVEL, [1] * (SINGLES_PER_LEVEL * len(SCRS)), rng, avoid=bare)
        found = _found(_look(predict, points.data).probability > threshold, points)
        for i, scr in enumerate(points.scr.tolist()):
            singles[scr].append(i in found)
        scrs = np.exp(rng.uniform(math.log(CLUSTER_SCR[0]), math.log(CLUSTER_SCR[1]), CLUSTERS_PER_FRAME)).tolist()
        groups = plant(image, scrs, rng.integers(2, 6, CLUSTERS_PER_FRAME).tolist(), rng, avoid=bare)
        flux.extend(_fluxes(_look(predict, groups.data), threshold, groups))
        progress(index + 1)
    return {
        "false_alarms": _alarms(alarms, seen),
        "pd_by_scr": [_share(scr, hits) for scr, hits in singles.items()],
        "flux": _flux_errors(flux),
    }


def _look(predict: Predict, image: Array) -> Prediction:
    return predict(LabelledImage("", image, np.zeros(image.shape, dtype=bool)))


def _found(mask: NDArray[np.bool_], planted: Planted) -> dict[int, int]:
    """Which predicted spot (its number in scan order, from 0) finds each planted one."""
    centres, _ = components(mask)
    distance = np.hypot(planted.x[:, None] - centres[:, 0], planted.y[:, None] - centres[:, 1])
    return dict(zip(*(v.tolist() for v in match_points(distance, MATCH_PX))))


def _fluxes(prediction: Prediction, threshold: float, planted: Planted) -> list[NDArray[np.float64] | None]:
    """Of each cluster: D - B and T over its spot by the truth, and the spot's share of the whole; None if missed."""
    if prediction.background is None or prediction.target is None:
        return []
    mask = prediction.probability > threshold
    labels = ndimage.label(mask, structure=np.ones((3, 3)))[0]  # numbered in scan order, as ``components`` does
    residual = planted.data - prediction.background.astype(np.float64)
    found = _found(mask, planted)
    rows: list[NDArray[np.float64] | None] = []
    for i, (left, top, pixels) in enumerate(planted.spots):
        inside = labels == found.get(i, -2) + 1
        truth = float(pixels[inside[top : top + len(pixels), left : left + len(pixels)]].sum())
        sums = residual[inside].sum(), prediction.target[inside].sum(dtype=np.float64)
        rows.append(np.array([sums[0] / truth, sums[1] / truth, truth / pixels.sum()]) if truth > 0 else None)
    return rows


def _flux_errors(clusters: Sequence[NDArray[np.float64] | None]) -> dict[str, Any] | None:
    if not clusters:
        return None
    rows = [row for row in clusters if row is not None]
    figures: dict[str, Any] = {"clusters": len(clusters), "found": len(rows)}
    if not rows:
        return {**figures, "residual_error": None, "residual_ratio": None, "target_error": None, "inside": None}
    residual, target, inside = np.array(rows).T
    return {
        **figures,
        "residual_error": float(100 * np.median(np.abs(residual - 1))),
        "residual_ratio": float(np.median(residual)),
        "target_error": float(100 * np.median(np.abs(target - 1))),
        "inside": float(100 * np.median(inside)),
    }


def _share(scr: float, hits: Sequence[bool]) -> dict[str, Any]:
    if not hits:
        return {"scr": scr, "targets": 0, "pd": None, "interval": None}
    found = sum(hits)
    return {
        "scr": scr, "targets": len(hits), "pd": 100 * found / len(hits), "interval": list(wilson(found, len(hits)))
    }  # fmt: skip


def wilson(found: int, of: int) -> tuple[float, float]:
    """95 % interval of a share of at least one, percent (Wilson's score interval)."""
    z, p = 1.959964, found / of
    middle, spread = p + z * z / (2 * of), z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    scale = 100 / (1 + z * z / of)
    return scale * (middle - spread), scale * (middle + spread)


def _alarms(alarms: dict[str, int], seen: set[str]) -> dict[str, Any]:
    def mean(values: list[int]) -> float | None:
        return float(np.mean(values)) if values else None

    new = [n for name, n in alarms.items() if name not in seen]
    worst = sorted(alarms.items(), key=lambda item: -item[1])[:_WORST_FRAMES]
    return {
        "frames": len(alarms), "per_frame": mean(list(alarms.values())), "unseen_frames": len(new),
        "per_unseen_frame": mean(new), "worst": [{"name": name, "alarms": n} for name, n in worst if n],
    }  # fmt: skip
