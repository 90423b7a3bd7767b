"""The TensorRT check, rule by rule, and against the real TensorRT-RTX."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_graphs as small
from lint_graphs import (
    SHAPE,
    attention,
    batch_normalisation,
    branches,
    by_input,
    by_node,
    cast,
    cast_zero_point,
    col2im,
    computed,
    convolved,
    dead_channel,
    dropout,
    dynamic_quantisation,
    half_quantised,
    int64_input,
    loop,
    lp_pool,
    lstm,
    nonzero,
    of_rank,
    of_type,
    opset,
    plugin,
    pooled,
    qlinear_conv,
    rank_inside,
    reduced,
    resize,
    resize_to,
    resize_up,
    rms_normalisation,
    roi_align,
    scaled,
    scatter,
    scatter_elements,
    second_output,
    sized_scales,
    suppression,
    top_k,
    uint8_by_type,
    uint8_sum,
    unsorted,
    without_zero_point,
)
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from glint.cards import zoo_folder
from glint.export.lint import operators as rules_operators
from glint.export.lint.findings import FLOAT, REFUSED, VERSIONS, WARNING
from glint.export.lint.lint import lint, load_onnx

OLD = ("10.3", "10.13")
CONSTANT = [("constant-input", REFUSED, VERSIONS)]
OPERAND = [("operand-type", REFUSED, VERSIONS)]
SCALE_SIZE = [("scale-size", REFUSED, VERSIONS)]
WINDOW = [("window", REFUSED, VERSIONS)]
SPATIAL = [("spatial-axes", REFUSED, VERSIONS)]
ZERO_POINTS = [("zero-point", REFUSED, VERSIONS)] * 2
ZERO_SCALE = [("zero-scale", REFUSED, VERSIONS)]
UNSEEN_SCALE = [("zero-scale", WARNING, VERSIONS)] * 2
TRAINING = [("training-mode", REFUSED, VERSIONS)]
RESIZE = [("resize", REFUSED, VERSIONS)]
# name: graph, what is found (code, severity, versions), what TensorRT-RTX does with it
CASES = {
    "plain": (opset(19), [], "built"),
    "int8": (small.quantised_conv(), [], "int8"),
    "int8 with bias": (small.quantised_conv(bias="float32"), [], "int8"),
    "int8 with one scale": (small.quantised_conv(weight_axis=-1), [], "int8"),
    "int8 matmul": (small.quantised_matmul(), [], "int8"),
    "int8 matmul with one scale": (small.quantised_matmul(weight_axis=-1), [], "int8"),
    "int8 gemm": (small.quantised_matmul(operator="Gemm"), [], "int8"),
    "zero point": (
        small.quantised_conv(zero=3), [("zero-point", REFUSED, VERSIONS), ("zero-point", REFUSED, VERSIONS)], "refused"
    ),
    "uint8 zero point": (
        small.quantised_conv(activation=np.uint8, zero=128),
        [("zero-point", REFUSED, VERSIONS), ("zero-point", REFUSED, VERSIONS), ("uint8-activation", WARNING, VERSIONS)],
        "refused",
    ),
    "uint8 activation": (small.quantised_conv(activation=np.uint8), [("uint8-activation", WARNING, VERSIONS)], "int8"),
    "no zero point": (without_zero_point(), [("uint8-activation", WARNING, VERSIONS)], "int8"),
    "weight axis": (small.quantised_conv(weight_axis=1), [("weight-axis", FLOAT, VERSIONS)], "built"),
    "matmul axis": (small.quantised_matmul(weight_axis=0), [("weight-axis", FLOAT, VERSIONS)], "built"),
    "gemm axis": (small.quantised_matmul(weight_axis=0, operator="Gemm"), [("weight-axis", FLOAT, VERSIONS)], "built"),
    "channel activation": (
        small.quantised_conv(per_channel_activation=True), [("channel-activation", FLOAT, VERSIONS)], "built"
    ),
    "int32 bias": (small.quantised_conv(bias="int32"), [("int32-bias", REFUSED, VERSIONS)], "refused"),
    "deconvolution": (
        small.quantised_conv(operator="ConvTranspose", weight_axis=1), [("deconvolution", FLOAT, ("rtx",))], "built"
    ),
    "float weights": (half_quantised("activation"), [("half-quantised", FLOAT, VERSIONS)], "built"),
    "float activation": (half_quantised("weight"), [("half-quantised", FLOAT, VERSIONS)], "built"),
    "dynamic quantisation": (dynamic_quantisation(), [("operator", REFUSED, VERSIONS)], "refused"),
    "qlinear": (qlinear_conv(), [("operator", REFUSED, VERSIONS)], "refused"),
    "col2im": (col2im(), [("operator", REFUSED, VERSIONS)], "refused"),
    "inside a branch": (branches("Bernoulli"), [("operator", REFUSED, VERSIONS)], "refused"),
    "branch": (branches("Neg"), [], "built"),
    "plugin": (plugin(), [("plugin", REFUSED, VERSIONS)], "refused"),
    "nonzero": (nonzero(), [("operator", REFUSED, ("rtx",)), ("data-dependent", WARNING, VERSIONS[:-1])], "refused"),
    "new operator": (rms_normalisation(), [("operator", REFUSED, OLD), ("opset", WARNING, OLD)], "built"),
    "top k": (top_k(3840), [], "built"),
    "top k too large": (top_k(3841), [("top-k", REFUSED, VERSIONS)], "refused"),
    "resize": (resize(mode="linear"), [], "built"),
    "antialias": (resize(mode="linear", antialias=1), [("resize", REFUSED, VERSIONS)], "refused"),
    "dilated pool": (
        small.model(
            [small.node("MaxPool", ["x"], kernel_shape=[2, 2], dilations=[2, 2])],
            outputs={"y": (T.FLOAT, (1, 8, 14, 14))},
        ),
        [("dilation", REFUSED, VERSIONS)],
        "refused",
    ),
    "second output": (second_output(), [("second-output", REFUSED, VERSIONS)], "refused"),
    "reduction": (scatter(), [("reduction", REFUSED, VERSIONS)], "refused"),
    "uint16": (cast(T.UINT16), [("tensor-type", REFUSED, VERSIONS)], "refused"),
    "uint8 input": (cast(T.UINT8), [], "built"),
    "uint8 sum": (uint8_sum(), [("uint8", REFUSED, VERSIONS)], "refused"),
    "double": (cast(T.DOUBLE), [("double", WARNING, VERSIONS)], "built"),
    "int64": (int64_input(), [("int64-binding", WARNING, VERSIONS)] * 2, "built"),
    "cumsum": (
        small.model([small.node("CumSum", ["x", "a"])], weights={"a": np.array(1)}),
        [("cumsum-loop", WARNING, ("10.3",))],
        "built",
    ),
    "loop": (loop(), [("loop", WARNING, VERSIONS)], "built"),
    "dead channel": (scaled(w_scale=dead_channel(0)), ZERO_SCALE, "refused"),
    "negative weight scale": (scaled(w_scale=dead_channel(-0.1)), ZERO_SCALE, "refused"),
    "scale not a number": (scaled(w_scale=dead_channel(np.nan)), ZERO_SCALE, "refused"),
    "zero scale": (scaled(scale=np.float32(0)), ZERO_SCALE * 2, "refused"),
    "negative scale": (scaled(scale=np.float32(-0.1)), ZERO_SCALE * 2, "refused"),
    "infinite scale": (scaled(scale=np.float32(np.inf)), UNSEEN_SCALE, "int8"),
    "computed scale": (by_node("Mul", ["c", "c"], "scale", c=np.float32(0.2)), [], "int8"),
    "zero by product": (by_node("Mul", ["c", "c"], "scale", c=np.float32(0)), UNSEEN_SCALE, "int8"),
    "negative by cast": (by_node("Neg", ["c"], "scale", c=np.float32(0.1)), UNSEEN_SCALE, "int8"),
    "cast zero point 0": (cast_zero_point(0), [], "int8"),
    "cast zero point 3": (cast_zero_point(3), ZERO_POINTS, "refused"),
    "identity zero point 3": (by_node("Identity", ["c"], c=np.int8(3)), ZERO_POINTS, "refused"),
    "computed zero point 0": (by_node("Sub", ["c", "c"], c=np.int8(3)), ZERO_POINTS, "refused"),
    "normalisation": (batch_normalisation(0), [], "built"),
    "normalisation in training": (batch_normalisation(1), TRAINING, "refused"),
    "dropout": (dropout(False), [], "built"),
    "dropout in training": (dropout(True), TRAINING, "refused"),
    "dropout computed": (dropout(False, computed=True), TRAINING, "refused"),
    "resize cubic": (resize_up((1, 1, 2, 2), "cubic"), [], "built"),
    "resize cubic channels": (resize_up((1, 2, 2, 2), "cubic"), RESIZE, "refused"),
    "resize linear channels": (resize_up((1, 2, 2, 2), "linear"), [], "built"),
    "resize linear batch": (resize_up((2, 2, 2, 2), "linear"), RESIZE, "refused"),
    "resize nearest channels": (resize_up((1, 2, 2, 2), "nearest"), [], "built"),
    "resize symmetric": (
        resize_up((1, 1, 2, 2), "linear", coordinate_transformation_mode="half_pixel_symmetric"), RESIZE, "refused"
    ),
    "resize crop": (
        resize_up((1, 1, 2, 2), "linear", roi=True, coordinate_transformation_mode="tf_crop_and_resize"),
        RESIZE, "refused",
    ),
    "scatter elements": (scatter_elements("none"), [], "built"),
    "scatter elements adding": (scatter_elements("add"), [("reduction", REFUSED, ("rtx",))], "refused"),
    "rank 8": (of_rank(8), [], "built"),
    "rank 9": (of_rank(9), [("rank", REFUSED, VERSIONS)] * 2, "refused"),
    "rank 9 inside": (rank_inside(), [("rank", REFUSED, VERSIONS)] * 2, "refused"),
    "lp pool 2": (lp_pool(2), [], "built"),
    "lp pool 3": (lp_pool(3), [("lp-norm", REFUSED, VERSIONS)], "refused"),
    "roi align": (roi_align(), [("operator", REFUSED, ("rtx",))], "refused"),
    "lp pool over 1 axis": (pooled("LpPool", 2), SPATIAL, "refused"),
    "max pool over 1 axis": (pooled("MaxPool", 2), [], "built"),
    "max pool over 4 axes": (pooled("MaxPool", 2, 2, 2, 2), SPATIAL, "refused"),
    "average of many": (pooled("AveragePool", 99, 1010), [], "built"),
    "average of too many": (pooled("AveragePool", 100, 1000), WINDOW, "refused"),
    "convolution over 1 axis": (convolved(1), [], "built"),
    "convolution over 4 axes": (convolved(4), SPATIAL, "refused"),
    "response over 5": (of_type("LRN", T.FLOAT, size=5), [], "built"),
    "response over 4": (of_type("LRN", T.FLOAT, size=4), WINDOW, "refused"),
    "response over 17": (of_type("LRN", T.FLOAT, size=17), WINDOW, "refused"),
    "lstm": (lstm(0), [], "built"),
    "lstm coupled": (lstm(1), [("coupled-gates", REFUSED, VERSIONS)], "refused"),
    "attention of two outputs": (
        attention(),
        [("operator", REFUSED, OLD), ("second-output", REFUSED, VERSIONS), ("opset", WARNING, OLD)], "refused",
    ),
    "remainder": (of_type("Mod", T.FLOAT, "x", fmod=1), [], "built"),
    "modulo of floats": (of_type("Mod", T.FLOAT, "x"), OPERAND, "refused"),
    "modulo of integers": (of_type("Mod", T.INT32, "x"), [], "built"),
    "product of integers": (of_type("MatMul", T.INT32, "x"), OPERAND, "refused"),
    "relu of integers": (of_type("Relu", T.INT32), OPERAND, "refused"),
    "resize of integers": (
        of_type("Resize", T.INT32, "", "s", weights={"s": np.array([1, 1, 2, 2], np.float32)}), OPERAND, "refused"
    ),
    "depth of truths": (of_type("DepthToSpace", T.BOOL, blocksize=2), OPERAND, "refused"),
    "maximum of truths": (reduced("ReduceMax", kind=T.BOOL), OPERAND, "refused"),
    "maximum of integers": (reduced("ReduceMax", kind=T.INT32), [], "built"),
    "norm of integers": (reduced("ReduceL2", kind=T.INT32), OPERAND, "refused"),
    "axes": (reduced("ReduceSum"), [], "built"),
    "axes cast": (reduced("ReduceSum", by="Cast"), [], "built"),
    "axes computed": (reduced("ReduceSum", by="Abs"), CONSTANT, "refused"),
    "axes of an input": (
        by_input("ReduceSum", T.INT64, (1,)), [*CONSTANT, ("int64-binding", WARNING, VERSIONS)], "refused"
    ),
    "squeeze by an input": (
        by_input("Squeeze", T.INT64, (1,)), [*CONSTANT, ("int64-binding", WARNING, VERSIONS)], "refused"
    ),
    "resize by an input": (by_input("Resize", T.FLOAT, (4,), mode="linear"), CONSTANT, "refused"),
    "resize to a size": (resize_to((1, 9, 20, 24), "linear"), [], "built"),
    "resize the batch to a size": (resize_to((2, 8, 16, 16), "linear"), RESIZE, "refused"),
    "resize the batch by axis": (resize_to((2,), "linear", axes=[0]), RESIZE, "refused"),
    "resize two axes": (resize_to((24, 20), "linear", axes=[3, 2]), [], "built"),
    "nearest batch to a size": (resize_to((2, 8, 16, 16), "nearest"), [], "built"),
    "uint8 equal": (
        small.model(
            [small.node("Equal", ["x", "x"])], inputs={"x": (T.UINT8, SHAPE)}, outputs={"y": (T.BOOL, SHAPE)}
        ),
        [("uint8", REFUSED, VERSIONS[:-1])], "built",
    ),
    "suppression": (
        suppression(), [("operator", REFUSED, ("rtx",)), ("data-dependent", WARNING, VERSIONS[:-1])], "refused"
    ),
    "too few scales": (sized_scales(16), SCALE_SIZE, "refused"),
    "too many scales": (sized_scales(33), SCALE_SIZE, "refused"),
    "scales of two axes": (sized_scales((1, 32)), SCALE_SIZE, "refused"),
    "one zero point too few": (scaled(w_zero=np.zeros(31, np.int8)), SCALE_SIZE, "refused"),
    "one scale of one axis": (sized_scales(1), [], "int8"),
    "cast-like zero point 0": (by_node("CastLike", ["c", "k"], c=np.float32(0), k=np.int8(0)), [], "int8"),
    "cast-like zero point 3": (by_node("CastLike", ["c", "k"], c=np.float32(3), k=np.int8(0)), ZERO_POINTS, "refused"),
    "zero point of a shape": (
        computed("zero", [helper.make_node("ConstantOfShape", ["n"], ["zero"], name="fill",
                 value=numpy_helper.from_array(np.zeros(1, np.int8)))], n=np.zeros(0, np.int64)),
        ZERO_POINTS, "refused",
    ),
    "uint8 said by its type": (
        uint8_by_type(), [("uint8-activation", REFUSED, VERSIONS), ("opset", WARNING, ("10.3",))], "refused"
    ),
    "unsorted": (unsorted(), [("unsorted", WARNING, VERSIONS)], "int8"),
    "opset 8": (opset(8), [("opset", WARNING, VERSIONS)], "built"),
    "opset 20": (opset(20), [], "built"),
    "opset 21": (opset(21), [("opset", WARNING, ("10.3",))], "built"),
    "opset 24": (opset(24), [("opset", WARNING, OLD)], "built"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_rule_finds_what_it_is_for_and_nothing_else(case):
    model, expected, _ = CASES[case]
    found = lint(model)
    assert [(f.code, f.severity, f.versions) for f in found] == expected
    names = (
        {n.name for n in model.graph.node} | {i.name for i in model.graph.input} | {o.name for o in model.graph.output}
        | {o for n in model.graph.node for o in n.output}
    )  # fmt: skip
    for finding in found:
        assert finding.code in finding.text() and finding.hint
        assert finding.node in names | {"the/Bernoulli", ""}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """What TensorRT-RTX does with every case, and with the released models."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed")
    folder = tmp_path_factory.mktemp("cases")
    for name, (model, _, _) in CASES.items():
        onnx.save(model, folder / f"{name}.onnx")
    probe = Path(__file__).parents[1] / "rtx_probe.py"
    done = subprocess.run([sys.executable, probe, folder], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", CASES)
def test_the_real_tensorrt_agrees(real, case):
    model, _, outcome = CASES[case]
    assert real[case].split(":")[0] == outcome, real[case]
    # The same from the side of the rules: what they say of rtx is what it does.
    severities = {f.severity for f in lint(model) if "rtx" in f.versions}
    assert (REFUSED in severities) == (outcome == "refused")
    assert not (FLOAT in severities and outcome == "int8")


def test_the_real_parser_knows_the_same_operators():
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed")
    code = (
        "import json, sys, onnx, tensorrt_rtx as trt\n"
        "logger = trt.Logger(trt.Logger.ERROR); network = trt.Builder(logger).create_network(0)\n"
        "parser = trt.OnnxParser(network, logger)\n"
        "names = {s.name for s in onnx.defs.get_all_schemas() if s.domain == ''}\n"
        "print(json.dumps({name: parser.supports_operator(name) for name in names}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    for name, supported in json.loads(done.stdout).items():
        if name not in ("NonMaxSuppression", "NonZero", "RoiAlign"):  # parsed, but nothing in TensorRT-RTX runs them
            ours = name in rules_operators._OPERATORS and "rtx" not in rules_operators._MISSING.get(name, ())
            assert ours == supported, name


@pytest.mark.parametrize("path", sorted(zoo_folder().glob("*.onnx")), ids=lambda path: path.stem)
def test_released_models_are_clean_on_every_version(path):
    assert lint(load_onnx(path), folder=path.parent) == []


def test_a_scale_of_the_data_is_refused():
    """TensorRT-RTX 1.7 crashes on it, so it is not among the cases that are shown to it."""
    peak = [helper.make_node("ReduceMax", ["x"], ["scale"], name="peak", keepdims=0)]
    found = lint(computed("scale", peak))
    assert [(f.code, f.severity) for f in found] == [("computed-scale", REFUSED)] * 2


def test_a_node_without_a_name_is_found_by_its_output():
    model = col2im()
    model.graph.node[0].name = ""
    assert [f.node for f in lint(model)] == ["y"]
    assert model.graph.node[0].name == ""


def test_weights_that_are_quantised_on_the_fly_are_weights():
    """Float weights behind QuantizeLinear and DequantizeLinear, and transposed, as some exporters write them."""
    model = small.quantised_matmul()
    for tensor in list(model.graph.initializer):
        if tensor.name == "w":
            model.graph.initializer.remove(tensor)
    model.graph.initializer.append(numpy_helper.from_array(small.kernel(64, 32), "float_w"))
    quantise = helper.make_node(
        "QuantizeLinear", ["float_w", "w_scale", "w_zero"], ["w"], name="the/w/QuantizeLinear", axis=1
    )
    model.graph.node.insert(0, quantise)
    onnx.checker.check_model(model, full_check=True)
    assert lint(model) == []
