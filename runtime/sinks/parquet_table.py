"""Targets as a Parquet table: the columns of the CSV with their types, for data frames and databases."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from glint.errors import OutputError, system_errors_as
from glint.files import atomic_path, refuse_existing
from glint.libraries import missing
from glint.runtime.pipeline.pipeline import Result
from glint.runtime.sinks.base import Opening, Sink
from glint.runtime.sinks.records import TARGET_COLUMNS, target_rows

_ROWS_PER_GROUP = 20_000  # rows that are written at once
_TEXT_COLUMNS = ("name", "utc")
_INTEGER_COLUMNS = ("frame", "t_ns", "track", "blob", "n")


class ParquetSink(Sink):
    """One row per target, ``flags`` as a list of words, unknown values null; the file appears when it is whole.

    Args:
        path: the file.
        overwrite: replace an existing one.

    Raises:
        MissingDependencyError: if pyarrow is not installed.
        OutputError: if the file exists and ``overwrite`` is not set, or cannot be written.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        try:
            import pyarrow as arrow
            from pyarrow import parquet
        except ImportError as error:
            raise missing("pyarrow", "--parquet needs pyarrow, which is not installed") from error
        refuse_existing(path, overwrite=overwrite)
        self.path, self._overwrite = path, overwrite
        self._arrow, self._parquet = arrow, parquet
        kinds = dict.fromkeys(_TEXT_COLUMNS, arrow.string()) | dict.fromkeys(_INTEGER_COLUMNS, arrow.int64())
        kinds["flags"] = arrow.list_(arrow.string())
        self._schema = arrow.schema([(name, kinds.get(name, arrow.float64())) for name in TARGET_COLUMNS])
        self._rows: list[dict[str, Any]] = []
        self._open = ExitStack()
        self._writer: Any = None

    def write(self, result: Result) -> None:
        self._rows += target_rows(result)
        if self._writer is None or len(self._rows) >= _ROWS_PER_GROUP:
            self._write_out()

    def close(self) -> None:
        """Write what is left; the file then takes its place. May be called twice."""
        if self._writer is None:
            return
        with self._open:
            self._write_out()
            self._writer.close()
            self._writer = None

    def _write_out(self) -> None:
        with system_errors_as(OutputError, f"cannot write {self.path}", caught=(OSError,)):
            if self._writer is None:
                temporary = self._open.enter_context(atomic_path(self.path, overwrite=self._overwrite))
                self._writer = self._parquet.ParquetWriter(temporary, self._schema)
            self._writer.write_table(self._arrow.Table.from_pylist(self._rows, self._schema))
            self._rows.clear()


def open_sink(opening: Opening) -> Sink:
    """What ``--parquet`` asks for."""
    return ParquetSink(opening.options["parquet"], overwrite=opening.options["overwrite"])
