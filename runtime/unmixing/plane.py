"""The plane through the background of a window."""

from __future__ import annotations

import numpy as np

from glint.compiled import compiled
from glint.runtime.unmixing.normal_equations import Array, factorise, substitute

PLANE = 3  # parameters of the background: level and two slopes
_LEAST_WEIGHT = 1e-9  # of each parameter: without any pixel the plane is 0


@compiled
def plane_through(values: Array, weight: Array) -> tuple[Array, Array, float, float]:
    """Fit a plane by weighted least squares.

    Args:
        values: ``[w, w]``; numbers of one size, because squares of large ones would lose digits.
        weight: of each pixel, ``[w, w]``, 0 for none.

    Returns:
        Level and slopes about the middle ``[3]``, their normal matrix ``[3, 3]``, the squares that are left, and the
        sum of the weights.
    """
    size = len(values)
    matrix, right, term = np.diag(np.full(PLANE, _LEAST_WEIGHT)), np.zeros(PLANE), np.ones(PLANE)
    square, total = 0.0, 0.0
    for row in range(size):
        for column in range(size):
            share = weight[row, column]
            if share > 0:
                value = values[row, column]
                term[1], term[2] = column - (size - 1) / 2, row - (size - 1) / 2
                for i in range(PLANE):
                    right[i] += share * term[i] * value
                    for j in range(PLANE):
                        matrix[i, j] += share * term[i] * term[j]
                square += share * value * value
                total += share
    plane, factor = right.copy(), matrix.copy()
    factorise(factor)
    substitute(factor, plane)
    return plane, matrix, max(square - (plane * right).sum(), 0.0), total
