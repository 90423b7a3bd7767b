"""Training the comparators of DSCSNet that answer with a grid alone, on the same patches and loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from glint.config import to_dict
from glint.metrics.unmixing import score_unmixing
from glint.processing import grid
from glint.processing.crop import recentre
from glint.processing.normalise import Normaliser
from glint.progress import Progress
from glint.simulation.patches import CONDITIONS, simulate_patches
from glint.training.networks import registry as networks
from glint.training.tasks.unmixing import VALIDATION_PATCHES, VALIDATION_SEED, UnmixingTask, decode_threshold, grid_loss

_PATCHES_PER_BATCH = 256  # patches at a time outside training: bounds the memory


class GridTask(UnmixingTask):
    """A network from patches to radiance grids alone, ``[N, 2, n, n]`` -> ``[N, 1, g, g]``, on one domain.

    Args:
        network: name of the preset.
        config: of the network; has ``size`` and ``cells``.
        domain: ``csist`` or ``sensor``.
        sigma: as of ``UnmixingTask``.
    """

    def __init__(self, network: str, config: Any, domain: str, sigma: tuple[float, float] | None = None) -> None:
        super().__init__(network, config, domain, sigma)
        if domain == "csist":
            self.validation = simulate_patches(
                CONDITIONS["8sat"], VALIDATION_PATCHES, np.random.default_rng(VALIDATION_SEED)
            )

    def build(self) -> nn.Module:
        """A fresh network."""
        return networks.build(self.network, to_dict(self.config))

    def loss(self, model: nn.Module, batch: dict[str, Tensor], progress: Tensor) -> Tensor:
        """Squared error of the grid, in units of 235 DN, summed over cells per patch."""
        return grid_loss(model(batch["patch"]), batch)

    def validate(self, model: nn.Module) -> dict[str, Any]:
        """CSO-mAP and its companions on the set that DSCSNet is validated on."""
        truth = self.validation
        with Progress("validate", len(truth)) as line:
            patch, x, y, radiance = decode_patches(
                model, self.config, self.domain, self.normaliser, truth.image, progress=line.update
            )
        score = score_unmixing(
            patch, x, y, radiance, radiance, truth_x=truth.x, truth_y=truth.y, truth_radiance=truth.radiance
        )
        return {k: np.round(v, 4).tolist() for k, v in asdict(score).items()}


def decode_patches(
    model: nn.Module,
    config: Any,
    domain: str,
    normaliser: Normaliser,
    patches: NDArray[np.float32],
    *,
    progress: Callable[[int], None] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """What a grid network finds in patches ``float32 [N, n, n]``, DN.

    Returns:
        patch number ``int64 [M]``, x ``[M]``, y ``[M]`` in patch pixels, radiance ``[M]`` in DN.
    """
    crops, left, top = recentre(patches, config.size)
    normalised = normaliser.apply(crops)
    device = next(model.parameters()).device
    # These networks do not look at the second channel, the saturated pixels.
    channels = np.stack([normalised.value, np.zeros_like(normalised.value)], axis=1)
    inputs = torch.split(torch.from_numpy(channels).to(device), _PATCHES_PER_BATCH)
    parts = []
    with torch.no_grad():
        for some in inputs:
            parts.append(model(some).float().cpu())
            if progress is not None:
                progress(sum(map(len, parts)))
    grids = torch.cat(parts)[:, 0].numpy() * normalised.scale
    which, x, y, radiance = grid.decode(grids, config.cells, decode_threshold(domain, grids))
    return which, x + left[which], y + top[which], radiance
