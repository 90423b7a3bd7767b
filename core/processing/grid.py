"""Between lists of targets and the c-times finer grid that the unmixing network works on."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from glint.errors import InputError
from glint.optics import cell_centre, cell_index


def encode(x: ArrayLike, y: ArrayLike, radiance: ArrayLike, n: int, c: int) -> NDArray[np.float32]:
    """Ground-truth grids: ``[N, K]`` targets of an n-pixel patch give ``float32 [N, c n, c n]``.

    A target's radiance goes to the cell that contains it; targets that share a cell add up.
    Targets of radiance 0 and targets outside the patch leave no trace.
    """
    x, y, radiance = (np.asarray(v, dtype=np.float64) for v in (x, y, radiance))
    column, row = cell_index(x, c), cell_index(y, c)
    inside = (radiance > 0) & (column >= 0) & (column < c * n) & (row >= 0) & (row < c * n)
    patch = np.broadcast_to(np.arange(len(x))[:, None], x.shape)
    grids = np.zeros((len(x), c * n, c * n), dtype=np.float32)
    np.add.at(grids, (patch[inside], row[inside], column[inside]), radiance[inside].astype(np.float32))
    return grids


def decode(
    grids: NDArray[np.floating], c: int, threshold: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Cells above a threshold as targets, as the CSIST-100K benchmark reads a grid.

    Args:
        grids: ``[N, c n, c n]`` radiance per cell.
        c: cells per pixel and axis.
        threshold: radiance that a cell must exceed; one number or one per patch ``[N]``.

    Returns:
        patch number ``int64 [M]``, x ``[M]``, y ``[M]`` in patch pixels, radiance ``[M]``.

    Raises:
        InputError: if the grids are not ``[N, c n, c n]``.
    """
    if grids.ndim != 3 or grids.shape[1] != grids.shape[2] or grids.shape[1] % c:
        raise InputError(f"decode: expected grids [N, {c} n, {c} n], got shape {grids.shape}")
    level = np.broadcast_to(np.asarray(threshold, dtype=np.float64), (len(grids),))
    patch, row, column = np.nonzero(grids > level[:, None, None])
    return patch, cell_centre(column, c), cell_centre(row, c), grids[patch, row, column].astype(np.float64)
