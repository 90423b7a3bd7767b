"""From the first frame to the last track: how well the stream finds, places and follows simulated clusters.

``python -m glint.benchmarks.streams.accuracy --backgrounds data/sirst --out results/stream.json``

Clusters and single targets with known truth move over moving backgrounds (see ``moving_scene``); every frame goes
through the stream as in ``glint run --track``. Scores, in frame coordinates:

- **Pd**: true targets with a found one within 0.5 px, one to one; **groups**: clusters and singles with at least
  one found target within 1.5 px of their middle.
- **False alarms per frame**: found targets farther than 3 px from every true one. **Surplus**: found targets
  nearer than that without a partner, which are wrong counts or positions in a cluster.
- **CSO-mAP** (see ``glint.metrics.unmixing``) with a frame in place of a patch.
- **Tracks**: IDF1, with every true target matched to at most one track over the whole scene, so that it counts how
  long a target kept one number (in frames in which it was found); **switches**: changes of a true target's number from
  one frame with a number to the next, per 1000 matched targets.
- **Confirmed tracks**, whether seen in the frame or not, those that ``--static hide`` leaves, from the tenth frame on:
  **Pd**, true targets in their tenth frame or a later one with a track within 0.5 px, one to one; **groups** of such
  with one within 1.5 px of their middle; **false**, tracks in the picture farther than 3 px from every true target, per
  frame; **CSO-mAP** of the targets that belong to tracks, where the truth are the groups that have one within 1.5 px of
  their middle.

``--unmix-frames N`` takes clusters that are followed apart in their last frames together, ``--no-moving`` leaves out
spots that move, and ``--psf`` says what the camera's optics are, as those of ``glint run``; without it they are learned
in each scene anew, from few spots.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from glint.benchmarks.streams.moving_scene import MovingConfig, MovingScene, scenes
from glint.benchmarks.tool import Tool, add_pipeline_arguments, add_threads_argument
from glint.cards import DEFAULT_DETECTOR, DEFAULT_UNMIXER
from glint.cli import positive_float, positive_int, seed, talk
from glint.metrics.matching import UNMIXING_MATCH_PX, match_points
from glint.metrics.unmixing import score_unmixing
from glint.progress import Progress
from glint.runtime.pipeline.detector import Detector
from glint.runtime.pipeline.follow import CANDIDATES_ABOVE, Follower
from glint.runtime.pipeline.pipeline import Pipeline, Result
from glint.runtime.sinks.base import Sink
from glint.runtime.stream.stream import Stream
from glint.runtime.tracking.evidence import Evidence
from glint.runtime.tracking.tracks import Tracks
from glint.runtime.unmixing.optics_choice import PsfChoice, chosen_optics
from glint.runtime.unmixing.unmixer import Unmixer
from glint.types import Targets

GROUP_PX = 1.5  # from the middle of a cluster whose members lie within 0.7 px of it
NEAR_PX = 3.0
SETTLED_FRAME = 9  # frame, from 0, from which on confirmed tracks count, of the scene and of each target
_PIXEL_PX2 = 1 / 12  # variance that a pixel adds to a point's width, px^2
MOST_MEMBERS = 10  # of a group, more than there are


@dataclass
class SceneScore(Sink):
    """Counts over the frames of one scene; a sink that knows the truth from the frames.

    Attributes:
        frames, truths, found: so far; ``matched`` pairs of them.
        groups, groups_found, false, surplus: see the module.
        switches: of a true target's track.
        pairs: frames in which a true target (its name) was matched to a track.
        tracked: found targets with a track.
        settled_frames, settled, settled_groups: frames from ``SETTLED_FRAME`` on, true targets and groups from that of
            theirs on; ``tracks_matched`` of them with a confirmed track, ``tracks_groups``, ``tracks_false`` tracks.
    """

    frames: int = 0
    truths: int = 0
    found: int = 0
    matched: int = 0
    groups: int = 0
    groups_found: int = 0
    false: int = 0
    surplus: int = 0
    switches: int = 0
    tracked: int = 0
    settled_frames: int = 0
    settled: int = 0
    settled_groups: int = 0
    tracks_matched: int = 0
    tracks_groups: int = 0
    tracks_false: int = 0
    pairs: Counter[tuple[int, int]] = field(default_factory=Counter)
    last: dict[int, int] = field(default_factory=dict)
    first: dict[int, int] = field(default_factory=dict)
    kept: list[tuple[Targets, Targets]] = field(default_factory=list)
    kept_tracked: list[tuple[Targets, Targets]] = field(default_factory=list)

    def write(self, result: Result) -> None:
        truth, found = result.frame.truth, result.targets
        if truth is None or result.track is None:
            raise ValueError("expected frames with truth and results with tracks")
        distance = np.hypot(truth.x[:, None] - found.x, truth.y[:, None] - found.y)
        rows, columns = match_points(distance, UNMIXING_MATCH_PX)
        self.kept.append((truth, found))
        self.frames += 1
        self.truths += len(truth)
        self.found += len(found)
        self.matched += len(rows)
        alone = np.ones(len(found), dtype=bool)
        alone[columns] = False
        near = distance.min(axis=0, initial=np.inf) < NEAR_PX
        self.false += int((alone & ~near).sum())
        self.surplus += int((alone & near).sum())
        self._count_groups(truth, found)
        names = _names(truth)
        for name in names.tolist():
            self.first.setdefault(name, result.frame.index)
        if result.tracks is not None and result.frame.index >= SETTLED_FRAME:
            age = result.frame.index - np.array([self.first[name] for name in names.tolist()])
            followed = found.select(np.isin(result.track, result.tracks.number[~result.tracks.static]))
            truth_followed = self._count_tracks(truth, age >= SETTLED_FRAME, result.tracks, result.frame.shape)
            self.kept_tracked.append((truth_followed, followed))
        self.tracked += int((result.track >= 0).sum())
        for name, track in zip(names[rows].tolist(), result.track[columns].tolist()):
            if track >= 0:
                self.pairs[name, track] += 1
                self.switches += self.last.get(name, track) != track
                self.last[name] = track

    def _count_groups(self, truth: Targets, found: Targets) -> None:
        for group in np.unique(truth.blob):
            members = truth.select(truth.blob == group)
            gap = np.hypot(found.x - members.x.mean(), found.y - members.y.mean())
            self.groups += 1
            self.groups_found += bool((gap < GROUP_PX).any())

    def _count_tracks(
        self, truth: Targets, settled: NDArray[np.bool_], tracks: Tracks, shape: tuple[int, int]
    ) -> Targets:
        """The true targets of groups that have a track."""
        shown = tracks.select(~tracks.static)
        distance = np.hypot(truth.x[:, None] - shown.x, truth.y[:, None] - shown.y)
        inside = (np.minimum(shown.x, shown.y) >= 0) & (shown.x <= shape[1] - 1) & (shown.y <= shape[0] - 1)
        self.settled_frames += 1
        self.settled += int(settled.sum())
        self.tracks_matched += int(settled[match_points(distance, UNMIXING_MATCH_PX)[0]].sum())
        self.tracks_false += int((inside & (distance.min(axis=0, initial=np.inf) >= NEAR_PX)).sum())
        followed: list[int] = []
        for group in np.unique(truth.blob).tolist():
            ours = truth.blob == group
            gap = np.hypot(shown.x - truth.x[ours].mean(), shown.y - truth.y[ours].mean())
            near, old = bool((gap < GROUP_PX).any()), bool(settled[ours].all())
            self.settled_groups += old
            self.tracks_groups += old and near
            if near:
                followed.append(group)
        return truth.select(np.isin(truth.blob, followed))

    def kept_as_one(self) -> int:
        """Frames in which a true target had the track that is its own by the best assignment for the scene."""
        if not self.pairs:
            return 0
        truths, tracks = (sorted({pair[i] for pair in self.pairs}) for i in (0, 1))
        table = np.array([[self.pairs[truth, track] for track in tracks] for truth in truths])
        rows, columns = linear_sum_assignment(-table)
        return int(table[rows, columns].sum())


def _names(truth: Targets) -> NDArray[np.int64]:
    """Numbers that true targets keep in all frames: of their group, and of them in it, as groups keep their order."""
    group, first, where = np.unique(truth.blob, return_index=True, return_inverse=True)
    names: NDArray[np.int64] = MOST_MEMBERS * group[where] + np.arange(len(truth)) - first[where]
    return names


def score(parts: Iterable[SceneScore]) -> dict[str, Any]:
    """Scores of scenes together; percent, but for what is per frame or per 1000."""
    scenes_ = list(parts)

    def total(name: str) -> int:
        return int(sum(getattr(part, name) for part in scenes_))

    frames, truths, matched = total("frames"), total("truths"), total("matched")
    pairs = [pair for part in scenes_ for pair in part.kept]
    unmixing = _unmixing(pairs)
    kept = sum(part.kept_as_one() for part in scenes_)
    return {
        "frames": frames,
        "targets": truths,
        "pd": _percent(matched, truths),
        "pd_groups": _percent(total("groups_found"), total("groups")),
        "false_per_frame": round(total("false") / max(frames, 1), 3),
        "surplus_per_frame": round(total("surplus") / max(frames, 1), 3),
        "cso_map": round(unmixing.cso_map, 2),
        "ap": [round(value, 2) for value in unmixing.ap],
        "position_rmse_px": round(unmixing.position_rmse, 4) if matched else None,
        "radiance_error_percent": round(unmixing.radiance_error, 2) if matched else None,
        "idf1": _percent(2 * kept, truths + total("tracked")),
        "switches_per_1000": round(1000 * total("switches") / max(matched, 1), 2),
        "confirmed": {
            "pd": _percent(total("tracks_matched"), total("settled")),
            "pd_groups": _percent(total("tracks_groups"), total("settled_groups")),
            "false_per_frame": round(total("tracks_false") / max(total("settled_frames"), 1), 3),
            "cso_map": round(_unmixing([pair for part in scenes_ for pair in part.kept_tracked]).cso_map, 2),
        },
    }


def _unmixing(pairs: list[tuple[Targets, Targets]]) -> Any:
    slots = max((len(truth) for truth, _ in pairs), default=0)
    table: dict[str, NDArray[np.float64]] = {n: np.zeros((len(pairs), slots)) for n in ("x", "y", "radiance")}
    for i, (truth, _) in enumerate(pairs):
        for name, values in table.items():
            values[i, : len(truth)] = getattr(truth, name)
    found = Targets.concatenate([targets for _, targets in pairs])
    frame = np.repeat(np.arange(len(pairs)), [len(targets) for _, targets in pairs])
    return score_unmixing(
        frame, found.x, found.y, found.radiance, found.score,
        truth_x=table["x"], truth_y=table["y"], truth_radiance=table["radiance"],
    )  # fmt: skip


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 2) if whole else 0.0


def stream_accuracy(
    *,
    backgrounds: Path | None = None,
    number: int = 10,
    config: MovingConfig | None = None,
    seed: int = 1,
    detector: str = DEFAULT_DETECTOR,
    unmixer: str = DEFAULT_UNMIXER,
    unmix_frames: int = 1,
    moving: bool = True,
    psf: PsfChoice = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Score the stream; arguments are the options of the tool, and ``config``: what moves.

    Returns:
        ``all`` and ``scenes`` with their scores, and the settings.

    Raises:
        GlintError: one of its subclasses, for bad backgrounds or models.
    """
    config = config or MovingConfig()
    first, second = Detector.open(detector, threads=threads), Unmixer.open(unmixer, threads=threads)
    known = chosen_optics(psf, second.spec)
    pipeline = Pipeline(first, second, psf=known, candidates_above=CANDIDATES_ABOVE)
    evidence = Evidence.of(first.card.name)
    parts: dict[str, SceneScore] = {}
    with Progress("stream_accuracy", number) as line:
        for scene in scenes(config, number, seed, backgrounds):
            parts[scene.name] = _score_scene(scene, pipeline, evidence, unmix_frames, moving)
            line.update(len(parts), scene.name)
    return {
        "backgrounds": "generated" if backgrounds is None else backgrounds.name,
        "config": vars(config),
        "seed": seed,
        "detector": first.card.name,
        "unmixer": second.card.name,
        "unmix_frames": unmix_frames,
        "moving": moving,
        "psf": None if known is None else known.as_dict(),
        "all": score(parts.values()),
        "scenes": {name: score([part]) for name, part in parts.items()},
    }


def _score_scene(
    scene: MovingScene, pipeline: Pipeline, evidence: Evidence, unmix_frames: int, moving: bool
) -> SceneScore:
    counts = SceneScore()
    pipeline.start_over()  # a scene has its own optics
    follow = Follower(evidence=evidence, unmix_frames=unmix_frames, unmixing=pipeline.config, moving=moving)
    Stream(scene, pipeline, [counts], track=follow).run()
    return counts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    parser.add_argument("--backgrounds", type=Path, metavar="DIR", help="folder of images (default: generated skies)")
    parser.add_argument("--number", type=positive_int, default=10, help="of backgrounds (default: %(default)s)")
    parser.add_argument("--frames", type=positive_int, default=60, help="per background (default: %(default)s)")
    parser.add_argument("--noise", type=positive_float, default=1.0, help="DN of an 8-bit image (default: %(default)s)")
    parser.add_argument("--clusters", type=int, default=4, help="of 2 to 5 targets, at a time (default: %(default)s)")
    parser.add_argument("--singles", type=int, default=4, help="at a time (default: %(default)s)")
    parser.add_argument(
        "--sigma",
        type=positive_float,
        default=0.5,
        help="of the PSF, px; peaks stay (default: %(default)s)",
    )
    parser.add_argument("--seed", type=seed, default=1, help="of everything simulated (default: %(default)s)")
    parser.add_argument("--unmix-frames", type=positive_int, default=1, help="of clusters (default: %(default)s)")
    parser.add_argument("--no-moving", dest="moving", action="store_false", help="without spots that move")
    parser.add_argument("--psf", metavar="FILE|SIGMA|auto", help="the camera's optics (default: learned in each scene)")
    add_pipeline_arguments(parser)
    add_threads_argument(parser)


def _accuracy(
    *, frames: int, noise: float, clusters: int, singles: int, sigma: float, **others: Any
) -> dict[str, Any]:  # fmt: skip
    usual = MovingConfig()
    wider = (sigma**2 + _PIXEL_PX2) / (usual.sigma**2 + _PIXEL_PX2)  # times as much light in the same peak, about
    config = MovingConfig(
        frames=frames, noise=noise, clusters=clusters, singles=singles, sigma=sigma,
        radiance=(usual.radiance[0] * wider, usual.radiance[1] * wider),
    )  # fmt: skip
    return stream_accuracy(config=config, **others)


def _remark(report: dict[str, Any]) -> None:
    overall = report["all"]
    talk(f"Pd {overall['pd']} %, {overall['false_per_frame']} false alarms per frame, CSO-mAP {overall['cso_map']}")


TOOL = Tool(
    "Score the stream on simulated clusters over moving backgrounds.", _accuracy, add_arguments, file=True,
    remark=_remark,
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(TOOL())
