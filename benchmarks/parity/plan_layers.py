"""The tensors inside a TensorRT engine, by Polygraphy: a plan itself cannot be looked into.

Its ONNX file is built once more with these tensors marked as outputs, and run on the GPU. That keeps layers from
becoming one kernel: a fault of such a kernel does not show, as docs/parity.md says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.errors import EngineError, MissingDependencyError, first_line

Arrays = dict[str, NDArray[Any]]


class MarkedEngine:
    """An engine of an ONNX file whose tensors can be read: a context manager.

    Args:
        onnx: the file.
        tensors: names, of which those that TensorRT has become outputs.
        inputs: what it will be run on; the engine takes these shapes.
        precision: a precision that TensorRT may choose itself, of a plan built with ``--weak``; None: types say it.

    Raises:
        MissingDependencyError: if Polygraphy or TensorRT is not installed.
        EngineError: if there is no GPU, or TensorRT refuses.
    """

    def __init__(
        self, onnx: Path, tensors: Sequence[str], inputs: Mapping[str, NDArray[Any]], *, precision: str | None = None
    ) -> None:
        try:
            from polygraphy.backend import trt
        except ImportError as error:
            raise MissingDependencyError(
                "layers of a TensorRT engine need Polygraphy, which is not installed", hint="pip install '.[check]'"
            ) from error
        self._stack = ExitStack()
        try:
            builder, network, *parser = trt.NetworkFromOnnxPath(str(onnx), strongly_typed=precision is None)()
            known = tensors_of(network)
            self.tensors = tuple(name for name in tensors if name in known)
            profile = trt.Profile()
            for name, value in inputs.items():
                profile.add(name, *[value.shape] * 3)
            config = trt.CreateConfig(profiles=[profile], fp16=precision == "fp16", int8=precision == "int8")
            marked = trt.ModifyNetworkOutputs((builder, network, *parser), outputs=list(self.tensors))
            self._runner = self._stack.enter_context(trt.TrtRunner(trt.EngineFromNetwork(marked, config)))
        except Exception as error:  # Polygraphy's own, TensorRT's and the driver's: whatever comes up
            self._stack.close()
            raise _failed(error, onnx) from error
        self._onnx = onnx

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Values of the marked tensors by name, each an array of its own.

        Raises:
            EngineError: if the run fails.
        """
        try:
            found = self._runner.infer(dict(inputs))
        except Exception as error:  # as above
            raise _failed(error, self._onnx) from error
        return {name: np.array(found[name]) for name in self.tensors}

    def __enter__(self) -> MarkedEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def tensors_of(network: Any) -> set[str]:
    """Names of the tensors that the layers of a network make: constants that were folded are none."""
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return {layer.get_output(index).name for layer in layers for index in range(layer.num_outputs)}


def _failed(error: Exception, onnx: Path) -> EngineError:
    return EngineError(
        f"an engine of {onnx.name} with its tensors as outputs failed: {first_line(error) or type(error).__name__}",
        hint="docs/parity.md, A wrong engine, has the same in single steps",
    )
