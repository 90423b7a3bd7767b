"""Which targets of successive frames are the same one, and whether they are any.

Each track moves in the scene with a constant velocity that white acceleration changes; it is measured with the
target's own ``sigma_x`` and ``sigma_y``. The axes are independent, so a track is two Kalman filters of two states, and
all tracks are updated at once. Time is that of the frames: dropped frames and gaps only make the step longer. How the
camera moved is told by ``registration``; a camera that is not registered counts as at rest.

- **Assignment** is joint: of all sets of pairs, each track and target at most once, the most likely one (least sum
  of d^2 + ln det S, with the Mahalanobis distance d and the covariance S of the innovation), where a pair must
  lie within the gate and be more likely than that the target is new. For a cluster that moves as one this is the
  right pairing whatever its velocity, known or not.
- **A camera that follows**: when it turns in another way than before, targets may go on in the frame instead of in the
  scene. Tracks that got nothing are looked for there too, with the velocity that they have then; those that still have
  nothing may go either way from there.
- **Merged and split spots**: a spot may come apart in other members than before. Tracks at a spot that got none of its
  targets take, nearest first, those that are left, and when there are none its middle; both with the uncertainty of
  a spot. So members keep their tracks, and a surplus one fades.
- **Members that leave**: a track that was one of several in a spot, and is not seen though the spot is, was a surplus
  one: its score falls by more.
- **Birth**: a target or candidate without a track starts one, at rest, with a wide uncertainty of its velocity.
- **Score**: the log-odds of a target over clutter (see ``evidence``). It begins with the odds that the first detection
  is a new target, ``births_per_hour`` being expected in the whole frame, and gains the log-likelihood ratio of each
  detection and of each miss. No spot that moves leaves it below the odds of a new target (Page's test). What moves
  is seldom a false thing that is there again; when a track is seen to move, that counts for its frames so far, too.
- **Confirmation** when the odds reach ``births_per_hour / false_tracks_per_hour``: clutter that is as independent from
  frame to frame as the table says is then confirmed no more often than ``false_tracks_per_hour`` (Ville's inequality:
  a likelihood ratio exceeds A under clutter with a probability of at most 1/A). Until then a target's track is -1. New
  light that the detector doubts is no target where it stays: such a track has been seen ``_SURE_DETECTIONS`` times
  without doubt, or has travelled (see ``rest``).
- **Blind frames** (the camera's shutter): a target that is not seen in one has not been missed.
- **Death** when the score fell by ``ln(1 / false_delete)`` from its highest, by misses or by weak detections, or when
  the position, on either axis, is uncertain by more than ``lost_px``.
- **Clutter map**: where tracks ended lately, in the frame, clutter is denser than the table says (see ``clutter_map``).
- **Faint** points, which the last frames show together and none alone (see ``faint``), start confirmed tracks; between
  the frames that tell of them they are not missed.
- **Static** (see ``rest``) is what stays where it is; that is a flag, not an end.

Numbers of tracks start at 0, in order of confirmation, and are never used twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from glint.choices import FALSE_TRACKS_PER_HOUR
from glint.compiled import entry
from glint.errors import InputError
from glint.runtime.tracking.clutter_map import ClutterMap
from glint.runtime.tracking.evidence import Evidence
from glint.runtime.tracking.faint import Faint
from glint.runtime.tracking.registration import Shift
from glint.runtime.tracking.rest import Rest
from glint.runtime.tracking.tracks import Tracks
from glint.types import Blobs, TargetFlag, Targets

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
_USUAL_SHAPE_PX = 512, 640  # of a frame whose size nobody told
_HOUR_S = 3600.0  # s
_FIRST_STEP_S = 1 / 30  # s that the first frame stands for
_BIRTH_LOG_ODDS = -9.0  # log-odds below which a detection starts no track
_MERGED_SCORE_FALL = 0.3  # fall of the score of a track that shares a spot in which nothing is left for it
_ASTRAY_SCORE_FALL, _COMPANION_PX = 2.0, 6.0  # further fall of a track that has left a spot, seen so near
_USUAL_JERK_PX, _JERK_WEIGHT = 0.3, 0.3  # px of a camera's step off the usual one; weight of a step in that
_LARGEST_JERK_PX = 0.8  # px of it for which a track allows
_FAINT_SCORE_FALL = 0.25  # fall of the score of a faint track in a frame
_FAINT_PX, _FAINT_REACH_PX = 0.8, 8.0  # of the place of a faint point: standard deviation, and distance from its track
_FAINT_STEP_PX = 0.15  # standard deviation of its velocity per frame
_SURE_DETECTIONS = 3  # of a track that has not travelled, to be confirmed
_EDGE_PX = 1.0  # px from the edge of the frame
_LOST_SCORE_FALL = 3.0  # fall of the score at which a track that is not confirmed ends


@dataclass(frozen=True)
class TrackConfig:
    """What is known of the motion, and the rates of error.

    Attributes:
        speed: standard deviation of a new track's velocity per axis, px/s.
        agility: what the velocity gains in a second, standard deviation per axis, px/s.
        floor: least standard deviation of a measurement, px: what its sigma knows nothing of.
        extended: the same of a target that is no point.
        unknown: standard deviation of a measurement whose sigma is NaN, px.
        spot: standard deviation of a measurement that is some member of a spot, px.
        reach: how far from the targets of a spot a track still belongs to it, px.
        gate: largest Mahalanobis distance of a pair.
        density: new targets and false ones per px^2 and frame: a pair less likely than these is none.
        births_per_hour: new targets that are expected in the whole frame.
        false_tracks_per_hour: that clutter may confirm.
        false_delete: probability that the frames of a real target look as if it had ended.
        most_gain, most_loss: by which one frame changes a score: successive frames are not independent.
        lost_px: standard deviation of the position, on either axis, at which a confirmed track dies.
    """

    speed: float = 30.0
    agility: float = 5.0
    floor: float = 0.06
    extended: float = 0.5
    unknown: float = 0.3
    spot: float = 0.5
    reach: float = 1.5
    gate: float = 4.0
    density: float = 1e-4
    births_per_hour: float = 3600.0
    false_tracks_per_hour: float = FALSE_TRACKS_PER_HOUR
    false_delete: float = 1e-6
    most_gain: float = 1.2
    most_loss: float = 1.0
    lost_px: float = 4.0

    def __post_init__(self) -> None:
        bad = [name for name, value in vars(self).items() if not 0 < value < math.inf]
        if bad:
            raise InputError(f"TrackConfig: expected positive numbers, got {bad[0]}={getattr(self, bad[0])}")
        if self.false_tracks_per_hour >= self.births_per_hour or self.false_delete >= 1:
            raise InputError(
                f"TrackConfig: expected fewer false tracks than new targets ({self.births_per_hour:g} per hour) and "
                f"false_delete below 1, got {self.false_tracks_per_hour:g} and {self.false_delete:g}"
            )

    @property
    def confirmation(self) -> float:
        """Log-odds at which a track is confirmed."""
        return math.log(self.births_per_hour / self.false_tracks_per_hour)


@dataclass(frozen=True, eq=False)
class _Rows:
    """What a track is beside its motion, one row each."""

    number: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    born_ns: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    score: FloatArray = field(default_factory=lambda: np.zeros(0))
    best: FloatArray = field(default_factory=lambda: np.zeros(0))
    moving: FloatArray = field(default_factory=lambda: np.zeros(0))  # the score that it has if it moves
    radiance: FloatArray = field(default_factory=lambda: np.zeros(0))
    seen: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    faint: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    sure: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # detections that are not doubted
    shared: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))  # its spot with others, last

    def kept(self, alive: NDArray[np.bool_]) -> _Rows:
        return _Rows(*(column[alive] for column in vars(self).values()))

    def joined(self, *more: NDArray[np.generic]) -> _Rows:
        return _Rows(*(np.concatenate([old, new]) for old, new in zip(vars(self).values(), more)))


class Tracker:
    """The tracks of one stream.

    Args:
        config: what is known of the motion, and the rates of error.
        evidence: what scores say; None: the table for any detector.

    Attributes:
        confirmed: tracks so far.
    """

    def __init__(self, config: TrackConfig | None = None, evidence: Evidence | None = None) -> None:
        self.config, self.evidence = config or TrackConfig(), evidence or Evidence.of("default")
        self.confirmed = 0
        self._t_ns: int | None = None
        self._shift = Shift()
        self._drift = np.zeros(2)  # of the scene in the frame, px/s
        # One row per track, columns x and y: position, velocity, their variances and covariance; in the scene.
        self._state = np.zeros((5, 0, 2))
        self._rows, self._rest, self._clutter = _Rows(), Rest(), ClutterMap()
        self._events: tuple[tuple[int, ...], tuple[int, ...]] = (), ()

    def __len__(self) -> int:
        """Tracks that live, confirmed or not."""
        return len(self._rows.number)

    def update(
        self, t_ns: int, targets: Targets, candidates: Targets | None = None, *, spots: Blobs | None = None,
        others: Blobs | None = None, shift: Shift | None = None, shape: tuple[int, int] = _USUAL_SHAPE_PX,
        faint: Sequence[Faint] = (), doubted: float = 0.0,
    ) -> IntArray:  # fmt: skip
        """Take the targets of the next frame.

        Args:
            t_ns: its time; a step back in time counts as none.
            targets: in frame pixels.
            candidates: further ones that are too uncertain to be targets.
            spots, others: those that targets and candidates were taken out of; None: the middle of their light is the
                spot's.
            shift: where the scene lies in the frame.
            shape: of the frame, pixels; a track ends where it leaves it.
            faint: points that the last frames show together; one without a track starts one, which is confirmed.
            doubted: score up to which a spot that moves is one by that alone.

        Returns:
            The number of each target's track, -1 while that is not confirmed, ``int64 [N]``.
        """
        seconds, jerk = self._advance(t_ns, shift or Shift(), shape)
        gone = self._keep(~self._uncertain())
        every = targets if candidates is None else Targets.concatenate([targets, candidates])
        blob = every.blob.copy()
        blob[len(targets) :] += 1 + targets.blob.max(initial=-1) if spots is None else len(spots)
        place, sigma = self._measured(every)
        kind, clutter = self.evidence.classes(every.score), self._clutter.factor(every.x, every.y)
        fresh = _moving(spots, others, int(blob.max(initial=-1)) + 1)[blob]
        sure = ~fresh | (every.score > doubted)
        rows, columns = self._assign(place, sigma)
        if seconds > 0 and np.hypot(*jerk) > _USUAL_JERK_PX:
            rows, columns = self._assign_in_frame(rows, columns, place, sigma, jerk, seconds)
        gain = np.full(len(self), 0.0 if self._shift.blind else self.evidence.missed)
        gain[self._rows.faint] = np.maximum(gain[self._rows.faint], -_FAINT_SCORE_FALL)  # no single frame shows them
        moving = gain.copy()
        gain[rows], moving[rows] = self._gain(rows, kind[columns], clutter[columns], sigma[columns], fresh[columns])
        _correct(self._state, rows, place[columns], sigma[columns])
        middles = _middles(place, blob, every.radiance) if spots is None else self._middles_of(spots, others)
        more, further, merged, middle = self._share(rows, columns, place, blob, middles)
        wide = np.full((len(more), 2), self.config.spot)
        gain[more], moving[more] = self._gain(more, kind[further], clutter[further], wide, fresh[further])
        _correct(self._state, more, place[further], wide)
        gain[merged] = moving[merged] = -_MERGED_SCORE_FALL
        _correct(self._state, merged, middle, np.full((len(merged), 2), 2 * self.config.spot))
        rows, columns = np.concatenate([rows, more]), np.concatenate([columns, further])
        seen = np.concatenate([rows, merged])
        self._weigh(gain, moving, seen, self._astray(seen, np.concatenate([middles[blob[columns]], middle])))
        self._rows.shared[rows] = np.bincount(blob[columns], minlength=1)[blob[columns]] > 1
        self._rows.radiance[rows] = every.radiance[columns]
        owner = np.full(len(every), -1, dtype=np.int64)
        owner[columns] = rows
        odds = self._birth_odds(kind, clutter, max(seconds, 1e-3), shape)
        moved = fresh[columns]
        self._renew(rows[moved], odds[columns[moved]])
        new = np.flatnonzero((owner < 0) & (odds > _BIRTH_LOG_ODDS))
        owner[new] = len(self) + np.arange(len(new))
        self._rows.sure[rows] += sure[columns]
        if len(new):
            self._bear(place[new], sigma[new], odds[new], every.radiance[new], sure[new])
        for one in faint:
            self._take_faint(one, max(seconds, 1e-3))
        rest = (np.concatenate([rows, merged]), np.concatenate([middles[blob[columns]], middle]))
        moves = np.zeros(len(self), dtype=bool)
        moves[rows] = fresh[columns]
        self._judge_rest(*rest, moves, seconds, shape)
        self._judge()
        numbers = np.where(owner < 0, -1, self._rows.number[owner]) if len(self) else owner
        self._end(seconds, shape, gone)
        return numbers[: len(targets)]

    def _advance(self, t_ns: int, shift: Shift, shape: tuple[int, int]) -> tuple[float, FloatArray]:
        """Move all tracks to the time of a frame; seconds since the last one, and the camera's jerk, px."""
        seconds = _FIRST_STEP_S if self._t_ns is None else max(0, t_ns - self._t_ns) / 1e9
        before, self._t_ns, self._shift = self._shift, t_ns, shift
        jerk = self._jerked(before, seconds, shape)
        if not self._shift.known:
            self._state[2] += self.config.lost_px**2 / 4
            self._rest.start_anew()
        _predict(self._state, seconds, self.config.agility**2)
        return seconds, jerk

    def _middles_of(self, spots: Blobs, others: Blobs | None) -> FloatArray:
        """Middles of all spots in the scene, ``[B, 2]``."""
        both = [spots] if others is None else [spots, others]
        xy = [np.concatenate([getattr(part, axis) for part in both]) for axis in "xy"]
        return np.stack(self._shift.to_scene(*xy), axis=1)

    def _birth_odds(self, kind: IntArray, clutter: FloatArray, seconds: float, shape: tuple[int, int]) -> FloatArray:
        """Log odds that each detection is of a target that was not there before."""
        births = self.config.births_per_hour / _HOUR_S * seconds / (shape[0] * shape[1])
        # No single detection confirms a track, however rare its score is among clutter.
        most = self.config.confirmation - 2 * self.config.most_gain
        return np.minimum(self.evidence.born(kind, clutter, births), most)

    def _judge_rest(
        self, rows: IntArray, middles: FloatArray, moves: NDArray[np.bool_], seconds: float, shape: tuple[int, int]
    ) -> None:
        """Tell which tracks are things that stay.

        Args:
            rows: some tracks.
            middles: of their spots, ``[R, 2]``.
            moves: which of all tracks were seen where nothing was before.
            seconds, shape: since the last frame, and of this one.
        """
        at_rest = self._state[0].copy()
        at_rest[rows] = middles  # a spot's members come and go, its middle does not
        way = np.array(self._shift.to_frame(shape[1] / 2, shape[0] / 2))
        self._rest.move(at_rest, self._in_frame(at_rest), way, seconds, self._rows.seen, moves)
        goes = ~self._rest.static  # what was said against it as a thing that stays does not count any more
        self._rows.score[goes] = np.maximum(self._rows.score[goes], self._rows.moving[goes])
        np.maximum(self._rows.best, self._rows.score, out=self._rows.best)

    def tracks(self) -> Tracks:
        """The confirmed tracks after the last frame."""
        rows, which = self._rows, np.flatnonzero(self._rows.number >= 0)
        place, velocity = self._state[0, which], self._state[1, which]
        confirmed, lost = self._events
        x, y = self._shift.to_frame(*place.T)
        return Tracks(
            number=rows.number[which], x=x, y=y,
            vx=velocity[:, 0], vy=velocity[:, 1], covariance=np.moveaxis(self._state[2:][:, which], 0, -1),
            age_s=((self._t_ns or 0) - rows.born_ns[which]) / 1e9, score=rows.score[which],
            static=self._rest.static[which], seen=rows.seen[which], radiance=rows.radiance[which],
            confirmed=confirmed, lost=lost, faint=rows.faint[which],
        )  # fmt: skip

    def expected(self, t_ns: int, shift: Shift) -> tuple[FloatArray, FloatArray]:
        """Where in the next frame the confirmed tracks of what moves should be: pixels ``[N, 2]``, and reach ``[N]``.

        Args:
            t_ns: time of that frame.
            shift: where the scene lies in it.
        """
        seconds = 0.0 if self._t_ns is None else max(0, t_ns - self._t_ns) / 1e9
        state = self._state[:, (self._rows.number >= 0) & ~self._rest.static]
        if not shift.known or shift.blind:
            state = state[:, :0]
        _predict(state, seconds, self.config.agility**2)
        variance = state[2].max(axis=1, initial=0.0)
        place = np.stack(shift.to_frame(*state[0].T), axis=1)
        return place, self.config.gate * np.sqrt(variance + self.config.spot**2)

    def _measured(self, targets: Targets) -> tuple[FloatArray, FloatArray]:
        """Places in the scene and their standard deviations, each ``[N, 2]``."""
        x, y = self._shift.to_scene(targets.x, targets.y)
        place, sigma = _measured(x, y, targets.sigma_x, targets.sigma_y, self.config.floor, self.config.unknown)
        extended = (targets.flags & int(TargetFlag.EXTENDED)) != 0
        sigma[extended] = np.hypot(sigma[extended], self.config.extended)
        return place, sigma

    def _assign(self, place: FloatArray, sigma: FloatArray) -> tuple[IntArray, IntArray]:
        """Tracks and the targets that belong to them."""
        cost = _pair_costs(self._state, place, sigma, self.config.gate, self.config.density)
        rows, columns = linear_sum_assignment(cost)
        paired = cost[rows, columns] < 0
        return rows[paired], columns[paired]

    def _in_frame(self, place: FloatArray) -> FloatArray:
        """Where places of the scene ``[N, 2]`` lie in the frame."""
        return np.stack(self._shift.to_frame(*place.T), axis=1)

    def _jerked(self, before: Shift, seconds: float, shape: tuple[int, int]) -> FloatArray:
        """How much farther than before the middle of the scene went in the frame, pixels."""
        if not self._shift.known or self._shift.blind or seconds <= 0:
            return np.zeros(2)
        middle = shape[1] / 2, shape[0] / 2
        step = np.array(self._shift.to_frame(*before.to_scene(*middle))) - middle
        jerk = step - self._drift * seconds
        self._drift += _JERK_WEIGHT * jerk / seconds
        return jerk

    def _assign_in_frame(
        self, rows: IntArray, columns: IntArray, place: FloatArray, sigma: FloatArray, jerk: FloatArray, seconds: float
    ) -> tuple[IntArray, IntArray]:
        """Further pairs of tracks that keep their velocity in the frame."""
        idle, free = _others(len(self), rows), _others(len(place), columns)
        state = self._state[:, idle]
        state[0] -= jerk
        state[1] -= jerk / seconds
        cost = _pair_costs(state, place[free], sigma[free], self.config.gate, self.config.density)
        some, which = linear_sum_assignment(cost)
        paired = cost[some, which] < 0
        self._state[:, idle[some[paired]]] = state[:, some[paired]]
        either = np.setdiff1d(idle, idle[some[paired]])
        off = np.minimum(np.abs(jerk), _LARGEST_JERK_PX) ** 2  # farther, it may be the registration that erred
        for row, power in ((2, 0), (3, 1), (4, 2)):
            self._state[row, either] += off / seconds**power
        return np.concatenate([rows, idle[some[paired]]]), np.concatenate([columns, free[which[paired]]])

    def _share(
        self, rows: IntArray, columns: IntArray, place: FloatArray, blob: IntArray, middle: FloatArray
    ) -> tuple[IntArray, IntArray, IntArray, FloatArray]:
        """Tracks at spots whose targets others have got.

        Returns:
            Tracks and the targets of their spots that were left for them; tracks for which nothing was left, and the
            middle of their spots ``[N, 2]``.
        """
        taken = np.zeros(len(place), dtype=np.bool_)
        taken[columns] = True
        idle = _others(len(self), rows)
        number = len(middle)
        reach = np.zeros(number)
        np.maximum.at(reach, blob, np.hypot(*(place - middle[blob]).T))
        more, further, merged, spots = [], [], [], []
        gap = np.hypot(*np.moveaxis(self._state[0, idle][:, None] - middle, -1, 0))
        gap[gap > reach + self.config.reach] = np.inf
        nearest = gap.argmin(axis=1).tolist() if number else []
        distance, left = gap.min(axis=1, initial=np.inf), np.bincount(blob[~taken], minlength=number)
        for k in np.argsort(distance)[: np.count_nonzero(np.isfinite(distance))].tolist():
            spot, row = nearest[k], int(idle[k])
            if left[spot]:
                free = np.flatnonzero((blob == spot) & ~taken)
                target = int(free[np.hypot(*(place[free] - self._state[0, row]).T).argmin()])
                taken[target], left[spot] = True, left[spot] - 1
                more.append(row)
                further.append(target)
            else:
                merged.append(row)
                spots.append(middle[spot])
        whole = [np.asarray(part, dtype=np.int64) for part in (more, further, merged)]
        return whole[0], whole[1], whole[2], np.asarray(spots, dtype=np.float64).reshape(-1, 2)

    def _gain(
        self, rows: IntArray, kind: IntArray, clutter: FloatArray, sigma: FloatArray, fresh: NDArray[np.bool_]
    ) -> tuple[FloatArray, FloatArray]:
        """Log-likelihood ratios of the detections of some tracks, and what they are if those move."""
        variance = self._state[2, rows] + sigma**2
        density = 1 / (2 * math.pi * np.sqrt(variance.prod(axis=1)))
        static = self._rest.static[rows] & ~fresh  # nothing stays that was not there before
        moving = self.evidence.seen(kind, clutter, density, np.ones_like(static))
        return np.where(static, self.evidence.seen(kind, clutter, density, ~np.ones_like(static)), moving), moving

    def _astray(self, seen: IntArray, middle: FloatArray) -> IntArray:
        """Tracks that were part of a spot and are not, though it is seen: its tracks have these middles ``[N, 2]``."""
        apart = self._rows.shared.copy()
        apart[seen] = False
        lone = np.flatnonzero(apart)
        if not len(lone):
            return lone
        gap = np.hypot(*np.moveaxis(self._state[0, lone][:, None] - middle, -1, 0))
        return lone[gap.min(axis=1, initial=np.inf) < _COMPANION_PX]

    def _weigh(self, gain: FloatArray, moving: FloatArray, seen: IntArray, astray: IntArray) -> None:
        """Add what this frame says to the scores."""
        self._rows.seen[:] = False
        self._rows.seen[seen] = True
        for score, change in ((self._rows.score, gain), (self._rows.moving, moving)):
            score += np.clip(change, -self.config.most_loss, self.config.most_gain)
            score[astray] -= _ASTRAY_SCORE_FALL
            np.minimum(score, self._ceiling, out=score)
        np.maximum(self._rows.best, self._rows.score, out=self._rows.best)

    def _renew(self, rows: IntArray, odds: FloatArray) -> None:
        """Let tracks score no less than those that would begin with their detections (Page's test)."""
        for column in (self._rows.score, self._rows.moving, self._rows.best):
            column[rows] = np.maximum(column[rows], odds)

    def _bear(
        self, place: FloatArray, sigma: FloatArray, odds: FloatArray, radiance: FloatArray, sure: NDArray[np.bool_]
    ) -> None:
        still = np.zeros_like(place)
        born = np.stack([place, still, sigma**2, still, np.full_like(place, self.config.speed**2)])
        self._state = np.concatenate([self._state, born], axis=1)
        number = np.full(len(place), -1, dtype=np.int64)
        seen = np.ones(len(place), dtype=np.bool_)
        now = np.full_like(number, self._t_ns or 0)
        self._rows = self._rows.joined(
            number, now, odds, odds, odds, radiance, seen, ~seen, sure.astype(np.int64), ~seen
        )  # fmt: skip
        self._rest.bear(place, self._in_frame(place))

    def _take_faint(self, one: Faint, seconds: float) -> None:
        """A point of the last frames belongs to the track that is there, or starts one."""
        place = np.array([[one.x, one.y]])
        gap = np.hypot(*(self._state[0] - place).T)
        row = int(gap.argmin()) if len(gap) else 0
        wide = np.full((1, 2), _FAINT_PX)
        if not len(gap) or gap[row] > _FAINT_REACH_PX:
            row, odds = len(self), np.array([self.config.confirmation])
            self._bear(place, wide, odds, np.zeros(1), np.zeros(1, dtype=np.bool_))
            self._rows.faint[row] = True
            self._state[1, row] = one.vx / seconds, one.vy / seconds
            self._state[4, row] = (_FAINT_STEP_PX / seconds) ** 2
            self._rest.tell_moved(row)
        elif self._rows.faint[row] and not self._rows.seen[row]:
            _correct(self._state, np.array([row]), place, wide)
            self._rows.score[row] = min(self._rows.score[row] + 2 * self.config.most_gain, self._ceiling)
            self._rows.best[row] = max(self._rows.best[row], self._rows.score[row])
            self._rows.seen[row] = True

    @property
    def _ceiling(self) -> float:
        return self.config.confirmation - math.log(self.config.false_delete)

    def _judge(self) -> None:
        """Confirm tracks."""
        number = self._rows.number
        likely = (self._rows.score >= self.config.confirmation) & (number < 0)
        # Digits of a clock and bits of a cloud are new where they are, and stay there.
        real = (self._rows.sure >= _SURE_DETECTIONS) | self._rest.travelled | self._rows.faint
        fresh = np.flatnonzero(likely & real)
        number[fresh] = self.confirmed + np.arange(len(fresh))
        self.confirmed += len(fresh)
        self._events = tuple(number[fresh].tolist()), ()

    def _uncertain(self) -> NDArray[np.bool_]:
        """Confirmed tracks that may be anywhere by now."""
        return (self._rows.number >= 0) & (self._state[2].max(axis=1, initial=0.0) > self.config.lost_px**2)

    def _keep(self, alive: NDArray[np.bool_]) -> tuple[int, ...]:
        """Forget the other tracks; returns the numbers of those that were confirmed."""
        if alive.all():
            return ()
        gone = self._rows.number[~alive]
        self._state, self._rows = self._state.compress(alive, axis=1), self._rows.kept(alive)
        self._rest.keep(alive)
        return tuple(gone[gone >= 0].tolist())

    def _end(self, seconds: float, shape: tuple[int, int], gone: tuple[int, ...]) -> None:
        """Let tracks die; the clutter map learns where."""
        rows, config = self._rows, self.config
        sure = rows.number >= 0
        fall = np.where(sure, -math.log(config.false_delete), _LOST_SCORE_FALL)
        place = self._in_frame(self._state[0])
        beyond = np.where(rows.seen, config.lost_px, -_EDGE_PX)[:, None]  # what is not seen at the edge has left
        inside = ((place > -beyond) & (place < np.array(shape[::-1]) - 1 + beyond)).all(axis=1)
        alive = (rows.best - rows.score < fall) & ~self._uncertain() & inside
        self._clutter.learn(place[~alive, 0], place[~alive, 1], seconds)
        self._events = self._events[0], gone + self._keep(alive)


def _others(number: int, rows: IntArray) -> IntArray:
    """The rows below a number that are not among these."""
    free = np.ones(number, dtype=bool)
    free[rows] = False
    return np.flatnonzero(free)


def _moving(spots: Blobs | None, others: Blobs | None, number: int) -> NDArray[np.bool_]:
    """Which of all spots, ``others`` after ``spots``, stand where nothing was before."""
    marks = np.zeros(number, dtype=bool)
    first = 0
    for part in (spots, others):
        if part is not None and part.moving is not None:
            marks[first : first + len(part)] = (part.moving > 0)[: max(number - first, 0)]
        first += 0 if part is None else len(part)
    return marks


def _middles(place: FloatArray, blob: IntArray, radiance: FloatArray) -> FloatArray:
    """The middle of the light of each spot ``[B, 2]``, of targets at places ``[N, 2]``."""
    number = int(blob.max(initial=-1)) + 1
    weight = np.maximum(radiance, 1e-9)
    total = np.maximum(np.bincount(blob, weight, number), 1e-30)
    return np.stack([np.bincount(blob, weight * place[:, axis], number) / total for axis in (0, 1)], axis=1)


@entry("f8[1] f8[1] f8[1] f8[1] f8 f8")
def _measured(
    x: FloatArray, y: FloatArray, sigma_x: FloatArray, sigma_y: FloatArray, floor: float, unknown: float
) -> tuple[FloatArray, FloatArray]:
    """Positions and their standard deviations, each ``[N, 2]``."""
    place, sigma = np.empty((len(x), 2)), np.empty((len(x), 2))
    for i in range(len(x)):
        place[i, 0], place[i, 1] = x[i], y[i]
        for axis in range(2):
            said = sigma_y[i] if axis else sigma_x[i]
            sigma[i, axis] = math.hypot(said, floor) if math.isfinite(said) else unknown
    return place, sigma


@entry("f8[3] f8 f8")
def _predict(state: FloatArray, seconds: float, q: float) -> None:
    """Move all tracks on in time, in place; q is the spectral density of their acceleration."""
    for i in range(state.shape[1]):
        for axis in range(2):
            vv = state[4, i, axis]
            state[0, i, axis] += seconds * state[1, i, axis]
            state[2, i, axis] += 2 * seconds * state[3, i, axis] + seconds**2 * vv + q * seconds**3 / 3
            state[3, i, axis] += seconds * vv + q * seconds**2 / 2
            state[4, i, axis] += q * seconds


@entry("f8[3] f8[2] f8[2] f8 f8")
def _pair_costs(state: FloatArray, place: FloatArray, sigma: FloatArray, gate: float, density: float) -> FloatArray:
    """Twice the log of how much more likely "new" is than "this track", ``[tracks, targets]``, 0 at most."""
    cost = np.zeros((state.shape[1], len(place)))
    for i in range(state.shape[1]):
        for j in range(len(place)):
            x_variance = state[2, i, 0] + sigma[j, 0] ** 2
            y_variance = state[2, i, 1] + sigma[j, 1] ** 2
            distance = (place[j, 0] - state[0, i, 0]) ** 2 / x_variance
            distance += (place[j, 1] - state[0, i, 1]) ** 2 / y_variance
            if distance <= gate * gate:
                new = math.log((2 * math.pi * density) ** 2 * x_variance * y_variance)
                cost[i, j] = min(distance + new, 0.0)
    return cost


@entry("f8[3] i8[1] f8[2] f8[2]")
def _correct(state: FloatArray, rows: NDArray[np.int64], place: FloatArray, sigma: FloatArray) -> None:
    """Take the measurements of some tracks, in place."""
    for k in range(len(rows)):
        for axis in range(2):
            i = rows[k]
            xx, xv, error = state[2, i, axis], state[3, i, axis], place[k, axis] - state[0, i, axis]
            gain_x, gain_v = xx / (xx + sigma[k, axis] ** 2), xv / (xx + sigma[k, axis] ** 2)
            state[0, i, axis] += gain_x * error
            state[1, i, axis] += gain_v * error
            state[2, i, axis] -= gain_x * xx
            state[3, i, axis] -= gain_x * xv
            state[4, i, axis] -= gain_v * xv
