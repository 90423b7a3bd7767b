"""Training patches, made where the network trains.

What :mod:`glint.simulation.patches` draws, and ``crop``, ``normalise`` and ``grid`` of :mod:`glint.processing` make of
it, in PyTorch on any device: a GPU would wait for NumPy. Both draw the same distributions, from other random numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from glint.errors import InputError
from glint.processing.crop import CENTROID_LEVEL
from glint.processing.normalise import Normaliser
from glint.simulation.patches import LEAST_NOISE_DN, TRIES_PER_TARGET, PatchConfig

_GROWTH_FACTOR = 4  # times as many arrangements are tried side by side in each round
_MOST_ARRANGEMENTS_AT_ONCE = 16  # that are


@dataclass(frozen=True, eq=False)
class PatchTensors:
    """``glint.simulation.patches.Patches`` as tensors on one device: same fields, shapes and types."""

    image: Tensor
    x: Tensor
    y: Tensor
    radiance: Tensor
    count: Tensor
    sigma: Tensor
    noise: Tensor
    background: Tensor
    full_scale: Tensor


def draw_patches(config: PatchConfig, number: int, generator: torch.Generator) -> PatchTensors:
    """Draw ``number`` independent patches on the generator's device."""
    device = generator.device
    count = torch.randint(config.targets[0], config.targets[1] + 1, (number,), generator=generator, device=device)
    base = torch.randint(config.base[0], config.base[1] + 1, (number, 1, 2), generator=generator, device=device)
    start = _uniform(config.box_start, (number, 1, 2), generator)
    used = torch.arange(5, device=device) < count[:, None]
    offset = draw_offsets(count, config.separation, generator)
    position = torch.where(used[..., None], offset + start + base, 0.0)
    radiance = torch.where(used, _uniform(config.radiance, used.shape, generator), 0.0)
    sigma = _uniform(config.sigma, (number,), generator)
    noise = _draw_noise(config.noise, number, generator)
    background = _uniform(config.background, (number,), generator)
    full_scale = _choose(config.full_scale, number, generator)
    full_scale = torch.where(full_scale > 0, full_scale, torch.inf)

    ramp = torch.arange(config.size, device=device) - (config.size - 1) / 2
    slope = _uniform(config.slope, (2, number, 1, 1), generator)
    image = render(position, radiance, sigma, config.size) + background[:, None, None]
    image += slope[0] * ramp + slope[1] * ramp[:, None]
    image += noise[:, None, None] * torch.randn(image.shape, generator=generator, device=device, dtype=image.dtype)
    image = _digitise(image, _choose(config.quantum, number, generator), full_scale)
    return PatchTensors(
        image.float(), position[..., 0], position[..., 1], radiance, count, sigma, noise, background, full_scale
    )


def draw_offsets(count: Tensor, separation: float, generator: torch.Generator) -> Tensor:
    """As ``glint.simulation.patches.draw_offsets``: ``[N, 5, 2]``; slots from ``count`` on are anything.

    Every round tries several arrangements side by side for each patch that has none yet, and more
    of them each round: arrangements are independent, so any that fits may be taken.
    """
    points = torch.zeros((len(count), 5, 2), dtype=torch.float64, device=count.device)
    pending = torch.arange(len(count), device=count.device)
    attempts = 1
    while len(pending):
        tried, fits = _attempt(count[pending], attempts, separation, generator)
        found, first = fits.any(1), fits.int().argmax(1)
        points[pending[found]] = tried[found, first[found]]
        pending = pending[~found]
        attempts = min(_GROWTH_FACTOR * attempts, _MOST_ARRANGEMENTS_AT_ONCE)
    return points


def _attempt(count: Tensor, attempts: int, separation: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Arrangements ``[N, attempts, 5, 2]``, and which hold as many points as asked ``[N, attempts]``.

    Points are placed one after the other, each at the first of ``TRIES_PER_TARGET`` places that is free.
    """
    shape = (len(count), attempts)
    points = torch.rand((*shape, 5, 2), dtype=torch.float64, generator=generator, device=count.device)
    fits = torch.ones(shape, dtype=torch.bool, device=count.device)
    for j in range(1, 5):
        places = torch.rand(
            (*shape, TRIES_PER_TARGET, 2), dtype=torch.float64, generator=generator, device=count.device
        )
        gap = places[:, :, :, None] - points[:, :, None, :j]  # [N, attempts, TRIES_PER_TARGET, j, 2]
        free = (gap.square().sum(-1) >= separation**2).all(-1)
        first = free.int().argmax(-1)[..., None, None].expand(*shape, 1, 2)
        points[:, :, j] = places.gather(2, first)[:, :, 0]
        fits &= free.any(-1) | (count[:, None] <= j)
    return points, fits


def render(position: Tensor, radiance: Tensor, sigma: Tensor, size: int) -> Tensor:
    """As ``Psf.render`` with a sigma per patch: ``[N, K, 2]``, ``[N, K]``, ``[N]`` -> ``[N, size, size]``."""
    edges = torch.arange(size + 1, device=position.device) - 0.5 - position[..., None]  # [N, K, 2, size + 1]
    profile = torch.erf(edges / (math.sqrt(2) * sigma[:, None, None, None])).diff(dim=-1) / 2
    rows = profile[:, :, 1] * radiance[..., None]
    return rows.transpose(1, 2) @ profile[:, :, 0]


def recentre(image: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """As ``glint.processing.crop.recentre``: ``[N, n, n]`` -> ``[N, size, size]``, column and row of its origin."""
    n = image.shape[-1]
    if size > n:
        raise InputError(
            f"recentre: a crop of {size} pixels does not fit into patches of {n}",
            hint="give larger patches, or a smaller crop",
        )
    inner = torch.zeros((n, n), dtype=torch.bool, device=image.device)
    inner[1:-1, 1:-1] = True
    ring = image[:, ~inner].sort(dim=1).values  # 4 (n - 1) pixels: an even number
    middle = ring.shape[1] // 2
    above = image - ((ring[:, middle - 1] + ring[:, middle]) / 2)[:, None, None]
    weight = (above - CENTROID_LEVEL * above.amax((1, 2), keepdim=True)).clamp_min(0)
    weight = weight + 1e-6 * above.abs().amax((1, 2), keepdim=True) + 1e-12
    steps = torch.arange(n, device=image.device)
    centre = [(weight.sum(axis) * steps).sum(1) / weight.sum((1, 2)) for axis in (1, 2)]
    left, top = ((c - (size - 1) / 2).round().clamp(0, n - size).long() for c in centre)
    columns, rows = (first[:, None] + torch.arange(size, device=image.device) for first in (left, top))
    patch = torch.arange(len(image), device=image.device)
    return image[patch[:, None, None], rows[:, :, None], columns[:, None, :]], left, top


def normalise(crops: Tensor, normaliser: Normaliser) -> tuple[Tensor, Tensor]:
    """As ``Normaliser.apply``: values ``[N, n, n]`` and their scale ``[N, 1, 1]``, DN per unit.

    Raises:
        InputError: if the normaliser takes an offset away, which a patch's radiances do not survive.
    """
    scale = torch.full((len(crops), 1, 1), normaliser.scale, dtype=crops.dtype, device=crops.device)
    if normaliser.kind == "peak":
        scale = torch.maximum(crops.amax((1, 2), keepdim=True), scale)
    elif normaliser.kind != "fixed":
        raise InputError(f"normalise: expected a fixed or peak normaliser for patches, got {normaliser.kind!r}")
    return crops / scale, scale


def encode(x: Tensor, y: Tensor, radiance: Tensor, n: int, c: int) -> Tensor:
    """As ``glint.processing.grid.encode``: ``[N, K]`` targets of an n-pixel patch -> ``float32 [N, c n, c n]``."""
    side = c * n
    column, row = (((v + 0.5) * c).floor().long() for v in (x, y))
    inside = (radiance > 0) & (column >= 0) & (column < side) & (row >= 0) & (row < side)
    cell = torch.where(inside, row * side + column, 0)
    grids = torch.zeros((len(x), side * side), dtype=torch.float32, device=x.device)
    grids.scatter_add_(1, cell, torch.where(inside, radiance, 0.0).float())
    return grids.reshape(-1, side, side)


def _uniform(bounds: tuple[float, float], shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    low, high = bounds
    drawn = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
    return low + (high - low) * drawn


def _choose(values: tuple[float, ...], number: int, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(len(values), (number,), generator=generator, device=generator.device)
    return torch.tensor(values, dtype=torch.float64, device=generator.device)[drawn]


def _draw_noise(bounds: tuple[float, float], number: int, generator: torch.Generator) -> Tensor:
    low, high = bounds
    if low == high:
        return torch.full((number,), low, dtype=torch.float64, device=generator.device)
    return _uniform((math.log(max(low, min(LEAST_NOISE_DN, high))), math.log(high)), (number,), generator).exp()


def _digitise(image: Tensor, quantum: Tensor, full_scale: Tensor) -> Tensor:
    step = torch.where(quantum > 0, quantum, 1.0)[:, None, None]
    rounded = torch.where(quantum[:, None, None] > 0, (image / step).round() * step, image)
    return torch.minimum(rounded, full_scale[:, None, None])
