"""The last frames of the spots of a stream, and what they say together of those that may hold several targets.

A spot is followed by the middle of its light: it is looked for where a straight line through its last places in the
scene leads. Of each, the last patches are kept. One whose targets were several lately, in any frame, is taken apart in
all of them at once (see ``joint``). That costs time, so that in each frame

- the number of members is looked for anew in ``SEARCHES`` spot, that which has waited longest for it;
- the members of ``FITS`` others are fitted, as many as they were, from where they were (at first, as many as most of
  the frames say);
- those of the rest move on with the middle of their light.

Frames that do not belong together (two spots that merge, a
turn) leave more than noise: then all but the last are forgotten.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from glint.errors import InputError
from glint.runtime.tracking.joint import MOST_MEMBERS, Sequence, refine_jointly
from glint.runtime.tracking.registration import Shift
from glint.types import TargetFlag, Targets

MOST_FRAMES = 30
SEARCHES, FITS = 1, 2
_OLD_FRAMES, _SETTLED_FRAMES = (
    3,
    10,
)  # frames after which a number of members is looked for anew; where all frames are there
_ALONE_FRAMES = 5  # frames of one target each, after which it is looked for more in all of them
_GATE_PX = 2.0  # px from where a spot is looked for
_UNSEEN_FRAMES = 5  # frames for which a spot is remembered
_MISFIT_CHI_SQUARE = 2.5  # chi square beyond which frames do not belong together
_LINE_PX = 0.1  # px by which a spot may be off the straight line, as registration may err and targets turn
_MIDDLE_PX = 2.0  # px of the middle of a spot's light by which it is off where noise is as strong as light
_STARTS_FRAMES = 4  # single frames, the last ones, whose answers are starts

Array = NDArray[np.float64]


class Cuts(NamedTuple):
    """What was cut out of a frame around its spots: see ``pipeline.spots.SpotPatches``; ``noise`` is of a pixel, DN."""

    patches: NDArray[np.float32]
    valid: NDArray[np.bool_]
    full_scale: NDArray[np.float32]
    left: NDArray[np.int64]
    top: NDArray[np.int64]
    noise: Array


class _View(NamedTuple):
    """A spot in one frame; its middle is in the scene, the answer ``[3, K]`` is x, y relative to it, and radiance."""

    patch: NDArray[np.float32]
    valid: NDArray[np.bool_]
    left: int
    top: int
    noise: float
    frame: int
    middle: Array
    shift: Shift
    answer: Array


@dataclass
class _Spot:
    """One that is followed."""

    views: deque[_View]
    searched: int = -1_000_000  # frame
    fitted: int = -1_000_000
    last: Targets | None = None  # its members, in pixels of the frame of then
    members: Array | None = None  # [3, K], as answers

    @property
    def patience(self) -> int:
        """Frames after which its number of members is looked for anew."""
        return _OLD_FRAMES if len(self.views) < (self.views.maxlen or 0) else _SETTLED_FRAMES

    def line(self, frames: Array) -> Array:
        """Where the middle is in some frames, in the scene ``[N, 2]``: on the line through what was seen."""
        time = np.array([view.frame for view in self.views], dtype=np.float64)
        middle = np.array([view.middle for view in self.views])
        mean, time_mean = middle.mean(axis=0), time.mean()
        spread = ((time - time_mean) ** 2).sum()
        slope = ((time - time_mean)[:, None] * middle).sum(axis=0) / spread if spread > 0 else np.zeros(2)
        line: Array = mean + (frames - time_mean)[:, None] * slope
        return line

    def places(self) -> Array:
        """The middle in all of its frames, in pixels of each ``[N, 2]``: between what was seen and the line."""
        own = np.array([_MIDDLE_PX * view.noise / view.answer[2].sum() for view in self.views]) ** 2
        trust = (_LINE_PX**2 / (_LINE_PX**2 + own))[:, None]  # in what was seen
        middle = np.array([view.middle for view in self.views])
        line = self.line(np.array([view.frame for view in self.views], dtype=np.float64))
        scene = trust * middle + (1 - trust) * line
        return np.array([view.shift.to_frame(*place) for view, place in zip(self.views, scene)])

    def moved_on(self) -> Targets | None:
        """The members as they were told last, at the middle of the last frame; None if nothing was told."""
        if self.last is None or self.members is None:
            return None
        at = self.places()[-1]
        self.last = replace(self.last, x=at[0] + self.members[0], y=at[1] + self.members[1])
        return self.last

    @property
    def several(self) -> bool:
        """Whether it may hold several targets."""
        found = self.members is not None and self.members.shape[1] > 1
        return len(self.views) > 1 and (found or any(view.answer.shape[1] > 1 for view in self.views))


class Clusters:
    """The spots of one stream.

    Args:
        frames: of each spot that are kept, 2 to 30.
        radiance: mean and standard deviation of a target's radiance, DN, if they are known.
        most: members at most.

    Raises:
        InputError: if the number of frames is out of range.
    """

    def __init__(self, frames: int, radiance: tuple[float, float] | None = None, most: int = MOST_MEMBERS) -> None:
        if not 2 <= frames <= MOST_FRAMES:
            hint = f"--unmix-frames takes 2 to {MOST_FRAMES}; 1 takes each frame by itself"
            raise InputError(f"unmix_frames: expected 2 to {MOST_FRAMES} frames, got {frames}", hint=hint)
        self.frames, self.radiance, self.most = frames, radiance, min(most, MOST_MEMBERS)
        self._spots: list[_Spot] = []
        self._frame = 0

    def forget(self) -> None:
        """The scene is another one."""
        self._spots = []

    def __call__(
        self, targets: Targets, cuts: Cuts, shift: Shift, sigma: float | None
    ) -> tuple[Targets, NDArray[np.int64]]:
        """The targets of the next frame, those of followed clusters from all of their last frames.

        Args:
            targets: in frame pixels; ``blob`` is a row of the cuts.
            cuts: of the frame.
            shift: where the scene lies in the frame.
            sigma: of the PSF, pixels; None: not yet known. Then spots are followed, whatever they are.

        Returns:
            The targets, in the order of their blobs, and of how many frames each was made, ``int64 [N]``.
        """
        self._frame += 1
        followed = self._follow(self._views(targets, cuts, shift, known=sigma is not None))
        if sigma is None:
            return targets, np.ones(len(targets), dtype=np.int64)
        several = {blob: spot for blob, spot in followed.items() if spot.several}
        due = [blob for blob, spot in several.items() if self._frame - spot.searched >= spot.patience]
        anew = sorted(due, key=lambda blob: several[blob].searched)[:SEARCHES]
        rest = sorted(several.keys() - set(anew), key=lambda blob: (several[blob].fitted, blob))
        found: dict[int, tuple[Targets, int]] = {}
        if not anew and (one := self._alone(followed)) is not None:
            several[one], anew = followed[one], [one]
        for blob in [*anew, *rest]:
            spot = several[blob]
            if blob in anew or blob in rest[:FITS]:
                spot.fitted = self._frame
                together = self._together(spot, sigma, anew=blob in anew)
            else:
                together = spot.moved_on()
            if together is not None:
                found[blob] = together, len(spot.views)
        return _replaced(targets, found)

    def _alone(self, followed: dict[int, _Spot]) -> int | None:
        """The blob of a spot that was one target in all frames and may yet be several in all of them together."""
        waits = {blob: self._frame - spot.searched for blob, spot in followed.items()
                 if not spot.several and len(spot.views) >= _ALONE_FRAMES}  # fmt: skip
        longest = max(waits, key=lambda blob: waits[blob], default=None)
        return longest if longest is not None and waits[longest] >= _SETTLED_FRAMES else None

    def _views(self, targets: Targets, cuts: Cuts, shift: Shift, *, known: bool) -> dict[int, _View]:
        """The spots of this frame that may be point targets, by their blobs."""
        views = {}
        points = (targets.flags & int(TargetFlag.UNREFINED | (TargetFlag.EXTENDED if known else 0))) == 0
        for blob in np.unique(targets.blob).tolist():
            rows = np.flatnonzero(targets.blob == blob)
            light = targets.radiance[rows]
            if not points[rows].all() or not light.sum() > 0:
                continue
            middle = np.array([(targets.x[rows] * light).sum(), (targets.y[rows] * light).sum()]) / light.sum()
            answer = np.stack([targets.x[rows] - middle[0], targets.y[rows] - middle[1], light])
            valid = cuts.valid[blob] & (cuts.patches[blob] < cuts.full_scale[blob])
            left, top = int(cuts.left[blob]), int(cuts.top[blob])
            views[blob] = _View(
                cuts.patches[blob],
                valid,
                left,
                top,
                float(cuts.noise[blob]),
                self._frame,
                np.array(shift.to_scene(*middle)),
                shift,
                answer,
            )
        return views

    def _follow(self, views: dict[int, _View]) -> dict[int, _Spot]:
        """Give each spot of this frame to the one that it was, or to a new one."""
        self._spots = [spot for spot in self._spots if self._frame - spot.views[-1].frame <= _UNSEEN_FRAMES]
        blobs = list(views)
        now = np.array([float(self._frame)])
        there = np.array([spot.line(now)[0] for spot in self._spots]).reshape(-1, 2)
        here = np.array([view.middle for view in views.values()]).reshape(-1, 2)
        gap = np.hypot(*np.moveaxis(there[:, None] - here, -1, 0)) if len(there) and len(here) else np.zeros((0, 0))
        owner: dict[int, _Spot] = {}
        for row, column in zip(*linear_sum_assignment(np.minimum(gap, _GATE_PX))):
            if gap[row, column] < _GATE_PX:
                owner[blobs[column]] = self._spots[row]
        for blob, view in views.items():
            if blob not in owner:
                owner[blob] = _Spot(deque(maxlen=self.frames))
                self._spots.append(owner[blob])
            owner[blob].views.append(view)
        return owner

    def _together(self, spot: _Spot, sigma: float, *, anew: bool) -> Targets | None:
        """The members of a spot in the last frame, or None if its frames do not belong together."""
        views, at = list(spot.views), spot.places()
        time = np.array([view.frame for view in views], dtype=np.float64)
        patches, left, top, noise = (
            np.array([getattr(v, n) for v in views]) for n in ("patch", "left", "top", "noise")
        )
        valid = np.array([view.valid for view in views])
        sequence = Sequence(patches, left, top, noise, at[:, 0], at[:, 1], valid=valid, time=time - time[-1])
        off = [np.array(v.shift.to_frame(*v.middle)) - place for v, place in zip(views, at)]
        alone = [v.answer + np.array([[o[0]], [o[1]], [0.0]]) for v, o in zip(views, off)][-_STARTS_FRAMES:]
        starts = alone if spot.members is None else [spot.members, *(alone if anew else ())]
        number = None if anew else Counter(start.shape[1] for start in starts).most_common(1)[0][0]
        spot.searched = self._frame if anew else spot.searched
        joint = refine_jointly(
            sequence, [tuple(start) for start in starts], sigma, radiance=self.radiance, most=self.most, number=number
        )
        if joint.chi_square > _MISFIT_CHI_SQUARE:
            spot.views = deque(views[-1:], maxlen=self.frames)
            spot.members = spot.last = None
            return None
        members = joint.targets
        if not spot.several and (len(members) == 1 or members.flags[0] & int(TargetFlag.COUNT_AMBIGUOUS)):
            return None
        if number is not None and spot.last is not None and len(spot.last) == number:
            old = spot.last  # the search told how sure the number is
            members = replace(
                members, count_probability=old.count_probability, flags=np.full(number, old.flags[0])
            )  # fmt: skip
        spot.last = members
        spot.members = np.stack([members.x - at[-1, 0], members.y - at[-1, 1], members.radiance])
        return members


def _replaced(targets: Targets, found: dict[int, tuple[Targets, int]]) -> tuple[Targets, NDArray[np.int64]]:
    """Targets whose blobs were taken apart together, in place of those of the frame alone."""
    if not found:
        return targets, np.ones(len(targets), dtype=np.int64)
    parts: list[Targets] = []
    frames: list[int] = []
    for blob in np.unique(targets.blob).tolist():
        one, number = targets.select(targets.blob == blob), 1
        if blob in found:
            edge = int(np.bitwise_or.reduce(one.flags)) & int(TargetFlag.EDGE | TargetFlag.SATURATED)
            one, number = found[blob]
            one = replace(one, blob=np.full(len(one), blob), flags=one.flags | edge)
        parts.append(one)
        frames += [number] * len(one)
    return Targets.concatenate(parts), np.asarray(frames, dtype=np.int64)


def steady(targets: Targets, frames: Many[int] | NDArray[np.int64]) -> Targets:
    """Targets as measurements of one frame each: what each frame says again and again must not count again."""
    wider = np.sqrt(np.asarray(frames, dtype=np.float64))
    return replace(targets, sigma_x=targets.sigma_x * wider, sigma_y=targets.sigma_y * wider)
