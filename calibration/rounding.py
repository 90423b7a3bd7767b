"""An fp16 graph as an fp32 one that rounds where fp16 would: what a GPU gives, on ONNX Runtime's CPU.

That runs float16 operators in float32 and leaves out the roundings between them, so that an fp16 graph
scores there better than it is. Here every float16 result is rounded to its 11 bits by Veltkamp's
splitting, y = c x - (c x - x) with c = 2^13 + 1, which no optimiser takes away. Within a product sums
are in float32, as tensor cores do. Values below 6e-5, which float16 holds with fewer bits, keep theirs.
What would be rounded to more than 65504 becomes infinite, as on a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from glint.calibration.int8_layers import MOVES, constant, replace_nodes, tensor_types

_SPLIT, _OVER, _INFINITY = (f"float16/{name}" for name in ("split", "over", "infinity"))
_LEAST_OVERFLOW = 65520.0  # the least number that float16 rounds to infinity


def round_like_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The fp32 twin of a typed fp16 graph, with or without Q/DQ; one without float16 stays as it is."""
    types = tensor_types(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    for tensor in graph.initializer:
        _widen(tensor)
    nodes: list[Any] = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen(attribute.t)
            elif node.op_type == "Cast" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
        nodes.append(node)
        for index, name in enumerate(node.output):
            if types.get(name) == TensorProto.FLOAT16 and node.op_type not in MOVES:
                parts = ("exact", "large", "rest", "near", "size", "over", "infinite")
                exact, large, rest, near, size, over, infinite = (f"{name}/{part}" for part in parts)
                node.output[index] = exact
                nodes += [
                    helper.make_node("Mul", [exact, _SPLIT], [large], large),
                    helper.make_node("Sub", [large, exact], [rest], rest),
                    helper.make_node("Sub", [large, rest], [near], f"{name}/rounded"),
                    helper.make_node("Abs", [exact], [size], size),
                    helper.make_node("GreaterOrEqual", [size, _OVER], [over], over),
                    helper.make_node("Mul", [exact, _INFINITY], [infinite], infinite),
                    helper.make_node("Where", [over, infinite, near], [name], f"{name}/overflow"),
                ]
    replace_nodes(graph, nodes)
    numbers = {_SPLIT: 2.0**13 + 1, _OVER: _LEAST_OVERFLOW, _INFINITY: np.inf}
    graph.initializer.extend(constant(name, value, np.float32) for name, value in numbers.items())
    del graph.value_info[:]
    return copy


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
