"""Checks that need no GPU: the machine, the released models, their arithmetic and TensorRT's own parser."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict
from typing import Any

import numpy as np

from glint.benchmarks.gpu_check.steps import Skip, Step
from glint.cards import load_card, zoo_folder, zoo_names
from glint.errors import CheckFailedError
from glint.types import FrameSize

_FRAMES = 6  # extreme ones that a detector is shown


def need(*modules: str) -> None:
    """Skip the step if a library is not installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise Skip(f"{module} is not installed")


def _facts() -> dict[str, Any]:
    from glint.runtime.commands.doctor import doctor
    from glint.runtime.device.state import read_device_state

    report = doctor()
    checks = {check["name"]: f"{check['state']}: {check['detail']}" for check in report.pop("checks")}
    return {**report, **checks, "device": asdict(read_device_state())}


def _models() -> dict[str, Any]:
    """Every released model runs in ONNX Runtime, on a simulated scene."""
    from glint.runtime.commands.run import run

    found = {}
    for precision in ("fp32", "fp16"):
        source = "synthetic://?size=160x128&frames=3&clusters=4&noise=2&seed=1"
        manifest = run(source, engine="onnxruntime", precision=precision, warm_up=False)
        found[precision] = manifest["targets"]
        if not manifest["targets"]:
            raise CheckFailedError(f"no target was found in {source} in {precision}")
    return {"targets": found}


def _overflow() -> dict[str, Any]:
    """The rounding twin of every released fp16 and int8 model stays finite in extreme scenes."""
    need("onnx")
    import onnx

    from glint.calibration.clamps import extreme_inputs
    from glint.calibration.rounding import round_like_fp16
    from glint.calibration.tensor_ranges import values

    largest: dict[str, float] = {}
    for stem in zoo_names():
        card, path = load_card(zoo_folder() / f"{stem}.json")
        if card.precision == "fp32":
            continue
        twin = round_like_fp16(onnx.load(path))
        names = [output.name for output in twin.graph.output]
        batches = extreme_inputs(card)
        for name, value in values(twin, names, batches[:: max(1, len(batches) // _FRAMES)]):
            if not np.isfinite(value).all():
                raise CheckFailedError(f"{stem}: {name} is not finite for an extreme scene")
            largest[stem] = max(largest.get(stem, 0.0), float(np.abs(value).max()))
    return {"largest output": largest}


def _lint() -> dict[str, Any]:
    need("onnx")
    from glint.export.lint.lint import lint, load_onnx

    for path in sorted(zoo_folder().glob("*.onnx")):
        found = lint(load_onnx(path), folder=path.parent)
        if found:
            raise CheckFailedError(f"{path.name}: {found[0].text()}")
    return {"models": len(zoo_names())}


def _ahead_of_time() -> dict[str, Any]:
    """TensorRT-RTX parses and builds the fp16 and int8 models for a GPU that is not here."""
    need("tensorrt_rtx")
    from glint.runtime.engines.tensorrt.build import BuildOptions, build

    figures = {}
    for name in ("dscsnet-s-sensor", "lsnet-s"):
        for precision in ("fp16", "int8"):
            sizes = (FrameSize(160, 128),) if name == "lsnet-s" else ()
            options = BuildOptions(precision=precision, sizes=sizes)
            audit = build(name, options, flavour="tensorrt_rtx", compute_capability="8.6").info.audit
            figures[f"{name}.{precision}"] = audit["traffic"]
    return figures


ANYWHERE = (
    Step("facts", "what is installed, and the state of the board", _facts, gpu=False),
    Step("models", "released models in ONNX Runtime on a simulated scene", _models, gpu=False),
    Step("lint", "the TensorRT check of the released models", _lint, gpu=False),
    Step("overflow", "fp16 stays finite in extreme scenes, by arithmetic on the CPU", _overflow, gpu=False),
    Step("parser", "TensorRT-RTX parses and builds ahead of time", _ahead_of_time, gpu=False),
)
