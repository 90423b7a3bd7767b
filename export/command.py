"""The command line of ``glint export``."""

from __future__ import annotations

import argparse
from pathlib import Path

from glint.cli import frame_size, options_of
from glint.errors import ModelError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``glint export``."""
    parser.add_argument("checkpoint", type=Path, help="weights, *.safetensors")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write the files")
    parser.add_argument(
        "--size", type=frame_size, nargs="+", default=[], metavar="WIDTHxHEIGHT",
        help="LSNet: one file for each size of frames, multiples of 16 (default: one file for any size)",
    )  # fmt: skip
    parser.add_argument("--name", help="name of the model (default: the network's)")
    parser.add_argument("--threshold", type=float, help="of a target: probability, DN (csist) or share (sensor)")
    parser.add_argument("--weights", type=Path, metavar="FOLDER", help="also keep the averaged weights there")
    parser.add_argument("--half", action="store_true", help="keep them in float16")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")


def main(arguments: argparse.Namespace) -> int:
    """Run ``glint export``."""
    if not arguments.checkpoint.is_file():  # told before a library that is missing
        raise ModelError(
            f"checkpoint {arguments.checkpoint}: no such file",
            hint="is the name right? glint train writes best.safetensors into its --out",
        )
    from glint.export.export import export

    export(**options_of(export, arguments, sizes=arguments.size))
    return 0
