"""Other methods made ready to be called by the bench."""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from glint.benchmarks.bench.cases import BenchCase
from glint.benchmarks.bench.subjects import Subject, Times, bench_frames, bench_patches
from glint.cards import load_card
from glint.runtime.pipeline.detector import Detector
from glint.simulation.patches import CONDITIONS, Patches
from glint.training.networks.registry import NETWORKS
from glint.types import Frame, Targets

UNMIXER = "dscsnet-s-csist"  # made for the benchmark's protocol, as its peers are
DETECTOR = "lsnet-s"
UNET = "unet-s"  # of as many multiply-accumulates
CLASSICAL = ("template", "nnls-fit", "fista", "ista")
GRID_NETWORKS = tuple(name for name, network in NETWORKS.items() if network.learns == "grid")
_WEIGHTS = {"fista": 5.0, "ista": 8.0}  # of the l1 norm, DN; what glint.benchmarks.tables.unmixing tunes them to
_LEAST_PATCHES = 64
# Function of glint.benchmarks.peers.saliency and settings; those that tuning on SIRST tends to choose.
SALIENCY: dict[str, tuple[str, dict[str, Any]]] = {
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

    def __init__(self, case: BenchCase) -> None:
        self.amount = case.batch
        self.solve, self._facts = _solver(case)
        number = case.batch * max(1, _LEAST_PATCHES // case.batch)
        self.patches = bench_patches(load_card(UNMIXER)[0], number)
        self.turn = 0

    def call(self) -> Times:
        start = self.turn * self.amount % len(self.patches)
        rows = slice(start, start + self.amount)
        self.turn += 1
        began = time.perf_counter()
        self.solve(self.patches.image[rows], self.patches.full_scale[rows])
        return {"total": 1e3 * (time.perf_counter() - began)}

    def facts(self) -> dict[str, Any]:
        return self._facts

    def targets(self, patches: Patches) -> Targets:
        """What it makes of patches."""
        return self.solve(patches.image, patches.full_scale)


def open_peer(case: BenchCase) -> Subject:
    """Make a peer ready."""
    return DetectionPeer(case) if case.task == "peer detect" else UnmixingPeer(case)


class DetectionPeer(Subject):
    """Another method that finds targets in a frame: only its map of where they may be is timed."""

    def __init__(self, case: BenchCase) -> None:
        self.frames = cycle(bench_frames(case))
        self.find, self._facts = _unet(case) if case.subject == UNET else _saliency(case)

    def call(self) -> Times:
        frame = next(self.frames)
        began = time.perf_counter()
        self.find(frame)
        return {"total": 1e3 * (time.perf_counter() - began)}

    def facts(self) -> dict[str, Any]:
        return self._facts


def _saliency(case: BenchCase) -> tuple[Callable[[Frame], Any], dict[str, Any]]:
    name, settings = SALIENCY[case.subject]
    function = getattr(importlib.import_module("glint.benchmarks.peers.saliency"), name)
    return lambda frame: function(frame.data, **settings), {"name": "numpy", "settings": {**settings}}


def _unet(case: BenchCase) -> tuple[Callable[[Frame], Any], dict[str, Any]]:
    import torch

    from glint.benchmarks.torch_engine import TorchEngine
    from glint.config import to_dict
    from glint.training.networks.registry import build, preset

    torch.set_num_threads(case.threads)
    card, _ = load_card(DETECTOR)
    network = build(UNET, to_dict(preset(UNET))).eval()
    engine = TorchEngine(network, card.inputs, card.outputs)
    detector = Detector(engine, card)
    return detector, engine.details()


def _solver(case: BenchCase) -> tuple[Solve, dict[str, Any]]:
    if case.subject in GRID_NETWORKS:
        return _grid_network(case)
    from glint.benchmarks.tables.unmixing import classical_solver

    return classical_solver(case.subject, _WEIGHTS, CONDITIONS["8sat"].radiance), {"name": "numpy"}


def _grid_network(case: BenchCase) -> tuple[Solve, dict[str, Any]]:
    import torch

    from glint.benchmarks.peers.grid_network import GridNetwork

    checkpoint = Path(case.checkpoint) if case.checkpoint else None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = GridNetwork(case.subject, checkpoint, threads=case.threads, device=device)
    return lambda patches, limit: network(patches), network.facts
