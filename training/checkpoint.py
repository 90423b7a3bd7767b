"""Checkpoints: tensors in safetensors, everything else in JSON beside it; never pickle.

``NAME.safetensors`` holds the tensors under ``model/``, ``ema/`` and ``optimizer/``;
``NAME.json`` holds the network's name and configuration, the recipe, the position in training,
the state of the random generators, the versions and the metrics. The two are written one after the
other, the JSON last, and it carries the hash of the tensors: a pair that does not belong together
is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from glint import __version__
from glint.config import from_dict, to_dict
from glint.errors import ModelError
from glint.files import atomic_path, read_json, sha256, write_json


@dataclass(frozen=True)
class CheckpointInfo:
    """What stands in the JSON file.

    Attributes:
        network: name of the architecture, e.g. ``"dscsnet-s"``.
        config: its configuration.
        data: what it is trained on.
        recipe: how it is trained.
        step: optimisation steps done.
        seconds: time spent training.
        rng: states of the NumPy generators of the data, by the number of the process.
        scaler: state of the loss scaling; empty without.
        metrics: last validation, or empty.
        history: validations so far, oldest first.
        versions: of glint and torch.
        sha256: of the tensor file.
    """

    network: str
    config: dict[str, Any]
    data: dict[str, Any]
    recipe: dict[str, Any]
    step: int = 0
    seconds: float = 0.0
    rng: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    history: tuple[dict[str, Any], ...] = ()
    versions: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""


def save_checkpoint(path: Path, info: CheckpointInfo, tensors: dict[str, Tensor]) -> None:
    """Write ``path`` (``*.safetensors``) and the JSON beside it, both atomically."""
    with atomic_path(path) as temporary:
        safetensors.torch.save_file({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, temporary)
        digest = sha256(temporary)
    versions = {"glint": __version__, "torch": str(torch.__version__)}
    write_json(path.with_suffix(".json"), {**to_dict(info), "versions": versions, "sha256": digest})


def load_checkpoint(path: Path) -> tuple[CheckpointInfo, dict[str, Tensor]]:
    """Read a checkpoint.

    Raises:
        ModelError: if a file is missing or corrupt or the two do not belong together.
    """
    if path.suffix != ".safetensors":
        raise ModelError(f"checkpoint {path}: expected a .safetensors file", hint="pickled weights are never loaded")
    if not path.is_file():
        raise ModelError(
            f"checkpoint {path}: no such file",
            hint="is the name right? glint train writes best.safetensors and last.safetensors into its --out",
        )
    try:
        info = from_dict(CheckpointInfo, read_json(path.with_suffix(".json"), what="checkpoint"), where=str(path))
    except ValueError as error:
        raise ModelError(str(error), hint="the file of the same name and .json belongs to it: copy both") from error
    if sha256(path) != info.sha256:
        raise ModelError(
            f"checkpoint {path}: the hash in {path.with_suffix('.json').name} is of another file",
            hint="restore the two files together",
        )
    try:
        return info, safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ModelError(
            f"checkpoint {path}: {error}", hint="copy it again, together with the .json of the same name"
        ) from error


def keep_weights(path: Path, out: Path, *, half: bool = False) -> None:
    """Write the averaged weights of a checkpoint alone to ``out`` (``*.safetensors``), with its history.

    The result can be evaluated, exported and started from, but not resumed. ``half`` rounds to float16.

    Raises:
        ModelError: if the checkpoint is unusable.
    """
    info, tensors = load_checkpoint(path)
    kept = {k: v.half() if half and v.is_floating_point() else v for k, v in tensors.items() if k.startswith("ema/")}
    save_checkpoint(out, replace(info, rng={}, scaler={}), kept)


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under ``prefix/``, without the prefix."""
    start = prefix + "/"
    return {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}
