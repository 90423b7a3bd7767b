"""What can be measured: one case is one row of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glint.cards import PRECISIONS, load_card
from glint.choices import BENCH_ENGINES
from glint.errors import GlintError, InputError
from glint.types import FrameSize

PIPELINE = "pipeline"


@dataclass(frozen=True)
class BenchCase:
    """One row.

    Attributes:
        subject: a model (name in the zoo or path of its card), ``pipeline``, or a peer's name.
        task: ``detect``, ``unmix``, ``pipeline``, ``peer detect`` or ``peer unmix``.
        engine: one of :data:`BENCH_ENGINES`; of a peer what computes it, e.g. ``numpy``.
        precision: ``fp32``, ``fp16`` or ``int8``.
        batch: patches per call.
        size: of frames.
        blobs: clusters in a frame.
        threads: CPU threads.
        graph: whether TensorRT may use a CUDA graph.
        buffers: ``pinned`` or ``mapped`` memory for TensorRT; None: what is faster here.
        refine: whether targets are refined.
        detector, unmixer: of the pipeline.
        checkpoint: weights for PyTorch; None: fresh ones, which are good for times only.
    """

    subject: str
    task: str
    engine: str = "onnxruntime"
    precision: str = "fp32"
    batch: int = 1
    size: FrameSize = FrameSize(640, 512)
    blobs: int = 10
    threads: int = 1
    graph: bool = True
    buffers: str | None = None
    refine: bool = True
    detector: str = ""
    unmixer: str = ""
    checkpoint: str | None = None

    @property
    def label(self) -> str:
        """What is measured, without its path and ending."""
        path = Path(self.subject)
        return path.name.split(".")[0] if path.suffix in (".json", ".onnx") else self.subject

    @property
    def place(self) -> str:
        """Subject and size: cases of one place do the same work, and take turns."""
        frames = f" {self.size}"
        if self.task == "pipeline":
            return f"{self.label}{frames}, {self.blobs} blobs"
        return self.label + (frames if self.task.endswith("detect") else f" x{self.batch}")

    @property
    def variant(self) -> str:
        """Engine, precision and what else tells cases of one place apart."""
        words = [self.engine, self.precision]
        if self.engine == "tensorrt":
            words += [] if self.graph else ["no graph"]
            words += [self.buffers] if self.buffers else []
        if self.engine.startswith("torch") and self.checkpoint is None:
            words.append("(fresh weights)")
        return " ".join(words)

    @property
    def telling(self) -> bool:
        """Whether its answers say something: fresh weights are good for times only."""
        return not self.engine.startswith("torch") or self.checkpoint is not None

    @property
    def name(self) -> str:
        """Place and variant."""
        return f"{self.place}, {self.variant}"


@dataclass(frozen=True)
class Skip:
    """A case that is not measured, and why."""

    name: str
    reason: str


def expand(
    subjects: Sequence[str],
    *,
    engines: Sequence[str],
    precisions: Sequence[str] | None,
    batches: Sequence[int],
    sizes: Sequence[FrameSize],
    common: BenchCase,
    checkpoints: dict[str, str],
    gpu_torch: bool,
) -> tuple[list[BenchCase], list[Skip]]:
    """All cases of a matrix, and those of it that do not exist.

    Args:
        subjects: models, and ``pipeline``.
        engines: of :data:`BENCH_ENGINES`.
        precisions: of the released models; None: all that there are.
        batches: patches per call, for unmixers.
        sizes: of frames, for detectors and the pipeline.
        common: what all cases share: threads, blobs, refinement, the pipeline's models.
        checkpoints: weights by :func:`weights_key`.
        gpu_torch: PyTorch would run on a GPU, so that fp16 makes sense.

    Raises:
        InputError: if an engine or precision is unknown.
        ModelError: if a model is in none of the precisions.
    """
    for what, given, known in (("engine", engines, BENCH_ENGINES), ("precision", precisions or (), PRECISIONS)):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise InputError(f"unknown {what} {unknown[0]!r}", hint=f"known: {', '.join(known)}")
    cases: list[BenchCase] = []
    skipped: list[Skip] = []
    for subject in subjects:
        task, key, own = _describe(subject, common)
        base = replace(common, subject=subject, task=task, checkpoint=checkpoints.get(key))
        places = (
            [replace(base, batch=b) for b in batches] if task == "unmix" else [replace(base, size=s) for s in sizes]
        )
        for engine in engines:
            for precision in [own] if own else precisions or PRECISIONS:
                reason = _missing(base, engine, precision, gpu_torch)
                if reason and precisions is None and engine != "tensorrt" and precision != "fp32":
                    continue  # nobody asked for it
                if reason:
                    skipped.append(Skip(f"{base.label}, {engine} {precision}", reason))
                    continue
                cases += [v for p in places for v in _variants(replace(p, engine=engine, precision=precision))]
    if not cases and not skipped:
        raise InputError("nothing to measure", hint="name a model of the zoo, or pipeline")
    return list(dict.fromkeys(cases)), list(dict.fromkeys(skipped))


def _describe(subject: str, common: BenchCase) -> tuple[str, str, str]:
    """Task, key of the weights and, for a path, the precision of a subject."""
    if subject == PIPELINE:
        return PIPELINE, "", ""
    error: GlintError | None = None
    for precision in PRECISIONS:
        try:
            card, _ = load_card(subject, precision=precision)
        except GlintError as problem:
            error = error or problem
            continue
        own = card.precision if Path(subject).suffix in (".json", ".onnx") else ""
        return card.task, weights_key(card.network, card.training), own
    assert error is not None  # noqa: S101  (PRECISIONS is not empty)
    raise error


def weights_key(network: str, training: Mapping[str, Any]) -> str:
    """What weights and a model must have in common to be of each other: network and, if it has several, domain."""
    return f"{network} {training.get('data', {}).get('domain', '')}".strip()


def _missing(case: BenchCase, engine: str, precision: str, gpu_torch: bool) -> str | None:
    """Why there is no such case, or None."""
    if engine.startswith("torch"):
        if case.task == PIPELINE:
            return "the pipeline does not run on PyTorch"
        if precision == "int8":
            return "PyTorch runs the float network"
        if precision == "fp16" and not gpu_torch:
            return "PyTorch computes in fp16 on a GPU only"
        return None
    models = [case.detector, case.unmixer] if case.task == PIPELINE else [case.subject]
    for model in models:
        try:
            load_card(model, precision=precision)
        except GlintError as error:
            return str(error)
    return None


def _variants(case: BenchCase) -> list[BenchCase]:
    """The case; on TensorRT also without a CUDA graph, and with the GPU working in the host's memory."""
    if case.engine != "tensorrt" or case.task == PIPELINE:
        return [case]
    pinned = replace(case, buffers="pinned")
    return [pinned, replace(pinned, graph=False), replace(case, buffers="mapped")]
