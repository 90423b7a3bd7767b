"""The GPU through pycuda: its facts, its context and memory that host and GPU share.

Everything lives in the device's primary context, the one that other CUDA users of the process (torch,
ONNX Runtime, TensorRT itself) live in too. It is made current around each use, so any thread may call.
"""

from __future__ import annotations

import atexit
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.errors import EngineError, MissingDependencyError

_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_MEMORY_FILE = Path("/proc/meminfo")
_POWER_MODE_FILE = Path("/var/lib/nvpmodel/status")
_L4T_FILE = Path("/etc/nv_tegra_release")
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: no hidden waiting for other users' default stream

_lock = threading.Lock()
_retained: tuple[Any, Any] | None = None


@dataclass(frozen=True)
class GpuInfo:
    """The GPU that engines run on (device 0; ``CUDA_VISIBLE_DEVICES`` chooses which that is).

    Attributes:
        name: e.g. ``Orin``.
        sm: compute capability, e.g. ``8.7``.
        total, free: memory in bytes; free as of now. Where the CPU shares it, what Linux can make free at once
            counts: CUDA leaves out the page cache, which may fill a Jetson's memory.
        integrated: shares its memory with the CPU (all Jetsons).
        cuda: newest CUDA version that the driver supports, e.g. ``12.6``.
        driver: version of the kernel driver, e.g. ``540.4.0``; ``unknown`` if it does not say.
        multiprocessors: how many are switched on, which a Jetson's power mode decides; 0 if unknown.
        power_mode: number of the Jetson's power mode (``nvpmodel``), "" elsewhere.
    """

    name: str
    sm: str
    total: int
    free: int
    integrated: bool
    cuda: str
    driver: str
    multiprocessors: int = 0
    power_mode: str = ""


def gpu() -> GpuInfo:
    """Facts of the GPU.

    Raises:
        MissingDependencyError: if pycuda cannot be imported.
        EngineError: if there is no GPU or no driver.
    """
    with current() as driver:
        device, attribute = driver.Context.get_device(), driver.device_attribute
        free, total = driver.mem_get_info()
        version = driver.get_driver_version()
        integrated = bool(device.get_attribute(attribute.INTEGRATED))
        if integrated:
            free = max(free, min(total, _available_memory()))
        return GpuInfo(
            name=device.name(),
            sm=".".join(map(str, device.compute_capability())),
            total=total,
            free=free,
            integrated=integrated,
            cuda=f"{version // 1000}.{version % 1000 // 10}",
            driver=driver_version() or "unknown",
            multiprocessors=int(device.get_attribute(attribute.MULTIPROCESSOR_COUNT)),
            power_mode=_found(_POWER_MODE_FILE, r"pmode:0*(\d+)") or "",
        )


def _available_memory() -> int:
    """Bytes that programs can have without swapping, by Linux; 0 if it does not say."""
    return 1024 * int(_found(_MEMORY_FILE, r"MemAvailable:\s+(\d+) kB") or 0)


def _found(path: Path, pattern: str) -> str | None:
    """The groups of a pattern in a file, with dots between them; None if there is no such file, or not that in it."""
    try:
        found = re.search(pattern, path.read_text(encoding="utf-8"))
    except OSError:
        return None
    return ".".join(found.groups()) if found else None


def driver_version() -> str | None:
    """Version of the NVIDIA kernel driver, else of the Jetson's Linux (L4T); None on other machines."""
    version = _found(_DRIVER_FILE, r"(\d{3,}\.\d[\d.]*)")
    return version or _found(_L4T_FILE, r"(R\d+).*REVISION: ([\d.]+)")


@contextmanager
def current() -> Iterator[Any]:
    """Make the primary context current for a block; yields ``pycuda.driver``.

    CUDA's errors leave the block as :class:`EngineError`.

    Raises:
        MissingDependencyError: if pycuda cannot be imported.
        EngineError: if there is no GPU, or an operation on it fails.
    """
    driver, context = _primary()
    try:
        context.push()
        try:
            yield driver
        finally:
            context.pop()
    except driver.MemoryError as error:
        hint = "close other programs that use the GPU, or build for a smaller batch or frame"
        raise EngineError(f"out of GPU memory: {error}", hint=hint) from error
    except driver.Error as error:
        raise EngineError(
            f"CUDA failed: {error}",
            hint="glint doctor says whether the GPU answers; another process may hold its memory",
        ) from error


def _primary() -> tuple[Any, Any]:
    """pycuda's driver module and the primary context, retained until the process ends."""
    global _retained
    with _lock:
        if _retained is None:
            _retained = _retain()
        return _retained


def _retain() -> tuple[Any, Any]:
    try:
        import pycuda.driver as driver
    except ImportError as error:
        if "libcuda" in str(error):
            raise EngineError(f"no NVIDIA driver: {error}", hint="use --engine onnxruntime") from error
        hint = "pip install pycuda (needs the CUDA toolkit: nvcc on PATH)"
        if not isinstance(error, ModuleNotFoundError):  # it is there, built for another CUDA
            hint = "pip install --force-reinstall --no-cache-dir pycuda"
        raise MissingDependencyError(f"pycuda cannot be imported: {error}", hint=hint) from error
    try:
        driver.init()
        context = driver.Device(0).retain_primary_context()
    except driver.Error as error:
        raise EngineError(
            f"no NVIDIA GPU can be used: {error}", hint="glint doctor says more; --engine onnxruntime needs no GPU"
        ) from error
    atexit.register(context.detach)
    return driver, context


def stream(driver: Any) -> Any:
    """A new stream of the current context."""
    return driver.Stream(_NON_BLOCKING)


class Buffer:
    """Bytes that the host fills or reads and the GPU works on. Call in a block of :func:`current`.

    Pinned: a page-locked array and device memory, with copies between the two. Mapped: the GPU
    addresses the page-locked array itself, and the copies fall away; worth it where CPU and GPU
    share their memory.

    Attributes:
        host: ``uint8 [size]``; may be touched while no work on the buffer is under way.
        address: of the bytes, for the GPU.

    Raises:
        EngineError: out of memory (raised by the block).
    """

    def __init__(self, driver: Any, size: int, *, mapped: bool) -> None:
        self._driver = driver
        flags = driver.host_alloc_flags.DEVICEMAP if mapped else 0
        self.host: NDArray[np.uint8] = driver.pagelocked_empty(size, np.uint8, mem_flags=flags)
        self._pinned = self.host.base
        self._device: Any = None
        if mapped:
            self.address = int(self._pinned.get_device_pointer())
            return
        try:
            self._device = driver.mem_alloc(size)
        except driver.Error:
            self._pinned.free()
            raise
        self.address = int(self._device)

    def upload(self, stream: Any) -> None:
        """Enqueue the copy to the GPU."""
        if self._device is not None:
            self._driver.memcpy_htod_async(self.address, self.host, stream)

    def download(self, stream: Any) -> None:
        """Enqueue the copy to the host."""
        if self._device is not None:
            self._driver.memcpy_dtoh_async(self.host, self.address, stream)

    def free(self) -> None:
        """Give the memory back; the buffer, and every view of ``host``, must not be touched again."""
        self._pinned.free()
        if self._device is not None:
            self._device.free()
