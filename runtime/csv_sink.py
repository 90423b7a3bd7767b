"""Targets as a table: one row each, for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from glint.errors import OutputError
from glint.files import refuse_existing
from glint.runtime.pipeline import Result
from glint.runtime.records import target_records
from glint.runtime.sinks import Sink

COLUMNS = (
    "frame", "name", "t_ns", "track", "x", "y", "radiance", "sigma_x", "sigma_y", "sigma_radiance", "blob", "score",
    "flags",
)  # fmt: skip


class CsvSink(Sink):
    """A CSV file with a header line, flushed frame by frame; frames without targets have no row.

    An unknown value is an empty field; several flags are joined by ``|``. The file appears with the first result.

    Args:
        path: the file.
        overwrite: replace an existing one.

    Raises:
        OutputError: if the file exists and ``overwrite`` is not set.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        self.path = Path(path)
        refuse_existing(self.path, overwrite=overwrite)
        self._stream: TextIO | None = None

    def write(self, result: Result) -> None:
        """Append the frame's targets; whole rows or nothing reach the file at once."""
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
        if self._stream is None:
            table.writeheader()
        frame = result.frame
        for row in target_records(result):
            row["flags"] = "|".join(row["flags"])
            table.writerow({"frame": frame.index, "name": frame.name, "t_ns": frame.t_ns, **row})
        try:
            if self._stream is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._stream = self.path.open("w", encoding="utf-8", newline="")
            self._stream.write(text.getvalue())
            self._stream.flush()
        except OSError as error:
            stream, self._stream = self._stream, None
            with suppress(OSError):  # it would fail again on what is still buffered
                if stream is not None:
                    stream.close()
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the file; every row is in it already."""
        if self._stream is not None:
            self._stream.close()
