from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from glint.errors import OutputError
from glint.runtime.sinks.json_lines import JsonLines


def test_the_file_appears_with_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.jsonl"
    with JsonLines(path) as sink:
        assert not path.parent.exists()
        sink.write({"frame": 0})
        assert path.is_file()


def test_each_line_is_on_disk_before_the_next_is_written(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with JsonLines(path) as sink:
        for number in range(3):
            sink.write({"frame": number})
            assert [json.loads(line)["frame"] for line in path.read_text().splitlines()] == list(range(number + 1))


def test_a_block_that_fails_before_its_first_line_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="early"), JsonLines(tmp_path / "out.jsonl"):
        raise RuntimeError("early")
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_fails_later_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with pytest.raises(RuntimeError, match="late"), JsonLines(path) as sink:
        sink.write({"frame": 0})
        raise RuntimeError("late")
    assert path.read_text() == '{"frame": 0}\n'


def test_a_block_without_lines_leaves_an_empty_file(tmp_path: Path) -> None:
    with JsonLines(tmp_path / "out.jsonl"):
        pass
    assert (tmp_path / "out.jsonl").read_text() == ""


def test_an_existing_file_is_refused_at_once_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("precious")
    with pytest.raises(OutputError, match="exists") as caught:
        JsonLines(path)
    assert "--overwrite" in (caught.value.hint or "")
    assert path.read_text() == "precious"


def test_overwriting_replaces_all_of_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old and long\n" * 10)
    with JsonLines(path, overwrite=True) as sink:
        sink.write({"frame": 1})
    assert path.read_text() == '{"frame": 1}\n'


def test_overwriting_keeps_the_old_file_until_there_is_something_new(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("precious")
    with pytest.raises(RuntimeError, match="early"), JsonLines(path, overwrite=True):
        raise RuntimeError("early")
    assert path.read_text() == "precious"


def test_a_dash_is_standard_output_which_stays_open(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with JsonLines("-") as sink:
        assert sink.path is None
        sink.write({"frame": 0})
        sink.write({"frame": 1})
    print("still open")
    assert capsys.readouterr().out == '{"frame": 0}\n{"frame": 1}\nstill open\n'
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        JsonLines(tmp_path, overwrite=True).write({"frame": 0})


def test_a_file_in_place_of_the_folder_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        JsonLines(tmp_path / "file" / "out.jsonl").write({"frame": 0})


def test_a_full_disk_is_an_output_error() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    sink = JsonLines("/dev/full", overwrite=True)
    with pytest.raises(OutputError, match="cannot write /dev/full"):
        sink.write({"frame": 0})
    sink.close()  # nothing is left that it would fail to write


def test_a_line_that_does_not_fit_on_the_disk_is_taken_back(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from glint.errors import OutputError\n"
        "from glint.runtime.sinks.json_lines import JsonLines\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))\n"
        "sink = JsonLines(sys.argv[1]); sink.write({'text': 20 * 'a'})\n"
        "try: sink.write({'text': 40 * 'b'})\n"
        "except OutputError as error: print(error)\n"
        "sink.close()"
    )
    path = tmp_path / "out.jsonl"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60, check=True)
    assert "cannot write" in done.stdout
    assert json.loads(path.read_text()) == {"text": 20 * "a"}
    assert path.read_text().endswith("\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_json_is_never_written(tmp_path: Path, value: float) -> None:
    path = tmp_path / "out.jsonl"
    sink = JsonLines(path)
    sink.write({"x": 1.0})
    with pytest.raises(ValueError, match="JSON"):
        sink.write({"x": value})
    sink.close()
    assert path.read_text() == '{"x": 1.0}\n'
