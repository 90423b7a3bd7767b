"""Points that no single frame shows: how many are found, how soon, how many are false, and what a frame costs.

``python -m glint.benchmarks.streams.faint --backgrounds data/sirst --out results/faint.json``

Over real backgrounds that move, ``POINTS`` points per scene appear after ``QUIET_FRAMES`` and go straight on at 0.2 to
2 px per frame through the scene. Their light is so strong that, in the middle of a pixel, it is ``--scr`` times the
standard deviation of what is left of the 21 x 21 pixels around where they appear, noise included, when the mean of
5 x 5 is taken off. Registration tells the motion. **Found** is a point with an answer of ``tracking.faint`` within 4 px
in 10, 20 and 30 frames; **beside** are answers within 15 px, which branch off a point; **false**, one that is
farther off all, and 15 px from any in the second before. With ``--scr 0.01`` all answers are false.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glint.benchmarks.streams.moving_scene import read_backgrounds
from glint.benchmarks.tool import Tool
from glint.cli import positive_float, positive_int, seed
from glint.optics import Psf
from glint.runtime.tracking.faint import FaintSearch
from glint.runtime.tracking.registration import Registration
from glint.runtime.tracking.scene_memory import SceneMemory

POINTS, QUIET_FRAMES = 6, 40
WITHIN_FRAMES = (10, 20, 30)
SHAPE_PX = 224, 256
NEAR_PX, APART_PX, SECOND_FRAMES = 4.0, 15.0, 30
_EDGE_PX, _ROOM_PX, _SIGMA_PX = 70, 40, 0.5
FloatArray = NDArray[np.float64]


def faint_scene(
    background: FloatArray, frames: int, scr: float, noise: float, pan: float, rng: np.random.Generator
) -> Iterator[tuple[NDArray[np.uint16], FloatArray]]:
    """Frames of 14 bits, and x, y of the points in them ``[POINTS, 2]``; NaN while there are none."""
    height, width = SHAPE_PX
    lack = [max(0, need + _ROOM_PX - has) for need, has in zip(SHAPE_PX, background.shape)]
    wide = np.pad(background, [(n // 2, n - n // 2) for n in lack], mode="symmetric")
    spline = ndimage.spline_filter(wide, order=3, mode="nearest")
    room = np.array(wide.shape) - SHAPE_PX
    angle = rng.uniform(0, 2 * np.pi)
    drift = pan * np.array([np.sin(angle), np.cos(angle)])  # rows, columns
    speed, course = rng.uniform(0.2, 2.0, POINTS), rng.uniform(0, 2 * np.pi, POINTS)
    velocity = speed[:, None] * np.stack([np.cos(course), np.sin(course)], axis=1)
    start = rng.uniform(_EDGE_PX, (width - _EDGE_PX, height - _EDGE_PX), (POINTS, 2))
    radiance: FloatArray = np.zeros(POINTS)
    corner = before = np.clip(room / 2 - drift * frames / 2, 0, room)
    for index in range(frames):
        at = np.clip(corner + index * drift, 0, room)
        level: Any = ndimage.affine_transform(
            spline, np.ones(2), offset=at, output_shape=SHAPE_PX, order=3, mode="nearest", prefilter=False
        )
        level = level + noise * rng.standard_normal(SHAPE_PX)
        place = np.full((POINTS, 2), np.nan)
        if index == QUIET_FRAMES:
            rest = level - ndimage.uniform_filter(level, 5)
            local: FloatArray = np.sqrt(ndimage.uniform_filter(rest**2, 21))
            peak = float(Psf(_SIGMA_PX).render(np.array([1.0]), np.array([1.0]), np.ones(1), (3, 3)).max())
            radiance, before = scr * local[tuple(start.astype(int).T[::-1])] / peak, at
        if index >= QUIET_FRAMES:
            place = start + (index - QUIET_FRAMES) * velocity - (at - before)[::-1]
            level = level + Psf(_SIGMA_PX).render(place[:, 0], place[:, 1], radiance, SHAPE_PX)
        yield np.clip(np.round(64 * level), 0, 16383).astype(np.uint16), place


def faint_points(
    *, backgrounds: Path, number: int = 6, frames: int = 90, scr: float = 3.0, noise: float = 2.0, pan: float = 0.4,
    seed: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Score the search; arguments are the options of the tool.

    Raises:
        SourceError: if there are no images or one cannot be read.
    """
    after: list[float] = []
    spent: list[float] = []
    offs: list[float] = []
    names: list[str] = []
    false = beside = 0
    for which, (name, background) in enumerate(read_backgrounds(backgrounds, number)):
        names.append(name)
        registration, memory, search = Registration(), SceneMemory(), FaintSearch()
        hit = np.full(POINTS, np.inf)
        told: list[tuple[float, float, int]] = []
        rng = np.random.default_rng([seed, which])
        for index, (data, place) in enumerate(faint_scene(background, frames, scr, noise, pan, rng)):
            shift = registration(data, np.zeros(0), np.zeros(0))
            started = time.thread_time()
            memory.take(data, shift)
            answers = search(memory)
            spent.append(1e3 * (time.thread_time() - started))
            for one in answers:
                x, y = one.x + shift.x, one.y + shift.y
                gap = np.nan_to_num(np.hypot(place[:, 0] - x, place[:, 1] - y), nan=np.inf)
                nearest = int(gap.argmin())
                if gap[nearest] < NEAR_PX:
                    offs.append(float(gap[nearest]))
                    hit[nearest] = min(hit[nearest], index - QUIET_FRAMES + 1)
                elif gap[nearest] < APART_PX:
                    beside += 1
                elif all(index - t > SECOND_FRAMES or np.hypot(x - a, y - b) > APART_PX for a, b, t in told):
                    told.append((x, y, index))
        after += hit.tolist()
        false += len(told)
    total = np.asarray(after)
    return {
        "backgrounds": names, "points": len(total), "scr": scr, "noise": noise, "pan": pan, "seed": seed,
        "found_percent": {f"{n} frames": round(100 * float((total <= n).mean()), 1) for n in WITHIN_FRAMES},
        "median_frames": float(np.median(total)) if np.isfinite(np.median(total)) else None,
        "off_px": round(float(np.median(offs)), 2) if offs else None,
        "answers": beside + len(offs), "beside": beside, "false": false,
        "minutes": round(len(names) * frames / 30 / 60, 2),
        "cpu_ms": {"mean": round(float(np.mean(spent[1:])), 2), "p50": round(float(np.median(spent)), 2)},
    }  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    parser.add_argument("--backgrounds", type=Path, metavar="DIR", required=True, help="folder of images or a data set")
    parser.add_argument("--number", type=positive_int, default=6, help="of backgrounds (default: %(default)s)")
    parser.add_argument(
        "--frames", type=positive_int, default=90, help="per background, above 70 (default: %(default)s)"
    )
    parser.add_argument("--scr", type=positive_float, default=3.0, help="of the points (default: %(default)s)")
    parser.add_argument(
        "--noise", type=positive_float, default=2.0, help="of a pixel, DN of 8 bits (default: %(default)s)"
    )
    parser.add_argument("--pan", type=positive_float, default=0.4, help="px per frame (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=1, help="of everything simulated (default: %(default)s)")


TOOL = Tool("Score the search for points that no single frame shows.", faint_points, add_arguments, file=True)


if __name__ == "__main__":
    sys.exit(TOOL())
