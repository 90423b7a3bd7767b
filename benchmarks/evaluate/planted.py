"""Rendered targets on frames that have none.

Their signal-to-clutter ratio (SCR) is that of :mod:`glint.metrics.targets`, over the bare frame. Targets keep 16 px
from the edge and from what the detector reports on the bare frame, 32 px from each other, and are not planted where
they would saturate. The frame is rounded to its own type again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.metrics.targets import clutter
from glint.optics import Psf
from glint.simulation.patches import draw_offsets
from glint.simulation.scenes import generate_background

SIGMA_PX = (0.5, 1.0)  # of the PSF, px, drawn uniformly
_EDGE_PX, _APART_PX, _WINDOW_PX = 16, 32, 10
_MOST_TRIES = 100

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Planted:
    """A frame with rendered spots.

    Attributes:
        data: the frame, of the bare one's type ``[H, W]``.
        x, y: centres of the spots, pixels ``[N]``.
        scr: of each ``[N]``.
        spots: each alone, DN: column and row of its first pixel on the frame, and its pixels ``[21, 21]``.
    """

    data: Array
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    scr: NDArray[np.float64]
    spots: Sequence[tuple[int, int, NDArray[np.float64]]]


def plant(
    image: Array, scrs: Sequence[float], members: Sequence[int], rng: np.random.Generator, *, avoid: Array | None = None
) -> Planted:
    """Add spots to a frame, each where there is room for it; one that finds no room is left out.

    Args:
        image: the bare frame ``[H, W]``.
        scrs: of the spots.
        members: targets in each, 1 to 5 within one pixel.
        rng: of places, widths and shares.
        avoid: ``[M, 2]`` places (x, y) to keep away from.
    """
    height, width = image.shape
    full = float(np.iinfo(image.dtype).max) if image.dtype.kind in "ui" else np.inf
    data = image.astype(np.float64)
    taken = np.zeros((0, 2)) if avoid is None else np.asarray(avoid, dtype=np.float64)
    reach = np.full(len(taken), float(_EDGE_PX))
    places, kept, spots = [], [], []
    for scr, number in zip(scrs, members):
        for _ in range(_MOST_TRIES if min(height, width) > 2 * _EDGE_PX + 1 else 0):
            centre = rng.uniform((_EDGE_PX, _EDGE_PX), (width - 1 - _EDGE_PX, height - 1 - _EDGE_PX))
            if (np.hypot(*(taken - centre).T) < reach).any():
                continue
            column, row = np.round(centre).astype(int).tolist()
            left, top = column - _WINDOW_PX, row - _WINDOW_PX
            spot, middle = _spot(centre - (left, top), number, rng)
            spot *= scr * clutter(image, slice(row, row + 1), slice(column, column + 1))
            window = (slice(top, top + len(spot)), slice(left, left + len(spot)))
            if (data[window] + spot).max(initial=0, where=spot > 0.5) > full:
                continue
            data[window] += spot
            places.append(middle + np.array([left, top]))
            kept.append(scr)
            spots.append((left, top, spot))
            taken, reach = np.concatenate([taken, centre[None]]), np.append(reach, float(_APART_PX))
            break
    if image.dtype.kind in "ui":
        data = np.clip(np.round(data), 0, full)
    position = np.array(places).reshape(-1, 2)
    return Planted(data.astype(image.dtype), position[:, 0], position[:, 1], np.array(kept), spots)


def _spot(centre: Array, members: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Targets within the pixel around ``centre`` on ``[21, 21]`` pixels, the brightest 1, and their flux centre."""
    psf, share = Psf(rng.uniform(*SIGMA_PX)), rng.uniform(0.5, 1.0, members)
    local = np.nan_to_num(draw_offsets(np.array([members]), 0.5, rng)[0, :members]) - 0.5
    places = centre + (local if members > 1 else 0.0 * local)
    spot = psf.render(places[:, 0], places[:, 1], share, (2 * _WINDOW_PX + 1, 2 * _WINDOW_PX + 1))
    return spot / spot.max(), np.average(places, axis=0, weights=share)


def generated_backgrounds(seed: int, number: int) -> Iterable[tuple[str, Array]]:
    """Simulated skies of 640 x 512 at 8 bits, named ``generated-0``, ..."""
    rng = np.random.default_rng(seed)
    for i in range(number):
        sky = generate_background((512, 640), rng) + rng.standard_normal((512, 640))
        yield f"generated-{i}", np.clip(np.round(sky), 0, 255).astype(np.uint8)
