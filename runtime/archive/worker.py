"""One process with the engines: a chunk in, its parts out, named by the chunk's key and put whole."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from glint.errors import SourceError, first_line
from glint.files import cache_folder
from glint.runtime.archive.chunks import Chunk
from glint.runtime.archive.reading import ChunkSource
from glint.runtime.archive.settings import ArchiveSettings, Start
from glint.runtime.archive.storage import Storage
from glint.runtime.archive.tables import FrameRow, about_of, frames_table, parquet, targets_table
from glint.runtime.pipeline.pipeline import Pipeline
from glint.runtime.pipeline.rehearsal import rehearse
from glint.runtime.sources.adjusted import AdjustedSource, adjusted, warnings_of
from glint.runtime.stream.stream import Stream
from glint.runtime.unmixing.optics_state import LEARNED

ATTEMPTS = 2  # at a chunk, before it is given up
_PAUSE_S = 2.0  # between them


@dataclass(frozen=True)
class Done:
    """What became of a chunk.

    Attributes:
        part: its part of the frames.
        frames, targets, skipped: how many; ``skipped`` could not be read.
        seconds: it took.
        error: why there is no part; "" if there is.
        lost: what its file lacks; "" if nothing.
        warnings: about its first frame.
    """

    part: str
    frames: int = 0
    targets: int = 0
    skipped: int = 0
    seconds: float = 0.0
    error: str = ""
    lost: str = ""
    warnings: tuple[str, ...] = ()


class Worker:
    """Makes the parts of chunks.

    Args:
        root, out: where recordings are, and where parts go.
        settings: of the archive.
        pipeline: an open one; None: it is opened, after the rehearsal.
    """

    def __init__(
        self, root: Storage, out: Storage, settings: ArchiveSettings, pipeline: Pipeline | None = None
    ) -> None:
        self.root, self.out, self.settings = root, out, settings
        if pipeline is None:
            with _alone_on_this_machine():
                rehearse()
        self.pipeline = pipeline or Pipeline.of(settings.pipeline, settings.candidates_above)
        self._starts: dict[str, Start] = {}

    def __call__(self, chunk: Chunk) -> Done:
        """Make the parts of a chunk, if they are not there; a failure is told, not raised."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if self.out.exists([chunk.frames_part])[0]:
                    return Done(chunk.frames_part)
                done, frames, targets = self.tables(chunk)
                # The frames last: their part says that the chunk is done.
                self.out.put(chunk.targets_part, parquet(targets))
                self.out.put(chunk.frames_part, frames)
                return done
            except Exception as error:  # a broken file, whatever breaks on it, costs its chunk and no other
                told = f"{type(error).__name__}: {first_line(error)}"
                if attempt < ATTEMPTS:
                    time.sleep(_PAUSE_S)
        return Done(chunk.frames_part, error=told)

    def tables(self, chunk: Chunk) -> tuple[Done, bytes, Any]:
        """What a chunk gives: what is told of it, its part of the frames as a file, and its table of targets.

        Raises:
            GlintError: one of its subclasses, if the chunk cannot be read or the pipeline fails.
        """
        began = time.monotonic()
        start = self.start_of(chunk)
        source = source_of(self.root, chunk, self.settings, start)
        inner = source.inner
        assert isinstance(inner, ChunkSource)  # noqa: S101  (made so)
        self.pipeline.start_over(start.optics)
        rows: list[FrameRow] = []
        warnings: list[str] = []
        for result in Stream(source, self.pipeline, ()).results():
            if not rows and chunk.number == 0:
                warnings = warnings_of(result.frame)
            known = bool(rows) or chunk.number == 0
            rows.append(FrameRow.of(result, repeated=result.repeated if known else None))
        if not rows:
            raise SourceError(
                f"{chunk.recording} holds no frame that can be read",
                hint="glint run with the recording tells more; leave it out if it is damaged",
            )
        notes: list[tuple[int | None, str, str]] = [(None, s.name, f"skipped: {s.reason}") for s in inner.skipped]
        notes += [(g.t_ns, "", f"gap of {g.seconds:.3f} s: {g.reason}") for g in inner.gaps]
        notes += [(None, "", f"lost: {inner.lost}")] if inner.lost else []
        about = {"key": chunk.key, "start": self._learned(source, start).as_dict(), "engine": self._engine()}
        frames = parquet(frames_table(chunk.recording, rows, notes), about)
        done = Done(
            chunk.frames_part, len(rows), sum(len(r.targets) for r in rows), sum(inner.skips.values()),
            time.monotonic() - began, lost=inner.lost, warnings=tuple(warnings),
        )  # fmt: skip
        return done, frames, targets_table(chunk.recording, rows)

    def start_of(self, chunk: Chunk) -> Start:
        """What the recording's first chunk told; nothing for that chunk itself."""
        part = chunk.head_part
        if part is None:
            return Start()
        if part not in self._starts:
            self._starts = {part: read_start(self.out, part)}
        return self._starts[part]

    def _learned(self, source: AdjustedSource, start: Start) -> Start:
        optics = self.pipeline.optics
        scale = source.scale if isinstance(source.scale, tuple) else None
        learned = optics if self.pipeline.learner is not None and optics.kind == LEARNED else start.optics
        return Start(learned, scale, source.turn_at)

    def _engine(self) -> dict[str, str]:
        models = (self.pipeline.detector, self.pipeline.unmixer)
        return {m.card.task: f"{m.card.name}, {m.engine.name}, {m.card.precision}" for m in models}


def source_of(root: Storage, chunk: Chunk, settings: ArchiveSettings, start: Start) -> AdjustedSource:
    """The frames of a chunk, as the pipeline wants them."""
    scale = settings.scale if start.scale is None else start.scale
    return adjusted(ChunkSource(root, chunk), settings.polarity, scale, turn_at=start.turn_at)


def read_start(out: Storage, part: str) -> Start:
    """What a part of the frames tells of its recording's start.

    Raises:
        SourceError: if it cannot be read.
    """
    with out.opened(part) as stream:
        return Start.of(about_of(pq.read_schema(stream).metadata).get("start"))


@contextmanager
def _alone_on_this_machine() -> Iterator[None]:
    """One worker after the other, so that machine code is compiled once and read by the others."""
    try:
        folder = cache_folder("compiled")
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "rehearsal.lock").open("w")
    except (OSError, RuntimeError):  # nothing is kept there: each compiles for itself
        yield
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
