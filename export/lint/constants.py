"""Tensors of an ONNX graph that are constant, computed where nodes make them from constants."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

_MOST_NODES = 64  # that a constant is computed by: scales and zero points need a handful
_MOST_NUMBERS = 1 << 20  # in each constant that it is computed from
_NOT_CONSTANT = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}


def fold(
    name: str,
    makers: Mapping[str, onnx.NodeProto],
    tensors: Mapping[str, onnx.TensorProto],
    opsets: Iterable[onnx.OperatorSetIdProto],
) -> NDArray[Any] | None:
    """Value of a tensor, or None if it depends on an input, is too large, or its data are not at hand.

    Args:
        name: of the tensor.
        makers: the node that makes a tensor.
        tensors: initializers and constants.
        opsets: of the model.
    """
    if name in tensors:
        return _stored(tensors[name])
    needed = _needed(name, makers, tensors)
    if needed is None:
        return None
    nodes, stored = needed
    output = onnx.helper.make_empty_tensor_value_info(name)
    graph = onnx.helper.make_graph(nodes, "constant", [], [output], initializer=stored)
    try:
        model = onnx.helper.make_model(graph, opset_imports=list(opsets))
        (result,) = ReferenceEvaluator(model).run(None, {})
    except Exception:  # whatever a malformed graph makes of the reference: its value is not known
        return None
    return result if isinstance(result, np.ndarray) else None


def _stored(tensor: onnx.TensorProto) -> NDArray[Any] | None:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None
    array: NDArray[Any] = numpy_helper.to_array(tensor)
    return array


def _needed(
    name: str, makers: Mapping[str, onnx.NodeProto], tensors: Mapping[str, onnx.TensorProto]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]] | None:
    """Nodes (in order) and constants that a tensor is computed from, or None if it is not constant."""
    nodes: dict[str, onnx.NodeProto] = {}  # by their first output
    stored: dict[str, onnx.TensorProto] = {}

    def visit(wanted: str, depth: int) -> bool:
        tensor, node = tensors.get(wanted), makers.get(wanted)
        if tensor is not None:
            stored[wanted] = copy = onnx.TensorProto()
            copy.CopyFrom(tensor)
            copy.name = wanted  # that of a Constant has none
            return tensor.data_location != onnx.TensorProto.EXTERNAL and math.prod(tensor.dims) <= _MOST_NUMBERS
        if node is None or depth == _MOST_NODES or not _foldable(node):  # the depth also ends circles
            return False
        if node.output[0] not in nodes:
            if not all(visit(source, depth + 1) for source in node.input if source):
                return False
            nodes[node.output[0]] = node
        return len(nodes) <= _MOST_NODES

    return (list(nodes.values()), list(stored.values())) if visit(name, 0) else None


def _foldable(node: onnx.NodeProto) -> bool:
    plain = node.domain in ("", "ai.onnx") and node.op_type not in _NOT_CONSTANT
    return plain and not any(a.HasField("g") or a.graphs or a.ref_attr_name for a in node.attribute)
