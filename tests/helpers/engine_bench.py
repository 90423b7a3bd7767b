"""What the tests of the TensorRT engine share: a network of two inputs, and a bench to build and open it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorrt_standin as standin
from fake_cuda import FakeCuda

from glint.runtime.engines.base import Arrays
from glint.runtime.engines.tensorrt import api as tensorrt_api
from glint.runtime.engines.tensorrt.build import machine
from glint.runtime.engines.tensorrt.cache import InputRange, Profile, Sidecar, store
from glint.runtime.engines.tensorrt.engine import TensorRTEngine
from glint.runtime.engines.tensorrt.onnx_to_plan import Order, plan_from_onnx

onnx = pytest.importorskip("onnx")


class Bench:
    """A machine with a fake GPU and one release of TensorRT."""

    def __init__(self, patch: pytest.MonkeyPatch, version: str, folder: Path, *, bindings: bool = True) -> None:
        patch.setenv("GLINT_CACHE", str(folder / "cache"))
        self.cuda, self.folder = FakeCuda(), folder
        self.cuda.install(patch, bindings=bindings)
        self.trt = standin.Machine(enqueue=self.cuda.enqueue)
        self.module = standin.install(patch, version, self.trt)

    def plan(self, model: Any, *profiles: Profile, dla: int | None = None, **changes: Any) -> Path:
        """A plan of an ONNX model, with its sidecar."""
        source, path = self.folder / "model.onnx", self.folder / "model.plan"
        onnx.save(model, source)
        trt = tensorrt_api.load()
        built = plan_from_onnx(trt, Order(source, profiles, "fp32", dla=dla))
        info = Sidecar(
            model="model", precision="fp32", onnx_sha256="", plan_sha256="", target=machine(trt)[0], options={},
            profiles=profiles, inputs=built.inputs, outputs=built.outputs,
        )  # fmt: skip
        store(path, built.plan, dataclasses.replace(info, **changes))
        return path


def network(*nodes: Any, inputs: dict[str, Any], outputs: dict[str, Any], kind: int = 1) -> Any:
    """An ONNX model; shapes as lists, with names for dynamic sizes."""
    helper = onnx.helper
    infos = [[helper.make_tensor_value_info(n, kind, s) for n, s in side.items()] for side in (inputs, outputs)]
    graph = helper.make_graph(list(nodes), "g", *infos)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def pair() -> Any:
    """Two inputs [N, 3]; outputs: their sum, and the first one doubled."""
    node = onnx.helper.make_node
    shapes = {"sum": ["n", 3], "twice": ["n", 3]}
    nodes = [node("Add", ["a", "b"], ["sum"]), node("Add", ["a", "a"], ["twice"])]
    return network(*nodes, inputs={"a": ["n", 3], "b": ["n", 3]}, outputs=shapes)


def pair_profile(least: int, usual: int, most: int) -> Profile:
    return tuple(InputRange(name, (least, 3), (usual, 3), (most, 3)) for name in ("a", "b"))


def rows(number: int, seed: int = 0) -> Arrays:
    generator = np.random.default_rng(seed)
    return {name: generator.normal(size=(number, 3)).astype(np.float32) for name in ("a", "b")}


def check_pair(engine: TensorRTEngine, arrays: Arrays) -> None:
    results = engine.infer(**arrays)
    np.testing.assert_array_equal(results["sum"], arrays["a"] + arrays["b"])
    np.testing.assert_array_equal(results["twice"], 2 * arrays["a"])
