"""Simulated frames: clusters and single targets moving over a background, with exact truth.

Levels are in DN of an 8-bit image; a frame of b bits is scaled by 2^(b - 8) before it is rounded,
so that the same scene at 8 and at 14 bits differs in quantisation only. The truth is in DN of the
frame as it is delivered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glint.errors import InputError
from glint.images import read_image
from glint.optics import Psf
from glint.simulation.patches import PATCH_SIZE_PX, draw_offsets
from glint.types import Frame, FrameSize, Targets

FRAME_PERIOD_NS = 33_333_333  # a 30 Hz camera
_MOST_GROUPS = 10_000
_MARGIN_PX = PATCH_SIZE_PX  # that targets keep from the edge


@dataclass(frozen=True)
class SceneConfig:
    """What to simulate.

    Attributes:
        width, height: pixels.
        frames: how many.
        clusters: groups of 2 to 5 targets within one pixel.
        singles: targets on their own.
        noise: standard deviation of white noise, DN of an 8-bit image.
        bits: 8, or 9 to 16 (delivered as uint16).
        radiance: lowest and highest, DN of an 8-bit image.
        sigma: of the PSF, pixels.
        speed: largest speed of a group, pixels per frame.
        background: image file to move over, or "" for a generated sky.
        seed: of everything.
    """

    width: int = 640
    height: int = 512
    frames: int = 100
    clusters: int = 6
    singles: int = 4
    noise: float = 1.0
    bits: int = 8
    radiance: tuple[float, float] = (80.0, 120.0)
    sigma: float = 0.5
    speed: float = 0.7
    seed: int = 1
    background: str = ""

    def __post_init__(self) -> None:
        least = 4 * _MARGIN_PX
        if not (least <= self.width <= 8192 and least <= self.height <= 8192):
            raise InputError(f"scene size: expected {least}..8192 pixels per side, got {self.width}x{self.height}")
        if not 8 <= self.bits <= 16:
            raise InputError(f"scene bits: expected 8 to 16, got {self.bits}")
        if min(self.frames, self.clusters, self.singles, self.seed) < 0:
            raise InputError(
                "scene: frames, clusters, singles and seed must not be negative", hint="give whole numbers from 0"
            )
        if self.clusters + self.singles > _MOST_GROUPS:
            raise InputError(
                f"scene: expected at most {_MOST_GROUPS} clusters and singles, got {self.clusters + self.singles}"
            )
        if not (0 <= self.noise < np.inf and 0 <= self.speed < np.inf):
            raise InputError(f"scene: expected noise and speed >= 0 and finite, got {self.noise} and {self.speed}")
        Psf(self.sigma)  # checks it
        if not 0 < self.radiance[0] <= self.radiance[1] < np.inf:
            raise InputError(f"scene radiance: expected 0 < low <= high, got {self.radiance}")


def generate_background(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """A cloudy sky over a warm horizon: 1/f noise, a gradient, sometimes a skyline; DN, ``[H, W]``."""
    height, width = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal(shape)) * frequency ** -rng.uniform(1.3, 1.8)
    clouds = np.fft.irfft2(spectrum, s=shape)
    clouds /= clouds.std()
    rows = np.linspace(-1, 1, height)[:, None]
    background = rng.uniform(30, 70) + rng.uniform(4, 12) * clouds + rng.uniform(-15, 15) * rows
    if rng.random() < 0.5:
        background += _skyline(shape, rng)
    return np.clip(background, 2.0, 180.0)


def read_background(path: Path, bits: int) -> NDArray[np.float64]:
    """A real background in DN of an 8-bit image; a 16-bit file is taken to have the scene's ``bits``.

    Raises:
        SourceError: if it cannot be read.
    """
    image = read_image(path)
    return image.astype(np.float64) / (2.0 ** (bits - 8) if image.dtype == np.uint16 else 1.0)


def _skyline(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """A warm ground with an uneven edge, blurred as the optics would."""
    height, width = shape
    profile = ndimage.gaussian_filter1d(np.cumsum(rng.standard_normal(width)), 3.0)
    edge = height * rng.uniform(0.7, 0.95) + profile - profile.mean()
    ground = np.arange(height)[:, None] > edge[None]
    return ndimage.gaussian_filter(ground * rng.uniform(15, 50), 0.7)


@dataclass(frozen=True, eq=False)
class _Groups:
    """Where each group starts and goes, and its members: ``[G, 2]``, ``[G, 2]``, ``[G, 5, 2]``, ``[G, 5]``."""

    start: NDArray[np.float64]
    velocity: NDArray[np.float64]
    member: NDArray[np.float64]
    radiance: NDArray[np.float64]


def _draw_groups(config: SceneConfig, rng: np.random.Generator) -> _Groups:
    number = config.clusters + config.singles
    count = np.concatenate([rng.integers(2, 6, config.clusters), np.ones(config.singles, dtype=np.int64)])
    size = np.array([config.width, config.height])
    member = np.nan_to_num(draw_offsets(count, 0.5, rng)) - 0.5
    radiance = rng.uniform(*config.radiance, member.shape[:2])
    radiance[np.arange(5) >= count[:, None]] = 0
    angle = rng.uniform(0, 2 * np.pi, number)
    speed = config.speed * np.sqrt(rng.random(number))
    velocity = speed[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    start = _MARGIN_PX + rng.random((number, 2)) * (size - 1 - 2 * _MARGIN_PX)
    return _Groups(start, velocity, member, radiance)


def _reflect(position: NDArray[np.float64], low: float, high: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fold straight paths back at the walls low and high."""
    span = high - low
    phase = np.mod(position - low, 2 * span)
    return low + np.where(phase > span, 2 * span - phase, phase)


def simulate_scene(
    config: SceneConfig, background: NDArray[np.floating] | None = None
) -> Iterator[tuple[Frame, Targets]]:
    """Frames with their truth; ``Targets.blob`` is the number of the group.

    Args:
        config: the scene.
        background: ``[height, width]`` DN of an 8-bit image; if None, the configuration's file, or
            else generated from the seed.

    Raises:
        InputError: if the background has another shape.
    """
    rng = np.random.default_rng(config.seed)
    shape = (config.height, config.width)
    if background is None and config.background:
        background = read_background(Path(config.background), config.bits)
    still = generate_background(shape, rng) if background is None else np.asarray(background, dtype=np.float64)
    if still.shape != shape:
        raise InputError(f"scene background: expected shape {shape}, got {still.shape}")
    groups = _draw_groups(config, rng)
    high = np.array([config.width, config.height]) - 1.0 - _MARGIN_PX
    used = groups.radiance > 0
    gain = 2.0 ** (config.bits - 8)
    full_scale = 2.0**config.bits - 1
    psf = Psf(config.sigma)
    for index in range(config.frames):
        centre = _reflect(groups.start + index * groups.velocity, _MARGIN_PX, high)
        position = centre[:, None] + groups.member
        truth = _truth(position[used], gain * groups.radiance[used], np.nonzero(used)[0])
        image = still + psf.render(truth.x, truth.y, truth.radiance / gain, shape)
        image = gain * (image + config.noise * rng.standard_normal(shape))
        data = np.clip(np.round(image), 0, full_scale).astype(np.uint8 if config.bits == 8 else np.uint16)
        yield Frame(index, index * FRAME_PERIOD_NS, data, name=f"{index:06d}", full_scale=full_scale), truth


def _truth(position: NDArray[np.float64], radiance: NDArray[np.float64], group: NDArray[np.int64]) -> Targets:
    nothing = np.zeros(len(radiance))
    return Targets(
        x=position[:, 0], y=position[:, 1], radiance=radiance, sigma_x=nothing, sigma_y=nothing,
        sigma_radiance=nothing, blob=group, score=np.ones(len(radiance)), flags=nothing.astype(np.int64),
    )  # fmt: skip


def parse_synthetic(uri: str) -> SceneConfig:
    """``synthetic://?size=640x512&frames=200&clusters=6&noise=2&bits=14&seed=1`` as a scene.

    Every field of ``SceneConfig`` may be given; ``size`` is width x height, ``radiance`` low-high.
    With a ``background`` and no size, the scene has the background's.

    Raises:
        InputError: if a name is unknown or a value malformed.
        SourceError: if the background cannot be read.
    """
    known = {f.name: f.type for f in fields(SceneConfig)}
    values: dict[str, object] = {}
    before, _, query = uri.partition("?")
    if before not in ("synthetic:", "synthetic://"):
        raise InputError(
            f"{uri}: expected synthetic://?NAME=VALUE&...", hint="e.g. synthetic://?size=640x512&frames=100"
        )
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name != "size" and name not in known:
            hint = f"known: size, {', '.join(sorted(known))}"
            raise InputError(f"synthetic://: unknown parameter {name!r}", hint=hint)
        try:
            if name == "size":
                values["width"], values["height"] = FrameSize.parse(text)
            elif name == "radiance":
                values["radiance"] = tuple(float(v) for v in text.split("-", 1))
            elif name == "background":
                values["background"] = text
            else:
                values[name] = int(text) if known[name] == "int" else float(text)
        except ValueError as error:
            raise InputError(
                f"synthetic://: {name}={text!r} is malformed",
                hint="e.g. synthetic://?size=640x512&frames=200&clusters=6&noise=2&bits=14&seed=1",
            ) from error
    if len(values.get("radiance", (0, 0))) != 2:  # type: ignore[arg-type]
        raise InputError(
            "synthetic://: radiance takes two numbers, e.g. radiance=80-120", hint="radiance=LOW-HIGH, in DN"
        )
    if values.get("background") and "width" not in values:
        values["height"], values["width"] = read_image(Path(str(values["background"]))).shape
    return SceneConfig(**values)  # type: ignore[arg-type]
