"""The sink that keeps frames: all of them, or those around events, bit-exact and on bounded disk space."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timezone
from pathlib import Path

from glint.errors import InputError, OutputError, system_errors_as
from glint.files import refuse_full
from glint.runtime.pipeline.pipeline import Result
from glint.runtime.sinks.base import Opening, Sink
from glint.runtime.sources.recording_format import SUFFIX, RecordingFile, encode_frame, encode_gap, recordings
from glint.types import Frame, Gap

FILE_BYTES = 1 << 30  # of one file; a recording is cut into such pieces
RING_BYTES = 512 << 20  # of the frames that wait for an event


class Recorder(Sink):
    """Writes ``FOLDER/TIME-NUMBER.tar`` (see ``glint.runtime.sources.recording_format``); nothing is ever replaced.

    A frame is recorded as the result carries it, without its truth. With ``events``, every event
    gets a file of its own: the frames up to ``before_s`` before the first one with targets, all up
    to ``after_s`` after the last one. The frames that wait for an event are bounded by
    ``RING_BYTES``, the oldest go first.

    Args:
        folder: where to; created with the first frame.
        events: keep only what is near frames with targets.
        before_s, after_s: seconds, by the times of capture.
        max_bytes: of all recordings in the folder, those of earlier runs included: the oldest
            files make room for the new. None: until the disk is full.
        source: its URI, kept in the files without secrets.

    Attributes:
        recorded: frames written so far.

    Raises:
        InputError: if an argument is out of range.
        OutputError: if the folder is a file; from ``write``: if the disk is full or does not take it.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        events: bool = False,
        before_s: float = 3.0,
        after_s: float = 5.0,
        max_bytes: int | None = None,
        source: str = "",
    ) -> None:
        if not (0 <= before_s <= 3600 and 0 <= after_s <= 3600):
            raise InputError(
                f"recorder: expected 0 to 3600 s before and after an event, got {before_s} and {after_s}",
                hint="e.g. --record-before 3 --record-after 5",
            )
        if max_bytes is not None and max_bytes < 1:
            raise InputError(
                f"recorder: expected max_bytes of at least 1, got {max_bytes}", hint="e.g. --record-max-gb 10"
            )
        self.folder = Path(folder)
        refuse_full(self.folder, overwrite=True, what="recording")
        self.events, self.max_bytes, self.source = events, max_bytes, source
        self.recorded = 0
        self._before_ns, self._after_ns = int(1e9 * before_s), int(1e9 * after_s)
        self._file_bytes = FILE_BYTES if max_bytes is None else min(FILE_BYTES, max(1, max_bytes // 8))
        self._session = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
        self._number = self._next_index = 0
        self._file: RecordingFile | None = None
        self._previous: int | None = None  # index of the last frame in it
        self._until: int | None = None  # end of the present event, nanoseconds
        self._ring: deque[Frame | Gap] = deque()
        self._ring_bytes = 0
        self._older: deque[tuple[Path, int]] = deque()  # finished files that may make room
        self._older_bytes = 0

    def write(self, result: Result) -> None:
        frame = result.frame
        self._next_index = frame.index + 1
        if not self.events:
            self._keep(frame)
            return
        if len(result.targets):
            self._until = frame.t_ns + self._after_ns
        if self._until is None or frame.t_ns > self._until:
            self._end_event()
            self._wait(frame)
            return
        self._forget(frame.t_ns)
        while self._ring:
            self._keep(self._ring.popleft())
        self._ring_bytes = 0
        self._keep(frame)

    def gap(self, gap: Gap) -> None:
        if self.events and self._until is None:
            self._wait(gap)
        else:
            self._keep(gap)

    def close(self) -> None:
        self._end_event()

    def _end_event(self) -> None:
        self._until = None
        self._end_file()

    def _end_file(self) -> None:
        file, self._file, self._previous = self._file, None, None
        if file is not None:
            file.close()
            self._older.append((file.path, file.size))
            self._older_bytes += file.size

    def _wait(self, item: Frame | Gap) -> None:
        """Hold an item until an event asks for it or it is too old."""
        self._ring.append(item)
        self._ring_bytes += _size(item)
        self._forget(item.t_ns)

    def _forget(self, t_ns: int) -> None:
        """Drop what would be too old for an event that begins now, and what is too much."""
        while self._ring and (self._ring[0].t_ns < t_ns - self._before_ns or self._ring_bytes > RING_BYTES):
            self._ring_bytes -= _size(self._ring.popleft())

    def _keep(self, item: Frame | Gap) -> None:
        record = self._encoded(item)
        if self._file is not None and self._file.size + len(record) > self._file_bytes:
            self._end_file()
            record = self._encoded(item)
        if self._file is None:
            if not self._number:
                self._find_older()
            self._file = RecordingFile(self.folder / f"{self._session}-{self._number:06d}{SUFFIX}", source=self.source)
            self._number += 1
        self._make_room(self._file.size + len(record))
        self._file.append(record)
        if isinstance(item, Frame):
            self.recorded, self._previous = self.recorded + 1, item.index

    def _encoded(self, item: Frame | Gap) -> bytes:
        if isinstance(item, Gap):
            return encode_gap(item, self._next_index)
        return encode_frame(item, self._previous)

    def _find_older(self) -> None:
        if self.max_bytes is None or not self.folder.is_dir():
            return
        with system_errors_as(OutputError, f"cannot record into {self.folder}"):
            self._older.extend((path, path.stat().st_size) for path in recordings(self.folder))
        self._older_bytes = sum(size for _, size in self._older)

    def _make_room(self, needed: int) -> None:
        """Delete the oldest recordings until a present file of this size fits."""
        if self.max_bytes is None:
            return
        while self._older and self._older_bytes + needed > self.max_bytes:
            path, size = self._older.popleft()
            self._older_bytes -= size
            with system_errors_as(OutputError, f"cannot make room in {self.folder}"):
                path.unlink(missing_ok=True)
        if needed > self.max_bytes:
            raise OutputError(
                f"cannot record into {self.folder}: {needed} bytes do not fit into {self.max_bytes}",
                hint="allow more space for recordings",
            )


def _size(item: Frame | Gap) -> int:
    return item.data.nbytes if isinstance(item, Frame) else 0


def open_sink(opening: Opening) -> Sink:
    """What ``--record`` asks for."""
    o = opening.options
    limit = o["record_max_gb"]
    return Recorder(
        o["record"], events=o["record_events"], before_s=o["record_before"], after_s=o["record_after"],
        max_bytes=None if limit is None else int(1e9 * limit), source=opening.uri,
    )  # fmt: skip
