"""DISTA-Net: iterative shrinkage unfolded, with transforms and thresholds that depend on the input.

A comparator of DSCSNet, written from the ideas of Han et al., "DISTA-Net: Dynamic Closely-Spaced
Infrared Small Target Unmixing" (ICCV 2025), not from its toolkit. Each stage is a gradient step on
|Phi x - y|^2 followed by a proximal step in feature space:

    r = x - rho Phi^T (Phi x - y)
    x = r + F~(soft(F(r), Theta(F(r))))

F has two branches, one with kernels generated for each sample and one with learned kernels; Theta is
a threshold per cell; F~ leads back to the grid. Samples do not see each other. Widths are chosen
for the size that the paper states: 2.18 M parameters, 35.1 GMAC per batch of 64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glint.errors import InputError
from glint.optics import Psf


@dataclass(frozen=True)
class DistaNetConfig:
    """Size of the network.

    Attributes:
        size: pixels per side of the patch, n.
        cells: cells per pixel and axis, c.
        channels: C of the features.
        hidden: width of the kernel generators.
        stages: shrinkage iterations.
        sigma: of the PSF that Phi is made of, pixels.
    """

    size: int = 11
    cells: int = 3
    channels: int = 32
    hidden: int = 202
    stages: int = 6
    sigma: float = 0.5

    def __post_init__(self) -> None:
        if min(self.channels, self.hidden, self.stages) < 1:
            raise InputError(
                "DistaNetConfig: channels, hidden and stages must be at least 1", hint="leave them at their defaults"
            )
        if self.cells not in (1, 3, 5, 7) or self.size % 2 == 0:
            raise InputError(f"DistaNetConfig: expected odd size and cells 1, 3, 5 or 7, got {self.size}, {self.cells}")


PRESETS = {"dista-net": DistaNetConfig()}


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class GeneratedConv(nn.Module):
    """1 -> C channels, 3 x 3, with kernels that are generated from each sample.

    A tanh bounds the kernels: linear ones would make each stage quadratic in its input.
    """

    neighbours: Tensor

    def __init__(self, config: DistaNetConfig) -> None:
        super().__init__()
        grid = config.size * config.cells
        self.channels = config.channels
        self.generator = nn.Sequential(
            nn.Linear(grid**2, config.hidden), nn.SiLU(), nn.Linear(config.hidden, config.channels * 9)
        )
        self.bias = nn.Parameter(torch.zeros(config.channels, 1))
        self.register_buffer("neighbours", torch.eye(9).reshape(9, 1, 3, 3), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """``[N, 1, g, g]`` -> ``[N, C, g, g]``."""
        batch, _, height, width = image.shape
        columns = F.conv2d(image, self.neighbours.to(image.dtype), padding=1).flatten(2)  # [N, 9, g*g]
        kernel = torch.tanh(self.generator(image.flatten(1))).reshape(batch, self.channels, 9)  # [N, C, 9]
        return (kernel @ columns + self.bias).reshape(batch, self.channels, height, width)


class DistaStage(nn.Module):
    """One shrinkage iteration after its gradient step."""

    def __init__(self, config: DistaNetConfig) -> None:
        super().__init__()
        c = config.channels
        self.generated, self.learned = GeneratedConv(config), _conv(1, c)
        self.branches = nn.ModuleList([_conv(c, c), _conv(c, c)])
        self.fuse, self.features = _conv(2 * c, c), _conv(c, c)
        self.local, self.wide = _conv(c, c), _conv(c, c)
        self.threshold = _conv(2, 1)
        self.inverse = nn.ModuleList([_conv(c, c), _conv(c, c)])
        self.project = _conv(c, 1)

    def forward(self, r: Tensor) -> Tensor:
        """``[N, 1, g, g]`` -> the same shape."""
        dynamic, static = self.branches[0](F.silu(self.generated(r))), self.branches[1](F.silu(self.learned(r)))
        joined = self.fuse(F.silu(torch.cat([dynamic, static], dim=1)))  # [N, C, g, g]
        features = self.features(F.silu(joined))
        both = torch.cat([self.local(features), self.wide(features)], dim=1)
        pooled = torch.cat([both.mean(1, keepdim=True), both.amax(1, keepdim=True)], dim=1)  # [N, 2, g, g]
        theta = F.softplus(self.threshold(pooled) - 4.0)
        code = F.relu(features - theta) - F.relu(-features - theta)
        for conv in self.inverse:
            code = F.silu(conv(code))
        out: Tensor = r + self.project(code)
        return out


class DistaNet(nn.Module):
    """Input ``[N, 1, n, n]`` (normalised DN), output ``[N, 1, g, g]``: radiance per cell in the same units."""

    factor: Tensor
    start: Tensor

    def __init__(self, config: DistaNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DistaNetConfig()
        factor = torch.from_numpy(Psf(config.sigma).sampling_factor(config.size, config.cells))  # P [n, g]
        inverse = torch.linalg.solve(factor.T @ factor + 1e-2 * torch.eye(factor.shape[1]).double(), factor.T)
        # The gradient of |Phi x - y|^2 / 2 is 1-Lipschitz in units of the largest eigenvalue.
        self.register_buffer("factor", (factor / torch.linalg.matrix_norm(factor, 2)).float(), persistent=False)
        self.register_buffer("start", inverse.float(), persistent=False)  # regularised P^-1 [g, n]
        self.scale = float(torch.linalg.matrix_norm(factor, 2)) ** 2
        self.step = nn.Parameter(torch.ones(config.stages))  # rho of each stage
        self.stages = nn.ModuleList(DistaStage(config) for _ in range(config.stages))

    def forward(self, patch: Tensor) -> Tensor:
        """``[N, 2, n, n]`` -> ``[N, 1, g, g]``."""
        patch = patch[:, :1]  # the second channel, the saturated pixels, is DSCSNet's
        p = self.factor
        with torch.autocast(patch.device.type, enabled=False):
            x = self.start @ patch.float() @ self.start.T
            y = patch.float() / self.scale  # in the units of the normalised P
        for k, stage in enumerate(self.stages):
            with torch.autocast(patch.device.type, enabled=False):
                x = x.float()
                r = x - self.step[k] * (p.T @ (p @ x @ p.T - y) @ p)
            x = stage(r)
        return x.float()
