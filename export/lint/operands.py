"""What TensorRT's ONNX parser takes of what operators read: constants, types, numbers of axes, sizes.

Sources as of :mod:`glint.export.lint.operators`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx
from onnx import TensorProto

from glint.export.lint.findings import REFUSED, VERSIONS, WARNING, Finding, View, attribute, input_name

_TYPES = {
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.FLOAT8E4M3FN,
    TensorProto.INT4, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL,
    TensorProto.UNDEFINED,
}  # fmt: skip
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
_WHOLE = {TensorProto.INT32, TensorProto.INT64}
_NOT_TAKEN = {  # types of the first input that an operator of ONNX takes and that of the parser does not
    **dict.fromkeys(("Gemm", "MatMul", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"), frozenset(_WHOLE)),
    **dict.fromkeys(("DepthToSpace", "ReduceMax", "ReduceMin"), frozenset({TensorProto.BOOL})),
    "Relu": {TensorProto.INT32},
    "Resize": {*_WHOLE, TensorProto.BOOL},
}
_TAKES_UINT8 = {"Cast", "CastLike", "Identity", "QuantizeLinear", "DequantizeLinear"}
_NO_UINT8_EQUAL = ("10.3", "10.13", "10.16", "11.4")
_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
# Inputs that the parser must see: stored in the file, or at least computed from constants and shapes.
_STORED = {**{name: {1: "axes"} for name in _REDUCTIONS}, "STFT": {1: "frame step", 2: "window"}}
_COMPUTED = {"Resize": {2: "scales"}, "Squeeze": {1: "axes"}, "Unsqueeze": {1: "axes"}}
_POOLS = ("AveragePool", "LpPool", "MaxPool")
_MOST_AXES = 8
_WINDOW_PX = 10**5  # pixels from which on a window of one or two axes is too large
_CORNER_MODES = {"half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_half_pixel_for_nn"}
_RESIZED_AXES = {"linear": 3, "cubic": 2}


def constants(view: View) -> Iterator[Finding]:
    """``constant-input``: what must be known when the engine is built."""
    for node in view.nodes:
        for table, stored in ((_STORED, True), (_COMPUTED, False)):
            for index, what in table.get(node.op_type, {}).items():
                name = input_name(node, index)
                if not name or view.is_stored(name) or not (stored or _depends_on_data(view, name)):
                    continue
                yield Finding(
                    "constant-input", REFUSED, VERSIONS, node.name,
                    f"the {what} of {node.op_type} {'are not stored in the file' if stored else 'depend on an input'}",
                    f"write the {what} as constants, or fold the graph (onnxscript.optimizer) before",
                )  # fmt: skip


def _depends_on_data(view: View, name: str) -> bool:
    """Whether a tensor is computed from what an input holds, not from its shape alone."""
    waiting, seen = [name], set()
    while waiting:
        tensor = waiting.pop()
        node = view.makers.get(tensor)
        if tensor in view.tensors or tensor in seen or (node is not None and node.op_type in ("Shape", "Size")):
            continue
        seen.add(tensor)
        if node is None:
            return True
        waiting += filter(None, node.input)
    return False


def resizes(view: View) -> Iterator[Finding]:
    """``resize``: ways to resize that the parser does not know."""
    for node in view.of_type("Resize"):
        mode = attribute(node, "mode", b"nearest").decode(errors="replace")
        corners = attribute(node, "coordinate_transformation_mode", b"half_pixel").decode(errors="replace")
        if attribute(node, "antialias", 0) or attribute(node, "keep_aspect_ratio_policy", b"stretch") != b"stretch":
            what, hint = "Resize with antialias or an aspect ratio policy", "average-pool before a plain Resize"
        elif corners not in _CORNER_MODES:
            what, hint = f"Resize with the coordinates {corners}", "export it with half_pixel or align_corners"
        elif (axes := _resized_axes(view, node)) > _RESIZED_AXES.get(mode, axes):
            what = f"{mode} Resize over the last {axes} axes, {_RESIZED_AXES[mode]} at most"
            hint = "resize height and width only"
        else:
            continue
        yield Finding("resize", REFUSED, VERSIONS, node.name, what, hint)


def _resized_axes(view: View, node: onnx.NodeProto) -> int:
    """How many of the last axes a Resize reaches, as far as its scales or sizes are known; else 0."""
    shape, axes = view.shapes.get(input_name(node, 0), ()), attribute(node, "axes", None)
    scales = view.value(input_name(node, 2 if len(node.input) > 2 else 1))
    sizes = view.value(input_name(node, 3))
    told = scales is not None and scales.size > 0
    if attribute(node, "mode", b"nearest") == b"cubic" and (axes is not None or not told):
        return 0  # the parser looks at scales of all axes only
    rank = len(shape) or (scales.size if told and scales is not None else 0)
    axes = [axis % rank for axis in axes or range(rank)] if rank else []
    if told and scales is not None:
        changed = [axis for axis, scale in zip(axes, scales.ravel()) if scale != 1]
    elif sizes is not None and shape:
        changed = [axis for axis, size in zip(axes, sizes.ravel()) if shape[axis] not in (-1, size)]
    else:
        return 0
    return rank - min(changed, default=rank)


def shapes(view: View) -> Iterator[Finding]:
    """``rank``, ``spatial-axes``, ``window``: more axes than TensorRT has, windows that are too large."""
    hint = "merge axes with Reshape, e.g. the batch with the next one"
    for tensor, shape in view.shapes.items():
        if len(shape) > _MOST_AXES:
            what = f"a tensor of {len(shape)} axes, {_MOST_AXES} at most"
            yield Finding("rank", REFUSED, VERSIONS, tensor, what, hint)
    for node in view.of_type(*_POOLS, "Conv", "ConvTranspose"):
        pools = node.op_type in _POOLS
        window = attribute(node, "kernel_shape", ()) if pools else view.shapes.get(input_name(node, 1), ())[2:]
        least = 2 if node.op_type == "LpPool" else 1  # of the others, one axis is taken for two
        if window and not least <= len(window) <= 3:
            yield Finding(
                "spatial-axes", REFUSED, VERSIONS, node.name,
                f"{node.op_type} over {len(window)} axes: {least} to 3", "add an axis of 1, or take axes one by one",
            )  # fmt: skip
        elif 0 < len(window) < 3 and math.prod(window) >= _WINDOW_PX:
            yield Finding(
                "window", REFUSED, VERSIONS, node.name,
                f"{node.op_type} with a window of {math.prod(window)} pixels: fewer than {_WINDOW_PX}",
                "GlobalAveragePool or a reduction over the axes takes all of them",
            )  # fmt: skip


def types(view: View) -> Iterator[Finding]:
    """``tensor-type``, ``operand-type``, ``uint8``, ``double``, ``int64-binding``: types that TensorRT lacks or treats
    in its way.
    """
    name = TensorProto.DataType.Name
    for tensor, kind in view.types.items():
        if kind not in _TYPES:
            yield Finding(
                "tensor-type",
                REFUSED,
                VERSIONS,
                tensor,
                f"there is no type {name(kind).lower()}",
                "cast outside the model",
            )
    for node in view.nodes:
        kind = view.types.get(input_name(node, 0), TensorProto.UNDEFINED)
        not_taken = _NOT_TAKEN.get(node.op_type, set())
        if node.op_type == "Mod":
            not_taken = set() if attribute(node, "fmod", 0) else {*_FLOATS, TensorProto.INT8}
        if kind in not_taken:
            hint = "Mod of float numbers needs fmod=1" if kind in _FLOATS else "cast to float before, and back behind"
            what = f"{node.op_type} of {name(kind).lower()}"
            yield Finding("operand-type", REFUSED, VERSIONS, node.name, what, hint)
        if node.op_type not in _TAKES_UINT8 and any(view.types.get(i) == TensorProto.UINT8 for i in node.input):
            versions = _NO_UINT8_EQUAL if node.op_type == "Equal" else VERSIONS
            yield Finding(
                "uint8", REFUSED, versions, node.name, f"{node.op_type} of uint8: only inputs and outputs may be uint8",
                "cast to float first",
            )  # fmt: skip
    doubles = [tensor for tensor, kind in view.types.items() if kind == TensorProto.DOUBLE]
    if doubles:
        yield Finding(
            "double", WARNING, VERSIONS, doubles[0], f"{len(doubles)} tensors of double become float32",
            "export in float32, so that every engine computes the same",
        )  # fmt: skip
    inputs = {value.name for value in view.model.graph.input} - set(view.tensors)
    for tensor in sorted(inputs | {value.name for value in view.model.graph.output}):
        if view.types.get(tensor) == TensorProto.INT64:
            yield Finding(
                "int64-binding",
                WARNING,
                VERSIONS,
                tensor,
                "an input or output of int64",
                "cast to int32 inside the model",
            )
