"""DSCSNet: compressed-sensing ADMM unfolded into a network that unmixes closely spaced targets.

Source: Tang et al., "DSCSNet: A Dynamic Sparse Compression Sensing Network for Closely-Spaced
Infrared Small Target Unmixing". Where the paper contradicts itself, the reading chosen here is
given at the place.

Glossary (paper -> code):
    y        patch, DN over the normaliser's scale          [N, 1, n, n]
    x        radiance on the c-times finer grid             [N, 1, g, g], g = c n
    Phi      sampling matrix = P kron P (``optics.Psf``)    Phi x = P X P^T
    z        auxiliary variable (sparse code)               [N, 1, g, g]
    beta     scaled multiplier mu / rho                     [N, 1, g, g]
    delta    beta - z                                       [N, 1, g, g]
    rho, mu1, mu2, eta, theta  learned scalars of a stage (theta: one per channel)
    W = f(.) kernels generated from the input               [N, C, 9]
    C        ``channels``, N_s ``stages``, m ``memory`` (of DIR)

Beyond the paper, a head reads targets off the grid (:class:`TargetHead`).

Features live on the grid, as in the paper, or (``folded``) at pixel resolution: the c x c cells of
a pixel become a = c^2 channels, a map is ``[N, a, n, n]``, and a 3 x 3 kernel reaches three times as
far for a ninth of the work. Below, a map is ``[N, a, m, m]``: a = 1 and m = g, or a = c^2 and m = n.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glint.errors import InputError
from glint.optics import Psf
from glint.training.networks.prox import soft_threshold, softplus

_LARGEST_PRODUCT_VALUES = 512  # values of a map: the matrix of larger ones costs more than it saves


@dataclass(frozen=True)
class DSCSNetConfig:
    """Size of the network and the switches of its ablations.

    Attributes:
        size: pixels per side of the patch, n.
        cells: cells per pixel and axis, c.
        channels: C.
        hidden: width of the kernel generators (paper size: 484).
        stages: ADMM iterations, 2 to 10.
        dynamic_weight: share of the generated kernels in the dynamic convolution; 0 switches it off
            (Table II "DCN", Fig. 8a).
        memory: how many of the last sparse codes DIR fuses (Fig. 8b).
        use_dir, use_dtg: the two modules of the final reconstruction (Table II).
        sigma: of the PSF that Phi is made of, pixels.
        head_channels, head_blocks: width and residual blocks of the target head.
        folded: features at pixel resolution instead of on the grid; for 3 cells, so that a kernel of
            the dynamic convolution covers the cells of a pixel.
    """

    size: int = 11
    cells: int = 3
    channels: int = 64
    hidden: int = 484
    stages: int = 6
    dynamic_weight: float = 0.7
    memory: int = 3
    use_dir: bool = True
    use_dtg: bool = True
    sigma: float = 0.5
    head_channels: int = 48
    head_blocks: int = 4
    folded: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.stages <= 10:
            raise InputError(f"DSCSNetConfig.stages: expected 2 to 10, got {self.stages}")
        if not 1 <= self.memory <= self.stages:
            raise InputError(f"DSCSNetConfig.memory: expected 1 to {self.stages} (stages), got {self.memory}")
        if not 0 <= self.dynamic_weight <= 1:
            raise InputError(f"DSCSNetConfig.dynamic_weight: expected 0 to 1, got {self.dynamic_weight}")
        if self.cells not in (1, 3, 5, 7) or self.size % 2 == 0:
            raise InputError(f"DSCSNetConfig: expected odd size and cells 1, 3, 5 or 7, got {self.size}, {self.cells}")
        if self.folded and (self.cells != 3 or self.channels < 9):
            raise InputError(
                f"DSCSNetConfig.folded: expected 3 cells and at least 9 channels, got {self.cells}, {self.channels}"
            )

    @property
    def grid(self) -> int:
        """Cells per side of the output, g."""
        return self.size * self.cells

    @property
    def planes(self) -> int:
        """Channels of a map among the features, a."""
        return self.cells**2 if self.folded else 1


PRESETS = {
    "dscsnet": DSCSNetConfig(),
    "dscsnet-s": DSCSNetConfig(size=7, channels=32, hidden=96, stages=2, memory=2, folded=True),
}
"""``dscsnet`` is the paper's network; ``dscsnet-s`` works on a re-centred 7 x 7 crop."""


class EvenLinear(nn.Linear):
    """A fully connected layer. Exported, an odd number of inputs gets one more: engines would copy them to do so."""

    def forward(self, value: Tensor) -> Tensor:
        """``[N, in]`` -> ``[N, out]``."""
        odd = self.in_features % 2 if torch.compiler.is_exporting() else 0
        return (
            F.linear(F.pad(value, (0, odd)), F.pad(self.weight, (0, odd)), self.bias) if odd else super().forward(value)
        )


class DynamicConv(nn.Module):
    """C_1 of Eq. 13: map -> C channels, 3 x 3, partly generated from the input of each sample.

    Static and generated kernels see the same pixels, so the kernels are mixed, not the outputs.
    The generated ones pass a tanh: a kernel that is linear in its input makes each stage quadratic,
    and 2^stages-degree polynomials blow up on rare patches (seen in training without it).
    The unfolding into 3 x 3 neighbourhoods is a constant one-hot convolution and the product a
    batched matmul: plain operators with a dynamic batch. Folded, the 3 x 3 cells of a pixel are the
    neighbourhood: the same convolution at a stride of 3, and nothing to unfold.
    """

    neighbours: Tensor

    def __init__(self, config: DSCSNetConfig) -> None:
        super().__init__()
        self.share = config.dynamic_weight
        self.channels = config.channels
        self.folded = config.folded
        self.kernel = nn.Parameter(torch.empty(config.channels, 9))
        nn.init.uniform_(self.kernel, -1 / 3, 1 / 3)
        self.bias = nn.Parameter(torch.zeros(config.channels, 1))
        if self.share > 0:
            self.generator = nn.Sequential(
                EvenLinear(config.grid**2, config.hidden), nn.SiLU(), nn.Linear(config.hidden, config.channels * 9)
            )
        self.register_buffer("neighbours", torch.eye(9).reshape(9, 1, 3, 3), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """``[N, a, m, m]`` -> ``[N, C, m, m]``."""
        batch, _, height, width = image.shape
        near = image if self.folded else F.conv2d(image, self.neighbours.to(image.dtype), padding=1)
        columns = near.flatten(2)  # [N, 9, m*m]
        kernel: Tensor = self.kernel
        if self.share > 0:
            generated = torch.tanh(self.generator(image.flatten(1))).reshape(batch, self.channels, 9)  # [N, C, 9]
            kernel = (1 - self.share) * kernel + self.share * generated
        return (kernel @ columns + self.bias).reshape(batch, self.channels, height, width)


def product(linear: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """What a linear function that is the same for every sample makes of maps.

    Exported, that is a single product with the matrix that the function is: its answers to unit maps. Products from
    two sides are several, and engines copy maps of odd sides before each.

    Args:
        linear: ``[N, a, m, m]`` -> any shape per sample, in the precision of its argument.
        value: its argument.
    """
    size = math.prod(value.shape[1:])
    if not torch.compiler.is_exporting() or size > _LARGEST_PRODUCT_VALUES:
        return linear(value)
    answers = linear(torch.eye(size, dtype=torch.float64).reshape(size, *value.shape[1:]))
    odd = size % 2  # engines compute pairs, and would copy an odd row first
    matrix = F.pad(answers.flatten(1).to(value.dtype), (0, 0, 0, odd))
    return (F.pad(value.flatten(1), (0, odd)) @ matrix).reshape(-1, *answers.shape[1:])


class BackProjection(nn.Module):
    """Phi^T y."""

    factor: Tensor

    def __init__(self, config: DSCSNetConfig) -> None:
        super().__init__()
        factor = torch.from_numpy(Psf(config.sigma).sampling_factor(config.size, config.cells)).float()
        self.register_buffer("factor", factor, persistent=False)  # P [n, g]
        self.cells = config.cells if config.folded else 1

    def forward(self, patch: Tensor) -> Tensor:
        """``[N, 1, n, n]`` -> ``[N, a, m, m]``."""
        factor = self.factor.to(patch.dtype)
        return F.pixel_unshuffle(factor.T @ patch @ factor, self.cells)

    def seen(self, grid: Tensor) -> Tensor:
        """Phi x, what a camera would see of a grid: ``[N, a, m, m]`` -> ``[N, 1, n, n]``."""
        factor = self.factor.to(grid.dtype)
        return factor @ F.pixel_shuffle(grid, self.cells) @ factor.T


class Solver(nn.Module):
    """x = (Phi^T Phi + rho I)^-1 (Phi^T y + rho v) (Eq. 8), exactly, from P = W diag(s) U^T.

    Eq. 8 and 14 read Phi^T y, not Phi x. The same x is v + A (y - Phi v) with A = (Phi^T Phi + rho I)^-1 Phi^T
    = (U kron U) diag(t / (t^2 + rho)) (W kron W)^T and t = s kron s: nothing is divided by rho, which may be
    learned, and everything passes through the n x n pixels, a ninth of the grid's cells.
    """

    left: Tensor
    right: Tensor
    gain: Tensor

    def __init__(self, config: DSCSNetConfig) -> None:
        super().__init__()
        factor = torch.from_numpy(Psf(config.sigma).sampling_factor(config.size, config.cells))
        left, values, right = torch.linalg.svd(factor, full_matrices=False)
        self.register_buffer("left", left.float().contiguous(), persistent=False)  # W [n, n]
        self.register_buffer("right", right.T.float().contiguous(), persistent=False)  # U [g, n]
        self.register_buffer("gain", torch.outer(values, values).float(), persistent=False)  # t [n, n]
        self.cells = config.cells if config.folded else 1
        self.project = BackProjection(config)
        self.log_rho = nn.Parameter(torch.tensor(-3.0))

    def forward(self, patch: Tensor, prior: Tensor, extra: Tensor | None = None) -> Tensor:
        """(Phi^T Phi + rho I)^-1 (Phi^T patch + extra + rho * prior), in float32.

        ``patch [N, 1, n, n]``, the others and the result ``[N, a, m, m]``.
        """
        with torch.autocast(patch.device.type, enabled=False):
            value = prior.float()
            if extra is not None:
                value = value + extra.float() * (-self.log_rho).exp()
            return value + product(self.answer, patch.float() - product(self.project.seen, value))

    def answer(self, patch: Tensor) -> Tensor:
        """(Phi^T Phi + rho I)^-1 Phi^T patch, ``[N, 1, n, n]`` -> ``[N, a, m, m]``."""
        left, right, gain, rho = (t.to(patch.dtype) for t in (self.left, self.right, self.gain, self.log_rho.exp()))
        found = (left.T @ patch @ left) * (gain / (gain.square() + rho))
        return F.pixel_unshuffle(right @ found @ right.T, self.cells)


def _small(conv: nn.Conv2d) -> nn.Conv2d:
    """Begins next to zero, so that the network begins as plain ADMM: the solver amplifies noise in its input."""
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


class DSCSNetSparseProx(nn.Module):
    """The z-update, Eq. 10 with the l1 prox of Eq. 12 in feature space, F of Eq. 13.

    z <- mu1 z + mu2 (x + beta) - D^T soft(F(x + beta), theta)
    """

    def __init__(self, config: DSCSNetConfig) -> None:
        super().__init__()
        c = config.channels
        self.analysis = DynamicConv(config)
        self.features = nn.Conv2d(c, c, 3, padding=1)
        self.synthesis = nn.Conv2d(c, c, 3, padding=1)
        self.project = _small(nn.Conv2d(c, config.planes, 1))
        self.theta = nn.Parameter(torch.full((c, 1, 1), -4.0))
        self.mu1 = nn.Parameter(torch.tensor(0.0))
        self.mu2 = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor, z: Tensor, beta: Tensor) -> Tensor:
        """All ``[N, a, m, m]``; returns the next z."""
        u = x + beta
        code = soft_threshold(self.features(F.silu(self.analysis(u))), softplus(self.theta))
        return self.mu1 * z + self.mu2 * u - self.project(F.silu(self.synthesis(code)))


class ThresholdGenerator(nn.Module):
    """DTG, Eq. 15-18: a threshold per cell out of the features of delta."""

    def __init__(self, config: DSCSNetConfig) -> None:
        super().__init__()
        c, a = config.channels, config.planes
        self.features = DynamicConv(config)
        # The two branches of Eq. 16 in one; folded, half as wide, and as many channels for each cell of a pixel.
        self.branches = nn.Conv2d(c, 2 * c if a == 1 else c // a * a, 3, padding=1)
        # One convolution of both pools, as two: 2 a channels fit no vector unit.
        self.mix_mean = nn.Conv2d(a, a, 3, padding=1)
        self.mix_peak = nn.Conv2d(a, a, 3, padding=1, bias=False)

    def forward(self, delta: Tensor) -> Tensor:
        """``[N, a, m, m]`` -> theta >= 0, same shape. Pools run over the channels of a cell."""
        batch, planes, height, width = delta.shape
        both = self.branches(F.silu(self.features(delta)))  # [N, 2C, m, m]
        both = both.reshape(batch, -1, planes * height * width)
        mean, peak = (pool.reshape(batch, planes, height, width) for pool in (both.mean(1), both.amax(1)))
        return softplus(self.mix_mean(mean) + self.mix_peak(peak) - 4.0)


class InformationReorganization(nn.Module):
    """DIR, Eq. 19-22: the last m sparse codes return into the back-projected input.

    The fusion weights of Eq. 21 are learned from 1/m; the output is what is added to Phi^T y.
    """

    def __init__(self, config: DSCSNetConfig) -> None:
        super().__init__()
        c, a = config.channels, config.planes
        self.sharpen = nn.ModuleList(nn.Conv2d(a, a, 3, padding=1) for _ in range(config.memory))
        self.weight = nn.Parameter(torch.full((config.memory,), 1 / config.memory))
        self.encode = nn.Conv2d(a, c, 3, padding=1)
        # One convolution of both, as two: C + 1 channels fit no vector unit.
        self.fuse_codes = nn.Conv2d(a, c, 3, padding=1)
        self.fuse_input = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.project = _small(nn.Conv2d(c, a, 1))

    def forward(self, codes: list[Tensor], back_projection: Tensor) -> Tensor:
        """m codes and Phi^T y, ``[N, a, m, m]`` each -> the same shape."""
        enhanced = [torch.tanh(conv(z)) for conv, z in zip(self.sharpen, codes)]
        fused = sum((w * e for w, e in zip(self.weight, enhanced)), torch.zeros_like(back_projection))
        features = self.fuse_codes(fused) + self.fuse_input(F.silu(self.encode(back_projection)))  # [N, C, m, m]
        projected: Tensor = self.project(F.silu(features))
        return projected


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """``[N, H, n, n]`` -> the same shape."""
        return features + self.second(F.silu(self.first(F.silu(features))))


class TargetHead(nn.Module):
    """Targets off the grid: for every cell, whether a target lies in it, and where and how bright.

    A cell's position, radiance and their spread describe the target nearest to it, so that the
    neighbours of a target that lies on the border of two cells agree on it. Everything is computed
    at pixel resolution, with the cells of a pixel as channels: as wide as it is narrow elsewhere,
    and cheap. The outputs leave by convolutions of their own: they differ in range, and share no
    scale when quantised.
    """

    SPREAD = (0.002, 4.0)  # px and units of radiance: what a spread is kept within

    def __init__(self, config: DSCSNetConfig) -> None:
        super().__init__()
        h, area = config.head_channels, config.cells**2
        self.cells = config.cells
        self.own = 2 + 2 * area  # channels that do not depend on the stages: the patch, Phi^T y and the grid
        self.merge = nn.Conv2d(self.own + config.memory * area, h, 1)
        self.blocks = nn.Sequential(*(Residual(h) for _ in range(config.head_blocks)))
        self.presence = nn.Conv2d(h, area, 1)
        self.offset = nn.Conv2d(h, 2 * area, 1)
        self.radiance = nn.Conv2d(h, area, 1)
        self.spread = nn.Conv2d(h, 3 * area, 1)
        for conv, start in ((self.presence, -4.0), (self.offset, 0.0), (self.radiance, 0.5), (self.spread, -1.0)):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.constant_(conv.bias, start)  # type: ignore[arg-type]

    def forward(self, patch: Tensor, maps: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``[N, 2, n, n]`` and m + 2 maps ``[N, c^2, n, n]`` -> presence, offset, radiance, spread."""
        features = F.silu(self.blocks(self.merge(torch.cat([patch, *maps], dim=1))))
        heads = (self.presence, self.offset, self.radiance, self.spread)
        if torch.compiler.is_exporting():  # one convolution, and its channels go to their cells at once
            weight = torch.cat([head.weight for head in heads])
            bias = torch.cat([head.bias for head in heads if head.bias is not None])
            found = F.pixel_shuffle(F.conv2d(features, weight, bias).float(), self.cells)
            presence, offset, radiance, spread = torch.split(found, [1, 2, 1, 3], dim=1)
        else:
            presence, offset, radiance, spread = (F.pixel_shuffle(head(features).float(), self.cells) for head in heads)
        low, high = (math.log(v) for v in self.SPREAD)
        return torch.sigmoid(presence), offset, radiance, torch.exp(spread.clamp(low, high))

    def take(self, other: TargetHead) -> None:
        """Begin with what another network's head has learned. The last codes stand for the last ones there.

        Raises:
            InputError: if the two differ in width, blocks or cells.
        """
        own, theirs = self.state_dict(), other.state_dict()
        del own["merge.weight"]
        read = theirs.pop("merge.weight")
        if other.cells != self.cells or {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in theirs.items()}:
            raise InputError(
                f"a target head of {len(other.blocks)} blocks of {len(read)} channels for {other.cells} cells does not "
                f"fit one of {len(self.blocks)} of {len(self.merge.weight)} for {self.cells}",
                hint="start from a checkpoint of a network of the same size",
            )
        self.load_state_dict(theirs, strict=False)
        shared = min(self.merge.in_channels, other.merge.in_channels) - self.own
        with torch.no_grad():
            self.merge.weight.zero_()
            self.merge.weight[:, : self.own] = read[:, : self.own]
            self.merge.weight[:, -shared:] = read[:, -shared:]


class DSCSNet(nn.Module):
    """Origin layer, ``stages`` ADMM stages, final reconstruction (Eq. 14), and the target head.

    Input ``[N, 2, n, n]``: normalised DN, and 1 where the pixel is saturated, else 0 (only the head
    looks at that). Outputs, by :data:`OUTPUTS`:

    - grid ``[N, 1, g, g]``: radiance per cell, in the units of the input: the paper's output;
    - presence ``[N, 1, g, g]``: probability that a target lies in the cell;
    - offset ``[N, 2, g, g]``: x and y of the target nearest to the cell, pixels from the cell's centre;
    - radiance ``[N, 1, g, g]``: its radiance, in the units of the input;
    - spread ``[N, 3, g, g]``: standard deviations of x, y (pixels) and radiance.

    Samples do not see each other.
    """

    OUTPUTS = ("grid", "presence", "offset", "radiance", "spread")

    def __init__(self, config: DSCSNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DSCSNetConfig()
        self.project = BackProjection(config)
        self.solvers = nn.ModuleList(Solver(config) for _ in range(config.stages + 1))
        self.proxes = nn.ModuleList(DSCSNetSparseProx(config) for _ in range(config.stages))
        self.eta = nn.Parameter(torch.full((config.stages,), 0.1))
        self.dtg = ThresholdGenerator(config) if config.use_dtg else None
        self.dir = InformationReorganization(config) if config.use_dir else None
        self.head = TargetHead(config)

    def forward(self, patch: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """``[N, 2, n, n]`` -> grid, presence, offset, radiance, spread."""
        first = self.solvers[0]
        assert isinstance(first, Solver)  # noqa: S101  (a list of modules has no types)
        with torch.autocast(patch.device.type, enabled=False):
            light = patch[:, :1].float()
            back_projection = product(self.project, light)
            # The origin layer: z = beta = 0 in Eq. 8.
            x = product(first.answer, light)
        z = torch.zeros_like(back_projection)
        beta = torch.zeros_like(back_projection)
        codes = []
        for k, (solver, prox) in enumerate(zip(self.solvers, self.proxes)):
            if k:
                x = solver(light, z - beta)  # Eq. 8
            z = prox(x, z, beta)  # Eq. 10, 12, 13
            beta = beta + self.eta[k] * (x - z)  # Eq. 11
            codes.append(z)
        codes = codes[-self.config.memory :]
        delta = beta - z
        if self.dtg is not None:
            delta = soft_threshold(delta, self.dtg(delta))  # Eq. 17, 18
        extra = None if self.dir is None else self.dir(codes, back_projection)  # Eq. 19-22
        solved: Tensor = self.solvers[-1](light, -delta, extra)  # Eq. 14
        grid, maps = solved, [back_projection, solved, *codes]
        if self.config.folded:
            with torch.autocast(patch.device.type, enabled=False):
                grid = F.pixel_shuffle(solved, self.config.cells)
        else:
            maps = [F.pixel_unshuffle(m, self.config.cells) for m in maps]
        return grid, *self.head(patch, maps)
