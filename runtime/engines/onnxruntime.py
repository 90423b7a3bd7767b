"""ONNX Runtime on the CPU: the engine of every machine."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from glint.cards import TensorSpec
from glint.errors import EngineError, GlintError, InputError, MissingDependencyError, ModelError, first_line
from glint.runtime.engines.base import Arrays, Engine

MOST_THREADS = 1024


class OnnxRuntimeEngine(Engine):
    """ONNX Runtime on the CPU: runs on any machine.

    Args:
        path: the ONNX file.
        threads: CPU threads; default: all cores that this process may use.
        sha256: what the file's hash must be; None: anything. The bytes that are hashed are those that are loaded, so
            weights in a file of their own, of which the hash says nothing, are refused.

    Raises:
        InputError: if ``threads`` is out of range.
        ModelError: if the file is no ONNX model that this ONNX Runtime can load.
        MissingDependencyError: if ONNX Runtime is not installed.
    """

    name = "onnxruntime"

    def __init__(self, path: Path, *, threads: int | None = None, sha256: str | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependencyError(
                f"ONNX Runtime cannot be imported: {error}", hint="pip install onnxruntime"
            ) from error
        if threads is not None and not (isinstance(threads, int) and 1 <= threads <= MOST_THREADS):
            raise InputError(f"threads: expected a whole number from 1 to {MOST_THREADS}, got {threads}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or available_cores()
        options.log_severity_level = 3
        try:
            content = str(path) if sha256 is None else _checked(path, sha256)
            self._session = onnxruntime.InferenceSession(
                content, sess_options=options, providers=["CPUExecutionProvider"]
            )
            self.inputs = tuple(_spec(tensor) for tensor in self._session.get_inputs())
            self.outputs = tuple(_spec(tensor) for tensor in self._session.get_outputs())
        except GlintError:
            raise
        except Exception as error:  # ONNX Runtime's own exceptions share no base but this; names may be no text
            hint = "a model holds its weights itself: glint export writes such"
            raise ModelError(f"ONNX Runtime cannot load {path}: {first_line(error)}", hint=hint) from error
        self._facts = {"onnxruntime": onnxruntime.__version__, "threads": options.intra_op_num_threads}

    def details(self) -> dict[str, Any]:
        """ONNX Runtime's version and its threads."""
        return {**super().details(), **self._facts}

    def _infer(self, arrays: Arrays) -> Arrays:
        return self._infer_some(arrays, tuple(spec.name for spec in self.outputs))

    def _infer_some(self, arrays: Arrays, names: tuple[str, ...]) -> Arrays:
        try:
            results = self._session.run(list(names), arrays)
        except Exception as error:  # as above
            raise EngineError(
                f"ONNX Runtime failed: {first_line(error)}", hint="glint inspect tells what the model expects"
            ) from error
        return dict(zip(names, results))


def _checked(path: Path, expected: str) -> bytes:
    content = path.read_bytes()
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise ModelError(f"{path}: the hash is {actual[:12]}…, its card says {expected[:12]}…")
    return content


_ELEMENT_TYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64",
    "tensor(uint8)": "uint8", "tensor(int8)": "int8", "tensor(uint16)": "uint16",
    "tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(bool)": "bool",
}  # fmt: skip


def _spec(tensor: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else -1 for size in tensor.shape)
    return TensorSpec(tensor.name, _ELEMENT_TYPES.get(tensor.type, tensor.type), shape)


def available_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
