"""``glint.stream``: the results of any source as an iterator."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from glint.choices import Drop
from glint.errors import InputError
from glint.runtime.pipeline.pipeline import Pipeline, Result
from glint.runtime.pipeline.settings import Settings, takes_fields_of
from glint.runtime.sources.base import Source
from glint.runtime.sources.items import Item
from glint.runtime.sources.open import open_any
from glint.runtime.stream.following import Following, TrackSettings
from glint.runtime.stream.stream import Stream


@dataclass(frozen=True, kw_only=True)
class StreamSettings(TrackSettings, Settings):
    """Settings of :func:`stream`, which says what they mean."""

    drop: Drop | None = None
    deadline_ms: float | None = None
    warm_up: bool | None = None
    pipeline: Pipeline | None = None

    def of_pipeline(self) -> Settings:
        """What a pipeline is opened with."""
        return Settings(**{f.name: getattr(self, f.name) for f in fields(Settings)})


@takes_fields_of(StreamSettings)
def stream(
    source: str | Path | NDArray[Any] | Iterable[Item] | Source, settings: StreamSettings
) -> Generator[Result, None, None]:
    """Detect and unmix the targets of all frames of a source.

    The next frame is captured while one is worked on. The iterator closes the source and the models at its end, at an
    error, and when it is closed or forgotten.

    Args:
        source: a URI (see docs/sources.md), a ``Path``, an array ``[N, H, W]``, or a list or another iterable of arrays
            ``[H, W]``, frames and paths of images.
        detector, unmixer, ...: the settings of a pipeline (see :class:`Settings`).
        drop, deadline_ms: what happens to frames that come too fast or are too old (see ``Stream``).
        warm_up: run the first frame until the latency settles, uncounted; None: for live sources.
        track: follow the targets from frame to frame; results have their ``track`` and ``tracks`` then.
        static: whether tracks of what does not move are told, "report" or "hide".
        false_tracks_per_hour: that clutter may confirm.
        zones: file of the zones of which results tell who enters and leaves them; implies ``track``.
        unmix_frames: last frames in which a followed cluster is taken apart together, 1 to 30; more than 1 implies
            ``track``.
        moving: whether spots that the detector doubts are targets where they move through the scene.
        faint: find points that no single frame shows; implies ``track``.
        pipeline: an open one, which stays open; it has its settings already, and no candidates for tracks.

    Returns:
        An iterator of results, in the order of the frames.

    Raises:
        GlintError: one of its subclasses: at once for a bad source, model or argument, on iteration for a bad frame.
    """
    pipeline, models = settings.pipeline, settings.of_pipeline()
    if pipeline is not None and models != Settings():
        raise InputError("stream: an open pipeline has its settings already", hint="give them to Pipeline.open")
    frames, following = open_any(source), Following.of(settings)

    def start(opened: Pipeline) -> Stream:
        opened.learn_live(frames.live)
        if frames.size is not None:
            opened.prepare(frames.size)
        return Stream(
            frames, opened, (), drop=settings.drop, deadline_ms=settings.deadline_ms, warm=settings.warm_up,
            track=following.follower(frames, opened),
        )  # fmt: skip

    mine = nullcontext(pipeline) if pipeline is not None else Pipeline.of(models, following.candidates_above)
    results = _results(mine, start)
    next(results)  # opens the models: what is wrong is said at once
    return results


def _results(
    opened: AbstractContextManager[Pipeline], start: Callable[[Pipeline], Stream]
) -> Generator[Any, None, None]:
    """None as soon as all is open, then the results."""
    with opened as pipeline, closing(start(pipeline).results()) as results:
        yield None
        yield from results
