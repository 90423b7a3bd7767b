"""Targets as Parquet: typed columns, and a file that is whole or not there."""

from __future__ import annotations

import sys

import pytest
from made_results import made_result

from glint.errors import MissingDependencyError, OutputError
from glint.runtime.sinks.parquet_table import ParquetSink
from glint.runtime.sinks.records import TARGET_COLUMNS


def test_rows_come_back_with_their_types(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    sink = ParquetSink(tmp_path / "new" / "r.parquet")
    sink.write(made_result(3, [(0, 30.25, 20.5, 300), (0, 31, 20, 200)], name="a", sigma=float("nan")))
    sink.write(made_result(4, rows=[]))
    sink.write(made_result(5, track=[7]))
    assert not (tmp_path / "new" / "r.parquet").exists()
    sink.close()
    sink.close()
    table = parquet.read_table(tmp_path / "new" / "r.parquet")
    assert tuple(table.column_names) == TARGET_COLUMNS
    rows = table.to_pylist()
    assert [(r["frame"], r["x"], r["sigma_x"], r["track"], r["flags"]) for r in rows] == [
        (3, 30.25, None, None, []), (3, 31.0, None, None, ["COUNT_AMBIGUOUS"]), (5, 30.2, 0.05, 7, []),
    ]  # fmt: skip


def test_a_run_without_targets_has_a_table_without_rows(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    sink = ParquetSink(tmp_path / "r.parquet")
    sink.write(made_result(rows=[]))
    sink.close()
    assert parquet.read_table(tmp_path / "r.parquet").num_rows == 0


def test_an_existing_file_is_refused(tmp_path):
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    (tmp_path / "r.parquet").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        ParquetSink(tmp_path / "r.parquet")


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match="needs pyarrow"):
        ParquetSink(tmp_path / "r.parquet")
