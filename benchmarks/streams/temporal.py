"""What following targets takes: CPU time of one core per frame, by part.

``OMP_NUM_THREADS=1 python -m glint.benchmarks.streams.temporal --backgrounds data/sirst``

The scenes are those of ``streams.accuracy``, of 640 x 512. The detector's and the unmixer's work does not count.
``total`` is all that a ``Follower`` does with a frame: registration, the memory of the scene, the tracker, and the
rest: spots that move, candidates. The first frames of a scene, in which the memory learns, do not count either.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from glint.benchmarks.reporting.text import figure, markdown_table
from glint.benchmarks.streams.moving_scene import MovingConfig, scenes
from glint.benchmarks.tool import Tool, add_pipeline_arguments
from glint.cards import DEFAULT_DETECTOR, DEFAULT_UNMIXER
from glint.cli import positive_int, seed
from glint.errors import InputError
from glint.progress import Progress
from glint.runtime.pipeline.detector import Detector
from glint.runtime.pipeline.follow import CANDIDATES_ABOVE, Follower
from glint.runtime.pipeline.pipeline import Pipeline
from glint.runtime.tracking.evidence import Evidence
from glint.runtime.unmixing.unmixer import Unmixer

WIDTH_PX, HEIGHT_PX = 640, 512
PARTS = ("registration", "memory", "tracker", "total")
_SETTLED_FRAME = 10
_PERCENTILES = (50, 95, 99)


class _Clock:
    """CPU time of this thread by part of the present frame, milliseconds."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(PARTS, 0.0)

    def timed(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which counts for a part."""

        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.thread_time()
            try:
                return work(*arguments, **named)
            finally:
                self.spent[part] += 1e3 * (time.thread_time() - started)

        return timed


def temporal_cost(
    *,
    backgrounds: Path | None = None,
    number: int = 3,
    frames: int = 60,
    seed: int = 1,
    detector: str = DEFAULT_DETECTOR,
    unmixer: str = DEFAULT_UNMIXER,
) -> dict[str, Any]:
    """Measure scenes over some backgrounds.

    Returns:
        Percentiles by part in milliseconds, and what they are of.

    Raises:
        InputError: if no frame is left of a scene when the first ones are not counted.
        GlintError: another of its subclasses, for bad backgrounds or models.
    """
    if frames <= _SETTLED_FRAME:
        raise InputError(
            f"frames: got {frames}, and the first {_SETTLED_FRAME} of a scene do not count",
            hint=f"--frames {_SETTLED_FRAME + 1} or more",
        )
    pipeline = Pipeline(
        Detector.open(detector, threads=1), Unmixer.open(unmixer, threads=1), candidates_above=CANDIDATES_ABOVE
    )
    config = replace(MovingConfig(), width=WIDTH_PX, height=HEIGHT_PX, frames=frames)
    rows: list[dict[str, float]] = []
    with Progress("temporal_cost", number * frames) as line:
        for scene in scenes(config, number, seed, backgrounds):
            pipeline.start_over()
            clock, one = _Clock(), Follower(evidence=Evidence.of(pipeline.detector.card.name))
            _time_parts(one, clock)
            earlier, tell = clock.timed("total", one.earlier), clock.timed("total", one)
            for frame in scene:
                clock.spent.update(dict.fromkeys(PARTS, 0.0))
                tell(pipeline(frame, earlier=earlier))
                if frame.index >= _SETTLED_FRAME:
                    rows.append(dict(clock.spent))
                line.update(line.done + 1)
    figures = {p: np.percentile([row[p] for row in rows], _PERCENTILES).tolist() for p in PARTS}
    return {
        "backgrounds": "generated" if backgrounds is None else backgrounds.name, "frames": len(rows), "seed": seed,
        "machine": platform.machine(), "python": platform.python_version(), "numpy": np.__version__,
        "cpu_ms": {p: {f"p{q}": round(v, 3) for q, v in zip(_PERCENTILES, values)} for p, values in figures.items()},
    }  # fmt: skip


def _time_parts(one: Follower, clock: _Clock) -> None:
    """Let the parts of a follower tell what they take."""
    parts: Any = one
    parts.registration = clock.timed("registration", one.registration)
    parts.memory.take = clock.timed("memory", one.memory.take)
    parts.tracker.update = clock.timed("tracker", one.tracker.update)


def markdown(report: dict[str, Any]) -> str:
    """The table of a report."""
    rows = ([part, *(figure(v, 2) for v in values.values())] for part, values in report["cpu_ms"].items())
    return "\n".join(markdown_table(["CPU ms per frame", "p50", "p95", "p99"], rows)) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    parser.add_argument("--backgrounds", type=Path, metavar="DIR", help="folder of images (default: generated skies)")
    parser.add_argument("--number", type=positive_int, default=3, help="of backgrounds (default: %(default)s)")
    parser.add_argument("--frames", type=positive_int, default=60, help="per background (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=1, help="of everything simulated (default: %(default)s)")
    add_pipeline_arguments(parser)


TOOL = Tool("Measure what following targets takes.", temporal_cost, add_arguments, text=markdown, file=True)


if __name__ == "__main__":
    sys.exit(TOOL())
