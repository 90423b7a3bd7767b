"""Training the comparators of DSCSNet that answer with a grid alone, on the same patches and loss."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from glint import grid
from glint.config import to_dict
from glint.crop import recentre
from glint.metrics.unmixing import score_unmixing
from glint.normalise import Normaliser
from glint.patches import CONDITIONS, simulate_patches
from glint.training import networks
from glint.training.unmixing import (
    DOMAINS,
    RADIANCE_UNIT,
    VALIDATION_PATCHES,
    VALIDATION_SEED,
    decode_threshold,
)

_BATCH = 256  # patches at a time outside training: bounds the memory


class GridTask:
    """A network from patches to radiance grids, ``[N, 1, n, n]`` -> ``[N, 1, g, g]``, on one domain.

    Args:
        network: name of the preset.
        config: of the network; has ``size`` and ``cells``.
        domain: ``csist`` or ``sensor``.
    """

    best_metric = "cso_map"

    def __init__(self, network: str, config: Any, domain: str) -> None:
        self.network, self.config, self.domain = network, config, domain
        self.scene, self.normaliser = DOMAINS[domain]
        self.data = {"domain": domain, "scene": to_dict(self.scene), "normaliser": to_dict(self.normaliser)}
        validation = CONDITIONS["8sat"] if domain == "csist" else self.scene
        self.validation = simulate_patches(validation, VALIDATION_PATCHES, np.random.default_rng(VALIDATION_SEED))

    def build(self) -> nn.Module:
        """A fresh network."""
        return networks.build(self.network, to_dict(self.config))

    def batch(self, size: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """``patch [N, 1, n, n]``, ``truth [N, 1, g, g]`` and ``scale [N, 1, 1, 1]`` (DN per unit)."""
        patches = simulate_patches(self.scene, size, rng)
        n, cells = self.config.size, self.config.cells
        crops, left, top = recentre(patches.image, n)
        normalised = self.normaliser.apply(crops)
        truth = grid.encode(patches.x - left[:, None], patches.y - top[:, None], patches.radiance, n, cells)
        return {
            "patch": torch.from_numpy(normalised.value)[:, None],
            "truth": torch.from_numpy(truth)[:, None],
            "scale": torch.from_numpy(normalised.scale)[:, None],
        }

    def loss(self, model: nn.Module, batch: dict[str, Tensor], progress: float) -> Tensor:
        """Squared error of the grid, in units of 235 DN, summed over cells per patch."""
        error = (model(batch["patch"]).float() * batch["scale"] - batch["truth"]) / RADIANCE_UNIT
        return error.square().sum(dim=(1, 2, 3)).mean()

    def validate(self, model: nn.Module) -> dict[str, Any]:
        """CSO-mAP and its companions on the set that DSCSNet is validated on."""
        truth = self.validation
        patch, x, y, radiance = decode_patches(model, self.config, self.domain, self.normaliser, truth.image)
        score = score_unmixing(
            patch, x, y, radiance, radiance, truth_x=truth.x, truth_y=truth.y, truth_radiance=truth.radiance
        )
        return {k: np.round(v, 4).tolist() for k, v in asdict(score).items()}


def decode_patches(
    model: nn.Module, config: Any, domain: str, normaliser: Normaliser, patches: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """What a grid network finds in patches ``float32 [N, n, n]``, DN.

    Returns:
        patch number ``int64 [M]``, x ``[M]``, y ``[M]`` in patch pixels, radiance ``[M]`` in DN.
    """
    crops, left, top = recentre(patches, config.size)
    normalised = normaliser.apply(crops)
    device = next(model.parameters()).device
    inputs = torch.split(torch.from_numpy(normalised.value)[:, None].to(device), _BATCH)
    with torch.no_grad():
        grids = torch.cat([model(part).float().cpu() for part in inputs])[:, 0].numpy() * normalised.scale
    which, x, y, radiance = grid.decode(grids, config.cells, decode_threshold(domain, grids))
    return which, x + left[which], y + top[which], radiance
