"""``glint bench scaling``: how time and memory grow with blobs, frame size and batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from glint.benchmarks.bench.cases import PIPELINE, BenchCase
from glint.benchmarks.bench.stats import fit_growth
from glint.benchmarks.bench.turns import QUICK, Bench, Effort, Measurement
from glint.cards import DEFAULT_DETECTOR, DEFAULT_UNMIXER
from glint.choices import BASELINE
from glint.runtime.engines.onnxruntime import available_cores
from glint.types import FrameSize

_BLOBS = (0, 1, 3, 10, 30, 100, 250, 500)
_FRAME_SIZES = ((256, 256), (384, 320), (512, 384), (512, 512), (640, 512), (768, 640), (1024, 768), (1280, 1024))
_BATCHES = (1, 4, 16, 64, 128, 256, 512, 1024)
CURVES = ("blobs", "size", "batch")

Cost = Callable[[Measurement], Sequence[float]]


@dataclass(frozen=True)
class Curve:
    """One dependence.

    Attributes:
        size, subject: what is varied, and of what.
        cases: one per size.
        place: size of a measurement.
        costs: observations by the cost's name.
    """

    size: str
    subject: str
    cases: tuple[BenchCase, ...]
    place: Callable[[Measurement], float]
    costs: dict[str, Cost]


def curve(kind: str, common: BenchCase, points: int) -> Curve:
    """The curve of that kind, with so many sizes."""
    if kind == "blobs":
        base = replace(common, subject=PIPELINE, task=PIPELINE, size=FrameSize(640, 512))
        cases = [replace(base, blobs=n) for n in _BLOBS[:points]]
        return Curve(
            "blobs", "pipeline at 640x512", tuple(cases), lambda m: float(m.finished["engine"]["blobs"]),
            {"ms after the detector": _after_detector, "MB": _memory},
        )  # fmt: skip
    if kind == "size":
        base = replace(common, subject=common.detector, task="detect")
        cases = [replace(base, size=FrameSize(*size)) for size in _FRAME_SIZES[:points]]
        return Curve(
            "pixels", common.detector, tuple(cases), lambda m: float(np.prod(m.case.size)),
            {"ms per frame": lambda m: m.medians("total"), "MB": _memory},
        )  # fmt: skip
    base = replace(common, subject=common.unmixer, task="unmix")
    cases = [replace(base, batch=n) for n in _BATCHES[:points]]
    return Curve(
        "batch", common.unmixer, tuple(cases), lambda m: float(m.case.batch),
        {"ms per call": lambda m: m.medians("total"), "MB": _memory},
    )  # fmt: skip


def _after_detector(one: Measurement) -> list[float]:
    stages = (one.medians(s) for s in ("around unmixer", "unmixer", "refine"))
    return [sum(three) for three in zip(*stages)]


def _memory(one: Measurement) -> list[float]:
    memory = one.finished["memory"]
    return [] if memory["peak_bytes"] is None else [(memory["peak_bytes"] - memory["before_bytes"]) / 1e6]


def curves(common: BenchCase, runner: Bench, kinds: Sequence[str] = CURVES) -> list[dict[str, Any]]:
    """Measure curves; each is JSON-ready.

    Args:
        common: threads, models and whether targets are refined.
        runner: measures.
        kinds: of :data:`CURVES`.

    Returns:
        Per cost: ``subject``, ``size``, ``cost`` (names), ``points`` (``size``, ``cost``), ``exponent``
        (``value``, ``low``, ``high``; None if it does not grow), ``start`` and ``slope``.
    """
    found = []
    for kind in kinds:
        wanted = curve(kind, common, runner.effort.points)
        measured = [one for one in runner.group(wanted.cases) if one.rounds and one.finished]
        for name, cost in wanted.costs.items():
            found.append(_fitted(wanted, name, {wanted.place(one): list(cost(one)) for one in measured}))
    return [one for one in found if one is not None]


def _fitted(wanted: Curve, name: str, costs: dict[float, list[float]]) -> dict[str, Any] | None:
    costs = {size: values for size, values in sorted(costs.items()) if values}
    if len(costs) < 3:
        return None
    growth = fit_growth(costs)
    points = [{"size": size, "cost": float(np.median(values))} for size, values in costs.items()]
    return {"subject": wanted.subject, "size": wanted.size, "cost": name, "points": points, **asdict(growth)}


def scaling(
    *,
    detector: str = DEFAULT_DETECTOR,
    unmixer: str = DEFAULT_UNMIXER,
    threads: int | None = None,
    seconds: float | None = None,
    quick: bool = False,
    command: str = "",
) -> dict[str, Any]:
    """How time and memory of the models grow with blobs (0-500), frame size (256-1280) and batch (1-1024).

    Args:
        detector, unmixer: models, in fp32 on ONNX Runtime.
        threads: of the CPU; default: all cores.
        seconds: measured per size; default: 10, or 1.2 with ``quick``.
        quick: the six smallest sizes of each.
        command: what the user typed, for the report.

    Returns:
        A report like that of ``bench``, without rows.
    """
    from glint.benchmarks.bench.report import Report

    effort = replace(QUICK, deadline=None) if quick else Effort()
    effort = effort if seconds is None else replace(effort, seconds=seconds)
    common = BenchCase("", "", threads=threads or available_cores(), detector=detector, unmixer=unmixer)
    runner = Bench(effort, total=len(CURVES))
    report = Report(command, effort, [], Bench(effort), BASELINE, threads=common.threads)

    def measure() -> None:
        for kind in CURVES:
            report.growth += curves(common, runner, (kind,))
        report.skipped += runner.skipped

    return report.fill(measure)
