"""DSCSNet against dense linear algebra, its definition and the paper's size."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from glint.errors import InputError
from glint.optics import Psf
from glint.training.networks.dscsnet import (
    PRESETS,
    DSCSNet,
    DSCSNetConfig,
    DynamicConv,
    InformationReorganization,
    Residual,
    Solver,
    TargetHead,
    ThresholdGenerator,
)

TINY = DSCSNetConfig(size=5, channels=4, hidden=8, stages=3, memory=2)
FOLDED = replace(TINY, channels=18, folded=True)


def macs(model: torch.nn.Module, *shape: int) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(shape))
    return counter.get_total_flops() / 2


def test_the_paper_size_is_met_within_five_percent():
    model = DSCSNet(PRESETS["dscsnet"])
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(6.23e6, rel=0.05)
    assert 64 * macs(model, 1, 2, 11, 11) == pytest.approx(40.70e9, rel=0.05)


def test_the_small_network_costs_at_most_a_twentieth():
    assert 20 * macs(DSCSNet(PRESETS["dscsnet-s"]), 1, 2, 7, 7) <= macs(DSCSNet(PRESETS["dscsnet"]), 1, 2, 11, 11)


def test_the_solver_inverts_the_normal_equations_exactly():
    solver = Solver(TINY)
    phi = Psf(TINY.sigma).sampling_matrix(TINY.size, TINY.cells)
    rho = solver.log_rho.detach().exp().item()
    rng = np.random.default_rng(0)
    y, prior, extra = (rng.standard_normal(side**2) for side in (TINY.size, TINY.grid, TINY.grid))
    expected = np.linalg.solve(phi.T @ phi + rho * np.eye(TINY.grid**2), phi.T @ y + extra + rho * prior)
    with torch.no_grad():
        patch, z, e = (
            torch.from_numpy(v).float().reshape(1, 1, len(v) // side, side)
            for v, side in ((y, TINY.size), (prior, TINY.grid), (extra, TINY.grid))
        )
        actual = solver(patch, z, e).numpy().ravel()
    assert np.abs(actual - expected).max() < 1e-4 * np.abs(expected).max()


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


def test_the_folded_dynamic_convolution_equals_one_of_stride_three_per_sample():
    torch.manual_seed(0)
    layer = DynamicConv(FOLDED)
    image = torch.randn(3, 1, FOLDED.grid, FOLDED.grid)
    folded = torch.nn.functional.pixel_unshuffle(image, 3)
    with torch.no_grad():
        actual = layer(folded)
        for sample, cells, output in zip(image, folded, actual):
            generated = torch.tanh(layer.generator(cells.reshape(1, -1))).reshape(-1, 1, 3, 3)
            kernel = 0.3 * layer.kernel.reshape(-1, 1, 3, 3) + 0.7 * generated
            expected = torch.nn.functional.conv2d(sample[None], kernel, layer.bias.flatten(), stride=3)[0]
            assert torch.allclose(output, expected, atol=1e-5)


def test_features_can_only_be_folded_where_a_kernel_covers_a_pixel():
    for bad in ({"cells": 5}, {"channels": 8}):
        with pytest.raises(InputError, match="folded"):
            DSCSNetConfig(folded=True, **bad)


def test_without_dynamic_weight_there_is_no_generator():
    assert not hasattr(DynamicConv(DSCSNetConfig(dynamic_weight=0.0)), "generator")


@pytest.mark.parametrize("config", [TINY, FOLDED])
def test_samples_of_a_batch_do_not_see_each_other(config):
    torch.manual_seed(0)
    model = DSCSNet(config).eval()
    patches = torch.rand(4, 2, 5, 5)
    with torch.no_grad():
        together = model(patches)
        alone = [model(p[None]) for p in patches]
    for output, parts in zip(together, zip(*alone), strict=True):
        assert torch.allclose(output, torch.cat(parts), atol=1e-5)


@pytest.mark.parametrize("config", [TINY, FOLDED])
def test_thresholds_of_the_generator_are_not_negative(config):
    torch.manual_seed(0)
    side = config.size if config.folded else config.grid
    theta = ThresholdGenerator(config)(torch.randn(2, config.planes, side, side))
    assert theta.shape == (2, config.planes, side, side)
    assert (theta >= 0).all()


def test_reorganization_uses_each_of_the_last_codes():
    torch.manual_seed(0)
    module = InformationReorganization(TINY)
    codes = [torch.randn(1, 1, TINY.grid, TINY.grid, requires_grad=True) for _ in range(TINY.memory)]
    module(codes, torch.randn(1, 1, TINY.grid, TINY.grid)).sum().backward()
    assert all(code.grad is not None and code.grad.abs().sum() > 0 for code in codes)


@pytest.mark.parametrize("config", [TINY, FOLDED])
def test_every_parameter_of_the_network_is_trained(config):
    torch.manual_seed(0)
    model = DSCSNet(config)
    sum(out.square().sum() for out in model(torch.rand(2, 2, 5, 5))).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None]
    # The last multiplier update feeds delta, so even the last eta is used.
    assert idle == []


SHAPES = {"grid": 1, "presence": 1, "offset": 2, "radiance": 1, "spread": 3}


ABLATIONS = [{"use_dir": False}, {"use_dtg": False}, {"dynamic_weight": 0.0}]
SWITCHES = [{}, *ABLATIONS, {"cells": 5}, {"folded": True, "channels": 9}]


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_ablation_still_gives_a_grid_and_targets(switch):
    config = DSCSNetConfig(**{"size": 5, "channels": 4, "hidden": 8, "stages": 2, "memory": 1} | switch)
    side = config.grid
    outputs = DSCSNet(config)(torch.rand(3, 2, 5, 5))
    assert tuple(SHAPES) == DSCSNet.OUTPUTS
    assert [tuple(out.shape) for out in outputs] == [(3, channels, side, side) for channels in SHAPES.values()]


def test_the_targets_are_probabilities_and_spreads_within_their_bounds():
    torch.manual_seed(0)
    model = DSCSNet(TINY)
    for scale in (1.0, 1e4):  # even far from anything that was trained
        with torch.no_grad():
            out = dict(zip(DSCSNet.OUTPUTS, model(scale * torch.randn(4, 2, 5, 5))))
        assert all(value.dtype == torch.float32 and torch.isfinite(value).all() for value in out.values())
        assert ((out["presence"] >= 0) & (out["presence"] <= 1)).all()
        low, high = TargetHead.SPREAD
        assert ((out["spread"] >= 0.999 * low) & (out["spread"] <= 1.001 * high)).all()


def test_only_the_head_looks_at_the_mask_of_saturated_pixels():
    torch.manual_seed(0)
    model = DSCSNet(TINY)
    patch = torch.rand(1, 2, 5, 5)
    dark = patch * torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
    with torch.no_grad():
        seen, unseen = (dict(zip(DSCSNet.OUTPUTS, model(p))) for p in (patch, dark))
    assert torch.equal(seen["grid"], unseen["grid"])
    for name in ("presence", "offset", "radiance", "spread"):
        assert not torch.allclose(seen[name], unseen[name]), name


def test_the_head_speaks_of_a_cell_where_the_cell_is():
    """Its channels unfold as the maps were folded: a head that copies a map into its presence gives that map back."""
    config = DSCSNetConfig(size=5, channels=4, hidden=8, stages=2, memory=1, head_channels=64, head_blocks=1)
    head = TargetHead(config)
    for block in head.blocks:
        assert isinstance(block, Residual)
        torch.nn.init.zeros_(block.second.weight)
        torch.nn.init.zeros_(block.second.bias)
    area = config.cells**2
    with torch.no_grad():
        head.merge.weight.zero_()
        head.merge.bias.zero_()
        head.presence.weight.zero_()
        for channel in range(area):
            head.merge.weight[channel, 2 + channel] = 20.0  # the first map's channels, after those of the patch
            head.presence.weight[channel, channel] = 1.0
        head.presence.bias.fill_(-10.0)
        first = torch.zeros(1, 1, 15, 15)
        first[0, 0, 4, 11] = first[0, 0, 13, 2] = 1.0
        folded = torch.nn.functional.pixel_unshuffle(first, 3)
        presence = head(torch.zeros(1, 2, 5, 5), [folded, torch.zeros_like(folded), torch.zeros_like(folded)])[0]
    assert torch.equal(presence > 0.5, first > 0.5)


@pytest.mark.parametrize(
    "bad", [{"stages": 1}, {"stages": 11}, {"memory": 0}, {"memory": 7}, {"dynamic_weight": 1.5}, {"cells": 2}]
)
def test_settings_outside_their_range_are_refused(bad):
    with pytest.raises(InputError):
        DSCSNetConfig(**bad)


def test_a_head_goes_on_from_the_other_size_of_the_network():
    torch.manual_seed(0)
    small, large = DSCSNet(FOLDED), DSCSNet(replace(TINY, memory=3))
    large.head.take(small.head)
    patch = torch.rand(2, 2, 5, 5)
    own, codes = [torch.rand(2, 9, 5, 5) for _ in range(2)], [torch.rand(2, 9, 5, 5) for _ in range(3)]
    # The last two of three codes stand for the two; the one before is not read yet.
    for expected, actual in zip(small.head(patch, [*own, *codes[1:]]), large.head(patch, [*own, *codes])):
        assert torch.allclose(actual, expected, atol=1e-6)
    # And the other way round.
    fresh = DSCSNet(FOLDED)
    fresh.head.take(large.head)
    assert torch.equal(fresh.head.merge.weight, small.head.merge.weight)


@pytest.mark.parametrize("other", [{"head_channels": 8}, {"head_blocks": 1}, {"cells": 1, "folded": False}])
def test_a_head_of_another_shape_is_refused_before_anything_changes(other):
    model = DSCSNet(TINY)
    before = {k: v.clone() for k, v in model.head.state_dict().items()}
    with pytest.raises(InputError, match="does not fit"):
        model.head.take(DSCSNet(replace(TINY, **other)).head)
    assert all(torch.equal(v, before[k]) for k, v in model.head.state_dict().items())
