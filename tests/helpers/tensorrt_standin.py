"""TensorRT without a GPU: modules with exactly the API of one release, and just enough behaviour.

What a release has (classes, members, argument names and types, enums) stands in
``tests/data/tensorrt-api``, read from the real bindings; anything else fails as it does there. What a
stand-in does: it parses with ``onnx``, its plans carry the model, and contexts run it with ONNX Runtime
on the memory whose addresses they were given (those of a fake pycuda, or of NumPy arrays).
"""

from __future__ import annotations

import ctypes
import enum
import json
import math
import numbers
import struct
import sys
import time
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

DATA = Path(__file__).parent.parent / "data" / "tensorrt-api"
VERSIONS = sorted(path.stem for path in DATA.glob("*.json"))  # e.g. tensorrt-10.3, tensorrt_rtx-1.7
MAGIC = b"STANDIN\0"
SCRATCH = 4096  # bytes that every context needs

_TYPES = {
    onnx.TensorProto.FLOAT: "FLOAT", onnx.TensorProto.FLOAT16: "HALF", onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.INT32: "INT32", onnx.TensorProto.INT64: "INT64", onnx.TensorProto.BOOL: "BOOL",
    onnx.TensorProto.UINT8: "UINT8",
}  # fmt: skip
_NUMPY = {
    "FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64",
    "BOOL": "bool", "UINT8": "uint8",
}  # fmt: skip
_LAYERS = {
    "Conv": "CONVOLUTION", "ConvTranspose": "DECONVOLUTION", "MatMul": "MATRIX_MULTIPLY", "Gemm": "MATRIX_MULTIPLY",
    "QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE", "Reshape": "SHUFFLE", "Transpose": "SHUFFLE",
}  # fmt: skip
_WEIGHTED = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")


@dataclass
class Machine:
    """What the stand-in meets, and what a test wants to go wrong.

    Attributes:
        enqueue: gets (stream handle, what, work) for each run; default: runs it at once.
        driver: whether there is one.
        memory: bytes of workspace above which a build runs out of memory.
        least: bytes of workspace below which a node has no implementation.
        build_error, load_error: text that building or loading fails with.
        kernels: data type that all kernels use whatever the network asks for, e.g. ``FLOAT``.
        details: whether plans hold details of their layers.
        dla_cores: number of them.
        dla_refuses: kinds of layers, e.g. ``MATRIX_MULTIPLY``, that DLA does not take.
        pause: seconds per build step.
        steps, steps_done: build steps, and how many were begun.
        builds: settings of each build, in order.
    """

    enqueue: Callable[[int, str, Callable[[], None]], None] = lambda handle, what, work: work()
    driver: bool = True
    memory: int | None = None
    least: int = 0
    build_error: str | None = None
    load_error: str | None = None
    kernels: str | None = None
    details: bool = True
    dla_cores: int = 0
    dla_refuses: tuple[str, ...] = ()
    pause: float = 0.0
    steps: int = 4
    steps_done: int = 0
    builds: list[dict[str, Any]] = field(default_factory=list)


def install(monkeypatch: pytest.MonkeyPatch, version: str, machine: Machine | None = None) -> Any:
    """Put a stand-in in place of TensorRT for one test; the other flavour is then not installed.

    Args:
        monkeypatch: undoes it.
        version: one of :data:`VERSIONS`.
        machine: how it behaves.
    """
    module = make(version, machine or Machine())
    flavour = version.partition("-")[0]
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, module if name == flavour else None)
    return module


def make(version: str, machine: Machine) -> Any:
    """The module of a release."""
    api = json.loads((DATA / f"{version}.json").read_text(encoding="utf-8"))
    module: Any = ModuleType(version.partition("-")[0])
    module.__version__ = api["version"]
    module._machine, module._rtx = machine, version.startswith("tensorrt_rtx")
    for name, members in api["enums"].items():
        if name != "ILogger.Severity":
            setattr(module, name, _enum(name, members))
    module.Dims = Dims
    for name, description in api["classes"].items():
        if name not in ("Dims", "IHostMemory"):
            setattr(module, name, _class(module, name, description))
    module.IHostMemory = IHostMemory
    module.ILogger.Severity = _enum("Severity", api["enums"]["ILogger.Severity"])
    return module


# The strict shell: classes that have what the release has, and nothing else.


class _Member(enum.Enum):
    """Enums of pybind11 are numbers only when they are asked to be."""

    def __int__(self) -> int:
        return int(self.value)


def _enum(name: str, members: dict[str, int]) -> Any:
    return _Member(name, members)


_INTERFACES = ("ILogger", "IProgressMonitor", "IProfiler")


def _class(module: Any, name: str, description: dict[str, Any]) -> Any:
    behaviour = vars(_BEHAVIOUR.get(name, object))
    space: dict[str, Any] = {k: v for k, v in behaviour.items() if k.startswith("_") and k not in ("__dict__",)}
    space = {k: v for k, v in space.items() if k not in ("__weakref__", "__doc__", "__module__", "__init__")}
    space["_module"] = module
    for method, overloads in description["methods"].items():
        if method != "__init__":
            space[method] = _method(module, name, method, overloads, behaviour.get(method))
    for prop, writable in description["properties"].items():
        space[prop] = _property(name, prop, writable, behaviour.get(prop))
    overloads = description["methods"].get("__init__", [])
    created = behaviour.get("__init__")

    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        if not overloads:
            raise TypeError(f"{module.__name__}.{name}: No constructor defined!")
        bound = _bind(module, f"{name}.__init__", overloads, args, kwargs)
        object.__setattr__(self, "_ready", True)
        if created is not None:
            created(self, **bound)

    def assign(self: Any, key: str, value: Any) -> None:
        inherits = type(self).__name__ != name  # a Python subclass has room for attributes of its own
        if not (key.startswith("_") or key in description["properties"] or inherits):
            raise AttributeError(f"{name!r} object has no attribute {key!r}")
        object.__setattr__(self, key, value)

    space.update(__init__=construct, __setattr__=assign)
    return type(name, (), space)


def _method(
    module: Any, owner: str, name: str, overloads: list[Any], behaviour: Callable[..., Any] | None
) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = _bind(module, f"{owner}.{name}", overloads, args, kwargs)
        if behaviour is None:
            raise NotImplementedError(f"the stand-in does not know what {owner}.{name} does")
        return behaviour(self, **bound)

    return call


def _property(owner: str, name: str, writable: bool, default: Any) -> property:
    def read(self: Any) -> Any:
        if isinstance(default, property):
            return default.fget(self)  # type: ignore[misc]
        if f"_{name}" not in self.__dict__ and default is None:
            raise NotImplementedError(f"the stand-in does not know {owner}.{name}")
        return self.__dict__.get(f"_{name}", default)

    def write(self: Any, value: Any) -> None:
        self.__dict__[f"_{name}"] = value

    return property(read, write if writable else None)


def _bind(module: Any, what: str, overloads: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    for arguments in overloads:
        names = [name for name, _, _ in arguments]
        given = dict(zip(names, args))
        if len(args) > len(names) or given.keys() & kwargs.keys() or kwargs.keys() - set(names):
            continue
        given.update(kwargs)
        if any(required and name not in given for name, _, required in arguments):
            continue
        if all(_fits(module, kind, given[name]) for name, kind, _ in arguments if name in given):
            return given
    raise TypeError(f"{module.__name__}.{what}(): incompatible function arguments: {args} {kwargs}")


def _fits(module: Any, kind: str, value: Any) -> bool:
    if kind in ("int", "float", "bool", "str", "tuple", "list"):
        types: Any = {"int": numbers.Integral, "float": numbers.Real, "bool": bool, "str": str}.get(kind)
        return isinstance(value, types or {"tuple": tuple, "list": list}[kind])
    if kind == "Dims":
        whole = isinstance(value, (tuple, list)) and all(isinstance(v, numbers.Integral) for v in value)
        return whole or isinstance(value, Dims)
    if kind.lower() == "buffer":
        return isinstance(value, (bytes, bytearray, memoryview))
    if kind == "Severity":
        return isinstance(value, module.ILogger.Severity)
    known = getattr(module, kind, None)
    if not isinstance(known, type):
        return False  # a class that the stand-in does not have: no test may hand one over
    if kind in _INTERFACES:
        return isinstance(value, known) and "_ready" in value.__dict__  # its __init__ must have been called
    return isinstance(value, known)


def _new(cls: Any, **attributes: Any) -> Any:
    """An object that only TensorRT can make."""
    made = object.__new__(cls)
    made.__dict__.update({f"_{name}": value for name, value in attributes.items()})
    return made


def _say(logger: Any, severity: str, text: str) -> None:
    logger.log(getattr(type(logger).Severity, severity), text)


def _register(owner: Any) -> None:
    """Builders and runtimes, in order: the logger of the first one that lives is that of the whole library."""
    owner._module.__dict__.setdefault("_owners", []).append(weakref.ref(owner))


def _first_logger(owner: Any) -> Any:
    return next(living._logger for living in (ref() for ref in owner._module._owners) if living is not None)


class Dims:
    """Iterable, comparable to a tuple, but none."""

    def __init__(self, shape: Any = ()) -> None:
        self._shape = tuple(shape)

    def __len__(self) -> int:
        return len(self._shape)

    def __getitem__(self, index: Any) -> Any:
        return self._shape[index]

    def __repr__(self) -> str:
        return repr(self._shape)


class IHostMemory(bytes):
    """A buffer, and no more than that."""

    @property
    def nbytes(self) -> int:
        return len(self)


# What the objects do. Only the members that the release has get into its classes.


class _Interface:
    def __init__(self, **arguments: Any) -> None:
        pass


class _Builder:
    def __init__(self, logger: Any) -> None:
        if not self._module._machine.driver:  # type: ignore[attr-defined]
            _say(logger, "ERROR", "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger
        _register(self)

    num_DLA_cores = property(lambda self: self._module._machine.dla_cores)  # noqa: N815

    def create_network(self: Any, flags: int = 0) -> Any:
        members = {int(m): m.name for m in self._module.NetworkDefinitionCreationFlag}
        assert all(bit in members for bit in range(32) if flags >> bit & 1), "unknown network flag"
        strong = any(flags >> bit & 1 for bit, name in members.items() if name == "STRONGLY_TYPED")
        return _new(self._module.INetworkDefinition, strong=strong, layers=[], inputs=[], outputs=[], model=None)

    def create_builder_config(self: Any) -> Any:
        flags = {"TF32"}
        return _new(self._module.IBuilderConfig, set_flags=flags, pools={}, profiles=[], timing=None, capabilities={})

    def create_optimization_profile(self: Any) -> Any:
        return _new(self._module.IOptimizationProfile, shapes={})

    def build_serialized_network(self: Any, network: Any, config: Any) -> Any:
        machine = self._module._machine
        workspace = config._pools.get("WORKSPACE")
        machine.builds.append(
            {
                "flags": set(config._set_flags), "workspace": workspace, "strong": network._strong,
                "profiles": [p._shapes for p in config._profiles], "dla": config.__dict__.get("_DLA_core"),
                "device": config.__dict__.get("_default_device_type"), "capabilities": dict(config._capabilities),
                "level": config.__dict__.get("_builder_optimization_level"),
                "verbosity": config.__dict__.get("_profiling_verbosity"),
                "timings": config._timing._content if config._timing is not None else None,
            }
        )  # fmt: skip
        problem = self._problem(network, config)
        if problem is None and machine.memory is not None and (workspace is None or workspace > machine.memory):
            _say(_first_logger(self), "WARNING", "Requested amount of GPU memory could not be allocated: out of memory")
            problem = "Could not find any implementation for node /conv/Conv."
        if problem is None and workspace is not None and workspace < machine.least:
            problem = "Could not find any implementation for node /conv/Conv."
        if problem is not None:
            _say(self._logger, "ERROR", problem)
            return None
        if not self._walk(config.__dict__.get("_progress_monitor")):
            return None
        if config._timing is not None:
            config._timing._content += b"one more build;"
        return self._serialise(network, config)

    def _problem(self: Any, network: Any, config: Any) -> str | None:
        if self._module._machine.build_error:
            return str(self._module._machine.build_error)
        if not network._outputs:
            return "Network must have at least one output."
        if network._strong and config._set_flags & {"FP16", "INT8", "BF16"}:
            return "precision flags cannot be set for a strongly typed network"
        for tensor in network._inputs:
            if -1 in tensor._shape and not config._profiles:
                return f"Network has dynamic input {tensor._name}, but no optimization profile has been defined."
        return None

    def _walk(self: Any, monitor: Any) -> bool:
        machine = self._module._machine
        if monitor is None:
            return True
        monitor.phase_start("Building engine", None, 2)
        monitor.phase_start("Timing tactics", "Building engine", machine.steps)
        for step in range(machine.steps):
            machine.steps_done += 1
            time.sleep(machine.pause)
            if not monitor.step_complete("Timing tactics", step):
                return False
        monitor.phase_finish("Timing tactics")
        monitor.step_complete("Building engine", 0)
        monitor.step_complete("Building engine", 1)
        monitor.phase_finish("Building engine")
        return True

    def _serialise(self: Any, network: Any, config: Any) -> Any:
        machine = self._module._machine
        layers = [_kernel(network, config, layer, machine.kernels) for layer in network._layers]
        header = {
            "version": self._module.__version__,
            "tensors": [
                {"name": t._name, "dtype": t._dtype.name, "shape": list(t._shape), "input": t in network._inputs}
                for t in (*network._inputs, *network._outputs)
            ],
            "profiles": [p._shapes for p in config._profiles],
            "layers": layers,
            "details": machine.details and config.__dict__["_profiling_verbosity"].name == "DETAILED",
            "dla": config.__dict__.get("_DLA_core"),
        }
        if self._module._rtx:
            _say(self._logger, "VERBOSE", "Layers:\n" + "\n".join(map(_log_line, layers)))
        model = network._model.SerializeToString(deterministic=True)
        text = json.dumps(header).encode()
        return IHostMemory(MAGIC + struct.pack("<QQ", len(text), len(model)) + text + model)


def _kernel(network: Any, config: Any, layer: Any, kernels: str | None) -> dict[str, Any]:
    """A layer of the engine: what it reads follows from the network's types, or from the flags."""
    sources = {t._name: other._kind for other in network._layers for t in other._out}
    quantized = bool(layer._in) and all(sources.get(t._name) == "DEQUANTIZE" for t in layer._in[:2])
    weighted = layer._kind in _WEIGHTED
    dtype = layer._in[0]._dtype.name if layer._in else "FLOAT"
    if weighted and network._strong and quantized:
        dtype = "INT8"
    elif weighted and not network._strong:
        flags = config._set_flags
        dtype = "INT8" if quantized and "INT8" in flags else "HALF" if "FP16" in flags else "FLOAT"
    if "OBEY_PRECISION_CONSTRAINTS" in config._set_flags:
        dtype = layer.__dict__.get("_precision", network._module.DataType[dtype]).name
    if weighted and kernels is not None:
        dtype = kernels
    return {
        "name": f"{layer._name}_kernel",
        "kind": "gemm" if weighted else "kgen",
        "dtype": dtype,
        "node": layer._name,
    }


_SPELLING = {"FLOAT": "Float", "HALF": "Half", "INT8": "Int8"}
_SPELLING_10 = {"FLOAT": "FP32", "HALF": "FP16", "INT8": "Int8"}


def _log_line(layer: dict[str, Any]) -> str:
    tensor = f"Name: x, Dimensions: [1], Datatype: {_SPELLING.get(layer['dtype'], 'Int64')}, Format: (Linear)"
    return (
        f"Name: {layer['name']}, LayerType: {layer['kind']}, Inputs: [ {{ {tensor} }}], Constants: [], "
        f"Outputs: [ {{ {tensor} }}], TacticName: t, StreamId: 0, Metadata: [ONNX Layer: {layer['node']}]"
    )


class _Config:
    def set_flag(self: Any, flag: Any) -> None:
        self._set_flags.add(flag.name)

    def clear_flag(self: Any, flag: Any) -> None:
        self._set_flags.discard(flag.name)

    def get_flag(self: Any, flag: Any) -> bool:
        return flag.name in self._set_flags

    def set_memory_pool_limit(self: Any, pool: Any, pool_size: int) -> None:
        self._pools[pool.name] = pool_size

    def add_optimization_profile(self: Any, profile: Any) -> int:
        if not profile._shapes:
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def can_run_on_DLA(self: Any, layer: Any) -> bool:  # noqa: N802
        return layer._kind not in self._module._machine.dla_refuses

    def create_timing_cache(self: Any, serialized_timing_cache: Any) -> Any:
        if self._module._rtx:
            warnings.warn("Timing cache operations are no-ops in TensorRT-RTX.", DeprecationWarning, stacklevel=3)
        return _new(self._module.ITimingCache, content=bytes(serialized_timing_cache))

    def set_timing_cache(self: Any, cache: Any, ignore_mismatch: bool) -> bool:
        mine = f"timings of {self._module.__version__}:".encode()
        if cache._content and not cache._content.startswith(mine):
            return False
        cache._content = cache._content or mine
        self._timing = cache
        return True

    def get_timing_cache(self: Any) -> Any:
        return self._timing

    def set_compute_capability(self: Any, compute_capability: Any, index: int) -> bool:
        self._capabilities[index] = compute_capability.name
        return index < self.__dict__.get("_num_compute_capabilities", 0)


class _TimingCache:
    def serialize(self: Any) -> Any:
        return IHostMemory(self._content)


class _OptimizationProfile:
    def set_shape(self: Any, input: str, min: Any, opt: Any, max: Any) -> None:
        low, usual, high = (tuple(shape) for shape in (min, opt, max))
        if not all(a <= b <= c for a, b, c in zip(low, usual, high)):
            raise ValueError("Shape provided for min is inconsistent with other shapes.")
        self._shapes[input] = [list(low), list(usual), list(high)]


class _Network:
    num_layers = property(lambda self: len(self._layers))
    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))

    def get_layer(self: Any, index: int) -> Any:
        return self._layers[index]

    def get_input(self: Any, index: int) -> Any:
        return self._inputs[index]

    def get_output(self: Any, index: int) -> Any:
        return self._outputs[index]


class _Layer:
    name = property(lambda self: self._name)
    type = property(lambda self: self._module.LayerType[self._kind])
    num_inputs = property(lambda self: len(self._in))
    num_outputs = property(lambda self: len(self._out))

    def get_input(self: Any, index: int) -> Any:
        return self._in[index]

    def get_output(self: Any, index: int) -> Any:
        return self._out[index]

    def set_output_type(self: Any, index: int, dtype: Any) -> None:
        self._out[index]._dtype = dtype


class _Tensor:
    name = property(lambda self: self._name)
    dtype = property(lambda self: self._dtype)
    shape = property(lambda self: Dims(self._shape))


class _Parser:
    def __init__(self, network: Any, logger: Any) -> None:
        self._network, self._logger, self._errors = network, logger, []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self: Any, index: int) -> Any:
        return _new(self._module.ParserError, text=self._errors[index])

    def parse_from_file(self: Any, model: str) -> bool:
        try:
            loaded = onnx.load(model)
            self._read(onnx.shape_inference.infer_shapes(loaded))
        except Exception as error:
            text = f"Failed to open file: {error}" if isinstance(error, FileNotFoundError) else str(error)
            if "Data of TensorProto" in text:
                text = f"Failed to open file: {text}"
            _say(self._logger, "ERROR", text)
            self._errors.append(text)
            return False
        return True

    def _read(self: Any, model: Any) -> None:
        graph, module, network = model.graph, self._module, self._network
        kinds = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
        kinds.update({i.name: i.data_type for i in graph.initializer})

        def tensor(name: str, shape: Any = ()) -> Any:
            dtype = module.DataType[_TYPES.get(kinds.get(name, 1), "FLOAT")]
            return _new(module.ITensor, name=name, dtype=dtype, shape=tuple(shape))

        def whole(value: Any) -> Any:
            sizes = value.type.tensor_type.shape.dim
            return tensor(value.name, [d.dim_value if d.HasField("dim_value") else -1 for d in sizes])

        network._inputs = [whole(value) for value in graph.input]
        network._outputs = [whole(value) for value in graph.output]
        network._model = model
        for number, node in enumerate(graph.node):
            name = node.name or f"node_{number}"
            kind = _LAYERS.get(node.op_type, "ELEMENTWISE")
            ins = [tensor(n) for n in node.input[: 1 if "Linear" in node.op_type else None] if n]
            outs = [tensor(n) for n in node.output if n]
            network._layers.append(_new(module.ILayer, name=name, kind=kind, **{"in": ins, "out": outs}))


class _ParserError:
    def desc(self: Any) -> str:
        return self._text


class _Runtime:
    def __init__(self, logger: Any) -> None:
        if not self._module._machine.driver:  # type: ignore[attr-defined]
            _say(logger, "ERROR", "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger
        _register(self)

    def deserialize_cuda_engine(self: Any, serialized_engine: Any) -> Any:
        content, problem = bytes(serialized_engine), self._module._machine.load_error
        header: Any = {}
        if problem is None and not content.startswith(MAGIC):
            problem = "magicTag mismatch"
        if problem is None:
            sizes = struct.unpack_from("<QQ", content, len(MAGIC)) if len(content) > 24 else (1, 1)
            if len(content) != 24 + sum(sizes):
                problem = "the engine plan file is truncated"
            else:
                header = json.loads(content[24 : 24 + sizes[0]])
        if problem is None and header["version"] != self._module.__version__:
            problem = f"expecting library version {header['version']}, got {self._module.__version__}"
        if problem is None and header["dla"] != self.__dict__.get("_DLA_core"):
            problem = "the engine was built for another DLA core"
        if problem is not None:
            _say(self._logger, "ERROR", f"IRuntime::deserializeCudaEngine: Error Code 1: {problem}")
            return None
        model = content[24 + len(json.dumps(header).encode()) :]
        return _new(self._module.ICudaEngine, header=header, model=model, logger=self._logger)


class _Engine:
    num_io_tensors = property(lambda self: len(self._header["tensors"]))
    num_optimization_profiles = property(lambda self: max(1, len(self._header["profiles"])))
    num_layers = property(lambda self: len(self._header["layers"]))
    device_memory_size_v2 = property(lambda self: SCRATCH)
    name = property(lambda self: "stand-in")

    def _tensor(self: Any, name: str) -> Any:
        return next(t for t in self._header["tensors"] if t["name"] == name)

    def get_tensor_name(self: Any, index: int) -> str:
        return self._header["tensors"][index]["name"]

    def get_tensor_mode(self: Any, name: str) -> Any:
        return self._module.TensorIOMode["INPUT" if self._tensor(name)["input"] else "OUTPUT"]

    def get_tensor_dtype(self: Any, name: str) -> Any:
        return self._module.DataType[self._tensor(name)["dtype"]]

    def get_tensor_shape(self: Any, name: str) -> Any:
        return Dims(self._tensor(name)["shape"])

    def get_tensor_profile_shape(self: Any, name: str, profile_index: int) -> Any:
        return [Dims(shape) for shape in self._header["profiles"][profile_index][name]]

    def get_device_memory_size_for_profile_v2(self: Any, profile_index: int) -> int:
        return SCRATCH

    def create_engine_inspector(self: Any) -> Any:
        return _new(self._module.EngineInspector, header=self._header)

    def create_execution_context(self: Any, strategy: Any = None, runtime_config: Any = None) -> Any:
        managed = strategy is not None and strategy.name == "USER_MANAGED"
        return _new(
            self._module.IExecutionContext, engine=self, profile=0, shapes={}, addresses={}, scratch=0 if managed else 1
        )


class _Inspector:
    def get_engine_information(self: Any, format: Any) -> str:
        assert format.name == "JSON"
        layers, eleven = self._header["layers"], not self._module.__version__.startswith("10.")
        names = [t["name"] for t in self._header["tensors"]]
        if not self._header["details"]:
            return json.dumps({"Layers": [layer["name"] for layer in layers], "Bindings": names})
        found = []
        for layer in layers:
            if eleven:
                tensor = {"Name": "x", "Format": "Row major linear format", "DataType": _SPELLING.get(layer["dtype"])}
            else:
                spelled = _SPELLING_10.get(layer["dtype"], "Int64")
                tensor = {"Name": "x", "Format/Datatype": f"Row major linear {spelled} format"}
            node = f"[ONNX Layer: {layer['node']}]"
            kind = {"Name": layer["name"], "LayerType": layer["kind"], "Metadata": node + "\x1f[ONNX Layer: other]"}
            found.append({**kind, "Inputs": [tensor], "Outputs": [tensor]})
        # 10.x writes the character between two nodes as it is.
        text = json.dumps({"Layers": found, **({"I/O Tensors": [{"Name": n} for n in names]} if eleven else {})})
        return text.replace("\\u001f", "\x1f")


class _Context:
    engine = property(lambda self: self._engine)
    active_optimization_profile = property(lambda self: self._profile)

    def _refuse(self: Any, text: str) -> bool:
        _say(self._engine._logger, "ERROR", f"IExecutionContext: Error Code 3: {text}")
        return False

    def set_optimization_profile_async(self: Any, profile_index: int, stream_handle: int) -> bool:
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            return self._refuse(f"invalid profile index {profile_index}")
        self._profile = profile_index
        self._shapes.clear()
        return True

    def set_input_shape(self: Any, name: str, shape: Any) -> bool:
        low, _, high = self._engine._header["profiles"][self._profile][name]
        if len(shape) != len(low) or not all(a <= n <= b for a, n, b in zip(low, shape, high)):
            return self._refuse(f"set dimensions {tuple(shape)} of {name} do not satisfy the profile")
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self: Any, name: str) -> Any:
        if name in self._shapes:
            return Dims(self._shapes[name])
        if any(t["input"] and t["name"] not in self._shapes for t in self._engine._header["tensors"]):
            return Dims(self._engine._tensor(name)["shape"])
        return Dims(self._results()[name].shape)

    def _results(self: Any, inputs: dict[str, Any] | None = None) -> dict[str, Any]:
        if "_session" not in self._engine.__dict__:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = 1, 3
            self._engine._session = onnxruntime.InferenceSession(self._engine._model, options)
        session = self._engine._session
        if inputs is None:
            kinds = {t["name"]: _NUMPY[t["dtype"]] for t in self._engine._header["tensors"]}
            inputs = {name: np.zeros(shape, kinds[name]) for name, shape in self._shapes.items()}
        return dict(zip([o.name for o in session.get_outputs()], session.run(None, inputs)))

    def infer_shapes(self: Any) -> list[str]:
        names = [t["name"] for t in self._engine._header["tensors"] if t["input"]]
        return [name for name in names if name not in self._shapes]

    def set_tensor_address(self: Any, name: str, memory: int) -> bool:
        if name not in {t["name"] for t in self._engine._header["tensors"]}:
            return self._refuse(f"given invalid tensor name: {name}")
        self._addresses[name] = memory
        return True

    def set_device_memory(self: Any, memory: int, size: int) -> None:
        assert size >= SCRATCH, "too little scratch memory"
        self._scratch = memory

    def execute_async_v3(self: Any, stream_handle: int) -> bool:
        tensors = self._engine._header["tensors"]
        if not self._scratch:
            return self._refuse("no device memory was given")
        if self.infer_shapes():
            return self._refuse(f"input shapes are missing: {self.infer_shapes()}")
        if missing := [t["name"] for t in tensors if t["name"] not in self._addresses]:
            return self._refuse(f"address is not set for {missing}")
        shapes, addresses = dict(self._shapes), dict(self._addresses)

        def work() -> None:
            given = {t["name"]: _view(addresses, shapes, t).copy() for t in tensors if t["input"]}
            results = self._results(given)
            for t in tensors:
                if not t["input"]:
                    _view(addresses, {t["name"]: results[t["name"]].shape}, t)[...] = results[t["name"]]

        self._module._machine.enqueue(stream_handle, "network", work)
        return True

    def is_stream_capturable(self: Any, stream: int) -> bool:
        return True


def _view(addresses: dict[str, int], shapes: dict[str, Any], tensor: dict[str, Any]) -> Any:
    """The memory of a tensor as an array."""
    dtype, shape = np.dtype(_NUMPY[tensor["dtype"]]), tuple(shapes[tensor["name"]])
    size = math.prod(shape) * dtype.itemsize
    data = (ctypes.c_uint8 * size).from_address(addresses[tensor["name"]])
    return np.frombuffer(data, dtype).reshape(shape)


_BEHAVIOUR: dict[str, Any] = {
    "ILogger": _Interface, "IProgressMonitor": _Interface, "IProfiler": _Interface, "Builder": _Builder,
    "IBuilderConfig": _Config, "ITimingCache": _TimingCache, "IOptimizationProfile": _OptimizationProfile,
    "INetworkDefinition": _Network, "ILayer": _Layer, "ITensor": _Tensor, "OnnxParser": _Parser,
    "ParserError": _ParserError, "Runtime": _Runtime, "ICudaEngine": _Engine, "EngineInspector": _Inspector,
    "IExecutionContext": _Context,
}  # fmt: skip
