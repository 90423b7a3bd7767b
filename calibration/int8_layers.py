"""What may become INT8 in an fp32 graph, and what must stay float: rules that know no network by name.

A *product* is a convolution or matrix product. A path is *short* if no product lies on it.

- A product may become INT8 if its weights are constant, it is in no float32 island, it is no first
  layer (a short path from an input), no head or threshold (a short path to an output), and has at
  least 32 channels on either side: narrower ones move more bytes than they save.
- The skip of a residual sum (x + f(x), f ending in an INT8 layer) may become INT8 with that layer.
- What lies on a short path from an input to an output carries the data themselves, and stays in
  float32 like the islands: there float16 would round the frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from glint.cards import count_macs, in_island
from glint.export.lint.findings import PRODUCTS

LEAST_CHANNELS = 32
MOVES = {
    "Reshape", "Transpose", "Slice", "Split", "Concat", "Unsqueeze", "Squeeze", "DepthToSpace", "Expand", "Identity",
}  # fmt: skip
"""Operators that compute nothing."""


@dataclass(frozen=True)
class QuantisableLayer:
    """A product that may become INT8.

    Attributes:
        name: of its node.
        data: the tensor that it multiplies with its weights.
        weight: name of the weights; their first axis is that of the output channels.
        skip: the tensor that is added to its result, "" if it ends no residual branch.
        add: name of the node that adds.
    """

    name: str
    data: str
    weight: str
    skip: str = ""
    add: str = ""


class Graph:
    """An ONNX graph with its wiring: who makes a tensor, who reads it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes: dict[str, onnx.NodeProto] = {node.name: node for node in model.graph.node}
        self.constants: dict[str, onnx.TensorProto] = {t.name: t for t in model.graph.initializer}
        self.maker: dict[str, onnx.NodeProto] = {o: node for node in model.graph.node for o in node.output if o}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in dict.fromkeys(node.input):
                self.readers.setdefault(name, []).append(node)

    def value(self, name: str) -> NDArray[Any]:
        """A constant."""
        array: NDArray[Any] = numpy_helper.to_array(self.constants[name])
        return array

    def layers(self) -> list[QuantisableLayer]:
        """All products that may become INT8, in the order of the graph."""
        first, last = self._near_inputs(), self._near_outputs()
        return [
            self._layer(node)
            for node in self.model.graph.node
            if self._is_wide(node) and not in_island(node.name) and node.name not in first and node.name not in last
        ]

    def carriers(self) -> set[str]:
        """Names of the nodes on short paths from an input to an output."""
        both = self._near_inputs() & self._near_outputs()
        return {name for name in both if self.nodes[name].op_type not in PRODUCTS}

    def _is_wide(self, node: onnx.NodeProto) -> bool:
        if len(node.input) < 2 or node.input[1] not in self.constants:
            return False
        if node.op_type == "Gemm":
            if not _attribute(node, "transB", 0) or _attribute(node, "transA", 0):
                return False
        elif node.op_type != "Conv":
            return False
        # A depthwise convolution has one input channel per filter.
        return min(self.constants[node.input[1]].dims[:2]) >= LEAST_CHANNELS

    def _layer(self, node: onnx.NodeProto) -> QuantisableLayer:
        layer = QuantisableLayer(node.name, node.input[0], node.input[1])
        readers = self.readers.get(node.output[0], [])
        if len(readers) != 1 or readers[0].op_type != "Add":
            return layer
        (add,) = readers
        other = add.input[1] if add.input[0] == node.output[0] else add.input[0]
        if other in self.constants or other not in self._before(node.input[0]):
            return layer
        return QuantisableLayer(node.name, node.input[0], node.input[1], skip=other, add=add.name)

    def _before(self, tensor: str) -> set[str]:
        """A tensor and all that it is made from."""
        seen, waiting = {tensor}, [tensor]
        while waiting:
            maker = self.maker.get(waiting.pop())
            for name in maker.input if maker is not None else ():
                if name not in seen:
                    seen.add(name)
                    waiting.append(name)
        return seen

    def _near_inputs(self) -> set[str]:
        """Names of the nodes at the end of a short path from an input."""
        near = {value.name for value in self.model.graph.input}
        found = set()
        for node in self.model.graph.node:  # in topological order
            if not near.isdisjoint(node.input) and node.op_type != "Shape":
                found.add(node.name)
                if node.op_type not in PRODUCTS:
                    near.update(node.output)
        return found

    def _near_outputs(self) -> set[str]:
        """Names of the nodes at the beginning of a short path to an output."""
        near = {value.name for value in self.model.graph.output}
        found = set()
        for node in reversed(self.model.graph.node):
            if not near.isdisjoint(node.output):
                found.add(node.name)
                if node.op_type not in PRODUCTS:
                    near.update(node.input)
        return found


def macs_by_node(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Multiply-accumulates of every product, by its node.

    Args:
        graph: the network.
        shapes: of all tensors, as they were in a run.
    """
    known = {**{name: tuple(tensor.dims) for name, tensor in graph.constants.items()}, **shapes}
    return {
        node.name: count_macs(node.op_type, *(known[name] for name in (*node.input[:2], node.output[0])))
        for node in graph.model.graph.node
        if node.op_type in PRODUCTS
    }


def float_tensors(model: onnx.ModelProto) -> list[str]:
    """Names of all float32 tensors that nodes make, in the order of the graph."""
    types = tensor_types(model)
    return [o for node in model.graph.node for o in node.output if types.get(o) == onnx.TensorProto.FLOAT]


def with_outputs(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """A copy that also gives these float32 tensors."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    have = {value.name for value in model.graph.output}
    copy.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in tensors if name not in have
    )
    return copy


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Put the nodes in topological order: each where it stands now, its makers before it if they are not yet."""
    maker = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    placed: dict[int, None] = {}
    for start in range(len(graph.node)):
        stack = [start]
        while stack:
            node = graph.node[stack[-1]]
            missing = [maker[name] for name in node.input if name in maker and maker[name] not in placed]
            if missing:
                stack.append(missing[0])
            else:
                placed[stack.pop()] = None
    replace_nodes(graph, [graph.node[index] for index in placed])


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Let these be the nodes of the graph; they may be the graph's own."""
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)


def drop_unused(graph: onnx.GraphProto) -> None:
    """Take away nodes and constants that lead to no output; the nodes are in topological order."""
    needed = {value.name for value in graph.output}
    for index in range(len(graph.node) - 1, -1, -1):
        if needed.isdisjoint(graph.node[index].output):
            del graph.node[index]
        else:
            needed.update(graph.node[index].input)
    for index in range(len(graph.initializer) - 1, -1, -1):
        if graph.initializer[index].name not in needed:
            del graph.initializer[index]


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor; what the file does not say is inferred."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {t.name: t.data_type for t in graph.initializer}
    values = (*graph.input, *graph.value_info, *graph.output)
    return {**types, **{v.name: v.type.tensor_type.elem_type for v in values}}


def constant(name: str, value: Any, dtype: Any) -> onnx.TensorProto:
    """A named constant tensor."""
    return numpy_helper.from_array(np.asarray(value, dtype=dtype), name)


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
