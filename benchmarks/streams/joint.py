"""What a followed cluster gains from its last frames: CSO-mAP after 1, 5, 10 and 20 frames.

``python -m glint.benchmarks.streams.joint --out results/joint.json``

Clusters of 1 to 5 targets within one pixel, 0.5 px apart, of 220 to 250 DN, go straight on through noise. Each frame is
unmixed and refined alone; then the last frames together (see ``runtime.tracking.joint``), from these answers and the
straight line through the middles of their light. Scores are those of the last frame. With ``--unknown`` nothing is told
of the radiance.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.benchmarks.tool import Tool, add_threads_argument
from glint.cards import DEFAULT_UNMIXER
from glint.cli import positive_float, positive_int, seed
from glint.metrics.unmixing import UnmixingScore, score_unmixing
from glint.optics import Psf
from glint.runtime.tracking.joint import Sequence, refine_jointly
from glint.runtime.unmixing.refine import refine, refine_config
from glint.runtime.unmixing.unmixer import Unmixer
from glint.simulation.patches import PATCH_SIZE_PX, draw_offsets
from glint.types import Targets

LENGTHS_FRAMES = (1, 5, 10, 20)
RADIANCE_DN = 235.0, 8.66  # DN, mean and standard deviation of 220 to 250
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Clusters:
    """Simulated clusters.

    Attributes:
        patches: ``[M, N, n, n]``, DN.
        left, top: where they start, ``[M, N]``.
        x, y: of the members ``[M, N, 5]``, pixels of the frame.
        radiance: ``[M, 5]``, 0 where there is none.
    """

    patches: FloatArray
    left: NDArray[np.int64]
    top: NDArray[np.int64]
    x: FloatArray
    y: FloatArray
    radiance: FloatArray


def simulate_clusters(
    number: int, frames: int, speed: float, noise: float, sigma: float, rng: np.random.Generator
) -> Clusters:
    """Clusters that move by ``speed`` px per frame in any direction."""
    count = rng.integers(1, 6, number)
    member = np.nan_to_num(draw_offsets(count, 0.5, rng) - 0.5)
    radiance = np.where(np.arange(5) < count[:, None], rng.uniform(220, 250, (number, 5)), 0.0)
    angle = rng.uniform(0, 2 * np.pi, number)
    velocity = speed * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    middle = rng.uniform(50, 60, (number, 1, 2)) + np.arange(frames)[:, None] * velocity[:, None]
    corner = np.round(middle).astype(np.int64) - PATCH_SIZE_PX // 2
    x, y = np.moveaxis(middle[:, :, None] + member[:, None], -1, 0)
    left, top = np.moveaxis(corner, -1, 0)
    image = Psf(sigma).render(
        x - left[..., None], y - top[..., None], radiance[:, None], (PATCH_SIZE_PX, PATCH_SIZE_PX)
    )
    return Clusters(image + noise * rng.standard_normal(image.shape), left, top, x, y, radiance)


def unmixed(clusters: Clusters, unmixer: Unmixer, sigma: float, noise: float, *, told: bool) -> Targets:
    """Every frame by itself; ``blob`` is the number of its patch, positions are in its pixels."""
    patches = clusters.patches.reshape(-1, PATCH_SIZE_PX, PATCH_SIZE_PX).astype(np.float32)
    config = refine_config(unmixer.spec, radiance=RADIANCE_DN if told else None)
    return refine(patches, unmixer(patches).candidates, Psf(sigma), noise=noise, config=config)


def line_through(places: FloatArray, known: NDArray[np.bool_]) -> FloatArray:
    """The straight line through some of the places ``[N]`` of successive frames."""
    at = np.arange(len(places))
    if known.sum() < 2:
        return np.full(len(places), places[known].mean() if known.any() else 0.0)
    slope, level = np.polyfit(at[known], places[known], 1)
    line: FloatArray = level + slope * at
    return line


def jointly(
    clusters: Clusters, alone: Targets, row: int, length: int, sigma: float, noise: float, *, told: bool
) -> Targets:
    """One cluster in its last frames."""
    frames = clusters.patches.shape[1]
    which = range(frames - length, frames)
    answers = [alone.select(alone.blob == row * frames + n) for n in which]
    left, top = clusters.left[row, which], clusters.top[row, which]
    light = [max(a.radiance.sum(), 1e-9) for a in answers]
    known = np.array([len(a) > 0 for a in answers])
    x = line_through(np.array([(a.x * a.radiance).sum() / w for a, w in zip(answers, light)]) + left, known)
    y = line_through(np.array([(a.y * a.radiance).sum() / w for a, w in zip(answers, light)]) + top, known)
    starts = [(a.x + left[i] - x[i], a.y + top[i] - y[i], a.radiance) for i, a in enumerate(answers) if len(a)]
    sequence = Sequence(clusters.patches[row, which], left, top, np.full(length, noise), x, y)
    return refine_jointly(sequence, starts, sigma, radiance=RADIANCE_DN if told else None).targets


def _score(clusters: Clusters, found: list[Targets]) -> UnmixingScore:
    every = Targets.concatenate(found)
    patch = np.repeat(np.arange(len(found)), [len(part) for part in found])
    return score_unmixing(
        patch, every.x, every.y, every.radiance, every.score,
        truth_x=clusters.x[:, -1], truth_y=clusters.y[:, -1], truth_radiance=clusters.radiance,
    )  # fmt: skip


def _row(scores: UnmixingScore, milliseconds: float | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "cso_map": round(scores.cso_map, 2), "count_accuracy": round(scores.count_accuracy, 2),
        "position_rmse_px": round(scores.position_rmse, 4), "radiance_error_percent": round(scores.radiance_error, 2),
    }  # fmt: skip
    return row if milliseconds is None else {**row, "cpu_ms": round(milliseconds, 2)}


def joint_unmixing(
    *, number: int = 100, speed: float = 0.2, noise: float = 2.0, told: bool = True, seed: int = 1,
    unmixer: str = DEFAULT_UNMIXER, threads: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Score clusters after ``LENGTHS_FRAMES`` frames; arguments are the options of the tool.

    Raises:
        GlintError: one of its subclasses, for a bad model.
    """
    model = Unmixer.open(unmixer, threads=threads)
    sigma, rng = model.spec.sigma, np.random.default_rng(seed)
    clusters = simulate_clusters(number, LENGTHS_FRAMES[-1], speed, noise, sigma, rng)
    alone = unmixed(clusters, model, sigma, noise, told=told)
    last = LENGTHS_FRAMES[-1] - 1
    single = [alone.select(alone.blob == row * LENGTHS_FRAMES[-1] + last) for row in range(number)]
    for row, part in enumerate(single):
        single[row] = replace(part, x=part.x + clusters.left[row, last], y=part.y + clusters.top[row, last])
    rows = {"single frame": _row(_score(clusters, single), None)}
    jointly(clusters, alone, 0, 2, sigma, noise, told=told)  # compiles
    for length in LENGTHS_FRAMES:
        started = time.thread_time()
        found = [jointly(clusters, alone, row, length, sigma, noise, told=told) for row in range(number)]
        rows[f"{length} frames"] = _row(_score(clusters, found), 1e3 * (time.thread_time() - started) / number)
    return {
        "clusters": number, "speed_px": speed, "noise": noise, "radiance_told": told, "seed": seed,
        "unmixer": model.card.name, "after": rows,
    }  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    parser.add_argument("--number", type=positive_int, default=100, help="of clusters (default: %(default)s)")
    parser.add_argument("--speed", type=positive_float, default=0.2, help="px per frame (default: %(default)s)")
    parser.add_argument("--noise", type=positive_float, default=2.0, help="of a pixel, DN (default: %(default)s)")
    parser.add_argument("--unknown", action="store_false", dest="told", help="nothing is known of the radiance")
    parser.add_argument("--seed", type=seed, default=1, help="of everything simulated (default: %(default)s)")
    parser.add_argument("--unmixer", default=DEFAULT_UNMIXER, metavar="NAME|CARD", help="default: %(default)s")
    add_threads_argument(parser)


TOOL = Tool("Score what clusters gain from their last frames.", joint_unmixing, add_arguments, file=True)


if __name__ == "__main__":
    sys.exit(TOOL())
