"""The picture that ``glint psf --report`` writes: the PSF as sampled beside the Gaussian, and every kind of spot."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from glint.images import write_image
from glint.optics import PsfEstimate
from glint.processing.effective_psf import STEP_PX, effective_psf
from glint.runtime.commands.psf_samples import light_of
from glint.runtime.unmixing.optics_choice import gaussian_samples
from glint.runtime.unmixing.psf_fit import REASONS
from glint.runtime.unmixing.shapes import Shapes
from glint.runtime.unmixing.windows import Windows

_PANEL_PX, _TILE_PX, _GAP_PX, _LINE_PX, _WIDTH_PX = 280, 66, 8, 20, 900
_TILE_REACH_PX = 5  # of a spot's window about its middle
_ROWS = {"used": 3}  # of tiles; one for each reason
_PAPER, _TEXT = (250, 250, 250), (20, 20, 20)
_DIFFERENCE_SHARE = 0.1  # of the peak: full colour

Array = NDArray[np.float64]


def write_report(
    path: Path, estimate: PsfEstimate, reason: NDArray[np.int64], windows: Windows, shapes: Shapes
) -> None:
    """Write the picture as PNG, atomically.

    Args:
        path: of the file.
        estimate: the PSF.
        reason: why each of N spots is left out, as its place in ``REASONS``; -1: it is used.
        windows, shapes: of the spots.
    """
    gaussian = gaussian_samples(estimate)
    sampled = effective_psf(light_of(windows, shapes, np.flatnonzero(reason < 0)), gaussian)
    parts = [_psf_panels(estimate, gaussian, sampled)]
    for name, index in (("used", -1), *((name, i) for i, name in enumerate(REASONS))):
        rows = np.flatnonzero(reason == index)
        if len(rows):
            parts.append(_tiles(f"{name}: {len(rows)}", windows, rows, _ROWS.get(name, 1)))
    sheet = Image.new("RGB", (_WIDTH_PX, sum(p.height for p in parts)), _PAPER)
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    write_image(path, np.asarray(sheet))


def difference_text(gaussian: Array, sampled: Array) -> str:
    """How far the sampled PSF is from the Gaussian."""
    off = 100 * (sampled - gaussian) / gaussian.max()
    at = np.unravel_index(int(np.abs(off).argmax()), off.shape)
    middle = len(off) // 2
    x, y = (at[1] - middle) * STEP_PX, (at[0] - middle) * STEP_PX
    rms = math.sqrt(float((off**2).mean()))
    return f"difference: at most {off[at]:+.1f} % of the peak, at ({x:+.2f}, {y:+.2f}) px; rms {rms:.1f} %"


def _font() -> Any:
    return ImageFont.load_default(size=13)


def _psf_panels(estimate: PsfEstimate, gaussian: Array, sampled: Array) -> Image.Image:
    part = Image.new("RGB", (_WIDTH_PX, _PANEL_PX + 3 * _LINE_PX + 2 * _GAP_PX), _PAPER)
    draw = ImageDraw.Draw(part)
    head = f"sigma {estimate.sigma:.4f} +- {estimate.sigma_error:.4f} px, from {estimate.used} isolated targets"
    draw.text((_GAP_PX, 4), head, fill=_TEXT, font=_font())
    draw.text((_GAP_PX, 4 + _LINE_PX), difference_text(gaussian, sampled), fill=_TEXT, font=_font())
    peak = gaussian.max()
    difference = (sampled - gaussian) / (_DIFFERENCE_SHARE * peak)
    names = (
        "Gaussian, square root of the light",
        "sampled",
        f"difference, red above: +-{100 * _DIFFERENCE_SHARE:.0f} %",
    )
    pictures = (_grey(np.sqrt(np.maximum(gaussian / peak, 0))), _grey(np.sqrt(np.maximum(sampled / peak, 0))),
                _coloured(difference))  # fmt: skip
    for slot, (name, picture) in enumerate(zip(names, pictures)):
        left = _GAP_PX + slot * (_PANEL_PX + _GAP_PX)
        draw.text((left, 4 + 2 * _LINE_PX), name, fill=_TEXT, font=_font())
        part.paste(
            Image.fromarray(picture).resize((_PANEL_PX, _PANEL_PX), Image.Resampling.NEAREST), (left, 3 * _LINE_PX + 4)
        )
    return part


def _tiles(title: str, windows: Windows, rows: NDArray[np.int64], lines: int) -> Image.Image:
    """Rows of spots, each from its darkest to its brightest pixel."""
    across = (_WIDTH_PX - _GAP_PX) // (_TILE_PX + _GAP_PX)
    shown = rows[: across * lines]
    lines = math.ceil(len(shown) / across)
    part = Image.new("RGB", (_WIDTH_PX, _LINE_PX + lines * (_TILE_PX + _GAP_PX) + _GAP_PX), _PAPER)
    note = title if len(shown) == len(rows) else f"{title}, the first {len(shown)} of them"
    ImageDraw.Draw(part).text((_GAP_PX, 4), note, fill=_TEXT, font=_font())
    middle = windows.data.shape[1] // 2
    reach = min(_TILE_REACH_PX, middle)
    for slot, row in enumerate(shown):
        tile = windows.data[row, middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]
        dark, bright = tile.min(), tile.max()
        picture = Image.fromarray(_grey((tile - dark) / max(bright - dark, 1e-9)))
        place = (_GAP_PX + slot % across * (_TILE_PX + _GAP_PX), _LINE_PX + 4 + slot // across * (_TILE_PX + _GAP_PX))
        part.paste(picture.resize((_TILE_PX, _TILE_PX), Image.Resampling.NEAREST), place)
    return part


def _grey(share: Array) -> NDArray[np.uint8]:
    level = np.clip(np.round(255 * share), 0, 255).astype(np.uint8)
    return np.repeat(level[..., None], 3, axis=-1)


def _coloured(share: Array) -> NDArray[np.uint8]:
    """Red above 0, blue below, white at 0; full at 1."""
    above, below = np.clip(share, 0, 1), np.clip(-share, 0, 1)
    channels = np.stack([1 - below, 1 - above - below, 1 - above], axis=-1)
    return np.clip(np.round(255 * channels), 0, 255).astype(np.uint8)
