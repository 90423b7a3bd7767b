"""``glint train``: train a network, with checkpoints and exact resume."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glint.cli import options_of, positive_int, print_json, talk
from glint.errors import InputError, OutputError
from glint.training.networks.registry import NETWORKS, entry, load_model, preset

if TYPE_CHECKING:
    from glint.optics import PsfEstimate
    from glint.training.checkpoint import CheckpointInfo
    from glint.training.loop import Recipe, Task
    from glint.training.tasks.data_sets import DataSet

_TRAINED_SIGMA_PX = (0.3, 0.8)  # sigma that a network's window of 7 pixels suits
_LEAST_SIGMA_SPREAD_SHARE = 0.02  # of sigma, relative: what no measurement of a PSF is better than


def train(
    network: str,
    out: Path,
    *,
    data: Path | Sequence[DataSet | Path] | None = None,
    backgrounds: Sequence[Path] = (),
    validate_on: int | None = None,
    hard: Path | None = None,
    domain: str = "sensor",
    psf: PsfEstimate | str | Path | float | None = None,
    minutes: float = 0.0,
    resume: bool = False,
    init: Path | None = None,
    device: str = "cpu",
    threads: int | None = None,
    compiled: bool = False,
    **recipe: Any,
) -> dict[str, Any]:
    """Train a network.

    Args:
        network: ``dscsnet``, ``dscsnet-s``, ``lsnet``, ``lsnet-s``, a comparator of DSCSNet (``dista-net`` or
            ``focus``) or one of LSNet (``unet-s``).
        out: folder for ``last`` and ``best`` checkpoints and ``log.jsonl``.
        data: folder of labelled images, or several with their shares (LSNet, U-Net): of masks
            (``glint.data.datasets``) or of boxes (``glint.data.boxes``).
        backgrounds: folders of frames without targets, beside ``backgrounds/`` in the sets; every second frame is
            held back for measuring.
        validate_on: most frames of each set and folder that a validation looks at; None: all.
        hard: places of false alarms to train on again, a file of ``python -m glint.training.mine`` (LSNet, U-Net).
        domain: ``csist`` or ``sensor`` (DSCSNet and its comparators).
        psf: of one camera, whose width the patches get: what ``glint psf`` measured, its file, or sigma in pixels;
            None: the domain's.
        minutes: time budget instead of steps.
        resume: continue from ``out/last.safetensors``.
        init: checkpoint whose averaged weights a new run starts from; recorded with its hash. Of another
            size of DSCSNet the target head is taken.
        device: ``cpu`` or ``cuda``; of several processes that ``torchrun`` started, each takes a GPU of its own.
        threads: CPU threads.
        compiled: fuse the step by TorchInductor, which needs a C++ compiler on a CPU.
        recipe: fields of ``loop.Recipe`` that differ from the network's default.

    Returns:
        The last validation.

    Raises:
        GlintError: one of its subclasses, for bad arguments, data or checkpoints.
    """
    _check_data(network, data)
    import torch

    from glint.training.checkpoint import load_checkpoint
    from glint.training.distributed import join
    from glint.training.loop import Trainer

    last = _last_of(out, resume=resume)
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch sees no GPU here", hint="leave it away to train on the CPU")
    if threads:
        torch.set_num_threads(threads)
    task, default = _task(network, data, domain, backgrounds, validate_on, hard, psf)
    if resume:
        info, _ = load_checkpoint(last)
        default = _resumed(info, recipe, init, last)
        minutes = minutes or (0.0 if "steps" in recipe else default.minutes)
        if "init" in info.data:
            task.data["init"] = info.data["init"]
    elif init is not None:
        info, model = load_model(init)
        task.data["init"] = {name: getattr(info, name) for name in ("network", "sha256", "step", "data")}
    with join(device) as ranks:
        settings = replace(default, minutes=minutes, **recipe)
        trainer = Trainer(task, settings, out, device=device, ranks=ranks, compiled=compiled)
        if resume:
            trainer.resume(last)
        elif init is not None:
            trainer.start_from(info, model)
        if ranks.rank == 0:
            talk(f"training {network} into {out}, from step {trainer.step}")
        return trainer.fit()


def _check_data(network: str, data: Path | Sequence[DataSet | Path] | None) -> None:
    """Refuse sets of which something is wrong before a library that is missing is told."""
    if entry(network).learns == "detection":
        from glint.training.tasks.data_sets import checked_sets

        checked_sets(data or ())


def _last_of(out: Path, *, resume: bool) -> Path:
    """The checkpoint of a run that goes on in a folder, or will be there of one that begins."""
    last = out / "last.safetensors"
    if last.exists() and not resume:
        raise OutputError(f"{out} holds a training run", hint="pass --resume to continue it, or choose another --out")
    if resume and not last.exists():
        raise InputError(
            f"--resume: {last} does not exist", hint="leave --resume away to begin, or name the folder of a run"
        )
    return last


def _resumed(info: CheckpointInfo, recipe: dict[str, Any], init: Path | None, last: Path) -> Recipe:
    """The recipe of the run that goes on; a new one may only ask for other steps."""
    from glint.config import from_dict
    from glint.training.loop import Recipe

    default = from_dict(Recipe, info.recipe, where=str(last))
    changed = [n for n, v in recipe.items() if n != "steps" and v != getattr(default, n)]
    if changed or init is not None:
        what = ", ".join(f"--{n.replace('_', '-')}" for n in changed) or "--init"
        raise InputError(
            f"--resume continues with the settings of the run; {what} cannot be changed",
            hint="leave the changed options away, or begin in a new --out with --init",
        )
    return default


def _task(
    network: str, data: Path | Sequence[DataSet | Path] | None, domain: str, backgrounds: Sequence[Path],
    validate_on: int | None, hard: Path | None, psf: PsfEstimate | str | Path | float | None,
) -> tuple[Task, Recipe]:  # fmt: skip
    """What there is to learn, and how by default."""
    from glint.training.loop import Recipe

    learns, recipe = entry(network).learns, Recipe(lr=entry(network).learning_rate, optimizer=entry(network).optimizer)
    if learns == "detection":
        from glint.training.tasks.detection import DetectionTask
        from glint.training.tasks.hard import HardPlaces

        if psf is not None:
            raise InputError(
                f"training {network} takes no --psf: only networks that unmix are trained for a PSF",
                hint="leave --psf away",
            )
        if not data:
            raise InputError(f"training {network} needs labelled images", hint="--data FOLDER with images/ and masks/")
        recipe = replace(recipe, batch=8, weight_decay=2e-2, warmup=100, validate_every=250, ema=0.998)
        places = HardPlaces.read(hard) if hard else None
        return DetectionTask(
            network, preset(network), data, backgrounds=backgrounds, validate_on=validate_on, hard=places
        ), recipe
    from glint.training.tasks.grid import GridTask
    from glint.training.tasks.unmixing import UnmixingTask

    task = GridTask if learns == "grid" else UnmixingTask
    if psf is None:
        return task(network, preset(network), domain), recipe
    estimate = _estimate(psf)
    return task(network, replace(preset(network), sigma=estimate.sigma), domain, _widths(estimate)), recipe


def _estimate(psf: PsfEstimate | str | Path | float) -> PsfEstimate:
    from glint.optics import PsfEstimate, load_psf

    if isinstance(psf, PsfEstimate):
        return psf
    try:
        return PsfEstimate(float(str(psf)), 0.0)
    except ValueError:
        return load_psf(Path(str(psf)))


def _widths(psf: PsfEstimate) -> tuple[float, float]:
    """Least and largest sigma of the patches: as uncertain as it was measured, 2 % at least.

    Raises:
        InputError: if the network's window does not suit such a PSF.
    """
    low, high = _TRAINED_SIGMA_PX
    if not low <= psf.sigma <= high:
        raise InputError(
            f"--psf: expected a sigma of {low:g} to {high:g} px to train for, got {psf.sigma:g}",
            hint="wider spots need no network of their own: glint run --psf averages them to the network's width",
        )
    half = max(_LEAST_SIGMA_SPREAD_SHARE * psf.sigma, math.sqrt(3) * math.hypot(psf.sigma_error, psf.scatter))
    return round(psf.sigma - half, 6), round(psf.sigma + half, 6)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``glint train``."""
    parser.add_argument("network", choices=list(NETWORKS))
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="checkpoints and log")
    parser.add_argument(
        "--data", action="append", metavar="FOLDER[=SHARE]",
        help="labelled frames (lsnet): images/ with masks/ or points.json; several, with shares of the crops",
    )  # fmt: skip
    parser.add_argument(
        "--backgrounds", action="append", type=Path, default=[], metavar="FOLDER",
        help="frames without targets (lsnet), beside backgrounds/ in the sets; every second one is held back",
    )  # fmt: skip
    parser.add_argument(
        "--validate-on",
        type=positive_int,
        metavar="N",
        help="frames of each set for a validation (lsnet; default: all)",
    )
    parser.add_argument(
        "--hard", type=Path, metavar="FILE", help="false alarms to train on again (lsnet), of glint.training.mine"
    )
    parser.add_argument(
        "--psf",
        metavar="FILE|SIGMA",
        help="train for one camera: file of glint psf, or its sigma in pixels (dscsnet)",
    )
    parser.add_argument("--domain", choices=("csist", "sensor"), default="sensor", help="patches (dscsnet)")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--steps", type=positive_int, help="optimisation steps (default: 10000)")
    budget.add_argument("--minutes", type=float, default=0.0, help="time budget instead of steps")
    parser.add_argument(
        "--batch", type=positive_int, help="samples per step, all processes together (default: dscsnet 128, lsnet 8)"
    )
    parser.add_argument("--lr", type=float, help="peak (default: dscsnet 2e-3, dscsnet-s 4e-3, lsnet 2e-3)")
    parser.add_argument("--seed", type=int, help="of weights and data (default: 1)")
    parser.add_argument("--validate-every", type=positive_int, metavar="STEPS", help="also writes a checkpoint")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument(
        "--init", type=Path, metavar="CHECKPOINT",
        help="start a new run from these weights (dscsnet: from the target head of dscsnet-s, too)",
    )  # fmt: skip
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--amp", choices=("bf16", "fp16", "off"), help="autocast; fp16 on a GPU only (default: bf16)")
    parser.add_argument("--threads", type=positive_int, help="CPU threads (default: PyTorch's choice)")
    parser.add_argument(
        "--compile", action="store_true", help="fuse the step (minutes at the start; needs a C++ compiler)"
    )
    parser.add_argument("--json", action="store_true", help="print the last validation as JSON")


def main(arguments: argparse.Namespace) -> int:
    """Run ``glint train``."""
    from glint.training.tasks.data_sets import DataSet

    names = ("steps", "batch", "lr", "seed", "validate_every", "amp")
    recipe = {n: getattr(arguments, n) for n in names if getattr(arguments, n) is not None}
    sets = [DataSet.parse(text) for text in arguments.data or []]
    metrics = train(**options_of(train, arguments, data=sets, compiled=arguments.compile), **recipe)
    from glint.training.distributed import is_first  # with PyTorch

    if is_first():
        figures = ", ".join(f"{name} {value:g}" for name, value in metrics.items() if isinstance(value, int | float))
        talk(f"done: {figures}; its curves are in {arguments.out / 'curves.png'}")
        if arguments.json:
            print_json(metrics)
    return 0
