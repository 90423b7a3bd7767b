"""The command line of ``glint simulate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from glint.choices import PATCH_CONDITIONS
from glint.cli import positive_int, talk
from glint.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``glint simulate``."""
    parser.add_argument("out", type=Path, help="FILE.npy, or a new folder (CSIST-100K layout: 8-bit PNG and XML)")
    parser.add_argument(
        "--scene", metavar="URI", help="frames instead of patches: synthetic://?size=640x512&frames=100&..."
    )
    parser.add_argument("--condition", choices=PATCH_CONDITIONS, help="of patches (default: float)")
    parser.add_argument("--number", type=positive_int, help="of patches (default: 1000)")
    parser.add_argument("--seed", type=int, help="of patches (default: 1)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing .npy file (a folder never is)")


def main(arguments: argparse.Namespace) -> int:
    """Run ``glint simulate``."""
    from glint.simulate import simulate, simulate_frames
    from glint.simulation.scenes import parse_synthetic

    options = {n: getattr(arguments, n) for n in ("condition", "number", "seed") if getattr(arguments, n) is not None}
    if options.get("seed", 0) < 0:
        raise InputError(f"--seed: expected a whole number >= 0, got {arguments.seed}")
    if arguments.scene is not None and (options or arguments.overwrite):
        raise InputError(
            "--scene takes its settings from the URI and overwrites nothing", hint="see glint simulate --help"
        )
    if arguments.scene is not None:
        frames = simulate_frames(parse_synthetic(arguments.scene), arguments.out)
        talk(f"wrote {frames} frames to {arguments.out}")
        return 0
    patches = simulate(arguments.out, overwrite=arguments.overwrite, **options)
    drawn = f"{options.get('condition', 'float')}, seed {options.get('seed', 1)}"
    talk(f"wrote {len(patches)} patches ({drawn}) to {arguments.out}")
    return 0
