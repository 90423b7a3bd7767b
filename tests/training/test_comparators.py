"""The networks that DSCSNet is compared with: their stated sizes, their maths, and their training."""

import json

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from glint.cli import main
from glint.config import to_dict
from glint.errors import InputError
from glint.optics import Psf
from glint.processing import grid
from glint.simulation.patches import CONDITIONS, simulate_patches
from glint.training.networks import dista_net, focus
from glint.training.networks.dista_net import DistaNet, DistaNetConfig, GeneratedConv
from glint.training.networks.focus import Focus, FocusConfig
from glint.training.networks.registry import build, load_model, preset, task_of
from glint.training.tasks.grid import GridTask, decode_patches

TINY = {
    "dista-net": DistaNetConfig(size=5, channels=4, hidden=8, stages=2),
    "focus": FocusConfig(size=5, pixel_channels=4, spread=2, channels=4, blocks=1),
}


def macs(model: torch.nn.Module, *shape: int) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(shape))
    return counter.get_total_flops() / 2


@pytest.mark.parametrize(
    ("name", "parameters", "batch_macs"), [("dista-net", 2.179e6, 35.10e9), ("focus", 46e3, 1.63e9)]
)
def test_the_stated_sizes_are_met_within_five_percent(name, parameters, batch_macs):
    model = build(name, to_dict(preset(name)))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=0.05)
    assert 64 * macs(model, 1, 1, 11, 11) == pytest.approx(batch_macs, rel=0.05)


@pytest.mark.parametrize("name", TINY)
def test_samples_of_a_batch_do_not_see_each_other(name):
    torch.manual_seed(0)
    model = build(name, to_dict(TINY[name])).eval()
    patches = torch.rand(4, 1, 5, 5)
    with torch.no_grad():
        together, alone = model(patches), torch.cat([model(p[None]) for p in patches])
    assert together.shape == (4, 1, 15, 15)
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_every_parameter_is_trained(name):
    torch.manual_seed(0)
    model = build(name, to_dict(TINY[name]))
    model(torch.rand(3, 1, 5, 5)).square().sum().backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


def test_the_generated_convolution_equals_one_convolution_per_sample():
    torch.manual_seed(0)
    layer = GeneratedConv(TINY["dista-net"])
    image = torch.randn(3, 1, 15, 15)
    with torch.no_grad():
        for sample, output in zip(image, layer(image)):
            kernel = torch.tanh(layer.generator(sample.reshape(1, -1))).reshape(-1, 1, 3, 3)
            expected = torch.nn.functional.conv2d(sample[None], kernel, layer.bias.flatten(), padding=1)[0]
            assert torch.allclose(output, expected, atol=1e-5)


def test_without_its_transforms_dista_net_is_gradient_descent_on_the_misfit():
    config = DistaNetConfig(size=5, channels=4, hidden=8, stages=40)
    model = DistaNet(config)
    for stage in model.stages:
        torch.nn.init.zeros_(stage.project.weight)
        torch.nn.init.zeros_(stage.project.bias)
    phi = Psf(config.sigma).sampling_matrix(config.size, config.cells)
    y = np.random.default_rng(0).random(25)
    inverse = model.start.double().numpy()
    x = (inverse @ y.reshape(5, 5) @ inverse.T).ravel()
    step = 1 / np.linalg.norm(phi, 2) ** 2
    for _ in range(config.stages):
        x = x - step * phi.T @ (phi @ x - y)
    with torch.no_grad():
        actual = model(torch.from_numpy(y).float().reshape(1, 1, 5, 5)).numpy().ravel()
    assert np.abs(actual - x).max() < 1e-4 * np.abs(x).max()


@pytest.mark.parametrize(
    ("config", "bad"),
    [(DistaNetConfig, {"stages": 0}), (DistaNetConfig, {"cells": 2}), (FocusConfig, {"size": 4})],
)
def test_settings_outside_their_range_are_refused(config, bad):
    with pytest.raises(InputError):
        config(**bad)


def test_a_perfect_grid_is_decoded_to_the_cells_of_the_truth():
    patches = simulate_patches(CONDITIONS["float"], 30, np.random.default_rng(3))
    truth = grid.encode(patches.x, patches.y, patches.radiance, 11, 3)

    class Perfect(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(()))

        def forward(self, patch):
            assert patch.max() < 10  # in units of 235 DN
            return torch.from_numpy(truth)[:, None] / 235.0

    task = GridTask("focus", FocusConfig(), "csist")
    patch, x, y, radiance = decode_patches(Perfect(), task.config, "csist", task.normaliser, patches.image)
    used = patches.radiance > 0
    assert np.bincount(patch).sum() <= used.sum()
    found = {(p, round(a, 3), round(b, 3)) for p, a, b in zip(patch.tolist(), x.tolist(), y.tolist())}
    rows, slots = np.nonzero(used)
    for i, k in zip(rows, slots):
        cell = [round(float(np.round(v[i, k] * 3) / 3), 3) for v in (patches.x, patches.y)]
        assert (int(i), *cell) in found
    assert radiance.sum() == pytest.approx(patches.radiance.sum(), rel=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_they_train_from_the_command_line_and_load_again(tmp_path, capsys, monkeypatch, name):
    monkeypatch.setitem({"dista-net": dista_net, "focus": focus}[name].PRESETS, name, TINY[name])
    monkeypatch.setattr("glint.training.tasks.grid.VALIDATION_PATCHES", 20)
    out = tmp_path / name
    words = ["train", name, "--domain", "csist", "--batch", "4", "--steps", "3", "--out", str(out), "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 3
    info, model = load_model(out / "last.safetensors")
    assert info.network == name
    assert task_of(name) == "unmix"
    assert isinstance(model, {"dista-net": DistaNet, "focus": Focus}[name])
