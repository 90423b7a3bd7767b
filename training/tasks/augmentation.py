"""Samples of the detection training and how they are varied.

Truth for the decomposition: B* is the frame inpainted (harmonically) inside the dilated target
mask, T* = D - B* inside the mask and 0 outside. Without it B + T = D is satisfied by any split.

The real frames are few. They are cut, magnified, turned, stretched, blurred, bent in brightness and laid over each
other; rendered targets are added, where the background under them is known exactly (``rendered``), and what cameras
do to a frame (``camera_faults``).

A frame whose target has a box only is known inside of it, or not at all: elsewhere nothing is learned from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glint.data.boxes import BoxedImage
from glint.optics import Psf
from glint.processing.inpaint import background_under, inpaint, reach_of
from glint.processing.normalise import Normaliser
from glint.simulation.patches import draw_offsets
from glint.training.tasks.camera_faults import Crop, add_bars, add_noise, clip, compress, draw_overlay, stick_pixels
from glint.training.tasks.rendered import paste_object, paste_points

# Least divisor: divided by their own deviation of 1-5 DN, the compression blocks of flat frames look like targets.
NORMALISER = Normaliser("standard", 6.0)
FRAME_ARRAY = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Sample:
    """A training frame.

    Attributes:
        frame: D as stored ``[H, W]``.
        background: B* ``float32 [H, W]``, DN.
        mask: targets ``bool [H, W]``.
        offset, scale: of its normalisation, DN.
        span: lowest and highest value that its camera knows, DN.
        known: where the mask can be trusted ``bool [H, W]``; None: everywhere.
        box: where its target is, if no more is known of it ``bool [H, W]``; None: the mask says it.
    """

    frame: NDArray[Any]
    background: FRAME_ARRAY
    mask: NDArray[np.bool_]
    offset: float
    scale: float
    span: tuple[float, float] = (0.0, 255.0)
    known: NDArray[np.bool_] | None = None
    box: NDArray[np.bool_] | None = None

    @staticmethod
    def of(image: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Sample:
        """From an image with its target mask (None: empty)."""
        if mask is None:
            mask = np.zeros(image.shape, dtype=bool)
        background = background_under(image, mask).astype(np.float32)
        return Sample(image, background, mask, *_levels(image))

    @staticmethod
    def of_box(boxed: BoxedImage) -> Sample:
        """From an image of whose target the box is known, and the mask if it is ``good``."""
        box = np.zeros(boxed.image.shape, dtype=bool)
        box[boxed.inside] = True
        if boxed.good:
            mask, known, hole = boxed.mask, box, reach_of(boxed.mask)
        else:
            mask, known, hole = np.zeros_like(box), np.zeros_like(box), box
        background = inpaint(boxed.image, hole).astype(np.float32)
        return Sample(boxed.image, background, mask, *_levels(boxed.image), known=known, box=box)


def _levels(image: NDArray[Any]) -> tuple[float, float, tuple[float, float]]:
    """Offset and scale of the normalisation, and the span, DN."""
    statistics = NORMALISER.apply(image)
    low, high = float(image.min()), float(image.max())
    span = (0.0, 255.0) if image.dtype == np.uint8 or 0 <= low < high <= 255 else (low, max(high, low + 1))
    return statistics.offset.item(), statistics.scale.item(), span


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
        hard: share drawn around places where a detector raised false alarms, if such are known (``mining``).
        veiled: share of samples that get part of another frame's background on top of their own.
        pasted: share of samples that get rendered clusters, all of the generated ones included.
        clusters: most clusters pasted into a crop.
        contrast: peak of a pasted cluster over the local standard deviation (drawn log-uniformly).
        sigma: of the PSF of pasted clusters, pixels.
        noise: largest standard deviation of added noise, in standard deviations of the frame.
        magnified: share of the crops on targets that are magnified by ``magnification`` instead of ``scale``.
        magnification: smallest and largest of that (drawn log-uniformly).
        points: share of the crops that get dim rendered points, on whatever background.
        point_number: most points rendered into a crop.
        point_scr: peak of such a point over the deviation of the 21 x 21 pixels around it (drawn log-uniformly).
        point_sigma: of their PSF, pixels.
        objects: share of the crops that get a large rendered object.
        object_radius: smallest and largest half-axis of it, pixels (drawn log-uniformly).
        object_contrast: brightness of it over the deviation of the pixels around (drawn log-uniformly).
        noisy: share of the crops with the noise of a camera that amplifies what little it sees.
        noisy_sigma: largest standard deviation of that, in standard deviations of the frame; small ones are commoner.
        striped: largest noise of rows and of columns, in standard deviations of that noise.
        stuck: share of the crops with dead or stuck pixels.
        stuck_pixels: most of them in a crop.
        overlay: share of the crops with text, reticles, boxes or lines of the camera.
        bars: share of the crops with letterbox bars.
        bar: widest of them, pixels.
        compressed: share of the crops that went through JPEG.
        quality: smallest and largest JPEG quality.
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
    negatives: float = 0.3
    generated: float = 0.05
    hard: float = 0.2
    veiled: float = 0.5
    pasted: float = 0.15
    clusters: int = 4
    contrast: tuple[float, float] = (5.0, 40.0)
    sigma: tuple[float, float] = (0.45, 1.2)
    noise: float = 0.05
    magnified: float = 0.1
    magnification: tuple[float, float] = (1.7, 4.0)
    points: float = 0.25
    point_number: int = 2
    point_scr: tuple[float, float] = (3.5, 12.0)
    point_sigma: tuple[float, float] = (0.4, 1.5)
    objects: float = 0.02
    object_radius: tuple[float, float] = (3.0, 10.0)
    object_contrast: tuple[float, float] = (3.0, 20.0)
    noisy: float = 0.25
    noisy_sigma: float = 1.0
    striped: float = 0.5
    stuck: float = 0.08
    stuck_pixels: int = 8
    overlay: float = 0.1
    bars: float = 0.05
    bar: int = 48
    compressed: float = 0.12
    quality: tuple[int, int] = (20, 90)
    exposure: float = 0.2


def crop_sample(
    sample: Sample, augmentation: Augmentation, rng: np.random.Generator, at: tuple[int, int] | None = None
) -> Crop:
    """A window near ``at`` (row, column), mirrored outside the frame, as another camera might have seen it."""
    marked = sample.mask if sample.box is None else sample.box
    rows, columns = np.nonzero(marked)
    on_target = at is None and len(rows) and rng.random() < augmentation.on_target
    magnify = on_target and augmentation.magnified and rng.random() < augmentation.magnified
    scale = augmentation.magnification if magnify else augmentation.scale
    size = round(augmentation.crop / np.exp(rng.uniform(*np.log(scale))))
    height, width = sample.frame.shape
    if on_target:
        pick = rng.integers(len(rows))
        at = int(rows[pick]), int(columns[pick])
    if at is not None:
        top, left = (int(v - size // 2 + rng.integers(-size // 3, size // 3 + 1)) for v in at)
    else:
        top, left = (int(rng.integers(min(0, n - size), max(0, n - size) + 1)) for n in (height, width))
    index = np.ix_(_mirror(np.arange(top, top + size), height), _mirror(np.arange(left, left + size), width))
    masks = [None if m is None else m[index] for m in (sample.mask, sample.known, sample.box)]
    window = sample.frame[index].astype(np.float32), sample.background[index]
    frame, background, mask, known, box = _warp(*window, masks, augmentation, rng)
    frame, background = _respond(frame, background, augmentation, rng)
    return Crop(frame, background, mask, known, box)


def _warp(
    frame: FRAME_ARRAY, background: FRAME_ARRAY, masks: list[NDArray[np.bool_] | None], augmentation: Augmentation,
    rng: np.random.Generator,
) -> tuple[FRAME_ARRAY, FRAME_ARRAY, NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:  # fmt: skip
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

    def warp_mask(mask: NDArray[np.bool_] | None, *, otherwise: bool) -> NDArray[np.bool_]:
        if mask is None or not mask.any():
            return np.full((crop, crop), otherwise if mask is None else False)
        return warp(mask.astype(np.float32)) >= 0.5

    mask, known, box = (warp_mask(m, otherwise=o) for m, o in zip(masks, (False, True, False)))
    edge = box[0].any() or box[-1].any() or box[:, 0].any() or box[:, -1].any()
    if edge or ndimage.label(box)[1] > 1:  # a cut box need not hold its target; a mirrored one is there twice
        box = np.zeros_like(box)
    return warp(frame), warp(background), mask, known, box


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


def disturb(crop: Crop, sample: Sample, augmentation: Augmentation, rng: np.random.Generator) -> Crop:
    """Noise, then rendered targets, then what else the camera does, each on its share of the crops."""
    noisy = rng.random() < augmentation.noisy
    if noisy:
        sigma = augmentation.noisy_sigma * rng.random() ** 1.5 * sample.scale
        striped = rng.uniform(0, augmentation.striped) if rng.random() < 0.4 else 0.0
        soft = rng.uniform(0.3, 0.7) if rng.random() < 0.3 else 0.0
    else:
        sigma, striped, soft = rng.uniform(0, augmentation.noise) * sample.scale, 0.0, 0.0
    crop = add_noise(crop, sigma, rng, striped=striped, soft=soft)
    if rng.random() < augmentation.objects:
        crop = paste_object(crop, rng, radius=augmentation.object_radius, contrast=augmentation.object_contrast)
    if rng.random() < augmentation.points:
        crop = paste_points(
            crop, rng, most=augmentation.point_number, scr=augmentation.point_scr, sigma=augmentation.point_sigma
        )
    if rng.random() < augmentation.stuck:
        crop = stick_pixels(crop, sample.span, rng, most=augmentation.stuck_pixels)
    if rng.random() < augmentation.overlay:
        crop = draw_overlay(crop, sample.span, rng)
    if rng.random() < augmentation.bars:
        crop = add_bars(crop, sample.span, rng, widest=min(augmentation.bar, augmentation.crop // 4))
    if rng.random() < augmentation.compressed:
        crop = compress(crop, sample.span, rng, quality=augmentation.quality)
    return clip(crop, sample.span) if noisy else crop


def statistics_after(sample: Sample, before: FRAME_ARRAY, after: FRAME_ARRAY) -> tuple[float, float]:
    """Offset and scale, DN, of the whole frame if all of it had changed as a crop has: the normaliser would see that.

    Args:
        sample: the frame as it was.
        before, after: the crop ``[crop, crop]``, DN.
    """
    offset = sample.offset + float(after.mean(dtype=np.float64) - before.mean(dtype=np.float64))
    variance = sample.scale**2 + float(after.var(dtype=np.float64) - before.var(dtype=np.float64))
    return offset, max(np.sqrt(max(variance, sample.scale**2 / 4)), NORMALISER.scale)
