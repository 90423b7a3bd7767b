"""Normal equations of least squares, small and dense: filled in, damped, solved, inverted; the plane under a window."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from glint.compiled import compiled

PLANE = 3  # parameters of the background: level and two slopes
_LEAST_WEIGHT = 1e-9  # of each parameter: without any pixel the plane is 0
_LEAST_PIVOT = 1e-14  # of a matrix with 1 on its diagonal: what rounding leaves
_LEAST_DIAGONAL = 1e-12  # that keeps a matrix regular

Array = NDArray[np.float64]


@compiled
def normal_equations(jacobian: Array, residual: Array, noise: float, information: Array, gradient: Array) -> float:
    """Fill in the information ``[P, P]`` and the downhill gradient ``[P]`` of a Jacobian ``[P, N]``; the misfit."""
    weight = 1 / (noise * noise)
    for i in range(len(gradient)):
        for j in range(i + 1):
            information[i, j] = information[j, i] = weight * _dot(jacobian[i], jacobian[j])
        gradient[i] = weight * _dot(jacobian[i], residual)
    return weight * _dot(residual, residual)


@compiled
def _dot(a: Array, b: Array) -> float:
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@compiled
def damped_step(information: Array, gradient: Array, damping: float, scaled: Array, step: Array) -> None:
    """Fill in Levenberg's step in units of the parameters; ``scaled`` is room for a matrix, ``step`` may be longer."""
    free = len(gradient)
    scale = np.empty(free)
    for i in range(free):
        scale[i] = 1 / math.sqrt(information[i, i])
        for j in range(i):
            scaled[i, j] = information[i, j] * scale[i] * scale[j]
        scaled[i, i] = 1 + damping + 1e-9
        step[i] = gradient[i] * scale[i]
    factorise(scaled)
    substitute(scaled, step)
    for i in range(free):
        step[i] *= scale[i]


@compiled
def factorise(matrix: Array) -> None:
    """Replace the lower triangle of a positive definite matrix by its Cholesky factor; the diagonal by 1 / its own."""
    for i in range(len(matrix)):
        for j in range(i):
            rest = matrix[i, j]
            for k in range(j):
                rest -= matrix[i, k] * matrix[j, k]
            matrix[i, j] = rest * matrix[j, j]
        rest = matrix[i, i]
        for k in range(i):
            rest -= matrix[i, k] * matrix[i, k]
        matrix[i, i] = 1 / math.sqrt(max(rest, _LEAST_PIVOT))


@compiled
def substitute(factor: Array, values: Array) -> None:
    """Solve a system of equations in place, from the factor of its matrix; ``values`` may be longer."""
    n = len(factor)
    for i in range(n):
        for k in range(i):
            values[i] -= factor[i, k] * values[k]
        values[i] *= factor[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            values[i] -= factor[k, i] * values[k]
        values[i] *= factor[i, i]


@compiled
def diagonal_of_inverse(matrix: Array) -> Array:
    """Diagonal of the inverse of a positive definite matrix ``[P, P]``, whatever the units of its rows."""
    n = len(matrix)
    scale, factor, result = np.empty(n), np.empty((n, n)), np.zeros(n)
    for i in range(n):
        scale[i] = 1 / math.sqrt(max(matrix[i, i], _LEAST_DIAGONAL))
        for j in range(i + 1):
            factor[i, j] = matrix[i, j] * scale[i] * scale[j]
    factorise(factor)
    column = np.empty(n)
    for j in range(n):  # columns of the factor's inverse
        for i in range(j, n):
            rest = 1.0 if i == j else 0.0
            for k in range(j, i):
                rest -= factor[i, k] * column[k]
            column[i] = rest * factor[i, i]
            result[j] += column[i] * column[i]
        result[j] *= scale[j] * scale[j]
    return result


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
