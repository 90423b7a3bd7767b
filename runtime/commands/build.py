"""``glint build``: an engine for this machine."""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path
from typing import Any

from glint.cards import PRECISIONS, ModelCard
from glint.cli import frame_size, options_of, positive_int, print_json, print_result, talk
from glint.config import from_dict, to_dict
from glint.errors import EngineError, InputError, MissingDependencyError
from glint.files import atomic_path, refuse_existing
from glint.runtime.engines.tensorrt.api import FLAVOURS, load
from glint.runtime.engines.tensorrt.audit import Audit, int8_verdict
from glint.runtime.engines.tensorrt.build import (
    BuildOptions,
    BuildPreview,
    BuiltEngine,
    build,
    describe,
    plan_model,
    preview_build,
)
from glint.runtime.engines.tensorrt.cache import Profile, Sidecar, entries, sidecar_path

_MIB = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``glint build``."""
    parser.add_argument("model", metavar="NAME|CARD", help="released model, or path of a model card or ONNX file")
    parser.add_argument("--precision", choices=PRECISIONS, help="default: the card's; fp16 for a released model")
    parser.add_argument(
        "--size", type=frame_size, nargs="+", action="extend", default=[], metavar="WIDTHxHEIGHT",
        help="frame size of a detector; several give one engine for all of them",
    )  # fmt: skip
    parser.add_argument(
        "--batch", type=_batch, action="append", default=[], metavar="MIN,OPT,MAX",
        help="patches per call of an unmixer (default: 1,64,256); several give kernels for each in one engine",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help="copy the engine and its sidecar FILE.json there")
    parser.add_argument("--overwrite", action="store_true", help="build again if it is cached; replace --out")
    parser.add_argument("--no-build", action="store_true", help="take it from the cache or refuse")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
    group = parser.add_argument_group("TensorRT")
    group.add_argument("--workspace", type=positive_int, metavar="MIB", help="scratch memory (default: half the free)")
    group.add_argument(
        "--optimization-level", type=int, choices=range(6), metavar="0-5",
        help="how long to search for kernels: 5 builds longest (default: TensorRT's own, 3)",
    )  # fmt: skip
    group.add_argument("--dla", type=int, metavar="CORE", help="build for a deep learning accelerator of Orin")
    group.add_argument("--weak", action="store_true", help="let the builder choose precisions (TensorRT 10.x)")
    group.add_argument("--flavour", choices=FLAVOURS, help="default: the first that is installed")
    group.add_argument(
        "--compute-capability", metavar="M.N", help="build for a GPU that is not here (tensorrt_rtx), e.g. 8.6"
    )


def main(arguments: argparse.Namespace) -> int:
    """Run ``glint build``."""
    workspace = arguments.workspace * _MIB if arguments.workspace else None
    sizes, batches = tuple(arguments.size), tuple(arguments.batch)
    own = options_of(BuildOptions, arguments, sizes=sizes, batches=batches, workspace=workspace)
    options = BuildOptions(**own)
    if arguments.out is not None:
        if str(arguments.out) == "-":
            raise InputError("an engine is two files and cannot go to standard output", hint="give --out a file name")
        for path in (arguments.out, sidecar_path(arguments.out)):
            refuse_existing(path, overwrite=arguments.overwrite)
    if arguments.dry_run:
        return _dry_run(arguments, options)
    plan_model(arguments.model, options)  # a wrong name is told before a library that is missing
    engine = build(**options_of(build, arguments, options=options))
    path = engine.path
    if arguments.out is not None:
        path = _copy(engine, arguments.out)
    _tell(engine, path)
    if arguments.compute_capability is None:
        from glint.runtime.pipeline.rehearsal import rehearse  # what the first run on this machine would wait for

        rehearse()
    if arguments.json:
        print_json({"path": str(path), "cached": engine.cached, "sidecar": to_dict(engine.info)})
    return 0


def _dry_run(arguments: argparse.Namespace, options: BuildOptions) -> int:
    """Say what would be built, also where TensorRT or the GPU is not: then without the engine's name."""
    card, onnx, precision, profiles = plan_model(arguments.model, options)
    try:
        trt = load(arguments.flavour)
        plan = preview_build(arguments.model, options, trt=trt, compute_capability=arguments.compute_capability)
    except (MissingDependencyError, EngineError) as error:
        known = {"model": card.name, "precision": precision, "onnx": str(onnx), "reason": str(error)}
        unknown = dict.fromkeys(("target", "path", "cached"))
        lines = [_model_text(card, precision, onnx, profiles), f"for:       not known here: {error}"]
        lines += [f"hint:      {error.hint}"] if error.hint else []
        result, text = {**known, "profiles": _profiles_json(profiles), **unknown}, "\n".join(lines)
    else:
        result, text = _plan_json(plan), _plan_text(plan)
    print_result(result, lambda _: text, as_json=arguments.json)
    return 0


def _copy(engine: BuiltEngine, out: Path) -> Path:
    """The plan and then its sidecar, as they are in the cache."""
    for source, copy in ((engine.path, out), (sidecar_path(engine.path), sidecar_path(out))):
        with atomic_path(copy) as temporary:
            shutil.copyfile(source, temporary)
    return out


def _tell(engine: BuiltEngine, path: Path) -> None:
    info = engine.info
    result = from_dict(Audit, info.audit, where="audit")
    if engine.cached:
        talk(f"cache hit: {path}")
    else:
        talk(f"built in {info.seconds:.1f} s: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    talk(result.text())
    for line in (result.traffic_text(), _int8_verdict(info, result)):
        if line:
            talk(line)
    for line in result.missed[:5]:
        talk(f"  {line}")
    if len(result.missed) > 5:
        talk(f"  and {len(result.missed) - 5} more, see {sidecar_path(path).name}")


def _int8_verdict(info: Sidecar, result: Audit) -> str:
    """Whether int8 pays, against the newest fp16 engine of the same model and shapes if the cache has one."""
    if info.precision != "int8":
        return ""
    same = (
        other
        for _, other in entries()
        if (other.model, other.precision, other.profiles) == (info.model, "fp16", info.profiles)
    )
    fp16 = next(same, None)
    return int8_verdict(result, None if fp16 is None else from_dict(Audit, fp16.audit, where="audit"))


def _plan_json(plan: BuildPreview) -> dict[str, Any]:
    return {
        "model": plan.card.name,
        "precision": plan.precision,
        "onnx": str(plan.onnx),
        "target": to_dict(plan.target),
        "options": plan.options,
        "profiles": _profiles_json(plan.profiles),
        "workspace": plan.workspace,
        "path": str(plan.path),
        "cached": plan.reason is None,
        "reason": plan.reason,
    }


def _plan_text(plan: BuildPreview) -> str:
    workspace = "TensorRT's default" if plan.workspace is None else f"{plan.workspace // _MIB} MiB"
    lines = [
        _model_text(plan.card, plan.precision, plan.onnx, plan.profiles),
        f"for:       {describe(plan.target)}",
        f"workspace: {workspace}",
        f"engine:    {plan.path}",
        f"would:     {'take it from the cache' if plan.reason is None else f'build it: {plan.reason}'}",
    ]
    return "\n".join(lines)


def _model_text(card: ModelCard, precision: str, onnx: Path, profiles: tuple[Profile, ...]) -> str:
    lines = [f"profile {i}: {_profile_text(profile)}" for i, profile in enumerate(profiles)]
    return "\n".join([f"model:     {card.name} ({precision}), {onnx}", *lines])


def _profiles_json(profiles: tuple[Profile, ...]) -> list[Any]:
    return [[to_dict(entry) for entry in profile] for profile in profiles]


def _profile_text(profile: Profile) -> str:
    return "; ".join(
        f"{r.name} {' to '.join('x'.join(map(str, shape)) for shape in dict.fromkeys((r.min, r.opt, r.max)))}"
        for r in profile
    )


def _batch(text: str) -> tuple[int, int, int]:
    match = re.fullmatch(r"([0-9]{1,6}),([0-9]{1,6}),([0-9]{1,6})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"expected MIN,OPT,MAX, got {text!r}")
    return int(match[1]), int(match[2]), int(match[3])
