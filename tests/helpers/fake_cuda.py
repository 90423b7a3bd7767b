"""pycuda and cuda-bindings without a GPU: host memory at real addresses, and streams that do nothing until waited for.

Late execution makes a missing wait visible: a result that is read before its stream was synchronised
is not there. Contexts are checked per thread, memory by its owner, and every call must be one that
pycuda 2026.1 or cuda-bindings 12 and 13 have.
"""

from __future__ import annotations

import ctypes
import enum
import sys
import threading
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import pytest

_FENCE = 64  # bytes after each allocation that nothing may touch


class Error(Exception):
    pass


class MemoryError(Error):
    pass


class LogicError(Error):
    pass


class RuntimeError(Error):
    pass


class LaunchError(Error):
    pass


class FakeCuda:
    """The machine behind the modules.

    Attributes:
        live: bytes of each allocation that was not freed, by address.
        total: bytes of memory.
        integrated, sm, name: of the GPU.
        executed: descriptions of what ran, in order.
        launches: graphs that were launched.
        refuse_capture: status that recording ends with, or None.
        broken: message that every call fails with, or None.
        lost_streams: streams that were destroyed where their context was not current.
    """

    def __init__(self) -> None:
        self.live: dict[int, Any] = {}
        self.kinds: dict[int, str] = {}
        self.freed: list[Any] = []
        self.total = 1 << 30
        self.integrated, self.sm, self.name = False, (8, 6), "Fake GPU"
        self.streams: WeakValueDictionary[int, Stream] = WeakValueDictionary()
        self.lost_streams = 0
        self.executed: list[str] = []
        self.launches = 0
        self.graphs = 0
        self.refuse_capture: str | None = None
        self.broken: str | None = None
        self.local = threading.local()
        self.retained = 0
        self.next_handle = 1000

    @property
    def stack(self) -> list[Context]:
        if not hasattr(self.local, "stack"):
            self.local.stack = []
        return self.local.stack

    @property
    def used(self) -> int:
        return sum(block.nbytes for block in self.live.values())

    def check(self) -> None:
        """Every call needs a context of the calling thread."""
        if self.broken:
            raise LaunchError(self.broken)
        if not self.stack:
            raise LogicError("cuFake failed: invalid device context")

    def allocate(self, size: int, kind: str) -> int:
        self.check()
        if size < 1:
            raise LogicError("cuMemAlloc failed: invalid argument")
        if self.used + size > self.total:
            raise MemoryError("cuMemAlloc failed: out of memory")
        block = np.full(size + _FENCE, 0xAB, np.uint8)[:size]
        address = block.ctypes.data
        self.live[address], self.kinds[address] = block, kind
        return address

    def release(self, address: int) -> None:
        self.check()
        if address not in self.live:
            raise LogicError("free failed: invalid resource handle")
        block = self.live.pop(address)
        assert (block.base[-_FENCE:] == 0xAB).all(), "something wrote beyond its memory"
        block[:] = 0xDD
        self.freed.append(block)  # so that its address is not used again, and what still reads it gets nonsense
        del self.kinds[address]

    def enqueue(self, handle: int, what: str, work: Callable[[], None]) -> None:
        """Work for a stream: done when it is waited for, or recorded. A fake TensorRT runs through this, too."""
        self.check()
        stream = self.streams[handle]
        if stream.recording is not None:
            stream.recording.append((what, work))
        else:
            stream.queue.append((what, work))

    def install(self, monkeypatch: pytest.MonkeyPatch, *, bindings: bool = True) -> None:
        """Put the modules in place of the real ones for one test."""
        from glint.runtime.engines.tensorrt import cuda

        driver = _driver(self)
        package = module("pycuda")
        package.driver = driver
        monkeypatch.setitem(sys.modules, "pycuda", package)
        monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
        monkeypatch.setattr(cuda, "_retained", None)
        monkeypatch.setattr(cuda.atexit, "register", lambda function: None)
        if not bindings:
            monkeypatch.setitem(sys.modules, "cuda.bindings", None)
            return
        bindings_package = module("cuda.bindings")
        bindings_package.driver = _bindings(self)
        for name, fake in {"cuda": module("cuda"), "cuda.bindings": bindings_package}.items():
            monkeypatch.setitem(sys.modules, name, fake)


def module(name: str) -> Any:
    """An empty package that importlib finds."""
    made = ModuleType(name)
    made.__spec__, made.__path__ = ModuleSpec(name, None), []
    return made


class Context:
    def __init__(self, machine: FakeCuda) -> None:
        self.machine = machine

    def push(self) -> None:
        self.machine.stack.append(self)

    def pop(self) -> None:
        if not self.machine.stack:
            raise LogicError("context::pop failed: invalid device context - cannot pop non-current context")
        self.machine.stack.pop()

    def detach(self) -> None:
        self.machine.retained -= 1


class Stream:
    def __init__(self, machine: FakeCuda, flags: int = 0) -> None:
        machine.check()
        self.machine, self.flags = machine, flags
        self.queue: list[tuple[str, Callable[[], None]]] = []
        self.recording: list[tuple[str, Callable[[], None]]] | None = None
        self.handle = machine.next_handle = machine.next_handle + 1
        machine.streams[self.handle] = self

    def __del__(self) -> None:
        self.machine.lost_streams += not self.machine.stack

    def synchronize(self) -> None:
        self.machine.check()
        if self.recording is not None:
            raise LogicError("cuStreamSynchronize failed: operation not permitted when stream is capturing")
        queue, self.queue = self.queue, []
        for what, work in queue:
            self.machine.executed.append(what)
            work()


class Event:
    """A mark on a stream; time passes by one millisecond per piece of work."""

    def __init__(self, machine: FakeCuda) -> None:
        self.machine, self.at = machine, -1

    def record(self, stream: Stream) -> None:
        self.machine.enqueue(stream.handle, "event", self.note)

    def note(self) -> None:
        self.at = sum(what != "event" for what in self.machine.executed)

    def time_till(self, end: Event) -> float:
        assert min(self.at, end.at) >= 0, "not reached yet"
        return float(end.at - self.at)


class _Allocation:
    def __init__(self, machine: FakeCuda, size: int, kind: str) -> None:
        self._machine = machine
        self._address = machine.allocate(size, kind)

    def free(self) -> None:
        self._machine.release(self._address)


class _DeviceAllocation(_Allocation):
    def __int__(self) -> int:
        return self._address


class _HostAllocation(_Allocation):
    """What a page-locked array's ``base`` is; the array itself is a view of it."""

    def __init__(self, machine: FakeCuda, size: int, kind: str) -> None:
        super().__init__(machine, size, kind)
        data = (self._address, False)
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": data, "version": 3}
        self._kind = kind

    def get_device_pointer(self) -> int:
        self._machine.check()
        return self._address


def _driver(machine: FakeCuda) -> Any:
    """``pycuda.driver``."""

    def checked(address: int, size: int, kind: tuple[str, ...]) -> None:
        block = machine.live.get(address)
        if block is None or machine.kinds[address] not in kind or block.nbytes < size:
            raise LogicError("cuMemcpy failed: invalid argument")

    def copy(dest: int, src: int, size: int) -> None:
        ctypes.memmove(dest, src, size)

    def memcpy_htod_async(dest: int, src: np.ndarray, stream: Stream) -> None:
        checked(dest, src.nbytes, ("device",))
        checked(src.ctypes.data, src.nbytes, ("pinned",))  # else it would not be asynchronous
        address, size = src.ctypes.data, src.nbytes
        machine.enqueue(stream.handle, "upload", lambda: copy(dest, address, size))

    def memcpy_dtoh_async(dest: np.ndarray, src: int, stream: Stream) -> None:
        checked(src, dest.nbytes, ("device",))
        checked(dest.ctypes.data, dest.nbytes, ("pinned",))
        address, size = dest.ctypes.data, dest.nbytes
        machine.enqueue(stream.handle, "download", lambda: copy(address, src, size))

    def pagelocked_empty(shape: int, dtype: Any, order: str = "C", mem_flags: int = 0) -> np.ndarray:
        assert dtype is np.uint8
        base = _HostAllocation(machine, shape, "mapped" if mem_flags == 2 else "pinned")
        array = np.asarray(base)
        assert array.base is base
        return array

    def mem_get_info() -> tuple[int, int]:
        machine.check()
        return machine.total - machine.used, machine.total

    class Device:
        def __init__(self, number: int) -> None:
            assert number == 0

        def name(self) -> str:
            return machine.name

        def compute_capability(self) -> tuple[int, int]:
            return machine.sm

        def get_attribute(self, attribute: str) -> int:
            return {"INTEGRATED": int(machine.integrated), "MULTIPROCESSOR_COUNT": 8}[attribute]

        def retain_primary_context(self) -> Context:
            machine.retained += 1
            return Context(machine)

    def init() -> None:
        if machine.broken:
            raise RuntimeError(machine.broken)

    def get_device() -> Device:
        machine.check()
        return Device(0)

    driver: Any = ModuleType("pycuda.driver")
    vars(driver).update(
        Error=Error, MemoryError=MemoryError, LogicError=LogicError, RuntimeError=RuntimeError,
        LaunchError=LaunchError, init=init, Device=Device, Context=SimpleNamespace(get_device=get_device),
        Stream=lambda flags=0: Stream(machine, flags), Event=lambda: Event(machine),
        mem_alloc=lambda size: _DeviceAllocation(machine, size, "device"),
        mem_get_info=mem_get_info, pagelocked_empty=pagelocked_empty,
        host_alloc_flags=SimpleNamespace(PORTABLE=1, DEVICEMAP=2, WRITECOMBINED=4),
        device_attribute=SimpleNamespace(
            INTEGRATED="INTEGRATED", MULTIPROCESSOR_COUNT="MULTIPROCESSOR_COUNT"
        ),
        memcpy_htod_async=memcpy_htod_async, memcpy_dtoh_async=memcpy_dtoh_async,
        get_driver_version=lambda: 12060,
    )  # fmt: skip
    return driver


class _Handle(int):
    """``CUstream``, ``CUgraph``, ``CUgraphExec``: a number."""


class _Graph(_Handle):
    work: list[tuple[str, Callable[[], None]]]


def _bindings(machine: FakeCuda) -> Any:
    """``cuda.bindings.driver``: functions return a tuple whose first item is the status."""
    names = ("CUDA_SUCCESS", "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")
    status: Any = enum.Enum("CUresult", names)
    mode: Any = enum.Enum("CUstreamCaptureMode", ["CU_STREAM_CAPTURE_MODE_THREAD_LOCAL"])

    def begin(stream: _Handle, how: Any) -> tuple[Any]:
        assert isinstance(stream, _Handle)
        assert how is mode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        machine.check()
        assert not machine.streams[stream].queue, "recording starts on an idle stream"
        machine.streams[stream].recording = []
        return (status.CUDA_SUCCESS,)

    def end(stream: _Handle) -> tuple[Any, Any]:
        machine.check()
        recorded, machine.streams[stream].recording = machine.streams[stream].recording, None
        if machine.refuse_capture:
            return status[machine.refuse_capture], _Graph(0)
        graph = _Graph(7)
        graph.work = recorded or []
        machine.graphs += 1
        return status.CUDA_SUCCESS, graph

    def instantiate(graph: _Graph, flags: int) -> tuple[Any, Any]:
        machine.check()
        ready = _Graph(8)
        ready.work = graph.work
        machine.graphs += 1
        return status.CUDA_SUCCESS, ready

    def launch(graph: _Graph, stream: _Handle) -> tuple[Any]:
        machine.check()
        machine.launches += 1
        machine.streams[stream].queue += graph.work
        return (status.CUDA_SUCCESS,)

    def destroy(graph: _Graph) -> tuple[Any]:
        machine.check()
        machine.graphs -= 1
        return (status.CUDA_SUCCESS,)

    driver: Any = ModuleType("cuda.bindings.driver")
    vars(driver).update(
        CUresult=status, CUstreamCaptureMode=mode, CUstream=_Handle, cuStreamBeginCapture=begin,
        cuStreamEndCapture=end, cuGraphInstantiate=instantiate, cuGraphLaunch=launch, cuGraphDestroy=destroy,
        cuGraphExecDestroy=destroy,
    )  # fmt: skip
    return driver
