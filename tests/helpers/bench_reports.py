"""Reports of ``glint bench`` made by hand, for the tests of what reads them."""

from __future__ import annotations

from typing import Any

import numpy as np

from glint.benchmarks.bench.cases import BenchCase
from glint.benchmarks.bench.turns import Measurement, rows_of

MACHINE = {
    "cpu": "Testing 2000", "architecture": "x86_64", "cores": 2, "memory_bytes": 8 << 30, "system": "Linux",
    "jetson": None, "gpu": None, "governor": None, "power_mode": None, "load": [0.0, 0.0, 0.0],
}  # fmt: skip
LIMITS = {"cpu": {"macs_per_s": {"fp32": 5e10}, "bytes_per_s": 1e10, "how": "guessed"}, "gpu": None}


def measurement(
    case: BenchCase, ms: float, *, rounds: int = 8, noise: float = 0.01, seed: int = 0, score: float = 90.0
):
    """A case whose calls take about so many milliseconds."""
    rng = np.random.default_rng(seed)
    one = Measurement(case, opened={"amount": case.batch, "unit": "patches"})
    one.warm_up = {"settled": True, "calls": 9, "seconds": 0.5, "ms": ms}
    for _ in range(rounds):
        level = ms * np.exp(rng.normal(0, noise))
        network = [float(v) for v in 0.6 * level * np.exp(rng.normal(0, noise / 3, 20))]
        turn = {"network": network, "pre": [0.1 * level] * 20, "post": [0.1 * level] * 20, "refine": [0.2 * level] * 20}
        one.rounds.append({"total": [sum(four) for four in zip(*turn.values())], **turn})
        one.states.append(
            {"temperature_c": {}, "power_w": {}, "clock_mhz": {}, "throttled_by": [], "over_current_events": None}
        )
    one.finished = {
        "engine": {"name": case.engine}, "memory": {"before_bytes": 5e7, "loaded_bytes": 9e7, "peak_bytes": 1.2e8},
    }  # fmt: skip
    one.judged = {"accuracy": {"metric": "CSO-mAP", "value": score, "on": "500 patches"}, "parity": None}
    one.work = {
        "macs": 10**8 * case.batch, "weight_numbers": 4 * 10**5, "activation_numbers": 10**6 * case.batch,
        "files": [{"file": "m.onnx", "bytes": 10**6, "sha256": "0" * 64}], "shares": {"fp32": 1.0},
    }  # fmt: skip
    return one


def report(*groups: list[Measurement], **changes: Any) -> dict[str, Any]:
    """A report of such measurements."""
    rows = [row for group in groups for row in rows_of(group, LIMITS, "onnxruntime fp32")]
    settings = {"seconds": 1.0, "rounds": 8, "warm_up": 1.0, "patches": 10, "limits": 1.0, "points": 4, "threads": 2}
    return {
        "format": 1, "kind": "glint bench", "glint": "0", "command": "glint bench",
        "started": "2026-01-01T00:00:00+00:00", "machine": MACHINE, "versions": {"glint": "0", "numpy": "2"},
        "settings": settings, "seconds": 12.0, "interrupted": False, "warnings": [], "limits": LIMITS, "rows": rows,
        "skipped": [], "growth": [], **changes,
    }  # fmt: skip


def simple(factor: float = 1.0, **options: Any) -> dict[str, Any]:
    """One model in two precisions at two batches; all times are ``factor`` times what they are by default."""
    cases = [[BenchCase("net", "unmix", batch=b, precision=p, threads=2) for p in ("fp32", "int8")] for b in (1, 64)]
    groups = [
        [measurement(c, factor * c.batch * (0.5 if c.precision == "int8" else 1), **options) for c in group]
        for group in cases
    ]
    return report(*groups)
