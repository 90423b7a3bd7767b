"""Targets as a table: one row each, for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
import re
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from glint.runtime.pipeline.pipeline import Result
from glint.runtime.sinks.base import Opening, Sink
from glint.runtime.sinks.json_lines import Lines
from glint.runtime.sinks.records import TARGET_COLUMNS, target_rows


class Table(Sink):
    """A CSV file with a header line, written frame by frame.

    The file appears with the first result; rows that do not fit on the disk are taken back.

    Args:
        path: the file; ``-`` is standard output.
        columns: of the table; what a row lacks is an empty field, several ``flags`` are joined by ``|``.
        overwrite: replace an existing one.

    Raises:
        OutputError: if the file exists and ``overwrite`` is not set, or cannot be written.
    """

    def __init__(self, path: str | Path, columns: Sequence[str], *, overwrite: bool = False) -> None:
        self._lines, self._columns = Lines(path, overwrite=overwrite), columns
        self._told = False  # the header

    @abstractmethod
    def rows(self, result: Result) -> Iterable[dict[str, Any]]:
        """What a result adds to the table."""

    def write(self, result: Result) -> None:
        text = io.StringIO()
        table = csv.DictWriter(text, self._columns, restval="", lineterminator="\n")
        if not self._told:
            table.writeheader()
        table.writerows({**row, "flags": "|".join(row["flags"])} for row in self.rows(result))
        self._lines.append(text.getvalue())
        self._told = True

    def close(self) -> None:
        """Close the file; every row is in it already."""
        self._lines.close()


class CsvSink(Table):
    """One row per target; frames without targets have no row.

    A name that a spreadsheet would take for a formula has ``'`` before it.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        super().__init__(path, TARGET_COLUMNS, overwrite=overwrite)

    def rows(self, result: Result) -> Iterable[dict[str, Any]]:
        return ({**row, "name": _cell(row["name"])} for row in target_rows(result))


def _cell(text: str) -> str:
    text = re.sub(r"[\x00-\x1f\x7f]", " ", text).encode(errors="replace").decode()
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text


def open_sink(opening: Opening) -> Sink:
    """What ``--csv`` asks for."""
    return CsvSink(opening.options["csv"], overwrite=opening.options["overwrite"])
