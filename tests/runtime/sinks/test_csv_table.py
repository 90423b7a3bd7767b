from __future__ import annotations

import csv
from pathlib import Path

import pytest
from made_results import made_result

from glint.errors import OutputError
from glint.runtime.sinks.csv_table import CsvSink
from glint.runtime.sinks.records import TARGET_COLUMNS as COLUMNS


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_one_row_per_target_under_a_header(tmp_path: Path) -> None:
    sink = CsvSink(tmp_path / "new" / "out.csv")
    sink.write(made_result(3, [(0, 30.25, 20.5, 300), (0, 31, 20, 200), (1, 5, 6, 100)], name="a,b", t_ns=7))
    sink.close()
    rows = read(tmp_path / "new" / "out.csv")
    assert [r["x"] for r in rows] == ["30.25", "31.0", "5.0"]
    assert rows[0] == {
        "frame": "3", "name": "a,b", "t_ns": "7", "utc": "", "track": "", "x": "30.25", "y": "20.5",
        "radiance": "300.0", "sigma_x": "0.05", "sigma_y": "0.05", "sigma_radiance": "2.0", "blob": "0", "score": "0.9",
        "flags": "", "n": "2", "count_probability": "",
    }  # fmt: skip
    assert rows[1]["flags"] == "COUNT_AMBIGUOUS"
    assert tuple(rows[0]) == COLUMNS


def test_unknown_values_are_empty_fields(tmp_path: Path) -> None:
    sink = CsvSink(tmp_path / "out.csv")
    sink.write(made_result(sigma=float("nan"), track=[-1]))
    sink.write(made_result(track=[12]))
    sink.close()
    first, second = read(tmp_path / "out.csv")
    assert (first["sigma_x"], first["track"], second["track"]) == ("", "", "12")


def test_rows_are_on_disk_before_the_next_frame(tmp_path: Path) -> None:
    sink = CsvSink(tmp_path / "out.csv")
    for index in range(3):
        sink.write(made_result(index))
        assert len(read(tmp_path / "out.csv")) == index + 1
    sink.close()
    sink.close()


def test_a_frame_without_targets_has_no_row_and_the_file_its_header(tmp_path: Path) -> None:
    sink = CsvSink(tmp_path / "out.csv")
    sink.write(made_result(rows=[]))
    sink.close()
    assert (tmp_path / "out.csv").read_text() == ",".join(COLUMNS) + "\n"


def test_an_existing_file_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("precious")
    with pytest.raises(OutputError, match="exists"):
        CsvSink(tmp_path / "out.csv")
    CsvSink(tmp_path / "out.csv", overwrite=True).close()
    assert (tmp_path / "out.csv").read_text() == "precious"


def test_a_full_disk_is_an_output_error_and_closing_is_quiet() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    sink = CsvSink("/dev/full", overwrite=True)
    with pytest.raises(OutputError, match="cannot write /dev/full"):
        sink.write(made_result())
    sink.close()


def test_a_folder_in_the_way_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        CsvSink(tmp_path, overwrite=True).write(made_result())


@pytest.mark.parametrize("name", ["=1+1", "+x", "-x", "@x", "\t=x", " =x", "\r=x"])
def test_no_cell_can_start_a_formula(tmp_path: Path, name: str) -> None:
    sink = CsvSink(tmp_path / "out.csv")
    sink.write(made_result(name=name))
    sink.close()
    assert read(tmp_path / "out.csv")[0]["name"] == "'" + name.replace("\t", " ").replace("\r", " ")
