"""What is inside an ONNX file: operators, precision and work per layer, and what TensorRT makes of it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto
from onnxscript import optimizer

from glint.cards import TensorSpec, count_macs, in_island
from glint.errors import GlintError, ModelError, first_line
from glint.export.lint.findings import PRODUCTS, VERSIONS, View, input_name
from glint.export.lint.lint import lint, load_onnx
from glint.export.lint.order import in_order
from glint.export.lint.quantisation import dequantise

FREE_SIDE_PX = 512  # what a free height or width is taken for when work is counted; a free batch is 1
_QUANTISERS = ("QuantizeLinear", "DequantizeLinear")
_VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")  # move nothing


def inspect_onnx(path: Path) -> dict[str, Any]:
    """Describe an ONNX file.

    Returns:
        ``inputs``, ``outputs``: name, dtype and shape, -1 for any size; ``opset``; ``numbers``: stored
        in it; ``operators``: how many of each type; ``layers``: name, operator, precision, whether it
        is in a float32 island, multiply-accumulates (None where it does none or its shape is not
        known) and bytes of what it reads and writes (None likewise), free axes being 1 (batch) and 512; ``macs``,
        ``bytes``: their sums, the latter if no two layers became one kernel; ``casts`` and ``quantisers``: how many
        there are; ``findings`` and ``versions``: the TensorRT check.

    Raises:
        ModelError: if the file cannot be read or is no ONNX model.
    """
    try:
        return _described(path)
    except GlintError:
        raise
    except Exception as error:  # whatever a damaged graph makes the libraries stumble over
        raise ModelError(
            f"{path} is no valid ONNX model: {first_line(error)}",
            hint="export it again; onnx.checker.check_model tells more",
        ) from error


def _described(path: Path) -> dict[str, Any]:
    model = load_onnx(path)
    found = lint(model, folder=path.parent)
    model = in_order(model)
    view = View(onnx.shape_inference.infer_shapes(model))
    macs, moved = _count_work(model)
    layers = [
        {
            "name": node.name, "operator": node.op_type, "precision": _precision(view, node),
            "island": in_island(node.name), "macs": macs.get(node.name), "bytes": moved.get(node.name),
        }
        for node in view.model.graph.node
        if node.op_type not in _QUANTISERS
    ]  # fmt: skip
    stored = {tensor.name for tensor in model.graph.initializer}
    return {
        "inputs": [asdict(_spec(value)) for value in model.graph.input if value.name not in stored],
        "outputs": [asdict(_spec(value)) for value in model.graph.output],
        "opset": max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0),
        "numbers": sum(math.prod(tensor.dims) for tensor in model.graph.initializer),
        "operators": dict(Counter(node.op_type for node in model.graph.node).most_common()),
        "layers": layers,
        "macs": sum(macs.values()),
        "bytes": sum(moved.values()),
        "casts": sum(node.op_type == "Cast" for node in model.graph.node),
        "quantisers": sum(node.op_type in _QUANTISERS for node in model.graph.node),
        "findings": [asdict(finding) for finding in found],
        "versions": {v: "clean" if all(v not in f.versions for f in found) else "see findings" for v in VERSIONS},
    }


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
    return TensorSpec(value.name, _type_name(kind.elem_type), shape)


def _type_name(kind: int) -> str:
    name = str(TensorProto.DataType.Name(kind)).lower()
    return {"float": "float32", "double": "float64", "undefined": "unknown"}.get(name, name)


def _precision(view: View, node: onnx.NodeProto) -> str:
    """``int8`` if all that a weighted operator multiplies is quantised, else the type that comes out."""
    if node.op_type in PRODUCTS and all(dequantise(view, input_name(node, index)) for index in (0, 1)):
        return "int8"
    return _type_name(view.types.get(node.output[0], TensorProto.UNDEFINED))


def _count_work(model: onnx.ModelProto) -> tuple[dict[str, int], dict[str, int]]:
    """Multiply-accumulates of the weighted nodes, and bytes of all, whose shapes are known once the inputs' are."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value"):
                dim.dim_value = 1 if axis == 0 else FREE_SIDE_PX
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    del fixed.graph.value_info[:]
    counts, moved = _work_of(fixed)
    if not any(tensor.data_location == TensorProto.EXTERNAL for tensor in fixed.graph.initializer):
        # Folding turns what computes shapes into constants; what it computes whole keeps what was known before.
        folded_counts, folded_moved = _work_of(optimizer.optimize(fixed))
        counts, moved = {**counts, **folded_counts}, {**moved, **folded_moved}
    return counts, moved


def _work_of(model: onnx.ModelProto) -> tuple[dict[str, int], dict[str, int]]:
    """The same of those nodes whose shapes can be inferred as the graph stands."""
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            shapes[value.name] = tuple(d.dim_value for d in dims)
            kinds[value.name] = value.type.tensor_type.elem_type
    counts: dict[str, int] = {}
    moved: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in PRODUCTS and all(name in shapes for name in (*node.input[:2], node.output[0])):
            counts[node.name] = count_macs(node.op_type, *(shapes[name] for name in (*node.input[:2], node.output[0])))
        names = {name for name in (*node.input, *node.output) if name}
        if names <= shapes.keys() and node.op_type not in _VIEWS:
            moved[node.name] = sum(math.prod(shapes[name]) * _width(kinds[name]) for name in names)
    return counts, moved


def _width(kind: int) -> int:
    """Bytes of a number of an ONNX type; 4 for what NumPy does not have."""
    try:
        return int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)
    except KeyError:
        return 4
