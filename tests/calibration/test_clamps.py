"""Extreme scenes, and the clamps that keep a network finite in float16."""

import numpy as np
import onnx
import pytest
import small_graphs as small
from onnx import TensorProto

from glint.calibration.clamps import CLAMP, clamped, extreme_images, extreme_inputs
from glint.calibration.fp16 import to_fp16
from glint.calibration.rounding import round_like_fp16
from glint.calibration.tensor_ranges import session
from glint.cards import load_card, zoo_names

SHAPE = (1, 8, 16, 16)


def growing(gain):
    """y = sigmoid((x + gain x) / 1000): the sum leaves float16 where x is large."""
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["c"], name="body/Conv"),
        onnx.helper.make_node("Add", ["x", "c"], ["s"], name="body/Add"),
        onnx.helper.make_node("Sub", ["s", "c"], ["d"], name="body/Sub"),
        onnx.helper.make_node("Sigmoid", ["d"], ["y"], name="body/Sigmoid"),
    ]
    return small.model(nodes, weights={"w": gain * np.eye(8, dtype=np.float32)[:, :, None, None]})


def largest():
    return dict.fromkeys(("c", "s", "d", "y"), 1.0)


def test_a_tensor_that_leaves_float16_is_clamped_and_the_rest_is_left():
    model = growing(1e6)
    extreme = np.full(SHAPE, 255, np.float32)
    twin = session(round_like_fp16(to_fp16(model)))
    assert not np.isfinite(twin.run(None, {"x": extreme})[0]).all()
    safe, reached = clamped(model, largest(), [extreme])
    assert reached.keys() == {"body/Conv"}  # read twice, so that the sum alone would not do
    twin = session(round_like_fp16(to_fp16(safe)))
    assert np.isfinite(twin.run(None, {"x": extreme})[0]).all()
    ordinary = np.random.default_rng(0).uniform(0, CLAMP / 1e6, SHAPE).astype(np.float32)
    first, second = (session(m).run(None, {"x": ordinary})[0] for m in (model, safe))
    assert np.array_equal(first, second)
    assert {n.name for n in model.graph.node} < {n.name for n in safe.graph.node}


def test_nothing_is_clamped_where_nothing_grows():
    model = growing(1.0)
    safe, reached = clamped(model, largest(), [np.full(SHAPE, 255, np.float32)])
    assert reached == {} and safe == model


def test_extreme_images_are_what_they_are_called():
    images = extreme_images(11)
    assert {i.shape for i in images} == {(11, 11)} and {i.dtype for i in images} == {np.dtype(np.uint8)}
    sums = [int((i == 255).sum()) for i in images]
    assert {0, 11, 121, 25, 49} <= set(sums)


@pytest.mark.parametrize("name", [n for n in zoo_names() if not n.endswith("fp32")])
def test_released_models_are_finite_in_extreme_scenes(name):
    card, path = load_card(path_of(name))
    twin = session(round_like_fp16(onnx.load(path)))
    names = [value.name for value in twin.get_outputs()]
    batches = extreme_inputs(card)
    for batch in batches[:: max(1, len(batches) // 6)]:
        for output, value in zip(names, twin.run(names, {twin.get_inputs()[0].name: batch})):
            assert np.isfinite(value).all(), output


def path_of(name):
    from glint.cards import zoo_folder

    return zoo_folder() / f"{name}.json"


def test_clamps_are_float16_in_the_fp16_model():
    safe, _ = clamped(growing(1e6), largest(), [np.full(SHAPE, 255, np.float32)])
    bounds = {t.name: t.data_type for t in to_fp16(safe).graph.initializer if t.name.startswith("clamp/")}
    assert set(bounds.values()) == {TensorProto.FLOAT16}
