"""``glint evaluate``: score a model on labelled data, through the code that runs on the device."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from glint.calibration.task_score import ALL_CONDITIONS, count_detector, run_unmixer, score_targets, task_patches
from glint.cards import ModelCard, load_card
from glint.cli import positive_int, print_json, seed
from glint.csist import read_csist
from glint.datasets import labelled_images, read_split
from glint.errors import InputError
from glint.metrics.detection import MATCHINGS, score_detection
from glint.metrics.unmixing import UnmixingScore
from glint.patches import Patches
from glint.progress import Progress
from glint.runtime.detector import Detector
from glint.runtime.engine import Engine, open_engine
from glint.runtime.options import add_engine_arguments, add_refine_arguments, engine_of
from glint.runtime.refine import RadiancePrior, refine_config
from glint.runtime.unmixer import Unmixer


def evaluate(
    model: str | Path,
    *,
    data: Path | None = None,
    split: str = "val",
    matching: str = "one-to-one",
    condition: str = "8sat",
    number: int = 2000,
    seed: int = 1,
    radiance_prior: RadiancePrior = "card",
    engine: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
) -> dict[str, Any]:
    """Score a model.

    A detector is scored on a SIRST-style folder at each image's own size; an unmixer on a
    CSIST-100K folder or on fresh simulated patches: on its grid, off it, and refined.

    Args:
        model: name in the zoo, path of a model card, or a checkpoint (needs PyTorch).
        data: folder; needed for a detector.
        split, matching: for a detector.
        condition, number, seed: of the simulated patches for an unmixer without ``data``.
        radiance_prior: mean and standard deviation for the refinement, DN; None if unknown; "card": what
            the model's card says.
        engine, precision, threads: what runs the network.

    Returns:
        Scores and what they were measured on.

    Raises:
        GlintError: one of its subclasses, for a bad model, data or argument.
    """
    card, loaded = _open(model, engine, precision, threads)
    with loaded:
        common = {"model": card.name, "precision": card.precision, "engine": loaded.name}
        if card.task == "detect":
            if data is None:
                raise InputError("evaluating a detector needs labelled images", hint="--data FOLDER")
            return {**common, **_score_detector(Detector(loaded, card), data, split, matching)}
        if data is not None:
            patches, source = read_csist(data), {"data": data.name}
        else:
            patches = task_patches([condition], number=number, seed=seed)[condition]
            source = {"condition": condition, "number": number, "seed": seed}  # type: ignore[dict-item]
        return {**common, **source, **_score_unmixer(Unmixer(loaded, card), patches, radiance_prior)}


def _open(model: str | Path, engine: str, precision: str, threads: int | None) -> tuple[ModelCard, Engine]:
    if Path(model).suffix == ".safetensors":
        from glint.benchmarks.torch_engine import open_checkpoint

        return open_checkpoint(Path(model), threads=threads)
    card, path = load_card(model, precision=precision)
    return card, open_engine(path, engine=engine, threads=threads)


def _score_detector(detector: Detector, data: Path, split: str, matching: str) -> dict[str, Any]:
    with Progress("evaluate", len(read_split(data, split))) as line:
        counts = count_detector(detector, labelled_images(data, split), matching=matching, progress=line.update)
    score = score_detection(counts, matching=matching)
    return {
        "data": data.name,
        "split": split,
        "protocol": "native",
        "threshold": detector.spec.threshold,
        **{k: None if v != v else v for k, v in asdict(score).items()},  # JSON knows no NaN
    }


def _score_unmixer(unmixer: Unmixer, patches: Patches, radiance_prior: RadiancePrior) -> dict[str, Any]:
    with Progress("evaluate", len(patches)) as line:
        done = run_unmixer(unmixer, patches, radiance_prior=radiance_prior, progress=line.update)
    ms = np.round(1e3 * np.array(done.seconds) / max(len(patches), 1), 4).tolist()
    return {
        "patches": len(patches),
        "radiance_prior": refine_config(unmixer.spec, radiance=radiance_prior).radiance,
        **{stage: _rounded(score_targets(targets, patches)) for stage, targets in done.targets.items()},
        "ms_per_patch": dict(zip(("unmix", "refine"), ms)),
    }


def _rounded(score: UnmixingScore) -> dict[str, Any]:
    values = {k: np.round(v, 4).tolist() for k, v in asdict(score).items() if k != "patches"}
    return {k: None if v != v else v for k, v in values.items()}


def _text(result: dict[str, Any]) -> str:
    if "iou" in result:
        source = (
            f"{result['model']} on {result['data']}/{result['split']} ({result['images']} images, {result['protocol']})"
        )
        shown = {k: "-" if result[k] is None else f"{result[k]:.2f}" for k in ("iou", "niou", "f1", "pd")}
        scores = "  ".join(f"{k} {v}" for k, v in shown.items())
        return f"{source}\n{scores}  fa {result['fa']:.1f}e-6  ({result['matching']})"
    where = result.get("data") or f"{result['condition']}, seed {result['seed']}"
    lines = [f"{result['model']} on {result['patches']} patches ({where})"]
    lines.append("           CSO-mAP   AP05   AP10   AP15   AP20   AP25  count %  RMSE px  ms/patch")
    for name, stage in (("grid", "unmix"), ("network", "unmix"), ("refined", "refine")):
        row = result[name]
        aps = "".join(f"{v:7.2f}" for v in row["ap"])
        rmse = f"{row['position_rmse']:9.3f}" if row["position_rmse"] is not None else "        -"
        cost = f"{result['ms_per_patch'][stage]:10.3f}"
        lines.append(f"{name:<10} {row['cso_map']:7.2f}{aps}{row['count_accuracy']:9.1f}{rmse}{cost}")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``glint evaluate``."""
    parser.add_argument("model", help="name in the zoo, model card, or checkpoint (*.safetensors)")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="SIRST-style (detector) or CSIST-100K (unmixer)")
    parser.add_argument("--split", default="val", help="of a SIRST-style folder (default: %(default)s)")
    parser.add_argument("--matching", choices=MATCHINGS, default="one-to-one", help="of components, for Pd and Fa")
    parser.add_argument(
        "--condition", choices=ALL_CONDITIONS, default="8sat", help="of simulated patches (default: 8sat)"
    )
    parser.add_argument("--number", type=positive_int, default=2000, help="simulated patches (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=1, help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")
    add_engine_arguments(parser)
    add_refine_arguments(parser, switch=False)


def main(arguments: argparse.Namespace) -> int:
    """Run ``glint evaluate``."""
    result = evaluate(
        arguments.model, data=arguments.data, split=arguments.split, matching=arguments.matching,
        condition=arguments.condition, number=arguments.number, seed=arguments.seed,
        radiance_prior=arguments.radiance_prior, engine=engine_of(arguments), precision=arguments.precision,
        threads=arguments.threads,
    )  # fmt: skip
    if arguments.json:
        print_json(result)
    else:
        print(_text(result))
    return 0
