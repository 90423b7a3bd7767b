"""``glint export``: checkpoint to fp32 ONNX with its model card; parity is measured on the way."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from torch import nn

from glint import __version__
from glint.cards import ModelCard, save_card
from glint.cli import talk
from glint.errors import CheckFailedError, GlintError, InputError, ModelError
from glint.export.export_spec import ExportSpec, make_plan, run, size
from glint.export.lint.findings import REFUSED
from glint.export.lint.lint import lint
from glint.export.to_onnx import OPSET, island_prefixes, to_onnx
from glint.files import atomic_path, refuse_existing, sha256
from glint.progress import told_if_slow
from glint.training.checkpoint import CheckpointInfo, keep_weights
from glint.training.networks.registry import load_model, task_of
from glint.types import FrameSize

PARITY_LIMIT = 1e-3  # largest error of a sound export, relative to the largest value of an output


def export(
    checkpoint: Path,
    out: Path,
    *,
    sizes: Sequence[FrameSize] = (),
    name: str | None = None,
    threshold: float | None = None,
    weights: Path | None = None,
    half: bool = False,
    overwrite: bool = False,
) -> list[ModelCard]:
    """Write ``NAME.fp32.onnx`` and ``NAME.fp32.json`` into a folder.

    DSCSNet takes any batch. LSNet takes frames of any height and width that are multiples of 16;
    with ``sizes``, one file per size is written instead, ``NAME.WIDTHxHEIGHT.fp32.onnx``, that takes
    frames of that size only. The same checkpoint always gives the same bytes.

    Args:
        checkpoint: ``*.safetensors``; its averaged weights are exported.
        out: folder.
        sizes: of the frames, one file for each; LSNet only.
        name: of the model; default: the network's name.
        threshold: above which something is a target: probability of a pixel (LSNet, default 0.5), DN
            of a cell (DSCSNet ``csist``, 50) or its share of the brightest cell (``sensor``, 0.2).
        weights: folder that also gets the averaged weights (``NAME.safetensors``), from which training
            can start again.
        half: keep those in float16, half as large.
        overwrite: replace existing files.

    Returns:
        The card of every file.

    Raises:
        InputError: if the network cannot be exported for a size.
        ModelError: if the checkpoint is unusable, or its network needs an operator that some TensorRT refuses.
        OutputError: if an output exists or cannot be written.
        CheckFailedError: if an ONNX file does not compute what the checkpoint does.
    """
    if half and weights is None:
        raise InputError("--half says how weights are kept, and none are", hint="add --weights FOLDER")
    info, model = load_model(checkpoint)
    name = name or info.network
    each: list[FrameSize | None] = list(sizes) or [None]
    names = {name if only is None else f"{name}.{only}": only for only in each}
    files = [out / f"{stem}.fp32.{suffix}" for stem in names for suffix in ("onnx", "json")]
    for file in (*files, *([weights / f"{name}.safetensors"] if weights is not None else [])):
        refuse_existing(file, overwrite=overwrite)
    plans = {stem: make_plan(info, model, size=only, threshold=threshold) for stem, only in names.items()}
    cards = []
    with tempfile.TemporaryDirectory() as scratch:
        for stem, plan in plans.items():
            talk(f"exporting {stem} ({info.network}, step {info.step})")
            cards.append(_export_one(info, model, plan, stem, Path(scratch)))
        for card in cards:  # nothing is written before everything has been checked
            _move(card, Path(scratch), out)
    if weights is not None:
        keep_weights(checkpoint, weights / f"{name}.safetensors", half=half)
    return cards


def _move(card: ModelCard, scratch: Path, out: Path) -> None:
    """Put a file that has been checked, and its card, where they belong."""
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / card.file) as temporary:
        temporary.write_bytes((scratch / card.file).read_bytes())
    save_card(card, out)
    megabytes = (out / card.file).stat().st_size / 1e6
    talk(f"wrote {out / card.file} ({megabytes:.1f} MB), parity {card.parity['relative']:.1e}")


def _export_one(info: CheckpointInfo, model: nn.Module, plan: ExportSpec, name: str, folder: Path) -> ModelCard:
    """Write and check one ONNX file; returns its card."""
    path = folder / f"{name}.fp32.onnx"
    inputs, outputs = ([spec.name for spec in specs] for specs in (plan.inputs, plan.outputs))
    try:
        with told_if_slow(f"export of {name}: PyTorch makes the graph"):
            graph = to_onnx(model, plan.trials[plan.example], inputs=inputs, outputs=outputs, dynamic=plan.dynamic)
    except GlintError as error:
        raise type(error)(f"export of {name}: {error}", hint=error.hint) from error
    for finding in lint(graph):  # the worst come first
        if finding.severity == REFUSED:
            raise ModelError(f"export of {name}: {finding.text()}", hint=finding.hint)
        talk(f"export of {name}: {finding.text()}; hint: {finding.hint}")
    path.write_bytes(graph.SerializeToString(deterministic=True))
    with told_if_slow(f"export of {name}: compared with PyTorch"):
        parity = measure_parity(model, path, plan.trials)
    if not parity["relative"] <= PARITY_LIMIT:
        raise CheckFailedError(
            f"export of {name}: ONNX Runtime differs from PyTorch by {parity['relative']:.2e} of the largest "
            f"output, at most {PARITY_LIMIT:.0e} is sound",
            hint="nothing was written; report this with the checkpoint's JSON file",
        )
    islands = island_prefixes(graph)
    return replace(_card(info, model, plan, name), file=path.name, sha256=sha256(path), parity=parity, islands=islands)


def measure_parity(model: nn.Module, path: Path, trials: list[NDArray[Any]]) -> dict[str, Any]:
    """Largest difference between ONNX Runtime and PyTorch over all trials.

    Returns:
        ``absolute``: in the network's units; ``relative``: over the largest value of that output;
        ``outputs``: both for each output by its name.
    """
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    worst = {name: {"absolute": 0.0, "relative": 0.0} for name in names}
    for trial in trials:
        results = session.run(None, {session.get_inputs()[0].name: trial})
        for name, expected, actual in zip(names, run(model, trial), results):
            absolute = float(np.abs(expected - actual).max())
            relative = absolute / max(float(np.abs(expected).max()), 1e-12)
            worst[name] = _worse(worst[name], {"absolute": absolute, "relative": relative})
    overall = {"absolute": 0.0, "relative": 0.0}
    for figures in worst.values():
        overall = _worse(overall, figures)
    return {**overall, "outputs": worst}


def _worse(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    # "not <=" keeps a NaN, which max() would drop.
    return {key: value if not value <= one[key] else one[key] for key, value in other.items()}


def describe(
    info: CheckpointInfo, model: nn.Module, *, name: str | None = None, threshold: float | None = None
) -> ModelCard:
    """The card of a checkpoint: everything but what only an ONNX file has (file, hash, parity, islands)."""
    return _card(info, model, make_plan(info, model, threshold=threshold), name or info.network)


def _card(info: CheckpointInfo, model: nn.Module, plan: ExportSpec, name: str) -> ModelCard:
    parameters, macs = size(info.network, model)
    training = {
        "data": info.data, "recipe": info.recipe, "step": info.step, "seconds": round(info.seconds),
        "weights": "exponential moving average", "history": list(info.history),
    }  # fmt: skip
    versions = {"glint": __version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "opset": OPSET}
    return ModelCard(
        name=name, task=task_of(info.network), precision="fp32", network=info.network, config=info.config, file="",
        sha256="", inputs=plan.inputs, outputs=plan.outputs, normaliser=plan.normaliser, detector=plan.detector,
        unmixer=plan.unmixer, parameters=parameters, macs=macs, training=training, metrics=info.metrics,
        versions={**info.versions, **versions},
    )  # fmt: skip
