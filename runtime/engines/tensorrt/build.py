"""Engines for this machine: found in the cache, or built and put there.

:func:`preview_build` says what would be done, :func:`build_previewed` does it, :func:`build` is both.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from glint.cards import PRECISIONS, ModelCard, TensorSpec, load_card, zoo_names
from glint.cli import talk
from glint.config import to_dict
from glint.errors import EngineError, InputError, ModelError, OutputError
from glint.files import sha256, write_bytes
from glint.formats.seal import sealed, unsealed
from glint.runtime.engines.tensorrt import cuda
from glint.runtime.engines.tensorrt.api import TensorRT, load
from glint.runtime.engines.tensorrt.audit import require
from glint.runtime.engines.tensorrt.cache import (
    ANY_GPU,
    InputRange,
    Profile,
    Sidecar,
    Target,
    difference,
    entries,
    entry_path,
    locked,
    read_info,
    sidecar_path,
    store,
    timing_cache_path,
    verify,
)
from glint.runtime.engines.tensorrt.onnx_to_plan import Order, compute_capabilities, plan_from_onnx
from glint.types import FrameSize

Batch = tuple[int, int, int]  # least, usual and largest number of patches of a call
DEFAULT_BATCH: Batch = (1, 64, 256)
# Last and first releases with DLA on Jetson; the API is in all of them.
_LAST_OLD_DLA, _FIRST_NEW_DLA = (10, 7), (11, 4, 1)


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built.

    Attributes:
        precision: ``fp32``, ``fp16`` or ``int8``; None: the card's, or what ``glint run`` takes of a name in
            the zoo: fp16, else fp32.
        sizes: of the frames, one profile each, for a network that takes any size.
        batches: least, usual and largest number of patches, one profile each, for a network with a dynamic batch.
        workspace: bytes of scratch memory at most; None: half of the GPU's free memory.
        dla: DLA core; None: the GPU.
        weak: let the builder choose precisions (TensorRT 10.x): fp16 from the fp32 model, int8 from
            the Q/DQ model.
        optimization_level: how long the builder searches, 0 to 5; None: its own (3).
    """

    precision: str | None = None
    sizes: tuple[FrameSize, ...] = ()
    batches: tuple[Batch, ...] = ()
    workspace: int | None = None
    dla: int | None = None
    weak: bool = False
    optimization_level: int | None = None

    def __post_init__(self) -> None:
        if self.precision is not None and self.precision not in PRECISIONS:
            raise InputError(f"precision: expected {', '.join(PRECISIONS)}, got {self.precision!r}")
        for batch in self.batches:
            if not 1 <= batch[0] <= batch[1] <= batch[2]:
                raise InputError(f"batch: expected 1 <= MIN <= OPT <= MAX, got {','.join(map(str, batch))}")
        if any(min(size) < 1 for size in self.sizes):
            raise InputError(f"size: expected positive numbers, got {', '.join(map(str, self.sizes))}")
        if self.workspace is not None and self.workspace < 1:
            raise InputError(f"workspace: expected a positive number of bytes, got {self.workspace}")
        if self.dla is not None and self.dla < 0:
            raise InputError(f"DLA core: expected 0 or 1, got {self.dla}")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise InputError(f"optimization level: expected 0 to 5, got {self.optimization_level}")
        if self.weak and self.precision not in ("fp16", "int8"):
            raise InputError(
                "weak typing needs a precision to choose: fp16 or int8",
                hint="add --precision fp16 or int8, or leave --weak away",
            )


@dataclass(frozen=True)
class BuildPreview:
    """What :func:`build` would do.

    Attributes:
        card, onnx, onnx_sha256: the model.
        target: the machine.
        precision, profiles, options: of the engine.
        workspace: limit in bytes that the build would start with, or None.
        path: where the plan is or would be.
        reason: why it must be built; None: the cache has it.
    """

    card: ModelCard
    onnx: Path
    onnx_sha256: str
    target: Target
    precision: str
    profiles: tuple[Profile, ...]
    options: dict[str, Any]
    workspace: int | None
    path: Path
    reason: str | None


@dataclass(frozen=True)
class BuiltEngine:
    """A plan that fits this machine: its path and sidecar, and whether the cache had it."""

    path: Path
    info: Sidecar
    cached: bool


def build(
    model: str | Path,
    options: BuildOptions | None = None,
    *,
    flavour: str | None = None,
    compute_capability: str | None = None,
    no_build: bool = False,
    overwrite: bool = False,
) -> BuiltEngine:
    """An engine of a model for this machine, from the cache if it has one that fits.

    Args:
        model: name in the zoo, or path of a card or of the ONNX file beside it.
        options: how to build it.
        flavour: ``tensorrt`` or ``tensorrt_rtx``; default: what is installed.
        compute_capability: e.g. ``8.6``: build ahead of time for such a GPU (``tensorrt_rtx`` only).
        no_build: refuse instead of building.
        overwrite: build even if the cache has it.

    Raises:
        InputError: on options that the model, the machine or this TensorRT does not take.
        ModelError: if the model is missing, corrupt, or nothing that TensorRT can parse.
        EngineError: if there is no GPU, the build fails, or it is not allowed.
        CheckFailedError: if the engine does not run in the precision that was asked for.
        MissingDependencyError: if TensorRT or pycuda is not installed.
        OutputError: if the cache cannot be written.
    """
    trt = load(flavour)
    plan = preview_build(model, options or BuildOptions(), trt=trt, compute_capability=compute_capability)
    return build_previewed(plan, trt=trt, no_build=no_build, overwrite=overwrite)


def build_previewed(
    plan: BuildPreview, *, trt: TensorRT, no_build: bool = False, overwrite: bool = False
) -> BuiltEngine:
    """The engine of a preview that ``trt`` made; arguments and errors as of :func:`build`."""
    if plan.reason is None and not overwrite:
        return BuiltEngine(plan.path, read_info(plan.path), cached=True)
    reason = plan.reason or "asked to build it again"
    if no_build:
        raise EngineError(
            f"no engine of {plan.card.name} ({plan.precision}) may be built here, and the cache has none: {reason}",
            hint="run the same without --no-build",
        )
    with locked(lambda: talk("build: waiting for another process that builds an engine")):
        # The process that held the lock may have built the very same one.
        if not overwrite and verify(plan.path, plan.target, onnx_sha256=plan.onnx_sha256) is None:
            return BuiltEngine(plan.path, read_info(plan.path), cached=True)
        talk(f"build: {plan.card.name} ({plan.precision}) for {describe(plan.target)}: {reason}")
        info = _build(trt, plan)
    return BuiltEngine(plan.path, info, cached=False)


def preview_build(
    model: str | Path,
    options: BuildOptions,
    *,
    trt: TensorRT,
    compute_capability: str | None = None,
    card: ModelCard | None = None,
) -> BuildPreview:
    """What :func:`build` would do; raises what it would raise before it builds.

    Args:
        model, options, compute_capability: as of :func:`build`.
        trt: the library.
        card: that :func:`~glint.cards.load_card` read of the ONNX file ``model`` already: it is not read and its
            file not hashed again.
    """
    _refuse_impossible(trt, options, compute_capability)
    card, onnx, precision, profiles = plan_model(model, options, card)
    target, workspace = machine(trt, compute_capability, options.workspace)
    onnx_sha256 = _model_hash(card, onnx)
    built_with: dict[str, Any] = {
        "precision": precision,
        "weak": options.weak,
        "dla": options.dla,
        "workspace": options.workspace,
    }
    if options.optimization_level is not None:
        built_with["optimization_level"] = options.optimization_level
    _refuse_dla(trt, options, precision, profiles)
    path = entry_path(f"{card.name}.{precision}", onnx_sha256, target, profiles, built_with)
    plan = BuildPreview(card, onnx, onnx_sha256, target, precision, profiles, built_with, workspace, path, None)
    return replace(plan, reason=_why_build(plan))


def plan_model(
    model: str | Path, options: BuildOptions, card: ModelCard | None = None
) -> tuple[ModelCard, Path, str, tuple[Profile, ...]]:
    """What is known of an engine before its machine is: card, ONNX file, precision and profiles.

    Raises:
        GlintError: one of its subclasses, if there is no such model, or it does not suit the options.
    """
    # Weak typing takes fp16 from a flag; int8 needs the model's Q/DQ in any case.
    wanted = "fp32" if options.weak and options.precision == "fp16" else options.precision
    released = "fp16" if f"{model}.fp16" in zoo_names() else "fp32"
    card, onnx = load_card(model, precision=wanted or released) if card is None else (card, Path(model))
    if wanted is not None and card.precision != wanted:
        raise InputError(
            f"precision {options.precision} needs a model in {wanted}, {onnx.name} is in {card.precision}",
            hint=f"glint build {card.name} --precision {options.precision}, or leave --precision out",
        )
    precision = options.precision or card.precision
    return card, onnx, precision, _profiles(card, options)


def describe(target: Target) -> str:
    """A target for the person at the terminal."""
    gpu = "any GPU" if target.gpu == ANY_GPU else target.gpu
    return f"{gpu} (compute capability {target.sm}), {target.flavour} {target.tensorrt}"


def machine(
    trt: TensorRT, compute_capability: str | None = None, workspace: int | None = None
) -> tuple[Target, int | None]:
    """What engines are tied to here, and the workspace limit, bytes, that its free memory allows.

    Raises:
        MissingDependencyError: if pycuda is not installed.
        EngineError: if there is no GPU.
    """
    if compute_capability is not None:
        return Target(trt.flavour, trt.version, ANY_GPU, compute_capability), workspace
    try:
        gpu = cuda.gpu()
    except EngineError as error:
        if not trt.ahead_of_time:
            raise
        raise EngineError(str(error), hint="--compute-capability 8.6 builds for such a GPU without one") from error
    # The other half is for weights, activations, and on a Jetson for everything else that runs.
    half = gpu.free // 2
    limit = half if workspace is None else min(workspace, half)
    here = Target(trt.flavour, trt.version, gpu.name, gpu.sm, gpu.cuda, gpu.driver, gpu.multiprocessors, gpu.power_mode)
    return here, limit


def _refuse_impossible(trt: TensorRT, options: BuildOptions, compute_capability: str | None) -> None:
    here = f"{trt.flavour} {trt.version}"
    if options.weak and not trt.can_be_weak:
        raise InputError(
            f"weak typing: {here} has strongly typed networks only",
            hint="leave --weak out: the precisions stand in the model",
        )
    if options.dla is not None:
        has_dla = trt.flavour == "tensorrt" and (trt.release[:2] <= _LAST_OLD_DLA or trt.release[:3] >= _FIRST_NEW_DLA)
        if not has_dla:
            raise InputError(
                f"DLA: {here} cannot use it; TensorRT 10.0 to 10.7 and 11.4.1 or newer on Jetson can",
                hint="leave --dla out to build for the GPU",
            )
    if compute_capability is not None and compute_capability not in compute_capabilities(trt):
        known = ", ".join(compute_capabilities(trt))
        raise InputError(
            f"compute capability {compute_capability}: {here} cannot build ahead of time for it",
            hint=f"it can for {known}" if known else "only tensorrt_rtx builds for GPUs that are not in the machine",
        )


def _refuse_dla(trt: TensorRT, options: BuildOptions, precision: str, profiles: tuple[Profile, ...]) -> None:
    """What DLA takes depends on the model: no Q/DQ before TensorRT 11, and one shape."""
    if options.dla is None:
        return
    if precision == "fp32":
        raise InputError("DLA: it computes in fp16 or int8, got fp32", hint="--precision fp16")
    if precision == "int8" and trt.release[:1] < _FIRST_NEW_DLA[:1]:
        raise InputError(
            f"DLA: with {trt.flavour} {trt.version} it takes no model that is quantised by Q/DQ, as int8 models are",
            hint="--precision fp16 on DLA, or leave --dla out",
        )
    if len(profiles) > 1:
        raise InputError(f"DLA: it takes one shape, got {len(profiles)}", hint="give one --size and one --batch")
    for r in profiles[0]:
        if r.min != r.max:
            raise InputError(
                f"DLA: it takes one shape, input {r.name!r} goes from {r.min} to {r.max}",
                hint="--batch N,N,N with the batch that you use",
            )


def _profiles(card: ModelCard, options: BuildOptions) -> tuple[Profile, ...]:
    """One profile per size and batch, from the shapes in the card."""
    dynamic_size = any(-1 in spec.shape[-2:] for spec in card.inputs if len(spec.shape) == 4)
    dynamic_batch = any(spec.shape[:1] == (-1,) for spec in card.inputs)
    if dynamic_size and not options.sizes:
        raise InputError(
            f"{card.name} takes frames of any size, an engine of a few: which?",
            hint="--size WIDTHxHEIGHT of your frames, e.g. --size 640x512",
        )
    for batch in options.batches:
        if not dynamic_batch and batch != (1, 1, 1):
            raise InputError(
                f"batch {','.join(map(str, batch))}: {card.name} takes one frame at a time", hint="leave --batch away"
            )
    for size in options.sizes:
        _check_size(card, size, dynamic_size)
    batches = dict.fromkeys(options.batches) or (DEFAULT_BATCH,)
    sizes = dict.fromkeys(options.sizes) or (None,)
    profiles = (tuple(_range(spec, batch, size) for spec in card.inputs) for size in sizes for batch in batches)
    return tuple(dict.fromkeys(profiles))


def _check_size(card: ModelCard, size: FrameSize, dynamic: bool) -> None:
    text = f"size {size}"
    if card.detector is None:
        raise InputError(f"{text}: {card.name} takes patches of one size", hint="leave --size out")
    if not dynamic:
        height, width = card.inputs[0].shape[-2:]
        if size != (width, height):
            raise InputError(
                f"{text}: {card.name} takes {FrameSize(width, height)} only",
                hint="leave --size away, or export the model for that size",
            )
        return
    multiple = card.detector.multiple
    fitting = FrameSize(*(max(2, -(-side // multiple)) * multiple for side in size))
    if size != fitting:
        raise InputError(
            f"{text}: {card.name} takes multiples of {multiple} from {2 * multiple} on",
            hint=f"frames of this size are padded: --size {fitting}",
        )


def _range(spec: TensorSpec, batch: tuple[int, int, int], size: FrameSize | None) -> InputRange:
    shapes = []
    for number in batch:
        shape = list(spec.shape)
        if shape and shape[0] == -1:
            shape[0] = number
        if size is not None and len(shape) == 4:
            shape[-2:] = [wanted if n == -1 else n for n, wanted in zip(shape[-2:], size.shape)]
        if -1 in shape:
            raise ModelError(
                f"input {spec.name!r} has a shape that cannot be filled in: {spec.shape}",
                hint="export the model again: only rows and sides of frames may stay open",
            )
        shapes.append(tuple(shape))
    return InputRange(spec.name, *shapes)


def _model_hash(card: ModelCard, onnx: Path) -> str:
    """Hash of the ONNX file, and of the weights beside it if they are kept apart."""
    weights = onnx.with_name(onnx.name + ".data")
    return f"{card.sha256}+{sha256(weights)}" if weights.is_file() else card.sha256


def _why_build(plan: BuildPreview) -> str | None:
    """Why the cache's entry will not do, or None if it will."""
    if plan.path.exists() or sidecar_path(plan.path).exists():
        return verify(plan.path, plan.target, onnx_sha256=plan.onnx_sha256)
    # The key holds the machine and the model: what changed since the last build is the reason to tell.
    for _, info in entries():
        if (info.model, info.profiles, info.options) == (plan.card.name, plan.profiles, plan.options):
            reason = difference(info, plan.target, onnx_sha256=plan.onnx_sha256)
            if reason is not None:
                return f"the last one does not fit: {reason}"
    return "the cache has none with these options"


def _build(trt: TensorRT, plan: BuildPreview) -> Sidecar:
    timing_cache = timing_cache_path(plan.target)
    elsewhere = plan.target.sm if plan.target.gpu == ANY_GPU else None
    weak, dla, level = plan.options["weak"], plan.options["dla"], plan.options.get("optimization_level")
    order = Order(plan.onnx, plan.profiles, plan.precision, plan.workspace, weak, dla, elsewhere, level)
    started = time.perf_counter()
    try:
        timings = unsealed(timing_cache.read_bytes()) or b""
    except OSError:
        timings = b""
    built = plan_from_onnx(trt, order, timings=timings)
    seconds = round(time.perf_counter() - started, 3)
    require(built.audit, plan.precision)
    info = Sidecar(
        model=plan.card.name,
        precision=plan.precision,
        onnx_sha256=plan.onnx_sha256,
        plan_sha256="",
        target=plan.target,
        options=plan.options,
        profiles=plan.profiles,
        inputs=built.inputs,
        outputs=built.outputs,
        audit=to_dict(built.audit),
        built=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seconds=seconds,
    )
    info = store(plan.path, built.plan, info)
    if built.timings:
        try:
            write_bytes(timing_cache, sealed(built.timings))
        except OutputError as error:  # they only save time: the engine is there
            talk(f"build: timings of this build are not kept: {error}")
    return info
