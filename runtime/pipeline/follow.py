"""From results to results with tracks: registration, evidence and tracker of one stream."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from glint.choices import Static
from glint.clock import utc_of, utc_text
from glint.errors import InputError
from glint.runtime.pipeline.cues import with_expected, with_moving
from glint.runtime.pipeline.detector import Detection
from glint.runtime.pipeline.pipeline import Result
from glint.runtime.pipeline.settings import Roi
from glint.runtime.pipeline.spots import local_noise
from glint.runtime.tracking.clusters import Clusters, Cuts, steady
from glint.runtime.tracking.evidence import SCORES, Evidence
from glint.runtime.tracking.faint import Faint, FaintSearch
from glint.runtime.tracking.history import Behind, History
from glint.runtime.tracking.moving import moving_spots
from glint.runtime.tracking.registration import Registration, Shift
from glint.runtime.tracking.scene_memory import SceneMemory
from glint.runtime.tracking.tracker import TrackConfig, Tracker
from glint.runtime.tracking.zones import Zone, ZoneWatch
from glint.runtime.unmixing.optics_state import UNKNOWN
from glint.runtime.unmixing.refine import RefineConfig
from glint.types import Blobs, Frame, Targets

STATICS: tuple[Static, ...] = get_args(Static)
CANDIDATES_ABOVE = SCORES[2]
"""Probability from which on a pipeline should give candidates to a tracker."""
_FRAME_NS = 33_333_333  # between images that have no times of their own
_ROUND_STRAIN = 0.1  # of the PSF's two distortions, up to which members are fitted as if it were round


class Follower:
    """Gives the targets of one stream their tracks.

    Args:
        config: of the tracker.
        evidence: what scores of the detector say; None: the table for any detector.
        static: ``report`` tells of static tracks, flagged; ``hide`` tells of a track when it has moved.
        timed: whether frames have times; those of a folder of images count as 30 per second.
        live: whether the times of frames are those of ``time.monotonic_ns``.
        zones: of which it is told who enters and leaves them.
        unmix_frames: last frames in which clusters that are followed are taken apart together; 1: each by itself.
        unmixing: what is known of targets then; None: nothing.
        moving: what the detector doubts is a candidate where it moves, and a spot where a track is confirmed.
        faint: look for points that no single frame shows.
        roi: x, y, width and height of the only part of a frame in which targets are looked for, pixels.

    Raises:
        InputError: if ``static`` is none of these, or ``unmix_frames`` is not 1 to 30.
    """

    def __init__(
        self, config: TrackConfig | None = None, evidence: Evidence | None = None, *,
        static: Static = "report", timed: bool = True, live: bool = False, zones: Sequence[Zone] = (),
        unmix_frames: int = 1, unmixing: RefineConfig | None = None, moving: bool = True, faint: bool = False,
        roi: Roi | None = None,
    ) -> None:  # fmt: skip
        if static not in STATICS:
            raise InputError(f"static: expected one of {', '.join(STATICS)}, got {static!r}")
        self.tracker, self.registration = Tracker(config, evidence), Registration()
        self.static, self.timed, self.live = static, timed, live
        self.zones, self.unmixing, self.clusters = ZoneWatch(zones), unmixing or RefineConfig(), None
        self.history: History | None = None
        if unmix_frames != 1:
            self.clusters = Clusters(unmix_frames, self.unmixing.radiance, self.unmixing.max_targets)
            self.history = History()
        self.moving, self.roi = moving, roi
        self.faint = FaintSearch() if faint else None
        self.memory = SceneMemory()
        self._ahead: tuple[Frame, Frame, Shift] | None = None  # a frame, as the detector saw it, and its shift
        self._told: set[int] = set()  # that live
        self._shown = 0

    @property
    def confirmed(self) -> int:
        """Tracks that were told so far."""
        return self._shown if self.static == "hide" else self.tracker.confirmed

    def __call__(self, result: Result) -> Result:
        """The result with the numbers of its targets' tracks, and the confirmed tracks; call it in order."""
        frame, blobs = result.frame, result.detection.blobs
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead[0] is not frame:
            shift = self.registration(frame.data, blobs.x, blobs.y)
            if self.faint is not None:
                self.memory.take(frame.data, _shift_of_middle(shift, frame.shape))
        else:
            shift = ahead[2]
            if self.history is not None:
                self.history.add(ahead[1].data, shift, blobs, result.detection.candidates)
        result, frames = self._taken_apart(result, shift)
        others = result.candidates
        if others is not None:
            others = _scored(others, result.detection.candidates)
        t_ns = self._time_of(frame)
        numbers = self.tracker.update(
            t_ns, _scored(steady(result.targets, frames), blobs), others, spots=blobs,
            others=result.detection.candidates, shift=shift, shape=frame.shape,
            faint=self._faint_points(frame, shift, blobs), doubted=result.detection.threshold,
        )  # fmt: skip
        tracks = replace(self.tracker.tracks(), t_ns=t_ns, utc=self._utc(frame))
        if self.static == "hide":
            tracks = tracks.select(~tracks.static)
            fresh = tuple(sorted(set(tracks.number.tolist()) - self._told))
            self._told.update(fresh)
            self._shown += len(fresh)
            tracks = replace(tracks, confirmed=fresh, lost=tuple(n for n in tracks.lost if n in self._told))
            self._told.difference_update(tracks.lost)
            numbers = np.where(np.isin(numbers, tracks.number), numbers, -1)
        tracks = replace(tracks, crossed=self.zones(tracks, shift))
        return replace(result, track=numbers, tracks=tracks)

    def earlier(self, frame: Frame, seen: Frame, detection: Detection) -> tuple[Detection, Behind | None]:
        """What earlier frames know of the frame that comes next: which spots there are, and what lies behind them.

        Args:
            frame, seen: as it came, and as the detector saw it.
            detection: of it.
        """
        blobs = detection.blobs
        shift = self.registration(frame.data, blobs.x, blobs.y)
        self._ahead = frame, seen, shift
        moving = self.moving and detection.candidates is not None
        if moving or self.faint is not None:
            self.memory.take(seen.data, _shift_of_middle(shift, frame.shape))
        if moving:
            places = moving_spots(self.memory, frame.depth.divisor)
            places = places if self.roi is None else places[_within(places, self.roi)]
            detection = with_moving(detection, places, seen.data)
            detection = with_expected(detection, *self.tracker.expected(self._time_of(frame), shift))
        if self.history is None:
            return detection, None
        blobs = detection.blobs
        floor = self.unmixing.noise_floor * (1.0 if seen.data.dtype.kind in "ui" else 0.1)
        noise = np.maximum(local_noise(seen.data, blobs.x, blobs.y), floor)
        return detection, self.history.behind(seen.data, shift, blobs, noise)

    def _time_of(self, frame: Frame) -> int:
        return frame.t_ns if self.timed else frame.index * _FRAME_NS

    def _faint_points(self, frame: Frame, shift: Shift, blobs: Blobs) -> list[Faint]:
        """The points that the last frames show; the search knows of shifts alone, and is told that of the middle."""
        if self.faint is None:
            return []
        found = self.faint(self.memory, blobs)
        if shift.angle == 0:
            return found
        middle, turned = _shift_of_middle(shift, frame.shape), []
        for one in found:
            at = np.array(shift.to_scene(*middle.to_frame(one.x, one.y)))
            velocity = np.array(shift.to_scene(*middle.to_frame(one.x + one.vx, one.y + one.vy))) - at
            turned.append(replace(one, x=at[0], y=at[1], vx=velocity[0], vy=velocity[1]))
        return turned

    def _taken_apart(self, result: Result, shift: Shift) -> tuple[Result, NDArray[np.int64]]:
        """The result with members of clusters as their last frames tell them, and of how many frames each target is."""
        optics, spots, frame, blobs = result.optics, result.spots, result.frame, result.blobs
        alone = np.ones(len(result.targets), dtype=np.int64)
        if self.clusters is None or not len(blobs):
            return result, alone
        if optics is None or max(abs(optics.e), abs(optics.shear)) > _ROUND_STRAIN:
            self.clusters.forget()
            return result, alone
        floor = self.unmixing.noise_floor * (1.0 if frame.data.dtype.kind in "ui" else 0.1)
        noise = np.maximum(np.maximum(local_noise(frame.data, blobs.x, blobs.y), spots.structure), floor)
        cuts = Cuts(spots.patches, spots.valid, spots.full_scale, spots.left, spots.top, noise)
        sigma = None if optics.kind == UNKNOWN else optics.sigma
        targets, frames = self.clusters(result.targets, cuts, shift, sigma)
        return replace(result, targets=targets), frames

    def _utc(self, frame: Frame) -> str:
        """When a frame was taken, or, if nobody knows, when it was processed: ISO 8601."""
        if frame.utc_ns is not None:
            return utc_text(frame.utc_ns)
        return utc_text(utc_of(frame.t_ns) if self.live else time.time_ns())


def _shift_of_middle(shift: Shift, shape: tuple[int, int]) -> Shift:
    """The shift that a scene which turns has in the middle of the frame."""
    if shift.angle == 0:
        return shift
    middle = np.array(shape[::-1]) / 2
    x, y = shift.to_frame(*middle) - middle
    return Shift(x, y, shift.known, shift.blind)


def _within(places: NDArray[np.float64], roi: Roi) -> NDArray[np.bool_]:
    at, first = places[:, :2], np.array(roi[:2])
    inside: NDArray[np.bool_] = ((at >= first) & (at < first + roi[2:])).all(axis=1)
    return inside


def _scored(targets: Targets, blobs: Blobs | None) -> Targets:
    """Targets with the detector's score of their spots: what evidence is made of."""
    return targets if blobs is None or not len(blobs) else replace(targets, score=blobs.score[targets.blob])
