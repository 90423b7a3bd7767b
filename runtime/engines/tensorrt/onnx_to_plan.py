"""From an ONNX file to a plan: the calls into TensorRT, one path for all releases and flavours.

The network is strongly typed: precisions stand in the ONNX file, and no builder flag changes them. Only
10.x can also be ``weak``, where the builder chooses among the precisions that its flags allow.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glint.cards import TensorSpec
from glint.cli import talk
from glint.errors import EngineError, InputError, ModelError
from glint.progress import Progress
from glint.runtime.engines.tensorrt.api import Messages, TensorRT
from glint.runtime.engines.tensorrt.audit import (
    Audit,
    EngineLayer,
    asked_of_network,
    audit,
    layers_of_inspector,
    layers_of_log,
)
from glint.runtime.engines.tensorrt.cache import Profile
from glint.runtime.engines.tensorrt.constraints import keep_islands, left_to_gpu

_MIB = 1 << 20
_LEAST_WORKSPACE_BYTES = 16 * _MIB
# TensorRT blames the node that found no memory for its scratch space; what it says before tells the two apart.
_OUT_OF_MEMORY = (
    "out of memory", "outofmemory", "insufficient memory", "memory is insufficient", "memoryallocation",
    "insufficient to use tactic",
)  # fmt: skip
_NO_IMPLEMENTATION = "could not find any implementation"
_CARD_HINT = "card and file do not belong together: export or calibrate the model again"
_MEMORY_HINT = "is the memory of the GPU full? glint doctor tells"


@dataclass(frozen=True)
class Order:
    """What to build.

    Attributes:
        onnx: the model.
        profiles: at least one; each names every input.
        precision: that the engine is meant to run in.
        workspace: bytes of scratch memory that kernels may use; None leaves it to TensorRT.
        weak: the builder chooses precisions (10.x).
        dla: DLA core; None builds for the GPU.
        compute_capability: e.g. ``8.6``, to build ahead of time for a GPU that is not here.
        optimization_level: 0 to 5; None: TensorRT's own.
    """

    onnx: Path
    profiles: tuple[Profile, ...]
    precision: str
    workspace: int | None = None
    weak: bool = False
    dla: int | None = None
    compute_capability: str | None = None
    optimization_level: int | None = None


@dataclass(frozen=True)
class Built:
    """A plan (any buffer), its tensors, its audit and the builder's timings ("" where they are not kept)."""

    plan: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    audit: Audit
    timings: bytes


def plan_from_onnx(trt: TensorRT, order: Order, *, timings: bytes = b"") -> Built:
    """Parse, build and audit.

    Where the GPU's memory runs out, or a node has no implementation, it tries once with the workspace that TensorRT
    takes by itself; where memory runs out with that, too, with less workspace and then with fewer tactics.

    Args:
        trt: TensorRT.
        order: what to build; options that this TensorRT does not have were refused before.
        timings: timing cache of an earlier build on this machine.

    Raises:
        ModelError: if TensorRT cannot parse the ONNX file, or its inputs are not those of the profiles.
        InputError: if the machine has no such DLA core, or DLA does not take the model.
        EngineError: if the build fails.
    """
    log = trt.logger()
    with log.listening(verbose=trt.ahead_of_time):
        return _plan(trt, order, log, timings)


def _plan(trt: TensorRT, order: Order, log: Messages, timings: bytes) -> Built:
    builder = _create(trt.module.Builder, log)
    network = builder.create_network(trt.network_flags(weak=order.weak))
    parser = trt.module.OnnxParser(network, log)  # owns the weights: must live until the plan is built
    if not parser.parse_from_file(str(order.onnx)):
        reasons = (parser.get_error(i).desc() for i in range(parser.num_errors))
        raise _parse_error(order.onnx, log.errors() or "; ".join(reasons) or "it gave no reason")
    inputs = tuple(_spec(trt, network.get_input(i)) for i in range(network.num_inputs))
    outputs = tuple(_spec(trt, network.get_output(i)) for i in range(network.num_outputs))
    for profile in order.profiles:
        _check_profile(order.onnx, profile, inputs)
    if order.weak:
        keep_islands(trt, network)
    asked = asked_of_network(network, weak=order.precision if order.weak else None)
    left: tuple[str, ...] = ()
    if order.dla is not None:
        left = left_to_gpu(network, _config(trt, builder, order, order.workspace), order.onnx.name)
    plan, config = _build_in_memory(trt, order, log, builder, network, timings)
    layers = _layers(trt, order, log, plan, _usual_batch(order.profiles[0], inputs))
    result = replace(audit(layers, asked), left_to_gpu=left)
    return Built(plan, inputs, outputs, result, _save_timings(trt, config))


def _build_in_memory(
    trt: TensorRT, order: Order, log: Messages, builder: Any, network: Any, timings: bytes
) -> tuple[Any, Any]:
    """The plan and the configuration that it was built with, in as much memory as there is."""
    attempts, starved = _attempts(order.workspace, order.optimization_level), False
    while attempts:
        workspace, level = attempts.pop(0)
        log.forget_errors()
        said = len(log.lines)
        config = _config(trt, builder, order, workspace)
        if level is not None:
            config.builder_optimization_level = level
        _load_timings(trt, config, timings)
        plan = _build(trt, builder, network, config)
        if plan is not None:
            return plan, config
        told = _mib(workspace)
        if _is_out_of_memory([log.errors(), *log.lines[said:]]):
            starved = True
            talk(f"build: out of GPU memory with {told} of workspace")
        elif _NO_IMPLEMENTATION in log.errors().lower() and (starved or attempts):
            talk(f"build: a node has no implementation with {told} of workspace")
            attempts = attempts if starved else attempts[:1]
        else:
            raise _build_error(trt, order, log.errors())
    raise EngineError(
        f"TensorRT ran out of GPU memory while it built {order.onnx.name}: {log.errors()}",
        hint="close other programs that use the GPU, build for a smaller --batch or --size, or change --workspace",
    )


def compute_capabilities(trt: TensorRT) -> list[str]:
    """GPUs that engines can be built for ahead of time, e.g. ``["7.5", "8.6"]``; empty on TensorRT proper."""
    if not trt.ahead_of_time:
        return []
    names = (name for name in dir(trt.module.ComputeCapability) if name.startswith("SM"))
    return sorted((f"{name[2:-1]}.{name[-1]}" for name in names), key=float)


def _create(factory: Callable[[Messages], Any], log: Messages) -> Any:
    """A Builder or Runtime; without a driver TensorRT's factories return nothing."""
    try:
        return factory(log)
    except (TypeError, RuntimeError) as error:
        raise EngineError(
            f"TensorRT cannot start: {log.errors() or error}",
            hint="it needs an NVIDIA GPU and a driver that fits it; glint doctor says what is here",
        ) from error


def _spec(trt: TensorRT, tensor: Any) -> TensorSpec:
    return TensorSpec(tensor.name, trt.dtype_name(tensor.dtype), tuple(int(size) for size in tensor.shape))


def _check_profile(onnx: Path, profile: Profile, inputs: tuple[TensorSpec, ...]) -> None:
    ranges = {r.name: r for r in profile}
    if ranges.keys() != {spec.name for spec in inputs}:
        raise ModelError(
            f"{onnx.name}: its inputs are {[s.name for s in inputs]}, its card says {sorted(ranges)}", hint=_CARD_HINT
        )
    for spec in inputs:
        for shape in (ranges[spec.name].min, ranges[spec.name].max):
            if len(shape) != len(spec.shape) or any(s not in (-1, n) for s, n in zip(spec.shape, shape)):
                raise ModelError(
                    f"{onnx.name}: input {spec.name!r} is {spec.shape}, its profile wants {shape}", hint=_CARD_HINT
                )


def _usual_batch(profile: Profile, inputs: tuple[TensorSpec, ...]) -> int:
    """Rows of a call, where the batch is the one axis of any size; else 1."""
    free = {spec.name for spec in inputs if spec.shape[:1] == (-1,) and -1 not in spec.shape[1:]}
    return max((r.opt[0] for r in profile if r.name in free), default=1)


def _parse_error(onnx: Path, reasons: str) -> ModelError:
    apart = any(words in reasons.lower() for words in ("external", "failed to open file"))
    hint = (
        f"its weights are in a file of their own (often {onnx.name}.data), which must stand beside it, whole"
        if apart
        else "glint inspect names the operators that TensorRT refuses"
    )
    return ModelError(f"TensorRT cannot parse {onnx.name}: {reasons}", hint=hint)


def _build_error(trt: TensorRT, order: Order, errors: str) -> EngineError:
    if _NO_IMPLEMENTATION in errors.lower():
        return EngineError(
            f"TensorRT has no implementation for a node of {order.onnx.name} in {order.precision}: {errors}",
            hint="memory is not the reason: build in another --precision, with --weak (TensorRT 10.x), or with a "
            "newer TensorRT",
        )
    hints = []
    if order.precision == "int8":
        hints += ["--precision fp16", "glint calibrate --float32-scales, where fp16 scales are refused"]
    if trt.can_be_weak and not order.weak and order.precision != "fp32":
        hints.append(f"--precision {order.precision} --weak, which lets TensorRT choose the types")
    hint = f"try {', or '.join(hints)}" if hints else None
    return EngineError(f"TensorRT cannot build {order.onnx.name}: {errors or 'it gave no reason'}", hint=hint)


def _attempts(workspace: int | None, level: int | None) -> list[tuple[int | None, int | None]]:
    """Workspace and optimisation level (None: TensorRT's own) of each try."""
    if workspace is None:
        return [(None, level)]
    least = 2 if level is None else min(level, 2)
    return [
        (workspace, level),
        (None, level),
        (max(workspace // 2, _LEAST_WORKSPACE_BYTES), level),
        (max(workspace // 8, _LEAST_WORKSPACE_BYTES), least),
    ]


def _is_out_of_memory(lines: Iterable[str]) -> bool:
    return any(words in line.lower() for line in lines for words in _OUT_OF_MEMORY)


def _mib(workspace: int | None) -> str:
    return "TensorRT's default" if workspace is None else f"{workspace // _MIB} MiB"


def _config(trt: TensorRT, builder: Any, order: Order, workspace: int | None) -> Any:
    module, config = trt.module, builder.create_builder_config()
    if workspace is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, workspace)
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED  # the audit needs the layers' types
    # TF32 keeps ten bits: the fp32 islands of a network are there because that is too few.
    config.clear_flag(module.BuilderFlag.TF32)
    if order.weak:
        for flag in {"fp16": ("FP16",), "int8": ("FP16", "INT8")}[order.precision] + ("OBEY_PRECISION_CONSTRAINTS",):
            config.set_flag(getattr(module.BuilderFlag, flag))
    if order.dla is not None:
        _use_dla(trt, builder, config, order.dla)
    if order.compute_capability is not None:
        config.num_compute_capabilities = 1
        name = "SM" + order.compute_capability.replace(".", "")
        config.set_compute_capability(getattr(module.ComputeCapability, name), 0)
    for profile in order.profiles:
        entry = builder.create_optimization_profile()
        for r in profile:
            entry.set_shape(r.name, r.min, r.opt, r.max)
        if config.add_optimization_profile(entry) < 0:
            raise EngineError(
                f"TensorRT refuses the profile {profile}",
                hint="give MIN,OPT,MAX that the model takes: glint inspect names its inputs",
            )
    return config


def _use_dla(trt: TensorRT, builder: Any, config: Any, core: int) -> None:
    if core >= builder.num_DLA_cores:
        raise InputError(
            f"DLA core {core}: this machine has {builder.num_DLA_cores}",
            hint="Jetson AGX Orin and Orin NX have DLA, Orin Nano and Thor have none",
        )
    config.default_device_type = trt.module.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.module.BuilderFlag.GPU_FALLBACK)


def _load_timings(trt: TensorRT, config: Any, timings: bytes) -> None:
    """Reuse timings; stale or damaged ones are as good as none."""
    if not trt.keeps_timings:
        return
    for content in (timings, b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return


def _save_timings(trt: TensorRT, config: Any) -> bytes:
    cache = config.get_timing_cache() if trt.keeps_timings else None
    return b"" if cache is None else bytes(cache.serialize())


def _layers(trt: TensorRT, order: Order, log: Messages, plan: Any, rows: int) -> list[EngineLayer]:
    """The kernels of a plan; none where TensorRT does not tell, and the types stand in the network."""
    text = "" if trt.ahead_of_time else _inspect(trt, plan, order.dla)
    try:
        return layers_of_log(log.lines, rows) if trt.ahead_of_time else layers_of_inspector(text, rows)
    except EngineError as error:
        if order.weak:
            raise
        talk(f"build: what the layers run in is not known: {error}")
        return []


def _inspect(trt: TensorRT, plan: Any, dla: int | None) -> str:
    """The engine inspector's JSON of a plan."""
    log = trt.logger()
    log.forget_errors()
    runtime = _create(trt.module.Runtime, log)
    if dla is not None:
        runtime.DLA_core = dla
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(
            f"TensorRT cannot load the plan that it built: {log.errors() or 'it gave no reason'}", hint=_MEMORY_HINT
        )
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.module.LayerInformationFormat.JSON))


def _build(trt: TensorRT, builder: Any, network: Any, config: Any) -> Any:
    """The plan, or None. The build runs in a thread of its own, so that Ctrl-C and the clock keep working."""
    results: list[Any] = []
    failures: list[BaseException] = []
    over = threading.Event()  # not thread.join: Python 3.10's forgets a thread when Ctrl-C interrupts it

    def work() -> None:
        try:
            results.append(builder.build_serialized_network(network, config))
        except BaseException as error:
            failures.append(error)
        finally:
            over.set()

    state = BuildState()
    config.progress_monitor = monitor = _monitor(trt, state)
    thread = threading.Thread(target=work, name="glint-build", daemon=True)
    with Progress("build", 100) as line:
        thread.start()
        try:
            while not over.wait(0.1):
                line.update(round(100 * state.fraction()), state.phase)
        except BaseException:
            state.cancelled = True
            over.wait()
            raise
    del monitor  # TensorRT holds no reference to it: it had to live until here
    if failures:
        raise EngineError(f"TensorRT failed: {failures[0]}", hint=_MEMORY_HINT) from failures[0]
    return results[0]


class BuildState:
    """How far a build is, from the phases that TensorRT reports; phases lie within steps of others."""

    def __init__(self) -> None:
        self.phase = ""
        self.cancelled = False
        self._lock = threading.Lock()
        self._open: dict[str, tuple[float, float]] = {}  # phase: where its next step begins, and how wide one is
        self._reached = 0.0

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps begins, within the current step of its parent."""
        with self._lock:
            begin, width = self._open.get(parent or "", (0.0, 1.0))
            self._open[phase] = (begin, width / max(steps, 1))
            self.phase = phase

    def step(self, phase: str) -> bool:
        """One more step is over; False asks TensorRT to stop."""
        with self._lock:
            if phase in self._open:
                begin, width = self._open[phase]
                self._open[phase] = (begin + width, width)
                self._reached = min(1.0, max(self._reached, begin + width))
        return not self.cancelled

    def finish(self, phase: str) -> None:
        """A phase is over."""
        with self._lock:
            self._open.pop(phase, None)

    def fraction(self) -> float:
        """Part of the build that is over, 0 to 1; it never falls."""
        return self._reached


def _monitor(trt: TensorRT, state: BuildState) -> Any:
    interface = trt.module.IProgressMonitor

    class Monitor(interface):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            interface.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            state.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return state.step(phase_name)

        def phase_finish(self, phase_name: str) -> None:
            state.finish(phase_name)

    return Monitor()
