"""Confirmed tracks in a file, by its ending: a table (``.csv``), MOT Challenge (``.txt``), else JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glint.runtime.pipeline.pipeline import Result
from glint.runtime.sinks.base import Opening, Sink
from glint.runtime.sinks.csv_table import Table
from glint.runtime.sinks.json_lines import Lines
from glint.runtime.sinks.track_lines import TrackLines

COLUMNS = (
    "frame", "t_ns", "utc", "track", "x", "y", "vx", "vy", "var_x", "cov_x_vx", "var_vx", "var_y", "cov_y_vy",
    "var_vy", "age_s", "score", "radiance", "seen", "flags",
)  # fmt: skip
BOX_PX = 9  # side of the boxes of MOT: targets are points


class TrackTable(Table):
    """A CSV file: one row per confirmed track and frame, those of repeated frames left out."""

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        super().__init__(path, COLUMNS, overwrite=overwrite)

    def rows(self, result: Result) -> Iterator[dict[str, Any]]:
        tracks = result.tracks
        if tracks is None or result.repeated:
            return
        for row in range(len(tracks)):
            record = tracks.record(row)
            covariance = record.pop("covariance")
            for axis in "xy":
                names = f"var_{axis}", f"cov_{axis}_v{axis}", f"var_v{axis}"
                record |= dict(zip(names, covariance[axis]))
            record["seen"] = int(record["seen"])
            yield {"frame": result.frame.index, "t_ns": result.frame.t_ns, "utc": tracks.utc, **record}


class MotFile(Sink):
    """A file as the tools of the MOT Challenge read it: frame, track, left, top, width, height, 1, -1, -1, -1.

    Frames and tracks count from 1, pixels too; the boxes have ``BOX_PX`` pixels a side. Every frame counts,
    repeated ones included, as labels do.

    Args:
        path: of the file; appears with the first result.

    Raises:
        OutputError: if it exists and ``overwrite`` is not set, or cannot be written.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self._lines = Lines(path, overwrite=overwrite)

    def write(self, result: Result) -> None:
        self._lines.open()
        tracks = result.tracks
        if tracks is None or not len(tracks):
            return
        # The middle of the first pixel is (0, 0) here and (1, 1) there.
        corner, rest = 1 - BOX_PX / 2, f"{BOX_PX},{BOX_PX},1,-1,-1,-1"
        rows = zip(tracks.number.tolist(), tracks.x.tolist(), tracks.y.tolist())
        frame = result.frame.index + 1
        self._lines.append("".join(f"{frame},{n + 1},{x + corner:.3f},{y + corner:.3f},{rest}\n" for n, x, y in rows))

    def close(self) -> None:
        """Close the file; one without a track is empty."""
        self._lines.close()


def open_sink(opening: Opening) -> Sink:
    """What ``--tracks`` asks for."""
    path = opening.options["tracks"]
    kinds: dict[str, Any] = {".csv": TrackTable, ".txt": MotFile}
    sink: Sink = kinds.get(path.suffix.lower(), TrackLines)(path, overwrite=opening.options["overwrite"])
    return sink
