"""Explicit quantisation: QuantizeLinear and DequantizeLinear where a plan wants INT8.

Symmetric int8, zero point 0; one scale per activation, one per output channel (axis 0) of weights,
which are stored as int8. What comes out of a layer is left in float: its readers quantise it if they
want to. Scales have the type of the graph around them. :class:`Scales` says what may differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from glint.calibration.fp16 import finish
from glint.calibration.int8_layers import Graph, QuantisableLayer, constant, drop_unused, sort_nodes, tensor_types
from glint.calibration.thresholds import LARGEST_CODE

_LEAST_SCALE = 2.0**-24  # the smallest float16


@dataclass(frozen=True)
class Scales:
    """Forms of Q/DQ for engines that do badly with the usual one.

    Attributes:
        per_tensor: one scale for all weights of a layer. Engines that do not fuse a scale per channel (tensorrt_rtx)
            then write half as much behind a layer; coarser.
        float32: scales of float32 in an fp16 graph, with Casts around. For releases that refuse fp16 ones
            (NVIDIA/TensorRT#4832).
    """

    per_tensor: bool = False
    float32: bool = False


USUAL = Scales()


def quantise(
    model: onnx.ModelProto,
    layers: Sequence[QuantisableLayer],
    skips: Sequence[QuantisableLayer],
    thresholds: Mapping[str, float],
    scales: Scales = USUAL,
) -> onnx.ModelProto:
    """A copy in which some layers run in INT8.

    Args:
        model: in fp32 or fp16; its nodes have the names of the layers.
        layers: to be run in INT8.
        skips: those of the layers whose skip is quantised too.
        thresholds: of the tensors that they read, by their names in the fp32 graph.
        scales: form of the Q/DQ.

    Returns:
        The graph with Q/DQ.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    inserter = _Inserter(copy, scales)
    for layer in skips:  # first: what a layer gives may have another name behind its Cast
        inserter.skip(layer, thresholds[layer.skip])
    for layer in layers:
        inserter.layer(layer, thresholds[layer.data])
    inserter.finish()
    return finish(copy)


def activation_scale(threshold: float, dtype: Any = np.float32) -> float:
    """Step between two codes, as the type can hold it; never so small that the threshold is clipped."""
    return float(_round_up(np.asarray(threshold / LARGEST_CODE), dtype))


def weight_codes(
    weights: NDArray[Any], dtype: Any = np.float32, *, per_tensor: bool = False
) -> tuple[NDArray[np.int8], NDArray[Any]]:
    """int8 codes and scales ``[C]`` per output channel of weights ``[C, ...]``: weights = codes * scales."""
    wide = weights.astype(np.float64).reshape(len(weights), -1)
    largest = np.abs(wide).max(axis=1)
    scales = _round_up((np.full_like(largest, largest.max()) if per_tensor else largest) / LARGEST_CODE, dtype)
    codes = np.clip(np.round(wide / scales[:, None].astype(np.float64)), -LARGEST_CODE, LARGEST_CODE)
    return codes.astype(np.int8).reshape(weights.shape), scales


def _round_up(scale: NDArray[np.float64], dtype: Any) -> NDArray[Any]:
    least = np.maximum(scale, _LEAST_SCALE)
    rounded = least.astype(dtype)
    return np.where(rounded.astype(np.float64) < least, np.nextafter(rounded, dtype(np.inf)), rounded)


class _Inserter:
    def __init__(self, model: onnx.ModelProto, scales: Scales) -> None:
        self.model, self.scales = model, scales
        self.graph = Graph(model)
        self.types = tensor_types(model)
        self.quantised: dict[str, str] = {}  # tensor: its int8 codes

    def layer(self, layer: QuantisableLayer, threshold: float) -> None:
        """Quantise what a layer reads, and store its weights in int8."""
        node = self.graph.nodes[layer.name]
        outer = self.types[node.output[0]]
        wide = self.scales.float32 and outer != TensorProto.FLOAT
        node.input[0] = self._activation(layer.name, 0, layer.data, threshold)
        self._weights(node)
        if wide:  # the product is of float32, then, but for what engines make of it
            for index in range(2, len(node.input)):
                node.input[index] = self._cast(node.input[index], TensorProto.FLOAT, layer.name)
            result, exact = node.output[0], f"{layer.name}/float32"
            node.output[0] = exact
            self._insert("Cast", [exact], result, f"{layer.name}/Cast", to=outer)

    def skip(self, layer: QuantisableLayer, threshold: float) -> None:
        """Quantise what a residual sum adds to its branch."""
        (result,) = self.graph.nodes[layer.name].output
        add = self.graph.nodes[layer.add]
        index = 1 - next(i for i, name in enumerate(add.input) if name == result)
        outer = self.types[add.output[0]]
        value = self._activation(layer.add, index, layer.skip, threshold)
        narrow = self.scales.float32 and outer != TensorProto.FLOAT
        add.input[index] = self._cast(value, outer, layer.add) if narrow else value

    def _activation(self, reader: str, index: int, tensor: str, threshold: float) -> str:
        """Quantise what a node reads: one QuantizeLinear per tensor, one DequantizeLinear per reader."""
        source = self.graph.nodes[reader].input[index]
        dtype = np.float32 if self.scales.float32 else self._dtype(source)
        scale, zero = f"{tensor}/scale", f"{tensor}/zero"
        if source not in self.quantised:
            self._constant(scale, activation_scale(threshold, dtype), dtype)
            self._constant(zero, 0, np.int8)
            wide = source if dtype is self._dtype(source) else self._cast(source, TensorProto.FLOAT, tensor)
            self.quantised[source] = self._insert("QuantizeLinear", [wide, scale, zero], f"{tensor}/QuantizeLinear")
        return self._insert(
            "DequantizeLinear", [self.quantised[source], scale, zero], f"{reader}/DequantizeLinear_{index}"
        )

    def _weights(self, node: onnx.NodeProto) -> None:
        weight = node.input[1]
        dtype = np.float32 if self.scales.float32 else self._dtype(weight)
        codes, scales = weight_codes(self.graph.value(weight), dtype, per_tensor=self.scales.per_tensor)
        if self.scales.per_tensor:
            scales = scales[0]
        names = [f"{weight}/{part}" for part in ("int8", "scale", "zero")]
        for name, value in zip(names, (codes, scales, np.zeros_like(scales))):
            self._constant(name, value, dtype if name.endswith("/scale") else np.int8)
        along: dict[str, Any] = {} if self.scales.per_tensor else {"axis": 0}
        node.input[1] = self._insert("DequantizeLinear", names, f"{node.name}/DequantizeLinear_1", **along)

    def finish(self) -> None:
        """Bring the new nodes to their places and take away what they replace."""
        sort_nodes(self.model.graph)
        drop_unused(self.model.graph)

    def _dtype(self, tensor: str) -> Any:
        return helper.tensor_dtype_to_np_dtype(self.types[tensor]).type

    def _constant(self, name: str, value: Any, dtype: Any) -> None:
        if name not in self.graph.constants:
            tensor = constant(name, value, dtype)
            self.model.graph.initializer.append(tensor)
            self.graph.constants[name] = tensor

    def _cast(self, tensor: str, to: int, reader: str) -> str:
        """The tensor in another type; a constant is converted here."""
        if tensor in self.graph.constants:
            name = f"{tensor}/float32"
            self._constant(name, self.graph.value(tensor), helper.tensor_dtype_to_np_dtype(to).type)
            return name
        return self._insert("Cast", [tensor], f"{reader}/Cast_in", to=to)

    def _insert(self, operator: str, inputs: list[str], output: str, name: str = "", **attributes: Any) -> str:
        self.model.graph.node.append(helper.make_node(operator, inputs, [output], name or output, **attributes))
        return output
