"""The command line of ``glint run``."""

from __future__ import annotations

import argparse
import sys

from glint.cli import print_json
from glint.errors import EXIT_INTERRUPTED, EXIT_OK, InputError
from glint.runtime.commands.options import add_engine_arguments, add_refine_arguments, engine_of
from glint.runtime.commands.run_options import OPTIONS, add_run_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``glint run``."""
    parser.add_argument("source", help="folder, glob, image, or synthetic://?size=640x512&frames=100&seed=1")
    add_run_arguments(parser)
    add_engine_arguments(parser)
    add_refine_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run ``glint run``."""
    from glint.runtime.commands.run import run, summary_text

    if arguments.json and arguments.out == "-":
        raise InputError("--json and --out - both want standard output", hint="write the JSON lines to a file")
    given = {**vars(arguments), "engine": engine_of(arguments), "refine": not arguments.no_refine}
    manifest = run(arguments.source, **{name: given[name] for name in OPTIONS})
    print(summary_text(manifest), file=sys.stderr)
    if arguments.json:
        print_json(manifest)
    return EXIT_INTERRUPTED if manifest["interrupted"] else EXIT_OK
