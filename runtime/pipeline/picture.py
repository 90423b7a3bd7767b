"""A picture of a result for people: the frame with its targets, and every cluster magnified."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from glint.metrics.matching import UNMIXING_MATCH_PX, match_points
from glint.runtime.pipeline.spots import SpotPatches
from glint.types import Frame, Targets, flag_names

Colour = tuple[int, int, int]
Points = tuple[tuple[float, float], ...]
_FOUND, _TRUE, _BOX, _TEXT, _PAPER = (255, 80, 60), (90, 220, 120), (255, 200, 60), (230, 230, 230), (18, 18, 20)
_TAIL, _MISSED, _RIM = (80, 190, 255), (255, 90, 255), (0, 0, 0)
_WINDOWS_PX = (7, 5, 3)  # of a patch that an inset may show: the fewest that hold a cluster and tell its members
_INSET_PX = 154  # screen pixels of an inset's side
_APART_PX = 18  # screen pixels between two marks that do not hide each other
_ONE_CROSS_PX = 4  # screen pixels: two crosses nearer than this look like one
_MISSED_RING_PX = 5  # screen pixels
_LINE_PX = 17  # screen pixels of a line of text
_SHORT = {
    "SATURATED": "sat", "EDGE": "edge", "NOT_CONVERGED": "fit?", "COUNT_AMBIGUOUS": "n?", "ON_GRID": "grid",
    "UNREFINED": "late", "EXTENDED": "ext", "DARK": "dark", "UNRESOLVED": "near",
}  # fmt: skip
_GAP_PX = 8
_LONGEST_SIDE_PX = 1600  # screen pixels of the frame's longer side


def stretch(image: NDArray[np.generic], low: float = 0.5, high: float = 99.9) -> NDArray[np.uint8]:
    """Linear stretch between two percentiles to 8 bits, for display only."""
    values = image.astype(np.float32)
    floor, ceiling = np.percentile(values, (low, high))
    scaled = (values - floor) / max(float(ceiling - floor), 1e-6)
    return (255 * np.clip(scaled, 0, 1)).astype(np.uint8)


def draw_picture(
    frame: Frame, spots: SpotPatches, targets: Targets, truth: Targets | None = None, tails: Iterable[Points] = ()
) -> NDArray[np.uint8]:
    """One RGB picture ``uint8 [H, W, 3]``: the frame, and below it the largest clusters and a legend.

    Corners mark blobs and leave their pixels free, red crosses in the magnified clusters found targets, green
    circles true ones, violet circles those that were missed; blue lines are the tails of tracks. All marks have a
    dark rim, so that they are seen on bright ground. Frames of one size give pictures of one size.

    Args:
        frame, spots, targets: of one result; targets are in frame pixels.
        truth: true targets, in frame pixels.
        tails: positions (x, y) of each track.
    """
    height, width = frame.shape
    zoom = max(1, min(3, _LONGEST_SIDE_PX // max(height, width)))
    picture = _enlarged(stretch(frame.data), zoom)
    draw = ImageDraw.Draw(picture)
    for points in tails:
        _line(draw, [((x + 0.5) * zoom, (y + 0.5) * zoom) for x, y in points], _TAIL)
    size = spots.patches.shape[-1]
    for i, (left, top) in enumerate(zip(spots.left, spots.top)):
        box = (left * zoom, top * zoom, (left + size) * zoom - 1, (top + size) * zoom - 1)
        _corners(draw, box, zoom * size // 3)
        _text(draw, (box[2] + 3, box[1] - 2), str(i), _BOX)
    missed = missed_truth(targets, truth)
    for x, y in zip(missed.x, missed.y):
        _ring(draw, (x + 0.5) * zoom, (y + 0.5) * zoom, _MISSED_RING_PX + zoom, _MISSED)
    strip = _insets(spots, targets, truth, missed, picture.width)
    legend = _legend(frame, spots, targets, truth, missed, picture.width)
    sheet = Image.new("RGB", (picture.width, picture.height + strip.height + legend.height), _PAPER)
    sheet.paste(picture, (0, 0))
    sheet.paste(strip, (0, picture.height))
    sheet.paste(legend, (0, picture.height + strip.height))
    return np.asarray(sheet)


def missed_truth(targets: Targets, truth: Targets | None) -> Targets:
    """True targets without a found one near enough to be the same."""
    if truth is None:
        return Targets()
    distance = np.hypot(truth.x[:, None] - targets.x, truth.y[:, None] - targets.y)
    found, _ = match_points(distance, UNMIXING_MATCH_PX)
    return truth.select(np.setdiff1d(np.arange(len(truth)), found))


def _line(draw: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], colour: Colour, width: int = 1) -> None:
    draw.line(points, fill=_RIM, width=width + 2)
    draw.line(points, fill=colour, width=width)


def _ring(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour) -> None:
    for r, fill, width in ((radius + 1, _RIM, 4), (radius, colour, 2)):
        draw.ellipse([x - r, y - r, x + r, y + r], outline=fill, width=width)


def _text(draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, colour: Colour) -> None:
    draw.text(place, text, fill=colour, font=_font(), stroke_width=1, stroke_fill=_RIM)


def _corners(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], length: float) -> None:
    left, top, right, bottom = box
    for x, inwards in ((left, 1), (right, -1)):
        for y, downwards in ((top, 1), (bottom, -1)):
            _line(draw, [(x + inwards * length, y), (x, y), (x, y + downwards * length)], _BOX)


def _enlarged(image: NDArray[np.uint8], zoom: int) -> Image.Image:
    return Image.fromarray(np.kron(image, np.ones((zoom, zoom), dtype=np.uint8))).convert("RGB")


@cache
def _font() -> Any:
    return ImageFont.load_default(size=13)


def _legend(
    frame: Frame, spots: SpotPatches, targets: Targets, truth: Targets | None, missed: Targets, width: int
) -> Image.Image:
    """A line that says which frame it is, and what the marks that are there mean."""
    image = Image.new("RGB", (width, _LINE_PX + 4), _PAPER)
    draw = ImageDraw.Draw(image)
    entries: list[tuple[str, Colour]] = [(frame.name or f"frame {frame.index}", _TEXT)]
    entries += [(f"{len(spots.left)} blobs", _BOX)] if len(spots.left) else []
    entries += [(f"x {len(targets)} found", _FOUND)] if len(targets) else []
    entries += [(f"o {len(truth)} true", _TRUE)] if truth is not None and len(truth) else []
    entries += [(f"o {len(missed)} missed", _MISSED)] if len(missed) else []
    place = float(_GAP_PX)
    for text, colour in entries:
        draw.text((place, 1), text, fill=colour, font=_font())
        place += draw.textlength(text, font=_font()) + 2 * _GAP_PX
    return image


def _insets(spots: SpotPatches, targets: Targets, truth: Targets | None, missed: Targets, width: int) -> Image.Image:
    """A row of magnified patches, those with most targets first."""
    room = max(1, (width - _GAP_PX) // (_INSET_PX + _GAP_PX))
    count = np.bincount(targets.blob, minlength=len(spots.patches))
    order = np.lexsort((np.arange(len(count)), -count))[:room]
    strip = Image.new("RGB", (width, _INSET_PX + 2 * _GAP_PX + 2 * _LINE_PX), _PAPER)
    draw = ImageDraw.Draw(strip)
    if not len(order):
        draw.text((_GAP_PX, 8), "nothing found", fill=_TEXT, font=_font())
    for slot, blob in enumerate(order):
        corner = (_GAP_PX + slot * (_INSET_PX + _GAP_PX), _GAP_PX)
        found = targets.select(targets.blob == blob)
        strip.paste(_patch_picture(spots, int(blob), found, truth, missed), corner)
        label = f"{blob}: {count[blob]} target{'s' if count[blob] != 1 else ''}"
        draw.text((corner[0], corner[1] + _INSET_PX + 3), label, fill=_TEXT, font=_font())
        flags = sorted({_SHORT.get(name, name.lower()) for bits in found.flags.tolist() for name in flag_names(bits)})
        draw.text((corner[0], corner[1] + _INSET_PX + 3 + _LINE_PX), ", ".join(flags), fill=_BOX, font=_font())
    return strip


def _window(size: int, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[int, int, int]:
    """Left, top and side of the part of a patch that is shown: its middle, or less, if members would hide each other.

    Args:
        size: of the patch, pixels.
        x, y: of the members, patch pixels.
    """
    best = max(0, (size - _WINDOWS_PX[0]) // 2), max(0, (size - _WINDOWS_PX[0]) // 2), min(size, _WINDOWS_PX[0])
    if len(x) < 2:
        return best
    apart = np.hypot(x[:, None] - x, y[:, None] - y)
    nearest = float(apart[~np.eye(len(x), dtype=bool)].min())
    for side in _WINDOWS_PX:
        if side > size or nearest * _INSET_PX / best[2] >= _APART_PX:
            break
        left, top = (int(np.clip(round((v.min() + v.max() - side + 1) / 2), 0, size - side)) for v in (x, y))
        inside = ((x > left - 0.4) & (x < left + side - 0.6) & (y > top - 0.4) & (y < top + side - 0.6)).all()
        if not inside:
            break
        best = left, top, side
    return best


def _patch_picture(
    spots: SpotPatches, blob: int, found: Targets, truth: Targets | None, missed: Targets
) -> Image.Image:
    whole, corner_x, corner_y = spots.patches[blob], spots.left[blob], spots.top[blob]
    left, top, side = _window(whole.shape[0], found.x - corner_x, found.y - corner_y)
    patch, zoom = whole[top : top + side, left : left + side], _INSET_PX / side
    picture = (
        Image.fromarray(stretch(patch, 0, 100)).resize((_INSET_PX, _INSET_PX), Image.Resampling.NEAREST).convert("RGB")
    )
    draw = ImageDraw.Draw(picture)

    def place(rows: Targets) -> Iterator[tuple[float, float]]:
        for a, b in zip(rows.x - corner_x - left, rows.y - corner_y - top):
            if -1 < a < side and -1 < b < side:
                yield (a + 0.5) * zoom, (b + 0.5) * zoom

    for rows, colour in () if truth is None else ((truth, _TRUE), (missed, _MISSED)):
        for x, y in place(rows):
            _ring(draw, x, y, 7, colour)
    crosses = list(place(found))
    for (x, y), a, b in zip(crosses, found.sigma_x * zoom, found.sigma_y * zoom):
        if a > 2 and b > 2:  # screen pixels; false for NaN too
            draw.ellipse([x - a, y - b, x + a, y + b], outline=_FOUND)
        _line(draw, [(x - 4, y - 4), (x + 4, y + 4)], _FOUND, 2)
        _line(draw, [(x - 4, y + 4), (x + 4, y - 4)], _FOUND, 2)
    for x, y, number in _hidden(crosses):
        label = f"x{number}"
        right = x + 7 + draw.textlength(label, font=_font()) < _INSET_PX
        _text(draw, (x + 7 if right else x - 7 - draw.textlength(label, font=_font()), y - 8), label, _FOUND)
    return picture


def _hidden(crosses: Sequence[tuple[float, float]]) -> list[tuple[float, float, int]]:
    """Place and number of the crosses that lie on each other, where they look like one."""
    groups: list[tuple[float, float, int]] = []
    for x, y in crosses:
        for i, (a, b, number) in enumerate(groups):
            if np.hypot(a - x, b - y) < _ONE_CROSS_PX:
                groups[i] = a, b, number + 1
                break
        else:
            groups.append((x, y, 1))
    return [group for group in groups if group[2] > 1]
