"""``glint bench peers``: glint beside other ways to do the same, on the same data, in the same turns.

Detectors without a network are timed here; what they find depends on tuning, which is the business of
``glint.benchmarks.detection_peers``.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.benchmarks.bench_case import Case, weights_key
from glint.benchmarks.bench_run import QUICK, Bench, Effort
from glint.benchmarks.bench_subject import Subject, Times, bench_frames, bench_patches
from glint.cards import load_card
from glint.patches import CONDITIONS, Patches
from glint.runtime.detector import Detector
from glint.types import Frame, Targets

UNMIXER = "dscsnet-s-csist"  # made for the benchmark's protocol, as its peers are
DETECTOR = "lsnet-s"
UNET = "unet-s"  # of as many multiply-accumulates
CLASSICAL = ("template", "nnls-fit", "fista", "ista")
NETWORKS = ("dista-net", "focus")
_WEIGHTS = {"fista": 5.0, "ista": 8.0}  # of the l1 norm, DN; what glint.benchmarks.unmixing_table tunes them to
_VARIETY = 64
# Function of glint.benchmarks.saliency and settings; those that tuning on SIRST tends to choose.
_SALIENCY: dict[str, tuple[str, dict[str, Any]]] = {
    "top-hat": ("top_hat", {"size": 9}),
    "mpcm": ("patch_contrast", {"scales": (3, 5, 7, 9)}),
    "ipi": ("patch_image", {"weight": 1.0}),
}

Solve = Callable[[NDArray[Any], NDArray[Any]], Targets]


class UnmixingPeer(Subject):
    """Another method that takes patches apart.

    Attributes:
        solve: patches ``[N, n, n]`` and full scale ``[N]`` -> targets.
    """

    unit = "patches"

    def __init__(self, case: Case) -> None:
        self.amount = case.batch
        self.solve, self._facts = _solver(case)
        number = case.batch * max(1, _VARIETY // case.batch)
        self.patches = bench_patches(load_card(UNMIXER)[0], number)
        self.turn = 0

    def call(self) -> Times:
        """See :class:`Subject`."""
        start = self.turn * self.amount % len(self.patches)
        rows = slice(start, start + self.amount)
        self.turn += 1
        began = time.perf_counter()
        self.solve(self.patches.image[rows], self.patches.full_scale[rows])
        return {"total": 1e3 * (time.perf_counter() - began)}

    def facts(self) -> dict[str, Any]:
        """See :class:`Subject`."""
        return self._facts

    def targets(self, patches: Patches) -> Targets:
        """What it makes of patches."""
        return self.solve(patches.image, patches.full_scale)


def open_peer(case: Case) -> Subject:
    """Make a peer ready."""
    return DetectionPeer(case) if case.task == "peer detect" else UnmixingPeer(case)


class DetectionPeer(Subject):
    """Another method that finds targets in a frame: only its map of where they may be is timed."""

    def __init__(self, case: Case) -> None:
        self.frames = bench_frames(case)
        self.turn = 0
        self.find, self._facts = _unet(case) if case.subject == UNET else _saliency(case)

    def call(self) -> Times:
        """See :class:`Subject`."""
        frame = self.frames[self.turn % len(self.frames)]
        self.turn += 1
        began = time.perf_counter()
        self.find(frame)
        return {"total": 1e3 * (time.perf_counter() - began)}

    def facts(self) -> dict[str, Any]:
        """See :class:`Subject`."""
        return self._facts


def _saliency(case: Case) -> tuple[Callable[[Frame], Any], dict[str, Any]]:
    name, settings = _SALIENCY[case.subject]
    function = getattr(importlib.import_module("glint.benchmarks.saliency"), name)
    return lambda frame: function(frame.data, **settings), {"name": "numpy", "settings": {**settings}}


def _unet(case: Case) -> tuple[Callable[[Frame], Any], dict[str, Any]]:
    import torch

    from glint.benchmarks.torch_engine import TorchEngine
    from glint.config import to_dict
    from glint.training.networks import PRESETS, build

    torch.set_num_threads(case.threads)
    card, _ = load_card(DETECTOR)
    network = build(UNET, to_dict(PRESETS[UNET])).eval()
    engine = TorchEngine(network, card.inputs, card.outputs)
    detector = Detector(engine, card)
    return detector, engine.details()


def _solver(case: Case) -> tuple[Solve, dict[str, Any]]:
    if case.subject in NETWORKS:
        return _grid_network(case)
    from glint.benchmarks.unmixing_table import classical_method

    ((_, stage),) = classical_method(case.subject, _WEIGHTS).make(CONDITIONS["8sat"].radiance)
    return lambda patches, limit: stage(patches, limit, Targets()), {"name": "numpy"}


def _grid_network(case: Case) -> tuple[Solve, dict[str, Any]]:
    """A network that answers on the grid, in PyTorch; without a checkpoint its answers are noise."""
    import torch

    from glint.config import from_dict, to_dict
    from glint.normalise import Normaliser
    from glint.training.grid_task import decode_patches
    from glint.training.networks import PRESETS, build, load_model
    from glint.training.unmixing import DOMAINS

    torch.set_num_threads(case.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if case.checkpoint is None:
        config, domain, normaliser = PRESETS[case.subject], "csist", DOMAINS["csist"][1]
        model = build(case.subject, to_dict(config)).eval()
    else:
        info, model = load_model(Path(case.checkpoint))
        config = from_dict(type(PRESETS[info.network]), info.config, where=case.checkpoint)
        domain = info.data["domain"]
        normaliser = from_dict(Normaliser, info.data["normaliser"], where=case.checkpoint)

    model.to(device)

    def solve(patches: NDArray[Any], limit: NDArray[Any]) -> Targets:
        patch, x, y, radiance = decode_patches(model, config, domain, normaliser, patches)
        unknown = np.full(len(x), np.nan)
        return Targets(
            x=x, y=y, radiance=radiance, sigma_x=unknown, sigma_y=unknown, sigma_radiance=unknown, blob=patch,
            score=radiance / (radiance + 1), flags=np.zeros(len(x), dtype=np.int64),
        )  # fmt: skip

    facts = {"name": "torch", "torch": torch.__version__, "threads": torch.get_num_threads(), "device": device}
    return solve, facts


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
    from glint.benchmarks.bench import Report, ask_limits, weights_by_key

    effort = replace(QUICK, deadline=None) if quick else Effort()
    effort = effort if seconds is None else replace(effort, seconds=seconds)
    common = Case("", "", threads=threads, batch=batch)
    weights = weights_by_key(checkpoints)
    groups = [unmixing_cases(common, weights), detection_cases(common, weights)]
    runner = Bench(effort, judging={"patches": effort.patches}, total=len(groups))
    report = Report(command, effort, [], runner, groups[0][0].name, threads=threads)

    def measure() -> None:
        report.limits = ask_limits(common, effort.limits)
        for group in groups:
            runner.group(group)

    return report.fill(measure)


def detection_cases(common: Case, checkpoints: dict[str, str]) -> list[Case]:
    """The rows of the comparison of detectors, glint first."""
    own = replace(common, subject=DETECTOR, task="detect")
    peer = replace(common, task="peer detect", precision="fp64")
    cases = [own, *(replace(peer, subject=name, engine="numpy") for name in _SALIENCY)]
    if importlib.util.find_spec("torch") is not None:
        card = load_card(DETECTOR)[0]
        key = weights_key(card.network, card.training)
        cases.append(replace(own, engine="torch", checkpoint=checkpoints.get(key)))
        cases.append(replace(peer, subject=UNET, engine="torch", precision="fp32"))
    return cases


def unmixing_cases(common: Case, checkpoints: dict[str, str]) -> list[Case]:
    """The rows of the unmixing comparison, glint first."""
    card = load_card(UNMIXER)[0]
    own = replace(common, subject=UNMIXER, task="unmix")
    cases = [own]
    peer = replace(common, task="peer unmix", precision="fp64")
    cases += [replace(peer, subject=name, engine="numpy") for name in CLASSICAL]
    if importlib.util.find_spec("torch") is not None:
        cases.append(replace(own, engine="torch", checkpoint=checkpoints.get(weights_key(card.network, card.training))))
        in_torch = replace(peer, engine="torch", precision="fp32")
        cases += [replace(in_torch, subject=name, checkpoint=checkpoints.get(f"{name} csist")) for name in NETWORKS]
    return cases
