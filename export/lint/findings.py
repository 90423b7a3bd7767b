"""What the TensorRT check sees of an ONNX graph, and what it says about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from glint.export.lint.constants import fold

VERSIONS = ("10.3", "10.13", "10.16", "11.4", "rtx")
"""TensorRT of JetPack 6, of JetPack 7, the last 10.x, 11.x, and TensorRT-RTX."""

PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
"""Operators that multiply by weights, or one tensor by another: what int8 is for."""

REFUSED, FLOAT, WARNING = "refused", "float", "warning"
_VERBS = {REFUSED: "refused by", FLOAT: "run in float by", WARNING: "warning for"}


@dataclass(frozen=True)
class Finding:
    """Something that TensorRT will not do as the graph says.

    Attributes:
        code: of the rule; stays the same from release to release.
        severity: ``refused``: no engine is built; ``float``: int8 is asked for and float is run, silently;
            ``warning``: the engine is slower or less exact than expected.
        versions: of TensorRT that it concerns, out of :data:`VERSIONS`.
        node: name of the node or tensor, "" for the graph as a whole.
        message: what is the matter.
        hint: what to do.
    """

    code: str
    severity: str
    versions: tuple[str, ...]
    node: str
    message: str
    hint: str

    def text(self) -> str:
        """One line for the terminal."""
        where = f" at {self.node}" if self.node else ""
        which = "every TensorRT" if self.versions == VERSIONS else f"TensorRT {', '.join(self.versions)}"
        return f"{_VERBS[self.severity]} {which}{where}: {self.message} [{self.code}]"


@dataclass(eq=False)
class View:
    """An ONNX model with what the rules ask it for.

    Attributes:
        model: with types inferred, as far as they can be; nodes without a name get that of their output.
        folder: where its external data lie.
        nodes: of the graph, of the graphs inside control flow, and of local functions.
        makers: the node that makes a tensor.
        types: element type of a tensor (``TensorProto.FLOAT`` ...), where it is known.
        tensors: initializers and constants.
        shapes: of a tensor, where its number of axes is known; -1 for an axis of any size.
        unsorted: a node that stands before one that it reads, "" if there is none.
    """

    model: onnx.ModelProto
    folder: Path | None = None
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    makers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    tensors: dict[str, onnx.TensorProto] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    unsorted: str = ""
    _values: dict[str, NDArray[Any] | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._add(self.model.graph)
        for function in self.model.functions:
            self._add_nodes(function.node)

    def _add(self, graph: onnx.GraphProto) -> None:
        for value in (*graph.input, *graph.value_info, *graph.output):
            if value.type.HasField("tensor_type"):
                self.types[value.name] = value.type.tensor_type.elem_type
                if value.type.tensor_type.HasField("shape"):
                    dims = value.type.tensor_type.shape.dim
                    self.shapes[value.name] = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in dims)
        for tensor in graph.initializer:
            self.tensors[tensor.name] = tensor
            self.types[tensor.name] = tensor.data_type
            self.shapes[tensor.name] = tuple(tensor.dims)
        self._add_nodes(graph.node)

    def _add_nodes(self, nodes: Any) -> None:
        for node in nodes:
            node.name = node.name or next(filter(None, node.output), node.op_type)  # findings must point somewhere
            self.nodes.append(node)
            self.makers.update({name: node for name in node.output if name})
            for attribute in node.attribute:
                if node.op_type == "Constant" and node.output and attribute.name in _CONSTANTS:
                    self.tensors[node.output[0]] = _constant(attribute)
                for inner in (attribute.g, *attribute.graphs):
                    self._add(inner)

    def maker(self, name: str, operator: str) -> onnx.NodeProto | None:
        """The node that makes a tensor if it is of that type."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type == operator else None

    def value(self, name: str) -> NDArray[Any] | None:
        """A constant tensor, computed where nodes make it from constants; None if it is not constant or not at hand."""
        if name not in self._values:
            self._values[name] = fold(name, self.makers, self.tensors, self.model.opset_import)
        return self._values[name]

    def is_stored(self, name: str) -> bool:
        """Whether a tensor is an initializer or a Constant, perhaps cast: the parser looks through no other node."""
        for _ in self.nodes:
            node = self.makers.get(name)
            if name in self.tensors or node is None or node.op_type not in _CASTS or not node.input:
                break
            name = node.input[0]
        return name in self.tensors

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is a weight, perhaps quantised and dequantised, or reshaped or transposed on the way."""
        while name not in self.tensors:
            node = self.makers.get(name)
            if node is None or node.op_type not in _FROM_WEIGHTS or not node.input:
                return False
            name = node.input[0]
        return True

    def of_type(self, *operators: str) -> Iterator[onnx.NodeProto]:
        """The nodes of these types."""
        return (node for node in self.nodes if node.op_type in operators)


_CONSTANTS = {"value": None, "value_float": "f4", "value_floats": "f4", "value_int": "i8", "value_ints": "i8"}


def _constant(attribute: onnx.AttributeProto) -> onnx.TensorProto:
    if attribute.name == "value":
        return attribute.t
    values = np.array(onnx.helper.get_attribute_value(attribute), dtype=_CONSTANTS[attribute.name])
    return numpy_helper.from_array(values)


_CASTS = ("Cast", "CastLike", "Identity")
_FROM_WEIGHTS = {"QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape", "Cast", "Identity"}


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Value of an attribute of a node."""
    for item in node.attribute:
        if item.name == name and not item.ref_attr_name:
            return onnx.helper.get_attribute_value(item)
    return default


def input_name(node: onnx.NodeProto, index: int) -> str:
    """Name of an input, "" if it is left out."""
    return node.input[index] if index < len(node.input) else ""
