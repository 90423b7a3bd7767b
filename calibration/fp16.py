"""fp32 to fp16: the converter of ONNX Runtime, with the float32 islands that the names of the nodes mark.

ONNX Runtime's converter is maintained with the engine that runs the result and needs no library more;
onnxconverter-common leaves existing Casts as they are, and neither engine loads what comes out. What
ONNX Runtime's leaves to do is done here: constants that islands share with their surroundings keep
their digits, neighbours inside an island hand float32 to each other instead of a rounded copy, and
equal Casts become one.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto

from glint.calibration.int8_layers import Graph, drop_unused, float_tensors, replace_nodes, sort_nodes
from glint.cards import in_island
from glint.cli import talk
from glint.errors import InputError

FP16_MAX = float(np.finfo(np.float16).max)
REFUSED_LEVEL = FP16_MAX / 2
NEAR_LEVEL = FP16_MAX / 16


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A typed fp16 copy with float32 inputs and outputs, islands and carriers (:meth:`Graph.carriers`).

    Names of nodes stay; the same model gives the same bytes.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    islands = float_nodes(copy)
    _own_constants(copy.graph, islands)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says of each constant below 6e-8 that it became 6e-8
        half: onnx.ModelProto = convert_float_to_float16(
            copy, keep_io_types=True, op_block_list=[], node_block_list=sorted(islands)
        )
    _tidy_casts(half.graph)
    sort_nodes(half.graph)
    drop_unused(half.graph)
    return finish(half)


def float_nodes(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes that stay float32."""
    return {node.name for node in model.graph.node if in_island(node.name)} | Graph(model).carriers()


def finish(model: onnx.ModelProto) -> onnx.ModelProto:
    """Infer the types of all tensors anew and check the graph."""
    del model.graph.value_info[:]
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    onnx.checker.check_model(model, full_check=True)
    return model


def check_range(model: onnx.ModelProto, largest: Mapping[str, float]) -> dict[str, float | str]:
    """Refuse or warn of a network whose values come near the largest float16.

    Args:
        model: in fp32.
        largest: absolute value of each tensor over the calibration set.

    Returns:
        ``largest`` among the tensors that become float16, the ``layer`` that makes it, and the ``limit``.

    Raises:
        InputError: if a value exceeds half of the limit.
    """
    graph, islands = Graph(model), float_nodes(model)
    inside = [name for name in float_tensors(model) if name in largest and _becomes_half(graph, name, islands)]
    worst = sorted(inside, key=lambda name: -largest[name])[:3]
    layers = ", ".join(f"{graph.maker[name].name} ({largest[name]:.4g})" for name in worst)
    top = largest[worst[0]] if worst else 0.0
    if not top < REFUSED_LEVEL:
        raise InputError(
            f"fp16 ends at {FP16_MAX:.0f}, and the calibration set reaches {top:.4g}: {layers}",
            hint="mark these layers as a float32 island in the network (a region without autocast), and export again",
        )
    if top > NEAR_LEVEL:
        talk(f"warning: {layers}: within a factor of 16 of the largest fp16 value")
    return {"largest": top, "layer": graph.maker[worst[0]].name if worst else "", "limit": FP16_MAX}


def _becomes_half(graph: Graph, tensor: str, islands: set[str]) -> bool:
    """Whether a tensor is float16 anywhere: made by such a node, or read by one."""
    nodes = [graph.maker[tensor], *graph.readers.get(tensor, [])]
    return any(node.name not in islands for node in nodes)


def _own_constants(graph: onnx.GraphProto, islands: set[str]) -> None:
    """Give the float32 readers of a shared constant a copy: the converter would round it for all of them.

    The scales of Resize are float32 in any case; the converter takes them through float16 too.
    """
    floats = {t.name: t for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    made: set[str] = set()
    for node in graph.node:
        for index, name in enumerate(node.input):
            scales = node.op_type == "Resize" and index == 2
            if name in floats and (scales or node.name in islands):
                own = f"{name}/float32"
                if own not in made:
                    made.add(own)
                    copy = graph.initializer.add()
                    copy.CopyFrom(floats[name])
                    copy.name = own
                node.input[index] = own


def _tidy_casts(graph: onnx.GraphProto) -> None:
    """One Cast per tensor and type, none from float32 to float16 and back."""
    casts = {node.output[0]: node for node in graph.node if node.op_type == "Cast"}  # some are there twice
    to = {name: node.attribute[0].i for name, node in casts.items()}
    source = {name: node.input[0] for name, node in casts.items()}
    replace_nodes(graph, [n for n in graph.node if n.op_type != "Cast" or casts[n.output[0]] is n])
    outputs = {value.name for value in graph.output}
    same: dict[str, str] = {}  # what a Cast gives: the tensor that is equal to it
    first: dict[tuple[str, int], str] = {}
    for name, origin in source.items():
        if to[name] == TensorProto.FLOAT and to.get(origin) == TensorProto.FLOAT16:
            same[name] = source[origin]
        elif name not in outputs and (origin, to[name]) in first:
            same[name] = first[origin, to[name]]
        first.setdefault((origin, to[name]), name)
    gone = set(same)
    for output in outputs & same.keys():  # an output keeps its name, so that its equal takes it
        origin = same.pop(output)
        while origin in same:
            origin = same[origin]
        same[origin] = output
    replace_nodes(graph, [n for n in graph.node if n.op_type != "Cast" or n.output[0] not in gone])
    for node in graph.node:
        node.input[:] = [_last(same, name) for name in node.input]
        node.output[:] = [_last(same, name) for name in node.output]


def _last(same: Mapping[str, str], name: str) -> str:
    while name in same:
        name = same[name]
    return name
