"""Training DSCSNet on simulated patches."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glint.config import to_dict
from glint.metrics.unmixing import score_unmixing
from glint.processing import grid
from glint.processing.candidates import SLOTS, find_candidates
from glint.processing.crop import recentre
from glint.processing.normalise import Normaliser
from glint.progress import Progress
from glint.simulation.patches import CSIST_TRAINING, SENSOR_TRAINING, PatchConfig, Patches, simulate_patches
from glint.training.networks.dscsnet import DSCSNet, DSCSNetConfig
from glint.training.tasks import torch_patches as simulation

RADIANCE_UNIT_DN = 235.0  # DN; the loss is in units of the protocol's mean radiance

DOMAINS: dict[str, tuple[PatchConfig, Normaliser]] = {
    # The protocol's absolute radiance tells the count, so its scale is kept ...
    "csist": (CSIST_TRAINING, Normaliser("fixed", RADIANCE_UNIT_DN)),
    # ... while a camera's gain is anybody's guess.
    "sensor": (SENSOR_TRAINING, Normaliser("peak", 1.0)),
}
# What the scenes of a domain tell the refinement: uniform on [a, b] has a deviation of (b - a) / sqrt(12).
RADIANCE_PRIOR: dict[str, tuple[float, float] | None] = {"csist": (235.0, 8.66), "sensor": None}
SIGMA_SD_PX = {"csist": 0.0, "sensor": 0.017}
THRESHOLD_DN = 50.0  # the paper's brightness threshold, for csist
THRESHOLD_SHARE = 0.2  # of the brightest cell, for sensor
HEAD_WEIGHT = 0.1  # of the head's loss beside Eq. 23
NEIGHBOUR_WEIGHT = 0.2  # of the cells around a target's
UNKNOWN_FULL_SCALE_SHARE = 0.1  # share of the patches whose saturation is not told
VALIDATION_SEED = 20_000
VALIDATION_PATCHES = 2000


def decode_threshold(domain: str, grids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Radiance that a cell must exceed to count: the paper's 50 DN, or a share of the brightest cell."""
    if domain == "csist":
        return np.full(len(grids), THRESHOLD_DN)
    return THRESHOLD_SHARE * grids.max(axis=(1, 2))


class UnmixingTask:
    """DSCSNet on one domain: ``csist`` (the benchmark's protocol) or ``sensor`` (a real camera).

    Args:
        network: name of the preset.
        config: of the network.
        domain: what its patches are like.
        sigma: least and largest width of the PSF that patches are drawn with, px; None: the domain's.
    """

    best_metric = "cso_map"

    def __init__(
        self, network: str, config: DSCSNetConfig, domain: str, sigma: tuple[float, float] | None = None
    ) -> None:
        self.network, self.config, self.domain = network, config, domain
        scene, self.normaliser = DOMAINS[domain]
        self.scene = scene if sigma is None else replace(scene, sigma=sigma)
        self.data = {"domain": domain, "scene": to_dict(self.scene), "normaliser": to_dict(self.normaliser)}
        self.validation = simulate_patches(self.scene, VALIDATION_PATCHES, np.random.default_rng(VALIDATION_SEED))

    def build(self) -> nn.Module:
        """A fresh DSCSNet."""
        return DSCSNet(self.config)

    def take_over(self, model: nn.Module, other: nn.Module) -> str:
        """Begin with what can be used of another network; says what that is, "" for nothing.

        Raises:
            InputError: if the target heads of two sizes of DSCSNet do not fit each other.
        """
        if not (isinstance(model, DSCSNet) and isinstance(other, DSCSNet)):
            return ""
        model.head.take(other.head)
        return "target head"

    def batch(self, size: int, rng: np.random.Generator, device: torch.device) -> dict[str, Tensor]:
        """``patch [N, 2, n, n]``, ``scale [N, 1, 1, 1]`` (DN per unit), ``grid [N, 1, g, g]`` in DN, and the
        targets ``x, y, radiance [N, 5]`` in pixels of the crop and DN, radiance 0 for none."""
        generator = torch.Generator(device).manual_seed(int(rng.integers(2**63)))
        patches = simulation.draw_patches(self.scene, size, generator)
        crops, left, top = simulation.recentre(patches.image, self.config.size)
        value, scale = simulation.normalise(crops, self.normaliser)
        # A runtime that does not know the full scale cannot tell which pixels are saturated.
        told = torch.rand((size, 1, 1), generator=generator, device=device) >= UNKNOWN_FULL_SCALE_SHARE
        saturated = told & (crops >= patches.full_scale[:, None, None])
        used = patches.radiance > 0
        x, y = (torch.where(used, p - first[:, None], -9.0) for p, first in ((patches.x, left), (patches.y, top)))
        truth = simulation.encode(x, y, patches.radiance, self.config.size, self.config.cells)
        return {
            "patch": torch.stack([value, saturated.float()], dim=1), "scale": scale[:, None], "grid": truth[:, None],
            "x": x.float(), "y": y.float(), "radiance": patches.radiance.float(),
        }  # fmt: skip

    def prepare(self, patches: Patches) -> tuple[Any, Any, Any, Any]:
        """The network's view ``float32 [N, 2, n, n]`` of patches; scale ``[N, 1, 1]``; left, top of the crops."""
        crops, left, top = recentre(patches.image, self.config.size)
        normalised = self.normaliser.apply(crops)
        saturated = crops >= patches.full_scale[:, None, None]
        return np.stack([normalised.value, saturated.astype(np.float32)], axis=1), normalised.scale, left, top

    def loss(self, model: nn.Module, batch: dict[str, Tensor], progress: Tensor) -> Tensor:
        """Eq. 23 for the grid, in units of 235 DN and summed over cells per patch, and :func:`head_loss`."""
        out, *head = model(batch["patch"])
        return grid_loss(out, batch) + HEAD_WEIGHT * head_loss(head, batch, self.config.cells)

    def validate(self, model: nn.Module) -> dict[str, Any]:
        """CSO-mAP of head and grid on a fixed set that no training seed draws."""
        patches = self.validation
        value, scale, left, top = self.prepare(patches)
        device = next(model.parameters()).device
        parts = []
        with Progress("validate", len(value)) as line:
            for some in torch.split(torch.from_numpy(value), 256):
                parts.append([t.float().cpu() for t in model(some.to(device))])
                line.update(sum(len(part[0]) for part in parts))
        grids, presence, offset, radiances, spread = (torch.cat(t).numpy() for t in zip(*parts))
        grids = grids[:, 0] * scale
        which, x, y, radiance = grid.decode(grids, self.config.cells, decode_threshold(self.domain, grids))
        on_grid = self._score(which, x + left[which], y + top[which], radiance, radiance)
        found = find_candidates(presence, offset, radiances, spread, self.config.cells)
        which, slot = np.nonzero(np.arange(SLOTS) < found.count()[:, None])
        column = {name: value[which, slot].astype(np.float64) for name, value in vars(found).items()}
        score = -(column["sigma_x"] ** 2) - column["sigma_y"] ** 2
        x, y, radiance = column["x"] + left[which], column["y"] + top[which], column["radiance"] * scale[which, 0, 0]
        off_grid = self._score(which, x, y, radiance, score)
        return off_grid | {"grid_cso_map": on_grid["cso_map"], "grid_count_accuracy": on_grid["count_accuracy"]}

    def _score(self, which: Any, x: Any, y: Any, radiance: Any, score: Any) -> dict[str, Any]:
        truth = self.validation
        result = score_unmixing(
            which, x, y, radiance, score, truth_x=truth.x, truth_y=truth.y, truth_radiance=truth.radiance
        )
        return {k: np.round(v, 4).tolist() for k, v in asdict(result).items()}


def grid_loss(out: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Eq. 23: squared error of a grid ``[N, 1, g, g]`` in units of 235 DN, summed over cells, per patch."""
    error = (out.float() * batch["scale"] - batch["grid"]) / RADIANCE_UNIT_DN
    return error.square().sum(dim=(1, 2, 3)).mean()


def head_loss(head: list[Tensor], batch: dict[str, Tensor], cells: int) -> Tensor:
    """What the target head has to learn, per target.

    Presence: cross entropy, 1 in the cell of a target. Offset, radiance and their spread: negative
    log likelihood of the nearest target in its cell and the eight around it, from where it may
    have seemed to lie.
    """
    presence, offset, radiance, spread = (t.float() for t in head)
    side = presence.shape[-1]
    used = batch["radiance"] > 0
    number = used.sum()
    centre = (torch.arange(side, device=used.device) - (cells - 1) / 2) / cells
    # [N, 5, g, g]: from every cell to every target, pixels.
    dx = (batch["x"][:, :, None] - centre)[:, :, None, :]
    dy = (batch["y"][:, :, None] - centre)[:, :, :, None]
    distance = torch.where(used[:, :, None, None], dx.square() + dy.square(), torch.inf)
    nearest = distance.min(dim=1, keepdim=True).indices  # [N, 1, g, g]
    dx, dy = (torch.gather(d.expand_as(distance), 1, nearest) for d in (dx, dy))
    truth = batch["radiance"][:, :, None, None].expand_as(distance).gather(1, nearest) / batch["scale"]
    reach = torch.maximum(dx.abs(), dy.abs()) * cells
    inside = (reach <= 0.5).float()
    around = inside + NEIGHBOUR_WEIGHT * ((reach > 0.5) & (reach <= 1.5))
    with torch.autocast(presence.device.type, enabled=False):
        seen = F.binary_cross_entropy(presence, inside, reduction="sum")
        error = torch.cat([dx, dy, truth], dim=1) - torch.cat([offset, radiance], dim=1)
        likelihood = 0.5 * (error / spread).square() + spread.log()  # [N, 3, g, g]
        return (seen + (around * likelihood).sum()) / number
