"""Networks that answer on the grid alone (DISTA-Net, FOCUS), in PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from glint.config import from_dict, to_dict
from glint.processing.normalise import Normaliser
from glint.training.networks.registry import build, load_model, preset
from glint.training.tasks.grid import decode_patches
from glint.training.tasks.unmixing import DOMAINS
from glint.types import Targets


class GridNetwork:
    """Takes patches ``[N, n, n]``, DN, apart; the targets' uncertainties are unknown.

    Args:
        network: name; that of the checkpoint counts if there is one.
        checkpoint: weights; without them the answers are noise.
        threads: of the CPU.
        device: ``cpu`` or ``cuda``.

    Raises:
        ModelError: if the checkpoint is unusable.
    """

    def __init__(self, network: str, checkpoint: Path | None, *, threads: int, device: str = "cpu") -> None:
        torch.set_num_threads(threads)
        if checkpoint is None:
            self.domain, self.normaliser = "csist", DOMAINS["csist"][1]
            model = build(network, to_dict(preset(network))).eval()
        else:
            info, model = load_model(checkpoint)
            self.domain = info.data["domain"]
            self.normaliser = from_dict(Normaliser, info.data["normaliser"], where=str(checkpoint))
        self.model = model.to(device)
        self.facts = {"name": "torch", "torch": torch.__version__, "threads": threads, "device": device}

    def __call__(self, patches: NDArray[Any]) -> Targets:
        """Targets in patch pixels; ``blob`` is the number of the patch."""
        patch, x, y, radiance = decode_patches(self.model, self.model.config, self.domain, self.normaliser, patches)
        unknown = np.full(len(x), np.nan)
        return Targets(
            x=x, y=y, radiance=radiance, sigma_x=unknown, sigma_y=unknown, sigma_radiance=unknown, blob=patch,
            score=radiance / (radiance + 1), flags=np.zeros(len(x), dtype=np.int64),
        )  # fmt: skip
