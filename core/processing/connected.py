"""Connected groups of the few pixels of a map that exceed a level."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from glint.compiled import entry


@entry("f4[2] f8")
def pixels_above(probability: NDArray[np.float32], threshold: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the pixels above a threshold, line by line."""
    height, width = probability.shape
    level = np.float32(threshold)
    counts = np.zeros(height, dtype=np.int64)
    for row in range(height):
        for column in range(width):
            counts[row] += probability[row, column] > level
    rows, columns = np.empty(counts.sum(), dtype=np.int64), np.empty(counts.sum(), dtype=np.int64)
    k = 0
    for row in range(height):
        if counts[row] > 0:
            for column in range(width):
                if probability[row, column] > level:
                    rows[k], columns[k] = row, column
                    k += 1
    return rows, columns


@entry("i8[1] i8[1] i4[2] f8[1] f4[2] i8")
def describe_groups(
    rows: NDArray[np.int64], columns: NDArray[np.int64], labels: NDArray[np.int32], weight: NDArray[np.float64],
    probability: NDArray[np.float32], number: int,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:  # fmt: skip
    """The groups 1 to ``number`` of pixels.

    Returns:
        Weighted x and y and the highest probability ``[3, number]``; how many pixels ``[number]``; left, top, width and
        height ``[number, 4]``.
    """
    values, area, total = np.zeros((3, number)), np.zeros(number, dtype=np.int64), np.zeros(number)
    box = np.zeros((number, 4), dtype=np.int64)
    for i in range(len(rows)):
        k = labels[rows[i], columns[i]] - 1
        if area[k] == 0:
            box[k, 0], box[k, 1], box[k, 2], box[k, 3] = columns[i], rows[i], columns[i], rows[i]
        box[k, 0], box[k, 1] = min(box[k, 0], columns[i]), min(box[k, 1], rows[i])
        box[k, 2], box[k, 3] = max(box[k, 2], columns[i]), max(box[k, 3], rows[i])
        area[k] += 1
        total[k] += weight[i]
        values[0, k] += weight[i] * columns[i]
        values[1, k] += weight[i] * rows[i]
        values[2, k] = max(values[2, k], probability[rows[i], columns[i]])
    for k in range(number):
        values[0, k] /= total[k]
        values[1, k] /= total[k]
        for axis in range(2):
            box[k, 2 + axis] += 1 - box[k, axis]
    return values, area, box


@entry("i8[1] i8[1] i4[2]")
def number_connected(rows: NDArray[np.int64], columns: NDArray[np.int64], labels: NDArray[np.int32]) -> int:
    """Number the 8-connected groups of pixels, given line by line, from 1 in ``labels``; returns how many there are.

    Only these pixels and their neighbours are looked at: targets are few pixels in a large frame.
    """
    width = labels.shape[1]
    same = np.arange(len(rows) + 1)  # a lower provisional number of the same group
    for k in range(len(rows)):
        row, column = rows[k], columns[k]
        root = k + 1
        for i, j in ((row, column - 1), (row - 1, column - 1), (row - 1, column), (row - 1, column + 1)):
            if i >= 0 and 0 <= j < width and labels[i, j] > 0:
                other = labels[i, j]
                while same[other] != other:
                    other = same[other]
                root, high = min(root, other), max(root, other)
                same[high] = root
        labels[row, column] = k + 1
    number = 0
    for k in range(1, len(same)):
        if same[k] == k:
            number += 1
            same[k] = -number
        else:  # lower numbers are final by now
            same[k] = same[same[k]]
    for k in range(len(rows)):
        labels[rows[k], columns[k]] = -same[k + 1]
    return number


def numbers_of(kept: NDArray[np.bool_], first: int = 0) -> NDArray[np.int32]:
    """The label of each label when only the groups that are ``kept`` are numbered, from ``first`` + 1 on; 0 for 0."""
    number = np.zeros(len(kept) + 1, dtype=np.int32)
    number[1:][kept] = np.arange(first + 1, first + 1 + int(kept.sum()))
    return number


def relabelled(labels: NDArray[np.int32], number: NDArray[np.int32]) -> NDArray[np.int32]:
    """``number[labels]``, where ``number[0]`` is 0: looked up where there are labels, which is in few places."""
    return laid_over(labels, number, np.zeros(labels.shape, dtype=np.int32))


def laid_over(labels: NDArray[np.int32], number: NDArray[np.int32], below: NDArray[np.int32]) -> NDArray[np.int32]:
    """``number[labels]`` where that is not 0, and else another map, into whose array it is written."""
    places = np.flatnonzero(labels != 0)
    values = number[labels.reshape(-1)[places]]
    below.reshape(-1)[places[values > 0]] = values[values > 0]
    return below
