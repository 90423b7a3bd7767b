"""``glint bench``: how fast, how accurate, how far from the float model and from the limit, on this machine.

``glint bench compare``, ``scaling`` and ``peers`` are in modules of their own. Nothing heavy is imported
here: what is measured runs in processes of its own.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from glint.benchmarks.bench.cases import BENCH_ENGINES, PIPELINE, BenchCase, expand
from glint.benchmarks.bench.report import Report, ask_limits, weights_by_key
from glint.benchmarks.bench.turns import BASELINE, QUICK, Bench, Effort, groups_of
from glint.cards import DEFAULT_DETECTOR, DEFAULT_UNMIXER, PRECISIONS
from glint.cli import frame_size, positive_float, positive_int, print_json, talk, words
from glint.errors import EXIT_INTERRUPTED, EXIT_OK, InputError
from glint.files import refuse_existing, write_bytes, write_json
from glint.runtime.engines.choose import choose_engine
from glint.runtime.engines.onnxruntime import available_cores
from glint.types import FrameSize

_MODES = ("compare", "scaling", "peers")


def bench(
    subjects: Sequence[str] = (),
    *,
    engines: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    batches: Sequence[int] = (1, 64),
    sizes: Sequence[FrameSize] = (FrameSize(640, 512),),
    blobs: int = 10,
    refine: bool = True,
    detector: str = DEFAULT_DETECTOR,
    unmixer: str = DEFAULT_UNMIXER,
    checkpoints: Sequence[Path] = (),
    threads: int | None = None,
    baseline: str = BASELINE,
    seconds: float | None = None,
    quick: bool = False,
    data: Path | None = None,
    split: str = "val",
    command: str = "",
) -> dict[str, Any]:
    """Measure a matrix of models, engines, precisions, batches and sizes.

    Args:
        subjects: models (names in the zoo or cards) and ``pipeline``; default: the pipeline and its two models.
        engines: of :data:`BENCH_ENGINES`; default: what ``auto`` means here, and ONNX Runtime.
        precisions: default: all that the models are released in.
        batches: patches per call, for unmixers.
        sizes: of frames, for detectors and the pipeline.
        blobs: clusters in those frames.
        refine: refine the targets, as ``glint unmix`` and ``glint run`` do.
        detector, unmixer: of the pipeline.
        checkpoints: weights for PyTorch, each for the model of its network and domain.
        threads: of the CPU; default: all cores.
        baseline: variant or name of the row that the rows of its place are compared with.
        seconds: measured per row; default: 10, or 1.2 with ``quick``.
        quick: everything in about two minutes on two cores, with a coarse growth of costs.
        data, split: labelled images that detectors are scored on; default: simulated frames.
        command: what the user typed, for the report.

    Returns:
        The report, JSON-ready; ``interrupted`` is set if Ctrl-C ended it early.

    Raises:
        GlintError: one of its subclasses, if there is nothing to measure.
    """
    effort = QUICK if quick else Effort()
    effort = effort if seconds is None else replace(effort, seconds=seconds)
    common = BenchCase(
        "", "", threads=threads or available_cores(), blobs=blobs, refine=refine, detector=detector, unmixer=unmixer
    )
    cases, skipped = expand(
        subjects or (PIPELINE, detector, unmixer), engines=engines or default_engines(), precisions=precisions,
        batches=batches, sizes=sizes, common=common, checkpoints=weights_by_key(checkpoints),
        gpu_torch=_torch_has_gpu(engines or ()),
    )  # fmt: skip
    judging = {"patches": effort.patches, "data": None if data is None else str(data.resolve()), "split": split}
    groups = groups_of(cases)
    runner = Bench(effort, judging=judging, total=len(groups))
    coarse = Bench(effort)  # its deadline is that of the rows
    report = Report(command, effort, skipped, runner, baseline, threads=common.threads)

    def measure() -> None:
        report.limits = ask_limits(common, effort.limits)
        for group in groups:
            runner.group(group)
        if quick:
            from glint.benchmarks.bench.scaling import curves

            report.growth = curves(common, coarse, ("blobs",))
            report.skipped += coarse.skipped

    return report.fill(measure)


def default_engines() -> list[str]:
    """What runs the models here by default, and ONNX Runtime, which runs them anywhere."""
    return list(dict.fromkeys([choose_engine("auto")[0], "onnxruntime"]))


def _torch_has_gpu(engines: Sequence[str]) -> bool:
    if not any(engine.startswith("torch") for engine in engines):
        return False
    import torch

    return bool(torch.cuda.is_available())


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
    mode = arguments.what[0] if arguments.what and arguments.what[0] in _MODES else ""
    if mode == "compare":
        from glint.benchmarks.bench.compare import main as compare

        return compare(arguments)
    files = output_files(arguments.out)
    for path in files:
        refuse_existing(path, overwrite=arguments.overwrite)
    if mode == "scaling":
        from glint.benchmarks.bench.scaling import scaling

        report = scaling(
            detector=arguments.detector, unmixer=arguments.unmixer, threads=arguments.threads,
            seconds=arguments.seconds, quick=arguments.quick, command=_command(),
        )  # fmt: skip
    elif mode == "peers":
        from glint.benchmarks.bench.peers import peers

        report = peers(
            batch=(arguments.batch or [64])[0], threads=arguments.threads or 1, seconds=arguments.seconds,
            quick=arguments.quick, checkpoints=arguments.checkpoint, command=_command(),
        )  # fmt: skip
    else:
        report = bench(
            arguments.what, engines=arguments.engine, precisions=arguments.precision,
            batches=arguments.batch or (1, 64), sizes=arguments.size or (FrameSize(640, 512),), blobs=arguments.blobs,
            refine=not arguments.no_refine, detector=arguments.detector, unmixer=arguments.unmixer,
            checkpoints=arguments.checkpoint, threads=arguments.threads, baseline=arguments.baseline,
            seconds=arguments.seconds, quick=arguments.quick, data=arguments.data, split=arguments.split,
            command=_command(),
        )  # fmt: skip
    return deliver(report, files, as_json=arguments.json)


def _command() -> str:
    return shlex.join(["glint", *sys.argv[1:]])


def output_files(out: Path | None) -> list[Path]:
    """What is written for ``--out``: the page and the JSON beside it, or the JSON alone.

    Raises:
        InputError: if it ends in something else.
    """
    if out is None:
        return []
    if out.suffix not in (".html", ".json"):
        raise InputError(f"--out {out}: expected a name that ends in .html or .json")
    return [out, out.with_suffix(".json")] if out.suffix == ".html" else [out]


def deliver(report: dict[str, Any], files: Sequence[Path], *, as_json: bool) -> int:
    """Write and print a report; 130 if it was interrupted."""
    from glint.benchmarks.bench.page import page_of
    from glint.benchmarks.bench.text import text_of

    for path in files:
        if path.suffix == ".json":
            write_json(path, report)
        else:
            write_bytes(path, page_of(report).encode())
    if as_json:
        print_json(report)
    else:
        print(text_of(report))
    for path in files:
        talk(f"written: {path}")
    return EXIT_INTERRUPTED if report["interrupted"] else EXIT_OK
