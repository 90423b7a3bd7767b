"""Continuing a background under what covers it."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sparse
import scipy.sparse.linalg
from numpy.typing import NDArray
from scipy import ndimage

from glint.errors import InputError

MARGIN_PX = 2  # pixels around a target's mask that its blur reaches


def inpaint(image: NDArray[np.floating], hole: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Harmonic inpainting: Laplace's equation inside ``hole`` with the image as its boundary.

    Pixels beyond the frame's edge are mirrored. Both arrays are ``[H, W]``; a hole that is the
    whole frame has no boundary.

    Raises:
        InputError: if nothing is left outside the hole.
    """
    if hole.all():
        raise InputError("inpaint: the hole covers the whole frame", hint="leave a pixel of background at least")
    result = image.astype(np.float64)
    rows, columns = np.nonzero(hole)
    if not len(rows):
        return result
    number = np.full(hole.shape, -1, dtype=np.int64)
    number[rows, columns] = np.arange(len(rows))
    height, width = hole.shape
    right_side = np.zeros(len(rows))
    entries = [(np.arange(len(rows)), np.arange(len(rows)), np.full(len(rows), 4.0))]
    for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        r, c = np.clip(rows + dy, 0, height - 1), np.clip(columns + dx, 0, width - 1)
        neighbour = number[r, c]
        inside = neighbour >= 0
        entries.append((np.flatnonzero(inside), neighbour[inside], np.full(inside.sum(), -1.0)))
        right_side[~inside] += result[r[~inside], c[~inside]]
    i, j, v = (np.concatenate(part) for part in zip(*entries))
    matrix = sparse.csr_matrix((v, (i, j)), shape=(len(rows), len(rows)))
    result[rows, columns] = scipy.sparse.linalg.spsolve(matrix, right_side)
    return result


def reach_of(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask of targets and :data:`MARGIN_PX` pixels around them, ``bool [H, W]``."""
    reach: NDArray[np.bool_] = ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=MARGIN_PX)
    return reach


def background_under(image: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """B*, the frame without its targets: inpainted inside :func:`reach_of` their mask.

    Raises:
        InputError: if that is the whole frame.
    """
    return inpaint(image, reach_of(mask))
