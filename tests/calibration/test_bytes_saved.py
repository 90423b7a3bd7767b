"""The count of bytes that INT8 saves, against figures worked out by hand for the tiny network."""

import numpy as np
import pytest
import tiny_net

from glint.calibration.balance import balance
from glint.calibration.bytes_saved import BytesSaved
from glint.calibration.int8_layers import Graph

N = 32 * 8 * 10  # numbers of each tensor
WEIGHTS = 32 * 32 * 9  # of each layer
INNER, SECOND, WIDE = Graph(tiny_net.tiny()).layers()
SHAPES = dict.fromkeys(("start/Mul", "block.middle/Mul", "block/Add_1"), (1, 32, 8, 10))


@pytest.mark.parametrize(
    ("layers", "skips", "expected"),
    [
        ([], [], 0),
        # Written and read once in one byte each instead of two.
        ([SECOND], [], 2 * N),
        # The sum reads the same tensor in float: a kernel more reads 2 N and writes N, the layer reads N less.
        ([INNER], [], -2 * N),
        # With the skip in int8, too, one copy serves both.
        ([INNER, SECOND], [SECOND], 2 * N + 3 * N),
        # Two others stay in float.
        ([WIDE], [], -2 * N),
    ],
)
def test_bytes_by_hand(layers, skips, expected):
    saved = BytesSaved(Graph(tiny_net.tiny()), SHAPES)(layers, skips)
    assert saved == expected + WEIGHTS * len(layers)


def test_a_balanced_layer_has_a_copy_of_its_own():
    model = balance(tiny_net.tiny(), [SECOND], {SECOND.name: np.exp2(np.arange(32) % 3).astype(np.float32)})
    layers = Graph(model).layers()
    second = next(layer for layer in layers if layer.name == SECOND.name)
    assert second.data != SECOND.data
    assert BytesSaved(Graph(model), SHAPES)([second], []) == 2 * N + WEIGHTS
