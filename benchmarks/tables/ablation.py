"""What each part of DSCSNet is worth: ``python -m glint.benchmarks.tables.ablation --out FOLDER --minutes M``.

Trains variants of one network, each with the same budget, seed and data (domain ``csist``), and scores
their grids under the paper's decoding: cells above 50 DN at their centres, ranked by radiance. The parts
are Table II (modules left out) and Fig. 8 (stages, dynamic weight, memory of DIR). Every variant
trains in a folder of its own; a call that was interrupted continues where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glint.benchmarks.reporting.text import figure, markdown_table
from glint.benchmarks.tables.table_file import TableFile, refuse_unknown
from glint.benchmarks.tool import Tool
from glint.benchmarks.torch_engine import open_checkpoint
from glint.cli import positive_float, positive_int, seed, talk, words
from glint.config import to_dict
from glint.errors import InputError
from glint.metrics.unmixing import UnmixingScore, score_unmixing
from glint.processing import grid
from glint.runtime.unmixing.unmixer import Unmixer
from glint.simulation.patches import CONDITIONS, simulate_patches
from glint.training.checkpoint import load_checkpoint
from glint.training.loop import Recipe, Trainer
from glint.training.networks.dscsnet import PRESETS, DSCSNetConfig
from glint.training.networks.registry import NETWORKS
from glint.training.tasks.unmixing import THRESHOLD_DN, UnmixingTask

PARTS = ("modules", "stages", "weight", "memory")
TEST_SEED = 40_000
# CSO-mAP that the paper states (Table II, "no DIR" by its columns; Fig. 8).
PAPER = {
    "full": 46.36, "no DCN": 44.90, "no DIR": 45.35, "no DTG": 45.94, "ADMM-CSNet": 43.64,
    "stages 6": 46.36, "weight 0.7": 46.36, "weight 1.0": 45.3, "memory 3": 46.36,
}  # fmt: skip


def variants(base: DSCSNetConfig, parts: Sequence[str]) -> dict[str, DSCSNetConfig]:
    """Configurations by name, ``full`` first; several names may mean the same configuration.

    Raises:
        InputError: if there is no such part.
    """
    refuse_unknown("part", parts, PARTS)
    chosen: dict[str, DSCSNetConfig] = {"full": base}
    for part in parts:
        if part == "modules":
            chosen["no DCN"] = replace(base, dynamic_weight=0.0)
            chosen["no DIR"] = replace(base, use_dir=False)
            chosen["no DTG"] = replace(base, use_dtg=False)
            chosen["ADMM-CSNet"] = replace(base, dynamic_weight=0.0, use_dir=False, use_dtg=False)
        elif part == "stages":
            for n in (2, 4, 6, 8, 10):
                chosen[f"stages {n}"] = replace(base, stages=n, memory=min(n, base.memory))
        elif part == "weight":
            for share in (0.0, 0.3, 0.5, 0.7, 0.9, 1.0):
                chosen[f"weight {share}"] = replace(base, dynamic_weight=share)
        else:  # memory
            for m in range(1, base.stages + 1):
                chosen[f"memory {m}"] = replace(base, memory=m)
    return chosen


def folder_name(config: DSCSNetConfig, base: DSCSNetConfig) -> str:
    """What differs from the base, e.g. ``dynamic_weight=0.0,use_dir=False``; ``base`` if nothing does."""
    differing = {k: v for k, v in asdict(config).items() if getattr(base, k) != v}
    return ",".join(f"{k}={v}" for k, v in sorted(differing.items())) or "base"


def ablation(
    out: Path,
    *,
    network: str = "dscsnet",
    parts: Sequence[str] = PARTS,
    minutes: float = 0.0,
    steps: int | None = None,
    batch: int = 128,
    seed: int = 1,
    device: str = "cpu",
    compiled: bool = False,
    condition: str = "8sat",
    patches: int = 10_000,
) -> dict[str, Any]:
    """Train and score the variants; write ``ablation.json`` and ``ablation.md`` into a folder, again after each.

    Arguments are the options of the tool. What is trained in the folder already is not trained again.

    Returns:
        What the JSON file holds.

    Raises:
        InputError: if a name is unknown, no budget is given, or the folder holds trainings of another kind.
    """
    refuse_unknown("network", [network], PRESETS)
    refuse_unknown("condition", [condition], CONDITIONS)
    if (minutes > 0) == (steps is not None):
        raise InputError("a training needs a budget", hint="give --minutes or --steps, not both")
    base = PRESETS[network]
    recipe = Recipe(
        lr=NETWORKS[network].learning_rate, batch=batch, seed=seed, minutes=minutes, steps=steps or Recipe.steps
    )
    chosen = variants(base, parts)
    different = {folder_name(c, base) for c in chosen.values()}
    budget = f"{minutes:g} minutes" if minutes else f"{steps} steps"
    talk(f"{len(chosen)} variants of {network}, {len(different)} trainings of {budget} each")
    table: dict[str, Any] = {
        "network": network, "recipe": to_dict(recipe), "condition": condition, "patches": patches, "rows": [],
    }  # fmt: skip
    file = TableFile(out / "ablation.json", markdown)
    scored: dict[str, dict[str, Any]] = {}
    for name, config in chosen.items():
        folder = folder_name(config, base)
        if folder not in scored:
            talk(f"{name}: {folder}")
            checkpoint = _train(UnmixingTask(network, config, "csist"), recipe, out / folder, device, compiled)
            scored[folder] = _score(checkpoint, condition, patches)
        paper = PAPER.get(name) if network == "dscsnet" else None
        table["rows"].append({"variant": name, "folder": folder, "paper": paper, **scored[folder]})
        file.write(table)
    return table


def _train(task: UnmixingTask, recipe: Recipe, folder: Path, device: str, compiled: bool) -> Path:
    """Train a variant to the end of its budget, from where it stopped; returns its last checkpoint."""
    last = folder / "last.safetensors"
    torch._dynamo.reset()  # a variant is compiled anew; after eight in one process, PyTorch would compile no more
    trainer = Trainer(task, recipe, folder, device=device, compiled=compiled)
    if last.is_file():
        info, _ = load_checkpoint(last)
        if info.recipe != to_dict(recipe):
            raise InputError(
                f"{folder} was trained with another recipe",
                hint="use the same budget, batch and seed, or another --out",
            )
        trainer.resume(last)
    if trainer.progress < 1:
        trainer.fit()
    return last


def _score(checkpoint: Path, condition: str, number: int) -> dict[str, Any]:
    """The grid's scores under the paper's decoding, and the size of the network."""
    card, engine = open_checkpoint(checkpoint)
    unmixer = Unmixer(engine, card)
    truth = simulate_patches(CONDITIONS[condition], number, np.random.default_rng(TEST_SEED))
    unmixed = unmixer(truth.image, full_scale=truth.full_scale[:, None, None])
    patch, x, y, radiance = grid.decode(unmixed.grids, unmixer.spec.cells, THRESHOLD_DN)
    score: UnmixingScore = score_unmixing(
        patch, x + unmixed.left[patch], y + unmixed.top[patch], radiance, radiance,
        truth_x=truth.x, truth_y=truth.y, truth_radiance=truth.radiance,
    )  # fmt: skip
    steps = int(card.training["step"])
    size = {"parameters": card.parameters, "batch_gmac": round(64e-9 * card.macs, 3), "steps": steps}
    return {**size, **score.as_dict()}


def markdown(table: dict[str, Any]) -> str:
    """The table as Markdown."""
    recipe = table["recipe"]
    budget = f"{recipe['minutes']:g} minutes" if recipe["minutes"] else f"{recipe['steps']} steps"
    head = ["variant", "parameters M", "GMAC / 64", "steps", "CSO-mAP", "AP05", "AP10", "AP15", "AP20", "AP25"]

    def cells(row: dict[str, Any]) -> list[str]:
        size = [f"{row['parameters'] / 1e6:.3f}", f"{row['batch_gmac']:.2f}", str(row["steps"])]
        figures = [row["cso_map"], *row["ap"], row["count_accuracy"], row["paper"]]
        return [row["variant"], *size, *(figure(v, 2) for v in figures)]

    text = [
        f"{table['network']}, {budget} of training per variant; grid output on {table['patches']} patches",
        f"({table['condition']}), threshold 50 DN.",
        "",
        *markdown_table([*head, "count %", "paper"], map(cells, table["rows"])),
    ]
    return "\n".join(text) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="trainings and the table")
    parser.add_argument(
        "--network", default="dscsnet", choices=list(PRESETS), help="to start from (default: %(default)s)"
    )
    parser.add_argument("--parts", type=words, default=list(PARTS), metavar="A,B", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--minutes", type=positive_float, default=0.0, help="of training per variant")
    parser.add_argument("--steps", type=positive_int, help="of training per variant instead of minutes")
    parser.add_argument("--batch", type=positive_int, default=128, help="default: %(default)s")
    parser.add_argument("--seed", type=seed, default=1, help="of weights and data (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--compile", action="store_true", dest="compiled", help="fuse the steps (about a minute at each start)"
    )
    parser.add_argument("--condition", choices=list(CONDITIONS), default="8sat", help="default: %(default)s")
    parser.add_argument("--patches", type=positive_int, default=10_000, help="to score on (default: %(default)s)")


TOOL = Tool("Train and compare variants of DSCSNet.", ablation, add_arguments, text=markdown)


if __name__ == "__main__":
    sys.exit(TOOL())
