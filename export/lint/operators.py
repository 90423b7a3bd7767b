"""What TensorRT's ONNX parser takes: operators and their options, opsets.

Sources: the operator tables and the change log of NVIDIA's ONNX parser for 10.x, and what TensorRT-RTX
does with small graphs (the tests build each of them).
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx import numpy_helper

from glint.export.lint.findings import REFUSED, VERSIONS, WARNING, Finding, View, attribute, input_name

_NAMES = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization BlackmanWindow
    Cast CastLike CausalConvWithState Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum
    DeformConv DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU
    Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual
    GridSample GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If
    InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual LinearAttention Log
    LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg
    NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow QuantizeLinear RMSNormalization RNN RandomNormal
    RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
    ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign
    RotaryEmbedding Round STFT Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice
    Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh TensorScatter ThresholdedRelu Tile
    TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""
_OPERATORS = frozenset(_NAMES.split())
_MISSING = {  # of the operators above, in some versions
    **dict.fromkeys(("BlackmanWindow", "HammingWindow", "HannWindow", "STFT"), ("10.3",)),
    **dict.fromkeys(("Attention", "RMSNormalization", "RotaryEmbedding", "TensorScatter"), ("10.3", "10.13")),
    **dict.fromkeys(("Swish", "CausalConvWithState", "LinearAttention"), ("10.3", "10.13", "10.16", "11.4")),
    # Plugins of the full TensorRT; NonMaxSuppression is parsed, and no kernel implements it.
    **dict.fromkeys(("DeformConv", "NonMaxSuppression", "NonZero", "RoiAlign"), ("rtx",)),
}
_INTEGER = {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"}
_HINTS = {
    **dict.fromkeys(_INTEGER, "quantise with QuantizeLinear and DequantizeLinear around float operators (Q/DQ format)"),
    "Col2Im": "put overlapping patches together with shifted slices or one dense matrix product",
    "RoiAlign": "take the regions with GridSample",
    "NonZero": "keep fixed shapes: mask with Where, or leave the search to the runtime",
}
_NEWEST_OPSET = {"10.3": 20, "10.13": 22, "10.16": 24, "11.4": 24, "rtx": 24}
_OLDEST_OPSET = 9
_MOST_TOP_K = 3840
_WIDEST_LRN = 15


def operators(view: View) -> Iterator[Finding]:
    """``operator``, ``plugin``: nodes that the parser does not know."""
    own = {(function.domain, function.name) for function in view.model.functions}
    for node in view.nodes:
        if (node.domain, node.op_type) in own:
            continue
        if node.domain not in ("", "ai.onnx"):
            yield Finding(
                "plugin", REFUSED, VERSIONS, node.name, f"{node.op_type} of the domain {node.domain!r} needs a plugin",
                "replace it by plain ONNX operators",
            )  # fmt: skip
            continue
        versions = _MISSING.get(node.op_type, ()) if node.op_type in _OPERATORS else VERSIONS
        if versions:
            hint = _HINTS.get(node.op_type, "replace it by operators of the parser's list")
            yield Finding("operator", REFUSED, versions, node.name, f"no operator {node.op_type}", hint)


def serial(view: View) -> Iterator[Finding]:
    """``cumsum-loop``, ``loop``, ``data-dependent``: what runs, but not as one would like."""
    for node in view.of_type("CumSum"):
        yield Finding(
            "cumsum-loop", WARNING, ("10.3",), node.name, "CumSum runs as a serial loop",
            "multiply by a lower triangular matrix of ones",
        )  # fmt: skip
    for node in view.of_type("Loop", "Scan"):
        yield Finding(
            "loop", WARNING, VERSIONS, node.name, f"{node.op_type} starts every kernel once per iteration",
            "write it as matrix products, or unroll it if it is short",
        )  # fmt: skip
    for node in view.of_type("NonZero", "NonMaxSuppression"):
        versions = tuple(v for v in VERSIONS if v not in _MISSING.get(node.op_type, ()))
        yield Finding(
            "data-dependent", WARNING, versions, node.name,
            f"the shape of what {node.op_type} gives depends on the data: no CUDA graph", _HINTS["NonZero"],
        )  # fmt: skip


def options(view: View) -> Iterator[Finding]:
    """``top-k``, ``dilation``, ``second-output``, ``reduction``, ``lp-norm``, ``window``, ``coupled-gates``: known
    operators, unknown options.
    """
    for node in view.of_type("TopK"):
        k = view.value(input_name(node, 1))
        if k is not None and k.size and int(k.max()) > _MOST_TOP_K:
            yield Finding(
                "top-k", REFUSED, VERSIONS, node.name, f"TopK takes at most k = {_MOST_TOP_K}, got {int(k.max())}",
                "take the maxima of tiles first",
            )  # fmt: skip
    for node in view.of_type("MaxPool", "AveragePool", "LpPool"):
        if any(step != 1 for step in attribute(node, "dilations", [])):
            yield Finding(
                "dilation", REFUSED, VERSIONS, node.name, f"{node.op_type} with dilations", "pool without them"
            )
    for node in view.of_type("MaxPool", "LayerNormalization", "Attention"):
        if any(node.output[1:]):
            yield Finding(
                "second-output", REFUSED, VERSIONS, node.name, f"only the first output of {node.op_type} exists",
                "compute the other from plain operators",
            )  # fmt: skip
    for node in view.of_type("ScatterND", "ScatterElements"):
        if attribute(node, "reduction", b"none") != b"none":
            # The full TensorRT has a plugin for ScatterElements.
            versions = VERSIONS if node.op_type == "ScatterND" else ("rtx",)
            yield Finding(
                "reduction", REFUSED, versions, node.name, f"{node.op_type} with a reduction",
                "write it as a matrix product",
            )  # fmt: skip
    for node in view.of_type("LpPool"):
        p = attribute(node, "p", 2)
        if p not in (1, 2):
            yield Finding(
                "lp-norm", REFUSED, VERSIONS, node.name, f"LpPool with p = {p}: there is 1 and 2 only",
                "compute it from Pow and AveragePool",
            )  # fmt: skip
    for node in view.of_type("LRN"):
        size = attribute(node, "size", 1)
        if not 1 <= size <= _WIDEST_LRN or size % 2 == 0:
            yield Finding(
                "window", REFUSED, VERSIONS, node.name, f"LRN over {size} channels: an odd number to {_WIDEST_LRN}",
                "take the next odd number",
            )  # fmt: skip
    for node in view.of_type("LSTM"):
        if attribute(node, "input_forget", 0):
            yield Finding(
                "coupled-gates", REFUSED, VERSIONS, node.name, "LSTM whose input and forget gates are coupled",
                "export both gates",
            )  # fmt: skip


def training(view: View) -> Iterator[Finding]:
    """``training-mode``: operators as they are while a network is trained."""
    hint = "export the model in evaluation mode: model.eval()"
    for node in view.of_type("BatchNormalization"):
        if attribute(node, "training_mode", 0) or any(node.output[1:]):
            what = "BatchNormalization in training mode"
            yield Finding("training-mode", REFUSED, VERSIONS, node.name, what, hint)
    for node in view.of_type("Dropout"):
        mode = input_name(node, 2)
        value = view.tensors.get(mode)
        if not mode or (value is not None and not numpy_helper.to_array(value).any()):
            continue
        what = "Dropout in training mode" if value is not None else "Dropout whose training mode is computed"
        yield Finding("training-mode", REFUSED, VERSIONS, node.name, what, hint)


def files(view: View) -> Iterator[Finding]:
    """``opset``, ``unsorted``: what concerns the file as a whole."""
    opset = max((o.version for o in view.model.opset_import if o.domain in ("", "ai.onnx")), default=_OLDEST_OPSET)
    versions = tuple(v for v in VERSIONS if not _OLDEST_OPSET <= opset <= _NEWEST_OPSET[v])
    if versions:
        yield Finding(
            "opset",
            WARNING,
            versions,
            "",
            f"opset {opset} is outside of what the parser documents",
            "export with opset 19",
        )
    if view.unsorted:
        yield Finding(
            "unsorted", WARNING, VERSIONS, view.unsorted, "it reads what a later node makes: nodes are not sorted",
            "sort the nodes: engines take them as they are, onnx.checker and many tools do not",
        )  # fmt: skip
