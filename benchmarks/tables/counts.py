"""Whether ``count_probability`` is what it says: ``python -m glint.benchmarks.tables.counts``.

Fresh patches of the protocol's conditions and of wider optics are unmixed; their targets' ``count_probability`` is
sorted into bins, and each bin's mean is put beside the share of patches in it whose number is right.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.benchmarks.reporting.text import markdown_table
from glint.benchmarks.tool import Tool
from glint.cards import DEFAULT_UNMIXER
from glint.cli import positive_int, seed
from glint.runtime.unmixing.refine import RadiancePrior
from glint.runtime.unmixing.unmix import unmix
from glint.simulation.patches import CONDITIONS, Patches, simulate_patches
from glint.types import Targets

BIN_EDGES = (0.0, 0.5, 0.7, 0.85, 0.95, 0.99, 1.0)  # of the bins; the last one ends with certainty
CASES = ("14bit", "8bit", "n1", "n2", "n5", "bright")
WIDE_SIGMA_PX = 0.7  # px; of the case ``wide``, whose optics are told
_FEW_PATCHES = 20  # patches of a bin below which its share says little


def reliability(probability: NDArray[np.float64], right: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Rows of the table: bin, patches, mean probability and share right, per cent; bins without patches are left out.

    Args:
        probability: that a patch holds as many targets as it is said to, ``[N]``, no NaN.
        right: whether it does, ``[N]``.
    """
    rows = []
    for low, high in pairwise(BIN_EDGES):
        inside = (probability >= low) & ((probability < high) | (high == BIN_EDGES[-1]))
        if inside.any():
            stated, share = 100 * float(probability[inside].mean()), 100 * float(right[inside].mean())
            rows.append({"from": low, "to": high, "patches": int(inside.sum()), "stated": stated, "right": share})
    return rows


def expected_error(rows: Sequence[dict[str, Any]]) -> float:
    """Mean distance of what is stated from what is right, per cent, each patch alike."""
    number = sum(row["patches"] for row in rows)
    return sum(row["patches"] * abs(row["stated"] - row["right"]) for row in rows) / max(number, 1)


def counts_of(targets: Targets, patches: Patches) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Probability of the number of each patch that has one, and whether it is right."""
    blob, first = np.unique(targets.blob, return_index=True)
    probability, number = targets.count_probability[first], np.bincount(targets.blob, minlength=len(patches))[blob]
    told = np.isfinite(probability)
    return probability[told], (number == patches.count[blob])[told]


def counts_table(*, unmixer: str | Path = DEFAULT_UNMIXER, number: int = 500, start: int = 1) -> dict[str, Any]:
    """Measure all conditions; arguments are the options of the tool, ``start`` the seed.

    Raises:
        GlintError: one of its subclasses, for a bad model.
    """
    table: dict[str, Any] = {"unmixer": str(unmixer), "patches": number, "seed": start, "conditions": {}}
    parts = []
    wide = replace(CONDITIONS["n1"], sigma=(WIDE_SIGMA_PX, WIDE_SIGMA_PX))
    for index, (name, config) in enumerate({**{c: CONDITIONS[c] for c in CASES}, "wide": wide}.items()):
        patches = simulate_patches(config, number, np.random.default_rng((start, index)))
        psf = WIDE_SIGMA_PX if name == "wide" else None
        prior: RadiancePrior = None if name == "bright" else "card"
        limit = float(patches.full_scale[0]) if np.isfinite(patches.full_scale).all() else None
        targets = unmix(patches.image, unmixer=unmixer, threads=1, psf=psf, radiance_prior=prior, full_scale=limit)
        parts.append(counts_of(targets, patches))
        rows = reliability(*parts[-1])
        table["conditions"][name] = {"error": expected_error(rows), "bins": rows}
    rows = reliability(*(np.concatenate(columns) for columns in zip(*parts)))
    table["all"] = {"error": expected_error(rows), "bins": rows}
    return table


def markdown(table: dict[str, Any]) -> str:
    """One row for each condition: stated / right (patches) of each bin."""
    names = [f"{low:g}-{high:g}" for low, high in pairwise(BIN_EDGES)]
    lines = []
    for name, part in {**table["conditions"], "all": table["all"]}.items():
        bins = {row["from"]: row for row in part["bins"]}
        cells = []
        for low in BIN_EDGES[:-1]:
            row = bins.get(low)
            few = "*" if row and row["patches"] < _FEW_PATCHES else ""
            cells.append(f"{row['stated']:.0f} / {row['right']:.0f}{few} ({row['patches']})" if row else "")
        lines.append([name, *cells, f"{part['error']:.1f}"])
    return "\n".join(markdown_table(["condition", *names, "error, %"], lines)) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    parser.add_argument("--unmixer", default=DEFAULT_UNMIXER, metavar="NAME|CARD", help="default: %(default)s")
    parser.add_argument(
        "--patches", type=positive_int, default=500, dest="number", help="of each condition (default: %(default)s)"
    )
    parser.add_argument("--seed", type=seed, default=1, dest="start", help="of the patches (default: %(default)s)")


TOOL = Tool("Calibration of the number of targets.", counts_table, add_arguments, text=markdown, file=True)


if __name__ == "__main__":
    sys.exit(TOOL())
