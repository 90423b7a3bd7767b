"""A source for measuring: known clusters that move over a background that moves too.

The camera pans over a still background (a real image or a generated sky), sampled at sub-pixel positions with
cubic splines, and turns round where that ends; clusters and single targets move on straight lines through the scene.
One whose middle leaves the picture is gone; another one, with as many members, comes in over an edge. Levels are DN
of an 8-bit image, as in ``glint.simulation.scenes``; the truth is in DN of the frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count as numbers_from
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glint.data.datasets import image_files, read_mask
from glint.errors import InputError, SourceError
from glint.images import read_image
from glint.optics import Psf
from glint.runtime.sources.base import Source
from glint.simulation.patches import draw_offsets
from glint.simulation.scenes import FRAME_PERIOD_NS, generate_background
from glint.types import Frame, Targets

_MARGIN_PX = 12.0  # px from the edge that the middle of a group has at least in the first frame
_LEAST_ROOM_PX = 8  # px by which a background is larger than the picture, at least
_AROUND_PX = 5  # px around a real target from which the background under it is taken


@dataclass(frozen=True)
class MovingConfig:
    """What moves.

    Attributes:
        width, height: of the picture, pixels.
        frames: per background.
        clusters: groups of 2 to 5 targets within one pixel.
        singles: targets on their own.
        radiance: lowest and highest, DN.
        noise: standard deviation of white noise, DN.
        bits: of the frames, 8 to 16.
        sigma: of the PSF, pixels.
        speed: largest speed of a group through the scene, pixels per frame.
        pan: speed of the background, pixels per frame.
    """

    width: int = 256
    height: int = 224
    frames: int = 60
    clusters: int = 4
    singles: int = 4
    radiance: tuple[float, float] = (80.0, 120.0)
    noise: float = 1.0
    bits: int = 14
    sigma: float = 0.5
    speed: float = 0.7
    pan: float = 0.4

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 4 * _MARGIN_PX or not 8 <= self.bits <= 16:
            raise InputError(f"MovingConfig: expected at least {4 * _MARGIN_PX:.0f} pixels per side and 8 to 16 bits")
        if min(self.frames, self.clusters, self.singles, self.noise, self.speed, self.pan) < 0:
            raise InputError(
                "MovingConfig: frames, clusters, singles, noise, speed and pan must not be negative",
                hint="0 leaves each of them out",
            )


class MovingScene(Source):
    """One background with its own targets.

    Args:
        name: of the background.
        background: DN of an 8-bit image, ``[H, W]``; mirrored at its edges if it is smaller than the picture.
        config: what moves.
        seed: of the targets, their paths and the noise.
    """

    def __init__(self, name: str, background: NDArray[np.floating], config: MovingConfig, seed: int) -> None:
        super().__init__(f"moving scene over {name}")
        self.name, self.total, self.config, self.seed = name, config.frames, config, seed
        lack = [
            max(0, need + _LEAST_ROOM_PX - has) for need, has in zip((config.height, config.width), background.shape)
        ]
        self.background = np.pad(background.astype(np.float64), [(n // 2, n - n // 2) for n in lack], mode="symmetric")

    def __iter__(self) -> Iterator[Frame]:
        config, rng = self.config, np.random.default_rng(self.seed)
        groups, room = _first(config, rng), np.array(self.background.shape[::-1]) - _size(config)
        corner, drift = rng.uniform(0, room), config.pan * _direction(rng, 1)[0]
        spline = ndimage.spline_filter(self.background, order=3, mode="nearest")
        gain, psf = 2.0 ** (config.bits - 8), Psf(config.sigma)
        full_scale = 2.0**config.bits - 1
        newcomers, fresh = np.random.default_rng([self.seed, 1]), numbers_from(len(groups))
        at = corner
        for index in range(config.frames):
            before, at = at, _turned(corner + index * drift, 0.0, room)
            if index:
                groups = [_moved_on(group, at - before, config, newcomers, fresh) for group in groups]
            members = [(group.place + group.member, group.radiance, np.full(len(group.radiance), group.number))
                       for group in groups]  # fmt: skip
            place, radiance, blob = (np.concatenate(column) for column in zip(*members)) if members else _NOBODY
            behind = _sample(spline, at, config)
            x, y = place.T
            level = behind + psf.render(x, y, radiance, behind.shape) + config.noise * rng.standard_normal(behind.shape)
            data = np.clip(np.round(gain * level), 0, full_scale).astype(np.uint8 if config.bits == 8 else np.uint16)
            none, sure = np.zeros(len(x)), np.ones(len(x))
            truth = Targets(x, y, gain * radiance, none, none, none, blob, sure, np.zeros(len(x), dtype=np.int64))
            yield Frame(index, index * FRAME_PERIOD_NS, data, f"{index:06d}", full_scale, truth)


@dataclass(frozen=True, eq=False)
class _Group:
    """Targets that go together: their number in the scene, the middle in the frame and the velocity in the scene, x and
    y, and the members' places about the middle ``[K, 2]`` and radiances ``[K]``."""

    number: int
    place: NDArray[np.float64]
    velocity: NDArray[np.float64]
    member: NDArray[np.float64]
    radiance: NDArray[np.float64]


_NOBODY = np.zeros((0, 2)), np.zeros(0), np.zeros(0, dtype=np.int64)


def _size(config: MovingConfig) -> NDArray[np.float64]:
    return np.array([config.width, config.height], dtype=np.float64)


def _first(config: MovingConfig, rng: np.random.Generator) -> list[_Group]:
    """The groups of the first frame, anywhere in it."""
    count = np.concatenate([rng.integers(2, 6, config.clusters), np.ones(config.singles, dtype=np.int64)])
    number = len(count)
    member = draw_offsets(count, 0.5, rng) - 0.5
    radiance = np.split(rng.uniform(*config.radiance, int(count.sum())), np.cumsum(count)[:-1])
    start = rng.uniform(_MARGIN_PX, _size(config) - 1 - _MARGIN_PX, (number, 2))
    velocity = config.speed * np.sqrt(rng.random((number, 1))) * _direction(rng, number)
    return [_Group(i, start[i], velocity[i], member[i, : count[i]], radiance[i]) for i in range(number)]


def _moved_on(
    group: _Group, camera: NDArray[np.float64], config: MovingConfig, rng: np.random.Generator, fresh: Iterator[int]
) -> _Group:
    """The group a frame later, when the camera has moved so far; one that has left the picture is another one."""
    place = group.place + group.velocity - camera
    if ((place >= 0) & (place <= _size(config) - 1)).all():
        return replace(group, place=place)
    many = len(group.radiance)
    member, radiance = draw_offsets(np.array([many]), 0.5, rng)[0, :many] - 0.5, rng.uniform(*config.radiance, many)
    place, velocity = _entry(camera, config, rng)
    return _Group(next(fresh), place, velocity, member, radiance)


def _entry(
    camera: NDArray[np.float64], config: MovingConfig, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A place on an edge of the picture and a velocity through the scene that leads into it."""
    size = _size(config) - 1
    while True:  # what has left shows that there are such
        side = rng.choice(4, p=np.repeat(size[::-1], 2) / (2 * size.sum()))
        axis, far = side // 2, side % 2
        place = rng.uniform(0, size)
        place[axis] = far * size[axis]
        velocity = config.speed * np.sqrt(rng.random()) * _direction(rng, 1)[0]
        if (velocity - camera)[axis] * (1 - 2 * far) > 0:
            return place, velocity


def _direction(rng: np.random.Generator, number: int) -> NDArray[np.float64]:
    angle = rng.uniform(0, 2 * np.pi, number)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _turned(place: NDArray[np.float64], low: float, high: NDArray[np.float64]) -> NDArray[np.float64]:
    """Straight paths folded back at the walls."""
    span = high - low
    return low + span - np.abs(np.mod(place - low, 2 * span) - span)


def _sample(spline: NDArray[np.float64], corner: NDArray[np.float64], config: MovingConfig) -> NDArray[np.float64]:
    """The part of the background that the camera sees; ``corner`` is its x and y."""
    shape = (config.height, config.width)
    seen: NDArray[np.float64] = ndimage.affine_transform(
        spline, np.ones(2), offset=corner[::-1], output_shape=shape, order=3, mode="nearest", prefilter=False
    )
    return np.maximum(seen, 0.0)


def read_backgrounds(folder: Path, number: int) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Real backgrounds, evenly chosen from a folder of images, DN of an 8-bit image.

    A folder with ``images/`` and ``masks/`` is a labelled data set: the targets in it are painted over with the
    median of their surroundings, so that they are not taken for false alarms.

    Raises:
        SourceError: if there are no images or one cannot be read.
    """
    labelled = (folder / "images").is_dir() and (folder / "masks").is_dir()
    files = image_files(folder / "images" if labelled else folder)
    for place in np.unique(np.linspace(0, len(files) - 1, number).round().astype(int)):
        path = files[place]
        image = read_image(path).astype(np.float64)
        if image.max() > 255:
            image *= 255 / image.max()
        if labelled:
            mask, _ = read_mask(folder / "masks" / path.name)
            if mask.shape != image.shape:
                raise SourceError(
                    f"{path.name}: the mask is of {mask.shape}, the image of {image.shape}",
                    hint="masks are of the size of their images",
                )
            image = without_targets(image, mask)
        yield path.stem, image


def without_targets(image: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """An image whose marked spots are as bright as the median of what is around them."""
    wide = ndimage.binary_dilation(mask, np.ones((3, 3), dtype=bool), iterations=2)
    clean = image.copy()
    labels, _ = ndimage.label(wide, structure=np.ones((3, 3)))
    for i, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        around = np.s_[max(0, rows.start - _AROUND_PX) : rows.stop + _AROUND_PX,
                       max(0, columns.start - _AROUND_PX) : columns.stop + _AROUND_PX]  # fmt: skip
        rest = image[around][~wide[around]]
        clean[labels == i] = np.median(rest if rest.size else image)
    return clean


def scenes(config: MovingConfig, number: int, seed: int, folder: Path | None) -> Iterator[MovingScene]:
    """``number`` scenes over the backgrounds of a folder, or over generated skies.

    Raises:
        SourceError: as :func:`read_backgrounds`.
    """
    if folder is not None:
        for i, (name, background) in enumerate(read_backgrounds(folder, number)):
            yield MovingScene(name, background, config, seed + i)
        return
    shape = (config.height + 4 * _LEAST_ROOM_PX, config.width + 4 * _LEAST_ROOM_PX)
    for i in range(number):
        sky = generate_background(shape, np.random.default_rng(seed + i))
        yield MovingScene(f"sky {i}", sky, config, seed + i)
