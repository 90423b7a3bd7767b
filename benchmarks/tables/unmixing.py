"""The table of unmixing methods: ``python -m glint.benchmarks.tables.unmixing --out FOLDER``.

Every method sees the same fresh patches of every condition and is told what a user would know: the
radiance range, the saturation level, and a PSF of 0.5 px. Rows are ranked by each method's own
score. Times are those of the processor (all threads added up), in batches of 256, so that they mean one
core and do not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from glint import __version__
from glint.benchmarks.peers.sparse import Ista, NnlsFit, tune_ista
from glint.benchmarks.peers.template_fit import TemplateFit, TemplateFitConfig
from glint.benchmarks.reporting.text import figure, markdown_table
from glint.benchmarks.tables.table_file import TableFile, add_table_arguments, refuse_unknown, released
from glint.benchmarks.tool import Tool
from glint.calibration.task_score import score_targets
from glint.cli import positive_int, seed, talk, words
from glint.config import to_dict
from glint.errors import InputError
from glint.metrics.unmixing import THRESHOLDS
from glint.optics import Psf
from glint.progress import Progress
from glint.runtime.unmixing.refine import prepare_refinement, refine_config
from glint.runtime.unmixing.unmix import unmix_patches
from glint.runtime.unmixing.unmixer import Unmixer
from glint.simulation.patches import CONDITIONS, CSIST_TRAINING, PatchConfig, Patches, simulate_patches
from glint.training.networks.registry import entry, load_model
from glint.types import Targets

PATCHES_PER_BATCH = 256
TUNING_SEED = 30_000  # of the patches on which ISTA's weight is chosen
_TUNING_PATCHES = 256
_WARM_UP_PATCHES = 16  # patches that a method sees before it is timed: caches, memory
CLASSICAL = ("template", "template-level", "nnls-fit", "fista", "ista")

Array = NDArray[Any]
Solve = Callable[[Array, Array], Targets]


class Stage(NamedTuple):
    """What a method says of all patches after one of its stages, and the seconds since its beginning."""

    name: str
    found: Targets
    seconds: float


Run = Callable[[Array, Array, Callable[[int], None]], list[Stage]]


@dataclass(frozen=True)
class Method:
    """A row of the table, or several: the stages of one method.

    Attributes:
        name: of the method.
        make: radiance range -> what takes patches ``[N, n, n]``, their full scale ``[N]`` and a call that is told
            the number of patches done, and gives the stages.
    """

    name: str
    make: Callable[[tuple[float, float]], Run]


def in_batches(solve: Solve, stage: str = "") -> Run:
    """A method of one stage, which takes a batch ``[N, n, n]`` and its full scale ``[N]``."""

    def run(patches: Array, limit: Array, progress: Callable[[int], None]) -> list[Stage]:
        parts, seconds = [], 0.0
        for start in range(0, len(patches), PATCHES_PER_BATCH):
            rows = slice(start, start + PATCHES_PER_BATCH)
            began = time.process_time()
            targets = solve(patches[rows], limit[rows])
            seconds += time.process_time() - began
            parts.append(replace(targets, blob=targets.blob + start))
            progress(min(start + PATCHES_PER_BATCH, len(patches)))
        return [Stage(stage, Targets.concatenate(parts), seconds)]

    return run


def prior_of(radiance: tuple[float, float]) -> tuple[float, float]:
    """Mean and standard deviation of a uniform distribution."""
    low, high = radiance
    return (low + high) / 2, (high - low) / math.sqrt(12)


def classical_solver(name: str, weights: dict[str, float], radiance: tuple[float, float]) -> Solve:
    """A method without a network; ``weights`` of the l1 norm are those of ``fista`` and ``ista``."""
    if name in ("template", "template-level"):
        return TemplateFit(TemplateFitConfig(radiance=radiance, level=name == "template-level"))
    return NnlsFit() if name == "nnls-fit" else _ista(name, weights[name])


def classical_method(name: str, weights: dict[str, float]) -> Method:
    """A row of :func:`classical_solver`."""
    return Method(name, lambda radiance: in_batches(classical_solver(name, weights, radiance)))


def _ista(name: str, weight: float) -> Ista:
    return Ista(weight, 200, accelerated=True) if name == "fista" else Ista(weight, 500)


def network_method(model: str) -> Method:
    """A model of the zoo, a card, or a checkpoint (needs PyTorch): on its grid; off it and refined if it is ours."""
    if Path(model).suffix == ".safetensors":
        from glint.benchmarks.peers.grid_network import GridNetwork
        from glint.benchmarks.torch_engine import open_checkpoint

        info, _ = load_model(Path(model))
        if entry(info.network).learns == "grid":
            network = GridNetwork(info.network, Path(model), threads=1)
            name = f"{info.network} ({Path(model).parent.name})"
            return Method(name, lambda radiance: in_batches(lambda patches, limit: network(patches), "grid"))
        card, engine = open_checkpoint(Path(model), threads=1)
        unmixer = Unmixer(engine, card)
        name = f"{card.name} ({Path(model).parent.name})"
    else:
        unmixer = Unmixer.open(model, threads=1)
        name = unmixer.card.name

    def make(radiance: tuple[float, float]) -> Run:
        psf, config = Psf(unmixer.spec.sigma), refine_config(unmixer.spec, radiance=prior_of(radiance))
        prepare_refinement(psf)

        def run(patches: Array, limit: Array, progress: Callable[[int], None]) -> list[Stage]:
            done = unmix_patches(
                unmixer, unmixer.check(patches), psf, config, full_scale=limit[:, None, None], progress=progress,
                clock=time.process_time,
            )  # fmt: skip
            network, refinement = map(float, done.seconds)
            spent = {"grid": network, "network": network, "refined": network + refinement}
            return [Stage(stage, done.targets[stage], seconds) for stage, seconds in spent.items()]

        return run

    return Method(name, make)


def measure(method: Method, condition: PatchConfig, patches: Patches) -> list[dict[str, Any]]:
    """Scores of a method's stages on patches: one row each, with its time from the beginning."""
    run = method.make(condition.radiance)
    run(patches.image[:_WARM_UP_PATCHES], patches.full_scale[:_WARM_UP_PATCHES], lambda done: None)
    with Progress(method.name, len(patches)) as line:
        stages = run(patches.image, patches.full_scale, line.update)
    rows = []
    for stage, found, seconds in stages:
        name = f"{method.name}, {stage}" if stage else method.name
        cost = round(1e3 * seconds / max(len(patches), 1), 4)
        rows.append({"method": name, **score_targets(found, patches).as_dict(), "ms_per_patch": cost})
    return rows


def unmixing_table(
    out: Path,
    *,
    conditions: Sequence[str] = tuple(CONDITIONS),
    methods: Sequence[str] = CLASSICAL,
    models: Sequence[str] | None = None,
    patches: int = 10_000,
    seed: int = 1,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Measure and write ``unmixing.json`` and ``unmixing.md`` into a folder, again after every method.

    Arguments are the options of the tool.

    Returns:
        What the JSON file holds.

    Raises:
        InputError: if a condition or method is unknown, or the folder's rows are of other settings.
        GlintError: another of its subclasses, for a bad model or output.
    """
    refuse_unknown("condition", conditions, CONDITIONS)
    refuse_unknown("method", methods, CLASSICAL)
    models = released("unmix") if models is None else models
    file = TableFile(out / "unmixing.json", markdown)
    settings = {"glint": __version__, "patches": patches, "seed": seed, "batch": PATCHES_PER_BATCH}
    table = file.begin(settings, resume=resume, overwrite=overwrite)
    table.setdefault("conditions", {})
    table["weights"] = weights = table.get("weights") or _tuned(methods)
    runs = [classical_method(n, weights) for n in methods] + [network_method(str(m)) for m in models]
    twice = [m.name for i, m in enumerate(runs) if m.name in {other.name for other in runs[:i]}]
    if twice:
        raise InputError(f"two methods are called {twice[0]!r}", hint="checkpoints are told apart by their folders")
    for name in conditions:
        config = CONDITIONS[name]
        fresh = simulate_patches(config, patches, np.random.default_rng(seed))
        table["conditions"][name] = to_dict(config)
        for method in runs:
            done = {row["method"].split(", ")[0] for row in table["rows"] if row["condition"] == name}
            if method.name in done:
                continue
            for row in measure(method, config, fresh):
                table["rows"].append({"condition": name, **row})
                talk(f"{name:<11}{row['method']:<36}CSO-mAP {row['cso_map']:6.2f}  {row['ms_per_patch']:8.3f} ms")
            file.write(table)
    return table


def _tuned(methods: Sequence[str]) -> dict[str, float]:
    """The weight of the l1 norm for each method that has one, chosen on patches of the training scene."""
    names = [n for n in ("fista", "ista") if n in methods]
    if not names:
        return {}
    scene = simulate_patches(CSIST_TRAINING, _TUNING_PATCHES, np.random.default_rng(TUNING_SEED))
    weights = {}
    for name in names:
        talk(f"tuning {name}")
        weights[name] = tune_ista(_ista(name, 1.0), scene).weight
    return weights


def markdown(table: dict[str, Any]) -> str:
    """The table as Markdown: CSO-mAP of all methods by condition, then everything, condition by condition."""
    rows, conditions = table["rows"], list(table["conditions"])
    names = list(dict.fromkeys(row["method"] for row in rows))
    by_place = {(row["method"], row["condition"]): row for row in rows}

    def summary(name: str) -> list[str]:
        found = [by_place.get((name, c)) for c in conditions]
        cost = by_place.get((name, "8sat")) or next(row for row in found if row)
        scores = [figure(row["cso_map"] if row else None, 1) for row in found]
        return [name, *scores, figure(cost["ms_per_patch"], 3)]

    def everything(row: dict[str, Any]) -> list[str]:
        figures = [figure(v, 2) for v in (row["cso_map"], *row["ap"], row["count_accuracy"])]
        rest = [("position_rmse", 4), ("radiance_error", 2), ("ms_per_patch", 3)]
        return [row["method"], *figures, *(figure(row[key], digits) for key, digits in rest)]

    text = [
        f"CSO-mAP in %, {table['patches']} fresh patches for each condition, seed {table['seed']}; ms per patch on",
        f"one core (batch {table['batch']}) under 8sat.",
        "",
        *markdown_table(["method", *conditions, "ms"], map(summary, names)),
    ]
    precisions = [f"AP{round(100 * t):02d}" for t in THRESHOLDS]
    head = ["method", "CSO-mAP", *precisions, "count %", "RMSE px", "radiance %", "ms"]
    for condition in conditions:
        found = [by_place[name, condition] for name in names if (name, condition) in by_place]
        text += ["", f"### {condition}", "", *markdown_table(head, map(everything, found))]
    return "\n".join(text) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    add_table_arguments(parser, "unmixing", CLASSICAL)
    parser.add_argument("--patches", type=positive_int, default=10_000, help="per condition (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=1, help="of the patches (default: %(default)s)")
    parser.add_argument("--conditions", type=words, default=list(CONDITIONS), metavar="A,B", help="default: all")


TOOL = Tool("Measure all unmixing methods under all conditions.", unmixing_table, add_arguments, text=markdown)


if __name__ == "__main__":
    sys.exit(TOOL())
