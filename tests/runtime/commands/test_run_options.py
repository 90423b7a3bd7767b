"""The options of a run: declared once, and the same for the command, the function and the outputs."""

from __future__ import annotations

import importlib
import inspect
import pickle
from pathlib import Path
from typing import Any

import pytest

from glint.cli import build_parser, main
from glint.errors import InputError
from glint.runtime.commands.run import run
from glint.runtime.commands.run_options import OPTIONS, Delivery, Models, Outputs, Recording, RunOptions, Sensor, Values
from glint.types import FrameSize


def test_groups_and_names_say_the_same() -> None:
    groups = RunOptions.of(Outputs(csv=Path("t.csv")), Delivery(track=True), Sensor(tile=FrameSize(640, 512)))
    names = RunOptions.of(csv="t.csv", track=True, tile=(640, 512))
    assert groups == names
    assert groups.by_name().keys() == OPTIONS.keys()
    assert (groups.outputs.csv, groups.sensor.tile) == (Path("t.csv"), FrameSize(640, 512))
    assert RunOptions.of(Delivery(track=True), csv="t.csv", tile=(640, 512)) == groups


def test_options_survive_pickling() -> None:
    options = RunOptions.of(Models(refine=False), Recording(record=Path("frames")), roi=(1, 2, 3, 4))
    assert pickle.loads(pickle.dumps(options)) == options  # noqa: S301


def test_an_unknown_or_doubled_option_is_refused() -> None:
    with pytest.raises(InputError, match="no option 'trak'") as caught:
        RunOptions.of(trak=True)
    assert caught.value.hint == "did you mean track?"
    with pytest.raises(InputError, match="track is given twice"):
        RunOptions.of(Delivery(), track=True)
    with pytest.raises(InputError, match="drop is given twice"):
        RunOptions.of(Delivery(), Delivery(track=True))
    with pytest.raises(InputError, match="got str"):
        run("synthetic:", "t.jsonl")  # type: ignore[arg-type]


def test_the_command_and_the_function_have_the_same_defaults() -> None:
    given = vars(build_parser("run").parse_args(["run", "frames"]))
    parameters = inspect.signature(run).parameters
    for name, option in OPTIONS.items():
        assert parameters[name].default == option.default
        assert name == "refine" or given[name] == option.default, name


def test_every_option_is_described() -> None:
    for group in (Outputs, Recording, Delivery, Values, Sensor, Models):
        for name in inspect.signature(group).parameters:
            assert OPTIONS[name].metadata["help"], name
            assert f"    {name}: " in (group.__doc__ or "")


def test_every_output_names_a_module_that_opens_it() -> None:
    modules = [option.metadata["opens"] for option in OPTIONS.values() if option.metadata["opens"]]
    assert len(modules) == len(set(modules)) > 0
    for module in modules:
        assert callable(importlib.import_module(f"glint.runtime.{module}").open_sink)


def test_the_command_says_what_it_is_in_python(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    words = ["run", "a.png", "b.png", "--out", "h.jsonl", "--track", "--roi", "1,2,64,64", "--no-refine"]
    assert main([*words, "--print-python"]) == 0
    told: dict[str, Any] = {}
    monkeypatch.setattr("glint.run", lambda source, **options: told.update(source=source, **options), raising=False)
    exec(capsys.readouterr().out)  # noqa: S102
    assert told == {
        "source": ["a.png", "b.png"], "out": "h.jsonl", "track": True, "roi": (1, 2, 64, 64), "refine": False,
    }  # fmt: skip
