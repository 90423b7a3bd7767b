"""Channels of an activation brought to like ranges, so that one int8 scale fits all of them.

A tensor has one scale. Where some of its channels are ten times as large as others, those others keep
three bits. Multiplying channel c by 1 / s_c and the weights that read it by s_c changes no result, and
s_c = sqrt(range of the channel / range of its weights) shares the spread between the two (Xiao et al.,
"SmoothQuant", for language models). s_c is a power of two: the product is exact. It costs one Mul
before the layer, so that only layers get one whose error it halves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from glint.calibration.fp16 import finish
from glint.calibration.int8_layers import Graph, QuantisableLayer, constant, drop_unused, sort_nodes
from glint.calibration.tensor_ranges import Batches, observe, values
from glint.calibration.threshold_choice import Choice, choose_thresholds

_MOST_ERROR_LEFT_SHARE = 0.5  # of the error that must be left at most
BALANCE = "/balance"  # what the name of a Mul that balances ends with
_CLIPPED_SHARE = 1 / 2000  # share of a channel's values that its range leaves out
Factors = dict[str, NDArray[np.float32]]


def channel_factors(model: onnx.ModelProto, layers: Sequence[QuantisableLayer], batches: Batches) -> Factors:
    """s_c of every layer by its name, powers of two, about 1 on average."""
    tops: dict[str, NDArray[np.float32]] = {}
    for name, value in values(model, list(dict.fromkeys(layer.data for layer in layers)), batches, what="channels"):
        channels = np.abs(np.moveaxis(value, 1, 0).reshape(value.shape[1], -1))
        rank = max(1, int(channels.shape[1] * _CLIPPED_SHARE))
        top = np.partition(channels, -rank, axis=1)[:, -rank]
        tops[name] = np.maximum(tops.get(name, np.zeros_like(top)), top)
    graph = Graph(model)
    factors = {}
    for layer in layers:
        weights = np.abs(graph.value(layer.weight)).max(axis=0)
        weight = weights.reshape(len(weights), -1).max(axis=1)
        used = (tops[layer.data] > 0) & (weight > 0)
        exponent = np.where(used, np.log2(np.where(used, tops[layer.data] / np.where(used, weight, 1), 1)) / 2, 0)
        exponent -= exponent[used].mean() if used.any() else 0
        factors[layer.name] = np.exp2(np.where(used, np.round(exponent), 0)).astype(np.float32)
    return factors


def balance(model: onnx.ModelProto, layers: Sequence[QuantisableLayer], factors: Factors) -> onnx.ModelProto:
    """An equal fp32 graph in which these layers read channels of like ranges.

    Args:
        model: in fp32.
        layers: that are to be balanced.
        factors: s_c of each by its name (:func:`channel_factors`).
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = Graph(copy)
    for layer in layers:
        node, name, factor = graph.nodes[layer.name], f"{layer.name}{BALANCE}", factors[layer.name]
        weights = graph.value(layer.weight)
        along = (1, -1, *[1] * (weights.ndim - 2))
        copy.graph.initializer.extend([
            constant(f"{name}/inverse", 1 / factor.reshape(along), np.float32),
            constant(f"{name}/weight", weights * factor.reshape(along), np.float32),
        ])  # fmt: skip
        copy.graph.node.append(helper.make_node("Mul", [layer.data, f"{name}/inverse"], [name], name))
        node.input[0], node.input[1] = name, f"{name}/weight"
    sort_nodes(copy.graph)
    drop_unused(copy.graph)
    return finish(copy)


def worth_balancing(
    model: onnx.ModelProto,
    layers: Sequence[QuantisableLayer],
    choices: Mapping[str, Choice],
    factors: Factors,
    fit: Batches,
    held: Batches,
    methods: Sequence[str],
) -> tuple[list[QuantisableLayer], dict[str, Choice]]:
    """Layers whose error on held-out samples balancing halves, and the choices of their balanced tensors.

    Args:
        model: in fp32.
        layers: that may become INT8.
        choices: of the thresholds of their tensors as they are.
        factors: s_c of each layer.
        fit, held, methods: as for :func:`glint.calibration.threshold_choice.choose_thresholds`.
    """
    uneven = [layer for layer in layers if factors[layer.name].max() > 2 * factors[layer.name].min()]
    if not uneven:
        return [], {}
    balanced = balance(model, uneven, factors)
    names = {layer.name for layer in uneven}
    # Skips stay as they are, so that no threshold is sought for them again.
    theirs = {
        la.name: QuantisableLayer(la.name, la.data, la.weight) for la in Graph(balanced).layers() if la.name in names
    }
    largest = observe(balanced, [layer.data for layer in theirs.values()], [*fit, *held]).largest
    found = choose_thresholds(balanced, list(theirs.values()), largest, fit, held, methods=methods)
    kept = []
    for tensor in dict.fromkeys(layer.data for layer in uneven):
        readers = [layer for layer in layers if layer.data == tensor]
        mine = [layer for layer in readers if layer in uneven]
        after = sum(_error(found[theirs[layer.name].data]) for layer in mine)
        # The error of a tensor is that of all its readers.
        if after < _MOST_ERROR_LEFT_SHARE * _error(choices[tensor]) * len(mine) / len(readers):
            kept += mine
    return kept, {data: found[data] for data in (theirs[layer.name].data for layer in kept)}


def _error(choice: Choice) -> float:
    return choice.errors[choice.method]
