"""Engines: one way to call a network, whatever runs it.

``Engine.infer`` checks names, types and shapes and then works; a concrete engine only fills in
``_infer``. Outputs belong to the caller.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.cards import ModelCard, TensorSpec
from glint.errors import EngineError, InputError
from glint.types import FrameSize

Arrays = dict[str, NDArray[Any]]


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

    def __exit__(self, *error: object) -> None:
        self.close()

    def infer(self, *outputs: str, **arrays: NDArray[Any]) -> Arrays:
        """Run the network once.

        Args:
            outputs: names of those that are read; none: all. A GPU does not copy the others back.
            arrays: one per input, by its name, of its dtype and shape.

        Returns:
            One array per output, by its name.

        Raises:
            InputError: if an input is missing, unknown, or of the wrong type or shape, or there is no such output.
            EngineError: if the engine fails, or an output holds NaN or infinite values.
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
        known = [spec.name for spec in self.outputs]
        if unknown := set(outputs) - set(known):
            raise InputError(f"engine outputs: expected some of {known}, got {sorted(unknown)}")
        results = self._infer_some(arrays, outputs) if outputs else self._infer(arrays)
        for name, array in results.items():
            if not is_finite(array):
                raise self._not_finite(name, arrays)
        return results

    def _not_finite(self, output: str, arrays: Arrays) -> EngineError:
        what = f"engine output {output!r} is not finite ({self.name})"
        bad = [name for name, array in arrays.items() if not is_finite(array)]
        if bad:
            return EngineError(f"{what}: input {bad[0]!r} holds NaN or infinite values", hint="look at the source")
        return EngineError(
            f"{what}: most likely a value above 65504 became infinite in fp16",
            hint="run with --precision fp32; glint parity shows the layer in which it starts",
        )

    def details(self) -> dict[str, Any]:
        """What runs the network, JSON-ready, for manifests and reports."""
        return {"name": self.name}

    def prepare(self, size: FrameSize) -> None:  # noqa: B027  (most engines take any size at once)
        """Get ready for frames of a size, as the network is given them, so that the first one does not wait."""

    @abstractmethod
    def _infer(self, arrays: Arrays) -> Arrays:
        """Run checked inputs; gives all outputs."""

    def _infer_some(self, arrays: Arrays, names: tuple[str, ...]) -> Arrays:
        """Run checked inputs; gives these outputs. For engines that can leave the others where they are."""
        results = self._infer(arrays)
        return {name: results[name] for name in names}

    def close(self) -> None:  # noqa: B027  (most engines hold nothing that must be given back)
        """Give back what the engine holds."""


class EngineProxy(Engine):
    """Stands for an engine: passes calls on, or answers them itself, and says what they were and took.

    Args:
        like: the engine, or a model's card where there is none.
        answer: makes outputs of checked inputs; None: the engine does.

    Attributes:
        inner: the engine, or None.
        given, said: inputs of the last call and outputs of the last one that succeeded (those that were asked for,
            if the engine answers).
        seconds: spent in calls since :meth:`reset`.
        began, ended: first call's start and last call's end, seconds of the performance counter; None before.
    """

    def __init__(self, like: Engine | ModelCard, answer: Callable[[Arrays], Arrays] | None = None) -> None:
        self.name, self.inputs, self.outputs = like.name, like.inputs, like.outputs
        self.inner = like if isinstance(like, Engine) else None
        self._answer = answer
        self.given: Arrays = {}
        self.said: Arrays = {}
        self.reset()

    def reset(self) -> None:
        """Forget the times of the calls so far."""
        self.seconds = 0.0
        self.began: float | None = None
        self.ended: float | None = None

    def infer(self, *outputs: str, **arrays: NDArray[Any]) -> Arrays:
        start = time.perf_counter()
        self.began = start if self.began is None else self.began
        self.given = arrays
        try:
            if self._answer is None:
                self.said = super().infer(*outputs, **arrays)
                return self.said
            self.said = super().infer(**arrays)
            return {name: self.said[name] for name in outputs} if outputs else self.said
        finally:
            self.ended = time.perf_counter()
            self.seconds += self.ended - start

    def _infer(self, arrays: Arrays) -> Arrays:
        if self._answer is not None:
            return self._answer(arrays)
        if self.inner is None:
            raise EngineError(
                f"{self.name}: there is no engine that answers", hint="open the model again: its engine is closed"
            )
        return self.inner._infer(arrays)

    def _infer_some(self, arrays: Arrays, names: tuple[str, ...]) -> Arrays:
        return super()._infer_some(arrays, names) if self.inner is None else self.inner._infer_some(arrays, names)

    def details(self) -> dict[str, Any]:
        return super().details() if self.inner is None else self.inner.details()

    def prepare(self, size: FrameSize) -> None:
        if self.inner is not None:
            self.inner.prepare(size)

    def close(self) -> None:
        if self.inner is not None:
            self.inner.close()


def is_finite(array: NDArray[Any]) -> bool:
    """Whether all numbers are finite; the sum tells cheaply, unless it overflows itself."""
    if array.dtype.kind != "f":
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(array.sum()) or bool(np.isfinite(array).all())
