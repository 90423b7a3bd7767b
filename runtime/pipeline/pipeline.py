"""The whole way of one frame: detect, cut patches, unmix, refine, back to frame coordinates."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.clock import utc_text
from glint.errors import EngineError, InputError
from glint.files import refuse_existing
from glint.images import write_image
from glint.optics import Psf
from glint.runtime.pipeline.behind import Earlier, with_more, without
from glint.runtime.pipeline.continued import continued
from glint.runtime.pipeline.cues import as_targets, at_their_places, part_of
from glint.runtime.pipeline.detector import Detection, Detector
from glint.runtime.pipeline.network_view import NetworkView, network_view
from glint.runtime.pipeline.picture import draw_picture
from glint.runtime.pipeline.polarity import Found, joined, turned
from glint.runtime.pipeline.sensor_correction import Conditioned, Conditioner
from glint.runtime.pipeline.settings import Roi, Settings, takes_fields_of
from glint.runtime.pipeline.spots import SpotPatches, cut_spots, local_noise
from glint.runtime.sources.items import frame_of
from glint.runtime.tracking.history import Behind
from glint.runtime.tracking.tracks import Tracks
from glint.runtime.unmixing.optics_choice import chosen_optics
from glint.runtime.unmixing.optics_state import KNOWN, UNKNOWN, Learner, OpticsState
from glint.runtime.unmixing.refine import (
    RefineConfig,
    count_costs_of,
    prepare_refinement,
    refine,
    refine_config,
)
from glint.runtime.unmixing.shapes import Shapes, measure_shapes, settled
from glint.runtime.unmixing.unmixer import Unmixed, Unmixer
from glint.runtime.unmixing.verdicts import judge_spots, may_hold_several
from glint.runtime.unmixing.windows import Ceiling, Windows, cut_windows
from glint.types import Blobs, Frame, FrameSize, TargetFlag, Targets

STAGES = ("capture", "queue", "detect", "unmix", "refine", "total")
LEAST_RADIANCE_DN = 0.0005  # less is written as 0.0


@dataclass(frozen=True, eq=False)
class Result:
    """What the pipeline says of one frame.

    Attributes:
        frame: as it came.
        detection: blobs, probability and residual.
        targets: in frame pixels; ``blob`` is the row of ``detection.blobs``.
        spots: what was unmixed.
        optics: what is known of the PSF by now.
        latency_ms: by stage. ``capture`` is the time to read the frame, for a live source what passed between
            its ``t_ns`` and its arrival; ``queue`` the wait of a live frame for the detector (files are read
            ahead: 0); ``total`` the sum of all: of a live frame, its age.
        track: number of the track that each target belongs to, ``int64 [N]``, -1 while a track is not
            confirmed; None if they are not tracked.
        tracks: the confirmed tracks after this frame; None if targets are not tracked.
        candidates: spots below the detector's threshold, as targets; ``blob`` is the row of ``detection.candidates``.
            None if nobody asked for them.
        late: it came after its deadline.
        repeated: its frame holds the same bytes as the frame before.
        dropped: frames dropped since the result before, by place.
    """

    frame: Frame
    detection: Detection
    targets: Targets
    spots: SpotPatches
    latency_ms: dict[str, float]
    optics: OpticsState | None = None
    track: NDArray[np.int64] | None = None
    tracks: Tracks | None = None
    candidates: Targets | None = None
    late: bool = False
    repeated: bool = False
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def blobs(self) -> Blobs:
        """What the detector found, one row per connected spot."""
        return self.detection.blobs

    @property
    def utc(self) -> str | None:
        """When the frame was taken, ISO 8601; None if nobody knows: of files without times, unless they are tracked."""
        if self.frame.utc_ns is not None:
            return utc_text(self.frame.utc_ns)
        return None if self.tracks is None else self.tracks.utc

    def records(self) -> list[dict[str, Any]]:
        """One JSON-ready object per target (see ``Targets.records``).

        Where targets are tracked, each has its ``track``: a number, or None as long as its track is not confirmed.
        """
        rows = self.targets.records(counts=True)
        if self.track is not None:
            for row, track in zip(rows, self.track.tolist()):
                row["track"] = track if track >= 0 else None
        return rows

    def to_dict(self) -> dict[str, Any]:
        """The result as its JSON line (see docs/run.md)."""
        events = [] if self.tracks is None else self.tracks.events()
        return {
            "frame": self.frame.index,
            "name": self.frame.name,
            "t_ns": self.frame.t_ns,
            "utc": self.utc,
            "targets": self.records(),
            "blobs": self.blobs.records(),
            "latency_ms": {stage: round(ms, 3) for stage, ms in self.latency_ms.items()},
            **({"events": events} if events else {}),
            **({"late": True} if self.late else {}),
            **({"repeated": True} if self.repeated else {}),
            **({"damaged": self.frame.damaged} if self.frame.damaged else {}),
            **({"dropped": self.dropped} if self.dropped else {}),
        }

    def plot(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write a picture of the frame with its targets and clusters, as ``--overlay`` does, as PNG.

        Raises:
            InputError: if the path does not end in ``.png``.
            OutputError: if the file exists and ``overwrite`` is not set, or it cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise InputError(f"plot: expected a path that ends in .png, got {path}")
        refuse_existing(path, overwrite=overwrite)
        write_image(path, draw_picture(self.frame, self.spots, self.targets, self.frame.truth))
        return path


@dataclass(frozen=True, eq=False)
class Scene:
    """The spots of a frame.

    Attributes:
        spots: patches in the camera's pixels.
        windows: about the same spots, with their background.
        shapes: of the spots, each by itself.
        view: what the network is shown.
        optics: what was known of the PSF.
    """

    spots: SpotPatches
    windows: Windows
    shapes: Shapes
    view: NetworkView
    optics: OpticsState


class Pipeline:
    """Detector, unmixer and refinement as one callable.

    Any thread may call it, several at a time; a process opens its own. As a context manager it closes itself.

    Args:
        detector, unmixer: loaded models, which belong to it.
        refine: False takes the network's word for its targets.
        config: priors and limits of the refinement.
        psf: what the refinement fits, if that is known; None: it is learned from the spots.
        conditioner: corrects frames first; results go on carrying them as they came.
        roi: x, y, width and height of the only part of a frame in which targets are looked for, pixels.
        candidates_above: probability from which on a spot is a candidate for a tracker; None: no candidates.

    Attributes:
        settings: what it was opened with; None if it was made of loaded models.
    """

    settings: Settings | None = None

    def __init__(
        self,
        detector: Detector,
        unmixer: Unmixer,
        *,
        refine: bool = True,
        config: RefineConfig | None = None,
        psf: Psf | OpticsState | None = None,
        conditioner: Conditioner | None = None,
        roi: Roi | None = None,
        candidates_above: float | None = None,
    ) -> None:
        self.detector, self.unmixer = detector, unmixer
        self.refine, self.config = refine, config or refine_config(unmixer.spec)
        known = OpticsState(KNOWN, psf.sigma) if isinstance(psf, Psf) else psf
        self._given = known
        self._learning = threading.Lock()  # threads share what is learned
        self.start_over()
        if refine:
            prepare_refinement(Psf(unmixer.spec.sigma))
        if roi is not None and (len(roi) != 4 or min(roi[:2]) < 0 or min(roi[2:]) < 1):
            raise InputError(f"roi: expected x, y >= 0 and width, height >= 1, got {roi}")
        self.conditioner, self.roi = conditioner or Conditioner(), roi
        self.candidates_above = candidates_above
        self._process, self._closed = os.getpid(), False

    @classmethod
    @takes_fields_of(Settings)
    def open(cls, settings: Settings) -> Pipeline:
        """Load the models and whatever else belongs to a pipeline; see :class:`Settings` for the arguments.

        Raises:
            GlintError: one of its subclasses, for a bad model, engine, file or argument.
        """
        return cls.of(settings)

    @staticmethod
    def of(settings: Settings, candidates_above: float | None = None) -> Pipeline:
        """The pipeline of some settings; as :meth:`open`."""
        conditioner = settings.conditioner()
        detector, unmixer = settings.open_models()
        try:
            pipeline = Pipeline(
                detector, unmixer, refine=settings.refine, psf=chosen_optics(settings.psf, unmixer.spec),
                config=refine_config(unmixer.spec, radiance=settings.radiance_prior),
                conditioner=conditioner, roi=settings.roi, candidates_above=candidates_above,
            )  # fmt: skip
        except BaseException:
            detector.engine.close()
            unmixer.engine.close()
            raise
        pipeline.settings = settings
        return pipeline

    def start_over(self, optics: OpticsState | None = None) -> None:
        """Forget what was learned, as another stream begins; what the pipeline was opened with stays.

        Args:
            optics: what is known of the new stream's PSF; None: it is learned from its spots.
        """
        known = self._given or optics
        with self._learning:
            self.learner = None if known is not None else Learner(self.unmixer.spec.sigma, self.config.radiance)
            self.optics = known or OpticsState(UNKNOWN, self.unmixer.spec.sigma)

    def learn_live(self, live: bool) -> None:
        """Whether frames cannot wait: then the search for the PSF goes on in pieces, a frame each."""
        if self.learner is not None:
            self.learner.at_once = not live

    def close(self) -> None:
        """Give back what the engines hold. May be called twice."""
        self._closed = True
        self.detector.engine.close()
        self.unmixer.engine.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as settings; it is opened anew there."""
        if self.settings is None:
            raise InputError("a pipeline that was made of loaded models cannot travel", hint="use Pipeline.open")
        return Pipeline.of, (self.settings, self.candidates_above)

    def _require_open(self) -> None:
        if self._closed:
            raise EngineError("this pipeline is closed", hint="open it again")
        if self._process != os.getpid():  # threads of engines do not survive a fork: it would hang
            hint = "open a pipeline in each process, e.g. in the initializer of a pool"
            raise EngineError("this pipeline was opened in another process", hint=hint)

    def __call__(
        self,
        frame: Frame | NDArray[Any],
        *,
        capture_ms: float = 0.0,
        queue_ms: float = 0.0,
        deadline_ns: int | None = None,
        earlier: Earlier | None = None,
    ) -> Result:
        """Process one frame.

        Args:
            frame: as the source gave it; or an array ``[H, W]`` of integers or floats (see ``casting.as_pixels``),
                which is copied and becomes frame 0.
            capture_ms, queue_ms: what it took to get it, and how long it waited.
            deadline_ns: ``time.monotonic_ns`` after which the refinement is left out and targets are ``UNREFINED``.
            earlier: says what earlier frames know of this one; asked once, and not where dark targets are wanted, too.

        Raises:
            InputError: if it is no frame, or one that the settings do not fit.
            EngineError: if an engine fails, or the pipeline is closed or of another process.
        """
        self._require_open()
        frame = frame if isinstance(frame, Frame) else frame_of(frame)
        started = time.perf_counter()
        seen = self.conditioner(frame)
        conditioned = time.perf_counter() - started
        found = self._found(frame, seen, deadline_ns, None if frame.dark_too else earlier)
        if frame.dark_too:
            found = joined(found, self._found(frame, turned(seen), deadline_ns))
        spans = (conditioned + found.seconds[0], *found.seconds[1:])
        stages = [capture_ms, queue_ms, *(1e3 * s for s in spans)]
        latency = dict(zip(STAGES, [*stages, sum(stages)]))
        return Result(
            frame, found.detection, found.targets, found.spots, latency, found.optics, candidates=found.candidates
        )

    def _found(self, frame: Frame, seen: Conditioned, deadline_ns: int | None, earlier: Earlier | None = None) -> Found:
        """What one look at a frame gives, as it was corrected or turned."""
        started = time.perf_counter()
        detection = self._detect(seen.frame)
        detected = time.perf_counter()
        detection, behind = (detection, None) if earlier is None else earlier(frame, seen.frame, detection)
        behind = self._with_continued(seen.frame, detection.blobs, behind)
        clear, shown = (seen, detection) if behind is None else without(seen, detection, behind)
        scene, candidates = self.look(clear.frame, shown, clear.ceiling, behind), None
        spots, view = scene.spots, scene.view
        unmixed = self.unmixer(view.patches, full_scale=view.full_scale, with_grid=False)
        taken_apart = time.perf_counter()
        late = deadline_ns is not None and time.monotonic_ns() > deadline_ns
        if self.refine and len(spots.patches) and not late:
            targets = self.settle(scene, unmixed)
        else:
            targets = view.to_windows(unmixed.targets(), scene.windows)
        if not (targets.radiance >= LEAST_RADIANCE_DN).all():  # a target without light is none
            targets = targets.select(targets.radiance >= LEAST_RADIANCE_DN)
        flags = int(TargetFlag.UNREFINED) if self.refine and late else 0
        targets = at_their_places(to_frame(targets, frame, scene, flags), detection)
        if detection.candidates is not None:
            candidates = self._uncertain(seen, detection, late)
        spans = (detected - started, taken_apart - detected, time.perf_counter() - taken_apart)
        return Found(detection, spots, targets, candidates, scene.optics, spans)

    def _with_continued(self, frame: Frame, blobs: Blobs, behind: Behind | None) -> Behind | None:
        """What lies behind the spots, from their surroundings where no earlier frame knows it."""
        if not len(blobs):
            return behind
        sigma = None if self.optics.kind == UNKNOWN else self.optics.sigma
        known = np.zeros(0, dtype=np.int64) if behind is None else behind.rows
        return with_more(behind, continued(frame, blobs, self._white(frame, blobs), sigma, known))

    def _white(self, frame: Frame, blobs: Blobs) -> NDArray[np.float64]:
        """Noise of the sensor at spots, DN ``[B]``."""
        floor = self.config.noise_floor * (1.0 if frame.data.dtype.kind in "ui" else 0.1)
        return np.maximum(local_noise(frame.data, blobs.x, blobs.y), floor)

    def look(
        self, frame: Frame, detection: Detection, ceiling: Ceiling = None, behind: Behind | None = None, *,
        learn: bool = True,
    ) -> Scene:  # fmt: skip
        """Cut the spots out, measure their shapes, learn the optics, and show the spots as the network wants them.

        Args:
            frame, detection, ceiling: without what lies behind spots.
            behind: what has been taken off.
            learn: whether the spots tell of the optics.
        """
        spots = cut_spots(frame, detection, self.unmixer.spec.patch, ceiling)
        blobs, own = detection.blobs, self.unmixer.spec.sigma
        white = self._white(frame, blobs)
        if behind is not None:
            white[behind.rows] = np.maximum(white[behind.rows], behind.noise)
            structure = spots.structure.copy()
            structure[behind.rows] = np.maximum(structure[behind.rows], np.hypot(behind.noise, behind.error))
            spots = replace(spots, structure=structure)
        # Clouds under a blob look like targets to a fit that expects the sensor's noise only.
        windows = cut_windows(frame, blobs, np.maximum(white, spots.structure), white, ceiling)
        windows, shapes = settled(windows, measure_shapes(windows))
        with self._learning:
            if learn and self.learner is not None:
                self.optics = self.learner.update(windows, shapes)
            optics = self.optics
        view = network_view(frame, blobs, spots, windows, shapes, optics.sigma, own, ceiling)
        return Scene(spots, windows, shapes, view, optics)

    def settle(self, scene: Scene, unmixed: Unmixed) -> Targets:
        """Refined targets in pixels of the windows, as many in each spot as there is evidence for."""
        view, points = scene.view, Targets()
        rows = np.flatnonzero(may_hold_several(scene.shapes, scene.optics, self.config))
        if len(rows):
            points = refine(
                view.patches[rows], unmixed.candidates.rows(rows), Psf(view.sigma), noise=view.noise[rows],
                full_scale=view.full_scale[rows], valid=view.valid[rows], config=self.config,
            )  # fmt: skip
            points = view.to_windows(points.changed(blob=rows[points.blob]), scene.windows)
        said = None if scene.optics.kind == UNKNOWN else count_costs_of(unmixed.candidates)
        own = self.unmixer.spec.sigma
        return judge_spots(
            scene.windows, scene.shapes, points, scene.optics, self.config, own, said, keep=view.scale == 1
        )

    def _uncertain(self, seen: Conditioned, detection: Detection, late: bool) -> Targets:
        """Targets of the spots below the threshold, in frame pixels; nothing is learned from them."""
        spots = detection.candidates
        assert spots is not None  # noqa: S101  (asked before)
        if spots.moving is None or not spots.moving.any():
            return self._told_of(seen, replace(detection, blobs=spots), late)
        # What lies behind a spot that moves would be taken for its light. Where it is was told by the frames before.
        still = spots.moving == 0
        targets = self._told_of(seen, replace(detection, blobs=part_of(spots, still)), late)
        targets = targets.changed(blob=np.flatnonzero(still)[targets.blob])
        return Targets.concatenate([targets, as_targets(spots, np.flatnonzero(~still))])

    def _told_of(self, seen: Conditioned, detection: Detection, late: bool) -> Targets:
        """Targets of spots of which nothing is learned, in frame pixels."""
        scene = self.look(seen.frame, detection, seen.ceiling, learn=False)
        unmixed = self.unmixer(scene.view.patches, full_scale=scene.view.full_scale, with_grid=False)
        if self.refine and len(scene.spots.patches) and not late:
            targets = self.settle(scene, unmixed)
        else:
            targets = scene.view.to_windows(unmixed.targets(), scene.windows)
        return to_frame(targets, seen.frame, scene)

    def dark_spots(self, frame: Frame) -> int:
        """How many spots of a frame are darker than their surroundings, by one more run of the detector."""
        return len(self._detect(turned(self.conditioner(frame)).frame).blobs)

    def prepare(self, size: FrameSize) -> None:
        """Get the detector's engine ready for frames of a size, where it needs one for each.

        Raises:
            GlintError: one of its subclasses, if the engine cannot be built or opened.
        """
        if self.roi is None:
            self.detector.prepare(size)
        elif self.roi[0] + self.roi[2] <= size.width and self.roi[1] + self.roi[3] <= size.height:
            self.detector.prepare(FrameSize(*self.roi[2:]))

    def _detect(self, frame: Frame) -> Detection:
        if self.roi is None:
            return self._detected(frame)
        x, y, width, height = self.roi
        if x + width > frame.shape[1] or y + height > frame.shape[0]:
            raise InputError(
                f"the region of {width}x{height} pixels at ({x}, {y}) does not fit into a frame of "
                f"{frame.shape[1]}x{frame.shape[0]}",
                hint="give --roi x,y,width,height inside the frame",
            )
        part = replace(frame, data=frame.data[y : y + height, x : x + width])
        return self._detected(part).placed(x, y, frame.shape)

    def _detected(self, frame: Frame) -> Detection:
        if self.candidates_above is None:
            return self.detector(frame)
        return self.detector(frame, candidates_above=self.candidates_above)


def to_frame(targets: Targets, frame: Frame, scene: Scene, further: int = 0) -> Targets:
    """Targets in pixels of the windows as targets in frame pixels, with ``EDGE`` and ``further`` flags."""
    (height, width), size = frame.shape, scene.spots.patches.shape[-1]
    left, top = scene.spots.left, scene.spots.top
    edge = (left < 0) | (top < 0) | (left + size > width) | (top + size > height)
    flags = targets.flags | np.where(edge[targets.blob], int(TargetFlag.EDGE), 0) | further
    windows, blob = scene.windows, targets.blob
    return targets.changed(x=targets.x + windows.left[blob], y=targets.y + windows.top[blob], flags=flags)
