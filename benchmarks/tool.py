"""Tools of the ``python -m`` kind: a function gives a report, and its arguments are the options of the command."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glint.cards import DEFAULT_DETECTOR, DEFAULT_UNMIXER
from glint.cli import positive_int, print_json, standalone
from glint.errors import EXIT_OK, CheckFailedError
from glint.files import refuse_existing, write_json


@dataclass(frozen=True)
class Tool:
    """A function as a command: its report goes to standard output, and to a file if one is asked for.

    Attributes:
        what: a sentence for the help.
        make: gives the report, JSON-ready. Every option is the argument of its name. What the report lists as
            ``problems`` makes the exit code 1.
        options: adds them to a parser.
        text: the report for people, printed unless ``--json`` is given; None: JSON is printed.
        file: whether ``--out FILE`` takes the report; else ``make`` writes its own files.
        remark: a line on standard error when the report is out.
    """

    what: str
    make: Callable[..., Any]
    options: Callable[[argparse.ArgumentParser], None]
    text: Callable[[Any], str] | None = None
    file: bool = False
    remark: Callable[[Any], None] | None = None

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """Run it as a command; returns the exit code."""
        return standalone(self.what, self.add_arguments, self.main, argv)

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """All options: its own, and those that say where the report goes."""
        self.options(parser)
        if self.file:
            parser.add_argument("--out", type=Path, metavar="FILE", help="write the report as JSON")
            parser.add_argument("--overwrite", action="store_true", help="replace an existing report")
        if self.text is not None:
            parser.add_argument("--json", action="store_true", help="print the report as JSON instead")

    def main(self, arguments: argparse.Namespace) -> int:
        """Make the report and deliver it.

        Raises:
            OutputError: if the report exists already; nothing is made then.
            CheckFailedError: if the report lists problems.
            GlintError: another of its subclasses, as ``make`` raises them.
        """
        out = arguments.out if self.file else None
        if out is not None:
            refuse_existing(out, overwrite=arguments.overwrite)
        own = argparse.ArgumentParser(add_help=False)
        self.options(own)
        names = {action.dest for action in own._actions} | set(inspect.signature(self.make).parameters)
        report = self.make(**{name: value for name, value in vars(arguments).items() if name in names})
        if out is not None:
            write_json(out, report)
        if self.text is None or arguments.json:
            print_json(report)
        else:
            print(self.text(report).rstrip("\n"))
        if self.remark is not None:
            self.remark(report)
        if report.get("problems"):
            raise CheckFailedError("; ".join(report["problems"]))
        return EXIT_OK


def add_pipeline_arguments(parser: argparse.ArgumentParser) -> None:
    """``--detector`` and ``--unmixer``."""
    parser.add_argument("--detector", default=DEFAULT_DETECTOR, metavar="NAME|CARD", help="default: %(default)s")
    parser.add_argument("--unmixer", default=DEFAULT_UNMIXER, metavar="NAME|CARD", help="default: %(default)s")


def add_threads_argument(parser: argparse.ArgumentParser) -> None:
    """``--threads``."""
    parser.add_argument("--threads", type=positive_int, help="CPU threads of the networks (default: all cores)")
