"""``glint card``: the model card of a network of one's own, from options or from a few questions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from glint import __version__
from glint.cards import PRECISIONS, DetectorSpec, ModelCard, TensorSpec, UnmixerSpec
from glint.cli import print_json, talk
from glint.config import to_dict
from glint.errors import EXIT_OK, InputError, ModelError
from glint.files import refuse_existing, sha256, write_json
from glint.processing.normalise import KINDS, Normaliser
from glint.runtime.engines.onnxruntime import OnnxRuntimeEngine

TASKS = ("detect", "unmix")
_TENSORS = {
    "detect": (("frame", 4), {"probability", "background"}),
    "unmix": (("patch", 4), {"grid", "presence", "offset", "radiance", "spread"}),
}  # input with its number of axes, and outputs, of each task


def card(
    model: str | Path,
    *,
    task: str | None = None,
    name: str | None = None,
    precision: str | None = None,
    normaliser: str | None = None,
    scale: float | None = None,
    threshold: float | None = None,
    multiple: int | None = None,
    patch: int | None = None,
    crop: int | None = None,
    cells: int | None = None,
    sigma: float | None = None,
    overwrite: bool = False,
) -> ModelCard:
    """Write the card beside an ONNX file; what is not given is asked for at a terminal, else has its default.

    Args:
        model: the ONNX file; weights inside. The card is ``NAME.json`` beside ``NAME.onnx``.
        task: ``detect`` (input ``frame [1, 1, H, W]``, outputs ``probability`` and ``background`` of its shape) or
            ``unmix`` (input ``patch [N, 2, n, n]``, outputs ``grid``, ``presence``, ``offset``, ``radiance``,
            ``spread``); None: the one that its tensors fit.
        name: of the model; None: the file's.
        precision: of its weights: fp32, fp16 or int8; None: fp32.
        normaliser: ``fixed``, ``peak`` or ``standard``: how the network's input was made of DN; None: standard for
            frames, peak for patches.
        scale: of the normaliser, DN; None: 1.
        threshold: of a detector: probability above which a pixel is a target; None: 0.5.
        multiple: of a detector: height and width are padded to a multiple of this; None: 16.
        patch, crop, cells, sigma: of an unmixer (see ``cards.UnmixerSpec``).
        overwrite: replace an existing card.

    Raises:
        ModelError: if the file is no ONNX model, or its tensors are not those of the task.
        InputError: if an option is out of range.
        OutputError: if the card exists.
    """
    path = Path(model)
    target = _card_of(path, overwrite=overwrite)
    digest = sha256(path)
    engine = OnnxRuntimeEngine(path, threads=1, sha256=digest)
    found = task or _task_of(engine)
    if found not in TASKS:
        raise InputError(
            f"task: expected {' or '.join(TASKS)}, got {found!r}",
            hint="detect: frames to probabilities; unmix: patches to targets",
        )
    _check(path, engine, found)
    detects = found == "detect"
    of_detector: dict[str, Any] = {"threshold": threshold, "multiple": multiple}
    of_unmixer: dict[str, Any] = {"patch": patch, "crop": crop, "cells": cells, "sigma": sigma}
    asked, foreign = _given(of_detector), _given(of_unmixer)
    if not detects:
        asked, foreign = foreign, asked
    for option in foreign:
        raise InputError(f"{option} says nothing about a network that is made to {found}", hint="leave it out")
    made = ModelCard(
        name=name or path.stem.partition(".")[0], task=found, precision=precision or "fp32", network="own", config={},
        file=path.name, sha256=digest, inputs=engine.inputs, outputs=engine.outputs,
        normaliser=Normaliser(normaliser or ("standard" if detects else "peak"), 1.0 if scale is None else scale),
        detector=replace(DetectorSpec(), **asked) if detects else None,
        unmixer=None if detects else replace(UnmixerSpec(), **asked), versions={"glint": __version__},
    )  # fmt: skip
    write_json(target, to_dict(made))
    talk(f"card: {target}; glint run --{'detector' if detects else 'unmixer'} {target} takes it")
    return made


def _card_of(path: Path, *, overwrite: bool) -> Path:
    """Where the card of an ONNX file goes."""
    if path.suffix != ".onnx":
        raise InputError(f"{path}: expected an .onnx file", hint="glint export makes one of a checkpoint")
    target = path.with_suffix(".json")
    refuse_existing(target, overwrite=overwrite)
    if not path.is_file():
        raise ModelError(f"{path}: no such file", hint="is the name right?")
    return target


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {option: value for option, value in options.items() if value is not None}


def _task_of(engine: OnnxRuntimeEngine) -> str:
    outputs = {spec.name for spec in engine.outputs}
    fits = [task for task, ((entry, _), wanted) in _TENSORS.items()
            if wanted <= outputs and entry in {spec.name for spec in engine.inputs}]  # fmt: skip
    if not fits:
        raise ModelError(f"its tensors ({_names(engine.inputs)} to {_names(engine.outputs)}) fit no task", hint=_hint())
    return fits[0]


def _check(path: Path, engine: OnnxRuntimeEngine, task: str) -> None:
    (entry, axes), wanted = _TENSORS[task]
    outputs = {spec.name for spec in engine.outputs}
    inputs = [(spec.name, spec.dtype, len(spec.shape)) for spec in engine.inputs]
    if inputs != [(entry, "float32", axes)] or not wanted <= outputs:
        got = f"{_names(engine.inputs)} to {_names(engine.outputs)}"
        raise ModelError(f"{path}: a network that is made to {task} has other tensors; got {got}", hint=_hint())


def _names(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in specs)


def _hint() -> str:
    parts = [f"{task}: float32 {entry} to {', '.join(sorted(outs))}" for task, ((entry, _), outs) in _TENSORS.items()]
    return "; ".join(parts)


_QUESTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "normaliser": (f"how is its input made of DN: {', '.join(KINDS)}?", str),
    "scale": ("the normaliser's scale, DN?", float),
    "threshold": ("probability above which a pixel is a target?", float),
    "multiple": ("height and width are a multiple of?", int),
    "patch": ("pixels per side of a patch?", int),
    "cells": ("cells per pixel and axis?", int),
    "sigma": ("sigma of the PSF that it was trained for, pixels?", float),
}


def _ask(arguments: argparse.Namespace) -> None:
    """Fill in what was not given; an empty answer is the default."""
    task = arguments.task
    skip = {"detect": ("patch", "cells", "sigma"), "unmix": ("threshold", "multiple")}.get(task or "", ())
    for name, (question, kind) in _QUESTIONS.items():
        if getattr(arguments, name) is not None or name in skip or task is None:
            continue
        print(f"{question} (Enter: default) ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline().strip()
        if answer:
            try:
                setattr(arguments, name, kind(answer))
            except ValueError as error:
                raise InputError(
                    f"{name}: {answer!r} is no {kind.__name__}", hint="press Enter for the default"
                ) from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``glint card``."""
    parser.add_argument("model", type=Path, help="ONNX file of a network of your own")
    parser.add_argument("--task", choices=TASKS, help="default: the one that its tensors fit")
    parser.add_argument("--name", help="default: the file's")
    parser.add_argument("--precision", choices=PRECISIONS, help="of its weights (default: fp32)")
    parser.add_argument("--normaliser", choices=KINDS, help="default: standard for frames, peak for patches")
    parser.add_argument("--scale", type=float, metavar="DN", help="of the normaliser (default: 1)")
    parser.add_argument("--threshold", type=float, metavar="P", help="of a detector (default: 0.5)")
    parser.add_argument("--multiple", type=int, metavar="PIXELS", help="of a detector's input (default: 16)")
    parser.add_argument("--patch", type=int, metavar="PIXELS", help="of an unmixer (default: 11)")
    parser.add_argument("--crop", type=int, metavar="PIXELS", help="of an unmixer (default: 11)")
    parser.add_argument("--cells", type=int, metavar="C", help="of an unmixer, per pixel and axis (default: 3)")
    parser.add_argument("--sigma", type=float, metavar="PIXELS", help="of an unmixer's PSF (default: 0.5)")
    parser.add_argument("--ask", action="store_true", help="ask for what is not given; needs --task")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing card")
    parser.add_argument("--json", action="store_true", help="print the card")


def main(arguments: argparse.Namespace) -> int:
    """Run ``glint card``."""
    if arguments.ask:
        if arguments.task is None:
            raise InputError("--ask needs --task", hint="--task detect or --task unmix")
        _ask(arguments)
    names = (
        "task", "name", "precision", "normaliser", "scale", "threshold", "multiple", "patch", "crop", "cells", "sigma",
        "overwrite",
    )  # fmt: skip
    made = card(arguments.model, **{name: getattr(arguments, name) for name in names})
    if arguments.json:
        print_json(to_dict(made))
    return EXIT_OK
