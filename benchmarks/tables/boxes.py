"""Where clusters lie on the pixel grid: ``python -m glint.benchmarks.tables.boxes``.

Boxes: the protocol's patches of ``8sat`` with the targets' box of one pixel in other places of the grid. Spreads:
clusters of 1 to 5 targets, half a pixel apart at least, in larger boxes at any phase, at noise 1 and 8 bits;
beside them the score of the truth scattered by its Cramer-Rao bound, with every count right.
The radiance of targets is told.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.benchmarks.reporting.text import markdown_table
from glint.benchmarks.tables.optics import cso_map, scattered
from glint.benchmarks.tables.unmixing import prior_of
from glint.benchmarks.tool import Tool
from glint.cards import DEFAULT_UNMIXER
from glint.cli import positive_int, seed
from glint.metrics.unmixing import score_unmixing
from glint.optics import Psf
from glint.runtime.unmixing.unmix import run_unmixer
from glint.runtime.unmixing.unmixer import Unmixer
from glint.simulation.patches import CONDITIONS, PATCH_SIZE_PX, Patches, draw_offsets, simulate_patches
from glint.types import Targets

STARTS_PX = (-0.5, -0.4, -0.3)  # px: of the box of one pixel on both axes
SPREADS_PX = (1.0, 1.5)  # px: sides of the larger boxes
_SEPARATION_PX, _NOISE_DN = 0.5, 1.0
_RADIANCE_DN = (220.0, 250.0)  # DN, as the protocol has it
_QUANTISATION_DN = 12**-0.5  # DN: standard deviation of rounding


def spread_patches(side: float, number: int, rng: np.random.Generator) -> Patches:
    """Patches whose targets fill a box of ``side`` px at any phase of the pixel grid."""
    count = rng.integers(1, 6, number)
    middle = PATCH_SIZE_PX // 2 + rng.uniform(-0.5, 0.5, (number, 1, 2))
    position = np.nan_to_num(side * (draw_offsets(count, _SEPARATION_PX / side, rng) - 0.5) + middle)
    radiance = np.where(np.arange(5) < count[:, None], rng.uniform(*_RADIANCE_DN, (number, 5)), 0.0)
    x, y = position[..., 0], position[..., 1]
    image = Psf(0.5).render(x, y, radiance, (PATCH_SIZE_PX, PATCH_SIZE_PX))
    counted = np.round(image + _NOISE_DN * rng.standard_normal(image.shape)).astype(np.float32)
    one = np.ones(number)
    return Patches(counted, x, y, radiance, count, 0.5 * one, _NOISE_DN * one, 0 * one, np.inf * one)


def _refined(unmixer: Unmixer, patches: Patches) -> Targets:
    return run_unmixer(unmixer, patches, radiance_prior=prior_of(_RADIANCE_DN), stages=["refined"]).targets["refined"]


def box_score(unmixer: Unmixer, start: float, number: int, rng: np.random.Generator) -> dict[str, float]:
    """Score of the protocol's patches whose box starts there, and that of their bound."""
    patches = simulate_patches(replace(CONDITIONS["8sat"], box_start=(start, start)), number, rng)
    found = _refined(unmixer, patches)
    score = score_unmixing(
        found.blob, found.x, found.y, found.radiance, found.score,
        truth_x=patches.x, truth_y=patches.y, truth_radiance=patches.radiance,
    )  # fmt: skip
    return {
        "cso_map": round(float(score.cso_map), 2), "cso_map_bound": _bound(patches, _QUANTISATION_DN, rng),
        "count_right": round(float(score.count_accuracy), 2),
    }  # fmt: skip


def spread_score(unmixer: Unmixer, side: float, number: int, rng: np.random.Generator) -> dict[str, float]:
    """Score of clusters in a box of that side, and that of their Cramer-Rao bound."""
    patches = spread_patches(side, number, rng)
    found = _refined(unmixer, patches)
    rows = np.column_stack([found.blob, found.x, found.y, found.radiance, found.score]).tolist()
    right = np.bincount(found.blob, minlength=number) == patches.count
    return {
        "cso_map": cso_map(rows, _truths(patches), 1.0),
        "cso_map_bound": _bound(patches, math.hypot(_NOISE_DN, _QUANTISATION_DN), rng),
        "count_right": round(100 * float(right.mean()), 2),
    }  # fmt: skip


def _truths(patches: Patches) -> list[NDArray[np.float64]]:
    """Of each patch x, y and radiance, ``[K, 3]``."""
    columns = np.stack([patches.x, patches.y, patches.radiance], axis=2)
    return [one[:count] for one, count in zip(columns, patches.count.tolist())]


def _bound(patches: Patches, noise: float, rng: np.random.Generator) -> float:
    """Score of the truth scattered by its Cramer-Rao bound, the radiance told as it is told to the unmixer.

    Saturated pixels add nothing to the bound.
    """
    truths, sd = _truths(patches), prior_of(_RADIANCE_DN)[1]
    rows: list[list[float]] = []
    for i, (truth, limit) in enumerate(zip(truths, patches.full_scale.tolist())):
        rows += [[i, *row] for row in scattered(truth, 0.5, noise, rng, sd, limit).tolist()]
    return cso_map(rows, truths, 1.0)


def box_table(*, models: Sequence[str] | None = None, patches: int = 2000, seed: int = 1) -> dict[str, Any]:
    """Measure everything; arguments are the options of the tool. ``models`` None: the default unmixer."""
    table: dict[str, Any] = {"patches": patches, "seed": seed, "boxes": [], "spreads": []}
    for name in models or (DEFAULT_UNMIXER,):
        unmixer = Unmixer.open(name, threads=1)
        with unmixer.engine:
            for start in STARTS_PX:
                row = box_score(unmixer, start, patches, np.random.default_rng(seed))
                table["boxes"].append({"model": name, "box": f"[{start}, {start + 1:.1f}]", **row})
            for side in SPREADS_PX:
                row = spread_score(unmixer, side, patches, np.random.default_rng([seed, round(10 * side)]))
                table["spreads"].append({"model": name, "side": side, **row})
    return table


def markdown(table: dict[str, Any]) -> str:
    """Both tables."""
    text: list[str] = []
    for part in ("boxes", "spreads"):
        columns = list(table[part][0])
        text += [*markdown_table(columns, ([str(row[c]) for c in columns] for row in table[part])), ""]
    return "\n".join(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    parser.add_argument(
        "--model", dest="models", action="append", metavar="NAME|CARD", help="unmixer; may be given several times"
    )
    parser.add_argument("--patches", type=positive_int, default=2000, help="of each condition (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=1, help="of the patches (default: %(default)s)")


TOOL = Tool("Unmixing at any place of the pixel grid.", box_table, add_arguments, text=markdown, file=True)


if __name__ == "__main__":
    sys.exit(TOOL())
