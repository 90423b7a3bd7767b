"""Groups of pixels: their boxes, middles, highest probabilities and sizes."""

import numpy as np
import pytest

from glint.processing.connected import (
    describe_groups,
    laid_over,
    number_connected,
    numbers_of,
    pixels_above,
    relabelled,
)


def labelled(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    probability = rng.random((23, 31), dtype=np.float32)
    rows, columns = pixels_above(probability, 0.8)
    labels = np.zeros(probability.shape, dtype=np.int32)
    return probability, rows, columns, labels, number_connected(rows, columns, labels)


def test_groups_are_described_by_their_pixels() -> None:
    rng = np.random.default_rng(3)
    probability, rows, columns, labels, number = labelled(rng)
    weight = rng.random(len(rows)) + 0.1
    (x, y, score), area, box = describe_groups(rows, columns, labels, weight, probability, number)
    for k in range(number):
        mine = labels[rows, columns] == k + 1
        assert area[k] == mine.sum() and score[k] == probability[rows[mine], columns[mine]].max()
        assert x[k] == pytest.approx(np.average(columns[mine], weights=weight[mine]))
        assert y[k] == pytest.approx(np.average(rows[mine], weights=weight[mine]))
        left, top, width, height = box[k]
        assert (left, top) == (columns[mine].min(), rows[mine].min())
        assert (width, height) == (np.ptp(columns[mine]) + 1, np.ptp(rows[mine]) + 1)


def test_groups_are_numbered_anew_as_a_look_at_each_pixel_does_it() -> None:
    rng = np.random.default_rng(5)
    labels = labelled(rng)[3]
    kept = rng.random(labels.max()) < 0.5
    number = numbers_of(kept, 7)
    assert sorted(number[number > 0]) == list(range(8, 8 + kept.sum())) and number[0] == 0
    assert np.array_equal(relabelled(labels, number), number[labels])
    below = rng.integers(0, 3, labels.shape).astype(np.int32)
    expected = np.where(number[labels] > 0, number[labels], below)
    assert np.array_equal(laid_over(labels, number, below), expected)
