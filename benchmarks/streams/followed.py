"""What a followed cluster gains through the whole of ``glint run --track --unmix-frames N``: CSO-mAP by frame.

``python -m glint.benchmarks.streams.followed --out results/followed.json``

Clusters of 1 to 5 targets within one pixel, 0.5 px apart, of 220 to 250 DN, six to a frame, go straight on through a
smooth sky and noise. Every frame goes through detector, network and refinement, then the clusters through the
follower. Scores are those of the targets within 3 px of a cluster's middle in the 1st, 2nd, 5th, 10th and 20th
frame, of the frame alone and of the last frames together; ``cpu_ms`` is what following costs in a frame of six spots.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

from glint.benchmarks.streams.joint import RADIANCE_DN, FloatArray
from glint.benchmarks.tool import Tool, add_pipeline_arguments, add_threads_argument
from glint.cards import DEFAULT_DETECTOR, DEFAULT_UNMIXER
from glint.cli import positive_float, positive_int, seed
from glint.metrics.unmixing import score_unmixing
from glint.optics import Psf
from glint.runtime.pipeline.detector import Detector
from glint.runtime.pipeline.follow import CANDIDATES_ABOVE, Follower
from glint.runtime.pipeline.pipeline import Pipeline
from glint.runtime.unmixing.refine import refine_config
from glint.runtime.unmixing.unmixer import Unmixer
from glint.simulation.patches import draw_offsets
from glint.simulation.scenes import FRAME_PERIOD_NS
from glint.types import Frame, Targets

FRAMES, SCORED_FRAMES = 20, (1, 2, 5, 10, 20)
NEAR_PX = 3.0
SHAPE_PX = 112, 176
_MIDDLES_PX = np.array([(x, y) for y in (30, 82) for x in (30, 88, 146)], dtype=np.float64)
Row = tuple[Targets, FloatArray, FloatArray, FloatArray]  # found; x, y and radiance of the truth


def sky_with_clusters(
    speed: float, noise: float, sigma: float, rng: np.random.Generator
) -> Iterator[tuple[Frame, FloatArray, FloatArray, FloatArray]]:
    """Frames, and x, y ``[6, 5]`` and radiance of the members in them, 0 where there is none."""
    number = len(_MIDDLES_PX)
    count = rng.integers(1, 6, number)
    member = np.nan_to_num(draw_offsets(count, 0.5, rng) - 0.5)
    radiance = np.where(np.arange(5) < count[:, None], rng.uniform(220, 250, (number, 5)), 0.0)
    angle = rng.uniform(0, 2 * np.pi, number)
    velocity = speed * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    start = _MIDDLES_PX + rng.uniform(-0.5, 0.5, (number, 2))
    rows, columns = np.mgrid[: SHAPE_PX[0], : SHAPE_PX[1]]
    phase = rng.uniform(0, 2 * np.pi, 2)
    sky = 60 + 20 * np.sin(columns / 40 + phase[0]) + 15 * np.cos(rows / 30 + phase[1])
    there = radiance > 0
    for index in range(FRAMES):
        x, y = np.moveaxis((start + index * velocity)[:, None] + member, -1, 0)
        level = sky + Psf(sigma).render(x[there], y[there], radiance[there], SHAPE_PX)
        level += noise * rng.standard_normal(SHAPE_PX)
        yield Frame(index, index * FRAME_PERIOD_NS, level.astype(np.float32), f"{index:06d}"), x, y, radiance


def followed_clusters(
    *, scenes: int = 16, frames: int = 10, speed: float = 0.2, noise: float = 2.0, told: bool = True, seed: int = 1,
    detector: str = DEFAULT_DETECTOR, unmixer: str = DEFAULT_UNMIXER, threads: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Score clusters that are followed; arguments are the options of the tool.

    Raises:
        GlintError: one of its subclasses, for a bad model or number of frames.
    """
    first, second = Detector.open(detector, threads=threads), Unmixer.open(unmixer, threads=threads)
    config, sigma = refine_config(second.spec, radiance=RADIANCE_DN if told else None), second.spec.sigma
    rows: dict[tuple[str, int], list[Row]] = defaultdict(list)
    spent: list[float] = []
    with Pipeline(first, second, config=config, psf=Psf(sigma), candidates_above=CANDIDATES_ABOVE) as pipeline:
        for scene in range(scenes):
            follow = Follower(unmix_frames=frames, unmixing=config)
            rng = np.random.default_rng([seed, scene])
            for frame, x, y, radiance in sky_with_clusters(speed, noise, sigma, rng):
                alone = pipeline(frame)
                started = time.thread_time()
                together = follow(alone)
                spent.append(1e3 * (time.thread_time() - started))
                if frame.index + 1 in SCORED_FRAMES:
                    for name, found in (("alone", alone.targets), ("together", together.targets)):
                        rows[name, frame.index + 1] += _by_cluster(found, x, y, radiance)
    return {
        "clusters": scenes * len(_MIDDLES_PX), "unmix_frames": frames, "speed_px": speed, "noise": noise,
        "radiance_told": told, "seed": seed, "detector": first.card.name, "unmixer": second.card.name,
        "after": {
            f"{n} frames": {name: _scores(rows[name, n]) for name in ("alone", "together")} for n in SCORED_FRAMES
        },
        "cpu_ms": {"p50": round(float(np.median(spent)), 2), "p95": round(float(np.quantile(spent, 0.95)), 2)},
    }  # fmt: skip


def _by_cluster(found: Targets, x: FloatArray, y: FloatArray, radiance: FloatArray) -> list[Row]:
    parts = []
    for k in range(len(x)):
        there = radiance[k] > 0
        gap = np.hypot(found.x - x[k, there].mean(), found.y - y[k, there].mean())
        parts.append((found.select(gap < NEAR_PX), x[k], y[k], radiance[k]))
    return parts


def _scores(rows: list[Row]) -> dict[str, float]:
    found = Targets.concatenate([row[0] for row in rows])
    x, y, radiance = (np.array([row[k] for row in rows]) for k in (1, 2, 3))
    score = score_unmixing(
        np.repeat(np.arange(len(rows)), [len(row[0]) for row in rows]), found.x, found.y, found.radiance, found.score,
        truth_x=x, truth_y=y, truth_radiance=radiance,
    )  # fmt: skip
    return {"cso_map": round(score.cso_map, 2), "count_accuracy": round(score.count_accuracy, 2)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    parser.add_argument("--scenes", type=positive_int, default=16, help="of six clusters (default: %(default)s)")
    parser.add_argument("--frames", type=positive_int, default=10, help="taken together (default: %(default)s)")
    parser.add_argument("--speed", type=positive_float, default=0.2, help="px per frame (default: %(default)s)")
    parser.add_argument("--noise", type=positive_float, default=2.0, help="of a pixel, DN (default: %(default)s)")
    parser.add_argument("--unknown", action="store_false", dest="told", help="nothing is known of the radiance")
    parser.add_argument("--seed", type=seed, default=1, help="of everything simulated (default: %(default)s)")
    add_pipeline_arguments(parser)
    add_threads_argument(parser)


TOOL = Tool("Score what followed clusters gain in a run.", followed_clusters, add_arguments, file=True)


if __name__ == "__main__":
    sys.exit(TOOL())
