"""``glint bench``: how fast, how accurate, how far from the float model and from the limit, on this machine.

``glint bench compare``, ``scaling`` and ``peers`` are in modules of their own. Nothing heavy is imported
here: what is measured runs in processes of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from glint.benchmarks.bench.cases import PIPELINE, BenchCase, expand
from glint.benchmarks.bench.report import Report, ask_limits, weights_by_key
from glint.benchmarks.bench.turns import QUICK, Bench, Effort, groups_of
from glint.cards import DEFAULT_DETECTOR, DEFAULT_UNMIXER
from glint.choices import BASELINE
from glint.cli import print_result, talk
from glint.errors import EXIT_INTERRUPTED, EXIT_OK, InputError
from glint.files import write_bytes, write_json
from glint.runtime.engines.choose import choose_engine
from glint.runtime.engines.onnxruntime import available_cores
from glint.types import FrameSize


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
    effort = _effort(quick, seconds)
    common = BenchCase(
        "", "", threads=threads or available_cores(), blobs=blobs, refine=refine, detector=detector, unmixer=unmixer
    )
    usual = list(dict.fromkeys([choose_engine("auto")[0], "onnxruntime"]))  # the latter runs them anywhere
    cases, skipped = expand(
        subjects or (PIPELINE, detector, unmixer), engines=engines or usual, precisions=precisions,
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


def _effort(quick: bool, seconds: float | None) -> Effort:
    effort = QUICK if quick else Effort()
    return effort if seconds is None else replace(effort, seconds=seconds)


def _torch_has_gpu(engines: Sequence[str]) -> bool:
    if not any(engine.startswith("torch") for engine in engines):
        return False
    import torch

    return bool(torch.cuda.is_available())


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
    print_result(report, text_of, as_json=as_json)
    for path in files:
        talk(f"written: {path}")
    return EXIT_INTERRUPTED if report["interrupted"] else EXIT_OK
