"""Training DSCSNet on simulated patches."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from glint import grid
from glint.config import to_dict
from glint.crop import recentre
from glint.metrics.unmixing import score_unmixing
from glint.normalise import Normaliser
from glint.patches import CONDITIONS, CSIST_TRAINING, SENSOR_TRAINING, PatchConfig, Patches, simulate_patches
from glint.training.dscsnet import DSCSNet, DSCSNetConfig

RADIANCE_UNIT = 235.0  # DN; the loss is in units of the protocol's mean radiance

DOMAINS: dict[str, tuple[PatchConfig, Normaliser]] = {
    # The protocol's absolute radiance tells the count, so its scale is kept ...
    "csist": (CSIST_TRAINING, Normaliser("fixed", RADIANCE_UNIT)),
    # ... while a camera's gain is anybody's guess.
    "sensor": (SENSOR_TRAINING, Normaliser("peak", 1.0)),
}
THRESHOLD_DN = 50.0  # the paper's brightness threshold, for csist
THRESHOLD_SHARE = 0.2  # of the brightest cell, for sensor
VALIDATION_SEED = 20_000
VALIDATION_PATCHES = 2000


def decode_threshold(domain: str, grids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Radiance that a cell must exceed to count: the paper's 50 DN, or a share of the brightest cell."""
    if domain == "csist":
        return np.full(len(grids), THRESHOLD_DN)
    return THRESHOLD_SHARE * grids.max(axis=(1, 2))


class UnmixingTask:
    """DSCSNet on one domain: ``csist`` (the benchmark's protocol) or ``sensor`` (a real camera)."""

    best_metric = "cso_map"

    def __init__(self, network: str, config: DSCSNetConfig, domain: str) -> None:
        self.network, self.config, self.domain = network, config, domain
        self.scene, self.normaliser = DOMAINS[domain]
        self.data = {"domain": domain, "scene": to_dict(self.scene), "normaliser": to_dict(self.normaliser)}
        validation = CONDITIONS["8sat"] if domain == "csist" else self.scene
        self.validation = simulate_patches(validation, VALIDATION_PATCHES, np.random.default_rng(VALIDATION_SEED))

    def build(self) -> nn.Module:
        """A fresh DSCSNet."""
        return DSCSNet(self.config)

    def batch(self, size: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """``patch [N, 1, n, n]``, ``truth [N, 1, g, g]`` and ``scale [N, 1, 1, 1]`` (DN per unit)."""
        patches = simulate_patches(self.scene, size, rng)
        crops, left, top = recentre(patches.image, self.config.size)
        normalised = self.normaliser.apply(crops)
        truth = grid.encode(
            patches.x - left[:, None], patches.y - top[:, None], patches.radiance, self.config.size, self.config.cells
        )
        return {
            "patch": torch.from_numpy(normalised.value)[:, None],
            "truth": torch.from_numpy(truth)[:, None],
            "scale": torch.from_numpy(normalised.scale)[:, None],
        }

    def loss(self, model: nn.Module, batch: dict[str, Tensor], progress: float) -> Tensor:
        """Eq. 23: squared error of the grid, in units of 235 DN, summed over cells per patch."""
        error = (model(batch["patch"]).float() * batch["scale"] - batch["truth"]) / RADIANCE_UNIT
        return error.square().sum(dim=(1, 2, 3)).mean()

    def validate(self, model: nn.Module) -> dict[str, Any]:
        """CSO-mAP and its companions on a fixed set that no training seed draws."""
        patches = self.validation
        crops, left, top = recentre(patches.image, self.config.size)
        normalised = self.normaliser.apply(crops)
        device = next(model.parameters()).device
        inputs = torch.split(torch.from_numpy(normalised.value)[:, None].to(device), 256)
        grids = torch.cat([model(part).float().cpu() for part in inputs])[:, 0].numpy() * normalised.scale
        return self._score(patches, grids, left, top)

    def _score(self, patches: Patches, grids: Any, left: Any, top: Any) -> dict[str, Any]:
        which, x, y, radiance = grid.decode(grids, self.config.cells, decode_threshold(self.domain, grids))
        score = score_unmixing(
            which, x + left[which], y + top[which], radiance, radiance,
            truth_x=patches.x, truth_y=patches.y, truth_radiance=patches.radiance,
        )  # fmt: skip
        return {k: np.round(v, 4).tolist() for k, v in asdict(score).items()}
