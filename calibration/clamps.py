"""What a network makes of extreme scenes, and clamps that keep it within float16.

A saturated block or a dead row drives some networks far beyond what they were trained on. In float16 a
value above 65504 is infinite, and soon not a number. A clamp on the first tensor that leaves the range
changes nothing for ordinary scenes, which stay below it, and keeps the others finite.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from glint.calibration.fp16 import FP16_MAX, NEAR_LEVEL, finish, float_nodes
from glint.calibration.int8_layers import MOVES, Graph, constant, float_tensors, replace_nodes
from glint.calibration.samples import network_inputs
from glint.calibration.tensor_ranges import Batches, observe
from glint.cards import ModelCard
from glint.cli import talk

CLAMP = NEAR_LEVEL
_FULL_SCALE_DN = 255  # DN
_FRAME_SIDE_PX = 64  # px per side
_MOST_CLAMPS = 16  # clamps
_UNCLAMPED_SUFFIX = "/unclamped"


def extreme_images(side: int) -> list[NDArray[np.uint8]]:
    """Images ``[side, side]`` that no ordinary scene gives: saturated blocks, dead lines, empty, full and split."""
    images = [np.zeros((side, side), np.uint8) for _ in range(6)]
    dead_row, dead_column, split, full, checks, _ = images
    dead_row[side // 2], dead_column[:, side // 2], split[:, side // 2 :], full[:] = (_FULL_SCALE_DN,) * 4
    checks[(np.add.outer(np.arange(side), np.arange(side)) % 2).astype(bool)] = _FULL_SCALE_DN
    for block in (*range(1, 10), side):
        image = np.zeros((side, side), np.uint8)
        start = max(0, side // 2 - block // 2)
        image[start : start + block, start : start + block] = _FULL_SCALE_DN
        images += [image, _FULL_SCALE_DN - image]
    return images


def extreme_inputs(card: ModelCard) -> Batches:
    """What the runtime would give the network for :func:`extreme_images`."""
    if card.unmixer is None:
        return network_inputs(card, extreme_images(_FRAME_SIDE_PX))
    images = extreme_images(card.unmixer.patch)
    return network_inputs(card, images, np.full(len(images), float(_FULL_SCALE_DN)))


def clamped(
    model: onnx.ModelProto, largest: Mapping[str, float], extremes: Batches
) -> tuple[onnx.ModelProto, dict[str, float]]:
    """A copy with clamps on the tensors that leave float16 in extreme scenes, the earliest first.

    Args:
        model: in fp32.
        largest: absolute value of each tensor over ordinary scenes: a tensor that reaches the clamp is left alone.
        extremes: inputs of extreme scenes.

    Returns:
        The model, and what each clamped node reached without its clamp.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    reached: dict[str, float] = {}
    for _ in range(_MOST_CLAMPS):
        over = _first_over(copy, largest, extremes)
        if over is None:
            break
        node, tensor, value = over
        reached[node] = float(f"{value:.4g}")
        _clamp(copy, tensor)
        talk(f"calibrate: {node} reaches {value:.3g} in extreme scenes, beyond fp16: clamped to {CLAMP:.0f}")
    return (finish(copy), reached) if reached else (copy, reached)


def _first_over(
    model: onnx.ModelProto, largest: Mapping[str, float], extremes: Batches
) -> tuple[str, str, float] | None:
    """Node, tensor and value of the first tensor that must be clamped, or None."""
    graph, islands = Graph(model), float_nodes(model)
    tensors = [
        name
        for name in float_tensors(model)
        if graph.maker[name].op_type not in (*MOVES, "Clip")
        and graph.maker[name].name not in islands
        and largest.get(name, np.inf) < CLAMP
    ]
    values = observe(model, tensors, extremes).largest
    for name in tensors:
        readers = graph.readers.get(name, [])
        summed = len(readers) == 1 and readers[0].op_type == "Add"  # the sum is clamped: engines fuse both
        if summed and (readers[0].output[0] in values or readers[0].output[0].endswith(_UNCLAMPED_SUFFIX)):
            continue
        if values[name] > FP16_MAX / 2:
            return graph.maker[name].name, name, values[name]
    return None


def _clamp(model: onnx.ModelProto, tensor: str) -> None:
    """Put a Clip behind the node that makes a tensor; the tensor keeps its name, in graph outputs too."""
    nodes: list[Any] = []
    wide = tensor + _UNCLAMPED_SUFFIX
    for node in model.graph.node:
        nodes.append(node)
        if tensor in node.output:
            node.output[:] = [wide if name == tensor else name for name in node.output]
            prefix = node.name.rpartition("/")[0]
            name = f"{prefix}/Clip_{len(nodes)}" if prefix else f"Clip_{len(nodes)}"
            nodes.append(helper.make_node("Clip", [wide, "clamp/low", "clamp/high"], [tensor], name))
    replace_nodes(model.graph, nodes)
    if not any(t.name == "clamp/low" for t in model.graph.initializer):
        model.graph.initializer.extend(
            [constant("clamp/low", -CLAMP, np.float32), constant("clamp/high", CLAMP, np.float32)]
        )
