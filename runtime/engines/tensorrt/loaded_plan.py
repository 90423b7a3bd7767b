"""A TensorRT plan in memory: its tensors, the shapes it takes, and how a batch is cut to fit them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glint.cards import TensorSpec
from glint.errors import EngineError, InputError
from glint.runtime.engines.tensorrt import api as tensorrt_api
from glint.runtime.engines.tensorrt import cache as engine_cache
from glint.runtime.engines.tensorrt import cuda

_DTYPES = ("float32", "float16", "int64", "int32", "int8", "uint8", "bool")

Shapes = dict[str, tuple[int, ...]]


class LoadedPlan:
    """A deserialised plan.

    Args:
        path: the plan; its sidecar stands beside it.

    Attributes:
        info: the sidecar.
        trt, messages: the TensorRT that runs it and what that says.
        gpu: the machine's, as of loading.
        engine: TensorRT's ``ICudaEngine``; None once closed.
        inputs, outputs: tensors; -1 in a shape is any size that a profile takes.
        profiles: per profile and input the smallest, the fastest and the largest shape.
        batched: whether the first axis of every tensor is a batch of any size.

    Raises:
        ModelError: if the sidecar is missing or malformed.
        EngineError: if the plan must not be loaded here, or TensorRT refuses it.
        MissingDependencyError: if TensorRT or pycuda cannot be imported.
    """

    def __init__(self, path: Path) -> None:
        self.info = engine_cache.read_info(path)
        self.trt = tensorrt_api.load(self.info.target.flavour)
        self.gpu = cuda.gpu()
        here = engine_cache.Target(
            self.trt.flavour, self.trt.version, self.gpu.name, self.gpu.sm, self.gpu.cuda,
            multiprocessors=self.gpu.multiprocessors,
        )  # fmt: skip
        content, reason = engine_cache.read_plan(path, self.info, here)
        if reason is not None:
            raise EngineError(f"engine {path.name} cannot be used: {reason}", hint="build it again: glint build")
        self.messages = self.trt.logger()
        self._runtime, self.engine = self._deserialise(path, content)
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        modes = {name: self.engine.get_tensor_mode(name) for name in names}
        mode = self.trt.module.TensorIOMode
        self.inputs = tuple(self._spec(n) for n in names if modes[n] == mode.INPUT)
        self.outputs = tuple(self._spec(n) for n in names if modes[n] == mode.OUTPUT)
        self.profiles = tuple(
            {spec.name: self._range(spec, index) for spec in self.inputs}
            for index in range(max(1, self.engine.num_optimization_profiles))
        )
        self.batched = all(spec.shape[:1] == (-1,) for spec in (*self.inputs, *self.outputs))

    def _deserialise(self, path: Path, content: bytes) -> tuple[Any, Any]:
        with cuda.current():
            try:
                runtime = self.trt.module.Runtime(self.messages)
            except TypeError as error:  # the bindings' way of saying that the library returned nothing
                raise self.error("TensorRT cannot start") from error
            core = self.info.options.get("dla")
            if core is not None:
                runtime.DLA_core = core
            engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise self.error(f"TensorRT refuses the engine {path.name}")
        return runtime, engine

    def _spec(self, name: str) -> TensorSpec:
        dtype = self.trt.dtype_name(self.engine.get_tensor_dtype(name))
        if dtype not in _DTYPES:
            raise EngineError(
                f"engine tensor {name!r} is of type {dtype}, which NumPy does not have",
                hint="build the engine again from an fp32, fp16 or int8 model of glint",
            )
        return TensorSpec(name, dtype, tuple(self.engine.get_tensor_shape(name)))

    def _range(self, spec: TensorSpec, profile: int) -> tuple[tuple[int, ...], ...]:
        if -1 not in spec.shape:
            return spec.shape, spec.shape, spec.shape
        return tuple(tuple(shape) for shape in self.engine.get_tensor_profile_shape(spec.name, profile))

    def error(self, what: str) -> EngineError:
        """An error with what TensorRT said about it."""
        said = self.messages.errors()
        self.messages.forget_errors()
        return EngineError(
            f"{what}: {said}" if said else what,
            hint="glint build makes it again; glint doctor says what works on this machine",
        )

    def close(self) -> None:
        """Give the engine back; call in a block of ``cuda.current()``, when no context of it is left."""
        self.engine = self._runtime = None

    def rows(self, shapes: Shapes) -> int:
        """Size of the batch; 1 if the batch is fixed.

        Raises:
            InputError: if the inputs disagree.
        """
        if not self.batched:
            return 1
        rows = {name: shape[0] for name, shape in shapes.items()}
        if len(set(rows.values())) > 1:
            got = ", ".join(f"{name} {n}" for name, n in rows.items())
            raise InputError(f"engine inputs: expected one batch size, got {got}")
        return next(iter(rows.values()))

    def choose(self, shapes: Shapes) -> int:
        """Number of the profile for inputs of these shapes: the tightest that holds the batch, else the largest.

        Raises:
            InputError: if no profile takes them; names the shapes that the plan has.
        """
        rows = self.rows(shapes)
        fitting = [index for index in range(len(self.profiles)) if self._fits(index, shapes)]
        if not fitting:
            raise self._no_profile(shapes)
        largest = {index: self._rows_of(index)[1] for index in fitting}
        return min(fitting, key=lambda i: (0, largest[i]) if largest[i] >= rows else (1, -largest[i]))

    def _fits(self, profile: int, shapes: Shapes) -> bool:
        first = 1 if self.batched else 0  # batches are cut and padded to fit
        for name, shape in shapes.items():
            smallest, _, largest = (s[first:] for s in self.profiles[profile][name])
            if not all(low <= size <= high for low, size, high in zip(smallest, shape[first:], largest)):
                return False
        return True

    def _no_profile(self, shapes: Shapes) -> InputError:
        name, shape = next(iter(shapes.items()))
        sizes = sorted({_range_text(profile[name]) for profile in self.profiles})
        hint = "build an engine for it: glint build MODEL"
        if len(shape) >= 2:
            hint += f" --size {shape[-1]}x{shape[-2]}"
        return InputError(
            f"engine input {name!r}: expected {' or '.join(sizes)} as the engine was built for, got {_text(shape)}",
            hint=hint,
        )

    def _rows_of(self, profile: int) -> tuple[int, int]:
        """Smallest and largest batch of a profile."""
        if not self.batched:
            return 1, 1
        ranges = self.profiles[profile].values()
        return max(r[0][0] for r in ranges), min(r[2][0] for r in ranges)

    def chunks(self, profile: int, rows: int) -> list[tuple[int, int, int]]:
        """A batch cut to the profile's size: (first row, rows, rows with padding) of each piece.

        An empty batch is one piece of no rows.
        """
        smallest, largest = self._rows_of(profile)
        pieces = []
        for start in range(0, max(rows, 1), largest):
            count = min(largest, rows - start)
            pieces.append((start, count, min(max(round_up(count), smallest), largest)))
        return pieces


def round_up(rows: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24, ...

    Batches are padded to these sizes, so that a stream of all sizes needs few contexts and graphs.
    """
    power = 1 << max(rows - 1, 0).bit_length()
    return power * 3 // 4 if power >= 4 and rows <= power * 3 // 4 else power


def _range_text(shapes: tuple[tuple[int, ...], ...]) -> str:
    smallest, _, largest = shapes
    return _text(smallest) if smallest == largest else f"{_text(smallest)} to {_text(largest)}"


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
