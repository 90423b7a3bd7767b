"""``glint evaluate``: score a model on labelled data, through the code that runs on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glint.benchmarks.evaluate.detection_scores import detector_prediction
from glint.benchmarks.evaluate.detector import DetectionData, detector_text, evaluate_detector, evaluate_predictions
from glint.benchmarks.evaluate.sets import evaluate_sets, sets_text
from glint.benchmarks.reporting.text import columns, figure
from glint.calibration.task_score import score_targets, task_patches
from glint.cards import ModelCard, require_task
from glint.data.boxes import is_boxed
from glint.data.csist import read_csist
from glint.errors import InputError
from glint.progress import Progress
from glint.runtime.engines.base import Engine
from glint.runtime.engines.choose import find_model, open_engine
from glint.runtime.pipeline.detector import Detector
from glint.runtime.unmixing.refine import RadiancePrior, refine_config
from glint.runtime.unmixing.unmix import run_unmixer
from glint.runtime.unmixing.unmixer import Unmixer
from glint.simulation.patches import Patches


def evaluate(
    model: str | Path | None = None,
    *,
    data: Path | Sequence[Path] | None = None,
    split: str = "val",
    protocol: str = "native",
    pred: Path | None = None,
    legacy: bool = False,
    against: str | None = None,
    backgrounds: Path | str | Sequence[Path] | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    condition: str = "8sat",
    number: int = 2000,
    seed: int = 1,
    radiance_prior: RadiancePrior = "card",
    engine: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> dict[str, Any]:
    """Score a model, or predictions that anything else made.

    A detector is scored on a SIRST-style folder, or on several sets in one table (``evaluate_sets``); an unmixer on a
    CSIST-100K folder or on fresh simulated patches: on its grid, off it, and refined.

    Args:
        model: name in the zoo, path of a model card, or a checkpoint (needs PyTorch); None with ``pred``.
        data: folder; needed for a detector. Several, or one of boxes (``glint.data.boxes``): one table of all.
        split, protocol: for a detector; protocols are those of ``detection_scores``.
        pred: folder of masks or probability maps to be scored instead of a model.
        legacy: report Pd and Fa of the greedy matching too.
        against: training split that must share no image; None: the one beside ``split``, if any; "none".
        backgrounds: folder of frames without targets, or "generated": also measures false alarms, Pd against
            signal-to-clutter ratio, and the flux of planted clusters. In a table of sets: one folder or several, of
            which false alarms are told.
        out: folder for ``report.html``, ``scores.json`` and pictures of the worst images.
        overwrite: replace what ``out`` holds.
        condition, number: of the simulated patches for an unmixer without ``data``.
        seed: of what is simulated.
        radiance_prior: mean and standard deviation for the refinement, DN; None if unknown; "card": what
            the model's card says.
        engine, precision, threads: what runs the network.

    Returns:
        Scores and what they were measured on.

    Raises:
        GlintError: one of its subclasses, for a bad model, data or argument.
    """
    if (model is None) == (pred is None):
        raise InputError("evaluate takes a model or predictions", hint="glint evaluate MODEL, or --pred FOLDER")
    sets = _Sets.of(data, backgrounds)
    if sets.table and (pred is not None or out is not None or legacy or "generated" in sets.backgrounds):
        raise InputError(
            "several sets are scored in one table, without --pred, --out, --legacy or generated skies",
            hint="score each set on its own, or leave these options away",
        )
    images = DetectionData(sets.root, split, protocol, legacy, against)
    if pred is not None:
        sets.refuse_backgrounds()
        return evaluate_predictions(pred, images, out=out, overwrite=overwrite)
    card, loaded = open_model(str(model), engine=engine, precision=precision, threads=threads)
    with loaded:
        common = {"model": card.name, "precision": card.precision, "engine": loaded.name}
        if card.task == "detect" and sets.table:
            return {**common, **_score_sets(Detector(loaded, card), sets, images)}
        if card.task == "detect":
            return evaluate_detector(
                Detector(loaded, card), images, backgrounds=sets.background, seed=seed, out=out, overwrite=overwrite
            )
        if out is not None or sets.backgrounds or sets.table:
            raise InputError(
                f"{card.name} unmixes: --out, --backgrounds and several sets are for detectors",
                hint="leave these options away, or name a detector",
            )
        patches, source = _patches(sets.root, condition, number, seed)
        return {**common, **source, **_score_unmixer(Unmixer(loaded, card), patches, radiance_prior)}


@dataclass(frozen=True)
class _Sets:
    """Folders of labelled data, and of frames without targets or "generated"."""

    roots: list[Path]
    backgrounds: list[Any]

    @staticmethod
    def of(data: Any, backgrounds: Any) -> _Sets:
        return _Sets(_listed(data), _listed(backgrounds))

    @property
    def table(self) -> bool:
        """Whether they are scored as one table of sets."""
        return len(self.roots) > 1 or len(self.backgrounds) > 1 or any(is_boxed(root) for root in self.roots)

    @property
    def root(self) -> Path | None:
        return self.roots[0] if self.roots else None

    @property
    def background(self) -> Any:
        return self.backgrounds[0] if self.backgrounds else None

    def refuse_backgrounds(self) -> None:
        if self.backgrounds:
            raise InputError(
                "--backgrounds needs a model: stored predictions cannot see planted targets",
                hint="leave --pred or --backgrounds away",
            )


def _listed(given: Any) -> list[Any]:
    """None, one or several as a list."""
    if given is None:
        return []
    return [given] if isinstance(given, (str, Path)) else list(given)


def open_model(
    model: str | Path,
    *,
    engine: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    task: str | None = None,
) -> tuple[ModelCard, Engine]:
    """Card and engine of a name in the zoo, a card, or a checkpoint (needs PyTorch).

    Raises:
        ModelError: if the model is missing, corrupt or made for another task.
        EngineError: if the engine cannot be used.
    """
    if Path(model).suffix == ".safetensors":
        from glint.benchmarks.torch_engine import open_checkpoint

        card, opened = open_checkpoint(Path(model), threads=threads)
        require_task(card, task)
        return card, opened
    card, path = find_model(model, engine=engine, precision=precision, task=task)
    return card, open_engine(card, path, engine=engine, threads=threads)


def _score_sets(detector: Detector, sets: _Sets, images: DetectionData) -> dict[str, Any]:
    return evaluate_sets(
        detector_prediction(detector), sets.roots, backgrounds=[Path(folder) for folder in sets.backgrounds],
        split=images.split, protocol=images.protocol, threshold=detector.spec.threshold, against=images.against,
        trained=detector.card.training.get("data", {}).get("negatives", []),
    )  # fmt: skip


def _patches(data: Path | None, condition: str, number: int, seed: int) -> tuple[Patches, dict[str, Any]]:
    """The patches of a folder, or simulated ones, and what they are."""
    if data is not None:
        return read_csist(data), {"data": data.name}
    patches = task_patches([condition], number=number, seed=seed)[condition]
    return patches, {"condition": condition, "number": number, "seed": seed}


def _score_unmixer(unmixer: Unmixer, patches: Patches, radiance_prior: RadiancePrior) -> dict[str, Any]:
    with Progress("evaluate", len(patches)) as line:
        done = run_unmixer(unmixer, patches, radiance_prior=radiance_prior, progress=line.update)
    ms = np.round(1e3 * np.array(done.seconds) / max(len(patches), 1), 4).tolist()
    return {
        "patches": len(patches),
        "radiance_prior": refine_config(unmixer.spec, radiance=radiance_prior).radiance,
        **{stage: score_targets(targets, patches).as_dict() for stage, targets in done.targets.items()},
        "ms_per_patch": dict(zip(("unmix", "refine"), ms)),
    }


def report_text(result: dict[str, Any]) -> str:
    """The scores for the terminal."""
    if "sets" in result:
        return sets_text(result)
    if "iou" in result:
        return detector_text(result)
    where = result.get("data") or f"{result['condition']}, seed {result['seed']}"
    table = [["", "CSO-mAP", "AP05", "AP10", "AP15", "AP20", "AP25", "count %", "RMSE px", "ms/patch"]]
    for name, stage in (("grid", "unmix"), ("network", "unmix"), ("refined", "refine")):
        row = result[name]
        shares = [figure(v, 2) for v in (row["cso_map"], *row["ap"])]
        cost = figure(result["ms_per_patch"][stage], 3)
        table.append([name, *shares, figure(row["count_accuracy"], 1), figure(row["position_rmse"], 3), cost])
    return "\n".join([f"{result['model']} on {result['patches']} patches ({where})", *columns(table)])
