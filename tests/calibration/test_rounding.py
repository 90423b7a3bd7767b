"""The fp32 twin of an fp16 graph rounds as float16 does."""

import numpy as np
import onnx
import tiny_net
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from glint.calibration.fp16 import to_fp16
from glint.calibration.int8_layers import tensor_types
from glint.calibration.rounding import round_like_fp16
from glint.calibration.tensor_ranges import session


def chain(*operators):
    """Cast to float16, operators on a tensor and itself, cast back."""
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])
    nodes = [helper.make_node("Cast", ["x"], ["t0"], "down", to=TensorProto.FLOAT16)]
    nodes += [helper.make_node(o, [f"t{i}"] * 2, [f"t{i + 1}"], f"n{i}") for i, o in enumerate(operators)]
    nodes.append(helper.make_node("Cast", [nodes[-1].output[0]], ["y"], "up", to=TensorProto.FLOAT))
    graph = helper.make_graph(nodes, "cast", [entry], [out])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


CAST = session(round_like_fp16(chain()))


@given(st.lists(st.floats(2.0**-14, 65504, width=32), min_size=1), st.sampled_from([-1, 1]))
def test_rounding_is_that_of_float16(values, sign):
    x = sign * np.array(values, dtype=np.float32)
    assert np.array_equal(CAST.run(None, {"x": x})[0], x.astype(np.float16).astype(np.float32))


def test_what_float16_cannot_hold_becomes_infinite():
    x = np.array([65504, 65519, 65521, 7e4, 3e38, -7e4, np.inf, 6.2e-5], dtype=np.float32)
    with np.errstate(over="ignore"):
        assert np.array_equal(CAST.run(None, {"x": x})[0], x.astype(np.float16).astype(np.float32))
    square = session(round_like_fp16(chain("Mul", "Sub")))
    assert np.isnan(square.run(None, {"x": np.array([300.0], np.float32)})[0]).all()  # inf - inf


def test_onnx_runtime_itself_leaves_roundings_out():
    """The reason for all this; when it fails, the twin is no longer needed."""
    x = np.linspace(1, 2, 100, dtype=np.float32)
    expected = (x.astype(np.float16) ** 2) ** 2
    model = chain("Mul", "Mul")
    assert not np.array_equal(session(model).run(None, {"x": x})[0], expected)
    assert np.array_equal(session(round_like_fp16(model)).run(None, {"x": x})[0], expected)


def test_a_network_gives_what_numpy_computes_in_float16():
    half = to_fp16(tiny_net.tiny())
    (frame,) = tiny_net.frames(1, side=16)
    exact = ReferenceEvaluator(tiny_net.tiny()).run(None, {"frame": frame})
    numpy16 = ReferenceEvaluator(half).run(None, {"frame": frame})
    twin = tiny_net.run(round_like_fp16(half), frame)
    for e, n, t in zip(exact, numpy16, twin):
        theirs, ours = (float(np.sqrt(np.square(v - e).mean())) for v in (n, t))
        assert 0.2 * theirs < ours < 1.5 * theirs  # NumPy also adds up in float16


def test_a_float_graph_stays_as_it_is_and_the_twin_has_no_float16():
    (frame,) = tiny_net.frames(1)
    model = tiny_net.tiny()
    for a, b in zip(tiny_net.run(model, frame), tiny_net.run(round_like_fp16(model), frame)):
        assert np.array_equal(a, b)
    twin = round_like_fp16(to_fp16(model))
    onnx.checker.check_model(twin, full_check=True)
    assert TensorProto.FLOAT16 not in tensor_types(twin).values()
