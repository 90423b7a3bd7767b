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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint import __version__
from glint.benchmarks.peers.sparse import Ista, NnlsFit, tune_ista
from glint.benchmarks.peers.template_fit import TemplateFit, TemplateFitConfig
from glint.benchmarks.reporting import markdown as md
from glint.cards import load_card, zoo_names
from glint.cli import positive_int, print_json, seed, standalone, talk, words
from glint.config import to_dict
from glint.errors import InputError
from glint.files import known, read_json, refuse_existing, write_bytes, write_json
from glint.metrics.unmixing import THRESHOLDS, score_unmixing
from glint.optics import Psf
from glint.progress import Progress
from glint.runtime.unmixing.patch_unmixing import unmix_known
from glint.runtime.unmixing.refine import prepare_refinement, refine_config
from glint.runtime.unmixing.unmixer import Unmixed, Unmixer
from glint.simulation.patches import CONDITIONS, CSIST_TRAINING, PatchConfig, Patches, simulate_patches
from glint.training.networks.registry import entry, load_model
from glint.types import Targets

BATCH = 256
TUNING_SEED = 30_000  # of the patches on which ISTA's weight is chosen
_TUNING_PATCHES = 256
_WARM_UP = 16  # patches that a method sees before it is timed: caches, memory
CLASSICAL = ("template", "template-level", "nnls-fit", "fista", "ista")

Array = NDArray[Any]
Solve = Callable[[Array, Array], Targets]
Stages = list[tuple[str, Callable[[Array, Array, Targets], Targets]]]


@dataclass(frozen=True)
class Method:
    """A row of the table, or several: the stages of one method, each working on the one before.

    Attributes:
        name: of the method.
        make: radiance range -> stages; a stage takes patches ``[N, n, n]``, full scale ``[N]`` and the
            targets of the stage before (none for the first).
    """

    name: str
    make: Callable[[tuple[float, float]], Stages]


def prior_of(radiance: tuple[float, float]) -> tuple[float, float]:
    """Mean and standard deviation of a uniform distribution."""
    low, high = radiance
    return (low + high) / 2, (high - low) / math.sqrt(12)


def classical_method(name: str, weights: dict[str, float]) -> Method:
    """A method without a network; ``weights`` of the l1 norm are those of ``fista`` and ``ista``."""

    def make(radiance: tuple[float, float]) -> Stages:
        solve: Solve
        if name in ("template", "template-level"):
            solve = TemplateFit(TemplateFitConfig(radiance=radiance, level=name == "template-level"))
        elif name == "nnls-fit":
            solve = NnlsFit()
        else:
            solve = _ista(name, weights[name])
        return [("", lambda patches, limit, _: solve(patches, limit))]

    return Method(name, make)


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
            return Method(name, lambda radiance: [("grid", lambda patches, limit, _: network(patches))])
        card, engine = open_checkpoint(Path(model), threads=1)
        unmixer = Unmixer(engine, card)
        name = f"{card.name} ({Path(model).parent.name})"
    else:
        unmixer = Unmixer.open(model, threads=1)
        name = unmixer.card.name

    def make(radiance: tuple[float, float]) -> Stages:
        psf, config = Psf(unmixer.spec.sigma), refine_config(unmixer.spec, radiance=prior_of(radiance))
        prepare_refinement(psf)
        last: list[Unmixed] = []  # what the network said of the patches that the stages are at

        def on_grid(patches: Array, limit: Array, _: Targets) -> Targets:
            last[:] = [unmixer(patches, full_scale=limit[:, None, None])]
            return last[0].on_grid()

        def off_grid(patches: Array, limit: Array, _: Targets) -> Targets:
            return last[0].targets()

        def refined(patches: Array, limit: Array, _: Targets) -> Targets:
            return unmix_known(patches, last[0].candidates, psf, full_scale=limit[:, None, None], config=config)

        return [("grid", on_grid), ("network", off_grid), ("refined", refined)]

    return Method(name, make)


def measure(method: Method, condition: PatchConfig, patches: Patches) -> list[dict[str, Any]]:
    """Scores of a method's stages on patches: one row each, with its time from the beginning."""
    stages = method.make(condition.radiance)
    found: list[list[Targets]] = [[] for _ in stages]
    seconds = np.zeros(len(stages))
    with Progress(method.name, len(patches)) as line:
        for start in (-1, *range(0, len(patches), BATCH)):  # -1: the warm-up
            rows = slice(0, _WARM_UP) if start < 0 else slice(start, start + BATCH)
            targets = Targets()
            for i, (_, solve) in enumerate(stages):
                began = time.process_time()
                targets = solve(patches.image[rows], patches.full_scale[rows], targets)
                if start >= 0:
                    seconds[i] += time.process_time() - began
                    found[i].append(Targets(**{**vars(targets), "blob": targets.blob + start}))
            line.update(max(start, 0))
    rows_out = []
    for (stage, _), parts, spent in zip(stages, found, np.cumsum(seconds)):
        all_found = Targets.concatenate(parts)
        score = score_unmixing(
            all_found.blob, all_found.x, all_found.y, all_found.radiance, all_found.score,
            truth_x=patches.x, truth_y=patches.y, truth_radiance=patches.radiance,
        )  # fmt: skip
        values = {k: np.round(v, 4).tolist() for k, v in asdict(score).items() if k != "patches"}
        name = f"{method.name}, {stage}" if stage else method.name
        row = {"method": name, **values, "ms_per_patch": round(1e3 * float(spent) / max(len(patches), 1), 4)}
        rows_out.append(known(row))
    return rows_out


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

    Args:
        out: folder.
        conditions: names in ``patches.CONDITIONS``.
        methods: classical ones.
        models: names in the zoo, cards or checkpoints; None: every unmixer of the zoo.
        patches, seed: what is simulated for each condition.
        resume: keep the rows that the folder holds for the same settings.
        overwrite: replace them.

    Returns:
        What the JSON file holds.

    Raises:
        InputError: if a condition or method is unknown, or the folder's rows are of other settings.
        GlintError: another of its subclasses, for a bad model or output.
    """
    for what, given, there in (("condition", conditions, CONDITIONS), ("method", methods, CLASSICAL)):
        unknown = [name for name in given if name not in there]
        if unknown:
            raise InputError(f"unknown {what} {unknown[0]!r}", hint=f"known: {', '.join(there)}")
    if models is None:
        models = [name.removesuffix(".fp32") for name in zoo_names() if name.endswith(".fp32")]
        models = [name for name in models if load_card(name)[0].task == "unmix"]
    path = out / "unmixing.json"
    settings = {"glint": __version__, "patches": patches, "seed": seed, "batch": BATCH}
    table: dict[str, Any] = {**settings, "conditions": {}, "rows": []}
    if resume and path.is_file():
        table = read_json(path, what="table", kind=dict)
        other = [k for k, v in settings.items() if table.get(k) != v]
        if other:
            raise InputError(f"{path} was measured with other settings ({', '.join(other)})", hint="drop --resume")
    else:
        refuse_existing(path, overwrite=overwrite)
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
            write_json(path, table)
            write_bytes(path.with_suffix(".md"), markdown(table).encode())
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
        scores = [md.figure(row["cso_map"] if row else None, 1) for row in found]
        return [name, *scores, md.figure(cost["ms_per_patch"], 3)]

    def everything(row: dict[str, Any]) -> list[str]:
        figures = [md.figure(v, 2) for v in (row["cso_map"], *row["ap"], row["count_accuracy"])]
        rest = [("position_rmse", 4), ("radiance_error", 2), ("ms_per_patch", 3)]
        return [row["method"], *figures, *(md.figure(row[key], digits) for key, digits in rest)]

    text = [
        f"CSO-mAP in %, {table['patches']} fresh patches for each condition, seed {table['seed']}; ms per patch on",
        f"one core (batch {table['batch']}) under 8sat.",
        "",
        *md.table(["method", *conditions, "ms"], map(summary, names)),
    ]
    precisions = [f"AP{round(100 * t):02d}" for t in THRESHOLDS]
    head = ["method", "CSO-mAP", *precisions, "count %", "RMSE px", "radiance %", "ms"]
    for condition in conditions:
        found = [by_place[name, condition] for name in names if (name, condition) in by_place]
        text += ["", f"### {condition}", "", *md.table(head, map(everything, found))]
    return "\n".join(text) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the module."""
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for unmixing.json and unmixing.md")
    parser.add_argument("--patches", type=positive_int, default=10_000, help="per condition (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=1, help="of the patches (default: %(default)s)")
    parser.add_argument("--conditions", type=words, default=list(CONDITIONS), metavar="A,B", help="default: all")
    parser.add_argument(
        "--methods", type=words, default=list(CLASSICAL), metavar="A,B", help="classical (default: all)"
    )
    parser.add_argument(
        "--model", action="append", metavar="NAME|CARD|CHECKPOINT", help="again for more (default: all of the zoo)"
    )
    parser.add_argument("--resume", action="store_true", help="keep what the folder holds and add what is missing")
    parser.add_argument("--overwrite", action="store_true", help="replace what the folder holds")
    parser.add_argument("--json", action="store_true", help="print the table as JSON instead of Markdown")


def main(arguments: argparse.Namespace) -> int:
    """Run the module."""
    table = unmixing_table(
        arguments.out, conditions=arguments.conditions, methods=arguments.methods, models=arguments.model,
        patches=arguments.patches, seed=arguments.seed, resume=arguments.resume, overwrite=arguments.overwrite,
    )  # fmt: skip
    if arguments.json:
        print_json(table)
    else:
        print(markdown(table), end="")
    return 0


if __name__ == "__main__":
    sys.exit(standalone("Measure all unmixing methods under all conditions.", add_arguments, main))
