"""Rendered targets on frames that have none: what is missed, what is made up, how much of the flux is kept.

Signal-to-clutter ratio (SCR): the brightest pixel of a target, above the background, over the standard
deviation of the background in the 21 x 21 pixels around it (at least 1 DN: 8-bit frames show no less).
Targets keep 16 px from the edge and from what the detector reports on the bare frame, 32 px from each
other, and are not planted where they would saturate. The frame is rounded to its own type again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glint.metrics.detection import components
from glint.metrics.matching import match_points
from glint.optics import Psf
from glint.patches import draw_offsets
from glint.runtime.detector import Detector
from glint.scenes import generate_background
from glint.types import Frame

SCRS = (1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0)
PER_LEVEL = 3  # singles of each SCR on a frame
CLUSTERS = 8  # on a frame
CLUSTER_SCR = (5.0, 40.0)  # drawn log-uniformly
SIGMA = (0.5, 1.0)  # of the PSF, px, drawn uniformly
NEAR = 3.0  # px between a target and the centre of the blob that finds it
GENERATED = 20  # frames of 640 x 512 where no real ones are given
_EDGE, _APART, _WINDOW = 16, 32, 10
_TRIES = 100
_LEAST_CLUTTER = 1.0  # DN
_WORST = 5  # frames that are named

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


def clutter(image: Array, column: int, row: int) -> float:
    """Standard deviation of the 21 x 21 pixels around a pixel, at least 1 DN."""
    top, left = max(0, row - _WINDOW), max(0, column - _WINDOW)
    window = image[top : row + _WINDOW + 1, left : column + _WINDOW + 1]
    return max(float(window.std(dtype=np.float64)), _LEAST_CLUTTER)


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
    reach = np.full(len(taken), float(_EDGE))
    places, kept, spots = [], [], []
    for scr, number in zip(scrs, members):
        for _ in range(_TRIES if min(height, width) > 2 * _EDGE + 1 else 0):
            centre = rng.uniform((_EDGE, _EDGE), (width - 1 - _EDGE, height - 1 - _EDGE))
            if (np.hypot(*(taken - centre).T) < reach).any():
                continue
            column, row = np.round(centre).astype(int).tolist()
            left, top = column - _WINDOW, row - _WINDOW
            spot, middle = _spot(centre - (left, top), number, rng)
            spot *= scr * clutter(image, column, row)
            window = (slice(top, top + len(spot)), slice(left, left + len(spot)))
            if (data[window] + spot).max(initial=0, where=spot > 0.5) > full:
                continue
            data[window] += spot
            places.append(middle + np.array([left, top]))
            kept.append(scr)
            spots.append((left, top, spot))
            taken, reach = np.concatenate([taken, centre[None]]), np.append(reach, float(_APART))
            break
    if image.dtype.kind in "ui":
        data = np.clip(np.round(data), 0, full)
    position = np.array(places).reshape(-1, 2)
    return Planted(data.astype(image.dtype), position[:, 0], position[:, 1], np.array(kept), spots)


def _spot(centre: Array, members: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Targets within the pixel around ``centre`` on ``[21, 21]`` pixels, the brightest 1, and their flux centre."""
    psf, share = Psf(rng.uniform(*SIGMA)), rng.uniform(0.5, 1.0, members)
    local = np.nan_to_num(draw_offsets(np.array([members]), 0.5, rng)[0, :members]) - 0.5
    places = centre + (local if members > 1 else 0.0 * local)
    spot = psf.render(places[:, 0], places[:, 1], share, (2 * _WINDOW + 1, 2 * _WINDOW + 1))
    return spot / spot.max(), np.average(places, axis=0, weights=share)


def wilson(found: int, of: int) -> tuple[float, float]:
    """95 % interval of a share of at least one, percent (Wilson's score interval)."""
    z, p = 1.959964, found / of
    middle, spread = p + z * z / (2 * of), z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    scale = 100 / (1 + z * z / of)
    return scale * (middle - spread), scale * (middle + spread)


def generated_backgrounds(seed: int, number: int = GENERATED) -> Iterable[tuple[str, Array]]:
    """Simulated skies of 640 x 512 at 8 bits, named ``generated-0``, ..."""
    rng = np.random.default_rng(seed)
    for i in range(number):
        sky = generate_background((512, 640), rng) + rng.standard_normal((512, 640))
        yield f"generated-{i}", np.clip(np.round(sky), 0, 255).astype(np.uint8)


def evaluate_backgrounds(
    detector: Detector,
    frames: Iterable[tuple[str, Array]],
    *,
    seed: int = 1,
    trained: Iterable[str] = (),
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """False alarms on empty frames, Pd against SCR and the flux of clusters on them.

    Args:
        detector: a model.
        frames: name and image of each.
        seed: of what is planted.
        trained: names of frames that the model has seen; their false alarms are told apart.
        progress: called with the number of frames done.

    Returns:
        ``false_alarms``, ``pd_by_scr`` and ``flux``, ready for JSON (unknown figures are None).
    """
    seen = set(trained)
    alarms: dict[str, int] = {}
    singles: dict[float, list[bool]] = {scr: [] for scr in SCRS}
    flux: list[tuple[float, float, float]] = []  # of D - B and T in the blob, and of the whole spot, over the truth
    clusters = 0
    for index, (name, image) in enumerate(frames):
        rng = np.random.default_rng((seed, index))
        bare, _ = components(detector.decompose(Frame(0, 0, image))[0] > detector.spec.threshold)
        alarms[name] = len(bare)
        one_each = plant(image, SCRS * PER_LEVEL, [1] * (PER_LEVEL * len(SCRS)), rng, avoid=bare)
        found = _found(detector.decompose(Frame(0, 0, one_each.data))[0] > detector.spec.threshold, one_each)
        for i, scr in enumerate(one_each.scr.tolist()):
            singles[scr].append(i in found)
        scrs = np.exp(rng.uniform(math.log(CLUSTER_SCR[0]), math.log(CLUSTER_SCR[1]), CLUSTERS)).tolist()
        groups = plant(image, scrs, rng.integers(2, 6, CLUSTERS).tolist(), rng, avoid=bare)
        clusters += len(groups.x)
        flux.extend(_fluxes(detector, groups))
        progress(index + 1)
    return {
        "false_alarms": _alarms(alarms, seen),
        "pd_by_scr": [_share(scr, hits) for scr, hits in singles.items()],
        "flux": _flux_errors(flux, clusters),
    }


def _found(mask: NDArray[np.bool_], planted: Planted) -> dict[int, int]:
    """Which blob (its number in scan order, from 0) finds each spot."""
    centres, _ = components(mask)
    distance = np.hypot(planted.x[:, None] - centres[:, 0], planted.y[:, None] - centres[:, 1])
    return dict(zip(*(v.tolist() for v in match_points(distance, NEAR))))


def _fluxes(detector: Detector, planted: Planted) -> list[tuple[float, float, float]]:
    """Of each found cluster: sum of D - B and of T over its blob, and the truth's share in it, over the truth."""
    probability, background, target = detector.decompose(Frame(0, 0, planted.data))
    mask = probability > detector.spec.threshold
    labels = ndimage.label(mask, structure=np.ones((3, 3)))[0]  # numbered in scan order, as ``components`` does
    residual = planted.data - background.astype(np.float64)
    rows = []
    for spot, blob in _found(mask, planted).items():
        left, top, pixels = planted.spots[spot]
        inside = labels == blob + 1
        truth = float(pixels[inside[top : top + len(pixels), left : left + len(pixels)]].sum())
        if truth > 0:
            rows.append((residual[inside].sum() / truth, target[inside].sum() / truth, truth / pixels.sum()))
    return rows


def _flux_errors(rows: Sequence[tuple[float, float, float]], clusters: int) -> dict[str, Any]:
    figures: dict[str, Any] = {"clusters": clusters, "found": len(rows)}
    if not rows:
        return {**figures, "residual_error": None, "residual_ratio": None, "target_error": None, "inside": None}
    residual, target, inside = np.array(rows).T
    return {
        **figures,
        "residual_error": float(100 * np.median(np.abs(residual - 1))),
        "residual_ratio": float(np.median(residual)),
        "target_error": float(100 * np.median(np.abs(target - 1))),
        "inside": float(100 * np.median(inside)),
    }


def _share(scr: float, hits: Sequence[bool]) -> dict[str, Any]:
    if not hits:
        return {"scr": scr, "targets": 0, "pd": None, "interval": None}
    found = sum(hits)
    return {
        "scr": scr, "targets": len(hits), "pd": 100 * found / len(hits), "interval": list(wilson(found, len(hits)))
    }  # fmt: skip


def _alarms(alarms: dict[str, int], seen: set[str]) -> dict[str, Any]:
    def mean(values: list[int]) -> float | None:
        return float(np.mean(values)) if values else None

    new = [n for name, n in alarms.items() if name not in seen]
    worst = sorted(alarms.items(), key=lambda item: -item[1])[:_WORST]
    return {
        "frames": len(alarms), "per_frame": mean(list(alarms.values())), "unseen_frames": len(new),
        "per_unseen_frame": mean(new), "worst": [{"name": name, "alarms": n} for name, n in worst if n],
    }  # fmt: skip
