"""A plain U-Net, the comparator of LSNet: no unfolding, no state-space model, the same task and losses.

Two 3 x 3 convolutions per level on the way down and on the way up, max pooling, nearest
upsampling, skip connections by concatenation (Ronneberger, Fischer, Brox, "U-Net: Convolutional
Networks for Biomedical Image Segmentation"). It says where targets are and what they add; the
background is what remains.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glint.errors import InputError
from glint.training.networks.lsnet import LSNetStage

_RESOLUTIONS = 5  # frames are padded to multiples of 16 = 2^(levels - 1)


@dataclass(frozen=True)
class UNetConfig:
    """Size of the network; by default it takes as many multiply-accumulates as ``lsnet-s``, to within 6 %.

    Attributes:
        channels: at H, H/2, H/4, H/8 and H/16.
    """

    channels: tuple[int, ...] = (10, 20, 40, 80, 144)

    def __post_init__(self) -> None:
        if len(self.channels) != _RESOLUTIONS or min(self.channels) < 1:
            raise InputError(f"UNetConfig.channels: expected {_RESOLUTIONS} positive numbers, got {self.channels}")


PRESETS = {"unet-s": UNetConfig()}


class _Level(nn.Module):
    """Two convolutions, each with its activation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        for conv in (self.conv1, self.conv2):
            # Without norms, PyTorch's own start would let the signal fade on its way through the levels.
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, value: Tensor) -> Tensor:
        """``[N, inputs, h, w]`` -> ``[N, outputs, h, w]``."""
        result: Tensor = F.relu(self.conv2(F.relu(self.conv1(value))))
        return result


class UNet(nn.Module):
    """Input ``[N, 1, H, W]`` (normalised, H and W multiples of 16), outputs as those of LSNet."""

    OUTPUTS = ("probability", "background", "target")

    def __init__(self, config: UNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or UNetConfig()
        widths = config.channels
        self.down = nn.ModuleList(_Level(a, b) for a, b in zip((1, *widths), widths))
        self.up = nn.ModuleList(_Level(a + b, a) for a, b in itertools.pairwise(widths))
        self.head = nn.Conv2d(widths[0], 2, 1)
        nn.init.zeros_(self.head.weight)
        # No target anywhere: they are rare.
        self.head.bias = nn.Parameter(torch.tensor([0.0, -4.0]))

    def stages(self, frame: Tensor) -> list[LSNetStage]:
        """The one stage that it has, in the form of LSNet's."""
        skips = [self.down[0](frame)]
        for level in self.down[1:]:
            skips.append(level(F.max_pool2d(skips[-1], 2)))
        value = skips.pop()
        for level in reversed(self.up):
            value = F.interpolate(value, scale_factor=2.0, mode="nearest")
            value = level(torch.cat([skips.pop(), value], dim=1))
        target, logit = self.head(value).float().split(1, dim=1)
        return [LSNetStage(frame - target, target, logit)]

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Probability, background and target, each ``[N, 1, H, W]``."""
        (stage,) = self.stages(frame)
        return torch.sigmoid(stage.logit), stage.background, stage.target
