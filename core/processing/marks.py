"""Marks that a camera draws into its picture: text, scales, reticles."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)
_SAME_SHARE = 0.004  # of the frame's span: what values of one colour may differ by
_MOST_MARKED_SHARE = 0.05  # of the pixels; more are a scene that is clipped
_HARD_SHARE = 0.35  # of the span, that values fall by from a stroke to its surroundings; light falls more slowly
_LEAST_SIDE_PX, _THIN_PX, _LONG_PX = 5, 3, 24  # px: longer side of a stroke, its width, and of one that counts alone
_MOST_FILLED_SHARE = 0.6  # share of its box that a stroke may fill
_FEWEST_STROKES = 3  # strokes that make a text
_MOST_GROUPS = 5000  # that are looked at


def drawn_marks(data: NDArray[Any], *, dark_too: bool = False) -> NDArray[np.bool_]:
    """Strokes of a drawing, ``bool [H, W]``: thin, of the greatest value of all, with hard edges.

    Fewer than three are none, but for a long one; targets are compact, and their light falls off slowly.

    Args:
        data: a frame ``[H, W]``.
        dark_too: also strokes of the least value.
    """
    found = np.zeros(data.shape, dtype=bool)
    low, high = float(data.min()), float(data.max())
    if high > low:
        for end in (high, low) if dark_too else (high,):
            found |= _strokes(np.abs(data.astype(np.float32) - np.float32(end)) / np.float32(high - low))
    return found


def _strokes(away: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Of pixels near 0; ``away`` is their distance from the colour of the drawing in spans of the frame."""
    found = np.zeros(away.shape, dtype=bool)
    coloured = away <= _SAME_SHARE
    if not 0 < coloured.mean() <= _MOST_MARKED_SHARE:
        return found
    labels, _ = ndimage.label(coloured, _EIGHT_NEIGHBOURS)
    number, alone = 0, False
    for index, box in enumerate(ndimage.find_objects(labels)[:_MOST_GROUPS], 1):
        sides = sorted(part.stop - part.start for part in box)
        if sides[1] < _LEAST_SIDE_PX:
            continue
        around = tuple(slice(max(part.start - 2, 0), part.stop + 2) for part in box)
        own = labels[around] == index
        full = own.sum() / (sides[0] * sides[1])
        if (sides[0] > _THIN_PX and full > _MOST_FILLED_SHARE) or not _hard(own, away[around], coloured[around]):
            continue
        found[around] |= own
        number += 1
        alone = alone or (sides[1] >= _LONG_PX and (sides[0] <= _THIN_PX or full < _MOST_FILLED_SHARE / 3))
    return found if number >= _FEWEST_STROKES or alone else np.zeros(away.shape, dtype=bool)


def _hard(own: NDArray[np.bool_], away: NDArray[np.float32], others: NDArray[np.bool_]) -> bool:
    near = ndimage.binary_dilation(own, _EIGHT_NEIGHBOURS)
    rings = near & ~own, ndimage.binary_dilation(near, _EIGHT_NEIGHBOURS) & ~near
    return all(bool(np.median(away[ring & ~others]) >= _HARD_SHARE) for ring in rings if (ring & ~others).any())
