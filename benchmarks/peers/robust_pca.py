"""Robust principal component analysis: a matrix as low rank plus sparse.

min |L|_* + lambda |S|_1 subject to L + S = D, by the inexact augmented Lagrange multiplier method
(Lin, Chen, Ma, "The Augmented Lagrange Multiplier Method for Exact Recovery of Corrupted Low-Rank
Matrices", 2010, algorithm 5): the problem that the infrared patch-image model poses, in a fraction
of the steps of the accelerated proximal gradient method that its authors used.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
_PENALTY_GROWTH = 1.5  # of the penalty, per step
_MOST_STEPS = 200


def robust_pca(data: Matrix, weight: float, *, tolerance: float = 1e-3) -> tuple[Matrix, Matrix]:
    """Low-rank and sparse part of a matrix.

    Args:
        data: ``[M, N]``.
        weight: lambda.
        tolerance: largest |D - L - S| / |D|, Frobenius norms, at which to stop; on SIRST less finds no more.
    """
    norm = float(np.linalg.norm(data))
    if norm == 0:
        return np.zeros_like(data), np.zeros_like(data)
    largest = float(np.sqrt(_spectrum(data)[0][-1]))
    dual = data / max(largest, float(np.abs(data).max()) / weight)
    penalty = 1.25 / largest
    sparse = np.zeros_like(data)
    for _ in range(_MOST_STEPS):
        low_rank = threshold_singular_values(data - sparse + dual / penalty, 1 / penalty)
        rest = data - low_rank + dual / penalty
        sparse = np.sign(rest) * np.maximum(np.abs(rest) - weight / penalty, 0)
        gap = data - low_rank - sparse
        dual += penalty * gap
        penalty *= _PENALTY_GROWTH
        if np.linalg.norm(gap) <= tolerance * norm:
            break
    return low_rank, sparse


def threshold_singular_values(data: Matrix, amount: float) -> Matrix:
    """The matrix with every singular value s replaced by max(s - amount, 0)."""
    # By the eigenvectors of the smaller Gram matrix: several times faster than the SVD of a tall matrix, and
    # the digits that squaring costs are those of singular values far below any threshold here.
    squares, vectors = _spectrum(data)
    values = np.sqrt(np.maximum(squares, 0))
    kept = values > amount
    gain = (values[kept] - amount) / values[kept]
    basis = vectors[:, kept]
    if data.shape[0] <= data.shape[1]:
        return (basis * gain) @ (basis.T @ data)
    return (data @ basis) * gain @ basis.T


def _spectrum(data: Matrix) -> tuple[NDArray[np.float64], Matrix]:
    """Squared singular values, rising, and the singular vectors of the shorter side, as columns."""
    gram = data @ data.T if data.shape[0] <= data.shape[1] else data.T @ data
    squares, vectors = np.linalg.eigh(gram)
    return squares, vectors
