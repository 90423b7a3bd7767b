"""DSCSNet against dense linear algebra, its definition and the paper's size."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from glint.errors import InputError
from glint.optics import Psf
from glint.training.dscsnet import (
    PRESETS,
    DSCSNet,
    DSCSNetConfig,
    DynamicConv,
    InformationReorganization,
    Solver,
    ThresholdGenerator,
    soft_threshold,
)

TINY = DSCSNetConfig(size=5, channels=4, hidden=8, stages=3, memory=2)


def macs(model: torch.nn.Module, *shape: int) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(shape))
    return counter.get_total_flops() / 2


def test_the_paper_size_is_met_within_five_percent():
    model = DSCSNet(PRESETS["dscsnet"])
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(6.23e6, rel=0.05)
    assert 64 * macs(model, 1, 1, 11, 11) == pytest.approx(40.70e9, rel=0.05)


def test_the_small_network_costs_at_most_a_twentieth():
    assert 20 * macs(DSCSNet(PRESETS["dscsnet-s"]), 1, 1, 7, 7) <= macs(DSCSNet(PRESETS["dscsnet"]), 1, 1, 11, 11)


def test_the_solver_inverts_the_normal_equations_exactly():
    solver = Solver(TINY)
    phi = Psf(TINY.sigma).sampling_matrix(TINY.size, TINY.cells)
    rho = solver.log_rho.detach().exp().item()
    rng = np.random.default_rng(0)
    y, prior = rng.standard_normal(TINY.size**2), rng.standard_normal(TINY.grid**2)
    expected = np.linalg.solve(phi.T @ phi + rho * np.eye(TINY.grid**2), phi.T @ y + rho * prior)
    shape = (1, 1, TINY.grid, TINY.grid)
    with torch.no_grad():
        back, z = (torch.from_numpy(v).float().reshape(shape) for v in (phi.T @ y, prior))
        actual = solver(back, z).numpy().ravel()
    assert np.abs(actual - expected).max() < 1e-4 * np.abs(expected).max()


def test_the_soft_threshold_is_the_prox_of_the_l1_norm():
    value, threshold = 1.7, 0.6
    grid = np.linspace(-3, 3, 60001)
    best = grid[np.argmin(0.5 * (grid - value) ** 2 + threshold * np.abs(grid))]
    assert float(soft_threshold(torch.tensor(value), torch.tensor(threshold))) == pytest.approx(best, abs=2e-4)
    assert float(soft_threshold(torch.tensor(-value), torch.tensor(threshold))) == pytest.approx(-best, abs=2e-4)
    assert float(soft_threshold(torch.tensor(0.5), torch.tensor(threshold))) == 0


def test_the_dynamic_convolution_equals_one_convolution_per_sample():
    torch.manual_seed(0)
    layer = DynamicConv(TINY)
    image = torch.randn(3, 1, TINY.grid, TINY.grid)
    with torch.no_grad():
        actual = layer(image)
        for sample, output in zip(image, actual):
            generated = torch.tanh(layer.generator(sample.reshape(1, -1))).reshape(-1, 1, 3, 3)
            kernel = 0.3 * layer.kernel.reshape(-1, 1, 3, 3) + 0.7 * generated
            expected = torch.nn.functional.conv2d(sample[None], kernel, layer.bias.flatten(), padding=1)[0]
            assert torch.allclose(output, expected, atol=1e-5)


def test_without_dynamic_weight_there_is_no_generator():
    assert not hasattr(DynamicConv(DSCSNetConfig(dynamic_weight=0.0)), "generator")


def test_samples_of_a_batch_do_not_see_each_other():
    torch.manual_seed(0)
    model = DSCSNet(TINY).eval()
    patches = torch.rand(4, 1, 5, 5)
    with torch.no_grad():
        together = model(patches)
        alone = torch.cat([model(p[None]) for p in patches])
    assert torch.allclose(together, alone, atol=1e-5)


def test_thresholds_of_the_generator_are_not_negative():
    torch.manual_seed(0)
    theta = ThresholdGenerator(TINY)(torch.randn(2, 1, TINY.grid, TINY.grid))
    assert theta.shape == (2, 1, TINY.grid, TINY.grid)
    assert (theta >= 0).all()


def test_reorganization_uses_each_of_the_last_codes():
    torch.manual_seed(0)
    module = InformationReorganization(TINY)
    codes = [torch.randn(1, 1, TINY.grid, TINY.grid, requires_grad=True) for _ in range(TINY.memory)]
    module(codes, torch.randn(1, 1, TINY.grid, TINY.grid)).sum().backward()
    assert all(code.grad is not None and code.grad.abs().sum() > 0 for code in codes)


def test_every_parameter_of_the_network_is_trained():
    torch.manual_seed(0)
    model = DSCSNet(TINY)
    model(torch.rand(2, 1, 5, 5)).square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None]
    # The last multiplier update feeds delta, so even the last eta is used.
    assert idle == []


@pytest.mark.parametrize("switch", [{"use_dir": False}, {"use_dtg": False}, {"dynamic_weight": 0.0}])
def test_each_ablation_still_gives_a_grid(switch):
    model = DSCSNet(DSCSNetConfig(size=5, channels=4, hidden=8, stages=2, memory=1, **switch))
    assert model(torch.rand(1, 1, 5, 5)).shape == (1, 1, 15, 15)


@pytest.mark.parametrize(
    "bad", [{"stages": 1}, {"stages": 11}, {"memory": 0}, {"memory": 7}, {"dynamic_weight": 1.5}, {"cells": 2}]
)
def test_settings_outside_their_range_are_refused(bad):
    with pytest.raises(InputError):
        DSCSNetConfig(**bad)
