"""A checkpoint as an engine, so that the float model is scored by the same code as every artefact."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from glint.cards import ModelCard, TensorSpec
from glint.export.export import describe
from glint.runtime.engine import Arrays, Engine
from glint.training.networks import load_model


class TorchEngine(Engine):
    """PyTorch, in float32 on the CPU."""

    name = "torch"

    def __init__(self, model: nn.Module, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self.model, self.inputs, self.outputs = model, inputs, outputs

    def _infer(self, arrays: Arrays) -> Arrays:
        with torch.no_grad():
            results = self.model(*(torch.from_numpy(arrays[spec.name]) for spec in self.inputs))
        results = results if isinstance(results, tuple) else (results,)
        return {spec.name: result.numpy() for spec, result in zip(self.outputs, results)}


def open_checkpoint(path: Path, *, threads: int | None = None) -> tuple[ModelCard, Engine]:
    """The card and engine of a checkpoint.

    Raises:
        ModelError: if the checkpoint is unusable.
    """
    if threads:
        torch.set_num_threads(threads)
    info, model = load_model(path)
    card = describe(info, model)
    return card, TorchEngine(model, card.inputs, card.outputs)
