"""Targets as a table: one row each, for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from glint.runtime.pipeline.pipeline import Result
from glint.runtime.sinks.base import Opening, Sink
from glint.runtime.sinks.json_lines import Lines
from glint.runtime.sinks.records import TARGET_COLUMNS as COLUMNS
from glint.runtime.sinks.records import target_rows


class CsvSink(Sink):
    """A CSV file with a header line, written frame by frame; frames without targets have no row.

    An unknown value is an empty field; several flags are joined by ``|``. The file appears with the first result;
    rows that do not fit on the disk are taken back. A name that a spreadsheet would take for a formula has ``'``
    before it.

    Args:
        path: the file; ``-`` is standard output.
        overwrite: replace an existing one.

    Raises:
        OutputError: if the file exists and ``overwrite`` is not set.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        self._lines = Lines(path, overwrite=overwrite)
        self._told = False  # the header

    def write(self, result: Result) -> None:
        """Append the frame's targets."""
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
        if not self._told:
            table.writeheader()
        for row in target_rows(result):
            table.writerow({**row, "name": _cell(row["name"]), "flags": "|".join(row["flags"])})
        self._lines.append(text.getvalue())
        self._told = True

    def close(self) -> None:
        """Close the file; every row is in it already."""
        self._lines.close()


def _cell(text: str) -> str:
    text = re.sub(r"[\x00-\x1f\x7f]", " ", text).encode(errors="replace").decode()
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text


def open_sink(opening: Opening) -> Sink:
    """What ``--csv`` asks for."""
    return CsvSink(opening.options["csv"], overwrite=opening.options["overwrite"])
