"""Results made by hand, for the tests of what shows and sends them."""

from __future__ import annotations

from typing import Any

import numpy as np

from glint.runtime.pipeline.detector import Detection
from glint.runtime.pipeline.pipeline import Result, SpotPatches
from glint.runtime.tracking.tracks import Tracks
from glint.types import Blobs, Frame, Targets

LATENCY = {"capture": 1.5, "detect": 8.0, "unmix": 2.0, "refine": 3.0, "total": 14.5}


def made_result(
    index: int = 0,
    rows: Any = ((0, 30.2, 20.4, 300.0),),
    *,
    shape: tuple[int, int] = (48, 64),
    dtype: type = np.uint16,
    track: list[int] | None = None,
    name: str = "",
    t_ns: int | None = None,
    sigma: float = 0.05,
    latency: dict[str, float] = LATENCY,
) -> Result:
    """A result with targets (blob, x, y, radiance), one blob of 11 x 11 pixels around the first target of each."""
    table = np.asarray(rows, dtype=np.float64).reshape(-1, 4)
    blob, x, y, radiance = table.T
    first = [int(np.flatnonzero(blob == b)[0]) for b in np.unique(blob)]
    left, top = (np.round(v[first]).astype(np.int64) - 5 for v in (x, y))
    rng = np.random.default_rng(index)
    image = rng.normal(1000, 10, shape)
    for _, a, b, r in table:
        if 0 <= round(b) < shape[0] and 0 <= round(a) < shape[1]:
            image[round(b), round(a)] += r
    patches = rng.normal(0, 1, (len(first), 11, 11)).astype(np.float32)
    patches[:, 5, 5] = 300
    number, known = len(table), np.full(len(table), sigma)
    targets = Targets(
        x, y, radiance, known, known, 40 * known, blob, np.full(number, 0.9), np.arange(number) % 2 * 8
    )  # fmt: skip
    plain = np.zeros(shape, np.float32)
    spots = SpotPatches(
        patches, np.ones(patches.shape, dtype=bool), left, top, np.zeros(len(first)),
        np.full(patches.shape, np.inf, dtype=np.float32),
    )  # fmt: skip
    blobs = Blobs(left + 5.0, top + 5.0, np.ones(len(first)), np.ones(len(first)))
    low, high = (np.iinfo(dtype).min, np.iinfo(dtype).max) if dtype != np.float32 else (-np.inf, np.inf)
    frame = Frame(index, index * 10**7 if t_ns is None else t_ns, np.clip(image, low, high).astype(dtype), name=name)
    tracks = None if track is None else np.array(track, dtype=np.int64)
    return Result(frame, Detection(blobs, plain, plain), targets, spots, latency, track=tracks)


def made_tracks(numbers: list[int], t_ns: int = 0, **parts: Any) -> Tracks:
    """Confirmed tracks, every second one static; columns are 0.5, 1.5 ... where ``parts`` do not tell them."""
    n = len(numbers)
    some = np.arange(n) + 0.5
    columns = dict.fromkeys(("x", "y", "vx", "vy", "age_s", "score", "radiance"), some)
    columns |= {"covariance": np.ones((n, 2, 3)), "static": np.arange(n) % 2 == 1, "seen": np.ones(n, dtype=bool)}
    given = {name: np.asarray(value) if name in columns else value for name, value in parts.items()}
    return Tracks(number=np.array(numbers, dtype=np.int64), t_ns=t_ns, **{**columns, **given})
