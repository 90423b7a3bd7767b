"""Targets as a table: one row each, for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
import re
from io import FileIO
from pathlib import Path

from glint.errors import OutputError
from glint.files import append_whole, claim, refuse_existing
from glint.runtime.pipeline.pipeline import Result
from glint.runtime.sinks.base import Opening, Sink
from glint.runtime.sinks.records import target_records

COLUMNS = (
    "frame", "name", "t_ns", "track", "x", "y", "radiance", "sigma_x", "sigma_y", "sigma_radiance", "blob", "score",
    "flags", "n", "count_probability",
)  # fmt: skip


class CsvSink(Sink):
    """A CSV file with a header line, written frame by frame; frames without targets have no row.

    An unknown value is an empty field; several flags are joined by ``|``. The file appears with the first result;
    rows that do not fit on the disk are taken back. A name that a spreadsheet would take for a formula has ``'``
    before it.

    Args:
        path: the file.
        overwrite: replace an existing one.

    Raises:
        OutputError: if the file exists and ``overwrite`` is not set.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        self.path = Path(path)
        refuse_existing(self.path, overwrite=overwrite)
        self._overwrite = overwrite
        self._file: FileIO | None = None
        self._size = 0

    def write(self, result: Result) -> None:
        """Append the frame's targets."""
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
        if self._file is None:
            table.writeheader()
        frame = result.frame
        for row in target_records(result):
            row["flags"] = "|".join(row["flags"])
            table.writerow({"frame": frame.index, "name": _cell(frame.name), "t_ns": frame.t_ns, **row})
        try:
            if self._file is None:
                self._file = claim(self.path, overwrite=self._overwrite)
            self._size = append_whole(self._file, text.getvalue().encode(errors="replace"), self._size)
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the file; every row is in it already."""
        if self._file is not None:
            self._file.close()


def _cell(text: str) -> str:
    text = re.sub(r"[\x00-\x1f\x7f]", " ", text)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text


def open_sink(opening: Opening) -> Sink:
    """What ``--csv`` asks for."""
    return CsvSink(opening.options["csv"], overwrite=opening.options["overwrite"])
