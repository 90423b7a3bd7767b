"""Small ONNX graphs, each with one property that matters to TensorRT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def model(
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: dict[str, tuple[int, Sequence[Any]]] | None = None,
    outputs: dict[str, tuple[int, Sequence[Any]]] | None = None,
    weights: dict[str, np.ndarray[Any, Any]] | None = None,
    opset: int = 19,
) -> onnx.ModelProto:
    """A graph from ``x`` to ``y``, both float ``[1, 8, 16, 16]`` unless said otherwise."""
    inputs = inputs or {"x": (FLOAT, (1, 8, 16, 16))}
    outputs = outputs or {"y": (FLOAT, (1, 8, 16, 16))}
    values = [[helper.make_tensor_value_info(n, *spec) for n, spec in side.items()] for side in (inputs, outputs)]
    initializers = [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "small", *values, initializer=initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str] = ("y",), **attributes: Any) -> onnx.NodeProto:
    """A node that is called after its operator."""
    return helper.make_node(operator, list(inputs), list(outputs), name=f"the/{operator}", **attributes)


def kernel(*shape: int, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    """Weights that do not depend on the run."""
    values = np.random.default_rng(0).normal(size=shape)
    return np.clip(np.round(40 * values), -127, 127).astype(dtype) if dtype == np.int8 else values.astype(dtype)


def quantised_conv(
    *,
    zero: int = 0,
    activation: Any = np.int8,
    per_channel_activation: bool = False,
    weight_axis: int = 0,
    bias: str = "",
    operator: str = "Conv",
    channels: int = 32,
    opset: int = 19,
) -> onnx.ModelProto:
    """x -> Q -> DQ -> Conv or ConvTranspose with int8 weights -> y, in the variants that TensorRT treats differently.

    Args:
        zero: zero point of the activation.
        activation: its type, int8 or uint8.
        per_channel_activation: a scale per channel instead of one.
        weight_axis: channel axis of the weights' scales, -1 for one scale.
        bias: "", "float32" or "int32" (through a DequantizeLinear, as ONNX Runtime writes it).
    """
    c = channels
    weights: dict[str, Any] = {
        "w": kernel(c, c, 3, 3, dtype=np.int8),
        "w_scale": np.full(c if weight_axis >= 0 else (), 0.01, np.float32),
        "w_zero": np.zeros(c if weight_axis >= 0 else (), np.int8),
        "scale": np.full(c if per_channel_activation else (), 0.02, np.float32),
        "zero": np.full(c if per_channel_activation else (), zero, activation),
    }
    axis = {"axis": 1} if per_channel_activation else {}
    names = ["x_dq", "w_dq"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x_q"], name="the/QuantizeLinear", **axis),
        helper.make_node("DequantizeLinear", ["x_q", "scale", "zero"], ["x_dq"], name="the/DequantizeLinear", **axis),
        helper.make_node(
            "DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_dq"], name="the/weight/DequantizeLinear",
            **({"axis": weight_axis} if weight_axis >= 0 else {}),
        ),
    ]  # fmt: skip
    if bias == "float32":
        weights["b"] = kernel(c)
        names.append("b")
    elif bias == "int32":
        weights |= {
            "b": np.arange(c, dtype=np.int32),
            "b_scale": np.full(c, 2e-4, np.float32),
            "b_zero": np.zeros(c, np.int32),
        }
        nodes.append(
            helper.make_node(
                "DequantizeLinear", ["b", "b_scale", "b_zero"], ["b_dq"], name="the/bias/DequantizeLinear", axis=0
            )
        )
        names.append("b_dq")
    nodes.append(helper.make_node(operator, names, ["y"], name=f"the/{operator}", pads=[1, 1, 1, 1]))
    shape = (1, c, 16, 16)
    return model(nodes, inputs={"x": (FLOAT, shape)}, outputs={"y": (FLOAT, shape)}, weights=weights, opset=opset)


def quantised_matmul(*, weight_axis: int = 1, operator: str = "MatMul") -> onnx.ModelProto:
    """x -> Q -> DQ -> MatMul or Gemm with int8 weights ``[64, 32]`` -> y."""
    n = (64, 32)[weight_axis] if weight_axis >= 0 else ()
    weights = {
        "w": kernel(64, 32, dtype=np.int8), "w_scale": np.full(n, 0.01, np.float32), "w_zero": np.zeros(n, np.int8),
        "scale": np.float32(0.02), "zero": np.int8(0),
    }  # fmt: skip
    axis = {"axis": weight_axis} if weight_axis >= 0 else {}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x_q"], name="the/QuantizeLinear"),
        helper.make_node("DequantizeLinear", ["x_q", "scale", "zero"], ["x_dq"], name="the/DequantizeLinear"),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_dq"], name="the/weight", **axis),
        helper.make_node(operator, ["x_dq", "w_dq"], ["y"], name=f"the/{operator}"),
    ]  # fmt: skip
    spec = {"inputs": {"x": (FLOAT, (16, 64))}, "outputs": {"y": (FLOAT, (16, 32))}}
    return model(nodes, weights=weights, **spec)  # type: ignore[arg-type]
