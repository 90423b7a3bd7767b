"""The confirmed tracks of one frame, as the tracker hands them on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Crossing:
    """A track comes into a zone, or goes out of it."""

    event: Literal["enter", "leave"]
    track: int
    zone: str


@dataclass(frozen=True, eq=False)
class Tracks:
    """Confirmed tracks that live, one row each, and what became of tracks with this frame.

    Attributes:
        number: ``int64 [N]``.
        x, y: in the frame, pixels; predicted where the target was not seen.
        vx, vy: in the scene, px/s.
        covariance: of position and velocity per axis (x, y): their variances and between them the covariance
            (px^2, px^2/s, px^2/s^2), ``float64 [N, 2, 3]``.
        age_s: since the first detection.
        score: log-odds of a target.
        static: it has not moved: ``bool [N]``.
        seen: whether it has a detection in this frame, ``bool [N]``.
        radiance: of its last target, DN.
        confirmed, lost: numbers that are told for the first time, and that ended.
        crossed: tracks that entered or left zones.
        t_ns: of the frame.
        utc: of the frame, ISO 8601; of a source that is not live, when it was processed.
        faint: what the last frames show together and no single one, ``bool [N]``; None: nobody looked.
    """

    number: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    vx: NDArray[np.float64]
    vy: NDArray[np.float64]
    covariance: NDArray[np.float64]
    age_s: NDArray[np.float64]
    score: NDArray[np.float64]
    static: NDArray[np.bool_]
    seen: NDArray[np.bool_]
    radiance: NDArray[np.float64]
    confirmed: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()
    crossed: tuple[Crossing, ...] = ()
    t_ns: int = 0
    utc: str = ""
    faint: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.number)

    def select(self, which: NDArray[np.bool_]) -> Tracks:
        """Some of the tracks; events stay."""
        rows: dict[str, Any] = {
            name: value[which] for name, value in vars(self).items() if isinstance(value, np.ndarray)
        }
        return replace(self, **rows)

    def events(self) -> list[dict[str, Any]]:
        """What became of tracks with this frame, JSON-ready."""
        named = (("confirmed", self.confirmed), ("lost", self.lost))
        told: list[dict[str, Any]] = [{"event": e, "track": number} for e, numbers in named for number in numbers]
        return told + [vars(crossing) for crossing in self.crossed]

    def _flags(self, row: int) -> list[str]:
        faint = self.faint is not None and bool(self.faint[row])
        return [name for name, holds in (("STATIC", bool(self.static[row])), ("FAINT", faint)) if holds]

    def record(self, row: int) -> dict[str, Any]:
        """One track, JSON-ready."""
        place = {name: round(float(getattr(self, name)[row]), 4) for name in ("x", "y", "vx", "vy")}
        covariance = {axis: [float(f"{v:.4g}") for v in c] for axis, c in zip("xy", self.covariance[row])}
        return {
            "track": int(self.number[row]), **place, "covariance": covariance,
            "age_s": round(float(self.age_s[row]), 3), "score": round(float(self.score[row]), 2),
            "radiance": round(float(self.radiance[row]), 2), "seen": bool(self.seen[row]),
            "flags": self._flags(row),
        }  # fmt: skip
