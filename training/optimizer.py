"""The optimizers by name: AdamW, and Muon for convolutional kernels with AdamW for the rest.

Muon (Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024) makes the momentum of a matrix
orthogonal by a Newton-Schulz iteration before it is a step: all directions of a layer learn alike. A kernel is the
matrix ``[out, in * k * k]``. Its step is scaled to the size of AdamW's (Liu et al., "Muon is scalable for LLM
training", 2025, 2.2), so that both share a learning rate.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

ADAMW, MUON = "adamw", "muon"
OPTIMIZERS = ADAMW, MUON
_LEAST_ROWS, _LEAST_COLUMNS = 8, 16  # of a matrix that is worth it: smaller ones, and those of single channels, are not
_QUINTIC, _ITERATIONS = (3.4445, -4.7750, 2.0315), 5  # of the iteration: most singular values end at 0.7 to 1.2
_ADAMW_RMS = 0.2  # of AdamW's step, over the learning rate
_MOMENTUM = 0.95


def optimizer_of(
    name: str, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """An optimizer by its name; vectors and numbers are not decayed."""
    every = list(parameters)
    plain = [p for p in every if p.ndim <= 1]
    matrices = [p for p in every if p.ndim > 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if name == ADAMW:
        return torch.optim.AdamW(groups, lr=lr)
    kernels = [p for p in matrices if p.shape[0] >= _LEAST_ROWS and p[0].numel() >= _LEAST_COLUMNS]
    chosen = {id(p) for p in kernels}
    groups[0]["params"] = [p for p in matrices if id(p) not in chosen]
    return Muon(kernels, [g for g in groups if g["params"]], lr, weight_decay)


def orthogonal(matrix: Tensor) -> Tensor:
    """The orthogonal matrix nearest to one, about: most of its singular values are 0.7 to 1.2; same shape, float32."""
    value = matrix.flatten(1).float()
    tall = value.shape[0] > value.shape[1]
    value = value.T if tall else value
    value = value / (value.norm() + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        square = value @ value.T
        value = a * value + (b * square + c * square @ square) @ value
    return (value.T if tall else value).reshape(matrix.shape)


class Muon(torch.optim.Optimizer):
    """Muon for kernels; AdamW for other groups.

    Args:
        kernels: parameters of two axes and more.
        others: groups of AdamW.
        lr: peak learning rate of all.
        weight_decay: of the kernels.
    """

    def __init__(
        self, kernels: list[nn.Parameter], others: list[dict[str, Any]], lr: float, weight_decay: float
    ) -> None:  # fmt: skip
        super().__init__([{"params": kernels, "weight_decay": weight_decay}], {"lr": lr})
        self._adamw = torch.optim.AdamW(others, lr=lr)
        self._adamw.state = self.state  # one state and one list of groups, for whoever looks from outside
        self.param_groups += self._adamw.param_groups

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """A step of all groups."""
        kernels = self.param_groups[0]
        for parameter in kernels["params"]:
            if parameter.grad is not None:
                self._step_of(parameter, parameter.grad, kernels["lr"], kernels["weight_decay"])
        self._adamw.step(closure)

    def _step_of(self, parameter: Tensor, gradient: Tensor, lr: float, weight_decay: float) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - _MOMENTUM)
        step = orthogonal(gradient.lerp(state["momentum"], _MOMENTUM))  # Nesterov's
        size = _ADAMW_RMS * max(parameter.shape[0], parameter[0].numel()) ** 0.5
        parameter.mul_(1 - lr * weight_decay).add_(step.to(parameter.dtype), alpha=-lr * size)
