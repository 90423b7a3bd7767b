"""``glint bench peers``: glint beside other ways to do the same, on the same data, in the same turns.

Detectors without a network are timed here; what they find depends on tuning, which is the business of
``glint.benchmarks.tables.detection``.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from glint.benchmarks.bench.cases import BenchCase, weights_key
from glint.benchmarks.bench.peer_subjects import CLASSICAL, DETECTOR, GRID_NETWORKS, SALIENCY, UNET, UNMIXER
from glint.benchmarks.bench.turns import QUICK, Bench, Effort
from glint.cards import load_card


def peers(
    *,
    batch: int = 64,
    threads: int = 1,
    seconds: float | None = None,
    quick: bool = False,
    checkpoints: Sequence[Path] = (),
    command: str = "",
) -> dict[str, Any]:
    """Measure glint beside its peers, in turns.

    Unmixing: ``dscsnet-s-csist`` with refinement on ONNX Runtime and without it in PyTorch where that is
    installed, the template fit, non-negative least squares with a fit, FISTA and ISTA, and the networks
    DISTA-Net and FOCUS in PyTorch. Detection: ``lsnet-s`` in the same way, top-hat, MPCM, IPI, and a U-Net in PyTorch.

    Args:
        batch: patches per call.
        threads: of the CPU; most peers use one only.
        seconds: measured per row; default: 10, or 1.2 with ``quick``.
        quick: less time per row.
        checkpoints: weights of networks in PyTorch; without, their times are measured and not their answers.
        command: what the user typed, for the report.

    Returns:
        A report like that of ``bench``.

    Raises:
        GlintError: one of its subclasses, if a checkpoint is unusable.
    """
    from glint.benchmarks.bench.report import Report, ask_limits, weights_by_key

    effort = replace(QUICK, deadline=None) if quick else Effort()
    effort = effort if seconds is None else replace(effort, seconds=seconds)
    common = BenchCase("", "", threads=threads, batch=batch)
    weights = weights_by_key(checkpoints)
    groups = [unmixing_cases(common, weights), detection_cases(common, weights)]
    runner = Bench(effort, judging={"patches": effort.patches}, total=len(groups))
    report = Report(command, effort, [], runner, groups[0][0].name, threads=threads)

    def measure() -> None:
        report.limits = ask_limits(common, effort.limits)
        for group in groups:
            runner.group(group)

    return report.fill(measure)


def detection_cases(common: BenchCase, checkpoints: dict[str, str]) -> list[BenchCase]:
    """The rows of the comparison of detectors, glint first."""
    own = replace(common, subject=DETECTOR, task="detect")
    peer = replace(common, task="peer detect", precision="fp64")
    cases = [own, *(replace(peer, subject=name, engine="numpy") for name in SALIENCY)]
    if importlib.util.find_spec("torch") is not None:
        card = load_card(DETECTOR)[0]
        key = weights_key(card.network, card.training)
        cases.append(replace(own, engine="torch", checkpoint=checkpoints.get(key)))
        cases.append(replace(peer, subject=UNET, engine="torch", precision="fp32"))
    return cases


def unmixing_cases(common: BenchCase, checkpoints: dict[str, str]) -> list[BenchCase]:
    """The rows of the unmixing comparison, glint first."""
    card = load_card(UNMIXER)[0]
    own = replace(common, subject=UNMIXER, task="unmix")
    cases = [own]
    peer = replace(common, task="peer unmix", precision="fp64")
    cases += [replace(peer, subject=name, engine="numpy") for name in CLASSICAL]
    if importlib.util.find_spec("torch") is not None:
        cases.append(replace(own, engine="torch", checkpoint=checkpoints.get(weights_key(card.network, card.training))))
        in_torch = replace(peer, engine="torch", precision="fp32")
        cases += [
            replace(in_torch, subject=name, checkpoint=checkpoints.get(f"{name} csist")) for name in GRID_NETWORKS
        ]
    return cases
