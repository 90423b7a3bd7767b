"""Which threshold each tensor gets: every method proposes one, and the layers that read it decide.

The proposals come from histograms over three quarters of the calibration set. On the other quarter
each layer that reads the tensor runs in float and, for each proposal, quantised; the proposal with
the least squared error of the layers' results, relative to the results themselves, is taken. For the
skip of a residual sum it is the error of the tensor itself. Equal proposals go to the first method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from glint.calibration.int8_layers import Graph, QuantisableLayer, constant
from glint.calibration.qdq import activation_scale, weight_codes
from glint.calibration.tensor_ranges import Batches, histograms, session, values
from glint.calibration.thresholds import LARGEST_CODE, METHODS
from glint.errors import InputError

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Choice:
    """What was chosen for a tensor.

    Attributes:
        method: whose threshold it is.
        threshold: the value that code 127 stands for.
        largest: absolute value over the calibration set.
        errors: of every method: squared error of the layers that read it over their results' squares.
    """

    method: str
    threshold: float
    largest: float
    errors: dict[str, float]


def choose_thresholds(
    model: onnx.ModelProto,
    layers: Sequence[QuantisableLayer],
    largest: dict[str, float],
    fit: Batches,
    held: Batches,
    *,
    methods: Sequence[str] = tuple(METHODS),
) -> dict[str, Choice]:
    """The threshold of every tensor that the layers and their skips read.

    Args:
        model: in fp32.
        layers: that may become INT8.
        largest: absolute values of these tensors over the whole set.
        fit, held: samples for the histograms and for the choice.
        methods: names out of :data:`glint.calibration.thresholds.METHODS`.

    Raises:
        InputError: if a method is unknown.
    """
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        raise InputError(f"methods: expected some of {', '.join(METHODS)}, got {', '.join(unknown) or 'none'}")
    tensors = list(dict.fromkeys(name for layer in layers for name in (layer.data, layer.skip) if name))
    tops = {name: largest[name] for name in tensors}
    counts = histograms(model, tops, fit)
    proposals = {n: {m: METHODS[m](counts[n], tops[n]) for m in methods} for n in tensors}
    readers = {name: [layer for layer in layers if layer.data == name] for name in tensors}
    trials = {layer.name: _Trial(Graph(model), layer) for layer in layers} if len(methods) > 1 else {}
    errors = {name: dict.fromkeys(methods, 0.0) for name in tensors}
    for name, value in values(model, tensors if trials else [], held, what="choice of thresholds"):
        for layer in readers[name]:
            _add_errors(errors[name], proposals[name], value, trials[layer.name].float, trials[layer.name].quantised)
        if not readers[name]:
            _add_errors(errors[name], proposals[name], value, _itself, _itself)
    chosen = {name: min(methods, key=lambda m: errors[name][m]) for name in tensors}
    return {n: Choice(m, proposals[n][m], tops[n], errors[n]) for n, m in chosen.items()}


def rounded(value: Array, threshold: float) -> Array:
    """What int8 leaves of a tensor."""
    scale = np.float32(activation_scale(threshold))
    result: Array = np.clip(np.round(value / scale), -LARGEST_CODE - 1, LARGEST_CODE) * scale
    return result


def _itself(value: Array) -> Array:
    return value


def _add_errors(
    errors: dict[str, float],
    proposals: dict[str, float],
    value: Array,
    exact: Callable[[Array], Array],
    quantised: Callable[[Array], Array],
) -> None:
    right = exact(value)
    power = max(float(np.square(right, dtype=np.float64).sum()), 1e-30)
    known: dict[float, float] = {}
    for method, threshold in proposals.items():
        if threshold not in known:
            wrong = quantised(rounded(value, threshold)) - right
            known[threshold] = float(np.square(wrong, dtype=np.float64).sum()) / power
        errors[method] += known[threshold]


class _Trial:
    """One layer on its own, with its weights in float and as int8 leaves them."""

    def __init__(self, graph: Graph, layer: QuantisableLayer) -> None:
        node = graph.nodes[layer.name]
        weights = graph.value(layer.weight)
        codes, scales = weight_codes(weights)
        coarse = codes * scales.reshape(-1, *[1] * (weights.ndim - 1))
        self._sessions = {}
        for kind, value in (("float", weights), ("quantised", coarse)):
            alone = helper.make_node(node.op_type, ["x", "w", *node.input[2:]], ["y"])
            alone.attribute.extend(node.attribute)
            entries = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
            bias = [graph.constants[name] for name in node.input[2:]]
            body = helper.make_graph(
                [alone], layer.name, entries[:1], entries[1:], [constant("w", value, np.float32), *bias]
            )
            opsets = list(graph.model.opset_import)
            self._sessions[kind] = session(
                helper.make_model(body, opset_imports=opsets, ir_version=graph.model.ir_version)
            )

    def float(self, value: Array) -> Array:
        """The result of the float layer."""
        return self._run("float", value)

    def quantised(self, value: Array) -> Array:
        """The result with int8 weights."""
        return self._run("quantised", value)

    def _run(self, kind: str, value: Array) -> Array:
        result: Array = self._sessions[kind].run(None, {"x": value})[0]
        return result
