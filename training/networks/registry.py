"""The networks by name, and how a checkpoint becomes a model again. PyTorch is imported when one is built."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glint.config import from_dict
from glint.errors import InputError, ModelError

if TYPE_CHECKING:
    from torch import nn

    from glint.training.checkpoint import CheckpointInfo


@dataclass(frozen=True)
class Network:
    """A network that can be trained. Its file, beside this one, holds its ``PRESETS`` by name.

    Attributes:
        made_by: file and class.
        learns: ``detection``, ``unmixing`` or ``grid`` (unmixing, answered on the grid alone): see ``training.tasks``.
        learning_rate: peak; the best of those tried.
        optimizer: by its name, see :mod:`glint.training.optimizer`.
        published: parameters and multiply-accumulates that the authors give, per frame or per 64 patches.
    """

    made_by: str
    learns: str
    learning_rate: float
    optimizer: str = "adamw"
    published: tuple[float, float] | None = None


NETWORKS = {
    "lsnet": Network("lsnet.LSNet", "detection", 2e-3, "muon", (2.18e6, 24.46e9)),
    "lsnet-s": Network("lsnet.LSNet", "detection", 2e-3, "muon"),
    "dscsnet": Network("dscsnet.DSCSNet", "unmixing", 2e-3, published=(6.23e6, 40.70e9)),
    "dscsnet-s": Network("dscsnet.DSCSNet", "unmixing", 4e-3),
    "dista-net": Network("dista_net.DistaNet", "grid", 1.5e-3),
    "focus": Network("focus.Focus", "grid", 1.5e-3),
    "unet-s": Network("unet.UNet", "detection", 8e-4),
}


def entry(network: str) -> Network:
    """The line of a network in the register.

    Raises:
        InputError: if there is no such network.
    """
    if network not in NETWORKS:
        raise InputError(f"no network {network!r}", hint=f"known: {', '.join(NETWORKS)}")
    return NETWORKS[network]


def task_of(network: str) -> str:
    """``detect`` or ``unmix``.

    Raises:
        InputError: if there is no such network.
    """
    return "detect" if entry(network).learns == "detection" else "unmix"


def preset(network: str) -> Any:
    """The configuration of that name, a data class.

    Raises:
        InputError: if there is no such network.
    """
    return _module(entry(network)).PRESETS[network]


def build(network: str, config: dict[str, Any]) -> nn.Module:
    """A freshly initialised network of that name and configuration.

    Raises:
        InputError: if there is no such network or it has no such configuration.
    """
    settings = from_dict(type(preset(network)), config, where=f"{network} configuration")
    made_by = entry(network).made_by.partition(".")[2]
    model: nn.Module = getattr(_module(entry(network)), made_by)(settings)
    return model


def load_model(path: Path) -> tuple[CheckpointInfo, nn.Module]:
    """The averaged weights of a checkpoint, ready to be evaluated or exported.

    Raises:
        ModelError: if the checkpoint is unusable or its tensors do not fit its configuration.
    """
    from glint.training.checkpoint import load_checkpoint, part

    info, tensors = load_checkpoint(path)
    try:
        model = build(info.network, info.config)
        model.load_state_dict(part(tensors, "ema"))
    except (InputError, RuntimeError) as error:
        hint = "if another version of glint trained it, export it with that version, or train again"
        raise ModelError(f"checkpoint {path}: {error}", hint=hint) from error
    return info, model.eval()


def _module(network: Network) -> Any:
    return importlib.import_module(f"glint.training.networks.{network.made_by.partition('.')[0]}")
