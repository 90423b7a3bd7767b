"""The network at one shape: a TensorRT context with fixed addresses, and a CUDA graph of it where one can be recorded.

A context whose shape or addresses change must not be launched as a graph, so each shape has its own.
Contexts on one stream run one after another and share their scratch memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.cards import TensorSpec
from glint.errors import EngineError
from glint.runtime.engines.base import Arrays
from glint.runtime.engines.tensorrt import cuda, cuda_graph
from glint.runtime.engines.tensorrt.loaded_plan import LoadedPlan, Shapes

_TIMED_RUNS = 20  # of which the median counts
_SETTLE_S = 0.3  # seconds of load after which the GPU's clocks have risen


class Lane:
    """A stream, and the scratch memory of the contexts that run on it."""

    def __init__(self, driver: Any, plan: LoadedPlan) -> None:
        self.stream: Any = cuda.stream(driver)
        self.size = int(plan.engine.device_memory_size_v2)
        self.scratch = driver.mem_alloc(self.size) if self.size else None

    def free(self) -> None:
        """Give the memory and the stream back. pycuda destroys a stream of any thread only here, in its context."""
        if self.scratch is not None:
            self.scratch.free()
        self.stream = None


class Slot:
    """One shape of the network on one lane. Call in a block of ``cuda.current()``.

    Args:
        plan, lane: what runs, and where.
        profile, shapes: of the inputs.
        mapped: whether buffers are mapped instead of copied.
        record: whether to try a CUDA graph.

    Attributes:
        outputs: shapes of the outputs; all are copied back until :meth:`read` says which are wanted.
        problem: why there is no CUDA graph, or None.

    Raises:
        EngineError: if TensorRT refuses the shapes or fails.
    """

    def __init__(
        self, driver: Any, plan: LoadedPlan, lane: Lane, profile: int, shapes: Shapes, *, mapped: bool, record: bool
    ) -> None:
        self._driver, self._plan, self.lane = driver, plan, lane
        self._buffers: dict[str, cuda.Buffer] = {}
        self._graph: cuda_graph.CudaGraph | None = None
        self.problem: str | None = None
        try:
            self._context = self._make_context(profile, shapes)
            self.outputs: Shapes = {spec.name: self._shape(spec.name) for spec in plan.outputs}
            self._inputs = {spec.name: self._attach(spec, shapes[spec.name], mapped) for spec in plan.inputs}
            self._results = {spec.name: self._attach(spec, self.outputs[spec.name], mapped) for spec in plan.outputs}
            self._read, self._chosen = set(self._results), False
            for array in self._inputs.values():
                array[...] = 0
            self._enqueue()
            lane.stream.synchronize()
            if record:
                self._record()
        except BaseException:
            self.free()
            raise

    def _make_context(self, profile: int, shapes: Shapes) -> Any:
        plan, lane = self._plan, self.lane
        strategy = plan.trt.module.ExecutionContextAllocationStrategy.USER_MANAGED
        context = plan.engine.create_execution_context(strategy)
        if context is None:
            raise plan.error("TensorRT cannot make an execution context")
        if not context.set_optimization_profile_async(profile, lane.stream.handle):
            raise plan.error(f"TensorRT refuses profile {profile}")
        lane.stream.synchronize()
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise plan.error(f"TensorRT refuses the shape {shape} for input {name!r}")
        if lane.scratch is not None:
            context.set_device_memory(int(lane.scratch), lane.size)
        return context

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = tuple(self._context.get_tensor_shape(name))
        if min(shape, default=0) < 0:
            raise self._plan.error(f"engine output {name!r}: its shape {shape} depends on the data")
        return shape

    def _attach(self, spec: TensorSpec, shape: tuple[int, ...], mapped: bool) -> NDArray[Any]:
        """Memory for a tensor; returns the host's view of it."""
        dtype = np.dtype(spec.dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        buffer = self._buffers[spec.name] = cuda.Buffer(self._driver, size, mapped=mapped)
        if not self._context.set_tensor_address(spec.name, buffer.address):
            raise self._plan.error(f"TensorRT refuses the memory of {spec.name!r}")
        return buffer.host.view(dtype).reshape(shape)

    def _enqueue(self) -> None:
        self._upload()
        self._execute()
        self._download()

    def _upload(self) -> None:
        for name in self._inputs:
            self._buffers[name].upload(self.lane.stream)

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self.lane.stream.handle):
            raise self._plan.error("TensorRT failed to run the network")

    def _download(self) -> None:
        for name in sorted(self._read):
            self._buffers[name].download(self.lane.stream)

    def _record(self) -> None:
        self.problem = cuda_graph.recording_problem()
        if self.problem is not None:
            return
        stream, capturable = self.lane.stream, getattr(self._context, "is_stream_capturable", None)
        if capturable is not None and not capturable(stream.handle):
            self.problem = "this TensorRT says that the network cannot be recorded"
            return
        try:
            self._graph = cuda_graph.CudaGraph(stream.handle, self._enqueue)
        except (EngineError, self._driver.Error) as error:
            self.problem = str(error)

    def read(self, names: Iterable[str]) -> None:
        """Copy only these outputs back from now on, and those of earlier calls. Nothing may be under way.

        Where that is a change, a graph is recorded anew.
        """
        wanted = self._read | set(names) if self._chosen else set(names)
        self._chosen = True
        if wanted == self._read:
            return
        self._read = wanted
        if self._graph is not None:
            self._graph.close()
            self._graph = None
            self._record()

    def start(self, arrays: Arrays) -> None:
        """Copy inputs in and enqueue the work; the last row of a short batch fills the slot up."""
        self._fill(arrays)
        if self._graph is not None:
            self._graph.launch()
        else:
            self._enqueue()

    def _fill(self, arrays: Arrays) -> None:
        for name, view in self._inputs.items():
            array = arrays[name]
            view[: len(array)] = array
            view[len(array) :] = array[-1:]

    def finish(self, outputs: Arrays) -> None:
        """Wait for the work and copy its results out, as many rows as ``outputs`` have."""
        self.lane.stream.synchronize()
        for name, array in outputs.items():
            array[...] = self._results[name][: len(array)]

    def stage_times(self, runs: int, arrays: Arrays) -> dict[str, list[float]]:
        """Milliseconds per run, by stage: see ``TensorRTEngine.stage_times``."""
        self._fill(arrays)
        stream, marks = self.lane.stream, [self._driver.Event() for _ in range(4)]
        times: dict[str, list[float]] = {"enqueue": [], "h2d": [], "gpu": [], "d2h": []}
        for _ in range(runs):
            before = time.perf_counter()
            for mark, step in zip(marks, (self._upload, self._execute, self._download, None)):
                mark.record(stream)
                if step is not None:
                    step()
            times["enqueue"].append(1e3 * (time.perf_counter() - before))
            stream.synchronize()
            for stage, first, last in zip(("h2d", "gpu", "d2h"), marks, marks[1:]):
                times[stage].append(float(first.time_till(last)))
        if self._graph is not None:
            times["graph"] = []
            for _ in range(runs):
                before = time.perf_counter()
                self._graph.launch()
                times["graph"].append(1e3 * (time.perf_counter() - before))
                stream.synchronize()
        return times

    def trial(self) -> Callable[[], float]:
        """What runs it once on zeros and returns the seconds, both copies included."""
        arrays = {name: np.zeros_like(view) for name, view in self._inputs.items()}
        outputs = {name: np.empty_like(self._results[name]) for name in self._read}

        def run() -> float:
            before = time.perf_counter()
            self.start(arrays)
            self.finish(outputs)
            return time.perf_counter() - before

        return run

    def free(self) -> None:
        """Give everything back. Nothing of it may be under way."""
        if self._graph is not None:
            self._graph.close()
        self._context = None
        self._inputs, self._results = {}, {}
        for buffer in self._buffers.values():
            buffer.free()
        self._buffers = {}


def compare(slots: dict[str, Slot]) -> dict[str, float]:
    """Median seconds of a run of each, in turns, so that a clock or a temperature that changes meets all of them."""
    trials = {name: slot.trial() for name, slot in slots.items()}
    began = time.perf_counter()
    while time.perf_counter() - began < _SETTLE_S:
        for trial in trials.values():
            trial()
    times: dict[str, list[float]] = {name: [] for name in trials}
    for _ in range(_TIMED_RUNS):
        for name, trial in trials.items():
            times[name].append(trial())
    return {name: float(np.median(seconds)) for name, seconds in times.items()}
