"""fp16 with float32 islands: types, digits and the range of the values."""

import numpy as np
import onnx
import pytest
import tiny_net
from onnx import TensorProto

from glint.calibration.fp16 import check_range, float_nodes, to_fp16
from glint.calibration.int8_layers import Graph, float_tensors, tensor_types
from glint.calibration.rounding import round_like_fp16
from glint.calibration.tensor_ranges import observe, session
from glint.cards import load_card, zoo_names
from glint.errors import InputError
from glint.export.lint.lint import lint

HALF, SINGLE = TensorProto.FLOAT16, TensorProto.FLOAT
FP32 = [name.removesuffix(".fp32") for name in zoo_names() if name.endswith(".fp32")]


def models():
    return [tiny_net.tiny(), *(onnx.load(load_card(name)[1]) for name in FP32)]


@pytest.mark.parametrize("model", models(), ids=["tiny", *FP32])
def test_every_node_computes_in_the_type_of_its_place(model):
    half = to_fp16(model)
    types, single = tensor_types(half), float_nodes(model)
    assert [types[v.name] for v in (*half.graph.input, *half.graph.output)] == [SINGLE] * (1 + len(model.graph.output))
    names = {node.name for node in half.graph.node if node.op_type != "Cast"}
    assert names == {node.name for node in model.graph.node}
    for node in half.graph.node:
        if node.op_type == "Cast":
            continue
        inputs = node.input[:1] if node.op_type == "Resize" else node.input  # its scales are always float32
        seen = {types[name] for name in (*inputs, *node.output) if name} & {HALF, SINGLE}
        assert seen <= {SINGLE if node.name in single else HALF}, node.name


@pytest.mark.parametrize("model", models(), ids=["tiny", *FP32])
def test_no_value_passes_through_float16_inside_an_island(model):
    half = to_fp16(model)
    graph = Graph(half)
    casts = [node for node in half.graph.node if node.op_type == "Cast"]
    assert len({(node.input[0], node.attribute[0].i) for node in casts}) == len(casts)
    for node in casts:
        before = graph.maker.get(node.input[0])
        assert before is None or before.op_type != "Cast" or node.attribute[0].i == HALF
        assert node.input[0] not in graph.constants
    assert [finding.text() for finding in lint(half)] == []


@pytest.mark.parametrize("model", models(), ids=["tiny", *FP32])
def test_the_same_model_gives_the_same_bytes(model):
    before = model.SerializeToString(deterministic=True)
    one, two = (to_fp16(model).SerializeToString(deterministic=True) for _ in range(2))
    assert one == two
    assert model.SerializeToString(deterministic=True) == before


def test_results_are_those_of_the_float_model_within_the_digits_of_float16():
    model, (frame,) = tiny_net.tiny(), tiny_net.frames(1)
    for exact, half in zip(tiny_net.run(model, frame), tiny_net.run(to_fp16(model), frame)):
        assert half.dtype == np.float32
        assert np.abs(half - exact).max() < 4e-3 * np.abs(exact).max()
        assert not np.array_equal(half, exact)


def test_a_constant_that_an_island_shares_keeps_its_digits_there():
    half = to_fp16(tiny_net.tiny())
    graph = Graph(half)
    inside = graph.value(graph.nodes["block/fp32/Mul"].input[1])
    assert inside.dtype == np.float32 and inside == np.float32(1e-9)
    assert graph.value(graph.nodes["block/AddTiny"].input[1]).dtype == np.float16


def test_the_frame_reaches_an_output_unrounded():
    # 1 + 2^-20 has no float16: the background is frame - smooth, in float32, and smooth sees 1.
    frame = np.full((1, 1, 16, 16), 1 + 2.0**-20, dtype=np.float32)
    plain = np.ones_like(frame)
    one, two = (tiny_net.run(round_like_fp16(to_fp16(tiny_net.tiny())), f)[1] for f in (frame, plain))
    assert np.allclose(one - two, 2.0**-20, rtol=0.2)


def largest(model):
    return observe(model, float_tensors(model), tiny_net.frames(2)).largest


def test_values_near_the_limit_are_named(capsys):
    report = check_range(tiny_net.tiny(), largest(tiny_net.tiny()))
    assert 0.5 < report["largest"] < 50 and report["layer"] and capsys.readouterr().err == ""
    warm = tiny_net.tiny(gain=3e3)
    check_range(warm, largest(warm))
    assert "block/Add (" in capsys.readouterr().err
    hot = tiny_net.tiny(gain=3e4)
    with pytest.raises(InputError, match="fp16 ends at 65504") as caught:
        check_range(hot, largest(hot))
    assert "block/Add (" in str(caught.value) and "island" in str(caught.value.hint)


def test_large_values_inside_an_island_do_not_matter():
    tops = {**largest(tiny_net.tiny()), "block/fp32/Neg": 1e6}
    assert check_range(tiny_net.tiny(), tops)["largest"] < 50
    tops["block/fp32/Mul"] = 1e6  # but what leaves it is float16
    with pytest.raises(InputError, match="fp32/Mul"):
        check_range(tiny_net.tiny(), tops)


def test_onnx_runtime_loads_what_it_is_given():
    assert session(to_fp16(tiny_net.tiny())).get_inputs()[0].type == "tensor(float)"
