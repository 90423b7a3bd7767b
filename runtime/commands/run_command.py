"""The command line of ``glint run``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from glint.cli import print_json, talk
from glint.errors import EXIT_INTERRUPTED, EXIT_OK, InputError, has_secret, safe_uri
from glint.runtime.commands.options import add_engine_arguments, add_refine_arguments, engine_of
from glint.runtime.commands.run_options import OPTIONS, add_run_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``glint run``."""
    parser.add_argument(
        "source", nargs="+",
        help="folder, glob, images, video, array, camera, or synthetic://?size=640x512&frames=100&seed=1",
    )  # fmt: skip
    parser.add_argument("--print-python", action="store_true", help="print the same as Python, and do nothing else")
    add_run_arguments(parser)
    add_engine_arguments(parser)
    add_refine_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run ``glint run``."""
    piped = next((name for name in ("out", "csv") if str(getattr(arguments, name)) == "-"), None)
    if arguments.json and piped:
        raise InputError(f"--json and --{piped} - both want standard output", hint="write the JSON lines to a file")
    given = {**vars(arguments), "engine": engine_of(arguments), "refine": not arguments.no_refine}
    options = {name: given[name] for name in OPTIONS}
    if arguments.print_python:
        print(python_of(arguments.source, options))
        return EXIT_OK
    from glint.runtime.commands.run import run, summary_text

    tell = lambda manifest: talk(summary_text(manifest))  # noqa: E731
    manifest = run(arguments.source, on_end=tell, **options)
    if arguments.json:
        print_json(manifest)
    return EXIT_INTERRUPTED if manifest["interrupted"] else EXIT_OK


def python_of(source: list[str], options: dict[str, Any]) -> str:
    """The call that does what the command does; options that have their defaults are left out.

    An address with a secret is taken from the environment: what is printed may be kept.
    """
    told = {name: value for name, value in options.items() if value != OPTIONS[name].default}
    notes: list[str] = []
    sources = [_python(value, "SOURCE" if len(source) == 1 else f"SOURCE{i}", notes) for i, value in enumerate(source)]
    words = [sources[0] if len(source) == 1 else f"[{', '.join(sources)}]"]
    words += [f"{name}={_python(value, name.upper(), notes)}" for name, value in told.items()]
    head = "import os\n\nimport glint\n" if notes else "import glint\n"
    return "\n".join([head, *notes, f"manifest = glint.run({', '.join(words)})"])


def _python(value: Any, name: str, notes: list[str]) -> str:
    """An argument as Python."""
    if isinstance(value, str) and has_secret(value):
        notes.append(f"# set GLINT_{name} to the whole address: {safe_uri(value)}")
        return f'os.environ["GLINT_{name}"]'
    return repr(str(value) if isinstance(value, Path) else value)
