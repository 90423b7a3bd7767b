"""Pictures of a training run, so that it can be looked at while it goes on: its curves, and what it finds."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from glint.files import write_bytes

_WIDTH, _HEIGHT, _LEFT, _ROW, _GAP = 900, 150, 90, 190, 12  # px
_INK, _QUIET, _LINE, _PAPER = (30, 34, 40), (120, 128, 138), (0, 110, 220), (255, 255, 255)
_TRUE, _FOUND, _LIGHT = (90, 220, 120), (255, 80, 60), (230, 230, 230)
_REACH = 7, 4  # px, radii of the rings of what is true and found
_TILE, _COLUMNS = 256, 4  # px, tiles


def write_curves(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One small plot over the steps for every figure of a log, the loss first, as PNG.

    Args:
        path: of the picture.
        rows: of ``log.jsonl``; figures that are not numbers, nested ones and unknown values are left out.
    """
    names = [n for n in dict.fromkeys(name for row in rows for name in row) if n not in ("step", "seconds")]
    series = {n: [(row["step"], row[n]) for row in rows if _is_number(row.get(n))] for n in names}
    series = {name: points for name, points in series.items() if points}
    sheet = Image.new("RGB", (_WIDTH, _ROW * max(1, len(series)) + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, (name, points) in enumerate(series.items()):
        _plot(draw, _GAP + place * _ROW, name, np.array(points, dtype=np.float64))
    _write(path, sheet)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _plot(draw: ImageDraw.ImageDraw, top: int, name: str, points: NDArray[np.float64]) -> None:
    font = ImageFont.load_default(size=13)
    low, high = points.min(axis=0), points.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    scale = np.array([_WIDTH - _LEFT - 2 * _GAP, _HEIGHT - 40])
    placed = (points - low) / span * scale
    x, y = placed[:, 0] + _LEFT, top + _HEIGHT - 10 - placed[:, 1]
    draw.text((_GAP, top), f"{name}: {points[-1, 1]:.4g}", fill=_INK, font=font)
    for value, at in ((high[1], y.min()), (low[1], y.max())):
        draw.text((_GAP, at - 8), f"{value:.4g}", fill=_QUIET, font=font)
    draw.rectangle([_LEFT, top + 24, _WIDTH - _GAP, top + _HEIGHT - 4], outline=_QUIET)
    draw.text((_LEFT, top + _HEIGHT), f"step {low[0]:.0f} to {high[0]:.0f}", fill=_QUIET, font=font)
    if len(points) > 1:
        draw.line(list(zip(x.tolist(), y.tolist())), fill=_LINE, width=2)
    draw.ellipse([x[-1] - 3, y[-1] - 3, x[-1] + 3, y[-1] + 3], fill=_LINE)


def write_sheet(path: Path, tiles: Sequence[tuple[str, NDArray[Any], NDArray[np.bool_], NDArray[np.bool_]]]) -> None:
    """A contact sheet: images with the outlines of what is true (green) and found (red), as PNG.

    Args:
        path: of the picture.
        tiles: name, image ``[H, W]``, and masks ``bool [H, W]`` of true and found targets.
    """
    font = ImageFont.load_default(size=13)
    rows = -(-max(1, len(tiles)) // _COLUMNS)
    size = _COLUMNS * (_TILE + _GAP) + _GAP, rows * (_TILE + 3 * _GAP) + 3 * _GAP
    sheet = Image.new("RGB", size, (18, 18, 20))
    draw = ImageDraw.Draw(sheet)
    for number, (name, image, true, found) in enumerate(tiles):
        left, top = _GAP + number % _COLUMNS * (_TILE + _GAP), _GAP + number // _COLUMNS * (_TILE + 3 * _GAP)
        low, high = (float(v) for v in np.percentile(image, (0.5, 99.9)))
        grey = np.clip((image.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)
        whole = np.repeat((255 * grey).astype(np.uint8)[..., None], 3, axis=2)
        zoom = _TILE / max(image.shape)
        extent = max(1, round(image.shape[1] * zoom)), max(1, round(image.shape[0] * zoom))
        sheet.paste(Image.fromarray(whole).resize(extent, Image.Resampling.BOX), (left, top))
        for mask, colour, reach in zip((true, found), (_TRUE, _FOUND), _REACH):
            for y, x in np.argwhere(_one_per_spot(mask)):
                a, b = left + (x + 0.5) * zoom, top + (y + 0.5) * zoom
                draw.ellipse([a - reach, b - reach, a + reach, b + reach], outline=colour, width=2)
        draw.text((left, top + _TILE + 2), name[:34], fill=_LIGHT, font=font)
    masks = [mask for _, _, *both in tiles for mask in both]
    for place, (words, colour) in enumerate((("true", _TRUE), ("found", _FOUND)) if masks else ()):
        number = sum(int(_one_per_spot(mask).sum()) for mask in masks[place::2])
        left, top = 2 * _GAP + place * _TILE, size[1] - 2 * _GAP
        reach = _REACH[place]
        draw.ellipse([left - reach, top - reach, left + reach, top + reach], outline=colour, width=2)
        draw.text((left + _GAP, top - 8), f"{words}: {number}", fill=_LIGHT, font=font)
    _write(path, sheet)


def _one_per_spot(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """One pixel in the middle of every connected spot."""
    labels, number = ndimage.label(mask, np.ones((3, 3)))
    marks = np.zeros(mask.shape, dtype=bool)
    for y, x in ndimage.center_of_mass(mask, labels, range(1, number + 1)):
        marks[round(y), round(x)] = True
    return marks


def _write(path: Path, picture: Image.Image) -> None:
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    write_bytes(path, stream.getvalue())
