"""The real tensorrt_rtx, ahead of time on the CPU: every released model is built, in every precision.

Its verbose log says which convolutions and matrix products run in INT8 and FP16. Where the zoo holds a
model in fp32 only, its fp16 and int8 variants are made here with ONNX Runtime's tools.
"""

import copy
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_models
from onnx import numpy_helper

from glint.cards import UnmixerSpec, load_card, save_card, zoo_folder, zoo_names
from glint.cli import main
from glint.errors import CheckFailedError, ModelError
from glint.files import sha256
from glint.runtime.engines.tensorrt.build import BuildOptions, build
from glint.runtime.engines.tensorrt.cache import read_info
from glint.types import FrameSize

pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed (x86-64 Linux and Windows only)")

GPU = "8.6"
FP32 = [name for name in zoo_names() if name.endswith(".fp32")]
OTHERS = [name for name in zoo_names() if not name.endswith(".fp32")]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("GLINT_CACHE", str(tmp_path / "cache"))


def options_for(card):
    """Shapes to build with: whatever in a model's input is free."""
    free = any(-1 in spec.shape[-2:] for spec in card.inputs)
    return BuildOptions(sizes=(FrameSize(96, 64),) if free else ())


def build_card(path):
    return build(path, options_for(load_card(path)[0]), flavour="tensorrt_rtx", compute_capability=GPU)


def variant(card, model, folder, precision):
    """Write a model as another precision of ``card``, with a card of its own; returns the ONNX file."""
    path = folder / f"{card.name}.{precision}.onnx"
    onnx.save(model, path)
    fields = {**vars(card), "precision": precision, "file": path.name, "sha256": sha256(path)}
    save_card(type(card)(**fields), folder)
    return path


def to_fp16(model):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    # The converter casts the scales of Resize back, once per user under one name: each gets its own.
    shared = {i.name: i for i in model.graph.initializer}
    for number, node in enumerate(n for n in model.graph.node if n.op_type == "Resize"):
        own = copy.deepcopy(shared[node.input[2]])
        own.name = node.input[2] = f"{own.name}_{number}"
        model.graph.initializer.append(own)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert_float_to_float16(model, keep_io_types=True)


def to_int8(source, card, folder):
    """Explicit Q/DQ with what TensorRT consumes: int8, zero point 0, weights per channel, float bias."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self):
            random = np.random.default_rng(0)
            shapes = {s.name: [f if n == -1 else n for n, f in zip(s.shape, (2, 1, 64, 64))] for s in card.inputs}
            self.batches = iter({k: random.random(v, np.float32) for k, v in shapes.items()} for _ in range(2))

        def get_next(self):
            return next(self.batches, None)

    prepared, quantized = folder / "prepared.onnx", folder / "quantized.onnx"
    products = ["Conv", "MatMul", "Gemm"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared), str(quantized), Reader(), quant_format=QuantFormat.QDQ, activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8, per_channel=True, calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=products,
            extra_options={
                "ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False, "DedicatedQDQPair": True,
                "OpTypesToExcludeOutputQuantization": products,
            },
        )  # fmt: skip
    return onnx.load(quantized)


def products(model):
    """Names of the convolutions and matrix products of a model."""
    return {n.name for n in model.graph.node if n.op_type in ("Conv", "ConvTranspose", "MatMul", "Gemm")}


def constant_first(model):
    """Matrix products whose first operand is a constant, or folds to one."""
    constant = {i.name for i in model.graph.initializer}
    found = set()
    for node in model.graph.node:
        if all(name in constant for name in node.input if name):
            constant |= set(node.output)
        elif node.op_type == "MatMul" and node.input[0] in constant:
            found.add(node.name)
    return found


@pytest.mark.parametrize("name", FP32)
def test_released_models_build_in_fp32(name):
    built = build_card(zoo_folder() / f"{name}.json")
    card = load_card(zoo_folder() / f"{name}.json")[0]
    assert built.path.stat().st_size > 100_000
    assert [s.name for s in built.info.inputs] == [s.name for s in card.inputs]
    assert [s.name for s in built.info.outputs] == [s.name for s in card.outputs]
    assert set(built.info.audit["layers"]) <= {"fp32", "other"}
    assert read_info(built.path) == built.info
    assert build_card(zoo_folder() / f"{name}.json").cached


@pytest.mark.parametrize("name", OTHERS)
def test_released_models_run_in_the_precision_that_they_name(name):
    audit = build_card(zoo_folder() / f"{name}.json").info.audit
    precision = name.rpartition(".")[2]
    assert audit["asked"][precision] > 0
    assert audit["obtained"] == audit["asked"]


def test_the_command_says_where_int8_is_not_worth_it(capsys):
    """Bytes are those of the usual batch: of a single patch the weights, half as large, would hide the rest."""
    words = ["--flavour", "tensorrt_rtx", "--compute-capability", GPU, "--batch", "1,64,256"]
    assert main(["build", "dscsnet-s-csist", *words]) == 0
    fp16 = capsys.readouterr().err
    assert main(["build", "dscsnet-s-csist", "--precision", "int8", *words]) == 0
    told = capsys.readouterr().err
    (moved,) = re.findall(r"traffic: ([\d.]+) MB", fp16)
    assert 20 < float(moved) < 30 and "worth" not in fp16
    (more,) = re.findall(rf"int8 is not worth it here: it moves ([\d.]+) MB, fp16 {moved} MB", told)
    assert float(more) > float(moved)


@pytest.mark.parametrize("name", FP32)
def test_in_fp16_every_product_runs_in_fp16(name, tmp_path):
    card, source = load_card(zoo_folder() / f"{name}.json")
    model = to_fp16(onnx.load(source))
    built = build_card(variant(card, model, tmp_path, "fp16"))
    audit = built.info.audit
    assert audit["asked"] == audit["obtained"] == {"fp16": len(products(model))}
    assert audit["layers"]["fp16"] > 0.9 * sum(audit["layers"].values())


@pytest.mark.parametrize("name", FP32)
def test_in_int8_every_convolution_and_layer_runs_in_int8(name, tmp_path):
    card, source = load_card(zoo_folder() / f"{name}.json")
    model = to_int8(source, card, tmp_path)
    audit = build_card(variant(card, model, tmp_path, "int8")).info.audit
    assert audit["asked"] == {"int8": len(products(model))}
    missed = {line.partition(":")[0] for line in audit["missed"]}
    assert audit["obtained"]["int8"] == len(products(model)) - len(missed)
    # A product of a constant matrix with a batch of data, in this order, is the one form kept in float.
    assert missed <= constant_first(model)


def test_q_dq_that_is_not_consumed_fails_the_build(tmp_path):
    good = small_models.unmixer(tmp_path / "good", precision="int8")
    assert build_card(good).info.audit["obtained"] == {"int8": 3}
    model = onnx.load(good)
    nodes, weights = {n.name: n for n in model.graph.node}, {i.name: i for i in model.graph.initializer}

    def put(name, value):
        weights[name].CopyFrom(numpy_helper.from_array(value, name))

    # Scales along the input channels: TensorRT says nothing, and multiplies in float.
    nodes["last.weights"].attribute[0].i = 1
    put("last.weight_scale", np.full(4, 0.01, np.float32))
    put("last.weight_zero", np.zeros(4, np.int8))
    bad = save_beside(model, tmp_path / "one" / good.name)
    assert build_card(bad).info.audit["missed"] == ["last: asked for int8, runs in fp32"]

    for name in ("first", "mix"):  # and where nothing else is asked for, nothing is obtained
        nodes[name].input[0] = nodes[f"{name}.quantize"].input[0]
        nodes[name].input[1] = f"{name}.float"
        quantized = numpy_helper.to_array(weights[f"{name}.weight"])
        model.graph.initializer.append(numpy_helper.from_array(quantized.astype(np.float32), f"{name}.float"))
    bad = save_beside(model, tmp_path / "none" / good.name)
    with pytest.raises(CheckFailedError, match="int8 was asked for, but the engine does not run in it"):
        build_card(bad)


def save_beside(model, path):
    """Write a changed tiny unmixer and the card that fits it."""
    path.parent.mkdir(exist_ok=True)
    onnx.save(model, path)
    spec = UnmixerSpec(patch=7, crop=7, cells=1)
    small_models.write_card(path, task="unmix", shape=(-1, 1, 7, 7), outputs=("grid",), unmixer=spec)
    return path


def test_an_operator_that_it_does_not_have_is_named(tmp_path):
    model_file = small_models.unmixer(tmp_path)
    model = onnx.load(model_file)
    relu = next(n for n in model.graph.node if n.op_type == "Relu")
    relu.op_type, relu.domain = "Sparkle", "com.example"
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    save_beside(model, model_file)
    with pytest.raises(ModelError, match="Sparkle"):
        build_card(model_file)


def test_missing_weights_are_recognised(tmp_path):
    model_file = small_models.unmixer(tmp_path)
    onnx.save(
        onnx.load(model_file), model_file, save_as_external_data=True, location=f"{model_file.name}.data",
        size_threshold=0,
    )  # fmt: skip
    spec = UnmixerSpec(patch=7, crop=7, cells=1)
    small_models.write_card(model_file, task="unmix", shape=(-1, 1, 7, 7), outputs=("grid",), unmixer=spec)
    assert build_card(model_file).path.is_file()
    weights = Path(f"{model_file}.data")
    weights.write_bytes(weights.read_bytes()[:10])
    for damage in (weights.touch, weights.unlink):
        damage()
        with pytest.raises(ModelError) as caught:
            build_card(model_file)
        assert weights.name in caught.value.hint


def test_the_command(capsys):
    words = ["build", "lsnet-s", "--size", "256x256", "--flavour", "tensorrt_rtx", "--compute-capability", GPU]
    assert main(words) == 0
    assert "built in" in capsys.readouterr().err
    assert main([*words, "--no-build"]) == 0
    assert "cache hit" in capsys.readouterr().err


def test_two_processes_build_once(tmp_path):
    command = [sys.executable, "-m", "glint", "build", "dscsnet-s-sensor", "--compute-capability", GPU]
    environment = {**os.environ, "GLINT_CACHE": str(tmp_path / "cache")}
    running = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert sorted("cache hit" in text for text in said) == [False, True]
