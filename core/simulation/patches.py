"""Simulated patches of closely spaced targets: the CSIST-100K protocol and its widenings.

The protocol: 11 x 11 pixels, 1-5 targets inside a box of one pixel (base pixel 2..8 on both axes,
offsets from it in [-0.4, 0.6]), at least 0.5 px apart, radiance 220-250, sigma 0.5 px, no noise. The
DN here is that of an 8-bit image; a 14-bit camera's DN is 1/64 of it.

Where the box starts matters to grid methods: close targets crowd the box's corners, and a perfect
3x grid answer in random order scores CSO-mAP 48.8 for [-0.4, 0.6] and 45.7 for [-0.5, 0.5].
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from glint.errors import InputError

PATCH_SIZE_PX = 11
TRIES_PER_TARGET = 24  # places tried for a target before its arrangement is given up
LEAST_NOISE_DN = 0.02  # DN; where a range of noise that reaches down to none begins
_ATTEMPTS_BY_COUNT = (1.0, 1.0, 1.0, 1.02, 1.5, 11.0)  # attempts per success by number of targets, about


@dataclass(frozen=True)
class PatchConfig:
    """What to simulate; every (low, high) pair is drawn uniformly per patch unless said otherwise.

    Attributes:
        size: pixels per side.
        targets: smallest and largest number of targets; each number is equally likely.
        base: lowest and highest base pixel on both axes (whole pixels).
        box_start: offset from the base pixel, on both axes, at which the 1 px box of the targets starts.
        separation: least distance between two targets, pixels.
        radiance: DN, drawn per target.
        sigma: of the PSF, pixels.
        noise: standard deviation of white Gaussian noise, DN; drawn log-uniformly above 0.02.
        background: residual offset of the whole patch, DN.
        slope: residual background slope per axis, DN per pixel.
        quantum: step of the analogue-to-digital conversion, DN; 0 for none. Several: one is drawn.
        full_scale: value at which pixels clip, DN; 0 for none. Several: one is drawn.
    """

    size: int = PATCH_SIZE_PX
    targets: tuple[int, int] = (1, 5)
    base: tuple[int, int] = (2, 8)
    box_start: tuple[float, float] = (-0.4, -0.4)
    separation: float = 0.5
    radiance: tuple[float, float] = (220.0, 250.0)
    sigma: tuple[float, float] = (0.5, 0.5)
    noise: tuple[float, float] = (0.0, 0.0)
    background: tuple[float, float] = (0.0, 0.0)
    slope: tuple[float, float] = (0.0, 0.0)
    quantum: tuple[float, ...] = (0.0,)
    full_scale: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        for name in ("targets", "base", "box_start", "radiance", "sigma", "noise", "background", "slope"):
            low, high = getattr(self, name)
            if not low <= high:
                raise InputError(f"PatchConfig.{name}: expected (low, high) with low <= high, got {(low, high)}")
        if not 1 <= self.targets[0] <= self.targets[1] <= 5:
            raise InputError(f"PatchConfig.targets: expected 1 to 5, got {self.targets}")
        if not 0 <= self.separation <= 0.6:
            # Five points in a unit square can be at most 0.707 apart; close to that, sampling stalls.
            raise InputError(f"PatchConfig.separation: expected 0 to 0.6 px, got {self.separation}")
        if not self.quantum or not self.full_scale:
            raise InputError(
                "PatchConfig: quantum and full_scale need at least one value (0 for none)", hint="0 stands for none"
            )
        if not 0 <= self.base[0] <= self.base[1] < self.size:
            raise InputError(f"PatchConfig.base: expected pixels 0..{self.size - 1}, got {self.base}")
        if self.sigma[0] <= 0 or self.radiance[0] <= 0 or self.noise[0] < 0:
            raise InputError(
                "PatchConfig: sigma and radiance must be positive and noise not negative",
                hint="give ranges (low, high) above 0",
            )


_SATURATED = PatchConfig(quantum=(1.0,), full_scale=(255.0,))

CONDITIONS: dict[str, PatchConfig] = {
    "float": PatchConfig(),
    "14bit": PatchConfig(noise=(0.0625, 0.0625), quantum=(1 / 64,)),
    "8bit": PatchConfig(quantum=(1.0,)),
    "8sat": _SATURATED,
    "n1": PatchConfig(noise=(1.0, 1.0)),
    "n2": PatchConfig(noise=(2.0, 2.0)),
    "n5": PatchConfig(noise=(5.0, 5.0)),
    # What the protocol takes for granted, one at a time, at 8sat.
    "bright": replace(_SATURATED, radiance=(60.0, 250.0)),
    "sigma-": replace(_SATURATED, sigma=(0.48, 0.48)),
    "sigma+": replace(_SATURATED, sigma=(0.52, 0.52)),
    "background": replace(_SATURATED, background=(10.0, 10.0)),
}
"""The named test conditions of the unmixing benchmark; methods assume a sigma of 0.5 and no background."""

CSIST_TRAINING = replace(
    PatchConfig(), box_start=(-0.5, -0.4), noise=(0.0, 5.0), quantum=(0.0, 1 / 64, 1.0), full_scale=(0.0, 255.0)
)
"""The protocol's scene under mixed noise, bit depth and saturation: one network for all conditions."""

SENSOR_TRAINING = replace(
    CSIST_TRAINING,
    box_start=(-1.0, 0.0),
    radiance=(60.0, 250.0),
    sigma=(0.47, 0.53),
    background=(-10.0, 10.0),
    slope=(-0.5, 0.5),
)
"""What a camera behind a detector delivers: unknown radiance, PSF tolerance, residual background."""


@dataclass(frozen=True, eq=False)
class Patches:
    """Simulated patches with their truth; unused target slots have radiance 0 and lie at (0, 0).

    Attributes:
        image: ``float32 [N, n, n]``, DN.
        x, y: ``float64 [N, K]``, patch pixels.
        radiance: ``float64 [N, K]``, DN.
        count: ``int64 [N]``.
        sigma, noise, background: the values drawn for each patch, ``float64 [N]``.
        full_scale: clipping level of each patch, DN, infinity for none, ``float64 [N]``.
    """

    image: NDArray[np.float32]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    radiance: NDArray[np.float64]
    count: NDArray[np.int64]
    sigma: NDArray[np.float64]
    noise: NDArray[np.float64]
    background: NDArray[np.float64]
    full_scale: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.count)


def draw_offsets(count: NDArray[np.int64], separation: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Offsets in [0, 1]^2, pairwise at least ``separation`` apart: ``[N, 5, 2]``.

    Targets are placed one after the other, each uniform where there is room; an arrangement in
    which one finds no room in a few tries is given up for a new one. Slots from ``count`` on are NaN.
    """
    points = np.full((len(count), 5, 2), np.nan)
    for k in range(1, 6):
        rows = np.flatnonzero(count == k)
        found: list[NDArray[np.float64]] = []
        missing = len(rows)
        while missing > 0:
            # Attempts are independent, so taking the first successes favours no arrangement.
            found.append(_attempt(k, int(missing * _ATTEMPTS_BY_COUNT[k]) + 8, separation, rng)[:missing])
            missing -= len(found[-1])
        if found:
            points[rows, :k] = np.concatenate(found)
    return points


def _attempt(k: int, number: int, separation: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Those of ``number`` attempts to place k points in the unit box that succeed: ``[S, k, 2]``."""
    points = rng.random((number, k, 2))
    for j in range(1, k):
        pending = np.arange(len(points))
        for _ in range(TRIES_PER_TARGET):
            gap = points[pending, :j] - points[pending, j, None]
            taken = ((gap[..., 0] ** 2 + gap[..., 1] ** 2) < separation**2).any(1)
            pending = pending[taken]
            if not len(pending):
                break
            points[pending, j] = rng.random((len(pending), 2))
        keep = np.ones(len(points), dtype=bool)
        keep[pending] = False
        points = points[keep]
    return points


def simulate_patches(config: PatchConfig, number: int, rng: np.random.Generator) -> Patches:
    """Draw ``number`` independent patches.

    Raises:
        InputError: if ``number`` is negative.
    """
    if number < 0:
        raise InputError(f"simulate_patches: expected a number of patches >= 0, got {number}")
    count = rng.integers(config.targets[0], config.targets[1] + 1, number)
    base = rng.integers(config.base[0], config.base[1] + 1, (number, 1, 2))
    start = rng.uniform(*config.box_start, (number, 1, 2))
    position = np.nan_to_num(draw_offsets(count, config.separation, rng) + start + base)
    used = np.arange(position.shape[1]) < count[:, None]
    radiance = np.where(used, rng.uniform(*config.radiance, used.shape), 0.0)
    sigma = rng.uniform(*config.sigma, number)
    noise = _draw_noise(config.noise, number, rng)
    background = rng.uniform(*config.background, number)
    full_scale = rng.choice(np.asarray(config.full_scale), number)
    full_scale = np.where(full_scale > 0, full_scale, np.inf)

    image = _render(position, radiance, sigma, config.size)
    image += background[:, None, None]
    if config.slope != (0.0, 0.0):
        ramp = np.arange(config.size) - (config.size - 1) / 2
        slope = rng.uniform(*config.slope, (2, number, 1, 1))
        image += slope[0] * ramp + slope[1] * ramp[:, None]
    if config.noise[1] > 0:
        image += noise[:, None, None] * rng.standard_normal(image.shape)
    image = _digitise(image, rng.choice(np.asarray(config.quantum), number), full_scale)
    return Patches(
        image.astype(np.float32), position[..., 0], position[..., 1], radiance, count, sigma, noise, background,
        full_scale,
    )  # fmt: skip


def _draw_noise(bounds: tuple[float, float], number: int, rng: np.random.Generator) -> NDArray[np.float64]:
    low, high = bounds
    if low == high:
        return np.full(number, low)
    # Log-uniform: a factor of two in the noise matters as much at 0.1 DN as at 5 DN.
    return np.exp(rng.uniform(np.log(max(low, min(LEAST_NOISE_DN, high))), np.log(high), number))


def _render(
    position: NDArray[np.float64], radiance: NDArray[np.float64], sigma: NDArray[np.float64], size: int
) -> NDArray[np.float64]:
    """As ``Psf.render``, with a sigma of its own per patch, in one pass over all edges."""
    edges = np.arange(size + 1) - 0.5 - position[..., None]  # [N, K, 2, n + 1]
    profile = np.diff(erf(edges / (np.sqrt(2) * sigma[:, None, None, None])), axis=-1) / 2
    rows = profile[:, :, 1] * radiance[..., None]
    image: NDArray[np.float64] = np.swapaxes(rows, 1, 2) @ profile[:, :, 0]
    return image


def _digitise(
    image: NDArray[np.float64], quantum: NDArray[np.float64], full_scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    step = np.where(quantum > 0, quantum, 1.0)[:, None, None]
    rounded = np.where(quantum[:, None, None] > 0, np.round(image / step) * step, image)
    return np.minimum(rounded, full_scale[:, None, None])
