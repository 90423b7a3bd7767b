"""FOCUS: a small convolutional unmixer that does half of its work on the pixels.

A comparator of DSCSNet at the size that is stated for FOCUS: 46 k parameters, 1.63 GMAC per batch
of 64. What is known of it beyond its size and speed is little, so this is an own design for that
budget: features on the n x n pixels, spread onto the grid by a pixel shuffle, next to the
back-projection Phi^T y; residual blocks on the grid; no unfolding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glint.errors import InputError
from glint.optics import Psf


@dataclass(frozen=True)
class FocusConfig:
    """Size of the network.

    Attributes:
        size: pixels per side of the patch, n.
        cells: cells per pixel and axis, c.
        pixel_channels: features of a pixel.
        spread: features of a cell that come from its pixel.
        channels: features of a cell.
        blocks: residual blocks of two convolutions on the grid.
        sigma: of the PSF that Phi is made of, pixels.
    """

    size: int = 11
    cells: int = 3
    pixel_channels: int = 32
    spread: int = 6
    channels: int = 16
    blocks: int = 4
    sigma: float = 0.5

    def __post_init__(self) -> None:
        if min(self.pixel_channels, self.spread, self.channels, self.blocks) < 1:
            raise InputError(
                "FocusConfig: channels, spread and blocks must be at least 1", hint="leave them at their defaults"
            )
        if self.cells not in (1, 3, 5, 7) or self.size % 2 == 0:
            raise InputError(f"FocusConfig: expected odd size and cells 1, 3, 5 or 7, got {self.size}, {self.cells}")


PRESETS = {"focus": FocusConfig()}


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Focus(nn.Module):
    """Input ``[N, 1, n, n]`` (normalised DN), output ``[N, 1, g, g]``: radiance per cell in the same units."""

    factor: Tensor

    def __init__(self, config: FocusConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or FocusConfig()
        factor = torch.from_numpy(Psf(config.sigma).sampling_factor(config.size, config.cells)).float()
        self.register_buffer("factor", factor, persistent=False)  # P [n, g]
        p, c = config.pixel_channels, config.channels
        self.pixels = nn.ModuleList([_conv(1, p), _conv(p, p), _conv(p, config.spread * config.cells**2)])
        self.shuffle = nn.PixelShuffle(config.cells)
        self.entry = _conv(config.spread + 1, c)
        self.blocks = nn.ModuleList(nn.Sequential(_conv(c, c), nn.SiLU(), _conv(c, c)) for _ in range(config.blocks))
        self.project = _conv(c, 1)

    def forward(self, patch: Tensor) -> Tensor:
        """``[N, 2, n, n]`` -> ``[N, 1, g, g]``."""
        patch = patch[:, :1]  # the second channel, the saturated pixels, is DSCSNet's
        with torch.autocast(patch.device.type, enabled=False):
            back_projection = self.factor.T @ patch.float() @ self.factor  # Phi^T y
        features = patch
        for conv in self.pixels:
            features = F.silu(conv(features))  # [N, p, n, n], at last [N, spread c^2, n, n]
        cells = self.entry(torch.cat([self.shuffle(features), back_projection], dim=1))  # [N, C, g, g]
        for block in self.blocks:
            cells = cells + block(F.silu(cells))
        grid: Tensor = self.project(F.silu(cells)).float()
        return grid
