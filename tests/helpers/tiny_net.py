"""A network of a few nodes that has one of everything that calibration looks at.

frame [N, 1, h, w] -> first 1->8 -> SiLU -> block: x + second(SiLU(x1 = inner(x))) -> scale (island)
-> narrow 8->4, wide 8->8 -> last 8->1 -> probability;  frame - smooth -> background (carriers)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from glint.cards import DetectorSpec, ModelCard, TensorSpec, save_card
from glint.files import sha256
from glint.processing.normalise import Normaliser

CANDIDATES = ["block.inner/Conv", "block.second/Conv", "wide/Conv"]
SKIP = "block/Add"
FLOAT = ["block/fp32/Exp", "block/fp32/Mul", "Sub"]  # island and carrier


def tiny(*, gain: float = 1.0, seed: int = 0) -> onnx.ModelProto:
    """The network in fp32; ``gain`` multiplies what the first layer gives."""
    rng = np.random.default_rng(seed)
    nodes: list[Any] = []
    constants: list[Any] = []

    def put(name: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value, dtype=np.float32), name))
        return name

    def add(operator: str, name: str, inputs: list[str], **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def conv(path: str, source: str, channels: int, filters: int, scale: float = 1.0) -> str:
        spread = scale / np.sqrt(9 * channels)
        weight = put(f"{path}.weight", rng.normal(size=(filters, channels, 3, 3)) * spread)
        bias = put(f"{path}.bias", rng.normal(size=filters) * 0.1)
        return add("Conv", f"{path}/Conv", [source, weight, bias], pads=[1, 1, 1, 1])

    def silu(path: str, source: str) -> str:
        return add("Mul", f"{path}/Mul", [source, add("Sigmoid", f"{path}/Sigmoid", [source])])

    x = silu("start", conv("first", "frame", 1, 32, gain))
    y = conv("block.second", silu("block.middle", conv("block.inner", x, 32, 32)), 32, 32)
    z = add("Add", SKIP, [x, y])
    tiny_number = put("tiny", 1e-9)  # less than the smallest float16
    z = add("Add", "block/AddTiny", [z, tiny_number])
    e = add("Exp", "block/fp32/Exp", [add("Neg", "block/fp32/Neg", [add("Abs", "block/fp32/Abs", [z])])])
    z = add("Add", "block/Add_1", [z, add("Mul", "block/fp32/Mul", [e, tiny_number])])
    narrow = conv("narrow", z, 32, 16)
    z = add("Concat", "Concat", [conv("wide", z, 32, 32), narrow], axis=1)
    add("Sigmoid", "probability", [conv("last", silu("end", z), 48, 1)])
    add("Sub", "Sub", ["frame", conv("smooth", z, 48, 1)])
    nodes[-1].output[0] = "background"

    def value(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, "height", "width"])

    outputs = [value("probability"), value("background")]
    graph = helper.make_graph(nodes, "tiny", [value("frame")], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def save_tiny(folder: Path, model: onnx.ModelProto | None = None) -> Path:
    """The network with its card; returns the ONNX file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.fp32.onnx"
    onnx.save(model or tiny(), path)
    shape = (1, 1, -1, -1)
    card = ModelCard(
        name="tiny", task="detect", precision="fp32", network="tiny", config={}, file=path.name, sha256=sha256(path),
        inputs=(TensorSpec("frame", "float32", shape),),
        outputs=tuple(TensorSpec(n, "float32", shape) for n in ("probability", "background")),
        normaliser=Normaliser("standard", 1.0), detector=DetectorSpec(multiple=16),
    )  # fmt: skip
    save_card(card, folder)
    return path


def frames(number: int = 4, side: int = 32, seed: int = 1) -> list[np.ndarray]:
    """Inputs of the network, ``float32 [1, 1, side, side]``."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(1, 1, side, side)).astype(np.float32) for _ in range(number)]


def run(model: onnx.ModelProto, frame: np.ndarray, *tensors: str) -> list[np.ndarray]:
    """What ONNX Runtime makes of a frame: the outputs, or these tensors."""
    from glint.calibration.int8_layers import with_outputs
    from glint.calibration.tensor_ranges import session

    return session(with_outputs(model, tensors)).run(list(tensors) or None, {"frame": frame})
