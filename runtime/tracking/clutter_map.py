"""Where in the frame tracks ended lately: there, clutter is denser than a table for all places says.

The frame is cut into cells of ``CELL_PX``. Each track that ends there makes clutter denser by ``DENSITY_PER_END`` times
what the table says, and is forgotten with ``MEMORY_S``; overlay text whose digits change, or a lamp that flickers, is
learned after a few. No cell counts more than ``MOST_ENDS``, so that a place is never closed for good.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CELL_PX = 8
DENSITY_PER_END = 10.0
MEMORY_S = 20.0
MOST_ENDS = 20.0
_LEAST_SHARE = 1e-6  # of what is remembered, at which cells are counted anew


class ClutterMap:
    """Ends of tracks by cell of the frame; what is beyond ``side`` cells belongs to the last."""

    def __init__(self, side: int = 512) -> None:
        self._ends = np.zeros((side, side))  # times what was forgotten since they were counted: ``_share``
        self._share = 1.0

    def _cells(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rows, columns = ((v // CELL_PX).astype(np.int64).clip(0, len(self._ends) - 1) for v in (y, x))
        return rows, columns

    def learn(self, x: NDArray[np.float64], y: NDArray[np.float64], seconds: float) -> None:
        """Tracks ended there, so many seconds after the frame before; pixels."""
        self._share *= max(0.0, 1 - seconds / MEMORY_S)  # all cells forget alike: one number does it
        if self._share < _LEAST_SHARE:
            self._ends *= self._share
            self._share = 1.0
        if len(x):
            cells = self._cells(x, y)
            np.add.at(self._ends, cells, 1 / self._share)
            self._ends[cells] = np.minimum(self._ends[cells], MOST_ENDS / self._share)

    def factor(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """How many times as dense as usual false detections are at places, pixels ``[N]``."""
        return 1.0 + DENSITY_PER_END * self._share * self._ends[self._cells(x, y)]
