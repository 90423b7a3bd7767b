"""A precision plan: which layers run in INT8 and which stay in float16, as a file that people can edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glint.calibration.int8_layers import QuantisableLayer
from glint.config import from_dict, to_dict
from glint.errors import InputError
from glint.files import read_json, write_json

PLAN_FORMAT = 1
CHOICES = ("int8", "fp16")


@dataclass(frozen=True)
class PrecisionPlan:
    """What runs in INT8.

    Attributes:
        model: name of the model.
        onnx_sha256: of the fp32 file that it was made for.
        layers: ``int8`` or ``fp16`` by the name of the layer's node; a layer that is not named stays fp16.
        skips: the same for the skips of residual sums, by the name of the node that adds; a skip is
            quantised only if its layer is.
        measured: what a search found: share of the multiply-accumulates and cost of each unit.
        pareto: share in INT8 and loss of every plan that was tried.
        format: of this file.
    """

    model: str
    onnx_sha256: str
    layers: Mapping[str, str]
    skips: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)
    pareto: tuple[dict[str, Any], ...] = ()
    format: int = PLAN_FORMAT

    def __post_init__(self) -> None:
        if self.format != PLAN_FORMAT:
            raise InputError(
                f"precision plan of {self.model}: format {self.format}, this glint reads {PLAN_FORMAT}",
                hint="make it again: glint calibrate --search",
            )
        for name, choice in (*self.layers.items(), *self.skips.items()):
            if choice not in CHOICES:
                raise InputError(f"precision plan of {self.model}: {name}: expected int8 or fp16, got {choice!r}")

    def select(self, candidates: Sequence[QuantisableLayer]) -> tuple[list[QuantisableLayer], list[QuantisableLayer]]:
        """The layers in INT8, and those of them whose skip is.

        Args:
            candidates: layers of the network that may be.

        Raises:
            InputError: if the plan wants something in INT8 that is no candidate.
        """
        known = {layer.name for layer in candidates} | {layer.add for layer in candidates if layer.add}
        for name, choice in (*self.layers.items(), *self.skips.items()):
            if choice == "int8" and name not in known:
                raise InputError(
                    f"precision plan of {self.model}: {name} cannot run in int8",
                    hint="it is no wide layer between the first and the heads, or the plan is of another network",
                )
        layers = [layer for layer in candidates if self.layers.get(layer.name) == "int8"]
        return layers, [layer for layer in layers if layer.add and self.skips.get(layer.add) == "int8"]


def full_plan(model: str, onnx_sha256: str, candidates: Sequence[QuantisableLayer]) -> PrecisionPlan:
    """Everything that may run in INT8 does."""
    return PrecisionPlan(
        model, onnx_sha256, {layer.name: "int8" for layer in candidates},
        {layer.add: "int8" for layer in candidates if layer.add},
    )  # fmt: skip


def load_plan(path: Path) -> PrecisionPlan:
    """Read a plan.

    Raises:
        InputError: if it is missing or malformed.
    """
    return from_dict(PrecisionPlan, read_json(path, what="precision plan"), where=f"precision plan {path.name}")


def save_plan(plan: PrecisionPlan, path: Path) -> None:
    """Write a plan."""
    write_json(path, to_dict(plan))
