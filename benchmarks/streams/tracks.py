"""Tracks against labelled videos: how soon and how long a target has its track, and how many tracks are false.

::

    python -m glint.benchmarks.streams.tracks --videos FOLDER --out results/tracks.json
    python -m glint.benchmarks.streams.tracks --videos FOLDER --part tune --calibrate evidence.json

The folder holds videos and ``boxes.json``: by name of the video, ``boxes`` with one [x, y, width, height] or null per
frame, pixels. In the order of their names, the videos at even places are for tuning, the others for
reporting (``--part``).
Every frame goes through the pipeline as in ``glint run --track``.

- **Covered**: boxed frames, from the fifth on, with a confirmed track within 1.5 box sizes (the longer side) of the
  middle of the box; of all tracks, and of those that ``--static hide`` leaves.
- **Frames to confirm**: the first boxed frame with such a track; a video that never has one counts as infinitely many.
- **False**: tracks that are told with ``--static hide`` in boxed frames, and are farther off in at least half of them.
  Further real objects count as false, too: boxes hold one.

``--calibrate`` writes the table of ``runtime.tracking.evidence`` instead: rates of the best detection at the box,
and of those elsewhere that do not stay where they are (places of 4 px, in the frame or the scene, with a detection
in a fifth of the frames: what is static is told by its rest, not by its score).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from glint.benchmarks.tool import Tool, add_pipeline_arguments, add_threads_argument
from glint.cards import DEFAULT_DETECTOR, DEFAULT_UNMIXER
from glint.cli import positive_int, talk
from glint.errors import SourceError
from glint.files import refuse_existing, write_json
from glint.progress import Progress
from glint.runtime.pipeline.detector import Detector
from glint.runtime.pipeline.follow import CANDIDATES_ABOVE, Follower
from glint.runtime.pipeline.pipeline import Pipeline, Result
from glint.runtime.sources.video import VideoSource
from glint.runtime.tracking.evidence import SCORES, Evidence
from glint.runtime.tracking.registration import Registration, Shift
from glint.runtime.tracking.tracks import Tracks
from glint.runtime.unmixing.unmixer import Unmixer

Part = Literal["tune", "report", "all"]
PARTS: dict[str, slice] = {"tune": slice(0, None, 2), "report": slice(1, None, 2), "all": slice(None)}
NEAR_BOXES = 1.5  # box sizes
FIRST_COUNTED_FRAME = 5  # boxed frame from which on coverage counts
THING_PROBABILITY = 0.02  # probability of a spot above which it is a false thing that may be there again
_CELL_PX = 4  # px of a place
_STAYS_SHARE = 0.2  # of the frames
_AGAIN_PX = 2.0  # px
_FAINT_SHARE = 0.2  # of targets elsewhere that are not as bright as those of the videos: any score is as likely of them

Box = tuple[float, float, float, float] | None


@dataclass
class VideoScore:
    """Counts over one video, frame by frame.

    Attributes:
        frames, boxed: so far.
        counted, covered, covered_shown: boxed frames from the fifth on, those with a track, and with one not static.
        confirmed_at: the first boxed frame with a track, from 1, or None.
        near, far: frames of each told track at and off the box.
    """

    frames: int = 0
    boxed: int = 0
    counted: int = 0
    covered: int = 0
    covered_shown: int = 0
    confirmed_at: int | None = None
    near: Counter[int] = field(default_factory=Counter)
    far: Counter[int] = field(default_factory=Counter)

    def add(self, box: Box, tracks: Tracks) -> None:
        """Take one frame."""
        self.frames += 1
        if box is None:
            return
        self.boxed += 1
        at_box = is_near(box, tracks.x, tracks.y)
        shown = ~tracks.static
        if self.confirmed_at is None and at_box.any():
            self.confirmed_at = self.boxed
        if self.boxed >= FIRST_COUNTED_FRAME:
            self.counted += 1
            self.covered += bool(at_box.any())
            self.covered_shown += bool((at_box & shown).any())
        self.near.update(tracks.number[at_box & shown].tolist())
        self.far.update(tracks.number[~at_box & shown].tolist())

    @property
    def false(self) -> int:
        """Told tracks that are off the box in at least half of their boxed frames."""
        return sum(frames >= self.near[number] for number, frames in self.far.items())


def is_near(
    box: tuple[float, float, float, float], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Which places lie within ``NEAR_BOXES`` box sizes of the middle of a box."""
    return np.hypot(x - box[0] - box[2] / 2, y - box[1] - box[3] / 2) < NEAR_BOXES * max(box[2:])


def score(parts: dict[str, VideoScore], rate: float = 30.0) -> dict[str, Any]:
    """Figures of videos together; percent, frames, and per minute at ``rate`` frames per second."""
    videos = list(parts.values())
    counted = max(sum(v.counted for v in videos), 1)
    minutes = max(sum(v.frames for v in videos) / rate / 60, 1e-9)
    waits = [float("inf") if v.confirmed_at is None else v.confirmed_at for v in videos]
    middle = median(waits) if waits else float("inf")
    return {
        "videos": len(videos),
        "frames": sum(v.frames for v in videos),
        "covered": round(100 * sum(v.covered for v in videos) / counted, 2),
        "covered_static_hidden": round(100 * sum(v.covered_shown for v in videos) / counted, 2),
        "false_per_minute": round(sum(v.false for v in videos) / minutes, 2),
        "frames_to_confirm": middle if np.isfinite(middle) else None,
    }


class Calibration:
    """Gathers the rates of ``Evidence`` over videos."""

    def __init__(self) -> None:
        self._target, self._clutter, self._again = (np.zeros(len(SCORES)) for _ in range(3))
        self._boxed = self._pixels = self._things = 0

    def add(self, frames: list[tuple[Box, Shift, tuple[int, int], NDArray[np.float64]]]) -> None:
        """Take one video: of each frame the box, the shift, the shape and its spots ``[N, 3]`` (x, y, score)."""
        stays = self._places(frames)
        before: NDArray[np.float64] | None = None
        for box, shift, shape, spots in frames:
            if box is None:
                before = None
                continue
            at_box = is_near(box, spots[:, 0], spots[:, 1])
            self._boxed += 1
            self._pixels += shape[0] * shape[1]
            self._count(self._target, spots[at_box, 2].max(initial=0.0))
            free = [not at and not stays & _cells(spot, shift) for at, spot in zip(at_box, spots)]
            things = spots[np.asarray(free, dtype=bool)]
            for value in things[:, 2].tolist():
                self._count(self._clutter, value)
            for thing in before if before is not None else ():
                self._things += 1
                here = np.hypot(things[:, 0] - thing[0], things[:, 1] - thing[1]) < _AGAIN_PX
                self._count(self._again, things[here, 2].max(initial=0.0))
            before = things

    @staticmethod
    def _places(frames: list[tuple[Box, Shift, tuple[int, int], NDArray[np.float64]]]) -> set[tuple[str, int, int]]:
        """Places off the box at which something stays."""
        cells: Counter[tuple[str, int, int]] = Counter()
        for box, shift, _, spots in frames:
            if box is not None:
                off = spots[~is_near(box, spots[:, 0], spots[:, 1])]
                cells.update(set().union(*(_cells(spot, shift) for spot in off)))
        return {cell for cell, number in cells.items() if number >= _STAYS_SHARE * len(frames)}

    @staticmethod
    def _count(rates: NDArray[np.float64], value: float) -> None:
        if value > SCORES[0]:
            rates[int(np.searchsorted(SCORES, value, side="right")) - 1] += 1

    def evidence(self, origin: str) -> Evidence:
        """The table; half a detection is added to each class, so that no rate is 0, and a share of faint targets."""
        target = (self._target + 0.5) / (self._boxed + 10)
        target = (1 - _FAINT_SHARE) * target + _FAINT_SHARE * target.mean()
        target *= min(1.0, 0.95 / target.sum())
        clutter, again = (self._clutter + 0.5) / max(self._pixels, 1), (self._again + 0.5) / (self._things + 10)
        return Evidence(np.array(SCORES), target, clutter, again, origin)


def _cells(spot: NDArray[np.float64], shift: Shift) -> set[tuple[str, int, int]]:
    x, y = float(spot[0]), float(spot[1])
    across, down = shift.to_scene(x, y)
    scene = "scene", int(across // _CELL_PX), int(down // _CELL_PX)
    return {("frame", int(x // _CELL_PX), int(y // _CELL_PX)), scene}


def spots_of(result: Result) -> NDArray[np.float64]:
    """All spots of a frame, x, y and score ``[N, 3]``."""
    blobs, others = result.detection.blobs, result.detection.candidates
    tables = [np.stack([b.x, b.y, b.score], axis=1) for b in (blobs, others) if b is not None]
    return np.concatenate(tables)


def labelled_videos(folder: Path, part: Part, number: int | None) -> Iterator[tuple[Path, list[Box]]]:
    """Videos and their boxes, the first ``number`` of a part, in the order of their names.

    Raises:
        SourceError: if the folder has no readable ``boxes.json``, or lacks a video.
    """
    try:
        boxes = json.loads((folder / "boxes.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{folder}: cannot read boxes.json: {error}",
            hint="is it the folder of labelled videos?",
        ) from error
    files = {path.stem: path for path in folder.iterdir() if path.suffix != ".json"}
    for name in sorted(boxes)[PARTS[part]][:number]:
        if name not in files:
            raise SourceError(
                f"{folder}: boxes.json names {name}, of which there is no video",
                hint="is the video there, under that name?",
            )
        yield files[name], [None if box is None else tuple(box) for box in boxes[name]["boxes"]]


def tracks(
    *, videos: Path, part: Part = "report", number: int | None = None, calibrate: Path | None = None,
    detector: str = DEFAULT_DETECTOR, unmixer: str = DEFAULT_UNMIXER, threads: int | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Score the tracks of labelled videos, or calibrate the evidence on them.

    Args:
        videos: folder with ``boxes.json``.
        part: which half of the videos.
        number: of videos at most.
        calibrate: file for the table of evidence; None: score.
        detector, unmixer: names in the zoo or paths of cards.
        threads: CPU threads of the networks.
        overwrite: replace an existing table.

    Raises:
        GlintError: one of its subclasses, for bad videos or models, or a table that is there.
    """
    if calibrate is not None:
        refuse_existing(calibrate, overwrite=overwrite)
    first = Detector.open(detector, threads=threads)
    least = CANDIDATES_ABOVE if calibrate is None else THING_PROBABILITY
    pipeline = Pipeline(first, Unmixer.open(unmixer, threads=threads), candidates_above=least)
    scores: dict[str, VideoScore] = {}
    table, seen = Calibration(), 0
    chosen = list(labelled_videos(videos, part, number))
    evidence = Evidence.of(first.card.name)
    with Progress("tracks", len(chosen)) as line:
        for path, boxes in chosen:
            source = VideoSource(str(path), path)
            if calibrate is None:
                scores[path.stem] = _score_video(source, boxes, pipeline, Follower(evidence=evidence))
            else:
                table.add(_spots(source, boxes, pipeline))
            seen += 1
            line.update(seen, path.stem)
    if calibrate is not None:
        made = table.evidence(f"{first.card.name}, {seen} videos of {videos.name} ({part})").as_dict()
        write_json(calibrate, {first.card.name: made})
        return {first.card.name: made}
    return {
        "videos": videos.name, "part": part, "detector": first.card.name, "all": score(scores),
        "each": {name: score({name: value}) for name, value in scores.items()},
    }  # fmt: skip


def _score_video(source: VideoSource, boxes: list[Box], pipeline: Pipeline, follow: Follower) -> VideoScore:
    counts, before = VideoScore(), None
    pipeline.start_over()  # a video has its own optics
    for index, frame in enumerate(source):
        if before is None or not np.array_equal(before.frame.data, frame.data):
            before = follow(pipeline(frame, earlier=follow.earlier))
        else:
            before = replace(before, frame=frame)
        assert before.tracks is not None  # noqa: S101  (the follower gives them)
        counts.add(boxes[index] if index < len(boxes) else None, before.tracks)
    return counts


def _spots(
    source: VideoSource, boxes: list[Box], pipeline: Pipeline
) -> list[tuple[Box, Shift, tuple[int, int], NDArray[np.float64]]]:
    register, rows = Registration(), []
    for index, frame in enumerate(source):
        result = pipeline(frame)
        blobs = result.detection.blobs
        shift = register(frame.data, blobs.x, blobs.y)
        rows.append((boxes[index] if index < len(boxes) else None, shift, frame.shape, spots_of(result)))
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    parser.add_argument("--videos", type=Path, required=True, metavar="FOLDER", help="videos and boxes.json")
    parser.add_argument("--part", choices=list(PARTS), default="report", help="of the videos (default: %(default)s)")
    parser.add_argument("--number", type=positive_int, help="of videos at most (default: all)")
    parser.add_argument("--calibrate", type=Path, metavar="FILE", help="write the table of evidence instead of scores")
    add_pipeline_arguments(parser)
    add_threads_argument(parser)


def _remark(report: dict[str, Any]) -> None:
    if overall := report.get("all"):
        talk(f"covered {overall['covered']} %, {overall['false_per_minute']} false tracks per minute")


TOOL = Tool("Score the tracks of labelled videos.", tracks, add_arguments, file=True, remark=_remark)


if __name__ == "__main__":
    sys.exit(TOOL())
