"""All detectors in one table: ``python -m glint.benchmarks.tables.detection --data SIRST --out DIR``.

Methods without a network are given their best settings by a grid search on the training split, for the
highest nIoU; models come as they are. Everything is then scored by the code of ``glint evaluate`` on
the other split, at native size. A pixel is a target where a method's map exceeds its mean by k
standard deviations; k is searched with the rest. Times are those of the processor (all threads added
up), one frame at a time.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint import __version__
from glint.benchmarks.evaluate.detection_scores import Predict, Prediction, detector_prediction, evaluate_detection
from glint.benchmarks.evaluate.detector import score_backgrounds
from glint.benchmarks.evaluate.evaluate import open_model
from glint.benchmarks.peers.saliency import patch_contrast, patch_image, top_hat
from glint.benchmarks.reporting.text import figure, markdown_table
from glint.benchmarks.tables.table_file import TableFile, add_table_arguments, refuse_unknown, released
from glint.benchmarks.tool import Tool
from glint.cli import talk
from glint.data.datasets import LabelledImage, labelled_images, read_split
from glint.data.leaks import refuse_shared_names
from glint.errors import InputError
from glint.progress import Progress
from glint.runtime.pipeline.detector import Detector

LEVELS = tuple(np.round(np.geomspace(2, 60, 40), 2).tolist())  # k
Map = NDArray[np.float64]


@dataclass(frozen=True)
class Classical:
    """A method without a network.

    Attributes:
        saliency: image ``[H, W]`` and settings -> map ``[H, W]``.
        grid: values of each setting that are tried.
        images: of the training split that it is tuned on, at most; slow methods take a part of it.
    """

    saliency: Callable[..., Map]
    grid: Mapping[str, Sequence[Any]]
    images: int


CLASSICAL = {
    "top-hat": Classical(top_hat, {"size": (3, 5, 7, 9, 11, 15)}, 10_000),
    "mpcm": Classical(
        patch_contrast,
        {"scales": ((3,), (5,), (3, 5), (3, 5, 7), (3, 5, 7, 9), (5, 7, 9)), "bright": (False, True)},
        10_000,
    ),
    "ipi": Classical(patch_image, {"weight": (1.0, 2.0, 3.0, 4.0)}, 40),
}


@dataclass(frozen=True)
class Tuned:
    """The best settings of a method, and what they reach on the images that they were chosen on."""

    settings: dict[str, Any]
    level: float
    niou: float
    images: int


def standardised(values: Map) -> Map:
    """A map in standard deviations above its mean."""
    return (values - values.mean()) / max(float(values.std()), 1e-12)


def tune(method: Classical, samples: Iterable[LabelledImage]) -> Tuned:
    """Grid search for the highest nIoU; of equal ones the first.

    Raises:
        InputError: if there is no image.
    """
    images = list(samples)
    if not images:
        raise InputError("tuning needs at least one image", hint="name a split with images")
    best = Tuned({}, 0.0, -1.0, len(images))
    combinations = list(itertools.product(*method.grid.values()))
    with Progress("tuning", len(combinations) * len(images)) as line:
        for number, values in enumerate(combinations):
            settings = dict(zip(method.grid, values))
            overlap = np.zeros((len(images), len(LEVELS)))
            for i, sample in enumerate(images):
                overlap[i] = _overlaps(standardised(method.saliency(sample.image, **settings)), sample.mask)
                line.update(number * len(images) + i + 1)
            mean = 100 * overlap.mean(0)
            k = int(mean.argmax())
            if mean[k] > best.niou:
                best = Tuned(settings, LEVELS[k], float(mean[k]), len(images))
    return best


def _overlaps(values: Map, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """IoU in [0, 1] at every level; 1 where both masks are empty."""
    inside, outside = np.sort(values[mask]), np.sort(values[~mask])
    hits = len(inside) - np.searchsorted(inside, LEVELS, side="right")
    union = mask.sum() + len(outside) - np.searchsorted(outside, LEVELS, side="right")
    return np.where(union > 0, hits / np.maximum(union, 1), 1.0)


def classical_prediction(method: Classical, tuned: Tuned) -> Predict:
    """Map z as a probability z / (z + k), which exceeds 1/2 where z exceeds k."""

    def predict(sample: LabelledImage) -> Prediction:
        z = np.maximum(standardised(method.saliency(sample.image, **tuned.settings)), 0)
        return Prediction(z / (z + tuned.level))

    return predict


def measure(
    predict: Predict, root: Path, split: str, *, threshold: float = 0.5, backgrounds: Path | str | None = None,
    trained: Iterable[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """A row of the table: scores, intervals, and milliseconds of the processor per frame."""
    seconds = 0.0

    def timed(sample: LabelledImage) -> Prediction:
        nonlocal seconds
        began = time.process_time()
        prediction = predict(sample)
        seconds += time.process_time() - began
        return prediction

    predict(next(labelled_images(root, split)))  # caches, memory
    with Progress("measuring", len(read_split(root, split))) as line:
        evaluation = evaluate_detection(timed, labelled_images(root, split), threshold=threshold, progress=line.update)
    row = {k: v for k, v in evaluation.result.items() if k not in ("worst", "protocol")}
    row["ms_per_frame"] = round(1e3 * seconds / row["images"], 3)
    if backgrounds is not None:
        row["backgrounds"] = score_backgrounds(predict, backgrounds, threshold=threshold, trained=trained)
    return row


def detection_peers(
    data: Path,
    out: Path,
    *,
    methods: Sequence[str] = tuple(CLASSICAL),
    models: Sequence[str] | None = None,
    train: str = "train",
    split: str = "val",
    backgrounds: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Tune, measure and write ``detection.json`` and ``detection.md`` into a folder, again after every method.

    Arguments are the options of the tool.

    Returns:
        What the JSON file holds.

    Raises:
        InputError: if a method is unknown, the splits share an image, or the folder's rows are of other data.
        GlintError: another of its subclasses, for bad data, models or outputs.
    """
    refuse_unknown("method", methods, CLASSICAL)
    refuse_shared_names(data, train, split)
    models = released("detect") if models is None else models
    for name in models:
        open_model(name, task="detect")[1].close()  # what will not do is told now, not after an hour
    file = TableFile(out / "detection.json", markdown)
    source = {"glint": __version__, "data": data.resolve().name, "train": train, "split": split, "protocol": "native"}
    table = file.begin({**source, "backgrounds": backgrounds is not None}, resume=resume, overwrite=overwrite)
    for name in (*methods, *models):
        if name in {row["given"] for row in table["rows"]}:
            continue
        row = _classical_row if name in CLASSICAL else _model_row
        table["rows"].append({"given": name, **row(name, data, train, split, backgrounds)})
        last = table["rows"][-1]
        talk(f"{last['method']:<24}IoU {last['iou']:6.2f}  nIoU {last['niou']:6.2f}  {last['ms_per_frame']:9.2f} ms")
        file.write(table)
    return table


def _classical_row(name: str, data: Path, train: str, split: str, backgrounds: Path | str | None) -> dict[str, Any]:
    method = CLASSICAL[name]
    talk(f"tuning {name}")
    tuned = tune(method, _some(labelled_images(data, train), len(read_split(data, train)), method.images))
    settings = {k: list(v) if isinstance(v, tuple) else v for k, v in tuned.settings.items()}
    chosen = {
        "settings": {**settings, "k": tuned.level}, "tuning": {"niou": round(tuned.niou, 2), "images": tuned.images}
    }  # fmt: skip
    return {
        "method": name,
        **chosen,
        **measure(classical_prediction(method, tuned), data, split, backgrounds=backgrounds),
    }


def _some(samples: Iterable[LabelledImage], number: int, most: int) -> Iterable[LabelledImage]:
    """At most so many of them, evenly spread over the list."""
    chosen = set(np.linspace(0, number - 1, min(number, most)).round().astype(int).tolist())
    return (sample for i, sample in enumerate(samples) if i in chosen)


def _model_row(name: str, data: Path, train: str, split: str, backgrounds: Path | str | None) -> dict[str, Any]:
    card, engine = open_model(name, threads=1, task="detect")
    shown = f"{card.name} ({Path(name).parent.name})" if Path(name).suffix == ".safetensors" else card.name
    with engine:
        detector = Detector(engine, card)
        trained = card.training.get("data", {}).get("negatives", [])
        row = measure(
            detector_prediction(detector), data, split, threshold=detector.spec.threshold, backgrounds=backgrounds,
            trained=trained,
        )  # fmt: skip
    return {"method": shown, "settings": {"engine": engine.name, "macs_512": card.macs}, **row}


def markdown(table: dict[str, Any]) -> str:
    """The table as Markdown; intervals in brackets."""
    head = ["method", "IoU", "nIoU", "F1", "Pd", "Fa, 1e-6", "ms"]
    if table["backgrounds"]:
        head[-1:] = ["false alarms per empty frame", "Pd at SCR 5", "flux error", "ms"]
    rows = []
    for row in table["rows"]:
        cells = [row["method"]]
        for name in ("iou", "niou", "f1", "pd", "fa"):
            value, low, high = (figure(v, 1) for v in (row[name], *row["intervals"][name]))
            cells.append(f"{value} ({low} to {high})")
        if table["backgrounds"]:
            found = row["backgrounds"]
            at_5 = next(p["pd"] for p in found["pd_by_scr"] if p["scr"] == 5)
            flux = found["flux"]["residual_error"] if found["flux"] else None
            cells += [figure(found["false_alarms"]["per_frame"], 2), figure(at_5, 1), figure(flux, 1)]
        rows.append([*cells, figure(row["ms_per_frame"], 1)])
    lines = [
        f"{table['data']}/{table['split']}, native size, {table['rows'][0]['images']} images, "
        f"{table['rows'][0]['targets']} targets; 95 % intervals in brackets.",
        "",
        *markdown_table(head, rows),
        "",
    ]
    for row in table["rows"]:
        settings = ", ".join(f"{k} {v}" for k, v in row["settings"].items())
        tuned = f"; nIoU {row['tuning']['niou']} on {row['tuning']['images']} images" if "tuning" in row else ""
        lines.append(f"- {row['method']}: {settings}{tuned}")
    return "\n".join(lines) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    add_table_arguments(parser, "detection", CLASSICAL)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="SIRST-style folder")
    parser.add_argument("--train", default="train", metavar="SPLIT", help="to tune on (default: %(default)s)")
    parser.add_argument("--split", default="val", help="to measure on (default: %(default)s)")
    parser.add_argument(
        "--backgrounds", metavar="FOLDER|generated", help="frames without targets: false alarms, planted targets"
    )


TOOL = Tool("Tune, measure and compare all detectors.", detection_peers, add_arguments, text=markdown)


if __name__ == "__main__":
    sys.exit(TOOL())
