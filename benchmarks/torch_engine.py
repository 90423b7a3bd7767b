"""PyTorch as an engine: a checkpoint, so that the float model is scored by the same code as every artefact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from glint.cards import ModelCard, TensorSpec
from glint.errors import InputError
from glint.runtime.engines.base import Arrays, Engine
from glint.training.networks.registry import build, load_model


class TorchEngine(Engine):
    """PyTorch.

    Args:
        model: in evaluation mode; a module, or what is compiled of one.
        inputs, outputs: its tensors.
        device: ``cpu`` or ``cuda``.
        half: compute in float16 where autocast does.
    """

    name = "torch"

    def __init__(
        self,
        model: Callable[..., Any],
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        *,
        device: str = "cpu",
        half: bool = False,
    ) -> None:
        self.model, self.inputs, self.outputs = model, inputs, outputs
        self.device, self.half = device, half

    def details(self) -> dict[str, Any]:
        """PyTorch's version, its threads and the device."""
        facts = {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": self.device}
        return {**super().details(), **facts}

    def _infer(self, arrays: Arrays) -> Arrays:
        values = (torch.from_numpy(arrays[spec.name]).to(self.device) for spec in self.inputs)
        with torch.inference_mode(), torch.autocast(self.device, torch.float16, enabled=self.half):
            results = self.model(*values)
        results = results if isinstance(results, tuple) else (results,)
        return {spec.name: result.float().cpu().numpy() for spec, result in zip(self.outputs, results)}


def open_checkpoint(path: Path, *, threads: int | None = None) -> tuple[ModelCard, Engine]:
    """The card and engine of a checkpoint.

    Raises:
        ModelError: if the checkpoint is unusable.
    """
    from glint.export.export import describe

    if threads:
        torch.set_num_threads(threads)
    info, model = load_model(path)
    card = describe(info, model)
    return card, TorchEngine(model, card.inputs, card.outputs)


def open_network(
    card: ModelCard, *, checkpoint: Path | None, threads: int, precision: str = "fp32", compiled: bool = False
) -> Engine:
    """The network of a model in PyTorch, on the GPU if there is one.

    Args:
        card: of the model.
        checkpoint: its weights; None: fresh ones. They take the same time, but say nothing.
        threads: of the CPU.
        precision: ``fp32``, or on a GPU ``fp16``.
        compiled: by ``torch.compile``.

    Raises:
        ModelError: if the checkpoint is unusable.
        InputError: if it is of another network.
    """
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if checkpoint is None:
        torch.manual_seed(0)
        model = build(card.network, card.config).eval()
    else:
        info, model = load_model(checkpoint)
        if (info.network, info.config) != (card.network, card.config):
            raise InputError(
                f"{checkpoint} is a {info.network}, {card.name} is another {card.network}",
                hint="give the checkpoint that the card was exported from",
            )
    model.to(device)
    call: Callable[..., Any] = torch.compile(model) if compiled else model
    engine = TorchEngine(call, card.inputs, card.outputs, device=device, half=precision == "fp16")
    engine.name = "torch-compile" if compiled else "torch"
    return engine
