"""Explicit quantisation: QuantizeLinear and DequantizeLinear where a plan wants INT8.

Symmetric int8, zero point 0; one scale per activation, one per output channel (axis 0) of weights,
which are stored as int8. What comes out of a layer is left in float: its readers quantise it if they
want to. Scales have the type of the graph around them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from glint.calibration.fp16 import finish
from glint.calibration.int8_layers import Graph, QuantisableLayer, constant, drop_unused, sort_nodes, tensor_types
from glint.calibration.thresholds import LARGEST_CODE

_LEAST_SCALE = 2.0**-24  # the smallest float16


def quantise(
    model: onnx.ModelProto,
    layers: Sequence[QuantisableLayer],
    skips: Sequence[QuantisableLayer],
    thresholds: Mapping[str, float],
) -> onnx.ModelProto:
    """A copy in which some layers run in INT8.

    Args:
        model: in fp32 or fp16; its nodes have the names of the layers.
        layers: to be run in INT8.
        skips: those of the layers whose skip is quantised too.
        thresholds: of the tensors that they read, by their names in the fp32 graph.

    Returns:
        The graph with Q/DQ.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    inserter = _Inserter(copy)
    for layer in layers:
        inserter.activation(layer.name, 0, layer.data, thresholds[layer.data])
        inserter.weights(layer.name)
    for layer in skips:
        inserter.activation(layer.add, inserter.skip_index(layer), layer.skip, thresholds[layer.skip])
    inserter.finish()
    return finish(copy)


def activation_scale(threshold: float, dtype: Any = np.float32) -> float:
    """Step between two codes, as the type can hold it; never so small that the threshold is clipped."""
    return float(_round_up(np.asarray(threshold / LARGEST_CODE), dtype))


def weight_codes(weights: NDArray[Any], dtype: Any = np.float32) -> tuple[NDArray[np.int8], NDArray[Any]]:
    """int8 codes and scales per output channel of weights ``[C, ...]``: weights = codes * scales."""
    wide = weights.astype(np.float64).reshape(len(weights), -1)
    scales = _round_up(np.abs(wide).max(axis=1) / LARGEST_CODE, dtype)
    codes = np.clip(np.round(wide / scales[:, None].astype(np.float64)), -LARGEST_CODE, LARGEST_CODE)
    return codes.astype(np.int8).reshape(weights.shape), scales


def _round_up(scale: NDArray[np.float64], dtype: Any) -> NDArray[Any]:
    least = np.maximum(scale, _LEAST_SCALE)
    rounded = least.astype(dtype)
    return np.where(rounded.astype(np.float64) < least, np.nextafter(rounded, dtype(np.inf)), rounded)


class _Inserter:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graph = Graph(model)
        self.types = tensor_types(model)
        self.quantised: dict[str, str] = {}  # tensor: its int8 codes

    def skip_index(self, layer: QuantisableLayer) -> int:
        """Which input of the sum is the skip."""
        (result,) = self.graph.nodes[layer.name].output
        inputs = list(self.graph.nodes[layer.add].input)
        return 1 - next(i for i, name in enumerate(inputs) if name == result)

    def activation(self, reader: str, index: int, tensor: str, threshold: float) -> None:
        """Quantise what a node reads: one QuantizeLinear per tensor, one DequantizeLinear per reader."""
        node = self.graph.nodes[reader]
        source = node.input[index]
        dtype = self._dtype(source)
        scale, zero = f"{tensor}/scale", f"{tensor}/zero"
        if source not in self.quantised:
            self._constant(scale, activation_scale(threshold, dtype), dtype)
            self._constant(zero, 0, np.int8)
            self._insert("QuantizeLinear", [source, scale, zero], f"{tensor}/QuantizeLinear")
            self.quantised[source] = f"{tensor}/QuantizeLinear"
        name = f"{reader}/DequantizeLinear_{index}"
        self._insert("DequantizeLinear", [self.quantised[source], scale, zero], name)
        node.input[index] = name

    def weights(self, layer: str) -> None:
        """Store a layer's weights in int8."""
        node = self.graph.nodes[layer]
        weight = node.input[1]
        dtype = self._dtype(weight)
        codes, scales = weight_codes(self.graph.value(weight), dtype)
        stored = {f"{weight}/int8": codes, f"{weight}/scale": scales, f"{weight}/zero": np.zeros(len(scales))}
        for name, value in stored.items():
            self._constant(name, value, dtype if name.endswith("/scale") else np.int8)
        self._insert("DequantizeLinear", list(stored), f"{layer}/DequantizeLinear_1", axis=0)
        node.input[1] = f"{layer}/DequantizeLinear_1"

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

    def _insert(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> None:
        self.model.graph.node.append(helper.make_node(operator, inputs, [name], name, **attributes))
