"""Samples of the detection training and how they are varied.

Truth for the decomposition: B* is the frame inpainted (harmonically) inside the dilated target
mask, T* = D - B* inside the mask and 0 outside. Without it B + T = D is satisfied by any split.

The real frames are few. They are cut, magnified, turned, stretched, blurred, bent in brightness and laid over each
other; and rendered clusters are added, where the background under them is known exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glint.optics import Psf
from glint.processing.inpaint import background_under
from glint.processing.normalise import Normaliser
from glint.simulation.patches import draw_offsets

# Least divisor: divided by their own deviation of 1-5 DN, the compression blocks of flat frames look like targets.
NORMALISER = Normaliser("standard", 6.0)
FRAME_ARRAY = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Sample:
    """A training frame: D, B*, mask, and the offset and scale of its normalisation, all ``[H, W]``."""

    frame: FRAME_ARRAY
    background: FRAME_ARRAY
    mask: NDArray[np.bool_]
    offset: float
    scale: float

    @staticmethod
    def of(image: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Sample:
        """From an image with its target mask (None: empty)."""
        if mask is None:
            mask = np.zeros(image.shape, dtype=bool)
        background = background_under(image, mask).astype(np.float32)
        statistics = NORMALISER.apply(image)
        return Sample(image.astype(np.float32), background, mask, statistics.offset.item(), statistics.scale.item())


@dataclass(frozen=True)
class Augmentation:
    """How samples are varied.

    Attributes:
        crop: pixels per side.
        scale: smallest and largest magnification (drawn log-uniformly).
        turned: share of the crops that are turned by any angle, their corners mirrored from within the window; all are
            mirrored and transposed at random.
        stretch: largest change of the logarithm of either axis' magnification.
        blurred: share of the crops that are blurred.
        blur: smallest and largest standard deviation of that, pixels.
        bent: share of the crops whose brightness is raised to a power between its darkest and brightest pixel; they are
            normalised as if they were not, which adds to ``exposure``.
        power: largest logarithm of that power.
        on_target: share of the crops that are centred near a target.
        negatives: share drawn from the empty real backgrounds.
        generated: share drawn from generated backgrounds.
        veiled: share of samples that get part of another frame's background on top of their own.
        pasted: share of samples that get rendered clusters, all of the generated ones included.
        clusters: most clusters pasted into a crop.
        contrast: peak of a pasted cluster over the local standard deviation (drawn log-uniformly).
        sigma: of the PSF of pasted clusters, pixels.
        noise: largest standard deviation of added noise, in standard deviations of the frame.
        exposure: largest change of the normalisation: of its offset, in scales, and of its scale's logarithm.
    """

    crop: int = 256
    scale: tuple[float, float] = (0.6, 1.7)
    turned: float = 0.5
    stretch: float = 0.15
    blurred: float = 0.3
    blur: tuple[float, float] = (0.2, 0.8)
    bent: float = 0.5
    power: float = 0.5
    on_target: float = 0.6
    negatives: float = 0.2
    generated: float = 0.1
    veiled: float = 0.5
    pasted: float = 0.25
    clusters: int = 4
    contrast: tuple[float, float] = (5.0, 40.0)
    sigma: tuple[float, float] = (0.45, 1.2)
    noise: float = 0.05
    exposure: float = 0.2


def crop_sample(
    sample: Sample, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[FRAME_ARRAY, FRAME_ARRAY, NDArray[np.bool_]]:
    """A window of (frame, background, mask), mirrored outside the frame, as another camera might have seen it."""
    size = round(augmentation.crop / np.exp(rng.uniform(*np.log(augmentation.scale))))
    height, width = sample.frame.shape
    rows, columns = np.nonzero(sample.mask)
    if len(rows) and rng.random() < augmentation.on_target:
        pick = rng.integers(len(rows))
        top, left = (int(v - size // 2 + rng.integers(-size // 3, size // 3 + 1)) for v in (rows[pick], columns[pick]))
    else:
        top, left = (int(rng.integers(min(0, n - size), max(0, n - size) + 1)) for n in (height, width))
    index = np.ix_(_mirror(np.arange(top, top + size), height), _mirror(np.arange(left, left + size), width))
    window = sample.frame[index], sample.background[index], sample.mask[index]
    frame, background, mask = _warp(*window, augmentation, rng)
    return *_respond(frame, background, augmentation, rng), mask


def _warp(
    frame: FRAME_ARRAY, background: FRAME_ARRAY, mask: NDArray[np.bool_], augmentation: Augmentation,
    rng: np.random.Generator,
) -> tuple[FRAME_ARRAY, FRAME_ARRAY, NDArray[np.bool_]]:  # fmt: skip
    """The square window turned, and magnified to the size of a crop, around its centre."""
    size, crop = len(frame), augmentation.crop
    angle = rng.uniform(0, 2 * np.pi) if rng.random() < augmentation.turned else 0.0
    stretch = np.exp(rng.uniform(-augmentation.stretch, augmentation.stretch, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag(stretch) * size / crop
    offset = (size - 1) / 2 - matrix @ np.full(2, (crop - 1) / 2)

    def warp(value: FRAME_ARRAY) -> FRAME_ARRAY:
        warped: FRAME_ARRAY = ndimage.affine_transform(value, matrix, offset, (crop, crop), order=1, mode="mirror")
        return warped

    return warp(frame), warp(background), warp(mask.astype(np.float32)) >= 0.5


def _respond(
    frame: FRAME_ARRAY, background: FRAME_ARRAY, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[FRAME_ARRAY, FRAME_ARRAY]:
    """Frame and background through the blur and the response curve of some other camera."""
    if rng.random() < augmentation.blurred:
        sigma = rng.uniform(*augmentation.blur)
        frame, background = (ndimage.gaussian_filter(v, sigma) for v in (frame, background))
    if rng.random() < augmentation.bent:
        power = np.exp(rng.uniform(-augmentation.power, augmentation.power))
        low = min(frame.min(), background.min())
        span = max(frame.max() - low, np.float32(1))
        frame, background = (
            low + span * (np.maximum(v - low, 0) / span) ** np.float32(power) for v in (frame, background)
        )
    return frame, background


def _mirror(index: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    folded = np.mod(index, 2 * size)
    return np.where(folded < size, folded, 2 * size - 1 - folded)


def veil(
    frame: FRAME_ARRAY, background: FRAME_ARRAY, veil_of: FRAME_ARRAY, ratio: float, rng: np.random.Generator
) -> tuple[FRAME_ARRAY, FRAME_ARRAY]:
    """Add up to half of the structure of another frame's background, which no two samples then have alike.

    Args:
        frame, background: D and B* ``[H, W]``.
        veil_of: B* of the other frame ``[H, W]``.
        ratio: scale of the frame over that of the other one.
    """
    structure = (veil_of - veil_of.mean()) * np.float32(ratio * rng.uniform(0.05, 0.5))
    return frame + structure, background + structure


def paste_clusters(
    frame: FRAME_ARRAY, mask: NDArray[np.bool_], augmentation: Augmentation, rng: np.random.Generator
) -> tuple[FRAME_ARRAY, NDArray[np.bool_]]:
    """Add rendered groups of 1-5 targets within one pixel.

    Their mask is where they exceed 0.28 of their peak: people who draw masks on real frames stop where a target
    has fallen to between an eighth and a half of its peak.
    """
    size = frame.shape[0]
    empty, frame, mask = frame, frame.copy(), mask.copy()
    for _ in range(rng.integers(1, augmentation.clusters + 1)):
        count = rng.integers(1, 6, 1)
        members = np.nan_to_num(draw_offsets(count, 0.5, rng)[0, : count[0]])
        centre = rng.uniform(10, size - 11, 2)
        psf = Psf(rng.uniform(*augmentation.sigma))
        position = members - 0.5 + centre
        image = psf.render(position[:, 0], position[:, 1], rng.uniform(0.5, 1.0, count[0]), (size, size))
        column, row = np.round(centre).astype(int)
        local = empty[max(0, row - 10) : row + 11, max(0, column - 10) : column + 11]
        contrast = np.exp(rng.uniform(*np.log(augmentation.contrast)))
        image *= contrast * max(float(local.std()), 1.0) / image.max()
        frame += image.astype(np.float32)
        mask |= image >= 0.28 * image.max()
    return frame, mask
