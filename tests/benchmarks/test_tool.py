"""Tools of the ``python -m`` kind: where a report goes, and that no option is lost on the way."""

import argparse
import importlib
import inspect
import json
from pathlib import Path

import pytest

import glint.benchmarks
from glint.benchmarks.tool import Tool

ROOT = Path(glint.benchmarks.__file__).parent
SOURCES = {p.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): p.read_text() for p in ROOT.rglob("*.py")}
MODULES = sorted(name for name, text in SOURCES.items() if "\nTOOL = Tool(" in text)


def options(parser):
    parser.add_argument("--number", type=int, default=3)


def report(*, number):
    return {"number": number, "problems": [f"{number} is odd"] if number % 2 else []}


def tool(**others):
    return Tool("Tells a number.", report, options, **others)


@pytest.mark.parametrize("name", MODULES)
def test_every_option_is_an_argument_of_the_function(name):
    if name == "tables.ablation":
        pytest.importorskip("torch")
    made = importlib.import_module(f"glint.benchmarks.{name}").TOOL
    parser = argparse.ArgumentParser()
    made.options(parser)
    options = {action.dest for action in parser._actions} - {"help"}
    arguments = inspect.signature(made.make).parameters
    anything = any(a.kind is inspect.Parameter.VAR_KEYWORD for a in arguments.values())
    assert options <= arguments.keys() or anything
    assert not {"out", "overwrite", "json"} & options or not made.file


def test_a_function_of_any_keywords_gets_all_options(capsys):
    assert Tool("Tells a number.", lambda **told: told, options)(["--number", "4"]) == 0
    assert json.loads(capsys.readouterr().out) == {"number": 4}


def test_whatever_is_a_command_of_its_own_is_such_a_tool():
    assert len(MODULES) >= 12
    assert [name for name, text in SOURCES.items() if "standalone(" in text] == ["tool"]


def test_json_or_text_as_asked(capsys):
    assert tool()(["--number", "4"]) == 0
    assert json.loads(capsys.readouterr().out)["number"] == 4
    shown = tool(text=lambda made: f"# {made['number']}\n")
    assert shown(["--number", "4"]) == 0
    assert capsys.readouterr().out == "# 4\n"
    assert shown(["--number", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["number"] == 4


def test_problems_end_with_exit_code_1_and_the_report_is_written_all_the_same(tmp_path, capsys):
    path = tmp_path / "r.json"
    said = []
    assert tool(file=True, remark=said.append)(["--out", str(path)]) == 1
    assert json.loads(path.read_text()) == json.loads(capsys.readouterr().out) == said[0]


def test_an_existing_report_is_refused_before_any_work(tmp_path, capsys):
    (tmp_path / "r.json").write_text("precious")
    never = Tool("", lambda: pytest.fail("worked"), lambda parser: None, file=True)
    assert never(["--out", str(tmp_path / "r.json")]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "r.json").read_text() == "precious"
    assert tool(file=True)(["--out", str(tmp_path / "r.json"), "--overwrite", "--number", "4"]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["number"] == 4
