"""One-to-one matching of points, shared by every score that needs it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

DETECTION_MATCH_PX = 3.0  # a predicted spot is a true one if their centroids are nearer than this
UNMIXING_MATCH_PX = 0.5  # the least separation of two targets: beyond it a pair is not the same target


def match_points(distance: NDArray[np.float64], limit: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pair rows with columns: as many pairs nearer than ``limit`` as possible, then the closest.

    Args:
        distance: ``[N, M]``; infinity where no pair is allowed.
        limit: pairs at this distance or beyond are none.

    Returns:
        Row and column of each pair.
    """
    # One pair beyond the limit must cost more than all allowed pairs together.
    beyond = (limit + 1.0) * (min(distance.shape) + 1)
    cost = np.where(distance < limit, distance, beyond)
    rows, columns = linear_sum_assignment(cost)
    allowed = cost[rows, columns] < limit
    return rows[allowed], columns[allowed]
