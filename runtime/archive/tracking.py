"""Tracks of a recording from its finished parts, in order, by the code of ``glint run --track --no-moving``.

Detections come from the parts. The frames are read again, but not detected in again: the tracker wants to know how the
camera moved, which their pixels tell.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq

from glint.cards import load_card
from glint.errors import SourceError, first_line
from glint.runtime.archive.chunks import Chunk, tracks_part
from glint.runtime.archive.settings import ArchiveSettings
from glint.runtime.archive.storage import Storage
from glint.runtime.archive.tables import TRACKS, FrameRow, frame_rows, tracks_table
from glint.runtime.archive.worker import Done, read_start, source_of
from glint.runtime.pipeline.detector import Detection
from glint.runtime.pipeline.follow import Follower
from glint.runtime.pipeline.pipeline import STAGES, Pipeline, Result
from glint.runtime.sources.base import Source
from glint.runtime.stream.stream import Stream
from glint.runtime.tracking.evidence import Evidence
from glint.runtime.tracking.tracker import TrackConfig
from glint.types import Frame, Gap

_NO_MAP = np.zeros((0, 0), dtype=np.float32)
_RESULTS_PER_GROUP = 2000  # results of one row group
_CHANGED_HINT = "leave recordings as they are while they are processed; run it again with another OUT"


@dataclass(frozen=True)
class TrackWork:
    """A recording whose chunks are done, in order."""

    chunks: tuple[Chunk, ...]


class TrackMaker:
    """Makes the tracks of recordings.

    Args:
        root, out: where recordings are, and where parts are and go.
        settings: of the archive.
    """

    def __init__(self, root: Storage, out: Storage, settings: ArchiveSettings) -> None:
        self.root, self.out, self.settings = root, out, settings

    def __call__(self, work: TrackWork) -> Done:
        """Make the part of a recording's tracks, if it is not there; a failure is told, not raised."""
        part = tracks_part(work.chunks, self.settings.tracks_digest())
        try:
            if self.out.exists([part])[0]:
                return Done(part)
            with tempfile.TemporaryDirectory(prefix="glint-archive-") as folder:
                path = Path(folder) / "tracks.parquet"
                number = self._write(work.chunks, path)
                self.out.put_file(part, path)
            return Done(part, targets=number)
        except Exception as error:  # a file that has gone costs the tracks of its recording
            return Done(part, error=f"{type(error).__name__}: {first_line(error)}")

    def _write(self, chunks: Sequence[Chunk], path: Path) -> int:
        finished = _Finished(self.root, self.out, self.settings, chunks)
        config = TrackConfig(false_tracks_per_hour=self.settings.false_tracks_per_hour)
        evidence = Evidence.of(load_card(self.settings.pipeline.detector)[0].name)
        follow = Follower(config, evidence, static=self.settings.static, moving=False)
        waiting: list[Result] = []
        with pq.ParquetWriter(path, TRACKS, compression="zstd") as writer:
            # Stream only calls what it takes for a pipeline.
            for result in Stream(finished, cast(Pipeline, finished.result_of), (), track=follow).results():
                waiting.append(result)
                if len(waiting) == _RESULTS_PER_GROUP:
                    writer.write_table(tracks_table(chunks[0].recording, waiting))
                    waiting.clear()
            writer.write_table(tracks_table(chunks[0].recording, waiting))
        return follow.confirmed


class _Finished(Source):
    """The frames of finished chunks one after the other; what was found in them stands in place of a pipeline."""

    def __init__(self, root: Storage, out: Storage, settings: ArchiveSettings, chunks: Sequence[Chunk]) -> None:
        super().__init__(chunks[0].recording)
        self.root, self.out, self.settings, self.chunks = root, out, settings, chunks
        self._rows: dict[int, FrameRow] = {}  # of frames that are on their way to ``result_of``

    def __iter__(self) -> Iterator[Frame | Gap]:
        for chunk in self.chunks:
            rows = {row.frame: row for row in self._read(chunk)}
            start = read_start(self.out, chunk.head_part or chunk.frames_part)
            for frame in source_of(self.root, chunk, self.settings, start).frames():
                row = rows.pop(frame.index, None)
                if row is None:
                    raise SourceError(
                        f"{chunk.frames_part} lacks frame {frame.index}: the recording was changed", hint=_CHANGED_HINT
                    )
                self._rows[frame.index] = row
                yield frame
            if rows:
                raise SourceError(
                    f"{chunk.recording} lacks frame {min(rows)}, which a part has: it was changed", hint=_CHANGED_HINT
                )

    def _read(self, chunk: Chunk) -> list[FrameRow]:
        tables: list[Any] = []
        for part in (chunk.frames_part, chunk.targets_part):
            with self.out.opened(part) as stream:
                tables.append(pq.read_table(stream))
        return frame_rows(*tables)

    def result_of(self, frame: Frame, **_: object) -> Result:
        """What was found in a frame."""
        row = self._rows.pop(frame.index)
        detection = Detection(row.blobs, _NO_MAP, _NO_MAP, candidates=row.candidate_blobs)
        spots: Any = None  # nobody asks for them
        return Result(frame, detection, row.targets, spots, dict.fromkeys(STAGES, 0.0), candidates=row.candidates)
