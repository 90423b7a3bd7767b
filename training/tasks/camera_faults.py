"""What cameras do to a frame beside showing the scene: noise of automatic gain, overlays, blocks, bars, dead pixels.

Each function takes a :class:`Crop` and gives the changed one. What it adds belongs to the background: no target.
``span`` are the lowest and highest DN that the frame's type or camera knows.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from glint.processing.inpaint import reach_of

FRAME_ARRAY = NDArray[np.float32]
_SEEN_SNR = (
    4.0  # mean contrast times root of the area, in standard deviations of the noise, of a target that can be seen
)
_CHARACTERS = list("0123456789:.-+/XYNESWACTRGHzmkft%")


class Crop(NamedTuple):
    """A training crop, all ``[crop, crop]``: D and B* ``float32`` DN, and three masks.

    Attributes:
        frame, background: D and B*.
        mask: targets.
        known: where the mask can be trusted.
        box: where one target is, if only that is known of it; else nowhere.
    """

    frame: FRAME_ARRAY
    background: FRAME_ARRAY
    mask: NDArray[np.bool_]
    known: NDArray[np.bool_]
    box: NDArray[np.bool_]

    def changed(self, change: NDArray[np.floating]) -> Crop:
        """Frame and background with the same change, DN."""
        change = change.astype(np.float32)
        return self._replace(frame=self.frame + change, background=self.background + change)

    def covered(self, by: NDArray[np.bool_], level: NDArray[np.floating] | float) -> Crop:
        """With ``level``, DN, instead of the scene where ``by`` is."""
        frame, background = (np.where(by, level, v).astype(np.float32) for v in (self.frame, self.background))
        return self._replace(frame=frame, background=background)


def add_noise(crop: Crop, sigma: float, rng: np.random.Generator, *, striped: float, soft: float) -> Crop:
    """White noise, noise of rows and of columns; targets that drown in it are neither targets nor background.

    Args:
        crop: what is changed.
        sigma: of the white noise, DN.
        rng: of the noise.
        striped: of the noise of rows and of that of columns, in ``sigma``.
        soft: of a blur of the white noise that keeps its deviation, pixels; 0 for none.
    """
    shape = crop.frame.shape
    white = rng.standard_normal(shape)
    if soft > 0:
        white = ndimage.gaussian_filter(white, soft)
        white /= white.std()
    stripes = rng.standard_normal((shape[0], 1)) + rng.standard_normal((1, shape[1]))
    return ignore_drowned(crop.changed(sigma * (white + striped * stripes)), sigma)


def ignore_drowned(crop: Crop, sigma: float) -> Crop:
    """Take targets that noise of ``sigma`` DN hides out of what is known, and what their blur reaches."""
    if sigma <= 0 or not crop.mask.any():
        return crop
    spots, number = ndimage.label(crop.mask, np.ones((3, 3)))
    index = np.arange(1, number + 1)
    light = ndimage.mean(np.abs(crop.frame - crop.background), spots, index)
    area = ndimage.sum_labels(crop.mask, spots, index)
    drowned = index[light * np.sqrt(area) < _SEEN_SNR * sigma]
    if not len(drowned):
        return crop
    return crop._replace(known=crop.known & ~reach_of(np.isin(spots, drowned)))


def stick_pixels(crop: Crop, span: tuple[float, float], rng: np.random.Generator, *, most: int) -> Crop:
    """One to ``most`` dead, stuck or hot pixels, none of them on or next to a target."""
    stuck = np.zeros(crop.frame.shape, dtype=bool)
    number = rng.integers(1, most + 1)
    height, width = crop.frame.shape
    rows, columns = rng.integers(0, height, number), rng.integers(0, width, number)
    stuck[rows, columns] = True
    stuck &= ~reach_of(crop.mask)
    kind = rng.random()
    level = span[0] if kind < 0.35 else span[1] if kind < 0.7 else rng.uniform(*span, stuck.shape)
    return crop.covered(stuck, level)


def draw_overlay(crop: Crop, span: tuple[float, float], rng: np.random.Generator) -> Crop:
    """Text, reticle, box or line of the camera; left away where it would touch a target."""
    height, width = crop.frame.shape
    canvas = Image.new("L", (width, height))
    pen = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(1, 4)):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        kind, thick = rng.integers(0, 5), int(rng.integers(1, 3))
        if kind <= 1:
            text = "".join(rng.choice(_CHARACTERS, rng.integers(2, 14)))
            pen.text((x - 20, y - 5), text, fill=255, font=ImageFont.load_default(float(rng.uniform(8, 22))))
        elif kind == 2:
            arm, gap = int(rng.integers(4, 40)), int(rng.integers(0, 6))
            for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                pen.line((x + gap * dx, y + gap * dy, x + arm * dx, y + arm * dy), fill=255, width=thick)
        elif kind == 3:
            a, b = rng.integers(6, 60, 2).tolist()
            pen.rectangle((x, y, x + a, y + b), outline=255, width=thick)
        else:
            a, b = (0, int(rng.integers(5, 80))) if rng.random() < 0.5 else (int(rng.integers(5, 80)), 0)
            pen.line((x, y, x + a, y + b), fill=255, width=thick)
    ink = np.asarray(canvas, dtype=np.float32) / 255
    if (reach_of(crop.mask) & (ink > 0)).any():
        return crop
    level = np.float32(span[1] if rng.random() < 0.7 else span[0] if rng.random() < 0.5 else rng.uniform(*span))
    frame, background = (v + ink * (level - v) for v in (crop.frame, crop.background))
    return crop._replace(frame=frame, background=background)


def add_bars(crop: Crop, span: tuple[float, float], rng: np.random.Generator, *, widest: int) -> Crop:
    """Letterbox bars of 4 to ``widest`` pixels at one edge or two opposite ones, left away where a target would be."""
    bars = np.zeros(crop.frame.shape, dtype=bool)
    lines = bars if rng.random() < 0.5 else bars.T
    first, last = rng.integers(4, widest + 1, 2)
    which = rng.integers(0, 3)
    if which != 1:
        lines[:first] = True
    if which != 0:
        lines[-last:] = True
    if (reach_of(crop.mask) & bars).any():
        return crop
    level = span[0] + (span[1] - span[0]) * (0.0 if rng.random() < 0.7 else rng.uniform(0, 0.3))
    return crop.covered(bars, level)._replace(box=crop.box & ~bars if not (crop.box & bars).any() else bars & False)


def compress(crop: Crop, span: tuple[float, float], rng: np.random.Generator, *, quality: tuple[int, int]) -> Crop:
    """Through JPEG and back; targets keep their light above the background, which takes on the blocks."""
    low, high = span
    levels = np.clip(np.round((crop.frame - low) * (255 / (high - low))), 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(levels).save(stream, "JPEG", quality=int(rng.integers(quality[0], quality[1] + 1)))
    with Image.open(stream) as image:
        seen = np.asarray(image, dtype=np.float32) * np.float32((high - low) / 255) + np.float32(low)
    return crop.changed(seen - crop.frame)


def clip(crop: Crop, span: tuple[float, float]) -> Crop:
    """Frame and background as the camera's range lets them be."""
    frame, background = (np.clip(v, np.float32(span[0]), np.float32(span[1])) for v in (crop.frame, crop.background))
    return crop._replace(frame=frame, background=background)
