"""What the pipeline takes beside its networks: CPU time of one core per frame, by stage.

``OMP_NUM_THREADS=1 python -m glint.benchmarks.streams.overhead``

The frames are the beginning of a stream, from which the optics are learned anew each time. The networks run once per
frame; after that their answers are replayed, so that nothing but glint's own work is measured, in CPU time of the
thread (what else runs on the machine does not count, but for the caches). ``total`` is all of it, ``unrefined`` what
``--no-refine`` leaves, ``fastest`` the least total of each frame.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from glint.benchmarks.reporting.text import figure, markdown_table
from glint.benchmarks.tool import Tool, add_pipeline_arguments
from glint.cards import DEFAULT_DETECTOR, DEFAULT_UNMIXER
from glint.cli import positive_float, positive_int
from glint.progress import Progress
from glint.runtime.engines.base import Arrays, Engine
from glint.runtime.pipeline.detector import Detector
from glint.runtime.pipeline.pipeline import Pipeline, Result, to_frame
from glint.runtime.sinks.records import frame_record
from glint.runtime.tracking.tracker import Tracker
from glint.runtime.unmixing.unmixer import Unmixer
from glint.simulation.scenes import parse_synthetic, simulate_scene
from glint.types import Frame, Targets

SCENE = "synthetic://?size=640x512&frames=48&clusters=6&singles=4&bits=14&noise=1&seed=7"
STAGES = ("detect", "cut", "unmix", "refine", "track", "line", "total", "fastest", "unrefined")
_PERCENTILES = (50, 95, 99)
T = TypeVar("T")


class _Replayed(Engine):
    """Answers as an engine did when it was asked first for the present frame."""

    def __init__(self, engine: Engine, present: list[int]) -> None:
        self.name, self.inputs, self.outputs = engine.name, engine.inputs, engine.outputs
        self._engine, self._present = engine, present
        self._answers: dict[int, Arrays] = {}

    def _infer(self, arrays: Arrays) -> Arrays:
        (frame,) = self._present
        if frame not in self._answers:
            self._answers[frame] = self._engine.infer(**arrays)
        return self._answers[frame]


class _Clock:
    """CPU time of this thread by stage, milliseconds."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    def __call__(self, stage: str, work: Callable[[], T]) -> T:
        started = time.thread_time()
        result = work()
        self.spent[stage] = 1e3 * (time.thread_time() - started)
        return result


def measure(pipeline: Pipeline, frame: Frame, tracker: Tracker, *, refine: bool) -> tuple[dict[str, float], int, int]:
    """CPU time of each stage for one frame, milliseconds, and how many blobs and targets it has.

    ``detect`` is all of the detector but the network: normalising, residual, blobs; ``unmix`` all of the unmixer
    but the network; ``read`` stands for ``refine`` where that is left out.
    """
    clock = _Clock()
    detection = clock("detect", lambda: pipeline.detector(frame))
    scene = clock("cut", lambda: pipeline.look(frame, detection, frame.full_scale))
    unmixed = clock("unmix", lambda: pipeline.unmixer(scene.view.patches, full_scale=scene.view.full_scale))

    def local() -> Targets:
        if not refine:
            return scene.view.to_windows(unmixed.targets(), scene.windows)
        return pipeline.settle(scene, unmixed)

    targets = to_frame(clock("refine" if refine else "read", local), frame, scene)
    result = Result(frame, detection, targets, scene.spots, clock.spent)
    clock("track", lambda: tracker.update(frame.t_ns, targets))
    clock("line", lambda: json.dumps(frame_record(result)))
    return clock.spent, len(detection.blobs), len(targets)


def pipeline_overhead(
    *,
    scene: str = SCENE,
    repeats: int = 8,
    detector: str = DEFAULT_DETECTOR,
    unmixer: str = DEFAULT_UNMIXER,
    budget_ms: float | None = None,
) -> dict[str, Any]:
    """Measure the frames of a scene ``repeats`` times each, after one uncounted round, without and with refinement.

    Returns:
        Percentiles by stage in milliseconds, and what they are of; ``problems`` if the median exceeds the budget.
    """
    first, second = Detector.open(detector, threads=1), Unmixer.open(unmixer, threads=1)
    present = [0]  # number of the frame
    first.engine, second.engine = (_Replayed(model.engine, present) for model in (first, second))
    pipeline = Pipeline(first, second)
    frames = [frame for frame, _ in simulate_scene(parse_synthetic(scene))]
    rows: list[dict[str, float]] = []
    unrefined: list[dict[str, float]] = []
    blobs = targets = 0
    with Progress("pipeline_overhead", 2 * (repeats + 1) * len(frames)) as line:
        for refine in (False, True):
            for turn in range(repeats + 1):
                pipeline.start_over()
                tracker = Tracker()
                for number, frame in enumerate(frames):
                    present[0] = number
                    spent, b, t = measure(pipeline, frame, tracker, refine=refine)
                    line.update(line.done + 1)
                    if turn and refine:
                        rows.append({**spent, "total": sum(spent.values())})
                        blobs, targets = blobs + b, targets + t
                    elif turn:
                        unrefined.append({"unrefined": sum(spent.values())})
    totals = np.reshape([row["total"] for row in rows], (repeats, len(frames))).min(axis=0).tolist()
    rows = [{**row, **other, "fastest": f} for row, other, f in zip(rows, unrefined, totals * repeats)]
    figures = {s: dict(zip(_PERCENTILES, np.percentile([r[s] for r in rows], _PERCENTILES).tolist())) for s in STAGES}
    return {
        "scene": scene,
        "frames": len(rows),
        "blobs_per_frame": blobs / len(rows),
        "targets_per_frame": targets / len(rows),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cpu_ms": {stage: {f"p{p}": round(v, 3) for p, v in values.items()} for stage, values in figures.items()},
        "problems": _over_budget(figures["total"][50], budget_ms),
    }


def _over_budget(median_ms: float, budget_ms: float | None) -> list[str]:
    if budget_ms is None or median_ms <= budget_ms:
        return []
    return [f"the pipeline takes {median_ms:.2f} ms per frame beside its networks, more than {budget_ms:g}"]


def markdown(report: dict[str, Any]) -> str:
    """The table of a report."""
    rows = ([stage, *(figure(v, 2) for v in values.values())] for stage, values in report["cpu_ms"].items())
    text = markdown_table(["CPU ms per frame", "p50", "p95", "p99"], rows)
    text += ["", f"{report['blobs_per_frame']:.1f} blobs, {report['targets_per_frame']:.1f} targets per frame"]
    return "\n".join(text) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    parser.add_argument("--scene", default=SCENE, metavar="URI", help="default: %(default)s")
    parser.add_argument("--repeats", type=positive_int, default=8, help="of every frame (default: %(default)s)")
    add_pipeline_arguments(parser)
    parser.add_argument("--budget-ms", type=positive_float, metavar="MS", help="fail if the median total exceeds it")


TOOL = Tool(
    "Measure what the pipeline takes beside its networks.", pipeline_overhead, add_arguments, text=markdown, file=True
)


if __name__ == "__main__":
    sys.exit(TOOL())
