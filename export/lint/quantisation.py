"""What TensorRT makes of QuantizeLinear and DequantizeLinear: what it refuses, and what it runs in float."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto

from glint.export.lint.findings import FLOAT, PRODUCTS, REFUSED, VERSIONS, WARNING, Finding, View, attribute, input_name

_INT8_BITS = (TensorProto.INT8, TensorProto.UINT8)


def scales(view: View) -> Iterator[Finding]:
    """``zero-scale``, ``computed-scale``: scales that nothing can be divided by, or that depend on the data."""
    hint = "leave dead channels out, or give them the scale of the others; a scale is positive"
    for node in view.of_type("QuantizeLinear", "DequantizeLinear"):
        name = input_name(node, 1)
        scale, stored = view.value(name), name in view.tensors
        if scale is None:
            if not stored and name:
                yield Finding(
                    "computed-scale", REFUSED, VERSIONS, node.name, "a scale that is computed from the data",
                    "calibrate: scales are constants",
                )  # fmt: skip
            continue
        scale = scale.astype(float)
        if not (scale > 0).all():
            # TensorRT checks what is stored; what is computed from constants it divides by, unseen.
            severity = REFUSED if stored else WARNING
            least = float(np.nanmin(scale)) if not np.isnan(scale).all() else float("nan")
            what = f"scales must be positive numbers, the least is {least:g}"
            yield Finding("zero-scale", severity, VERSIONS, node.name, what, hint)
        elif not np.isfinite(scale).all():
            yield Finding("zero-scale", WARNING, VERSIONS, node.name, "an infinite scale", hint)


def sizes(view: View) -> Iterator[Finding]:
    """``scale-size``: as many scales and zero points as there are channels, or one."""
    for node in view.of_type("QuantizeLinear", "DequantizeLinear"):
        if attribute(node, "block_size", 0):
            continue
        data, scales, zeros = (view.shapes.get(input_name(node, index)) for index in range(3))
        if scales is None or -1 in scales:
            continue
        number, axis = math.prod(scales), int(attribute(node, "axis", 1))
        channels = data[axis] if data is not None and -len(data) <= axis < len(data) else -1
        if len(scales) > 1:
            what = f"scales of {len(scales)} axes"
        elif number < 1 or (number > 1 and channels not in (-1, number)):
            what = f"{number} scales for {channels} channels along axis {axis}"
        elif zeros is not None and -1 not in zeros and math.prod(zeros) != number:
            what = f"{number} scales and {math.prod(zeros)} zero points"
        else:
            continue
        hint = "give it one scale, or one per channel, and as many zero points"
        yield Finding("scale-size", REFUSED, VERSIONS, node.name, what, hint)


def zero_points(view: View) -> Iterator[Finding]:
    """``zero-point``, ``uint8-activation``, ``int32-bias``: quantisation that is not symmetric int8."""
    for node in view.of_type("QuantizeLinear", "DequantizeLinear"):
        name = input_name(node, 2)
        zero = view.value(name) if name else None
        known = not name or view.is_stored(name)
        if not known or (zero is not None and zero.astype(float).any()):
            yield Finding(
                "zero-point", REFUSED, VERSIONS, node.name,
                "a zero point that is not zero" if known else "a zero point that nodes compute",
                "quantise symmetrically: int8, zero point 0, stored in the file",
            )  # fmt: skip
        elif node.op_type == "DequantizeLinear" and view.types.get(input_name(node, 0)) == TensorProto.INT32:
            yield Finding(
                "int32-bias", REFUSED, VERSIONS, node.name, "a bias of int32 behind DequantizeLinear",
                "keep biases in float (QuantizeBias=False of ONNX Runtime's quantiser)",
            )  # fmt: skip
    for node in view.of_type("QuantizeLinear"):
        # Without a zero point the output is uint8, unless output_dtype says otherwise.
        default = attribute(node, "output_dtype", TensorProto.UNDEFINED) or TensorProto.UINT8
        if view.types.get(input_name(node, 2), default) == TensorProto.UINT8:
            # The parser looks at output_dtype where there is no zero point.
            said = not input_name(node, 2) and attribute(node, "output_dtype", TensorProto.UNDEFINED)
            yield Finding(
                "uint8-activation", REFUSED if said else WARNING, VERSIONS, node.name,
                "uint8 is taken for int8: codes above 127 are cut off", "quantise activations to int8",
            )  # fmt: skip


def float_layers(view: View) -> Iterator[Finding]:
    """``weight-axis``, ``channel-activation``, ``deconvolution``, ``half-quantised``: int8 asked for, float run."""
    for node in view.of_type(*PRODUCTS):
        sides = [dequantise(view, input_name(node, index)) for index in (0, 1)]
        activation, weight = sides
        if activation is None and weight is None:
            continue
        if activation is None or weight is None:
            yield Finding(
                "half-quantised", FLOAT, VERSIONS, node.name, f"only one input of {node.op_type} is quantised",
                "quantise both, or neither",
            )  # fmt: skip
            continue
        if _per_channel(view, activation) and not view.is_constant(input_name(node, 0)):
            yield Finding(
                "channel-activation", FLOAT, VERSIONS, node.name, "an activation has a scale per channel",
                "give activations one scale; only weights may have one per channel",
            )  # fmt: skip
        if node.op_type == "ConvTranspose":
            yield Finding(
                "deconvolution", FLOAT, ("rtx",), node.name, "ConvTranspose runs in float",
                "resize and convolve, or convolve and reorder with DepthToSpace",
            )  # fmt: skip
        elif _per_channel(view, weight) and (wrong := _wrong_axis(view, node, weight)):
            yield Finding(
                "weight-axis",
                FLOAT,
                VERSIONS,
                node.name,
                wrong,
                "give weights one scale per output channel, or one for all",
            )


def dequantise(view: View, name: str) -> onnx.NodeProto | None:
    """The DequantizeLinear from int8 or uint8 that makes a tensor."""
    node = view.maker(name, "DequantizeLinear")
    return node if node is not None and view.types.get(input_name(node, 0), TensorProto.INT8) in _INT8_BITS else None


def _per_channel(view: View, node: onnx.NodeProto) -> bool:
    scale = view.tensors.get(input_name(node, 1))
    return scale is not None and any(size > 1 for size in scale.dims)


def _wrong_axis(view: View, node: onnx.NodeProto, weight: onnx.NodeProto) -> str:
    """Says it if the scales of a weight do not run along its output channels."""
    axis = int(attribute(weight, "axis", 1))
    quantised = view.tensors.get(input_name(weight, 0)) or view.tensors.get(_source(view, weight))
    rank = len(quantised.dims) if quantised is not None else (4 if node.op_type == "Conv" else 2)
    axis += rank if axis < 0 else 0
    if node.op_type == "Conv":
        right = 0
    elif node.op_type == "Gemm":
        right = 0 if attribute(node, "transB", 0) else 1
    else:
        right = rank - 1
    return "" if axis == right else f"the weights' scales run along axis {axis}, output channels along axis {right}"


def _source(view: View, dequantise: onnx.NodeProto) -> str:
    """What a DequantizeLinear's QuantizeLinear quantises, if there is one."""
    quantise = view.maker(input_name(dequantise, 0), "QuantizeLinear")
    return input_name(quantise, 0) if quantise is not None else ""
