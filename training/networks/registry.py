"""The networks by name, and how a checkpoint becomes a model again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from glint.config import from_dict
from glint.errors import InputError, ModelError
from glint.training.checkpoint import CheckpointInfo, load_checkpoint, part
from glint.training.networks import dista_net, dscsnet, focus, lsnet, unet

PRESETS: dict[str, Any] = {**lsnet.PRESETS, **dscsnet.PRESETS, **dista_net.PRESETS, **focus.PRESETS, **unet.PRESETS}


def task_of(network: str) -> str:
    """``detect`` or ``unmix``.

    Raises:
        InputError: if there is no such network.
    """
    if network not in PRESETS:
        raise InputError(f"no network {network!r}", hint=f"known: {', '.join(PRESETS)}")
    return "detect" if network in {**lsnet.PRESETS, **unet.PRESETS} else "unmix"


def build(network: str, config: dict[str, Any]) -> nn.Module:
    """A freshly initialised network of that name and configuration.

    Raises:
        InputError: if there is no such network or it has no such configuration.
    """
    task_of(network)  # knows the names
    if network in unet.PRESETS:
        return unet.UNet(from_dict(unet.UNetConfig, config, where=f"{network} configuration"))
    if network in lsnet.PRESETS:
        return lsnet.LSNet(from_dict(lsnet.LSNetConfig, config, where=f"{network} configuration"))
    if network in dista_net.PRESETS:
        return dista_net.DistaNet(from_dict(dista_net.DistaNetConfig, config, where=f"{network} configuration"))
    if network in focus.PRESETS:
        return focus.Focus(from_dict(focus.FocusConfig, config, where=f"{network} configuration"))
    return dscsnet.DSCSNet(from_dict(dscsnet.DSCSNetConfig, config, where=f"{network} configuration"))


def load_model(path: Path) -> tuple[CheckpointInfo, nn.Module]:
    """The averaged weights of a checkpoint, ready to be evaluated or exported.

    Raises:
        ModelError: if the checkpoint is unusable or its tensors do not fit its configuration.
    """
    info, tensors = load_checkpoint(path)
    try:
        model = build(info.network, info.config)
        model.load_state_dict(part(tensors, "ema"))
    except (InputError, RuntimeError) as error:
        hint = "if another version of glint trained it, export it with that version, or train again"
        raise ModelError(f"checkpoint {path}: {error}", hint=hint) from error
    return info, model.eval()
