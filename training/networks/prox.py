"""Functions that the unfolded networks share, written so that every engine runs them fast."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_threshold(value: Tensor, threshold: Tensor) -> Tensor:
    """The l1 prox sign(v) max(0, |v| - t) for t >= 0, as v less what of it lies within [-t, t]."""
    return value - torch.maximum(torch.minimum(value, threshold), -threshold)


def softplus(value: Tensor) -> Tensor:
    """log(1 + exp(v)) in float32, for all v.

    PyTorch's is exported as Softplus and a choice above 20; ONNX Runtime computes the first value by value.
    """
    with torch.autocast(value.device.type, enabled=False):
        wide = value.float()
        return F.relu(wide) + torch.log(1 + torch.exp(-wide.abs()))
