"""Tiny networks with their cards, in all precisions, for tests of the engines."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from glint.cards import DetectorSpec, ModelCard, TensorSpec, UnmixerSpec, save_card
from glint.processing.normalise import Normaliser

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def unmixer(folder: Path, *, name: str = "tiny-unmixer", precision: str = "fp32", seed: int = 0) -> Path:
    """Patches ``[-1, 1, 7, 7]`` to ``grid``: two convolutions and a matrix product; returns the ONNX file."""
    graph = _Graph(precision, seed)
    graph.start("patch", ["batch", 1, 7, 7])
    graph.conv("first", 1, 4).relu().product("mix", 7).conv("last", 4, 1)
    graph.end("grid", ["batch", 1, 7, 7])
    spec = UnmixerSpec(patch=7, crop=7, cells=1)
    shape = (-1, 1, 7, 7)
    return graph.save(folder, name, "unmix", shape, ("grid",), unmixer=spec)


def detector(folder: Path, *, name: str = "tiny-detector", precision: str = "fp32", seed: int = 0) -> Path:
    """Frames ``[1, 1, -1, -1]`` to ``probability``; returns the ONNX file."""
    graph = _Graph(precision, seed)
    graph.start("frame", [1, 1, "height", "width"])
    graph.conv("first", 1, 2).relu().conv("last", 2, 1)
    graph.end("probability", [1, 1, "height", "width"])
    shape = (1, 1, -1, -1)
    return graph.save(folder, name, "detect", shape, ("probability",), detector=DetectorSpec(multiple=16))


class _Graph:
    """A chain of operators; with int8, weights and data of all products are quantized explicitly."""

    def __init__(self, precision: str, seed: int) -> None:
        self.precision = precision
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.dtype: Any = np.float16 if precision == "fp16" else np.float32

    def start(self, name: str, shape: list[Any]) -> None:
        self.input = helper.make_tensor_value_info(name, FLOAT, shape)
        self.last = name
        if self.precision == "fp16":
            self._node("Cast", [name], "in", to=HALF)

    def end(self, name: str, shape: list[Any]) -> None:
        self.output = helper.make_tensor_value_info(name, FLOAT, shape)
        self.nodes.append(helper.make_node("Cast", [self.last], [name], "out", to=FLOAT))

    def _node(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> _Graph:
        self.last = f"{name}_out"
        self.nodes.append(helper.make_node(operator, inputs, [self.last], name, **attributes))
        return self

    def _constant(self, name: str, value: Any) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _operands(self, name: str, weight: np.ndarray, axis: int | None) -> list[str]:
        if self.precision != "int8":
            return [self.last, self._constant(f"{name}.weight", weight.astype(self.dtype))]
        scale, zero = self._constant(f"{name}.scale", np.float32(0.05)), self._constant(f"{name}.zero", np.int8(0))
        self._node("QuantizeLinear", [self.last, scale, zero], f"{name}.quantize")
        self._node("DequantizeLinear", [self.last, scale, zero], f"{name}.dequantize")
        data = self.last
        steps = np.full(weight.shape[axis] if axis is not None else (), 0.01, np.float32)
        quantized = np.clip(np.round(weight / 0.01), -127, 127).astype(np.int8)
        inputs = [
            self._constant(f"{name}.weight", quantized),
            self._constant(f"{name}.weight_scale", steps),
            self._constant(f"{name}.weight_zero", np.zeros(steps.shape, np.int8)),
        ]
        self._node("DequantizeLinear", inputs, f"{name}.weights", **({} if axis is None else {"axis": axis}))
        return [data, self.last]

    def conv(self, name: str, channels: int, filters: int) -> _Graph:
        weight = self.random.normal(size=(filters, channels, 3, 3), scale=0.3)
        bias = self._constant(f"{name}.bias", self.random.normal(size=filters).astype(self.dtype))
        return self._node("Conv", [*self._operands(name, weight, 0), bias], name, pads=[1, 1, 1, 1])

    def product(self, name: str, size: int) -> _Graph:
        return self._node("MatMul", self._operands(name, self.random.normal(size=(size, size)), None), name)

    def relu(self) -> _Graph:
        return self._node("Relu", [self.last], f"relu{len(self.nodes)}")

    def save(
        self, folder: Path, name: str, task: str, shape: tuple[int, ...], outputs: tuple[str, ...], **section: Any
    ) -> Path:
        graph = helper.make_graph(self.nodes, name, [self.input], [self.output], self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        path = folder / f"{name}.{self.precision}.onnx"
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path)
        write_card(path, task=task, shape=shape, outputs=outputs, **section)
        return path


def write_card(onnx_file: Path, *, task: str, shape: tuple[int, ...], outputs: tuple[str, ...], **section: Any) -> None:
    """The card that fits an ONNX file (``NAME.PRECISION.onnx``) as it is now."""
    name, precision = onnx_file.stem.rsplit(".", 1)
    entry = "patch" if task == "unmix" else "frame"
    card = ModelCard(
        name=name, task=task, precision=precision, network="tiny", config={}, file=onnx_file.name,
        sha256=hashlib.sha256(onnx_file.read_bytes()).hexdigest(), inputs=(TensorSpec(entry, "float32", shape),),
        outputs=tuple(TensorSpec(output, "float32", shape) for output in outputs),
        normaliser=Normaliser("fixed", 1.0), **section,
    )  # fmt: skip
    save_card(card, onnx_file.parent)
