"""TensorRT on an NVIDIA GPU: runs a plan that ``glint build`` made on this machine."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.errors import EngineError, InputError
from glint.runtime.engines.base import Arrays, Engine
from glint.runtime.engines.tensorrt import cuda
from glint.runtime.engines.tensorrt.loaded_plan import LoadedPlan, Shapes
from glint.runtime.engines.tensorrt.slot import Lane, Slot, compare

_BUFFERS = ("pinned", "mapped")
_MOST_SHAPES = 64  # shapes kept ready; more than a batch of up to 65 536 rows needs


class TensorRTEngine(Engine):
    """A TensorRT engine.

    Any thread may call it, one at a time. Large batches are cut into pieces of the plan's largest
    batch, and the copies of one overlap the computation of the next; small ones are padded to what
    the plan's profile takes. Where ``cuda-bindings`` is installed, runs are CUDA graphs.

    Args:
        plan: the plan; its sidecar stands beside it, and both are checked before TensorRT sees them.
        graph: False: no CUDA graphs.
        buffers: ``pinned`` or ``mapped`` memory; None: what is faster here.
        ready: rows of a batch up to which every size is made ready now, so that none waits for it later.

    Raises:
        InputError: if there are no such buffers.
        ModelError: if the sidecar is missing or malformed.
        EngineError: if the plan is of another machine or damaged, or TensorRT refuses it.
        MissingDependencyError: if TensorRT or pycuda cannot be imported.
    """

    name = "tensorrt"

    def __init__(self, plan: Path, *, graph: bool = True, buffers: str | None = None, ready: int = 0) -> None:
        if buffers not in (None, *_BUFFERS):
            raise InputError(f"buffers: expected {' or '.join(_BUFFERS)}, got {buffers!r}")
        self._lock = threading.Lock()
        self._lanes: list[Lane] = []
        self._slots: dict[Any, Slot] = {}
        self._mapped = self._record = False
        self._plan: LoadedPlan | None = LoadedPlan(plan)
        self.inputs, self.outputs = self._plan.inputs, self._plan.outputs
        try:
            with cuda.current() as driver:
                self._facts = self._start(driver, self._plan, graph, buffers)
                self._facts["ready"] = self._make_ready(driver, self._plan, ready)
        except BaseException:
            self.close()
            raise

    def _start(self, driver: Any, plan: LoadedPlan, graph: bool, buffers: str | None) -> dict[str, Any]:
        """Run the first profile's fastest shape once, choose the kind of buffers, and see whether graphs work."""
        shapes = {name: opt for name, (_, opt, _) in plan.profiles[0].items()}
        times: dict[str, float] = {}
        if plan.gpu.integrated and buffers is None:
            times = self._time(driver, plan, shapes)
        self._mapped = (buffers or min(times, key=lambda kind: times[kind], default="pinned")) == "mapped"
        self._record = graph
        slot = self._slot(driver, plan, 0, 0, shapes)
        problem = slot.problem if graph else "switched off"
        self._record = problem is None
        return {
            "tensorrt": f"{plan.trt.flavour} {plan.trt.version}",
            "gpu": plan.gpu.name,
            "compute_capability": plan.gpu.sm,
            "precision": plan.info.precision,
            "buffers": "mapped" if self._mapped else "pinned",
            "buffers_ms": {kind: round(1e3 * seconds, 3) for kind, seconds in times.items()},
            "cuda_graph": problem is None,
            "cuda_graph_problem": problem,
            "scratch_bytes": self._lane(driver, plan, 0).size,
            "layers": plan.info.audit.get("layers", {}),
        }

    def _make_ready(self, driver: Any, plan: LoadedPlan, rows: int) -> list[int]:
        """Make a slot for each size that batches of 1 to ``rows`` rows are cut and padded to; returns the sizes."""
        if not plan.batched:
            return []
        ready = {}
        for number in range(1, rows + 1):
            shapes = {name: (number, *opt[1:]) for name, (_, opt, _) in plan.profiles[0].items()}
            profile = plan.choose(shapes)
            for piece, (_, _, size) in enumerate(plan.chunks(profile, number)):
                ready[piece % 2, profile, size] = {name: (size, *shape[1:]) for name, shape in shapes.items()}
        for (lane, profile, _), shapes in ready.items():
            self._slot(driver, plan, lane, profile, shapes)
        return sorted({size for _, _, size in ready})

    def _time(self, driver: Any, plan: LoadedPlan, shapes: Shapes) -> dict[str, float]:
        """Seconds of a run with each kind of buffers."""
        slots: dict[str, Slot] = {}
        try:
            for kind in _BUFFERS:
                lane = self._lane(driver, plan, 0)
                slots[kind] = Slot(driver, plan, lane, 0, shapes, mapped=kind == "mapped", record=False)
            return compare(slots)
        finally:
            for slot in slots.values():
                slot.free()

    def details(self) -> dict[str, Any]:
        """What runs it: TensorRT, GPU, precision, kind of buffers and what was measured, CUDA graph or why not."""
        return {**super().details(), **self._facts}

    def stage_times(self, runs: int, **arrays: NDArray[Any]) -> dict[str, list[float]]:
        """Milliseconds of ``enqueue`` (the host's), ``h2d``, ``gpu`` and ``d2h`` (by events on the stream).

        Without a CUDA graph, in which no event can be placed; ``graph`` is the host's time to launch it. Of a batch
        that is cut, the first piece.

        Raises:
            InputError: if the plan takes no such inputs.
            EngineError: if the engine is closed or fails.
        """
        with self._lock:
            plan = self._opened()
            arrays = {spec.name: arrays[spec.name] for spec in plan.inputs}
            shapes = {name: array.shape for name, array in arrays.items()}
            profile = plan.choose(shapes)
            _, count, size = plan.chunks(profile, plan.rows(shapes))[0]
            with cuda.current() as driver:
                fitted = {n: (size, *s[1:]) if plan.batched else s for n, s in shapes.items()}
                slot = self._slot(driver, plan, 0, profile, fitted)
                rows = slice(0, count) if plan.batched else slice(None)
                return slot.stage_times(runs, {name: array[rows] for name, array in arrays.items()})

    def _opened(self) -> LoadedPlan:
        if self._plan is None:
            raise EngineError("this engine is closed", hint="open it again")
        return self._plan

    def _infer(self, arrays: Arrays) -> Arrays:
        return self._infer_some(arrays, tuple(spec.name for spec in self.outputs))

    def _infer_some(self, arrays: Arrays, names: tuple[str, ...]) -> Arrays:
        with self._lock:
            plan = self._opened()
            arrays = {spec.name: arrays[spec.name] for spec in plan.inputs}
            shapes = {name: array.shape for name, array in arrays.items()}
            profile, rows = plan.choose(shapes), plan.rows(shapes)
            with cuda.current() as driver:
                try:
                    return self._run(driver, plan, profile, rows, arrays, names)
                except BaseException:
                    self._settle(driver)
                    raise

    def _run(
        self, driver: Any, plan: LoadedPlan, profile: int, rows: int, arrays: Arrays, names: tuple[str, ...]
    ) -> Arrays:
        outputs: Arrays = {}
        under_way: deque[tuple[Slot, Arrays]] = deque()
        for number, (start, count, size) in enumerate(plan.chunks(profile, rows)):
            part = slice(start, start + count) if plan.batched else slice(None)
            shapes = {n: (size, *a.shape[1:]) if plan.batched else a.shape for n, a in arrays.items()}
            if len(under_way) == 2:  # one per lane: this piece's lane must be free
                _finish(under_way)
            slot = self._slot(driver, plan, number % 2, profile, shapes, names)
            outputs = outputs or _empty(plan, slot, rows, names)
            if count:
                slot.start({name: array[part] for name, array in arrays.items()})
                under_way.append((slot, {name: array[part] for name, array in outputs.items()}))
        while under_way:
            _finish(under_way)
        if len(self._slots) > _MOST_SHAPES:
            self._free_slots()
        return outputs

    def _slot(
        self, driver: Any, plan: LoadedPlan, lane: int, profile: int, shapes: Shapes, read: tuple[str, ...] = ()
    ) -> Slot:
        """The slot of these shapes, which copies the outputs back that are ``read`` by anybody (none said: all)."""
        key = (lane, profile, tuple(shapes.values()))
        if key not in self._slots:
            self._slots[key] = Slot(
                driver, plan, self._lane(driver, plan, lane), profile, shapes, mapped=self._mapped, record=self._record
            )
        if read:
            self._slots[key].read(read)
        return self._slots[key]

    def _lane(self, driver: Any, plan: LoadedPlan, number: int) -> Lane:
        while len(self._lanes) <= number:
            self._lanes.append(Lane(driver, plan))
        return self._lanes[number]

    def _settle(self, driver: Any) -> None:
        """Wait until nothing is under way, however it ends."""
        for lane in self._lanes:
            with suppress(driver.Error):
                lane.stream.synchronize()

    def _free_slots(self) -> None:
        for slot in self._slots.values():
            slot.free()
        self._slots = {}

    def close(self) -> None:
        """Give all memory back. May be called twice."""
        with self._lock:
            plan, self._plan = self._plan, None
            if plan is None:
                return
            with suppress(EngineError), cuda.current() as driver:  # a GPU that failed takes nothing back
                self._settle(driver)
                self._free_slots()
                for lane in self._lanes:
                    lane.free()
                self._lanes = []
                plan.close()


def _empty(plan: LoadedPlan, slot: Slot, rows: int, names: tuple[str, ...]) -> Arrays:
    """Room for the outputs of ``rows`` rows."""
    shapes = {n: (rows, *shape[1:]) if plan.batched else shape for n, shape in slot.outputs.items()}
    return {spec.name: np.empty(shapes[spec.name], spec.dtype) for spec in plan.outputs if spec.name in names}


def _finish(under_way: deque[tuple[Slot, Arrays]]) -> None:
    slot, outputs = under_way.popleft()
    slot.finish(outputs)
