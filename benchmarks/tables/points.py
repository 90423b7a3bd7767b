"""Points found against false alarms: ``python -m glint.benchmarks.tables.points --backgrounds FOLDER``.

Point targets of known signal-to-clutter ratio are planted on frames without targets (see ``planted``), the same for
every method. A threshold is asked for as the false alarms per bare frame that it lets through: that is what a
user can bear, and what makes methods comparable whose maps have different scales.

Beside models stands ``point_ratio``, a likelihood ratio that looks at the surroundings of a point alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.benchmarks.evaluate.background_scores import MATCH_PX, SCRS
from glint.benchmarks.evaluate.detection_scores import detector_prediction
from glint.benchmarks.evaluate.detector import empty_frames
from glint.benchmarks.evaluate.evaluate import open_model
from glint.benchmarks.evaluate.planted import Array, plant
from glint.benchmarks.peers.saliency import point_ratio
from glint.benchmarks.reporting.text import figure, markdown_table
from glint.benchmarks.tool import Tool
from glint.cli import seed
from glint.data.datasets import LabelledImage
from glint.metrics.detection import components
from glint.metrics.matching import match_points
from glint.progress import Progress
from glint.runtime.pipeline.detector import Detector

FALSE_ALARM_RATES = (0.2, 1.0, 2.5, 10.0)  # false alarms per frame
POINTS_PER_LEVEL = 3  # points of each SCR on a frame
RATIO_LEVELS = tuple(np.geomspace(8, 60, 40).tolist())
# Probabilities; in logits closest around 0, where most networks leave what they doubt, and out to -6 and 6.7.
PROBABILITY_LEVELS = tuple((1 / (1 + np.exp(-np.sinh(np.linspace(-2.5, 2.6, 80))))).tolist())

Map = NDArray[np.floating]


def point_roc(
    saliency: Callable[[Array], Map],
    levels: Sequence[float],
    frames: Iterable[tuple[str, Array]],
    *,
    rates: Sequence[float] = FALSE_ALARM_RATES,
    seed: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> list[dict[str, Any]]:
    """Shares of planted points that are found where false alarms are as rare as asked.

    Args:
        saliency: image ``[H, W]`` -> map ``[H, W]``, high where a target may be.
        levels: thresholds that are tried, rising.
        frames: name and image of each, without targets.
        rates: false alarms per frame.
        seed: of what is planted.
        progress: called with the number of frames done.

    Returns:
        For every rate: ``rate``, ``level`` (the lowest threshold that keeps it; None: none does), ``per_frame`` (its
        rate, which is lower than asked where no level tried gives as many) and ``pd`` (percent found by SCR, as text).
    """
    number, alarms = 0, np.zeros(len(levels))
    found = {scr: np.zeros(len(levels)) for scr in SCRS}
    planted = dict.fromkeys(SCRS, 0)
    for index, (_, image) in enumerate(frames):
        points = plant(
            image, SCRS * POINTS_PER_LEVEL, [1] * (POINTS_PER_LEVEL * len(SCRS)), np.random.default_rng((seed, index))
        )
        bare, lit = saliency(image), saliency(points.data)
        for k, level in enumerate(levels):
            alarms[k] += len(components(bare > level)[0])
            centres, _ = components(lit > level)
            distance = np.hypot(points.x[:, None] - centres[:, 0], points.y[:, None] - centres[:, 1])
            for i in match_points(distance, MATCH_PX)[0]:
                found[float(points.scr[i])][k] += 1
        for scr in points.scr.tolist():
            planted[scr] += 1
        number += 1
        progress(number)
    return [_at(rate, levels, alarms / max(number, 1), found, planted) for rate in rates]


def _at(
    rate: float, levels: Sequence[float], alarms: Map, found: Mapping[float, Map], planted: Mapping[float, int]
) -> dict[str, Any]:
    # Towards low thresholds spots melt together: the last that is too low counts, not the first that is high enough.
    too_many = np.nonzero(alarms > rate)[0]
    k = int(too_many[-1]) + 1 if len(too_many) else 0
    if k == len(levels):
        return {"rate": rate, "level": None, "per_frame": None, "pd": {f"{scr:g}": None for scr in planted}}
    pd = {f"{scr:g}": round(100 * found[scr][k] / n, 1) if n else None for scr, n in planted.items()}
    return {"rate": rate, "level": levels[k], "per_frame": float(alarms[k]), "pd": pd}


def compare(models: Sequence[str], backgrounds: str, *, seed: int = 1) -> dict[str, list[dict[str, Any]]]:
    """The rows of ``point_ratio`` and of every model, by the name that was given.

    Raises:
        GlintError: one of its subclasses, for bad folders or models.
    """
    with ExitStack() as stack:
        detectors = {}  # all at first: a wrong name is told now, not when the others are measured
        for name in models:
            card, engine = open_model(name, threads=1, task="detect")
            detectors[name] = Detector(stack.enter_context(engine), card)
        rows = {"point ratio": _row("point ratio", point_ratio, RATIO_LEVELS, backgrounds, seed)}
        for name, detector in detectors.items():
            rows[name] = _row(name, _probability(detector), PROBABILITY_LEVELS, backgrounds, seed)
        return rows


def _probability(detector: Detector) -> Callable[[Array], Map]:
    predict = detector_prediction(detector)

    def probability(image: Array) -> Map:
        found: Map = predict(LabelledImage("", image, np.zeros(image.shape, dtype=bool))).probability
        return found

    return probability


def _row(
    name: str, saliency: Callable[[Array], Map], levels: Sequence[float], backgrounds: str, seed: int
) -> list[dict[str, Any]]:
    _, frames, number = empty_frames(backgrounds, seed)
    with Progress(name, number) as line:
        return point_roc(saliency, levels, frames, seed=seed, progress=line.update)


def markdown(rows: dict[str, list[dict[str, Any]]]) -> str:
    """The table as Markdown."""
    head = ["method", "false alarms per frame: at most", "in fact", *(f"SCR {scr:g}" for scr in SCRS)]
    cells = [
        [name, f"{at['rate']:g}", figure(at["per_frame"], 2), *(figure(pd, 1) for pd in at["pd"].values())]
        for name, row in rows.items()
        for at in row
    ]
    return "\n".join(markdown_table(head, cells)) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    parser.add_argument("--backgrounds", required=True, metavar="FOLDER|generated", help="frames without targets")
    parser.add_argument(
        "--model", action="append", default=[], dest="models", metavar="NAME|CARD|CHECKPOINT", help="again for more"
    )
    parser.add_argument("--seed", type=seed, default=1, help="of what is planted (default: 1)")


TOOL = Tool("Points found against false alarms.", compare, add_arguments, text=markdown)


if __name__ == "__main__":
    sys.exit(TOOL())
