"""A picture of a result for people: the frame with its targets, and every cluster magnified."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from glint.runtime.pipeline.spots import SpotPatches
from glint.types import Frame, Targets

Points = tuple[tuple[float, float], ...]
_FOUND, _TRUE, _BOX, _TEXT, _PAPER = (255, 80, 60), (90, 220, 120), (255, 200, 60), (230, 230, 230), (18, 18, 20)
_TAIL = (80, 190, 255)
_INSET_PX = 7  # pixels of the middle of a patch that an inset shows
_PATCH_ZOOM = 22  # screen pixels per pixel in the insets
_GAP = 8
_MAX_SIDE = 1600  # screen pixels of the frame's longer side


def stretch(image: NDArray[np.generic], low: float = 0.5, high: float = 99.9) -> NDArray[np.uint8]:
    """Linear stretch between two percentiles to 8 bits, for display only."""
    values = image.astype(np.float32)
    floor, ceiling = np.percentile(values, (low, high))
    scaled = (values - floor) / max(float(ceiling - floor), 1e-6)
    return (255 * np.clip(scaled, 0, 1)).astype(np.uint8)


def draw_picture(
    frame: Frame, spots: SpotPatches, targets: Targets, truth: Targets | None = None, tails: Iterable[Points] = ()
) -> NDArray[np.uint8]:
    """One RGB picture ``uint8 [H, W, 3]``: the frame, and below it the largest clusters.

    Corners mark blobs and leave their pixels free, red crosses in the magnified clusters found targets, green
    circles true ones; blue lines are the tails of tracks. Frames of one size give pictures of one size.

    Args:
        frame, spots, targets: of one result; targets are in frame pixels.
        truth: true targets, in frame pixels.
        tails: positions (x, y) of each track.
    """
    height, width = frame.shape
    zoom = max(1, min(3, _MAX_SIDE // max(height, width)))
    picture = _enlarged(stretch(frame.data), zoom)
    draw = ImageDraw.Draw(picture)
    for points in tails:
        draw.line([((x + 0.5) * zoom, (y + 0.5) * zoom) for x, y in points], fill=_TAIL)
    size = spots.patches.shape[-1]
    for i, (left, top) in enumerate(zip(spots.left, spots.top)):
        box = (left * zoom, top * zoom, (left + size) * zoom - 1, (top + size) * zoom - 1)
        _corners(draw, box, zoom * size // 3)
        draw.text((box[2] + 3, box[1] - 2), str(i), fill=_BOX, font=_font())
    strip = _insets(spots, targets, truth, picture.width)
    sheet = Image.new("RGB", (picture.width, picture.height + strip.height), _PAPER)
    sheet.paste(picture, (0, 0))
    sheet.paste(strip, (0, picture.height))
    return np.asarray(sheet)


def _corners(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], length: float) -> None:
    left, top, right, bottom = box
    for x, inwards in ((left, 1), (right, -1)):
        for y, downwards in ((top, 1), (bottom, -1)):
            draw.line([(x + inwards * length, y), (x, y), (x, y + downwards * length)], fill=_BOX)


def _enlarged(image: NDArray[np.uint8], zoom: int) -> Image.Image:
    return Image.fromarray(np.kron(image, np.ones((zoom, zoom), dtype=np.uint8))).convert("RGB")


def _font() -> Any:
    return ImageFont.load_default(size=13)


def _insets(spots: SpotPatches, targets: Targets, truth: Targets | None, width: int) -> Image.Image:
    """A row of magnified patches, those with most targets first."""
    side = min(_INSET_PX, spots.patches.shape[-1]) * _PATCH_ZOOM
    room = max(1, (width - _GAP) // (side + _GAP))
    count = np.bincount(targets.blob, minlength=len(spots.patches))
    order = np.lexsort((np.arange(len(count)), -count))[:room]
    strip = Image.new("RGB", (width, side + 3 * _GAP + 14), _PAPER)
    draw = ImageDraw.Draw(strip)
    if not len(order):
        draw.text((_GAP, 8), "nothing found", fill=_TEXT, font=_font())
    for slot, blob in enumerate(order):
        corner = (_GAP + slot * (side + _GAP), _GAP)
        strip.paste(_patch_picture(spots, int(blob), targets, truth), corner)
        label = f"{blob}: {count[blob]} target{'s' if count[blob] != 1 else ''}"
        draw.text((corner[0], corner[1] + side + 3), label, fill=_TEXT, font=_font())
    return strip


def _patch_picture(spots: SpotPatches, blob: int, targets: Targets, truth: Targets | None) -> Image.Image:
    whole = spots.patches[blob]
    margin = max(0, (whole.shape[0] - _INSET_PX) // 2)
    patch = whole[margin : whole.shape[0] - margin, margin : whole.shape[0] - margin]
    picture = _enlarged(stretch(patch, 0, 100), _PATCH_ZOOM)
    draw = ImageDraw.Draw(picture)
    size = patch.shape[0]

    def place(rows: Targets) -> list[tuple[float, float]]:
        x, y = rows.x - spots.left[blob] - margin, rows.y - spots.top[blob] - margin
        return [
            ((a + 0.5) * _PATCH_ZOOM, (b + 0.5) * _PATCH_ZOOM) for a, b in zip(x, y) if -1 < a < size and -1 < b < size
        ]

    if truth is not None:
        for x, y in place(truth):
            draw.ellipse([x - 5, y - 5, x + 5, y + 5], outline=_TRUE, width=2)
    found = targets.select(targets.blob == blob)
    for (x, y), a, b in zip(place(found), found.sigma_x * _PATCH_ZOOM, found.sigma_y * _PATCH_ZOOM):
        if a > 2 and b > 2:  # screen pixels; false for NaN too
            draw.ellipse([x - a, y - b, x + a, y + b], outline=_FOUND)
        draw.line([x - 4, y - 4, x + 4, y + 4], fill=_FOUND, width=2)
        draw.line([x - 4, y + 4, x + 4, y - 4], fill=_FOUND, width=2)
    return picture
