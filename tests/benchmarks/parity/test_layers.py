"""Layers of two graphs: a layer that was broken on purpose is the one that is named."""

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from glint.benchmarks.parity.layers import LayerError, compare_layers, first_below, largest_losses
from glint.cards import load_card
from glint.errors import InputError, ModelError

LAYERS = 6


def chain(folder, name, *, scale=None, half=(), infinite=None, prefix="layer"):
    """Six linear layers with ReLU between; some computed in float16, one perturbed or overflowing."""
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for i in range(LAYERS):
        weight = rng.normal(0, 0.4, (8, 8)).astype(np.float32)
        if scale is not None and scale[0] == i:
            weight *= 1 + scale[1] * np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32)
        if infinite == i:
            weight *= np.float32(1e38)
        kind = np.float16 if i in half else np.float32
        weights.append(numpy_helper.from_array(weight.astype(kind), f"w{i}"))
        if i in half:
            nodes.append(helper.make_node("Cast", [last], [f"{i}.half"], f"cast{i}", to=TensorProto.FLOAT16))
            last = f"{i}.half"
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [f"{name}.{i}"], f"{prefix}{i}/MatMul"))
        last = f"{name}.{i}"
        if i in half:
            nodes.append(helper.make_node("Cast", [last], [f"{i}.float"], f"back{i}", to=TensorProto.FLOAT))
            last = f"{i}.float"
        nodes.append(helper.make_node("Relu", [last], [f"{name}.{i}.relu"], f"{prefix}{i}/Relu"))
        last = f"{name}.{i}.relu"
    nodes.append(helper.make_node("Identity", [last], ["y"], f"{prefix}/end"))
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 8]) for n in "xy"]
    graph = helper.make_graph(nodes, "chain", value[:1], value[1:], weights)
    path = folder / f"{name}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), path)
    return path


X = {"x": np.random.default_rng(2).normal(size=(50, 8)).astype(np.float32)}


@pytest.mark.parametrize("broken", range(LAYERS))
def test_the_layer_with_changed_weights_is_named(tmp_path, broken):
    layers = compare_layers(chain(tmp_path, "one"), chain(tmp_path, "two", scale=(broken, 0.1)), X)
    assert len(layers) == 2 * LAYERS + 1
    found = first_below(layers, 60)
    assert found is not None and found.name == f"layer{broken}/MatMul"
    assert found.before == math.inf and 10 < found.sqnr < 30
    assert all(layer.sqnr == math.inf for layer in layers[: 2 * broken])


def test_the_errors_are_those_of_the_tensors(tmp_path):
    layers = compare_layers(chain(tmp_path, "one"), chain(tmp_path, "two", scale=(0, 0.1)), X)
    w = numpy_helper.to_array(onnx.load(tmp_path / "one.onnx").graph.initializer[0]).astype(np.float64)
    v = numpy_helper.to_array(onnx.load(tmp_path / "two.onnx").graph.initializer[0]).astype(np.float64)
    one, two = X["x"] @ w, X["x"] @ v
    first = layers[0]
    assert first.sqnr == pytest.approx(10 * np.log10((one**2).sum() / ((two - one) ** 2).sum()), abs=1e-3)
    assert first.needed == pytest.approx(np.abs(two - one).max() / np.abs(one).max(), rel=1e-4)


def test_casts_that_only_one_graph_has_belong_to_the_layer_behind_them(tmp_path):
    layers = compare_layers(chain(tmp_path, "one"), chain(tmp_path, "two", half=(2, 3)), X)
    assert [layer.name for layer in layers][:3] == ["layer0/MatMul", "layer0/Relu", "layer1/MatMul"]
    found = first_below(layers, 200)
    assert found is not None and found.name == "layer2/MatMul" and found.sqnr > 50


def test_the_largest_loss_is_where_the_signal_gets_worse_most(tmp_path):
    both = compare_layers(chain(tmp_path, "one"), chain(tmp_path, "two", half=(0, 1, 2, 3, 4, 5), scale=(3, 0.2)), X)
    assert largest_losses(both, 60)[0].name == "layer3/MatMul"
    assert len(largest_losses(both, 60, 2)) == 2


def test_an_overflow_is_a_bad_layer_whatever_the_limit(tmp_path):
    layers = compare_layers(chain(tmp_path, "one"), chain(tmp_path, "two", infinite=4), {"x": 100 * X["x"]})
    found = first_below(layers, -1000)
    assert found is not None and found.name == "layer4/MatMul" and found.not_finite > 0


def test_what_a_layer_loses_is_not_what_was_lost_before():
    assert LayerError("a", "Relu", 20, 20, 0.1, 0).lost(50) == 0
    assert LayerError("a", "Relu", 30, 20, 0.1, 0).lost(50) == 0
    assert LayerError("a", "Relu", 20, 35, 0.1, 0).lost(50) == 15
    assert LayerError("a", "Relu", 20, math.inf, 0.1, 0).lost(50) == 30
    assert LayerError("a", "Relu", 60, math.inf, 0.1, 0).lost(50) == 0


def test_graphs_without_common_layers_are_refused(tmp_path):
    with pytest.raises(InputError, match="in common"):
        compare_layers(chain(tmp_path, "one"), chain(tmp_path, "two", prefix="other"), X)


def test_a_file_that_is_no_model_or_data_that_do_not_fit_are_errors(tmp_path):
    good, bad = chain(tmp_path, "one"), tmp_path / "bad.onnx"
    bad.write_bytes(b"no model")
    with pytest.raises(ModelError, match="bad"):
        compare_layers(good, bad, X)
    with pytest.raises(ModelError, match="failed"):
        compare_layers(good, good, {"x": np.zeros((3, 9), np.float32)})


def test_a_released_model_agrees_with_itself_and_a_changed_convolution_is_found(tmp_path):
    _, path = load_card("dscsnet-s-csist")
    model = onnx.load(path)
    target = [node for node in model.graph.node if node.op_type == "Conv"][5]
    weight = next(t for t in model.graph.initializer if t.name == target.input[1])
    changed = numpy_helper.to_array(weight) + np.float32(0.01)
    weight.CopyFrom(numpy_helper.from_array(changed, weight.name))
    onnx.save(model, tmp_path / "changed.onnx")
    patch = {"patch": np.random.default_rng(0).random((4, 2, 7, 7), dtype=np.float32)}
    assert all(layer.sqnr == math.inf for layer in compare_layers(path, path, patch))
    found = first_below(compare_layers(path, tmp_path / "changed.onnx", patch), 60)
    assert found is not None and found.name == target.name
