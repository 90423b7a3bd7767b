"""``glint unmix``: patches in, targets out."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from glint.choices import DEFAULT_UNMIXER
from glint.cli import options_of, positive_float, print_json, talk
from glint.errors import InputError
from glint.runtime.commands.options import add_engine_arguments, add_refine_arguments, engine_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``glint unmix``."""
    parser.add_argument("patches", type=Path, help="array [N, 11, 11] (.npy) or folder of 11x11 images, DN")
    parser.add_argument("--out", default="-", metavar="FILE", help="JSON lines, one object per patch (default: -)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of JSON lines")
    parser.add_argument("--unmixer", default=DEFAULT_UNMIXER, metavar="NAME|CARD", help="default: %(default)s")
    parser.add_argument(
        "--full-scale",
        type=positive_float,
        metavar="DN",
        help="saturation level (default: uint8 255, else recognised)",
    )
    add_engine_arguments(parser)
    add_refine_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run ``glint unmix``."""
    from glint.runtime.engines.choose import choose_engine
    from glint.runtime.sinks.json_lines import JsonLines
    from glint.runtime.unmixing.unmix import read_patches, unmix

    if arguments.json and arguments.out != "-":
        raise InputError("--json prints on standard output: leave --out away", hint="--out FILE writes JSON lines")
    with JsonLines(arguments.out, overwrite=arguments.overwrite) as sink:
        patches = read_patches(arguments.patches)
        started = time.perf_counter()
        engine, refine = engine_of(arguments), not arguments.no_refine
        targets = unmix(**options_of(unmix, arguments, patches=patches, engine=engine, refine=refine))
        seconds = time.perf_counter() - started
        engine = choose_engine(engine)[0]
        talk(f"{len(targets)} targets in {len(patches)} patches, {seconds:.1f} s ({engine}, {arguments.unmixer})")
        records: list[list[dict[str, Any]]] = [[] for _ in patches]
        for number, record in zip(targets.blob.tolist(), targets.records(counts=True)):
            del record["blob"]
            records[number].append(record)
        lines = [{"patch": number, "targets": rows} for number, rows in enumerate(records)]
        if arguments.json:
            print_json(lines)
        else:
            for value in lines:
                sink.write(value)
    return 0
