"""What stays where it is: static clutter of the scene, and marks of the sensor.

A track is *static* until it has moved, and is seen so for ``MOVED_FRAMES``. It has moved

- when its place, averaged over ``NOW_S``, is away from the mean of its places by more than ``MOVED_PX``: what moves at
  a constant velocity leaves its mean behind, what flickers about a place does not. What has rested for ``SETTLED_S``
  must go twice as far: digits of overlay text hop;
- or when it stands where the scene showed nothing before (see ``moving``);
- or when its places lie on a line that it goes along, by ``WENT_PX`` at least, and at a velocity of ``SURE_ERRORS``
  standard errors.

Mean and line forget with ``MEMORY_S``. A camera that moves makes scenes swell and shift against each other, which
registration does not tell: ``TURNED_SHARE`` of its way in that time is added to the limits. Frames in which a target
is not seen say nothing. Once it has moved, a track that stops (a hovering target) is not static for ``FORGET_S``; its
history speaks for it.

A mark of the sensor (overlay text, a stuck pixel) moves through the scene when the camera turns. It is told by its
place in the frame, which does not change by more than ``FIXED_PX`` while the scene moves. A target that a
camera follows never stays as still.

A track has *travelled* when it is ``TRAVELLED_PX`` from where it was first seen, in the scene (``TURNED_SHARE`` of the
camera's way more) and in the frame.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from glint.compiled import entry

FloatArray = NDArray[np.float64]
MOVED_PX = 0.8
WENT_PX, SURE_ERRORS = 0.5, 6.0
TRAVELLED_PX = 3.0
SETTLED_S = 4.0
TURNED_SHARE = 0.1
FIXED_PX = 0.4
MOVED_FRAMES = 4
NOW_S = 0.07
MEMORY_S = 2.0
FORGET_S = 20.0
_JITTER_PX = 0.05  # least standard deviation of a place on either axis


class Rest:
    """Motion of all tracks, row by row as the tracker has them."""

    def __init__(self) -> None:
        self._scene, self._frame = np.zeros((0, 2)), np.zeros((0, 2))  # mean places
        self._now, self._here = np.zeros((0, 2)), np.zeros((0, 2))  # places of late, in the scene and in the frame
        self._shift: FloatArray | None = None  # its mean
        self._latest = np.zeros(2)  # the last one
        self._age_s, self._away, self._rested_s = np.zeros(0), np.zeros(0), np.zeros(0)
        self._first = np.zeros((0, 6))  # places at the beginning, in the scene and in the frame, and its shift
        self._line = np.zeros((0, 8))  # sums of 1, t, t^2, x, y, t x, t y, x^2 + y^2 over places, t from now on

    @property
    def static(self) -> NDArray[np.bool_]:
        """Whether each track is static, ``bool [N]``."""
        return self._rested_s > 0

    @property
    def travelled(self) -> NDArray[np.bool_]:
        """Whether each track has left the place where it began, in the scene and in the frame, ``bool [N]``."""
        turned = TURNED_SHARE * np.hypot(*(self._latest - self._first[:, 4:]).T)
        in_scene = np.hypot(*(self._now - self._first[:, :2]).T)
        in_frame = np.hypot(*(self._here - self._first[:, 2:4]).T)
        gone: NDArray[np.bool_] = (in_scene > TRAVELLED_PX + turned) & (in_frame > TRAVELLED_PX)
        return gone

    def bear(self, scene: FloatArray, frame: FloatArray) -> None:
        """Add tracks at these places ``[N, 2]``."""
        new = np.zeros(len(scene))
        self._scene, self._frame = np.concatenate([self._scene, scene]), np.concatenate([self._frame, frame])
        self._now, self._here = np.concatenate([self._now, scene]), np.concatenate([self._here, frame])
        self._age_s, self._away = np.concatenate([self._age_s, new]), np.concatenate([self._away, new])
        self._rested_s = np.concatenate([self._rested_s, new + np.inf])
        self._first = np.concatenate([self._first, np.zeros((len(scene), 6))])
        first = np.stack([new + 1, new, new, *scene.T, new, new, (scene**2).sum(axis=1)], axis=1)
        self._line = np.concatenate([self._line, first])

    def keep(self, alive: NDArray[np.bool_]) -> None:
        """Forget the other tracks."""
        for name in ("_scene", "_frame", "_now", "_here", "_age_s", "_away", "_rested_s", "_line", "_first"):
            setattr(self, name, getattr(self, name)[alive])

    def tell_moved(self, row: int) -> None:
        """A track is known to move."""
        self._rested_s[row] = -FORGET_S

    def start_anew(self) -> None:
        """The scene is another one: places in it say nothing."""
        self._age_s[:] = 0
        self._line[:] = 0
        self._shift = None

    def move(
        self, place: FloatArray, here: FloatArray, shift: FloatArray, seconds: float, seen: NDArray[np.bool_],
        fresh: NDArray[np.bool_] | None = None,
    ) -> None:  # fmt: skip
        """Take the places in the scene and in the frame ``[N, 2]``, and how far the scene moved in it, after so many s.

        Only those of ``seen`` tracks count. Tracks that are ``fresh`` stand where nothing was before.
        """
        anew = seen & (self._age_s == 0)
        self._first[anew] = np.concatenate([place, here, np.broadcast_to(shift, place.shape)], axis=1)[anew]
        self._latest = shift
        self._age_s[seen] += seconds
        weight = np.minimum(seconds / np.maximum(self._age_s, 1e-9), 1.0)
        weight = np.where(seen, np.maximum(weight, min(1.0, seconds / MEMORY_S)), 0.0)[:, None]
        quick = np.where(seen[:, None], np.maximum(weight, min(1.0, seconds / NOW_S)), 0.0)
        self._scene += weight * (place - self._scene)
        self._frame += weight * (here - self._frame)
        self._now += quick * (place - self._now)
        self._here += quick * (here - self._here)
        lag = np.hypot(*(self._now - self._scene).T)
        fixed = np.hypot(*(self._here - self._frame).T) < FIXED_PX
        before = shift if self._shift is None else self._shift
        self._shift = before + min(1.0, seconds / MEMORY_S) * (shift - before)
        settled = 1 + np.minimum(self._age_s / SETTLED_S, 1)
        turned = TURNED_SHARE * float(np.hypot(*(shift - self._shift)))
        away = ((lag > MOVED_PX * settled + turned) | _goes(self._line, place, seconds, seen, 2 * turned)) & ~fixed
        if fresh is not None:
            away |= fresh
        self._away = np.where(seen, np.where(away, self._away + 1, 0), self._away)
        left = seen & (self._away >= MOVED_FRAMES)
        # A negative count is the time for which history speaks for it; infinity is static for good.
        self._rested_s = np.where(left, -FORGET_S, self._rested_s + seconds)


@entry("f8[2] f8[2] f8 b1[1] f8")
def _goes(
    line: FloatArray, place: FloatArray, seconds: float, seen: NDArray[np.bool_], turned: float
) -> NDArray[np.bool_]:  # fmt: skip
    """Which tracks go straight on, beyond doubt, by more than the camera's turning tells; ``line`` takes their places.

    Args:
        line: sums over the places of each track, see ``Rest``.
        place: of now, in the scene, px ``[N, 2]``; of tracks that are ``seen``.
        seconds: since the last ones.
        turned: way of the camera that counts as none, px.
    """
    goes, kept = np.zeros(len(line), dtype=np.bool_), math.exp(-seconds / MEMORY_S)
    for k in range(len(line)):
        one = line[k]
        one[2] += seconds * (seconds * one[0] - 2 * one[1])
        one[1] -= seconds * one[0]
        one[5] -= seconds * one[3]
        one[6] -= seconds * one[4]
        one *= kept
        if seen[k]:
            one[0] += 1
            one[3] += place[k, 0]
            one[4] += place[k, 1]
            one[7] += place[k, 0] ** 2 + place[k, 1] ** 2
        n, t, x, y = max(one[0], 1e-9), one[1], one[3], one[4]
        spread = max(one[2] - t**2 / n, 1e-12)
        speed = math.hypot(one[5] - t * x / n, one[6] - t * y / n) / spread
        rest = max(one[7] - (x**2 + y**2) / n - speed**2 * spread, 0.0)
        jitter = math.sqrt(rest / max(2 * n - 4, 1.0) + _JITTER_PX**2)
        went = speed * math.sqrt(12 * spread / n)
        goes[k] = went > WENT_PX + turned and speed * math.sqrt(spread) > SURE_ERRORS * jitter and n > 3
    return goes
