"""The part of ``glint evaluate`` that scores a detector on several sets at once, in one table.

Sets with masks have IoU, nIoU, Pd and Fa (see ``glint.metrics.detection``), sets with boxes Pd (see
``glint.metrics.boxes``), folders of empty frames false alarms per frame; targets found are told by SCR and by area.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from glint.benchmarks.evaluate.detection_scores import Predict, Prediction, in_protocol, resized
from glint.benchmarks.reporting.text import columns, figure
from glint.data.boxes import BoxedImage, boxed_images, is_boxed
from glint.data.datasets import LabelledImage, background_images, image_files, labelled_images, list_name, read_split
from glint.data.leaks import split_duplicates, training_list
from glint.errors import InputError
from glint.files import known
from glint.metrics.boxes import BoxCounts, count_box, score_boxes
from glint.metrics.detection import ImageCounts, components, count_image, score_detection
from glint.metrics.targets import AREA_EDGES_PX, SCR_EDGES, TargetMatches, found_by, match_targets, signal_to_clutter
from glint.progress import Progress

CURVE_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # thresholds that are told beside the detector's own


@dataclass
class _Tally:
    """What is counted at one threshold."""

    pixels: list[ImageCounts] = field(default_factory=list)
    boxes: list[BoxCounts] = field(default_factory=list)
    targets: list[TargetMatches] = field(default_factory=list)
    alarms: list[int] = field(default_factory=list)


def evaluate_sets(
    predict: Predict, roots: Sequence[Path], *, backgrounds: Sequence[Path] = (), split: str = "val",
    protocol: str = "native", threshold: float = 0.5, against: str | None = None, trained: Iterable[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Score a detector on sets of masks or boxes and on folders of empty frames.

    Args:
        predict: what is scored.
        roots: folders of the sets.
        backgrounds: folders of frames without targets.
        split: of every set.
        protocol: one of ``choices.PROTOCOLS``; sets with boxes are scored at native size.
        threshold: a pixel is predicted if its probability exceeds this.
        against: training split that must share no image; None: the one beside ``split``, if any; "none".
        trained: names of empty frames that the model has seen.

    Returns:
        ``split``, ``protocol``, ``threshold``, ``sets`` and ``backgrounds``, ready for JSON: unknown figures are None.

    Raises:
        SourceError: if a folder, list or image is missing or unreadable.
        InputError: if a list shares images with its training list, or an entry of a set with boxes is wrong.
    """
    if not (roots or backgrounds):
        raise InputError("evaluating a detector needs labelled images", hint="--data FOLDER")
    sets = []
    for root in roots:
        duplicates = _duplicates(root, split, against)
        with Progress(f"evaluate {root.resolve().name}", len(read_split(root, split))) as line:
            score = _boxes if is_boxed(root) else _masks
            figures = score(predict, root, split, protocol, threshold, line.update)
        named = {"data": root.resolve().name, "list": list_name(root, split)}
        sets.append({**named, **figures, "near_duplicates": duplicates})
    empty = [_empty(predict, folder, threshold, set(trained)) for folder in backgrounds]
    return {"split": split, "protocol": protocol, "threshold": threshold, "sets": sets, "backgrounds": empty}


def _duplicates(root: Path, split: str, against: str | None) -> int | None:
    training = training_list(root, split) if against is None else against
    return None if training in (None, "none") else len(split_duplicates(root, str(training), split))


def _masks(
    predict: Predict, root: Path, split: str, protocol: str, threshold: float, progress: Callable[[int], None]
) -> dict[str, Any]:
    tallies = {level: _Tally() for level in (threshold, *CURVE_THRESHOLDS)}
    for done, original in enumerate(labelled_images(root, split), start=1):
        sample = in_protocol(original, protocol)
        probability = resized(predict(sample).probability, sample.mask.shape)
        scr = signal_to_clutter(sample.image.astype(np.float64), sample.mask)
        for level, tally in tallies.items():
            mask = probability > level
            tally.pixels.append(count_image(mask, sample.mask))
            tally.targets.append(match_targets(mask, sample.mask, scr))
        progress(done)
    return {"labels": "masks", **_mask_figures(tallies[threshold]), **_kinds(tallies[threshold].targets), "curve": [
        {"threshold": level, **_mask_figures(tallies[level])} for level in CURVE_THRESHOLDS
    ]}  # fmt: skip


def _mask_figures(tally: _Tally) -> dict[str, Any]:
    score = score_detection(tally.pixels)
    figures = {name: known(getattr(score, name)) for name in ("iou", "niou", "pd", "fa")}
    false = float(np.mean([t.false for t in tally.targets]))
    return {"images": score.images, "targets": score.targets, **figures, "false_per_frame": false}


def _boxes(
    predict: Predict, root: Path, split: str, protocol: str, threshold: float, progress: Callable[[int], None]
) -> dict[str, Any]:
    tallies = {level: _Tally() for level in (threshold, *CURVE_THRESHOLDS)}
    for done, boxed in enumerate(boxed_images(root, split), start=1):
        probability = _look(predict, boxed).probability
        for level, tally in tallies.items():
            counts = count_box(probability > level, boxed.box)
            tally.boxes.append(counts)
            tally.targets.append(
                TargetMatches(
                    np.array([counts.found]),
                    np.array([_or_nan(boxed.area)]),
                    np.array([_or_nan(boxed.scr)]),
                    counts.false,
                )
            )
        progress(done)
    return {"labels": "boxes", **_box_figures(tallies[threshold]), **_kinds(tallies[threshold].targets), "curve": [
        {"threshold": level, **_box_figures(tallies[level])} for level in CURVE_THRESHOLDS
    ]}  # fmt: skip


def _look(predict: Predict, boxed: BoxedImage) -> Prediction:
    return predict(LabelledImage(boxed.name, boxed.image, np.zeros(boxed.image.shape, dtype=bool)))


def _box_figures(tally: _Tally) -> dict[str, Any]:
    score = score_boxes(tally.boxes)
    return {
        "images": score.images, "targets": score.images, "iou": None, "niou": None, "pd": known(score.pd), "fa": None,
        "false_per_frame": known(score.false_per_frame),
    }  # fmt: skip


def _kinds(targets: Sequence[TargetMatches]) -> dict[str, Any]:
    """Targets found by SCR and by area."""
    found = np.concatenate([t.found for t in targets])
    return {
        "pd_by_scr": found_by(np.concatenate([t.scr for t in targets]), found, SCR_EDGES),
        "pd_by_area": found_by(np.concatenate([t.area for t in targets]), found, AREA_EDGES_PX),
    }


def _empty(predict: Predict, folder: Path, threshold: float, trained: set[str]) -> dict[str, Any]:
    tallies = {level: _Tally() for level in (threshold, *CURVE_THRESHOLDS)}
    new: list[bool] = []
    with Progress(f"evaluate {folder.resolve().name}", len(image_files(folder))) as line:
        for done, (name, image) in enumerate(background_images(folder), start=1):
            probability = predict(LabelledImage(name, image, np.zeros(image.shape, dtype=bool))).probability
            for level, tally in tallies.items():
                tally.alarms.append(len(components(probability > level)[0]))
            new.append(name not in trained)
            line.update(done)

    def figures(level: float) -> dict[str, Any]:
        alarms = np.array(tallies[level].alarms, dtype=np.float64)
        unseen = alarms[new]
        return {
            "per_frame": float(alarms.mean()), "per_unseen_frame": float(unseen.mean()) if len(unseen) else None,
            "median_unseen": float(np.median(unseen)) if len(unseen) else None,
        }  # fmt: skip

    place = folder.resolve()
    own = place.name == "backgrounds" and (place.parent / "images").is_dir()  # a set's
    named = {
        "data": f"{place.parent.name}/{place.name}" if own else place.name,
        "frames": len(new),
        "unseen_frames": sum(new),
    }
    return {
        **named,
        **figures(threshold),
        "curve": [{"threshold": level, **figures(level)} for level in CURVE_THRESHOLDS],
    }


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def sets_text(result: dict[str, Any]) -> str:
    """The result for people: one row for each set or folder."""
    head = (
        f"{result['model']}, {result['precision']} on {result['engine']}: split {result['split']}, "
        f"protocol {result['protocol']}, threshold {result['threshold']:g}"
    )
    table = [["", "images", "targets", "IoU", "nIoU", "Pd", "Fa 1e-6", "false/frame", ""]]
    for row in result["sets"]:
        figures = [figure(row[name], 2) for name in ("iou", "niou", "pd")]
        rates = [figure(row["fa"], 1), figure(row["false_per_frame"], 2)]
        table.append([row["data"], str(row["images"]), str(row["targets"]), *figures, *rates, ""])
    for row in result["backgrounds"]:
        seen = f"{row['frames']} frames" if row["frames"] == row["unseen_frames"] else "those not trained on"
        value = row["per_frame"] if row["per_unseen_frame"] is None else row["per_unseen_frame"]
        table.append([row["data"], str(row["unseen_frames"]), "0", *"----", figure(value, 2), f"({seen})"])
    lines = [head, *columns(table)]
    for name, key, unit in (("SCR", "pd_by_scr", ""), ("area", "pd_by_area", " px")):
        if result["sets"]:
            bins = [_range(b) + unit for b in result["sets"][0][key]]
            rows = [[row["data"], *(_share(b) for b in row[key])] for row in result["sets"]]
            lines += ["", *columns([[f"Pd by {name}", *bins], *rows])]
    return "\n".join(lines)


def _range(part: dict[str, Any]) -> str:
    if part["low"] is None:
        return f"below {part['high']:g}"
    return f"from {part['low']:g}" if part["high"] is None else f"{part['low']:g}-{part['high']:g}"


def _share(part: dict[str, Any]) -> str:
    return f"{'-' if part['pd'] is None else format(part['pd'], '.0f'):>4} ({part['found']}/{part['targets']})"
