"""A table in a folder: its rows as JSON with the settings that they were measured with, and the same as Markdown."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glint.cards import load_card, zoo_names
from glint.cli import words
from glint.errors import InputError
from glint.files import read_json, refuse_existing, write_bytes, write_json

Table = dict[str, Any]


@dataclass(frozen=True)
class TableFile:
    """Where a table is written, again after every row.

    Attributes:
        path: the JSON file; the Markdown file lies beside it.
        markdown: the table as Markdown.
    """

    path: Path
    markdown: Callable[[Table], str]

    def begin(self, settings: Table, *, resume: bool, overwrite: bool) -> Table:
        """A table with ``settings`` and no ``rows``, or the one that is there.

        Args:
            settings: what every row is measured with, JSON-ready.
            resume: go on with the table that is there.
            overwrite: replace it.

        Raises:
            InputError: if the table to go on with has other settings.
            OutputError: if there is one, and neither is set.
        """
        if not (resume and self.path.is_file()):
            refuse_existing(self.path, overwrite=overwrite)
            return {**settings, "rows": []}
        table: Table = read_json(self.path, what="table", kind=dict)
        other = [name for name, value in settings.items() if table.get(name) != value]
        if other:
            raise InputError(f"{self.path} was measured with other settings ({', '.join(other)})", hint="drop --resume")
        return table

    def write(self, table: Table) -> None:
        """Write both files, each atomically."""
        write_json(self.path, table)
        write_bytes(self.path.with_suffix(".md"), self.markdown(table).encode())


def add_table_arguments(parser: argparse.ArgumentParser, name: str, methods: Iterable[str]) -> None:
    """Options of a table of methods and models in a folder."""
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help=f"for {name}.json and {name}.md")
    parser.add_argument("--methods", type=words, default=list(methods), metavar="A,B", help="classical (default: all)")
    text = "again for more (default: all of the zoo)"
    parser.add_argument("--model", action="append", dest="models", metavar="NAME|CARD|CHECKPOINT", help=text)
    parser.add_argument("--resume", action="store_true", help="keep what the folder holds and add what is missing")
    parser.add_argument("--overwrite", action="store_true", help="replace what the folder holds")


def released(task: str) -> list[str]:
    """Names of the released models of a task, ``detect`` or ``unmix``."""
    names = [name.removesuffix(".fp32") for name in zoo_names() if name.endswith(".fp32")]
    return [name for name in names if load_card(name)[0].task == task]


def refuse_unknown(what: str, names: Sequence[str], known: Collection[str]) -> None:
    """Stop before any work at a name that is not known.

    Raises:
        InputError: if one of the names is not among the known ones.
    """
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"unknown {what} {unknown[0]!r}", hint=f"known: {', '.join(known)}")
