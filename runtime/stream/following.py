"""How the targets of a stream are followed, as ``run`` and ``stream`` are told."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from glint.choices import FALSE_TRACKS_PER_HOUR, Static
from glint.errors import InputError
from glint.runtime.pipeline.follow import CANDIDATES_ABOVE, Follower
from glint.runtime.pipeline.pipeline import Pipeline
from glint.runtime.sources.adjusted import AdjustedSource
from glint.runtime.sources.base import Source
from glint.runtime.sources.items import ItemSource
from glint.runtime.tracking.evidence import Evidence
from glint.runtime.tracking.tracker import TrackConfig
from glint.runtime.tracking.zones import Zone, read_zones


@dataclass(frozen=True, kw_only=True)
class TrackSettings:
    """What is asked of tracks; :func:`glint.stream` says what the fields mean."""

    track: bool = False
    static: Static = "report"
    false_tracks_per_hour: float = FALSE_TRACKS_PER_HOUR
    zones: str | Path | None = None
    unmix_frames: int = 1
    moving: bool = True
    faint: bool = False


@dataclass(frozen=True, kw_only=True)
class Following(TrackSettings):
    """What is asked of tracks, with the zones.

    Attributes:
        polygons: of the file of zones.
    """

    polygons: tuple[Zone, ...] = ()

    @classmethod
    def of(cls, options: Any, *, track: bool = False) -> Following:
        """From options with these fields; the file of zones is read.

        Args:
            options: with the fields of ``TrackSettings``.
            track: whether something else asks for tracks.

        Raises:
            GlintError: one of its subclasses, if the file of zones cannot be read.
        """
        told = {f.name: getattr(options, f.name) for f in fields(TrackSettings)}
        told["track"] = track or told["track"]
        return cls(**told, polygons=() if told["zones"] is None else tuple(read_zones(Path(told["zones"]))))

    @property
    def on(self) -> bool:
        """Whether anything asks for tracks."""
        return self.track or self.faint or self.several or self.zones is not None

    @property
    def several(self) -> bool:
        """Whether clusters are taken apart in several frames together."""
        return self.unmix_frames != 1

    @property
    def candidates_above(self) -> float | None:
        """Probability from which on a pipeline gives candidates; None: none are asked for."""
        return CANDIDATES_ABOVE if self.on else None

    def follower(self, source: Source, pipeline: Pipeline) -> Follower | None:
        """What gives a pipeline's results their tracks, by the times of the source's frames; None: nobody asks.

        Raises:
            GlintError: one of its subclasses, if ``static`` is no such choice, ``unmix_frames`` is not 1 to 30 or
                more than 1 without refinement, or the evidence cannot be read.
        """
        if not self.on:
            return None
        if self.several and not pipeline.refine:
            problem = "unmix_frames: clusters are taken apart together by the refinement, which is off"
            raise InputError(problem, hint="leave out --no-refine, or --unmix-frames")
        source = source.inner if isinstance(source, AdjustedSource) else source
        return Follower(
            TrackConfig(false_tracks_per_hour=self.false_tracks_per_hour),
            Evidence.of(pipeline.detector.card.name),
            static=self.static,
            timed=not isinstance(source, ItemSource),  # the time at which an array came says nothing
            live=source.live,
            zones=self.polygons,
            unmix_frames=self.unmix_frames,
            unmixing=pipeline.config,
            moving=self.moving,
            faint=self.faint,
            roi=pipeline.roi,
        )

    def as_dict(self) -> dict[str, Any]:
        """What a manifest tells of the ways beside tracks themselves."""
        several: dict[str, Any] = {"unmix_frames": self.unmix_frames} if self.several else {}
        still, faint = {} if self.moving else {"moving": False}, {"faint": True} if self.faint else {}
        return {**several, **still, **faint}
