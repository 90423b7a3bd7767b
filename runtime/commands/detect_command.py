"""The command line of ``glint detect``."""

from __future__ import annotations

import argparse
from pathlib import Path

from glint.choices import DEFAULT_DETECTOR
from glint.cli import options_of, print_json, talk
from glint.runtime.commands.options import add_engine_arguments, engine_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``glint detect``."""
    parser.add_argument("source", help="folder of images, glob or image")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write the masks")
    parser.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON on standard output")
    parser.add_argument("--detector", default=DEFAULT_DETECTOR, metavar="NAME|CARD", help="default: %(default)s")
    add_engine_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run ``glint detect``."""
    from glint.runtime.commands.detect import detect

    summary = detect(**options_of(detect, arguments, engine=engine_of(arguments)))
    talk(f"{summary['frames']} masks with {summary['blobs']} blobs in {summary['seconds']:.1f} s")
    for skipped in summary["skipped"]:
        talk(f"skipped {skipped['name']}: {skipped['reason']}")
    if arguments.json:
        print_json(summary)
    return 0
