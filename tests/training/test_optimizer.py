"""Muon: orthogonal steps for kernels, AdamW for the rest."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from glint.errors import InputError
from glint.training.loop import Recipe, Trainer
from glint.training.networks.dscsnet import DSCSNetConfig
from glint.training.optimizer import Muon, optimizer_of, orthogonal
from glint.training.tasks.unmixing import UnmixingTask


@pytest.mark.parametrize("shape", [(16, 16), (12, 40), (64, 8, 3, 3), (80, 16)])
def test_a_step_is_the_polar_factor_of_the_momentum_as_nearly_as_five_iterations_go(shape: tuple[int, ...]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonal(matrix).flatten(1)
    left, values, right = torch.linalg.svd(matrix.flatten(1), full_matrices=False)
    own = torch.linalg.svdvals(found)
    assert found.shape == matrix.flatten(1).shape
    assert own.min() > 0.4 and own.max() < 1.3
    # The same singular vectors: what is left of the matrix in them is diagonal.
    inside = left.T @ found @ right.T
    assert (inside - torch.diag(inside.diagonal())).abs().max() < 1e-4
    assert values.max() / values.min() > 1.5 * own.max() / own.min()


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(4, 16, 3), nn.GroupNorm(2, 16), nn.Conv2d(16, 1, 3))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int = 3) -> None:
    for index in range(number):
        batch = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(index))
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()


def test_what_is_no_large_kernel_goes_as_with_adamw() -> None:
    """The first step: after that the two networks differ."""
    one = network()
    other = copy.deepcopy(one)
    step(one, optimizer_of("muon", one.parameters(), 1e-3, 0.1), 1)
    step(other, optimizer_of("adamw", other.parameters(), 1e-3, 0.1), 1)
    before = dict(network().named_parameters())
    for (name, mine), theirs in zip(one.named_parameters(), other.parameters()):
        if name == "0.weight":
            assert not torch.equal(mine, theirs)
            rms = (mine - before[name] * (1 - 1e-4)).square().mean().sqrt().item()
            assert rms == pytest.approx(0.2e-3, rel=0.3)  # of AdamW's size
        else:
            assert torch.equal(mine, theirs), name


def test_all_groups_have_their_learning_rate_from_outside() -> None:
    model = network()
    optimizer = optimizer_of("muon", model.parameters(), 1e-3, 0.0)
    assert isinstance(optimizer, Muon) and sum(len(g["params"]) for g in optimizer.param_groups) == 6
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = copy.deepcopy(model.state_dict())
    step(model, optimizer)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glint.training.tasks.unmixing.VALIDATION_PATCHES", 20)
    config = DSCSNetConfig(size=5, channels=8, hidden=16, stages=2, memory=1)
    recipe = Recipe(steps=4, batch=8, warmup=2, validate_every=2, amp="off", optimizer="muon")

    def trainer(folder: Path) -> Trainer:
        return Trainer(UnmixingTask("dscsnet-s", config, "csist"), recipe, folder)

    whole = trainer(tmp_path / "whole")
    assert isinstance(whole.optimizer, Muon)
    whole.fit()
    first = trainer(tmp_path / "parts")
    original = first.save

    def save_and_stop(name: str) -> None:
        original(name)
        if name == "last" and first.step == 2:
            raise KeyboardInterrupt

    first.save = save_and_stop  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    second = trainer(tmp_path / "parts")
    second.resume(tmp_path / "parts" / "last.safetensors")
    second.fit()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(InputError, match="adamw, muon"):
        Recipe(optimizer="sgd")
