"""Shared functions of the unfolded networks against their definitions."""

import numpy as np
import pytest
import torch

from glint.training.networks.prox import soft_threshold, softplus


def test_the_soft_threshold_is_the_prox_of_the_l1_norm():
    value, threshold = 1.7, 0.6
    grid = np.linspace(-3, 3, 60001)
    best = grid[np.argmin(0.5 * (grid - value) ** 2 + threshold * np.abs(grid))]
    assert float(soft_threshold(torch.tensor(value), torch.tensor(threshold))) == pytest.approx(best, abs=2e-4)
    assert float(soft_threshold(torch.tensor(-value), torch.tensor(threshold))) == pytest.approx(-best, abs=2e-4)
    assert float(soft_threshold(torch.tensor(0.5), torch.tensor(threshold))) == 0


def test_softplus_is_that_of_pytorch_for_every_size_of_value():
    value = torch.cat([torch.linspace(-40, 40, 801), torch.tensor([-1e4, 1e4])]).requires_grad_()
    expected = torch.nn.functional.softplus(value)
    assert torch.allclose(softplus(value), expected, rtol=1e-5, atol=1e-7)
    (gradient,) = torch.autograd.grad(softplus(value).sum(), value)
    assert torch.allclose(gradient, torch.sigmoid(value), atol=1e-6) and torch.isfinite(gradient).all()
    assert softplus(torch.tensor(1.0, dtype=torch.bfloat16)).dtype == torch.float32
