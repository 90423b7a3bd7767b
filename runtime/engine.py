"""Engines: one way to call a network, whatever runs it.

``Engine.infer`` checks names, types and shapes and then works; a concrete engine only fills in
``_infer``. Outputs belong to the caller.
"""

from __future__ import annotations

import importlib.util
import os
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.cards import TensorSpec
from glint.errors import EngineError, GlintError, InputError, MissingDependencyError, ModelError

Arrays = dict[str, NDArray[Any]]
ENGINES = ("auto", "tensorrt", "onnxruntime")


class Engine(ABC):
    """A loaded network.

    Attributes:
        name: what runs it, e.g. ``onnxruntime``.
        inputs, outputs: its tensors; -1 in a shape is any size.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def infer(self, **arrays: NDArray[Any]) -> Arrays:
        """Run the network once.

        Args:
            arrays: one per input, by its name, of its dtype and shape.

        Returns:
            One array per output, by its name.

        Raises:
            InputError: if an input is missing, unknown, or of the wrong type or shape.
            EngineError: if the engine fails.
        """
        expected = {spec.name: spec for spec in self.inputs}
        if arrays.keys() != expected.keys():
            raise InputError(f"engine inputs: expected {sorted(expected)}, got {sorted(arrays)}")
        for name, array in arrays.items():
            spec = expected[name]
            if not isinstance(array, np.ndarray):
                raise InputError(f"engine input {name!r}: expected a NumPy array, got {type(array).__name__}")
            fits = len(spec.shape) == array.ndim and all(w in (-1, g) for w, g in zip(spec.shape, array.shape))
            if not fits or array.dtype != np.dtype(spec.dtype):
                wanted = "x".join("any" if s == -1 else str(s) for s in spec.shape)
                raise InputError(
                    f"engine input {name!r}: expected {spec.dtype} {wanted}, "
                    f"got {array.dtype} {'x'.join(map(str, array.shape))}"
                )
        return self._infer(arrays)

    def details(self) -> dict[str, Any]:
        """What runs the network, JSON-ready, for manifests and reports."""
        return {"name": self.name}

    @abstractmethod
    def _infer(self, arrays: Arrays) -> Arrays:
        """Run checked inputs."""

    def close(self) -> None:  # noqa: B027  (most engines hold nothing that must be given back)
        """Give back what the engine holds."""


class OnnxRuntimeEngine(Engine):
    """ONNX Runtime on the CPU: runs on any machine.

    Args:
        path: the ONNX file.
        threads: CPU threads; default: all cores that this process may use.

    Raises:
        ModelError: if the file is no ONNX model that this ONNX Runtime can load.
        MissingDependencyError: if ONNX Runtime is not installed.
    """

    name = "onnxruntime"

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependencyError(
                f"ONNX Runtime cannot be imported: {error}", hint="pip install onnxruntime"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or available_cores()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's own exceptions share no base but this
            raise ModelError(f"ONNX Runtime cannot load {path}: {_first_line(error)}") from error
        self._facts = {"onnxruntime": onnxruntime.__version__, "threads": options.intra_op_num_threads}
        self.inputs = tuple(_spec(tensor) for tensor in self._session.get_inputs())
        self.outputs = tuple(_spec(tensor) for tensor in self._session.get_outputs())

    def details(self) -> dict[str, Any]:
        """ONNX Runtime's version and its threads."""
        return {**super().details(), **self._facts}

    def _infer(self, arrays: Arrays) -> Arrays:
        try:
            results = self._session.run(None, arrays)
        except Exception as error:  # as above
            raise EngineError(f"ONNX Runtime failed: {_first_line(error)}") from error
        return {spec.name: result for spec, result in zip(self.outputs, results)}


_ELEMENT_TYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64",
    "tensor(uint8)": "uint8", "tensor(int8)": "int8", "tensor(uint16)": "uint16",
    "tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(bool)": "bool",
}  # fmt: skip


def _spec(tensor: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else -1 for size in tensor.shape)
    return TensorSpec(tensor.name, _ELEMENT_TYPES.get(tensor.type, tensor.type), shape)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def available_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose_engine(wanted: str) -> tuple[str, str]:
    """Which engine ``auto`` (or a name) means here, and why.

    Raises:
        InputError: if there is no such engine.
        EngineError: if it cannot be used.
    """
    if wanted not in ENGINES:
        raise InputError(f"engine: expected one of {', '.join(ENGINES)}, got {wanted!r}")
    if wanted == "onnxruntime":
        return wanted, "asked for"
    try:
        return "tensorrt", _tensorrt()
    except GlintError as error:
        if wanted == "auto":
            return "onnxruntime", f"on the CPU, because {error}"
        hint = "--engine onnxruntime runs everywhere"
        raise EngineError(
            f"TensorRT cannot be used here: {error}", hint=f"{error.hint}; {hint}" if error.hint else hint
        ) from error


def _tensorrt() -> str:
    """TensorRT and the GPU that it would run on.

    Raises:
        MissingDependencyError: if TensorRT or pycuda cannot be imported.
        EngineError: if there is no GPU.
    """
    from glint.runtime import cuda, tensorrt_api

    # The GPU first: importing TensorRT takes a second.
    if not any(importlib.util.find_spec(flavour) for flavour in tensorrt_api.FLAVOURS):
        raise MissingDependencyError("TensorRT is not installed", hint="glint doctor says how to get it")
    gpu = cuda.gpu()
    trt = tensorrt_api.load()
    return f"{trt.flavour} {trt.version} on {gpu.name}"


def open_engine(path: Path, *, engine: str = "auto", threads: int | None = None) -> Engine:
    """Load an ONNX file with the engine that ``engine`` means here (see :func:`choose_engine`).

    Args:
        path: the ONNX file. For TensorRT its model card stands beside it, and an engine is built if
            there is none yet.
        engine: one of :data:`ENGINES`.
        threads: CPU threads of ONNX Runtime.

    Raises:
        GlintError: one of its subclasses, if the engine cannot be used, built or loaded.
    """
    name, _ = choose_engine(engine)
    if name == "tensorrt":
        from glint.runtime.sized_engine import open_tensorrt

        return open_tensorrt(path)
    return OnnxRuntimeEngine(path, threads=threads)
