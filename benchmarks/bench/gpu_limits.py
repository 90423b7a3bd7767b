"""What the GPU computes and moves at best: matrix products by PyTorch, copies by PyTorch or pycuda."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from typing import Any

from glint.errors import GlintError
from glint.runtime.engines.tensorrt import cuda

_PRODUCT_SIDES = {"fp32": 4096, "fp16": 8192, "int8": 8192}  # rows and columns of the matrix product
_COPY_BYTES = 1 << 28  # bytes
_RUNS = 20  # at a time, between two waits for the GPU


def gpu_limits(seconds: float) -> dict[str, Any] | None:
    """Rates of the GPU (see :func:`glint.benchmarks.bench.roofline.limits`), or None if there is none.

    Without a PyTorch that has CUDA only the bandwidth is known.
    """
    found = None
    if importlib.util.find_spec("torch") is not None:
        found = _by_torch(seconds)
    return found or _by_pycuda(seconds)


def _by_torch(seconds: float) -> dict[str, Any] | None:
    import torch

    if not torch.cuda.is_available():
        return None
    torch.backends.cuda.matmul.allow_tf32 = False
    rates = {}
    for precision, side in _PRODUCT_SIDES.items():
        dtype = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.int8}[precision]
        a, b = (torch.ones((side, side), device="cuda", dtype=dtype) for _ in range(2))
        product: Callable[..., Any] = torch._int_mm if precision == "int8" else torch.mm
        try:
            spent = _spent(lambda: product(a, b), torch.cuda.synchronize, seconds / 4)  # noqa: B023
        except RuntimeError:  # this GPU has no such kernel
            continue
        rates[precision] = side**3 / spent
    source, target = (torch.empty(_COPY_BYTES, dtype=torch.uint8, device="cuda") for _ in range(2))
    spent = _spent(lambda: target.copy_(source), torch.cuda.synchronize, seconds / 4)
    sides = ", ".join(f"{p} {s}" for p, s in _PRODUCT_SIDES.items())
    how = f"PyTorch's matrix products ({sides} rows and columns) and a copy of {_COPY_BYTES >> 20} MiB"
    return {"macs_per_s": rates, "bytes_per_s": 2 * _COPY_BYTES / spent, "how": how}


def _by_pycuda(seconds: float) -> dict[str, Any] | None:
    try:
        with cuda.current() as driver:
            source, target = driver.mem_alloc(_COPY_BYTES), driver.mem_alloc(_COPY_BYTES)
            spent = _spent(lambda: driver.memcpy_dtod(target, source, _COPY_BYTES), driver.Context.synchronize, seconds)
            source.free()
            target.free()
    except GlintError:
        return None
    how = f"a copy of {_COPY_BYTES >> 20} MiB; matrix products need a PyTorch with CUDA"
    return {"macs_per_s": {}, "bytes_per_s": 2 * _COPY_BYTES / spent, "how": how}


def _spent(call: Callable[[], Any], wait: Callable[[], Any], seconds: float) -> float:
    """Shortest time of a call among batches of calls, in about so many seconds."""
    call()
    wait()
    end, best = time.perf_counter() + seconds, float("inf")
    while best == float("inf") or time.perf_counter() < end:
        began = time.perf_counter()
        for _ in range(_RUNS):
            call()
        wait()
        best = min(best, (time.perf_counter() - began) / _RUNS)
    return best
