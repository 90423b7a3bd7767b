"""The command line of ``glint psf``."""

from __future__ import annotations

import argparse
from pathlib import Path

from glint.choices import DEFAULT_DETECTOR
from glint.cli import options_of, positive_float, positive_int, print_json, talk
from glint.config import to_dict
from glint.files import refuse_existing
from glint.runtime.commands.options import add_engine_arguments, engine_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``glint psf``."""
    parser.add_argument("source", help="folder, glob, image or synthetic://? as for run, or patches [N, 11, 11] (.npy)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file that run and unmix take with --psf")
    parser.add_argument("--report", type=Path, metavar="PNG", help="picture of the sampled PSF and of the spots")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--detector", default=DEFAULT_DETECTOR, metavar="NAME|CARD", help="default: %(default)s")
    parser.add_argument("--full-scale", type=positive_float, metavar="DN", help="saturation level (default: 8-bit 255)")
    parser.add_argument("--least", type=positive_int, default=5, help="fewest isolated targets (default: %(default)s)")
    add_engine_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run ``glint psf``."""
    from glint.optics import save_psf
    from glint.runtime.commands.psf import psf, psf_text

    for path in (arguments.out, arguments.report):
        if path is not None:
            refuse_existing(path, overwrite=arguments.overwrite)
    estimate = psf(**options_of(psf, arguments, engine=engine_of(arguments)))
    if arguments.out is not None:
        save_psf(estimate, arguments.out)
    talk(psf_text(estimate))
    if arguments.json:
        print_json(to_dict(estimate))
    return 0
