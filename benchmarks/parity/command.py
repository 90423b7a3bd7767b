"""The command line of ``glint parity``."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from glint.choices import PATCH_CONDITIONS
from glint.cli import options_of, positive_int, print_result, seed
from glint.errors import EXIT_CHECK_FAILED, EXIT_OK


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``glint parity``."""
    kinds = "*.safetensors, *.onnx, *.json (card), *.plan, or a released NAME[:PRECISION][@tensorrt]"
    parser.add_argument("reference", help=kinds)
    parser.add_argument("candidate", help="likewise")
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", metavar="PATH|URI",
        help="patches (.npy, folder), CSIST-100K or SIRST-style folder, frames or synthetic://... (default: simulated)",
    )  # fmt: skip
    data.add_argument("--split", default="val", help="of a SIRST-style folder (default: %(default)s)")
    data.add_argument(
        "--condition", nargs="+", choices=PATCH_CONDITIONS, default=[], metavar="NAME",
        help=f"of simulated patches, out of {', '.join(PATCH_CONDITIONS)} (default: those of the benchmark)",
    )  # fmt: skip
    data.add_argument(
        "--number", type=positive_int, help="patches per condition (default: 1000), or frames (default: 20 or all)"
    )
    data.add_argument("--seed", type=seed, default=1, help="of the simulation (default: 1)")
    verdict = parser.add_argument_group("verdict")
    verdict.add_argument(
        "--budget", type=_not_negative, metavar="POINTS",
        help="largest difference of CSO-mAP or IoU in percent (default: 0.05 for fp32, 0.1 for fp16, 0.3 for int8)",
    )  # fmt: skip
    verdict.add_argument(
        "--tolerance", type=_not_negative, metavar="SHARE",
        help="largest error of an output over its largest magnitude (default: 1e-3 for fp32, any for the others)",
    )  # fmt: skip
    verdict.add_argument("--layers", action="store_true", help="compare layers even if all is well")
    parser.add_argument("--threads", type=positive_int, help="CPU threads (default: all cores)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="HTML report")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing report")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number >= 0, got {text}")
    return value


def main(arguments: argparse.Namespace) -> int:
    """Run ``glint parity``."""
    from glint.benchmarks.parity.parity import parity
    from glint.benchmarks.parity.report import report_text

    result = parity(**options_of(parity, arguments, conditions=arguments.condition))
    print_result(result, report_text, as_json=arguments.json)
    return EXIT_OK if result["passed"] else EXIT_CHECK_FAILED
