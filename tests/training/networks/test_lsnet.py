"""LSNet against a sequential scan, its definition and the authors' size."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate, maximum_filter, uniform_filter
from torch.utils.flop_counter import FlopCounterMode

from glint.optics import Psf
from glint.processing.inpaint import MARGIN_PX
from glint.training.networks import lsnet
from glint.training.networks.lsnet import (
    PRESETS,
    SCAN_SCALE,
    BehindTargets,
    Contrast,
    LSNet,
    LSNetConfig,
    RMSNorm,
    SelectiveScan2d,
    SingularValueThreshold,
    enlarge,
    scan_lines,
)

TINY = LSNetConfig(stages=2, background=(8, 12), heads=1, head_dim=4, state=2, sparse=(4, 6, 8), unshuffle=2)


def count(model: torch.nn.Module) -> tuple[float, float]:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 1, 512, 512))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() / 2


def test_the_published_size_is_met_within_three_percent():
    parameters, macs = count(LSNet(PRESETS["lsnet"]))
    assert parameters == pytest.approx(2.18e6, rel=0.03)
    assert macs == pytest.approx(24.46e9, rel=0.03)


def test_the_small_network_costs_at_most_a_quarter():
    assert count(LSNet(PRESETS["lsnet-s"]))[1] <= 24.46e9 / 4


def sequential_scan(x, dt, decay, b, c):
    """The recurrences themselves, forward and backward, the diagonal counted once."""
    length, heads, dim = x.shape
    y = np.zeros_like(x)
    for head in range(heads):
        for order in (range(length), range(length - 1, -1, -1)):
            state = np.zeros((b.shape[1], dim))
            previous = None
            for i in order:
                if previous is not None:
                    later = max(i, previous)  # the step between two positions belongs to the later one
                    state = state * np.exp(-dt[later, head] * decay[head])
                update = dt[i, head] * np.outer(b[i], x[i, head])
                state = state + update
                y[i, head] += c[i] @ state
                previous = i
        for i in range(length):
            y[i, head] -= dt[i, head] * (c[i] @ b[i]) * x[i, head]
    return y


def test_the_matmul_scan_equals_the_sequential_one_in_float64():
    rng = np.random.default_rng(3)
    lines, length, heads, dim, state = 2, 23, 3, 5, 4
    x = rng.standard_normal((1, heads, dim, lines, length))
    dt, decay = rng.uniform(0.001, 1.0, (1, heads, lines, length)), rng.uniform(0.1, 3.0, heads)
    b, c = rng.standard_normal((2, 1, state, lines, length))
    maps = np.concatenate([b, c], axis=1).transpose(0, 2, 3, 1)
    values = x.transpose(0, 3, 1, 2, 4), dt.swapaxes(1, 2), decay, maps
    actual = scan_lines(*(torch.from_numpy(v) for v in values)).numpy().transpose(0, 2, 3, 1, 4)
    for line in range(lines):
        one = sequential_scan(
            x[0, :, :, line].transpose(2, 0, 1), dt[0, :, line].T, decay, b[0, :, line].T, c[0, :, line].T
        )
        assert np.abs(actual[0, :, :, line].transpose(2, 0, 1) - SCAN_SCALE * one).max() < 1e-12


def test_the_scan_stays_finite_for_long_lines_and_large_steps():
    maps = torch.ones(1, 1, 160, 4)
    y = scan_lines(torch.ones(1, 1, 1, 2, 160), torch.full((1, 1, 1, 160), 50.0), torch.tensor([20.0]), maps)
    assert torch.isfinite(y).all()


def test_the_norm_after_a_scan_takes_its_scale_away():
    """A block answers as if scans came as they are, however small its norm's input."""
    value = 1e-3 * torch.randn(2, 6, 5, 7, generator=torch.Generator().manual_seed(1))
    plain, scaled = RMSNorm(6), RMSNorm(6, SCAN_SCALE)
    assert torch.equal(scaled(SCAN_SCALE * value), plain(value))
    assert scaled.floor > 1e-8  # an export takes less for 0, and divides by it


def test_rows_and_columns_are_scanned_alike():
    """Swapping the roles of the two halves of the block commutes with transposing the image."""
    torch.manual_seed(0)
    block = SelectiveScan2d(6, LSNetConfig(heads=1, head_dim=4, state=2)).eval()
    image = torch.randn(1, 6, 5, 7)
    swapped = SelectiveScan2d(6, LSNetConfig(heads=1, head_dim=4, state=2)).eval()
    swapped.load_state_dict(block.state_dict())
    inner, state = 8, 2

    def exchange(tensor, start, half):
        first, second = tensor[start : start + half].clone(), tensor[start + half : start + 2 * half].clone()
        tensor[start : start + half] = second
        tensor[start + half : start + 2 * half] = first

    with torch.no_grad():
        for parameter in (swapped.expand.weight, swapped.expand.bias):
            exchange(parameter, 0, inner // 2)
            exchange(parameter, inner, inner // 2)
            exchange(parameter, 2 * inner, 2 * state)
            exchange(parameter, 2 * inner + 4 * state, 1)
        for parameter in (swapped.local.weight, swapped.local.bias):
            exchange(parameter, 0, inner // 2)
            exchange(parameter, inner, 2 * state)
        swapped.local.weight.copy_(swapped.local.weight.transpose(2, 3).clone())
        for parameter in (swapped.log_decay, swapped.dt_bias):
            exchange(parameter, 0, 1)
        exchange(swapped.skip, 0, inner // 2)
        exchange(swapped.out_norm.weight, 0, inner // 2)
        exchange(swapped.out.weight.transpose(0, 1), 0, inner // 2)  # its input channels
        expected = block(image)
        actual = swapped(image.transpose(2, 3)).transpose(2, 3)
    assert torch.allclose(actual, expected, atol=1e-5)


def test_the_singular_value_threshold_removes_weak_components_only():
    layer = SingularValueThreshold(2)
    with torch.no_grad():
        for conv in (layer.analysis, layer.synthesis):
            conv.weight.copy_(torch.eye(2)[:, :, None, None])
        layer.tau.fill_(0.0)  # softplus(0) = 0.693
    value = torch.stack([torch.full((4, 4), 3.0), torch.full((4, 4), 0.1)])[None]
    change = (layer(value) - value).detach()
    assert float(change[0, 0].mean()) == pytest.approx(3.0 - np.log(2), abs=1e-4)
    assert change[0, 1].abs().max() == 0


def test_enlarging_is_nearest_interpolation():
    value = torch.randn(2, 3, 5, 7)
    expected = torch.nn.functional.interpolate(value, scale_factor=2.0, mode="nearest")
    assert torch.equal(enlarge(value), expected)


def maps(*arrays):
    return [torch.from_numpy(np.asarray(a, dtype=np.float32))[None, None] for a in arrays]


def test_the_background_under_a_target_is_that_around_it():
    row, column = np.mgrid[:48, :64]
    clear = 0.3 + 0.02 * column - 0.01 * row
    light = 12 * Psf(0.6).render(np.array([30.3, 31.0]), np.array([20.8, 21.4]), np.array([1.0, 0.7]), (48, 64))
    frame, own, probability = maps(clear + light, clear + 0.2 * light, light > 0.28 * light.max())
    background = BehindTargets()(frame, own, lsnet.reach(probability))[0, 0].numpy()
    reach = maximum_filter(light > 0.28 * light.max(), 2 * MARGIN_PX + 1)
    assert (0.2 * light).max() > 0.5
    assert np.abs(background - clear)[reach].max() < 0.04
    assert np.array_equal(background[~reach], own[0, 0].numpy()[~reach])


def test_the_background_is_continued_as_its_formula_says():
    rng = np.random.default_rng(2)
    frame, own, probability = rng.normal(size=(2, 24, 32)), rng.normal(size=(2, 24, 32)), rng.random((2, 24, 32)) ** 6
    steps = np.arange(-lsnet._NEIGHBOURHOOD_PX, lsnet._NEIGHBOURHOOD_PX + 1)
    kernel = np.exp(-(steps**2 + steps[:, None] ** 2) / (2 * lsnet._NEIGHBOURHOOD_SIGMA_PX**2))
    kernel /= kernel.sum()
    tensors = (torch.from_numpy(v.astype(np.float32))[:, None] for v in (frame, own, probability))
    got = BehindTargets()(*(lsnet.reach(t) if i == 2 else t for i, t in enumerate(tensors)))
    for i in range(2):
        reached = maximum_filter(probability[i], 2 * lsnet._REACH_PX + 1, mode="constant")
        light, share = (correlate(v, kernel, mode="constant") for v in ((1 - reached) * frame[i], 1 - reached))
        around = (light + lsnet._OWN_BACKGROUND_WEIGHT * own[i]) / (share + lsnet._OWN_BACKGROUND_WEIGHT)
        assert np.allclose(got[i, 0].numpy(), own[i] + reached * (around - own[i]), atol=1e-5)


def test_without_targets_the_background_is_the_networks_own_and_so_it_is_within_large_ones():
    frame, own = torch.randn(2, 1, 1, 40, 40)
    assert torch.equal(BehindTargets()(frame, own, torch.zeros_like(own)), own)
    assert torch.allclose(BehindTargets()(frame, own, torch.ones_like(own)), own, atol=1e-6)


def test_found_targets_and_the_background_make_up_the_frame():
    torch.manual_seed(1)
    model, frame = LSNet(TINY), torch.randn(1, 1, 32, 32)
    for prox in model.sparse:
        torch.nn.init.constant_(prox.mask.bias, 30.0)  # everything is a target
    _, background, target = model(frame)
    assert torch.allclose(background + target, frame, atol=1e-4)


def contrast_of(frame):
    return Contrast()(*maps(frame))[0, 0].numpy()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), brightness=st.floats(0.1, 30))
def test_the_contrast_is_what_a_point_explains_over_what_it_does_not(seed, brightness):
    rng = np.random.default_rng(seed)
    frame = brightness * (rng.normal(size=(32, 48)) + 3 * rng.random())
    side = 2 * lsnet._SURROUNDINGS_PX + 1
    share = uniform_filter(np.ones_like(frame), side, mode="constant")
    detail = frame - uniform_filter(frame, side, mode="constant") / share
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(detail, lsnet._SURROUNDINGS_PX), (side, side)).reshape(
        *frame.shape, -1
    )
    steps = np.arange(-lsnet._SURROUNDINGS_PX, lsnet._SURROUNDINGS_PX + 1)
    point = np.exp(-(steps**2 + steps[:, None] ** 2) / (2 * lsnet._POINT_SIGMA_PX**2)).ravel()
    point -= point.mean()
    explained = windows @ point / np.linalg.norm(point)
    rest = (windows**2).sum(-1) - explained**2 + (side * lsnet._LEAST_DEVIATION_SD) ** 2
    assert np.allclose(contrast_of(frame), np.clip(explained / np.sqrt(rest), -1, 4), atol=2e-3)


@pytest.mark.parametrize("brightness", [1.0, 10.0, 100.0])
def test_the_contrast_of_a_point_over_a_slope_does_not_depend_on_how_bright_the_frame_is(brightness):
    row, column = np.mgrid[:48, :64]
    slope = 2.0 + 0.1 * column - 0.05 * row
    noise = 0.1 * np.random.default_rng(3).normal(size=(48, 64))
    clear, lit = (
        contrast_of(brightness * (slope + noise + light)) for light in (0.0, spots((48, 64), (30, 20, 6.0, 0.7)))
    )
    assert np.unravel_index(lit.argmax(), lit.shape) == (20, 30)
    assert lit.max() > 1.2
    assert np.abs(clear[4:-4, 4:-4]).max() < 0.6


def test_a_flat_frame_has_no_contrast_up_to_its_edges():
    assert np.abs(contrast_of(np.full((32, 48), 7.0))).max() < 1e-3


def spots(shape, *targets):
    return sum(a * Psf(s).render(np.array([x]), np.array([y]), np.array([1.0]), shape) for x, y, a, s in targets)


def test_what_is_told_follows_from_the_last_stage():
    torch.manual_seed(3)
    model, frame = LSNet(TINY), torch.randn(1, 1, 32, 48)
    for prox in model.sparse:
        torch.nn.init.constant_(prox.mask.bias, 0.0)
    stage = model.stages(frame)[-1]
    probability, background, target = model(frame)
    here = torch.sigmoid(stage.logit)
    assert torch.equal(background, model.behind(frame, stage.background, lsnet.reach(here)))
    assert torch.allclose(target, (1 - here) * stage.target + here * (frame - background), atol=1e-5)
    assert torch.equal(probability > 0.5, here > 0.5)
    assert torch.allclose(torch.logit(probability.double()), stage.logit.double() / 8, atol=1e-4)


def test_spots_that_the_stages_are_sure_of_keep_their_order():
    logits = torch.tensor([-20.0, -1.0, 0.5, 8.0, 16.0, 30.0, 60.0])
    model = LSNet(TINY).eval()
    stage = lsnet.LSNetStage(*(torch.zeros(1, 1, 1, 7),) * 2, logits.reshape(1, 1, 1, 7))
    model.stages = lambda frame: [stage]
    model.behind.forward = lambda frame, background, reached: background
    for precision in (torch.float32, torch.float16):
        told = model(torch.zeros(1, 1, 1, 7))[0].to(precision).flatten()
        assert (told.diff() > 0).all()


def test_the_stages_see_the_contrast_of_points():
    torch.manual_seed(3)
    model, frame = LSNet(TINY), torch.randn(1, 1, 32, 48)
    seeing = model.stages(frame)[-1].logit
    model.contrast.point.zero_()
    assert (model.stages(frame)[-1].logit - seeing).abs().max() > 1e-3


def test_each_stage_gives_maps_of_the_size_of_the_frame():
    stages = LSNet(TINY).stages(torch.randn(2, 1, 32, 48))
    assert len(stages) == 2
    assert all(t.shape == (2, 1, 32, 48) for stage in stages for t in stage)


def test_targets_are_the_residual_shrunk_towards_zero():
    torch.manual_seed(0)
    frame = torch.randn(1, 1, 32, 32)
    first, *_ = LSNet(TINY).stages(frame)
    residual = frame - first.background
    assert (first.target.abs() <= residual.abs() + 1e-6).all()
    assert (first.target * residual >= -1e-6).all()


def test_every_parameter_is_trained():
    torch.manual_seed(0)
    model = LSNet(TINY)
    stages = model.stages(torch.randn(1, 1, 32, 32))
    sum(t.square().sum() for stage in stages for t in stage).backward()
    # The last stage's eta makes data for a stage that does not exist: it shares a vector with the others.
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
