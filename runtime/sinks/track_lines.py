"""Confirmed tracks as JSON lines: one object per track every second, and one at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glint.runtime.pipeline.pipeline import Result
from glint.runtime.sinks.base import Sink
from glint.runtime.sinks.json_lines import JsonLines

_PERIOD_NS = 10**9


class TrackLines(Sink):
    """Writes what ``Tracks.record`` says, with the frame, its times, and whether the track ended.

    Args:
        path: of the file; appears with the first result.

    Raises:
        OutputError: if it exists and ``overwrite`` is not set, or cannot be written.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self._lines = JsonLines(path, overwrite=overwrite)
        self._last: dict[int, dict[str, Any]] = {}
        self._written_ns: dict[int, int] = {}

    def write(self, result: Result) -> None:
        self._lines.open()
        tracks = result.tracks
        if tracks is None or result.repeated:
            return
        for row, number in enumerate(tracks.number.tolist()):
            frame = {"frame": result.frame.index, "t_ns": result.frame.t_ns, "utc": tracks.utc}
            self._last[number] = {**frame, **tracks.record(row)}
            since = self._written_ns.setdefault(number, tracks.t_ns)
            if tracks.t_ns - since >= _PERIOD_NS:
                self._lines.write({**self._last[number], "ended": False})
                self._written_ns[number] = tracks.t_ns
        for number in tracks.lost:
            self._end(number)

    def close(self) -> None:
        """Write the tracks that still live, as ended with the run, and close the file."""
        for number in sorted(self._last):
            self._end(number)
        self._lines.close()

    def _end(self, number: int) -> None:
        record = self._last.pop(number, None)
        self._written_ns.pop(number, None)
        if record is not None:
            self._lines.write({**record, "ended": True})
