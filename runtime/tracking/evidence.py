"""What a detection of some score says for a target and against clutter: a small table, made by a command.

For each class of scores the table holds, of one frame, how often a target is detected with such a score, how many false
detections there are per pixel, and how often a false thing that was there a frame ago is there again. From these come
the log-likelihood ratios that a track adds up (see ``tracker``). ``evidence.json`` beside this file is the one place
of all tables, by name of the detector; a detector without one takes ``default``.

``python -m glint.benchmarks.streams.tracks --calibrate FILE`` makes it anew from labelled videos.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.errors import ModelError

FloatArray = NDArray[np.float64]
SCORES = (0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 0.97, 0.99)
"""Lower ends of the classes of scores; the first is that of the candidates."""

MOVING_SHARE = 0.2
"""Share of the false things that are there again which have moved as a target does. A choice, not measured: 0.03 to
0.3 give the same tracks of simulated scenes to a percent."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Rates of detections by class of their score, ``float64 [C]`` each.

    Attributes:
        scores: lower ends of the classes, ascending.
        target: detections of a target per frame; their sum is its probability of detection.
        clutter: false detections per pixel and frame.
        again: detections per frame of a false thing that was there in the frame before.
        origin: what the table was made of.
    """

    scores: FloatArray
    target: FloatArray
    clutter: FloatArray
    again: FloatArray
    origin: str = ""

    def __post_init__(self) -> None:
        for name in ("scores", "target", "clutter", "again"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        columns = (self.target, self.clutter, self.again)
        ascending = len(self.scores) > 0 and bool((np.diff(self.scores) > 0).all())
        if not ascending or any(c.shape != self.scores.shape or not (c > 0).all() for c in columns):
            raise ModelError("Evidence: expected ascending scores and as many positive rates in each column")
        if self.target.sum() >= 1 or self.again.sum() >= 1:
            raise ModelError("Evidence: expected probabilities of detection below 1")

    @staticmethod
    def of(detector: str, path: Path | None = None) -> Evidence:
        """The table of a detector by its name, else ``default``.

        Raises:
            ModelError: if the file cannot be read or holds no such table.
        """
        try:
            file = path or resources.files("glint.runtime.tracking").joinpath("evidence.json")
            tables: dict[str, Any] = json.loads(file.read_text("utf-8"))
            return Evidence(**(tables.get(detector) or tables["default"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            hint = "make it anew: python -m glint.benchmarks.streams.tracks --calibrate FILE"
            raise ModelError(f"evidence of {detector}: {error}", hint=hint) from error

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        columns = {n: [float(f"{v:.4g}") for v in getattr(self, n)] for n in ("scores", "target", "clutter", "again")}
        return {"origin": self.origin, **columns}

    def classes(self, score: FloatArray) -> NDArray[np.int64]:
        """The class of each score; below the first, the first."""
        return np.maximum(np.searchsorted(self.scores, score, side="right") - 1, 0)

    def born(self, kind: NDArray[np.int64], local: FloatArray, births: float) -> FloatArray:
        """Log-odds that a detection that belongs to no track is a new target.

        Args:
            kind: classes.
            local: how many times as dense as in the table clutter is there.
            births: new targets per pixel and frame.
        """
        return np.log(births * self.target[kind] / (self.clutter[kind] * local))

    def seen(
        self, kind: NDArray[np.int64], local: FloatArray, density: FloatArray, moves: NDArray[np.bool_]
    ) -> FloatArray:
        """Log-likelihood ratio of a detection of a track, whose place has this density (1/px^2).

        What moves through the scene is seldom a false thing that is there again.
        """
        again = self.again[kind] * np.where(moves, MOVING_SHARE, 1.0)
        clutter = self.clutter[kind] * local + again * density
        return np.log(np.maximum(self.target[kind] * density / clutter, 1e-9))

    @property
    def missed(self) -> float:
        """Log-likelihood ratio of a frame without a detection."""
        return float(np.log((1 - self.target.sum()) / (1 - self.again.sum())))
