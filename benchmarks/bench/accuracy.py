"""How good a row is: its score on a small task, and how far its numbers are from the fp32 model's."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from glint.benchmarks.bench.cases import BenchCase
from glint.benchmarks.bench.peer_subjects import UNMIXER, UnmixingPeer
from glint.benchmarks.bench.subjects import (
    BITS,
    PipelineSubject,
    Subject,
    bench_condition,
    bench_patches,
    float_model,
)
from glint.calibration.task_score import score_detector, score_targets, score_unmixer
from glint.cards import ModelCard, load_card
from glint.data.datasets import LabelledImage, labelled_images
from glint.files import known
from glint.metrics.matching import UNMIXING_MATCH_PX, match_points
from glint.optics import Psf
from glint.runtime.engines.base import Arrays, Engine, EngineProxy
from glint.runtime.engines.onnxruntime import OnnxRuntimeEngine
from glint.simulation.scenes import SceneConfig, simulate_scene

SEED = 77  # of what is scored on: not what is timed
_FRAMES = 4
_MASK_SHARE = 0.1  # share of a group's brightest pixel above which a pixel belongs to its mask


def judge(
    case: BenchCase, subject: Subject, *, patches: int, data: str | None = None, split: str = "val"
) -> dict[str, Any]:
    """Accuracy and parity of a row.

    Args:
        case, subject: the row.
        patches: simulated ones to score an unmixer on.
        data, split: labelled images for a detector; without, simulated frames.

    Returns:
        ``accuracy``: figures by name with ``metric`` (name of the main one), ``value`` and ``on`` (what data);
        None for weights that say nothing. ``parity``: see :func:`parity`; None for the reference itself.
    """
    if not case.telling or case.task == "peer detect":
        return {"accuracy": None, "parity": None}
    if isinstance(subject, UnmixingPeer):
        return {"accuracy": _judge_peer(subject, patches), "parity": None}
    if isinstance(subject, PipelineSubject):
        return {"accuracy": _judge_pipeline(case, subject), "parity": None}
    ((card, engine),) = subject.models()
    if case.task == "unmix":
        accuracy = _judge_unmixer(card, engine, patches)
    else:
        accuracy = _judge_detector(card, engine, None if data is None else Path(data), split)
    is_reference = (case.engine, case.precision) == ("onnxruntime", "fp32")
    assert isinstance(engine, EngineProxy)  # noqa: S101  (all models here are timed)
    return {"accuracy": accuracy, "parity": None if is_reference else parity(case, engine)}


def _judge_unmixer(card: ModelCard, engine: Engine, number: int) -> dict[str, Any]:
    condition = bench_condition(card)
    patches = bench_patches(card, number, seed=SEED)
    scores = score_unmixer(engine, card, {condition: patches}, stages=("grid", "refined"))[condition]
    refined, on_grid = scores["refined"], scores["grid"]
    return {
        "metric": "CSO-mAP", "value": refined.cso_map, "grid": on_grid.cso_map,
        "count_accuracy": refined.count_accuracy, "on": f"{number} simulated patches, {condition}",
    }  # fmt: skip


def _judge_peer(peer: UnmixingPeer, number: int) -> dict[str, Any]:
    """On the patches that glint's own unmixer is scored on."""
    card, _ = load_card(UNMIXER)
    patches = bench_patches(card, number, seed=SEED)
    score = score_targets(peer.targets(patches), patches)
    return {
        "metric": "CSO-mAP", "value": score.cso_map, "count_accuracy": score.count_accuracy,
        "on": f"{number} simulated patches, {bench_condition(card)}",
    }  # fmt: skip


def _judge_detector(card: ModelCard, engine: Engine, data: Path | None, split: str) -> dict[str, Any]:
    samples = simulated_images() if data is None else list(labelled_images(data, split))
    score = asdict(score_detector(engine, card, samples))
    figures = known({name: score[name] for name in ("iou", "niou", "pd", "fa")})
    where = f"{len(samples)} simulated frames" if data is None else f"{data.name}/{split}, {len(samples)} images"
    # The mask of a simulated target is a convention, whether it is found is not.
    metric = "pd" if data is None else "iou"
    return {"metric": {"pd": "Pd", "iou": "IoU"}[metric], "value": figures[metric], **figures, "on": where}


def simulated_images() -> list[LabelledImage]:
    """Frames with masks of where their targets' light is."""
    scene = SceneConfig(width=320, height=256, frames=_FRAMES, clusters=6, singles=6, bits=BITS, seed=SEED)
    psf, images = Psf(scene.sigma), []
    for frame, truth in simulate_scene(scene):
        mask = np.zeros(frame.shape, dtype=bool)
        for group in np.unique(truth.blob):
            own = truth.select(truth.blob == group)
            light = psf.render(own.x, own.y, own.radiance, frame.shape)
            mask |= light > _MASK_SHARE * light.max()
        images.append(LabelledImage(frame.name, frame.data, mask))
    return images


def _judge_pipeline(case: BenchCase, subject: PipelineSubject) -> dict[str, Any]:
    """Share of the targets that are found within half a pixel, and how many found ones are none."""
    width, height = case.size
    scene = SceneConfig(width=width, height=height, frames=2, clusters=6, singles=4, bits=BITS, seed=SEED)
    true = found = reported = 0
    for frame, truth in simulate_scene(scene):
        targets = subject.pipeline(frame).targets
        distance = np.hypot(truth.x[:, None] - targets.x, truth.y[:, None] - targets.y)
        rows, _ = match_points(distance, UNMIXING_MATCH_PX)
        true, found, reported = true + len(truth), found + len(rows), reported + len(targets)
    return {
        "metric": "targets found %", "value": 100 * found / max(true, 1), "false": reported - found, "targets": true,
        "on": "2 simulated frames with 6 clusters and 4 single targets",
    }  # fmt: skip


def parity(case: BenchCase, engine: EngineProxy) -> dict[str, Any] | None:
    """Outputs for the last inputs against those of the fp32 model on ONNX Runtime.

    Returns:
        ``output``: the worst one's name; ``sqnr_db``: its signal to error ratio, at most 300; ``max_relative``:
        its largest error over its largest value. Both are None if it is not finite. None if there is
        no fp32 model.
    """
    found = float_model(case.subject)
    if found is None:
        return None
    with OnnxRuntimeEngine(found[1], threads=case.threads) as reference:
        return compare(engine.said, reference.infer(**engine.given))


def compare(outputs: Arrays, reference: Arrays) -> dict[str, Any]:
    """The worst of some outputs beside their reference; see :func:`parity`."""
    worst: dict[str, Any] = {}
    for name, wanted in reference.items():
        if name not in outputs:  # nobody read it
            continue
        error = outputs[name].astype(np.float64) - wanted
        signal = float((wanted.astype(np.float64) ** 2).sum())
        noise = float((error**2).sum())
        finite = bool(np.isfinite(error).all())
        ratio = -np.inf if not finite else np.inf if noise == 0 else 10 * np.log10(max(signal, 1e-300) / noise)
        if not worst or ratio < worst["ratio"]:
            largest = float(np.abs(error).max(initial=0.0)) / max(float(np.abs(wanted).max(initial=0.0)), 1e-30)
            worst = {"ratio": ratio, "output": name, "max_relative": largest if finite else None}
    ratio = worst.pop("ratio")
    return {"sqnr_db": None if ratio == -np.inf else min(ratio, 300.0), **worst}
