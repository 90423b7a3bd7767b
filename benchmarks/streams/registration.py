"""How well registration follows a camera that pans and rolls over real backgrounds, and what it costs.

``python -m glint.benchmarks.streams.registration --backgrounds data/sirst --roll 0.5``

The camera goes on by ``--pan`` px per frame and turns by ``--roll`` degrees per frame about its middle, back and forth
within 10 degrees. Six targets go their own ways by 0.7 px per frame. Errors are those of places all over the frame, RMS
of both axes together: of a frame's **step**, and of the **place** in the last frame against the first.
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
from glint.runtime.tracking.registration import Registration

FloatArray = NDArray[np.float64]
SIZES = {"256x224": (224, 256), "640x512": (512, 640)}
_TARGETS, _SPEED_PX, _RADIANCE, _MOST_DEGREES = 6, 0.7, 300.0, 10.0
_STEP_PX = 20  # between the places at which errors are taken


def rolling_scene(
    background: FloatArray, shape: tuple[int, int], frames: int, pan: float, roll: float, noise: float,
    rng: np.random.Generator,
) -> Iterator[tuple[FloatArray, FloatArray, FloatArray]]:  # fmt: skip
    """Frames ``[H, W]``, places of the targets in them ``[2, N]``, and where places of the first frame are now: a
    rotation and a shift ``[2, 3]``, of x and y."""
    reach = int(np.ceil(pan * frames + 0.5 * np.hypot(*shape) * (1 - np.cos(np.pi / 4)))) + 2
    lack = [max(0, need - has) // 2 + reach for need, has in zip(shape, background.shape)]
    spline = ndimage.spline_filter(np.pad(background, [(n, n + 1) for n in lack], mode="symmetric"), mode="nearest")
    middle, start = (np.array(shape) - 1) / 2, (np.array(spline.shape) - np.array(shape)) / 2
    way = rng.uniform(0, 2 * np.pi)
    drift = pan * np.array([np.sin(way), np.cos(way)])  # y, x
    place = rng.uniform(20, np.array(shape[::-1]) - 20, (_TARGETS, 2))
    course = rng.uniform(0, 2 * np.pi, _TARGETS)
    velocity = _SPEED_PX * np.stack([np.cos(course), np.sin(course)], axis=1)
    for index in range(frames):
        degrees = _MOST_DEGREES - abs((roll * index + _MOST_DEGREES) % (4 * _MOST_DEGREES) - 2 * _MOST_DEGREES)
        cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        turn = np.array([[cosine, -sine], [sine, cosine]])  # of y, x: from the frame to the background
        off = start + index * drift + middle - turn @ middle
        level: Any = ndimage.affine_transform(spline, turn, offset=off, output_shape=shape, prefilter=False)
        x, y = (place + index * velocity).T
        level = level + Psf(0.5).render(x, y, np.full(_TARGETS, _RADIANCE), shape)
        rotation = turn  # of x, y: from the background to the frame
        shift = middle[::-1] - rotation @ (middle + index * drift)[::-1]
        yield level + noise * rng.standard_normal(shape), np.stack([x, y]), np.column_stack([rotation, shift])


def registration(
    *, backgrounds: Path, number: int = 6, frames: int = 40, size: str = "640x512", pan: float = 0.4,
    roll: float = 0.0, noise: float = 1.0, seed: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Score the registration; arguments are the options of the tool.

    Raises:
        SourceError: if there are no images or one cannot be read.
    """
    shape, spent, each = SIZES[size], [], {}
    grid = np.mgrid[_STEP_PX : shape[1] - _STEP_PX : _STEP_PX, _STEP_PX : shape[0] - _STEP_PX : _STEP_PX]
    x, y = grid.reshape(2, -1).astype(np.float64)
    for which, (name, image) in enumerate(read_backgrounds(backgrounds, number)):
        larger = max(1.0, max(need / has for need, has in zip(shape, image.shape)))
        background = ndimage.zoom(image, larger, order=3, mode="nearest") if larger > 1 else image
        rng, register, errors = np.random.default_rng([seed, which]), Registration(), []
        for frame, targets, motion in rolling_scene(background, shape, frames, pan, roll, noise, rng):
            data = np.clip(np.round(64 * frame), 0, 16383).astype(np.uint16)
            started = time.thread_time()
            shift = register(data, targets[0], targets[1])
            spent.append(1e3 * (time.thread_time() - started))
            true = motion[:, :2] @ np.stack([x, y]) + motion[:, 2:]
            errors.append(np.stack(shift.to_frame(x, y)) - true)
        steps = np.diff(np.array(errors), axis=0)
        each[name] = {"step_px": round(_rms(steps), 3), "place_px": round(_rms(errors[-1]), 3)}
    return {
        "size": size, "frames": frames, "pan": pan, "roll": roll, "noise": noise, "seed": seed,
        "step_px": round(float(np.sqrt(np.mean([one["step_px"] ** 2 for one in each.values()]))), 3),
        "place_px": round(float(np.sqrt(np.mean([one["place_px"] ** 2 for one in each.values()]))), 3),
        "cpu_ms": {"p50": round(float(np.median(spent)), 2), "p95": round(float(np.percentile(spent, 95)), 2)},
        "backgrounds": each,
    }  # fmt: skip


def _rms(errors: FloatArray) -> float:
    """Of vectors whose axis before the last is x and y."""
    return float(np.sqrt((errors**2).sum(axis=-2).mean()))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    parser.add_argument("--backgrounds", type=Path, metavar="DIR", required=True, help="folder of images or a data set")
    parser.add_argument("--number", type=positive_int, default=6, help="of backgrounds (default: %(default)s)")
    parser.add_argument("--frames", type=positive_int, default=40, help="per background (default: %(default)s)")
    parser.add_argument(
        "--size", choices=sorted(SIZES), default="640x512",
        help="of frames, to which smaller backgrounds are enlarged (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--pan", type=positive_float, default=0.4, help="px per frame (default: %(default)s)")
    parser.add_argument("--roll", type=float, default=0.0, help="degrees per frame (default: %(default)s)")
    parser.add_argument(
        "--noise", type=positive_float, default=1.0, help="of a pixel, DN of 8 bits (default: %(default)s)"
    )
    parser.add_argument("--seed", type=seed, default=1, help="of everything simulated (default: %(default)s)")


TOOL = Tool("Score the registration of a camera that pans and rolls.", registration, add_arguments, file=True)


if __name__ == "__main__":
    sys.exit(TOOL())
