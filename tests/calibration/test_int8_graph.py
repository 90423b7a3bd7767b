"""Which layers may become INT8, and the wiring that the rules read."""

import onnx
import pytest
import tiny_net
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from glint.calibration.int8_layers import Graph, drop_unused, macs_by_node, sort_nodes
from glint.cards import in_island, load_card, zoo_names

FP32 = [name.removesuffix(".fp32") for name in zoo_names() if name.endswith(".fp32")]


def test_layers_between_the_first_and_the_heads_may_become_int8():
    layers = Graph(tiny_net.tiny()).layers()
    assert [layer.name for layer in layers] == tiny_net.CANDIDATES  # not first, narrow, last, smooth
    assert [(layer.skip, layer.add) for layer in layers] == [("", ""), ("start/Mul", tiny_net.SKIP), ("", "")]


def test_what_carries_the_frame_to_an_output_is_no_layer():
    assert Graph(tiny_net.tiny()).carriers() == {"Sub"}


@pytest.mark.parametrize("name", FP32)
def test_of_released_models_islands_and_heads_and_first_layers_stay_float(name):
    card, path = load_card(name)
    graph = Graph(onnx.load(path))
    layers = {layer.name for layer in graph.layers()}
    assert not any(in_island(layer) for layer in layers)
    outside = {"theta", "mask", "smooth", "presence", "offset", "radiance", "spread"}
    outside |= {"encode"} if name == "lsnet-s" else set()  # DSCSNet's is behind a product: Phi^T y
    assert not [layer for layer in layers if not outside.isdisjoint(layer.split("/")[0].split("."))]
    skips = [layer for layer in graph.layers() if layer.skip]
    assert skips and all(graph.nodes[layer.add].op_type == "Add" for layer in skips)
    assert card.islands


def test_a_layer_of_whose_weights_the_output_channels_come_second_stays_float():
    frame = helper.make_tensor_value_info("frame", TensorProto.FLOAT, [4, 32])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    names = ["a", "b", "c"]
    weights = [helper.make_tensor(n, TensorProto.FLOAT, [32, 32], [0.0] * 1024) for n in names]
    inputs = ["frame", "t0", "t1"]
    nodes = [helper.make_node("Gemm", [i, n], [f"t{k}"], n, transB=1) for k, (i, n) in enumerate(zip(inputs, names))]
    nodes.append(helper.make_node("Gemm", ["t2", "a"], ["out"], "end", transB=1))
    model = helper.make_model(helper.make_graph(nodes, "gemms", [frame], [out], weights))
    assert [layer.name for layer in Graph(model).layers()] == ["b", "c"]
    nodes[1].attribute[0].i = 0
    model = helper.make_model(helper.make_graph(nodes, "gemms", [frame], [out], weights))
    assert [layer.name for layer in Graph(model).layers()] == ["c"]


def test_multiply_accumulates_are_those_of_the_formula():
    model = tiny_net.tiny()
    shapes = {"frame": (1, 1, 8, 10)}
    for node in model.graph.node:
        channels = {"first": 32, "block": 32, "wide": 32, "narrow": 16, "last": 1, "smooth": 1}
        shapes[node.output[0]] = (1, channels.get(node.name.split("/")[0].split(".")[0], 32), 8, 10)
    macs = macs_by_node(Graph(model), shapes)
    assert macs["block.inner/Conv"] == 32 * 32 * 9 * 80
    assert macs["first/Conv"] == 32 * 1 * 9 * 80
    assert macs["last/Conv"] == 48 * 9 * 80


@given(st.permutations(range(9)))
def test_sorted_nodes_come_after_what_they_read(order):
    model = tiny_net.tiny()
    nodes = list(model.graph.node)[: len(order)]
    rest = list(model.graph.node)[len(order) :]
    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    del graph.node[:]
    graph.node.extend([nodes[i] for i in order] + rest)
    sort_nodes(graph)
    known = {"frame", *(t.name for t in graph.initializer)}
    for node in graph.node:
        assert set(node.input) <= known
        known.update(node.output)
    assert sorted(n.name for n in graph.node) == sorted(n.name for n in model.graph.node)
    before = [n.name for n in graph.node]
    sort_nodes(graph)
    assert [n.name for n in graph.node] == before  # what is sorted stays as it is


def test_what_leads_nowhere_is_dropped_with_its_constants():
    model = tiny_net.tiny()
    model.graph.node.append(helper.make_node("Add", ["frame", "lonely"], ["nowhere"], "nowhere"))
    model.graph.initializer.append(helper.make_tensor("lonely", TensorProto.FLOAT, [1], [1.0]))
    drop_unused(model.graph)
    assert "nowhere" not in {n.name for n in model.graph.node}
    assert "lonely" not in {t.name for t in model.graph.initializer}
    assert len(model.graph.node) == len(tiny_net.tiny().graph.node)
