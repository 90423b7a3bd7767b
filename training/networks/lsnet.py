"""LSNet: low-rank plus sparse decomposition D = B + T unfolded into a network.

Source: Li, Wang, Chen, "From Optimization to Network: A Low-Rank and Sparse-Aware Deep Unfolding
Framework for Infrared Small Target Detection". The authors publish the idea (a state-space model
for the low-rank prox, a spatially attentive network for the sparse prox) and its size, not its
code; the layers are ours.

Glossary:
    D        frame, normalised                                   [N, 1, H, W]
    B, T     background (low rank) and targets (sparse)          [N, 1, H, W]
    D_k      eta D + (1 - eta) (B_k + T_k), the data of the next stage
    theta    threshold map of the sparse prox, >= 0              [N, 1, H, W]
    s        running sum of dt * |A| along a scanned line        [..., L]
    H, W     multiples of 16

Selective scan (Mamba-2's state-space duality): along a line, forward and backward recurrences with
scalar decay per head,

    h_i = exp(-a_i) h_{i-1} + dt_i B_i x_i,   a_i = dt_i |A|,   y_i = C_i . h_i,

sum (the diagonal once) to y = M x with M_ij = (C_i . B_j) exp(-|s_i - s_j|) dt_j. No exponent is
positive, so half precision cannot overflow; s itself stays in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glint.errors import InputError
from glint.processing.cfar import Cfar
from glint.processing.extent import Extent
from glint.processing.point_evidence import PointEvidence
from glint.training.networks.prox import soft_threshold, softplus

MULTIPLE = 16  # H and W must be divisible by this
_REACH_PX = 2  # pixels around a target's mask that its blur reaches
_SURROUNDINGS_PX = 4  # pixels to all sides that a point is held against
_POINT_SIGMA_PX = 0.7  # pixels, standard deviation of the point looked for
_LEAST_DEVIATION_SD = 0.02  # standard deviations of the frame, least deviation of a point's surroundings
_NEIGHBOURHOOD_PX = 5  # pixels to all sides that continue the background under a target
_NEIGHBOURHOOD_SIGMA_PX = 3.0  # pixels, standard deviation of their weights
_OWN_BACKGROUND_WEIGHT = 0.01  # of the network's own background; pixels nearby weigh 1 where no target is near
SCAN_SCALE = 1 / 8  # of what a scan gives: its norm takes that away again, and float16 ends at 65504
_NORM_FLOOR = 1e-6  # mean square of what a norm leaves as it is; an export leaves out what is below 1e-8
_LOGIT_SCALE = 1 / 8  # of the logits: spots have logits of up to 100, and float32 ends at 17


@dataclass(frozen=True)
class LSNetConfig:
    """Size of the network.

    Attributes:
        stages: unfolded iterations K.
        background: channels of the low-rank prox at H/8 and H/16.
        heads, head_dim, state: of the selective scan, per scanned axis.
        sparse: channels of the sparse prox at its three scales.
        unshuffle: pixels that the sparse prox folds into channels per axis; 1 works at full
            resolution, 2 costs a quarter.
    """

    stages: int = 4
    background: tuple[int, int] = (128, 160)
    heads: int = 3
    head_dim: int = 32
    state: int = 16
    sparse: tuple[int, int, int] = (16, 32, 64)
    unshuffle: int = 1

    def __post_init__(self) -> None:
        if self.stages < 1 or self.unshuffle not in (1, 2):
            raise InputError(f"LSNetConfig: expected stages >= 1 and unshuffle 1 or 2, got {self}")


PRESETS = {
    "lsnet": LSNetConfig(),
    "lsnet-s": LSNetConfig(stages=3, background=(64, 96), heads=2, unshuffle=2),
}


def narrow_conv(
    value: Tensor | Sequence[Tensor], weight: Tensor, bias: Tensor | None = None, *, shuffle: int = 1, fold: int = 1
) -> Tensor:
    """A convolution to M shuffle^2 channels, which are the pixels of M maps of ``shuffle`` times the resolution.

    Engines compute 16 channels or so at a time, and throw away what a layer does not have. Exported, it
    is therefore the same convolution at a stride of ``fold``, to fold^2 times the channels, by kernels
    that are shifted copies of the one: the same map from about half of the work and fold^2 times less
    to write. Several inputs are then convolved one by one, because joining them would copy them.

    Args:
        value: ``[N, C, h, w]``, h and w multiples of ``fold``; of several, the channels follow each other.
        weight, bias: ``[M shuffle^2, C, k, k]`` with an odd k, and ``[M shuffle^2]``.
        shuffle, fold: as above.

    Returns:
        ``[N, M, shuffle h, shuffle w]``.
    """
    padding = weight.shape[-1] // 2
    values = [value] if isinstance(value, Tensor) else list(value)
    if fold == 1 or not torch.compiler.is_exporting():
        return F.pixel_shuffle(F.conv2d(torch.cat(values, dim=1), weight, bias, padding=padding), shuffle)
    # The kernel at each of its fold x fold places, in the order in which pixel_shuffle reads channels.
    last, sides, steps = fold - 1, (fold, fold, -1, shuffle, shuffle), range(fold)
    shifted = torch.stack([F.pad(weight, (j, last - j, i, last - i)) for i in steps for j in steps])
    kernels = shifted.reshape(*sides, *shifted.shape[2:]).permute(2, 0, 3, 1, 4, 5, 6, 7).flatten(0, 4)
    if bias is not None:
        each = (fold, fold, len(bias) // shuffle**2, shuffle, shuffle)
        bias = bias.reshape(1, 1, *each[2:]).expand(each).permute(2, 0, 3, 1, 4).flatten()
    parts = [part.transpose(0, 1) for part in slices(kernels.transpose(0, 1), [v.shape[1] for v in values])]
    wide = F.conv2d(values[0], parts[0], bias, stride=fold, padding=padding)
    for further, part in zip(values[1:], parts[1:]):
        wide = wide + F.conv2d(further, part, stride=fold, padding=padding)
    return F.pixel_shuffle(wide, fold * shuffle)


class NarrowConv(nn.Conv2d):
    """:func:`narrow_conv` with learned weights.

    Args:
        channels: of the input.
        kernel: side of the kernel, odd.
        shuffle, fold: as there.
    """

    def __init__(self, channels: int, kernel: int, *, shuffle: int = 1, fold: int = 1) -> None:
        super().__init__(channels, shuffle**2, kernel, padding=kernel // 2)
        self.shuffle, self.fold = shuffle, fold

    def forward(self, value: Tensor, further: Tensor | None = None) -> Tensor:
        """``[N, C, h, w]``, or two whose channels follow each other -> ``[N, 1, shuffle h, shuffle w]``."""
        values = [value] if further is None else [value, further]
        return narrow_conv(values, self.weight, self.bias, shuffle=self.shuffle, fold=self.fold)


def enlarge(value: Tensor) -> Tensor:
    """Each pixel twice along both axes: ``[N, C, h, w]`` -> ``[N, C, 2h, 2w]``.

    Exported, it is one Resize. In training the gradient of that is a scatter, with which TorchInductor made steps that
    failed (PyTorch 2.13, networks of one stage); the gradient of this is a sum.
    """
    if torch.compiler.is_exporting():
        return F.interpolate(value, scale_factor=2.0, mode="nearest")
    batch, channels, height, width = value.shape
    doubled = value[:, :, :, None, :, None].expand(batch, channels, height, 2, width, 2)
    return doubled.reshape(batch, channels, 2 * height, 2 * width)


def slices(weight: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Parts of a weight along its first axis; a Split of weights is left in an exported graph, these are not."""
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    return [weight[end - size : end] for size, end in zip(sizes, ends)]


class SplitConv(nn.Conv2d):
    """A 1 x 1 convolution whose channels go separate ways.

    Exported, it is one convolution for each: taken apart later, the channels would be copied first.

    Args:
        channels: of the input.
        sizes: channels of each result.
    """

    def __init__(self, channels: int, sizes: Sequence[int]) -> None:
        super().__init__(channels, sum(sizes), 1)
        self.sizes = tuple(sizes)

    def forward(self, value: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """``[N, C, h, w]`` -> ``[N, size, h, w]`` for each size."""
        if not torch.compiler.is_exporting():
            return torch.split(super().forward(value), list(self.sizes), dim=1)
        assert self.bias is not None  # noqa: S101  (it was asked for)
        parts = zip(slices(self.weight, self.sizes), slices(self.bias, self.sizes))
        return tuple(F.conv2d(value, weight, bias) for weight, bias in parts)


class DepthwiseConv(nn.Conv2d):
    """A 3 x 3 convolution of each channel by itself, of maps that come in groups of channels.

    Exported, it is one convolution for each group.

    Args:
        sizes: channels of each group.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__(sum(sizes), sum(sizes), 3, padding=1, groups=sum(sizes))
        self.sizes = tuple(sizes)

    def forward(self, values: Sequence[Tensor]) -> tuple[Tensor, ...]:  # type: ignore[override]
        """``[N, size, h, w]`` for each size -> the same shapes."""
        if not torch.compiler.is_exporting():
            return torch.split(super().forward(torch.cat(list(values), dim=1)), list(self.sizes), dim=1)
        assert self.bias is not None  # noqa: S101  (it was asked for)
        parts = zip(values, slices(self.weight, self.sizes), slices(self.bias, self.sizes))
        return tuple(F.conv2d(v, w, b, padding=1, groups=len(w)) for v, w, b in parts)


def blockwise_conv(value: Tensor, weight: Tensor, bias: Tensor | None = None, *, fold: int) -> Tensor:
    """A convolution of one map whose pixels are channels: blocks next to each other hold all that the kernel reaches.

    Args:
        value: ``[N, fold^2, h, w]``.
        weight, bias: ``[1, 1, k, k]`` with an odd k up to 2 fold + 1, and ``[1]``.
        fold: pixels that are channels, per axis; 1 is the plain convolution.

    Returns:
        The same shape.
    """
    padding, pixels = weight.shape[-1] // 2, fold**2
    if fold == 1:
        return F.conv2d(value, weight, bias, padding=padding)
    units = F.pad(torch.eye(pixels)[:, :, None, None], (1, 1, 1, 1))  # each pixel of a block among blocks of zeros
    answers = F.pixel_unshuffle(F.conv2d(F.pixel_shuffle(units, fold), weight, padding=padding), fold)
    kernels = answers.transpose(0, 1).flip(2, 3)
    return F.conv2d(value, kernels, None if bias is None else bias.expand(pixels), padding=1)


class SmoothingConv(nn.Conv2d):
    """A convolution of one map, 3 x 3, whose pixels come as channels and which leaves in full.

    Exported, it works on the channels: the blocks of pixels next to each other hold all that the kernel reaches, and
    a map of a single channel costs engines a copy to two.

    Args:
        fold: pixels that are channels, per axis.
    """

    def __init__(self, fold: int) -> None:
        super().__init__(1, 1, 3, padding=1)
        self.fold = fold

    def forward(self, value: Tensor) -> Tensor:
        """``[N, fold^2, h, w]`` -> ``[N, 1, fold h, fold w]``."""
        if not torch.compiler.is_exporting():
            return super().forward(F.pixel_shuffle(value, self.fold))
        return F.pixel_shuffle(blockwise_conv(value, self.weight, self.bias, fold=self.fold), self.fold)


def mean_and_peak(value: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and maximum over the channels, ``[N, C, h, w]`` -> ``[N, 1, h, w]`` each.

    Exported, both fall out of one pass: halves are averaged and compared until one channel is left.
    """
    mean = peak = value
    if torch.compiler.is_exporting():
        while mean.shape[1] % 2 == 0:
            half = mean.shape[1] // 2
            mean, peak = 0.5 * (mean[:, :half] + mean[:, half:]), torch.maximum(peak[:, :half], peak[:, half:])
        if mean.shape[1] == 1:
            return mean, peak
    return mean.mean(1, keepdim=True), peak.amax(1, keepdim=True)


def reach(value: Tensor) -> Tensor:
    """The largest of the values around each pixel, from where a target could reach it: ``[N, 1, H, W]``."""
    return F.max_pool2d(value, 2 * _REACH_PX + 1, stride=1, padding=_REACH_PX)


class BehindTargets(nn.Module):
    """The background, continued under targets from the frame around them.

    A normalised convolution: the mean of the frame's pixels nearby, each weighted by how surely no target reaches it.
    What the network itself has there still carries part of the targets' light. Within targets too large
    to see past, it is kept.
    """

    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        near = torch.exp(
            -0.5 * (torch.arange(-_NEIGHBOURHOOD_PX, _NEIGHBOURHOOD_PX + 1) / _NEIGHBOURHOOD_SIGMA_PX) ** 2
        )
        mean = torch.outer(near, near) / near.sum() ** 2
        self.register_buffer("weight", torch.eye(2)[:, :, None, None] * mean, persistent=False)  # of either map

    def forward(self, frame: Tensor, background: Tensor, reached: Tensor) -> Tensor:
        """D, B and the probability that a target reaches a pixel, each ``[N, 1, H, W]`` -> ``[N, 1, H, W]``."""
        free = 1 - reached
        # A strided convolution: ONNX Runtime takes 25 times as long for an average pooling.
        means = narrow_conv(torch.cat([free * frame, free], dim=1), self.weight, fold=4)
        with torch.autocast(frame.device.type, enabled=False):
            light, share = means.float().chunk(2, dim=1)
            around = (light + _OWN_BACKGROUND_WEIGHT * background) / (share + _OWN_BACKGROUND_WEIGHT)
            return background + reached * (around - background)


class Contrast(nn.Module):
    """How far a point of light stands out from what is around it: its share of the deviation there.

    The likelihood ratio of a point over a plane, both of unknown strength in noise of unknown strength, grows with
    a / sqrt(e - a^2), where e is the energy in a window around a pixel, without its mean, and a what of it a
    point's shape explains (Scharf, Friedlander, "Matched Subspace Detectors", 1994). Convolutions
    alone cannot divide by it.
    """

    box: Tensor
    line: Tensor
    point: Tensor

    def __init__(self) -> None:
        super().__init__()
        steps = torch.arange(-_SURROUNDINGS_PX, _SURROUNDINGS_PX + 1)
        shape = torch.exp(-0.5 * (steps / _POINT_SIGMA_PX) ** 2)
        point = torch.outer(shape, shape)
        point = point - point.mean()
        box = torch.full_like(point, 1 / point.numel())
        self.register_buffer("box", box[None, None], persistent=False)
        self.register_buffer("line", torch.full((1, 1, len(steps)), 1 / len(steps)), persistent=False)
        self.register_buffer("point", (point / point.norm() / len(steps))[None, None], persistent=False)

    def forward(self, frame: Tensor) -> Tensor:
        """``[N, 1, H, W]`` -> same shape, -1 to 4: 1 where a point explains half of the energy around it."""
        with torch.autocast(frame.device.type, enabled=False):
            frame = frame.float()
            # Blockwise, because engines copy an input before they convolve it: it leaves that copy as blocks.
            fold = _SURROUNDINGS_PX if torch.compiler.is_exporting() else 1
            light = F.pixel_shuffle(blockwise_conv(F.pixel_unshuffle(frame, fold), self.box, fold=fold), fold)
            detail = frame - light / self._share(frame)
            energy = narrow_conv(detail * detail, self.box, fold=4)
            explained = narrow_conv(detail, self.point, fold=4)
            rest = F.relu(energy - explained * explained) + _LEAST_DEVIATION_SD**2
            return torch.clamp(explained * torch.rsqrt(rest), -1, 4)

    def _share(self, frame: Tensor) -> Tensor:
        """How much of the box around a pixel lies in the frame, ``[N, 1, H, W]``: that along y times that along x."""
        sides = torch.ones_like(frame[:, :, :, 0]), torch.ones_like(frame[:, :, 0])
        rows, columns = (F.conv1d(side, self.line, padding=_SURROUNDINGS_PX) for side in sides)
        return rows[..., None] * columns[..., None, :]


class RMSNorm(nn.Module):
    """Root-mean-square norm over the channels of ``[N, C, H, W]``, in float32.

    Args:
        channels: of the input.
        scale: by which the input was multiplied; the norm is what it would be without.
    """

    def __init__(self, channels: int, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.floor = _NORM_FLOOR * scale**2

    def forward(self, value: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> same shape, float32."""
        with torch.autocast(value.device.type, enabled=False):
            wide = value.float()
            return self.weight * wide * torch.rsqrt((wide * wide).mean(1, keepdim=True) + self.floor)


def scan_lines(x: Tensor, dt: Tensor, decay: Tensor, maps: Tensor) -> Tensor:
    """Forward plus backward selective scan along the last axis, R lines of L, as one masked matmul.

    The step sizes weigh the matrix instead of the values, which then go into the product as they are.

    Args:
        x: ``[N, R, heads, dim, L]`` values.
        dt: ``[N, R, heads, L]`` step sizes, > 0.
        decay: ``[heads]`` |A|.
        maps: ``[N, R, L, 2 state]`` input and output maps B and C, shared by the heads.

    Returns:
        ``[N, R, heads, dim, L]``, times ``SCAN_SCALE``.
    """
    length, state = x.shape[-1], maps.shape[-1] // 2
    with torch.autocast(x.device.type, enabled=False):
        step = dt.to(torch.promote_types(dt.dtype, torch.float32))
        # A triangular product instead of CumSum: TensorRT 10.3 would run CumSum as a serial loop.
        ones = torch.ones(length, length, dtype=step.dtype, device=step.device).triu()
        s = (step * decay[:, None]) @ ones  # [N, R, heads, L]
        weight = torch.exp(-(s[..., :, None] - s[..., None, :]).abs())  # [N, R, heads, L, L], symmetric
        weight = weight * (SCAN_SCALE * step)[..., None]  # of M_ij at [j, i]
    mixing = maps[..., :state] @ maps[..., state:].transpose(2, 3)  # [N, R, L, L]: C_i . B_j at [j, i]
    return x @ (mixing[:, :, None] * weight).to(x.dtype)


class SelectiveScan2d(nn.Module):
    """State-space block: half of the heads scan rows, half columns; residual."""

    def __init__(self, channels: int, config: LSNetConfig) -> None:
        super().__init__()
        self.heads, self.head_dim, self.state = config.heads, config.head_dim, config.state
        self.inner = 2 * self.heads * self.head_dim  # both axes
        self.norm = RMSNorm(channels)
        mixed = [self.inner // 2, self.inner // 2, 2 * self.state, 2 * self.state]  # values and maps, rows and columns
        self.expand = SplitConv(channels, [self.inner, *mixed, 2 * self.heads])
        self.local = DepthwiseConv(mixed)
        self.log_decay = nn.Parameter(torch.linspace(-2.0, 1.0, 2 * self.heads))
        self.dt_bias = nn.Parameter(torch.full((2 * self.heads,), -2.0))
        self.skip = nn.Parameter(torch.ones(self.inner, 1, 1))
        self.out_norm = RMSNorm(self.inner, SCAN_SCALE)
        self.out = nn.Conv2d(self.inner, channels, 1)

    def forward(self, value: Tensor) -> Tensor:
        """``[N, C, h, w]`` -> same shape."""
        gate, *mixed, dt = self.expand(self.norm(value))
        row_values, column_values, row_maps, column_maps = (F.silu(part) for part in self.local(mixed))
        step = softplus(dt + self.dt_bias[:, None, None])  # [N, 2 heads, h, w]
        row_step, column_step = torch.split(step, self.heads, dim=1)
        row_decay, column_decay = slices(self.log_decay.float().exp(), [self.heads, self.heads])
        rows = self._scan(row_values, row_step, row_decay, row_maps)
        turned, turned_step, turned_maps = (t.transpose(2, 3) for t in (column_values, column_step, column_maps))
        columns = self._scan(turned, turned_step, column_decay, turned_maps).transpose(2, 3)
        row_skip, column_skip = slices(SCAN_SCALE * self.skip, [self.inner // 2, self.inner // 2])
        y = torch.cat([rows + row_skip * row_values, columns + column_skip * column_values], dim=1)
        result: Tensor = value + self.out(self.out_norm(y * F.silu(gate)))
        return result

    def _scan(self, x: Tensor, dt: Tensor, decay: Tensor, maps: Tensor) -> Tensor:
        """Along the last axis: ``[N, heads * dim, h, w]`` -> same shape."""
        lines = x.transpose(1, 2)  # [N, h, heads * dim, w]
        values = lines.reshape(*lines.shape[:2], self.heads, self.head_dim, lines.shape[3])
        scanned = scan_lines(values, dt.transpose(1, 2), decay, maps.permute(0, 2, 3, 1))
        return scanned.reshape(lines.shape).transpose(1, 2)


class SingularValueThreshold(nn.Module):
    """Soft-thresholds the energy of learned components, as SVT does singular values.

    q = W_a u; sigma_c = RMS of q_c over the image; q_c <- q_c relu(sigma_c - tau_c) / sigma_c;
    u <- u + W_s q. Components that do not carry energy over the whole image (targets) vanish.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.analysis = nn.Conv2d(channels, channels, 1, bias=False)
        self.synthesis = nn.Conv2d(channels, channels, 1, bias=False)
        nn.init.zeros_(self.synthesis.weight)
        self.tau = nn.Parameter(torch.full((channels, 1, 1), -3.0))

    def forward(self, value: Tensor) -> Tensor:
        """``[N, C, h, w]`` -> same shape."""
        q = self.analysis(value)
        with torch.autocast(value.device.type, enabled=False):
            sigma = torch.sqrt(q.float().square().mean((2, 3), keepdim=True) + 1e-6)  # [N, C, 1, 1]
            gain = F.relu(sigma - softplus(self.tau)) / sigma
        result: Tensor = value + self.synthesis(q * gain)
        return result


class BackgroundProx(nn.Module):
    """Low-rank prox: state-space blocks and a singular-value threshold at H/8 and H/16."""

    def __init__(self, config: LSNetConfig, *, remembers: bool) -> None:
        super().__init__()
        fine, coarse = config.background
        self.encode = nn.Conv2d(64, fine, 1)
        self.recall = nn.Conv2d(fine, fine, 1) if remembers else None
        self.fine = SelectiveScan2d(fine, config)
        self.fine_svt = SingularValueThreshold(fine)
        self.down = nn.Conv2d(fine, coarse, 2, stride=2)
        self.coarse = SelectiveScan2d(coarse, config)
        self.coarse_svt = SingularValueThreshold(coarse)
        self.up = nn.Conv2d(coarse, fine, 1)
        self.decode = nn.Conv2d(fine, 64, 1)
        self.smooth = SmoothingConv(8)

    def forward(self, data: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data ``[N, 1, H, W]`` and the last stage's memory -> B less data, and memory ``[N, C, H/8, W/8]``."""
        features = self.encode(F.pixel_unshuffle(data, 8))
        if self.recall is not None and memory is not None:
            features = features + self.recall(memory)
        features = self.fine_svt(self.fine(features))
        coarse = self.coarse_svt(self.coarse(self.down(features)))
        features = features + enlarge(self.up(coarse))
        return self.smooth(self.decode(features)), features


class AttentiveBlock(nn.Module):
    """Residual block whose update is gated by a spatial attention map (mean and max over channels)."""

    def __init__(self, channels: int, *, fold: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.attention = NarrowConv(2, 7, fold=fold)

    def forward(self, value: Tensor) -> Tensor:
        """``[N, C, h, w]`` -> same shape."""
        update = self.conv2(F.silu(self.conv1(value)))
        pooled = torch.cat(mean_and_peak(update), dim=1)
        result: Tensor = F.silu(value + update * torch.sigmoid(self.attention(pooled)))
        return result


class LSNetSparseProx(nn.Module):
    """Sparse prox: a small U-shape predicts the threshold map; T = soft(R, theta), R = D - B."""

    def __init__(self, config: LSNetConfig, *, remembers: bool) -> None:
        super().__init__()
        c1, c2, c3 = config.sparse
        self.fold = config.unshuffle
        pixels = self.fold**2
        narrow = 4 // self.fold  # so that each convolution to a map has 16 channels
        self.encode = nn.Conv2d(3 * pixels, c1, 3, padding=1)
        self.recall = nn.Conv2d(c1, c1, 1) if remembers else None
        self.block1 = AttentiveBlock(c1, fold=4)
        self.down1 = nn.Conv2d(c1, c2, 3, stride=2, padding=1)
        self.block2 = AttentiveBlock(c2, fold=4)
        self.down2 = nn.Conv2d(c2, c3, 3, stride=2, padding=1)
        self.context = nn.Conv2d(config.background[0], c3, 1)
        self.block3 = AttentiveBlock(c3, fold=2)
        self.up2 = nn.Conv2d(c3, c2, 1)
        self.merge2 = nn.Conv2d(c2, c2, 3, padding=1)
        self.up1 = nn.Conv2d(c2, c1, 1)
        self.theta = NarrowConv(c1, 3, shuffle=self.fold, fold=narrow)
        self.mask = NarrowConv(c1 + pixels, 3, shuffle=self.fold, fold=narrow)
        nn.init.constant_(self.mask.bias, -4.0)  # type: ignore[arg-type]  # targets are rare

    def forward(
        self, residual: Tensor, seen: Tensor, context: Tensor, memory: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """R ``[N, 1, H, W]``, D and contrast ``[N, 2, H, W]``, background features, memory -> T, mask logit, memory."""
        inputs = torch.cat([F.pixel_unshuffle(residual, self.fold), F.pixel_unshuffle(seen, self.fold)], dim=1)
        level1 = self.encode(inputs)
        if self.recall is not None and memory is not None:
            level1 = level1 + self.recall(memory)
        level1 = self.block1(level1)
        level2 = self.block2(self.down1(level1))
        level3 = self.down2(level2)
        behind = self.context(context)  # background features live at H/8, level 3 at H/(4 fold)
        level3 = self.block3(level3 + (enlarge(behind) if self.fold == 1 else behind))
        level2 = F.silu(self.merge2(level2 + enlarge(self.up2(level3))))
        level1 = F.silu(level1 + enlarge(self.up1(level2)))
        theta = softplus(self.theta(level1))
        target = soft_threshold(residual, theta)
        folded = F.pixel_unshuffle(target, self.fold)
        logit = self.mask(level1, folded.to(level1.dtype))
        return target, logit, level1


class LSNetStage(NamedTuple):
    """What one stage gives, each ``[N, 1, H, W]``; ``logit`` is of the target probability."""

    background: Tensor
    target: Tensor
    logit: Tensor


class LSNet(nn.Module):
    """K untied stages with memories between them.

    Input ``[N, 1, H, W]`` (normalised, H and W multiples of 16); output (probability, background,
    target), each of the same shape. :meth:`stages` gives what the stages learn, :meth:`forward` also
    what follows from it without learning: the background under targets. What needs the whole frame or its light in
    DN is applied to the outputs: :data:`CFAR` holds the probability against the frame's clutter
    (:func:`glint.processing.cfar.against_clutter`), :data:`POINTS` says what a sharp point adds to it
    (:func:`glint.processing.point_evidence.with_point_evidence`), :data:`EXTENT` where targets end
    (:func:`glint.processing.extent.confine`).
    """

    OUTPUTS = ("probability", "background", "target")
    EXTENT = Extent()
    CFAR = Cfar()
    POINTS = PointEvidence()

    def __init__(self, config: LSNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or LSNetConfig()
        self.low_rank = nn.ModuleList(BackgroundProx(config, remembers=k > 0) for k in range(config.stages))
        self.sparse = nn.ModuleList(LSNetSparseProx(config, remembers=k > 0) for k in range(config.stages))
        self.eta = nn.Parameter(torch.zeros(config.stages))
        self.contrast = Contrast()
        self.behind = BehindTargets()

    def stages(self, frame: Tensor) -> list[LSNetStage]:
        """All stages, first to last."""
        given, target, shift = frame, torch.zeros_like(frame), torch.zeros_like(frame)
        seen = torch.cat([frame, self.contrast(frame)], dim=1)
        background_memory: Tensor | None = None
        sparse_memory: Tensor | None = None
        outputs = []
        for k, (low_rank, sparse) in enumerate(zip(self.low_rank, self.sparse)):
            change, background_memory = low_rank(given, background_memory)
            residual = target - change if k else -change  # D_k - B
            below = shift - residual.float() if k else -residual.float()  # B - D
            target, logit, sparse_memory = sparse(residual, seen, background_memory, sparse_memory)
            outputs.append(LSNetStage(frame + below, target, logit.float()))
            # What D_k has above D is small: in half precision it costs half the bytes of D_k and no digit of D.
            shift = (1 - torch.sigmoid(self.eta[k])) * (below + target)
            given = frame + (shift - target)
        return outputs

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Probability, background and target; where it finds a target, T is what D has above B."""
        background, target, logit = self.stages(frame)[-1]
        probability = torch.sigmoid(logit)
        background = self.behind(frame, background, reach(probability))
        return torch.sigmoid(_LOGIT_SCALE * logit), background, target + probability * (frame - background - target)
