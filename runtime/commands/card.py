"""``glint card``: the model card of a network of one's own, from options or from a few questions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glint import __version__
from glint.cards import PRECISIONS, DetectorSpec, ModelCard, TensorSpec, UnmixerSpec
from glint.cli import options_of, print_json, talk
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
_OPTIONS = {
    "both": ("normaliser", "scale"),
    "detect": ("threshold", "multiple"),
    "unmix": ("patch", "crop", "cells", "sigma"),
}  # of a card's sections, by task


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
        patch, crop, cells, sigma: of an unmixer (see ``cards.UnmixerSpec``); crop None: 11, or a smaller patch.
        overwrite: replace an existing card.

    Raises:
        ModelError: if the file is no ONNX model, or its tensors are not those of the task.
        InputError: if an option is out of range.
        OutputError: if the card exists.
    """
    path, target = _places(model, overwrite=overwrite)
    digest = sha256(path)
    engine = OnnxRuntimeEngine(path, threads=1, sha256=digest)
    found = task or _task_of(engine)
    if found not in TASKS:
        raise InputError(
            f"task: expected {' or '.join(TASKS)}, got {found!r}",
            hint="detect: frames to probabilities; unmix: patches to targets",
        )
    _check(path, engine, found)
    values = {
        "normaliser": normaliser, "scale": scale, "threshold": threshold, "multiple": multiple, "patch": patch,
        "crop": crop, "cells": cells, "sigma": sigma,
    }  # fmt: skip
    made = ModelCard(
        name=name or path.stem.partition(".")[0], task=found, precision=precision or "fp32", network="own", config={},
        file=path.name, sha256=digest, inputs=engine.inputs, outputs=engine.outputs, versions={"glint": __version__},
        **_sections(found, values),
    )  # fmt: skip
    write_json(target, to_dict(made))
    talk(f"card: {target}; glint run --{'detector' if found == 'detect' else 'unmixer'} {target} takes it")
    return made


def _places(model: str | Path, *, overwrite: bool) -> tuple[Path, Path]:
    """The ONNX file, which is there, and its card, which may be written."""
    path = Path(model)
    if path.suffix != ".onnx":
        raise InputError(f"{path}: expected an .onnx file", hint="glint export makes one of a checkpoint")
    target = path.with_suffix(".json")
    refuse_existing(target, overwrite=overwrite)
    if not path.is_file():
        raise ModelError(f"{path}: no such file", hint="is the name right?")
    return path, target


def _sections(task: str, values: dict[str, Any]) -> dict[str, Any]:
    """The parts of a card that values describe, None being the default.

    Raises:
        InputError: if a value is out of range, or says nothing about such a network.
    """
    given = {option: value for option, value in values.items() if value is not None}
    for option in given:
        if option not in (*_OPTIONS[task], *_OPTIONS["both"]):
            raise InputError(f"{option} says nothing about a network that is made to {task}", hint="leave it out")
    kind, scale = given.pop("normaliser", "standard" if task == "detect" else "peak"), given.pop("scale", 1.0)
    if "patch" in given:
        given.setdefault("crop", min(UnmixerSpec.crop, given["patch"]))
    return {
        "normaliser": Normaliser(kind, scale),
        "detector": DetectorSpec(**given) if task == "detect" else None,
        "unmixer": UnmixerSpec(**given) if task == "unmix" else None,
    }


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
    "crop": ("pixels per side of what the network sees of it?", int),
    "cells": ("cells per pixel and axis?", int),
    "sigma": ("sigma of the PSF that it was trained for, pixels?", float),
}
_EXPECTED: dict[Callable[[str], Any], str] = {int: "a whole number", float: "a number", str: "a word"}


def _ask(arguments: argparse.Namespace) -> None:
    """Fill in what was not given; an empty answer is the default, and after a wrong one the question comes again.

    Raises:
        InputError: if there are no more answers, or an option is out of range.
    """
    names = [name for name in _QUESTIONS if name in (*_OPTIONS[arguments.task], *_OPTIONS["both"])]
    values = {name: getattr(arguments, name) for name in _QUESTIONS}
    _sections(arguments.task, values)  # what was given is wrong before anybody is asked
    for name in names:
        while values[name] is None:
            talk(f"{_QUESTIONS[name][0]} (Enter: default)")
            line = sys.stdin.readline()
            if not line:
                raise InputError(
                    f"--ask: the answers ended before {name}", hint=f"answer at a terminal, or give --{name}"
                )
            if not line.strip():
                break
            try:
                values[name] = _answer(arguments.task, values, name, line.strip())
            except InputError as error:
                talk(f"that is not possible: {error}")
    for name in names:
        setattr(arguments, name, values[name])


def _answer(task: str, values: dict[str, Any], name: str, text: str) -> Any:
    """What an answer means, together with those before it."""
    kind = _QUESTIONS[name][1]
    try:
        value = kind(text)
    except ValueError as error:
        raise InputError(f"{name}: expected {_EXPECTED[kind]}, got {text!r}") from error
    _sections(task, {**values, name: value})
    return value


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
    parser.add_argument("--crop", type=int, metavar="PIXELS", help="of an unmixer (default: 11, or the patch)")
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
        _places(arguments.model, overwrite=arguments.overwrite)
        _ask(arguments)
    made = card(**options_of(card, arguments))
    if arguments.json:
        print_json(to_dict(made))
    return EXIT_OK
