"""What DSCSNet is trained on and for: batches against the optical model, the head's loss against its closed form."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from glint import progress
from glint.optics import Psf
from glint.processing import grid
from glint.processing.candidates import find_candidates
from glint.simulation.patches import Patches
from glint.training.networks.dscsnet import DSCSNetConfig
from glint.training.tasks import unmixing as module
from glint.training.tasks.torch_patches import draw_patches
from glint.training.tasks.unmixing import DOMAINS, NEIGHBOUR_WEIGHT, UnmixingTask, decode_threshold, head_loss

CPU = torch.device("cpu")
TINY = DSCSNetConfig(size=7, channels=4, hidden=8, stages=2, memory=1, head_channels=8, head_blocks=1)
SIDE, CELLS = 15, 3  # of the maps made by hand
NAMES = ("presence", "offset", "radiance", "spread")


def a_batch(*patches: list[tuple[float, float, float]], scale: float = 235.0) -> dict[str, torch.Tensor]:
    """Targets (x, y, radiance) of patches of 5 pixels; unused slots as training leaves them."""
    table = torch.zeros(len(patches), 5, 3)
    table[..., :2] = -9.0
    for row, targets in zip(table, patches):
        if targets:
            row[: len(targets)] = torch.tensor(targets)
    scales = torch.full((len(patches), 1, 1, 1), scale)
    return {"x": table[..., 0], "y": table[..., 1], "radiance": table[..., 2], "scale": scales}


def perfect(batch: dict[str, torch.Tensor], spread: float = 0.1) -> list[torch.Tensor]:
    """The head that knows: certain cells, and every cell speaks of the target nearest to its centre."""
    number = len(batch["x"])
    presence, radiance = torch.zeros(2, number, 1, SIDE, SIDE)
    offset = torch.zeros(number, 2, SIDE, SIDE)
    for i in range(number):
        targets = [t for t in zip(*(batch[n][i].tolist() for n in ("x", "y", "radiance"))) if t[2] > 0]
        for row in range(SIDE) if targets else ():
            for column in range(SIDE):
                x, y = (column - 1) / 3, (row - 1) / 3
                near = min(targets, key=lambda t: math.hypot(t[0] - x, t[1] - y))
                offset[i, 0, row, column], offset[i, 1, row, column] = near[0] - x, near[1] - y
                radiance[i, 0, row, column] = near[2] / batch["scale"][i].item()
        for x, y, _ in targets:
            presence[i, 0, math.floor(3 * (y + 0.5)), math.floor(3 * (x + 0.5))] = 1
    return [presence, offset, radiance, torch.full((number, 3, SIDE, SIDE), spread)]


ONE = a_batch([(2.1, 1.7, 200.0)])
CELL = (6, 7)  # row and column of the cell that holds it


@pytest.mark.parametrize("x", [2.0, 2.1, 2.15, 2.18])
def test_the_loss_at_the_truth_is_that_of_the_spread_alone(x):
    """Presence costs nothing; 9 cells say log(spread) three times, the outer 8 with less weight."""
    batch, weight = a_batch([(x, 1.7, 200.0)]), 1 + 8 * NEIGHBOUR_WEIGHT
    for spread in (0.01, 0.1, 1.0):
        expected = weight * 3 * math.log(spread)
        assert head_loss(perfect(batch, spread), batch, CELLS).item() == pytest.approx(expected, rel=1e-5, abs=1e-4)


@pytest.mark.parametrize(("name", "channel", "step"), [("offset", 0, 0.03), ("offset", 1, -0.05), ("radiance", 0, 0.2)])
@pytest.mark.parametrize(("shift", "weight"), [(0, 1.0), (1, NEIGHBOUR_WEIGHT), (2, 0.0)])
def test_an_error_costs_half_its_square_in_spreads(name, channel, step, shift, weight):
    head = perfect(ONE)
    at_truth = head_loss(head, ONE, CELLS).item()
    head[NAMES.index(name)][0, channel, CELL[0], CELL[1] + shift] += step
    expected = weight * 0.5 * (step / 0.1) ** 2
    assert head_loss(head, ONE, CELLS).item() - at_truth == pytest.approx(expected, abs=2e-4)


def test_an_unsure_presence_costs_its_cross_entropy():
    head = perfect(ONE)
    at_truth = head_loss(head, ONE, CELLS).item()
    head[0][0, 0, CELL[0], CELL[1]] = 0.7
    head[0][0, 0, 0, 0] = 0.2
    expected = -math.log(0.7) - math.log(0.8)
    assert head_loss(head, ONE, CELLS).item() - at_truth == pytest.approx(expected, rel=1e-3)


def test_the_best_spread_is_the_error_made():
    head = perfect(ONE)
    head[1][:] += 0.07
    losses = {}
    for spread in (0.05, 0.06, 0.07, 0.08, 0.1):
        head[3][:, :2] = spread
        losses[spread] = head_loss(head, ONE, CELLS).item()
    assert min(losses, key=losses.__getitem__) == 0.07


MANY = a_batch(
    [(2.1, 1.7, 200.0), (2.6, 1.7, 240.0), (2.1, 2.4, 220.0)],
    [(0.2, 4.4, 100.0)],
    [(3.9, 0.1, 250.0), (-0.4, -0.4, 60.0)],
)


@pytest.mark.parametrize("batch", [ONE, MANY], ids=["one", "many"])
def test_the_loss_is_least_at_the_truth(batch):
    head = perfect(batch)
    best = head_loss(head, batch, CELLS).item()
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        for part in range(3):
            other = [t.clone() for t in head]
            noise = 0.05 * torch.randn(other[part].shape, generator=generator)
            other[part] = (other[part] + noise).clamp(0, 1) if part == 0 else other[part] + noise
            assert head_loss(other, batch, CELLS).item() > best


def test_the_gradient_vanishes_at_the_truth_and_nowhere_else():
    for wrong in (0.0, 0.02):
        head = perfect(MANY)
        head = [head[0].clamp(1e-6, 1 - 1e-6), head[1] + wrong, head[2] - wrong, head[3]]
        for part in head:
            part.requires_grad_()
        head_loss(head, MANY, CELLS).backward()
        for part in head[1:3]:
            assert (part.grad.abs().max() > 0.1) == bool(wrong)
        for part in (head[0], head[3]):
            assert part.grad.abs().max() > 0


def test_every_part_of_the_head_is_taught():
    torch.manual_seed(0)
    task = UnmixingTask("dscsnet-s", TINY, "csist")
    model = task.build()
    task.loss(model, task.batch(6, np.random.default_rng(0), CPU), torch.tensor(0.0)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    for part in ("presence", "offset", "radiance", "spread", "merge"):
        assert getattr(model.head, part).weight.grad.abs().max() > 0, part
        assert getattr(model.head, part).bias.grad.abs().max() > 0, part


def test_each_target_counts_the_same_whatever_its_patch():
    """Two copies of a batch cost what one does: the loss is per target."""
    double = {name: torch.cat([value, value]) for name, value in MANY.items()}
    torch.manual_seed(0)
    head = [t + 0.05 * torch.rand_like(t) if i else t.clamp(0.1, 0.9) for i, t in enumerate(perfect(MANY))]
    single = head_loss(head, MANY, CELLS).item()
    assert head_loss([torch.cat([t, t]) for t in head], double, CELLS).item() == pytest.approx(single, rel=1e-5)


@pytest.mark.parametrize("place", [-9.0, 2.1, 4.0])
def test_absent_targets_have_no_influence(place):
    torch.manual_seed(0)
    head = [t + 0.05 * torch.rand_like(t) if i else t.clamp(0.1, 0.9) for i, t in enumerate(perfect(MANY))]
    moved = {name: value.clone() for name, value in MANY.items()}
    for axis in ("x", "y"):
        moved[axis][MANY["radiance"] == 0] = place
    assert head_loss(head, moved, CELLS).item() == head_loss(head, MANY, CELLS).item()


def test_a_patch_without_targets_asks_only_for_their_absence():
    batch = a_batch([(2.1, 1.7, 200.0)], [])
    head = perfect(batch)
    best = head_loss(head, batch, CELLS).item()
    for part in (1, 2, 3):
        other = [t.clone() for t in head]
        other[part][1] += 1.0
        assert head_loss(other, batch, CELLS).item() == best
    head[0][1, 0, 3, 3] = 0.5
    assert head_loss(head, batch, CELLS).item() == pytest.approx(best + math.log(2), rel=1e-4)


def test_radiances_are_learned_in_units_of_the_input():
    for scale in (1.0, 50.0, 235.0):
        batch = a_batch([(2.1, 1.7, 200.0)], scale=scale)
        head = perfect(batch)
        assert head[2][0, 0, CELL[0], CELL[1]].item() == pytest.approx(200 / scale)
        assert head_loss(head, batch, CELLS).item() == pytest.approx(
            head_loss(perfect(ONE), ONE, CELLS).item(), rel=1e-5
        )


def test_what_is_learned_is_what_find_candidates_reads():
    """The perfect head gives the truth back, targets of one patch half a pixel apart included."""
    found = find_candidates(*(t.numpy() for t in perfect(MANY)), c=CELLS)
    assert found.count().tolist() == [3, 1, 2]
    for i, count in enumerate((3, 1, 2)):
        truth = np.array(sorted(zip(*(MANY[n][i, :count].tolist() for n in ("x", "y", "radiance")))))
        got = np.array(sorted(zip(*(getattr(found, n)[i, :count] for n in ("x", "y", "radiance")))))
        assert got[:, :2] == pytest.approx(truth[:, :2], abs=1e-4)
        assert 235 * got[:, 2] == pytest.approx(truth[:, 2], rel=1e-4)


@pytest.fixture(params=["csist", "sensor"])
def task(request, monkeypatch):
    monkeypatch.setattr(module, "VALIDATION_PATCHES", 24)
    return UnmixingTask("dscsnet-s", TINY, request.param)


def test_a_batch_holds_patches_and_the_targets_that_made_them(task, monkeypatch):
    monkeypatch.setattr(module, "UNKNOWN_FULL_SCALE_SHARE", 0.0)
    batch = {name: value.numpy() for name, value in task.batch(40, np.random.default_rng(3), CPU).items()}
    seed = int(np.random.default_rng(3).integers(2**63))
    drawn = draw_patches(DOMAINS[task.domain][0], 40, torch.Generator().manual_seed(seed))
    patches = Patches(**{name: value.numpy() for name, value in vars(drawn).items()})
    shapes = {name: value.shape for name, value in batch.items()}
    assert shapes == {
        "patch": (40, 2, 7, 7), "scale": (40, 1, 1, 1), "grid": (40, 1, 21, 21),
        "x": (40, 5), "y": (40, 5), "radiance": (40, 5),
    }  # fmt: skip
    image = batch["patch"][:, 0] * batch["scale"][:, 0]
    for i in range(40):
        used = batch["radiance"][i] > 0
        assert used.sum() == patches.count[i]
        light = Psf(patches.sigma[i]).render(
            batch["x"][i][used], batch["y"][i][used], batch["radiance"][i][used], (7, 7)
        )
        rest = image[i] - np.minimum(light, patches.full_scale[i])
        assert np.abs(rest).max() < 5 * patches.noise[i] + abs(patches.background[i]) + 10, "noise, slope and rounding"
        assert np.array_equal(batch["patch"][i, 1], image[i] >= patches.full_scale[i] - 1e-3)
    inside = (np.abs(batch["x"] - 3) < 3.4) & (np.abs(batch["y"] - 3) < 3.4)
    assert inside[batch["radiance"] > 0].mean() > 0.99  # re-centring keeps the targets in the crop
    assert batch["grid"].sum(axis=(1, 2, 3)) == pytest.approx((batch["radiance"] * inside).sum(axis=1), rel=1e-3)
    assert np.array_equal(grid.encode(batch["x"], batch["y"], batch["radiance"], 7, 3), batch["grid"][:, 0])


def test_some_patches_do_not_tell_what_is_saturated(task, monkeypatch):
    monkeypatch.setattr(module, "UNKNOWN_FULL_SCALE_SHARE", 1.0)
    assert not task.batch(300, np.random.default_rng(0), CPU)["patch"][:, 1].any()
    monkeypatch.setattr(module, "UNKNOWN_FULL_SCALE_SHARE", 0.0)
    assert task.batch(300, np.random.default_rng(0), CPU)["patch"][:, 1].any()


def test_the_same_generator_gives_the_same_batch(task):
    first, second, other = (task.batch(9, np.random.default_rng(seed), CPU) for seed in (7, 7, 8))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in ("patch", "x", "y", "radiance"))


def test_validation_scores_head_and_grid(task, monkeypatch, capsys):
    torch.manual_seed(0)
    model = task.build().eval()
    with torch.no_grad():
        monkeypatch.setattr(progress, "_LINE_PERIOD_S", 0.0)
        with progress.speaking():
            result = task.validate(model)
        assert f"validate: {len(task.validation)}/{len(task.validation)}" in capsys.readouterr().err
        assert repr(task.validate(model)) == repr(result)  # an error without a single target is NaN
    assert {"cso_map", "count_accuracy", "position_rmse", "grid_cso_map", "grid_count_accuracy"} <= result.keys()
    assert 0 <= result["cso_map"] <= 100


class Oracle(torch.nn.Module):
    """Answers with the truth of the validation patches, in their order."""

    def __init__(self, task: UnmixingTask) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        patches = task.validation
        _, scale, left, top = task.prepare(patches)
        used = patches.radiance > 0
        x, y = (np.where(used, v - o[:, None], -9.0) for v, o in ((patches.x, left), (patches.y, top)))
        columns = (torch.from_numpy(v).float() for v in (x, y, patches.radiance))
        self.batch = {**dict(zip(("x", "y", "radiance"), columns)), "scale": torch.from_numpy(scale)[:, None]}
        self.grids = torch.from_numpy(grid.encode(x, y, patches.radiance, 7, 3))[:, None] / self.batch["scale"]

    def forward(self, patch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        assert len(patch) == len(self.grids)
        return self.grids, *perfect(self.batch, 0.01)


def test_an_oracle_scores_everything_off_the_grid_and_a_perfect_grid_on_it(task, monkeypatch):
    monkeypatch.setitem(globals(), "SIDE", 21)
    result = task.validate(Oracle(task))
    assert result["count_accuracy"] == 100
    assert result["cso_map"] > 99
    assert result["position_rmse"] < 0.01
    assert 30 < result["grid_cso_map"] < 70  # the cell is larger than the smallest distance that counts


def test_the_threshold_is_absolute_for_the_protocol_and_relative_for_a_camera():
    grids = np.zeros((2, 3, 3))
    grids[0, 0, 0], grids[1, 1, 1] = 10.0, 1000.0
    assert decode_threshold("csist", grids).tolist() == [50, 50]
    assert decode_threshold("sensor", grids) == pytest.approx([2, 200])


def test_the_patches_of_one_camera_have_its_width(task):
    low, high = 0.57, 0.63
    own = UnmixingTask("dscsnet-s", replace(TINY, sigma=0.6), task.domain, (low, high))
    assert own.data["scene"]["sigma"] == [low, high] != task.data["scene"]["sigma"]
    assert {k: v for k, v in own.data["scene"].items() if k != "sigma"} == {
        k: v for k, v in task.data["scene"].items() if k != "sigma"
    }
    drawn = draw_patches(own.scene, 200, torch.Generator().manual_seed(1)).sigma.numpy()
    assert low <= drawn.min() < 0.58 and 0.62 < drawn.max() <= high
    assert (own.validation.sigma >= low).all()
