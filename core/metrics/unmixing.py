"""CSO-mAP, as the CSIST-100K benchmark defines it, and what it leaves out.

For each distance t of 0.05, 0.10, 0.15, 0.20, 0.25 px: all detections of all patches are sorted by
score; each looks at the nearest truth of its own patch only, and is a true positive if that is
within t and not taken by a detection of higher score; AP is the area under the interpolated
precision-recall curve; CSO-mAP is the mean over t. It knows no penalty for a wrong count and no
radiance error: those are reported beside it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from glint.errors import InputError
from glint.files import known
from glint.metrics.matching import UNMIXING_MATCH_PX, match_points

THRESHOLDS = (0.05, 0.10, 0.15, 0.20, 0.25)


@dataclass(frozen=True)
class UnmixingScore:
    """The score of a set of patches.

    Attributes:
        cso_map: mean of ``ap``, percent.
        ap: average precision at each of :data:`THRESHOLDS`, percent.
        count_accuracy: patches with the right number of targets, percent.
        position_rmse: sqrt(mean(dx^2 + dy^2)) of the matched pairs, pixels; NaN without pairs.
        radiance_error: median |error| / truth of the matched pairs, percent; NaN without pairs.
        matched: share of the truths that have a detection within :data:`UNMIXING_MATCH_PX` in a
            one-to-one match, percent.
        patches: number of patches.
    """

    cso_map: float
    ap: tuple[float, ...]
    count_accuracy: float
    position_rmse: float
    radiance_error: float
    matched: float
    patches: int

    def as_dict(self) -> dict[str, Any]:
        """All but ``patches`` for a JSON document, with four decimals; what is NaN is None."""
        values = {name: np.round(value, 4).tolist() for name, value in asdict(self).items() if name != "patches"}
        return dict(known(values))


def average_precision(
    true_positive: NDArray[np.bool_], truths: float, weight: NDArray[np.floating] | None = None
) -> float:
    """Area under the interpolated precision-recall curve, in [0, 1].

    Args:
        true_positive: verdicts in order of falling score.
        truths: number of targets to be found, each as often as it counts.
        weight: how often each detection counts (default: once).
    """
    if truths == 0 or len(true_positive) == 0:
        return 0.0
    often = np.ones(len(true_positive)) if weight is None else weight
    hits = np.flatnonzero(true_positive)
    found = np.cumsum(often[hits])
    precision = found / np.maximum(np.cumsum(often)[hits], 1e-12)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    # Recall grows by weight/truths at each true positive, under the best precision from there on.
    return float((often[hits] * envelope).sum() / truths)


@dataclass(frozen=True, eq=False)
class Ranking:
    """Detections in order of falling score, with their verdicts: all that average precision depends on.

    Attributes:
        patch: of each detection, ``int64 [M]``.
        true_positive: at each of :data:`THRESHOLDS`, ``bool [5, M]``.
        truths: targets of each patch, ``int64 [N]``.
    """

    patch: NDArray[np.int64]
    true_positive: NDArray[np.bool_]
    truths: NDArray[np.int64]

    def precisions(self, weight: NDArray[np.floating] | None = None) -> list[float]:
        """AP in [0, 1] at each threshold; ``weight [N]``: how often each patch counts (default: once)."""
        if weight is None:
            return [average_precision(row, float(self.truths.sum())) for row in self.true_positive]
        truths, often = float(weight @ self.truths), weight[self.patch]
        return [average_precision(row, truths, often) for row in self.true_positive]


def rank_detections(
    patch: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    score: ArrayLike,
    *,
    truth_x: NDArray[np.floating],
    truth_y: NDArray[np.floating],
    truth_radiance: NDArray[np.floating],
) -> Ranking:
    """Which detections are true, in order of their scores; arguments and errors as in :func:`score_unmixing`."""
    patch, x, y, score = _columns(patch, x, y, score, number=len(truth_x))
    used = truth_radiance > 0
    return _rank(patch, _distances(patch, x, y, truth_x, truth_y, used), score, used)


def score_unmixing(
    patch: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    radiance: ArrayLike,
    score: ArrayLike,
    *,
    truth_x: NDArray[np.floating],
    truth_y: NDArray[np.floating],
    truth_radiance: NDArray[np.floating],
) -> UnmixingScore:
    """Score detections against simulated patches.

    Args:
        patch: number of the patch of each detection, ``[M]``.
        x, y, radiance, score: of each detection, ``[M]``, patch pixels and DN.
        truth_x, truth_y, truth_radiance: ``[N, K]``; a slot of radiance 0 is empty.

    Raises:
        InputError: if a patch number is not in 0..N-1 or the columns differ in length.
    """
    number = len(truth_x)
    patch, x, y, radiance, score = _columns(patch, x, y, radiance, score, number=number)
    used = truth_radiance > 0
    truths = int(used.sum())
    distance = _distances(patch, x, y, truth_x, truth_y, used)
    ap = tuple(100 * ap for ap in _rank(patch, distance, score, used).precisions())
    pairs = _match(patch, distance)
    found, slot = pairs[:, 0], pairs[:, 1]
    truth = truth_radiance[patch[found], slot]
    counts = np.bincount(patch, minlength=number)
    return UnmixingScore(
        cso_map=float(np.mean(ap)),
        ap=ap,
        count_accuracy=float(100 * np.mean(counts == used.sum(1))) if number else float("nan"),
        position_rmse=_rms(distance[found, slot]),
        radiance_error=float(100 * np.median(np.abs(radiance[found] / truth - 1))) if len(pairs) else float("nan"),
        matched=100 * len(pairs) / truths if truths else float("nan"),
        patches=number,
    )


def _columns(patch: ArrayLike, *others: ArrayLike, number: int) -> tuple[NDArray[Any], ...]:
    """Patch numbers and what goes with them as arrays of one length."""
    patch = np.asarray(patch, dtype=np.int64)
    columns = [np.asarray(v, dtype=np.float64) for v in others]
    if any(v.shape != patch.shape for v in columns) or patch.ndim != 1:
        raise InputError(
            "score_unmixing: patch, x, y, radiance and score must be columns of one length",
            hint="give one entry for each target in all of them",
        )
    if len(patch) and not (patch.min() >= 0 and patch.max() < number):
        raise InputError(
            f"score_unmixing: patch numbers must lie in 0..{number - 1}",
            hint="number the patches from 0, in the order of the true ones",
        )
    return patch, *columns


def _distances(
    patch: NDArray[np.int64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    truth_x: NDArray[np.floating],
    truth_y: NDArray[np.floating],
    used: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """From each detection to each truth of its patch, infinite for empty slots: ``[M, K]``."""
    distance = np.hypot(truth_x[patch] - x[:, None], truth_y[patch] - y[:, None])
    return np.where(used[patch], distance, np.inf)


def _rank(
    patch: NDArray[np.int64], distance: NDArray[np.float64], score: NDArray[np.float64], used: NDArray[np.bool_]
) -> Ranking:
    slots = used.shape[1]
    order = np.argsort(-score, kind="stable")
    true_positive = np.zeros((len(THRESHOLDS), len(patch)), dtype=bool)
    if len(patch) and slots:
        slot = distance.argmin(1)
        nearest = distance[np.arange(len(patch)), slot][order]
        identity = (patch * slots + slot)[order]
        for row, threshold in zip(true_positive, THRESHOLDS):
            close = np.flatnonzero(nearest <= threshold)
            _, first = np.unique(identity[close], return_index=True)  # the highest score takes the truth
            row[close[first]] = True
    return Ranking(patch[order], true_positive, used.sum(axis=1, dtype=np.int64))


def _match(patch: NDArray[np.int64], distance: NDArray[np.float64]) -> NDArray[np.int64]:
    """One-to-one pairs (detection, truth slot) of least total distance within UNMIXING_MATCH_PX: ``[P, 2]``."""
    pairs: list[tuple[int, int]] = []
    order = np.argsort(patch, kind="stable")
    starts = np.flatnonzero(np.diff(patch[order], prepend=-1))
    for rows in np.split(order, starts[1:]) if len(order) else []:
        found, slot = match_points(distance[rows], UNMIXING_MATCH_PX)
        pairs.extend(zip(rows[found].tolist(), slot.tolist()))
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2))) if len(values) else float("nan")
