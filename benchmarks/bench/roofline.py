"""How fast it could be: what a network computes and moves, and what the machine computes and moves at best.

The limit of a row is the longer of two times: its multiply-accumulates at the rate of a large matrix
product, and its bytes at the bandwidth of memory, both measured on the same machine with the same
threads. Bytes are the weights once, and what the multiplying layers (convolutions, matrix products)
read and write: everything between them is taken to be fused away, and caches are taken to hold nothing.
A network whose activations fit into the cache may therefore beat its memory limit.
"""

from __future__ import annotations

import importlib.util
import json
import math
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glint.benchmarks.bench.cases import PIPELINE, BenchCase
from glint.benchmarks.bench.subjects import bench_frames, float_model
from glint.cards import ModelCard, count_macs, load_card
from glint.errors import EngineError

WIDTHS = {"fp32": 4, "fp16": 2, "int8": 1}  # bytes of a number
_PRODUCT_SIDE = 1024  # rows and columns of the CPU's matrix product
_ARRAY_NUMBERS = 1 << 23  # float32 numbers per array and thread: 32 MiB, beyond the caches
_MULTIPLYING = ("Conv", "ConvTranspose", "MatMul", "Gemm")


@dataclass(frozen=True)
class Work:
    """What one call of a network takes.

    Attributes:
        macs: multiply-accumulates.
        weight_numbers, activation_numbers: learned numbers, and numbers that multiplying layers read and write.
    """

    macs: int
    weight_numbers: int
    activation_numbers: int


def work(case: BenchCase) -> Work:
    """Count a case's work in the fp32 model (if there is one) at the case's shape, by a profiled run without fusions.

    Raises:
        EngineError: if ONNX Runtime's profile cannot be read.
    """
    if case.task == PIPELINE:
        return Work(0, 0, 0)
    card, path = float_model(case.subject) or load_card(case.subject)
    events = _profile(path, _example(case, card))
    macs = numbers = 0
    for event in events:
        if event["op_name"] in _MULTIPLYING:
            inputs = [_shape(entry) for entry in event["input_type_shape"]]
            (out,) = (_shape(entry) for entry in event["output_type_shape"])
            macs += count_macs(event["op_name"], inputs[0], inputs[1], out)
            numbers += (int(event["activation_size"]) + int(event["output_size"])) // WIDTHS["fp32"]
    return Work(macs, card.parameters, numbers)


def _example(case: BenchCase, card: ModelCard) -> dict[str, Any]:
    (spec,) = card.inputs
    if case.task == "unmix":
        shape = (case.batch, *spec.shape[1:])
    else:
        multiple = card.detector.multiple if card.detector else 1
        height, width = (max(2, -(-n // multiple)) * multiple for n in bench_frames(case)[0].shape)
        shape = (1, 1, height, width)
    return {spec.name: np.zeros(shape, dtype=np.float32)}


def _profile(path: Path, inputs: dict[str, Any]) -> list[dict[str, Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_prepacking", "1")  # packed weights have no shape
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])
        session.run(None, inputs)
        entries = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    events = [e["args"] for e in entries if e.get("cat") == "Node" and "output_size" in e.get("args", {})]
    if not any(event["op_name"] in _MULTIPLYING for event in events):
        raise EngineError(
            f"ONNX Runtime's profile of {path.name} names no layer that multiplies",
            hint="is it a network? glint inspect lists its operators",
        )
    return events


def _shape(entry: dict[str, list[int]]) -> tuple[int, ...]:
    (shape,) = entry.values()
    return tuple(shape)


def precision_shares(path: Path) -> dict[str, float] | None:
    """Share of a model's multiply-accumulates by precision; None where the libraries that read ONNX are missing."""
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript")):
        return None
    from glint.export.inspect.onnx_file import inspect_onnx

    totals: dict[str, int] = {}
    for layer in inspect_onnx(path)["layers"]:
        if layer["macs"]:
            name = {"float32": "fp32", "float16": "fp16"}.get(layer["precision"], layer["precision"])
            totals[name] = totals.get(name, 0) + layer["macs"]
    everything = sum(totals.values())
    return {name: n / everything for name, n in sorted(totals.items())} if everything else None


def limits(threads: int, seconds: float) -> dict[str, Any]:
    """What this machine does at best: ``cpu``, and ``gpu`` where PyTorch or TensorRT finds one, else None.

    Each is ``macs_per_s`` by precision, ``bytes_per_s``, and ``how`` they were measured.
    """
    from glint.benchmarks.bench.gpu_limits import gpu_limits

    return {"cpu": _cpu(threads, seconds), "gpu": gpu_limits(seconds)}


def _cpu(threads: int, seconds: float) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((_PRODUCT_SIDE, _PRODUCT_SIDE), dtype=np.float32) for _ in range(2))
    product = np.empty_like(a)
    gemm = _PRODUCT_SIDE**3 / best_time(lambda: np.matmul(a, b, out=product), seconds / 2)
    arrays = [tuple(np.ones(_ARRAY_NUMBERS, dtype=np.float32) for _ in range(3)) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        spent = best_time(lambda: list(pool.map(lambda three: np.add(*three), arrays)), seconds / 2)
    how = (
        f"NumPy's matrix product of {_PRODUCT_SIDE} x {_PRODUCT_SIDE} float32 and the sum of two arrays of "
        f"{_ARRAY_NUMBERS >> 18} MiB per thread, best of the runs, {threads} thread{'s' if threads > 1 else ''}"
    )
    return {"macs_per_s": {"fp32": gemm}, "bytes_per_s": 3 * 4 * _ARRAY_NUMBERS * threads / spent, "how": how}


def best_time(call: Callable[[], Any], seconds: float) -> float:
    """Shortest of the times of at least three calls, in about so many seconds; after one call that does not count."""
    call()
    end, best, number = time.perf_counter() + seconds, math.inf, 0
    while number < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
        number += 1
    return best


def roofline(done: Work, precision: str, peak: dict[str, Any] | None) -> dict[str, Any]:
    """Work and limit of one call.

    Args:
        done: what one call takes.
        precision: of the row; the rate of a precision that was not measured is fp32's.
        peak: ``cpu`` or ``gpu`` of :func:`limits`.

    Returns:
        ``macs``, ``bytes``, ``compute_ms``, ``memory_ms`` and ``limit_ms``; the times are None without a peak.
    """
    moved = WIDTHS[precision] * (done.weight_numbers + done.activation_numbers)
    row: dict[str, Any] = {"macs": done.macs, "bytes": moved, "compute_ms": None, "memory_ms": None, "limit_ms": None}
    if peak is None:
        return row
    rates = peak["macs_per_s"]
    rate = rates.get(precision) or rates.get("fp32")
    row["memory_ms"] = 1e3 * moved / peak["bytes_per_s"]
    row["compute_ms"] = 1e3 * done.macs / rate if rate else None
    row["limit_ms"] = max(v for v in (row["memory_ms"], row["compute_ms"]) if v is not None)
    return row
