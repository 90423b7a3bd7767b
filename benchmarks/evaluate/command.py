"""The command line of ``glint evaluate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from glint.choices import PATCH_CONDITIONS, PROTOCOLS
from glint.cli import options_of, positive_int, print_result, seed, talk
from glint.runtime.commands.options import add_engine_arguments, add_refine_arguments, engine_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``glint evaluate``."""
    parser.add_argument("model", nargs="?", help="name in the zoo, model card, or checkpoint (*.safetensors)")
    parser.add_argument(
        "--data", type=Path, action="append", metavar="FOLDER",
        help="SIRST-style or with points.json (detector; several give one table) or CSIST-100K (unmixer)",
    )  # fmt: skip
    group = parser.add_argument_group("detector")
    group.add_argument("--split", default="val", help="list of images, e.g. test or 50_50/test (default: %(default)s)")
    group.add_argument("--protocol", choices=PROTOCOLS, default="native", help="size of the images (default: native)")
    group.add_argument("--pred", type=Path, metavar="FOLDER", help="score these masks or probability maps, not a model")
    group.add_argument("--legacy", action="store_true", help="also Pd and Fa of the widely copied greedy matching")
    group.add_argument(
        "--against", metavar="SPLIT", help="training split to look for leaks in, or none (default: the one beside)"
    )
    group.add_argument(
        "--backgrounds", action="append", metavar="FOLDER|generated",
        help="frames without targets: false alarms, planted targets; in a table of sets: false alarms",
    )  # fmt: skip
    group.add_argument("--out", type=Path, metavar="FOLDER", help="write a report with pictures of the worst images")
    group.add_argument("--overwrite", action="store_true", help="replace the report that is there")
    parser.add_argument(
        "--condition", choices=PATCH_CONDITIONS, default="8sat", help="of simulated patches (default: 8sat)"
    )
    parser.add_argument("--number", type=positive_int, default=2000, help="simulated patches (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=1, help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")
    add_engine_arguments(parser)
    add_refine_arguments(parser, switch=False)


def main(arguments: argparse.Namespace) -> int:
    """Run ``glint evaluate``."""
    from glint.benchmarks.evaluate.evaluate import evaluate, report_text

    result = evaluate(**options_of(evaluate, arguments, engine=engine_of(arguments)))
    print_result(result, report_text, as_json=arguments.json)
    if arguments.out is not None:
        talk(f"wrote {arguments.out / 'report.html'}")
    return 0
