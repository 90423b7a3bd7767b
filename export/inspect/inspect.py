"""``glint inspect``: what a model, checkpoint, engine or network is, and what TensorRT would make of it.

Cards and engines need no library; ONNX files need onnx, checkpoints and bare networks PyTorch.
"""

from __future__ import annotations

import argparse
import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

from glint.cards import PRECISIONS, ModelCard, load_card
from glint.cli import print_result
from glint.config import to_dict
from glint.errors import EXIT_OK, InputError, MissingDependencyError, ModelError, did_you_mean
from glint.export.inspect.text import report_text
from glint.files import read_json, sha256
from glint.formats.seal import broken_seal
from glint.training.networks.registry import NETWORKS, build, load_model, preset, task_of

_EXTRA = "pip install '.[export]' in the checkout of glint"


def inspect(model: str | Path, *, precision: str = "fp32") -> dict[str, Any]:
    """Describe something of glint.

    Args:
        model: a name in the zoo or of a network (``dscsnet``, ``lsnet-s`` ...), or the path of a card
            (``*.json``), an ONNX file, a checkpoint (``*.safetensors``) or an engine (``*.plan``).
        precision: which one of the zoo's.

    Returns:
        ``kind`` (``model``, ``onnx``, ``checkpoint``, ``engine`` or ``network``), ``name``, and what there is to
        say: ``parameters``, ``macs`` (for one patch or one frame of 512 x 512), ``published`` (both of them, as
        the authors give them, the MACs of DSCSNet for 64 patches), ``card``, ``engine``, ``graph``
        (see :func:`glint.export.inspect.onnx_file.inspect_onnx`), ``note``.

    Raises:
        ModelError: if there is no such thing, or it is corrupt.
        MissingDependencyError: if a library is missing that it cannot be described without.
    """
    path = Path(model)
    if path.name.endswith((".plan", ".plan.json")):
        return _engine(path.with_name(path.name.removesuffix(".json")))
    if path.suffix == ".safetensors":
        return _checkpoint(path)
    if path.suffix == ".onnx" and path.is_file() and not path.with_suffix(".json").is_file():
        if missing := _missing_for_graphs():
            raise MissingDependencyError(f"{path.name} cannot be read without {missing}", hint=_EXTRA)
        return {"kind": "onnx", "name": path.name, "file": str(path), "graph": _graph(path)}
    try:
        card, onnx = load_card(model, precision=precision)
    except ModelError as error:
        if path.suffix in (".json", ".onnx") or len(path.parts) != 1:
            raise
        return _network(str(model), error)
    return _model(card, onnx)


def _model(card: ModelCard, path: Path) -> dict[str, Any]:
    report = {"kind": "model", "name": f"{card.name}.{card.precision}", "file": str(path), **_size(card)}
    report["card"] = to_dict(card)
    missing = _missing_for_graphs()
    if missing:
        report["note"] = f"operators, precision per layer and the TensorRT check need {missing}: {_EXTRA}"
    else:
        report["graph"] = _graph(path)
    return report


def _size(card: ModelCard) -> dict[str, Any]:
    size = {"task": card.task, "parameters": card.parameters, "macs": card.macs}
    return {**size, **_published(card.network)}


def _graph(path: Path) -> dict[str, Any]:
    from glint.export.inspect.onnx_file import inspect_onnx

    return inspect_onnx(path)


def _missing_for_graphs() -> str:
    """The first library that is not there of those that read ONNX files, or ""."""
    return next((name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None), "")


def _checkpoint(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(f"checkpoint {path}: no such file", hint="is the name right, seen from this folder? ls tells")
    from glint.export.export import describe

    info, network = load_model(path)
    card = describe(info, network)
    return {"kind": "checkpoint", "name": path.name, "file": str(path), **_size(card), "card": to_dict(card)}


def _network(name: str, error: ModelError) -> dict[str, Any]:
    """An architecture without weights; ``error`` says that there is no model of that name."""
    if name not in NETWORKS:
        near = "" if "did you mean" in (error.hint or "") else did_you_mean(name, NETWORKS)
        raise ModelError(str(error), hint=f"{near}{error.hint}; networks: {', '.join(NETWORKS)}") from error
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError(
            f"{name} is a network without weights: it cannot be described without PyTorch", hint=_EXTRA
        ) from error
    from glint.export.export_spec import size

    config = to_dict(preset(name))
    parameters, macs = size(name, build(name, config).eval())
    report = {"kind": "network", "name": name, "task": task_of(name), "parameters": parameters, "macs": macs}
    return {**report, **_published(name), "config": config}


def _published(network: str) -> dict[str, Any]:
    published = NETWORKS[network].published if network in NETWORKS else None
    return {"published": dict(zip(("parameters", "macs"), published))} if published else {}


def _engine(path: Path) -> dict[str, Any]:
    """What stands in the sidecar of an engine; the engine itself is hashed, not loaded."""
    sidecar = path.with_name(path.name + ".json")
    hint = "build the engine again: glint build"
    try:
        info = read_json(sidecar, what="sidecar")
    except InputError as error:
        raise ModelError(str(error), hint=hint) from error
    if not isinstance(info, dict) or not isinstance(info.get("plan_sha256"), str):
        raise ModelError(f"sidecar {sidecar}: 'plan_sha256' is missing", hint=hint)
    broken = broken_seal(info)
    if broken is not None:
        raise ModelError(f"sidecar {sidecar} {broken}", hint=hint)
    if not path.is_file():
        raise ModelError(f"engine {path}: no such file", hint=hint)
    actual = sha256(path)
    if actual != info["plan_sha256"]:
        raise ModelError(
            f"engine {path}: the hash is {actual[:12]}…, its sidecar says {info['plan_sha256'][:12]}…", hint=hint
        )
    return {"kind": "engine", "name": path.name, "file": str(path), "engine": info}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``glint inspect``."""
    parser.add_argument("model", help="name of a model or network, or a *.json, *.onnx, *.safetensors or *.plan file")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the released model (default: fp32)")
    parser.add_argument("--layers", action="store_true", help="list every layer of the graph")
    parser.add_argument("--json", action="store_true", help="print the report as JSON on standard output")


def main(arguments: argparse.Namespace) -> int:
    """Run ``glint inspect``."""
    report = inspect(arguments.model, precision=arguments.precision)
    print_result(report, partial(report_text, layers=arguments.layers), as_json=arguments.json)
    return EXIT_OK
