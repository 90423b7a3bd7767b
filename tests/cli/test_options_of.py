"""Options go to functions by their names: one that a function does not know would be dropped in silence."""

from __future__ import annotations

import argparse
import importlib
import inspect

import pytest

from glint.cli import options_of

COMMON = {"help", "json", "require"}
# Command, functions or data classes that it hands its options to, and the options that it looks at itself.
COMMANDS = [
    ("runtime.commands.build", ["build", "BuildOptions"], {"out", "dry_run", "batch", "size"}),
    ("runtime.commands.card", ["card"], {"ask"}),
    ("runtime.commands.detect_command", ["detect"], set()),
    ("runtime.commands.psf_command", ["psf"], {"out", "overwrite"}),
    ("runtime.commands.review", ["review"], set()),
    ("runtime.commands.unmix", ["unmix"], {"out", "overwrite", "no_refine"}),
    ("benchmarks.evaluate.command", ["evaluate"], set()),
    ("benchmarks.parity.command", ["parity"], {"condition"}),
    ("export.command", ["export"], {"size"}),
]


def named(command: str, name: str) -> object:
    """A function or class that the command's module defines or imports, now or when it runs."""
    module = importlib.import_module(f"glint.{command}")
    if hasattr(module, name):
        return getattr(module, name)
    for line in inspect.getsource(module).splitlines():
        words = line.replace(",", " ").split()
        if words[:1] == ["from"] and name in words[3:]:
            return getattr(importlib.import_module(words[1]), name)
    raise LookupError(f"{command} does not import {name}")


@pytest.mark.parametrize(("command", "receivers", "own"), COMMANDS, ids=[c[0].split(".", 1)[1] for c in COMMANDS])
def test_each_option_reaches_a_function(command: str, receivers: list[str], own: set[str]) -> None:
    parser = argparse.ArgumentParser()
    importlib.import_module(f"glint.{command}").add_arguments(parser)
    options = {action.dest for action in parser._actions}
    known = {name for one in receivers for name in inspect.signature(named(command, one)).parameters}  # type: ignore[arg-type]
    assert options - known - COMMON - own == set()
    assert own <= options


def test_others_stand_in_and_what_a_function_does_not_take_stays_away() -> None:
    def function(first: int, second: int = 2) -> None: ...

    arguments = argparse.Namespace(first=1, second=3, third=4)
    assert options_of(function, arguments, second=5) == {"first": 1, "second": 5}
