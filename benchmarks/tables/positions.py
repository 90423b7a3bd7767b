"""Errors of lone points' positions against what is stated: ``python -m glint.benchmarks.tables.positions``.

Points on a flat background, cut out as the pipeline does, are judged without a detector: many of them at little cost.
Optics are given, or learned with a small error; positions are put beside the Cramer-Rao bound and the stated errors.
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.benchmarks.reporting.text import markdown_table
from glint.benchmarks.tables.optics import gaussian_shape
from glint.benchmarks.tool import Tool
from glint.cli import positive_int, seed
from glint.runtime.unmixing.optics_state import KNOWN, LEARNED, OpticsState
from glint.runtime.unmixing.point_model import shine_any
from glint.runtime.unmixing.refine import RefineConfig
from glint.runtime.unmixing.shapes import measure_shapes
from glint.runtime.unmixing.verdicts import judge_spots
from glint.runtime.unmixing.windows import WINDOW_PX, Windows
from glint.types import Targets

SIGMAS_PX, AXIS_RATIOS, SNRS = (0.4, 0.5, 0.7, 1.0, 2.0, 3.0), (1.0, 1.5), (10, 30, 200)
_NOISE_DN, _LEVEL_DN = 4.0, 400.0  # DN
_CARD_SIGMA_PX = 0.5
_LEARNED_OFF_SHARE, _LEARNED_ERROR_SHARE = 0.003, 0.004  # of a learned sigma, relative
_MASK_SD, _MASK_SHARE = 2.6, 0.1  # a mask ends there: of the noise, and of the peak

Array = NDArray[np.float64]


def _state(kind: str, sigma: float, e: float, shear: float) -> OpticsState:
    if kind == KNOWN:
        return OpticsState(KNOWN, sigma, e=e, shear=shear)
    return OpticsState(LEARNED, sigma * (1 + _LEARNED_OFF_SHARE), _LEARNED_ERROR_SHARE * sigma, e, shear, 50)


def lone_points(
    sigma: float, ratio: float, snr: float, number: int, rng: np.random.Generator
) -> tuple[Windows, Array, Array, float, float]:
    """Windows about points, their positions and bounds ``[N, 2]``, and e and shear of the PSF (see ``point_model``)."""
    u, e, shear = gaussian_shape(sigma, ratio, float(rng.uniform(0, math.pi)))
    bright = snr * _NOISE_DN * (2 * math.pi * sigma**2 + 0.6)
    light, bound = np.empty((number, WINDOW_PX, WINDOW_PX)), np.empty((number, 2))
    place = WINDOW_PX // 2 + rng.uniform(-0.5, 0.5, (number, 2))
    for i, (x, y) in enumerate(place):
        jacobian, model = np.empty((6, WINDOW_PX * WINDOW_PX)), np.empty(WINDOW_PX * WINDOW_PX)
        theta = np.array([x, y, bright * rng.uniform(0.7, 1.4), 0, 0, 0, u, e, shear])
        shine_any(theta, jacobian, model, WINDOW_PX)
        bound[i] = np.sqrt(np.diag(np.linalg.inv(jacobian @ jacobian.T / _NOISE_DN**2))[:2])
        light[i] = model.reshape(WINDOW_PX, WINDOW_PX)
    data = np.round(_LEVEL_DN + light + rng.normal(0, _NOISE_DN, light.shape))
    least = np.maximum(_MASK_SD * _NOISE_DN, _MASK_SHARE * light.max(axis=(1, 2)))
    area = (light > least[:, None, None]).sum(axis=(1, 2))
    noise, zero = np.full(number, _NOISE_DN), np.zeros(number, dtype=np.int64)
    clear, limit = np.ones(data.shape, dtype=bool), np.full(data.shape, np.inf)
    return Windows(data, clear, limit, noise, zero, zero, noise, area, clear), place, bound, e, shear


def positions_table(*, number: int = 350, start: int = 1) -> list[dict[str, Any]]:
    """Measure all conditions; arguments are the options of the tool, ``start`` the seed.

    Returns:
        For every condition: share split and within the stated error, per cent, and error over the bound.
    """
    rows = []
    for sigma in SIGMAS_PX:
        for ratio in AXIS_RATIOS:
            for snr in SNRS:
                rng = np.random.default_rng((start, round(100 * sigma), round(10 * ratio), snr))
                windows, place, bound, e, shear = lone_points(sigma, ratio, snr, number, rng)
                shapes = measure_shapes(windows)
                for kind in (KNOWN, LEARNED):
                    state = _state(kind, sigma, e, shear)
                    found = judge_spots(windows, shapes, Targets(), state, RefineConfig(), _CARD_SIGMA_PX)
                    row = {"optics": kind, "sigma": sigma, "ratio": ratio, "snr": snr}
                    rows.append({**row, **score(found, place, bound)})
    return rows


def score(found: Targets, place: Array, bound: Array) -> dict[str, float]:
    """Of points at ``place [N, 2]``, one in each spot: those split, and of the others errors over bound and stated."""
    count = np.bincount(found.blob, minlength=len(place))
    one = found.select(count[found.blob] == 1)
    off = np.column_stack([one.x, one.y]) - place[one.blob]
    stated = np.column_stack([one.sigma_x, one.sigma_y])
    return {
        "split": round(100 * float((count > 1).mean()), 2),
        "within": round(100 * float((np.abs(off) < stated).mean()), 1),
        "over_bound": round(float(np.sqrt(np.mean((off / bound[one.blob]) ** 2))), 3),
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table."""
    return "\n".join(markdown_table(list(rows[0]), [[str(v) for v in row.values()] for row in rows])) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    parser.add_argument(
        "--points", type=positive_int, default=350, dest="number", help="of each condition (default: %(default)s)"
    )
    parser.add_argument("--seed", type=seed, default=1, dest="start", help="of the points (default: %(default)s)")


TOOL = Tool("Errors of positions against what is stated.", positions_table, add_arguments, text=markdown, file=True)


if __name__ == "__main__":
    sys.exit(TOOL())
