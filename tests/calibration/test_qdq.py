"""Explicit quantisation: what is put in, beside ONNX Runtime's own quantiser, and that TensorRT's rules hold."""

import logging
import warnings

import numpy as np
import onnx
import pytest
import tiny_net
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper

from glint.calibration.fp16 import to_fp16
from glint.calibration.int8_layers import Graph, QuantisableLayer, tensor_types
from glint.calibration.qdq import Scales, activation_scale, quantise, weight_codes
from glint.calibration.tensor_ranges import session
from glint.calibration.threshold_choice import rounded
from glint.export.lint.lint import lint

THRESHOLDS = {"start/Mul": 3.0, "block.middle/Mul": 2.5, "block/Add_1": 4.0}


def quantised(model=None, scales=Scales()):  # noqa: B008
    layers = Graph(tiny_net.tiny()).layers()
    return quantise(model or tiny_net.tiny(), layers, [layer for layer in layers if layer.skip], THRESHOLDS, scales)


@pytest.mark.parametrize("half", [False, True])
def test_q_dq_stands_where_the_plan_wants_it_and_nowhere_else(half):
    model = quantised(to_fp16(tiny_net.tiny()) if half else None)
    graph, types = Graph(model), tensor_types(model)
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("QuantizeLinear") == 3  # one per tensor, also where a layer and a skip read it
    assert operators.count("DequantizeLinear") == 3 + 3 + 1  # data and weights of three layers, one skip
    for name in ("first/Conv", "narrow/Conv", "last/Conv", "smooth/Conv", *tiny_net.FLOAT):
        makers = [graph.maker.get(i) for i in graph.nodes[name].input]
        assert not [m for m in makers if m is not None and m.op_type == "DequantizeLinear"]
    for name in tiny_net.CANDIDATES:
        data, weight = (graph.maker[i] for i in graph.nodes[name].input[:2])
        assert data.op_type == weight.op_type == "DequantizeLinear"
        assert graph.value(weight.input[0]).dtype == np.int8
        assert graph.value(weight.input[1]).shape == (32,) and weight.attribute[0].i == 0  # per output channel
        assert graph.value(data.input[1]).shape == ()
        assert types[data.output[0]] == types[weight.output[0]] == (TensorProto.FLOAT16 if half else TensorProto.FLOAT)
    skip = [graph.maker.get(i) for i in graph.nodes[tiny_net.SKIP].input]
    assert [m.op_type for m in skip] == ["DequantizeLinear", "Conv"]
    for node in model.graph.node:
        if node.op_type.endswith("quantizeLinear") or node.op_type == "QuantizeLinear":
            zero = graph.value(node.input[2])
            assert zero.dtype == np.int8 and not zero.any()
    assert [finding.text() for finding in lint(model)] == []


def test_scales_of_float32_in_an_fp16_graph():
    half = to_fp16(tiny_net.tiny())
    model = quantised(half, Scales(float32=True))
    graph, types = Graph(model), tensor_types(model)
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert types[node.input[1]] == TensorProto.FLOAT
    for name in tiny_net.CANDIDATES:
        assert {types[i] for i in graph.nodes[name].input} == {TensorProto.FLOAT}
        (reader,) = graph.readers[graph.nodes[name].output[0]]
        assert (reader.op_type, reader.output[0]) == ("Cast", Graph(half).nodes[name].output[0])
    assert [node.name for node in half.graph.node if node.name not in graph.nodes] == []
    assert [finding.text() for finding in lint(model)] == []
    (frame,) = tiny_net.frames(1)
    for one, other in zip(tiny_net.run(model, frame), tiny_net.run(quantised(half), frame)):
        assert np.abs(one - other).max() < 0.01 * np.abs(one).max()


def test_one_scale_for_all_weights_of_a_layer():
    model = quantised(to_fp16(tiny_net.tiny()), Scales(per_tensor=True))
    graph = Graph(model)
    for name in tiny_net.CANDIDATES:
        weight = graph.maker[graph.nodes[name].input[1]]
        codes, step = graph.value(weight.input[0]).astype(float), float(graph.value(weight.input[1]))
        assert graph.value(weight.input[1]).shape == () and not weight.attribute
        exact = Graph(tiny_net.tiny()).value(weight.input[0].removesuffix("/int8"))
        assert np.abs(codes).max() == 127 and np.abs(codes * step - exact).max() <= 0.6 * step
    assert [finding.text() for finding in lint(model)] == []


def test_weights_are_stored_once_and_small():
    model = quantised()
    names = {t.name for t in model.graph.initializer}
    assert "block.inner.weight" not in names and "block.inner.weight/int8" in names


def test_the_result_is_that_of_rounding_by_hand():
    (frame,) = tiny_net.frames(1)
    model = tiny_net.tiny()
    graph = Graph(model)
    (data,) = tiny_net.run(model, frame, "start/Mul")
    (got,) = tiny_net.run(quantised(), frame, "block.inner/Conv")
    codes, scales = weight_codes(graph.value("block.inner.weight"))
    weights = codes * scales[:, None, None, None]
    padded = np.pad(rounded(data, 3.0)[0].astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    expected = np.einsum("chwij,ocij->ohw", windows, weights) + graph.value("block.inner.bias")[:, None, None]
    assert np.allclose(got[0], expected, atol=1e-5)


def test_an_fp16_graph_computes_what_the_fp32_one_does():
    (frame,) = tiny_net.frames(1)
    for exact, half in zip(tiny_net.run(quantised(), frame), tiny_net.run(quantised(to_fp16(tiny_net.tiny())), frame)):
        assert np.abs(exact - half).max() < 0.03 * np.abs(exact).max()


def test_codes_and_scales_are_those_of_onnx_runtimes_quantiser(tmp_path):
    """One convolution and one layer, quantised by both from the same range."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Flatten", ["y"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "v"], ["z"], "gemm", transB=1),
    ]
    constants = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        for name, shape in {"w": (8, 8, 3, 3), "b": (8,), "v": (10, 8 * 16)}.items()
    ]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8, 4, 4])
    out = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 10])
    graph = helper.make_graph(nodes, "plain", [entry], [out], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    data = rng.normal(size=(6, 8, 4, 4)).astype(np.float32)
    (hidden,) = session(_with_output(model, "f")).run(["f"], {"x": data})

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.runs = iter([{"x": data}])

        def get_next(self):
            return next(self.runs, None)

    products = ["Conv", "Gemm"]
    onnx.save(model, tmp_path / "plain.onnx")
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_static(
            str(tmp_path / "plain.onnx"), str(tmp_path / "theirs.onnx"), Reader(), quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, per_channel=True,
            calibrate_method=CalibrationMethod.MinMax, op_types_to_quantize=products,
            extra_options={
                "ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False, "DedicatedQDQPair": True,
                "OpTypesToExcludeOutputQuantization": products,
            },
        )  # fmt: skip
    logging.disable(logging.NOTSET)
    theirs = onnx.load(tmp_path / "theirs.onnx")
    layers = [QuantisableLayer("conv", "x", "w"), QuantisableLayer("gemm", "f", "v")]
    tops = {"x": float(np.abs(data).max()), "f": float(np.abs(hidden).max())}
    ours = quantise(model, layers, [], tops)
    their_graph, our_graph = Graph(theirs), Graph(ours)
    for name in ("conv", "gemm"):
        mine, other = ([g.maker[i] for i in g.nodes[name].input[:2]] for g in (our_graph, their_graph))
        codes = our_graph.value(mine[1].input[0]).astype(int) - their_graph.value(other[1].input[0]).astype(int)
        assert np.abs(codes).max() <= 1 and (codes != 0).mean() < 0.01  # ties of rounding
        for side in (0, 1):
            scales = (g.value(n[side].input[1]) for g, n in ((our_graph, mine), (their_graph, other)))
            # ONNX Runtime spreads 255 steps over twice the range where glint spreads 254.
            assert np.allclose(*scales, rtol=5e-3)
        assert other[1].attribute[0].i == mine[1].attribute[0].i == 0
    results = [session(m).run(None, {"x": data})[0] for m in (model, ours, theirs)]
    error = [float(np.square(results[0] - r).mean()) for r in results[1:]]
    assert error[0] < 1.1 * error[1]


def _with_output(model, name):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return copy


FINITE = arrays.arrays(
    np.float32, arrays.array_shapes(min_dims=2, max_dims=4, max_side=6),
    elements=st.floats(-1000, 1000, width=32, allow_subnormal=False),
)  # fmt: skip


@given(FINITE, st.sampled_from([np.float32, np.float16]))
def test_weights_come_back_within_half_a_step(weights, dtype):
    codes, scales = weight_codes(weights, dtype)
    assert codes.dtype == np.int8 and np.abs(codes.astype(int)).max() <= 127
    assert scales.dtype == dtype and (scales > 0).all()
    steps = scales.astype(np.float64).reshape(-1, *[1] * (weights.ndim - 1))
    assert (np.abs(codes * steps - weights) <= steps * 0.5 * (1 + 1e-6)).all()


@given(st.floats(1e-6, 6e4), st.sampled_from([np.float32, np.float16]))
def test_the_threshold_itself_is_never_clipped(threshold, dtype):
    scale = activation_scale(threshold, dtype)
    assert scale == float(dtype(scale))
    assert threshold <= 127 * scale * (1 + 1e-12)
    assert scale <= max(threshold / 127 * (1 + 2e-3), 2.0**-14)
