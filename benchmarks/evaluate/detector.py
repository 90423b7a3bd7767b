"""The part of ``glint evaluate`` that scores detectors and stored predictions on labelled images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from glint.benchmarks.evaluate.background_scores import evaluate_backgrounds
from glint.benchmarks.evaluate.detection_report import write_report
from glint.benchmarks.evaluate.detection_scores import (
    Evaluation,
    Predict,
    detector_prediction,
    evaluate_detection,
)
from glint.benchmarks.evaluate.planted import generated_backgrounds
from glint.benchmarks.evaluate.stored_predictions import StoredPredictions
from glint.benchmarks.reporting.text import columns, figure
from glint.data.datasets import background_images, image_files, labelled_images, list_name, read_split
from glint.data.leaks import split_duplicates, training_list
from glint.errors import InputError
from glint.files import refuse_full
from glint.metrics.detection import FIGURES
from glint.progress import Progress
from glint.runtime.pipeline.detector import Detector

GENERATED_FRAMES = 20  # simulated skies where there are no real frames


@dataclass(frozen=True)
class DetectionData:
    """What a detector is scored on, and how.

    Attributes:
        root: folder of the data set.
        split: its images.
        protocol: one of ``choices.PROTOCOLS``.
        legacy: report the greedy matching too.
        against: training split to look for leaks in; None: the one beside ``split``; "none".
    """

    root: Path | None
    split: str = "val"
    protocol: str = "native"
    legacy: bool = False
    against: str | None = None


def evaluate_detector(
    detector: Detector,
    data: DetectionData,
    *,
    backgrounds: Path | str | None = None,
    seed: int = 1,
    out: Path | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Score a model; arguments as those of ``glint.benchmarks.evaluate.evaluate.evaluate``.

    Raises:
        GlintError: one of its subclasses, for bad data or arguments.
    """
    _refuse_output(out, overwrite)
    card = detector.card
    common = {"model": card.name, "precision": card.precision, "engine": detector.engine.name}
    evaluation = _evaluate(detector_prediction(detector), data, detector.spec.threshold)
    result = {**common, **evaluation.result}
    if backgrounds is not None:
        trained = card.training.get("data", {}).get("negatives", [])
        predict = detector_prediction(detector)
        result["backgrounds"] = score_backgrounds(
            predict, backgrounds, threshold=detector.spec.threshold, seed=seed, trained=trained
        )
    return _finished(result, evaluation, out)


def evaluate_predictions(
    pred: Path, data: DetectionData, *, out: Path | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Score stored masks or probability maps at a threshold of 0.5.

    Raises:
        GlintError: one of its subclasses, for bad data, predictions or arguments.
    """
    _refuse_output(out, overwrite)
    stored = StoredPredictions(pred, read_split(_root(data), data.split))
    evaluation = _evaluate(stored, data, 0.5)
    stored.tell()
    return _finished({"model": pred.name, "precision": "-", "engine": "stored", **evaluation.result}, evaluation, out)


def _evaluate(predict: Predict, data: DetectionData, threshold: float) -> Evaluation:
    root = _root(data)
    against = training_list(root, data.split) if data.against is None else data.against
    leaks = None
    if against not in (None, "none"):
        duplicates = split_duplicates(root, str(against), data.split)
        leaks = {"against": against, "near_duplicates": [asdict(pair) for pair in duplicates]}
    with Progress("evaluate", len(read_split(root, data.split))) as line:
        evaluation = evaluate_detection(
            predict, labelled_images(root, data.split), threshold=threshold, protocol=data.protocol,
            legacy=data.legacy, progress=line.update,
        )  # fmt: skip
    source = {
        "data": root.resolve().name, "split": data.split,
        "list": list_name(root, data.split),
    }  # fmt: skip
    return Evaluation({**source, **evaluation.result, "leaks": leaks}, evaluation.worst)


def _root(data: DetectionData) -> Path:
    if data.root is None:
        raise InputError("evaluating a detector needs labelled images", hint="--data FOLDER")
    return data.root


def score_backgrounds(
    predict: Predict, backgrounds: Path | str, *, threshold: float = 0.5, seed: int = 1, trained: Iterable[str] = ()
) -> dict[str, Any]:
    """``evaluate_backgrounds`` on the frames of a folder; called "generated", on :data:`GENERATED_FRAMES` skies.

    Raises:
        SourceError: if the folder is missing, empty or unreadable.
    """
    name, frames, total = empty_frames(backgrounds, seed)
    with Progress("backgrounds", total) as line:
        score = evaluate_backgrounds(
            predict, frames, threshold=threshold, seed=seed, trained=trained, progress=line.update
        )
    return {"data": name, "seed": seed, **score}


def empty_frames(backgrounds: Path | str, seed: int) -> tuple[str, Iterable[tuple[str, NDArray[Any]]], int]:
    """What to call them, name and image of each, and their number; "generated": :data:`GENERATED_FRAMES` skies.

    Raises:
        SourceError: if the folder is missing, empty or unreadable.
    """
    if str(backgrounds) == "generated":
        return "generated skies", generated_backgrounds(seed, GENERATED_FRAMES), GENERATED_FRAMES
    folder = Path(backgrounds)
    return folder.resolve().name, background_images(folder), len(image_files(folder))


def _refuse_output(out: Path | None, overwrite: bool) -> None:
    if out is not None:
        refuse_full(out, overwrite=overwrite, what="output folder")


def _finished(result: dict[str, Any], evaluation: Evaluation, out: Path | None) -> dict[str, Any]:
    if out is not None:
        write_report(out, result, evaluation.worst)
    return result


def detector_text(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [
        f"{result['model']} on {result['data']}/{result['split']} ({result['images']} images, {result['targets']} "
        f"targets; protocol {result['protocol']}, threshold {result['threshold']:g})"
    ]
    table = [["", "score", "unit", "95 % interval"]]
    for name, (_, unit) in FIGURES.items():
        low, high = result["intervals"][name]
        table.append([name, figure(result[name]), unit, f"{figure(low)} to {figure(high)}"])
    lines += columns(table)
    if "legacy" in result:
        lines.append(f"legacy matching: pd {figure(result['legacy']['pd'])} %, fa {figure(result['legacy']['fa'])}e-6")
    if "decomposition" in result:
        score = {k: figure(v, 1) for k, v in result["decomposition"].items()}
        lines.append(
            f"background error {score['background_error_on']} % on target, {score['background_error_off']} % off; "
            f"target energy {score['target_energy_on']} % on target, {score['target_energy_off']} % off"
        )
    if "backgrounds" in result:
        lines += _background_lines(result["backgrounds"])
    if result["leaks"] is not None and result["leaks"]["near_duplicates"]:
        pairs = result["leaks"]["near_duplicates"]
        named = ", ".join(f"{p['first']}/{p['second']}" for p in pairs[:5])
        lines.append(f"{len(pairs)} near-duplicates in {result['leaks']['against']}: {named}")
    return "\n".join(lines)


def _background_lines(score: dict[str, Any]) -> list[str]:
    alarms, flux = score["false_alarms"], score["flux"]
    curve = "  ".join(f"{p['scr']:g}: {figure(p['pd'], 1)}" for p in score["pd_by_scr"])
    lines = [
        f"{score['data']}: {figure(alarms['per_frame'])} false alarms per frame ({alarms['frames']} frames), "
        f"{figure(alarms['per_unseen_frame'])} on the {alarms['unseen_frames']} not trained on",
        f"pd (%) by signal-to-clutter ratio: {curve}",
    ]
    if flux is not None:
        lines.append(
            f"flux of {flux['found']} of {flux['clusters']} planted clusters, median error: "
            f"{figure(flux['residual_error'], 1)} % of D - B, {figure(flux['target_error'], 1)} % of T"
        )
    return lines
