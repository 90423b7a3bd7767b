"""The command line of ``glint bench``."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from glint.choices import BASELINE, BENCH_ENGINES, DEFAULT_DETECTOR, DEFAULT_UNMIXER, PRECISIONS
from glint.cli import frame_size, options_of, positive_float, positive_int, words
from glint.files import refuse_existing

if TYPE_CHECKING:
    from glint.types import FrameSize

_MODES = ("compare", "scaling", "peers")


def _numbers(text: str) -> list[int]:
    return [positive_int(word) for word in words(text)]


def _sizes(text: str) -> list[FrameSize]:
    return [frame_size(word) for word in text.split(",")]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``glint bench``."""
    parser.add_argument(
        "what", nargs="*", metavar="MODEL|pipeline",
        help="models of the zoo, cards, pipeline (default: the pipeline and its models); or compare BEFORE.json "
        "AFTER.json; or scaling; or peers",
    )  # fmt: skip
    rows = parser.add_argument_group("rows")
    rows.add_argument("--engine", type=words, metavar="A,B", help=f"of {', '.join(BENCH_ENGINES)} (default: the best)")
    rows.add_argument("--precision", type=words, metavar="A,B", help=f"of {', '.join(PRECISIONS)} (default: released)")
    rows.add_argument("--batch", type=_numbers, metavar="N,...", help="patches per call (default: 1,64)")
    rows.add_argument("--size", type=_sizes, metavar="WxH,...", help="of frames (default: 640x512)")
    rows.add_argument("--blobs", type=positive_int, default=10, help="clusters per frame (default: %(default)s)")
    rows.add_argument("--no-refine", action="store_true", help="leave the refinement out")
    rows.add_argument("--detector", default=DEFAULT_DETECTOR, help="of the pipeline (default: %(default)s)")
    rows.add_argument("--unmixer", default=DEFAULT_UNMIXER, help="of the pipeline (default: %(default)s)")
    rows.add_argument(
        "--checkpoint", type=Path, action="extend", nargs="+", default=[], metavar="FILE",
        help="weights for the engine torch (default: fresh ones, good for times only)",
    )  # fmt: skip
    rows.add_argument("--threads", type=positive_int, help="CPU threads (default: all cores; peers: 1)")
    effort = parser.add_argument_group("effort")
    effort.add_argument("--seconds", type=positive_float, help="measured per row (default: 10)")
    effort.add_argument("--quick", action="store_true", help="all in about two minutes on two cores")
    judged = parser.add_argument_group("judged by")
    judged.add_argument("--baseline", default=BASELINE, help="row or variant of the ratios (default: %(default)s)")
    judged.add_argument("--data", type=Path, metavar="FOLDER", help="labelled images for detectors")
    judged.add_argument("--split", default="val", help="of that folder (default: %(default)s)")
    compared = parser.add_argument_group("compare")
    compared.add_argument("--tolerance", type=float, default=5.0, help="per cent slower that is no regression (5)")
    compared.add_argument("--anyway", action="store_true", help="compare even other devices and different rows")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out", type=Path, metavar="FILE", help="report.html with report.json beside it, or only .json"
    )
    output.add_argument("--overwrite", action="store_true", help="replace existing files")
    output.add_argument("--json", action="store_true", help="print the report as JSON on standard output")


def main(arguments: argparse.Namespace) -> int:
    """Run ``glint bench``; exit code 1 if ``compare`` finds a regression."""
    from glint.benchmarks.bench.bench import bench, deliver, output_files
    from glint.types import FrameSize

    mode = arguments.what[0] if arguments.what and arguments.what[0] in _MODES else ""
    if mode == "compare":
        from glint.benchmarks.bench.compare import main as compare

        return compare(arguments)
    files = output_files(arguments.out)
    for path in files:
        refuse_existing(path, overwrite=arguments.overwrite)
    if mode == "scaling":
        from glint.benchmarks.bench.scaling import scaling

        report = scaling(**options_of(scaling, arguments, command=_command()))
    elif mode == "peers":
        from glint.benchmarks.bench.peers import peers

        own = options_of(
            peers, arguments, batch=(arguments.batch or [64])[0], threads=arguments.threads or 1,
            checkpoints=arguments.checkpoint, command=_command(),
        )  # fmt: skip
        report = peers(**own)
    else:
        own = options_of(
            bench, arguments, subjects=arguments.what, engines=arguments.engine, precisions=arguments.precision,
            batches=arguments.batch or (1, 64), sizes=arguments.size or (FrameSize(640, 512),),
            refine=not arguments.no_refine, checkpoints=arguments.checkpoint, command=_command(),
        )  # fmt: skip
        report = bench(**own)
    return deliver(report, files, as_json=arguments.json)


def _command() -> str:
    return shlex.join(["glint", *sys.argv[1:]])
