"""The search for a precision plan: as much in INT8 as a budget of the task's score allows.

Each layer, and the skip of each residual sum, is quantised alone in the fp32 network. Two things are
measured: the change of the task's score, and the noise in the outputs (squared error over squared
values). The score is what counts but a few hundred samples resolve it only roughly; the noise is sharp.
A unit that costs more than the budget alone comes first, the others follow by their noise.

Then everything is quantised, and units return to float in that order until the loss is within the
budget: 1, 2, 3, 4, 6, 8, 12 ... of them. Every plan tried is a point of the Pareto curve. Two
thirds of the budget are aimed at: the rest is for chance, and for float16.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from glint.calibration.int8_layers import QuantisableLayer
from glint.calibration.judge import Judge, loss, pairs_text
from glint.calibration.precision_plan import PrecisionPlan
from glint.calibration.qdq import quantise
from glint.calibration.tensor_ranges import Batches, values
from glint.cli import talk
from glint.progress import Progress

_BUDGET_SHARE = 2 / 3  # share of the budget
Outputs = dict[str, list[NDArray[np.float32]]]


@dataclass(frozen=True)
class Unit:
    """Something that is quantised or not: a layer, or a skip by the layer that ends its branch."""

    layer: QuantisableLayer
    is_skip: bool

    @property
    def name(self) -> str:
        """What the plan calls it."""
        return self.layer.add if self.is_skip else self.layer.name


@dataclass(frozen=True)
class Sensitivity:
    """What quantising one unit alone costs.

    Attributes:
        loss: change of the task's score, points.
        noise: squared error of the outputs over their squares, the worst output.
        share: of the network's multiply-accumulates.
    """

    loss: float
    noise: float
    share: float


def search(
    model: onnx.ModelProto,
    layers: Sequence[QuantisableLayer],
    thresholds: Mapping[str, float],
    shares: Mapping[str, float],
    judges: tuple[Judge, Judge],
    held: Batches,
    *,
    budget: float,
    name: str,
    onnx_sha256: str,
) -> PrecisionPlan:
    """Find a plan.

    Args:
        model: in fp32.
        layers: that may run in INT8.
        thresholds: of their tensors.
        shares: of each layer in the network's multiply-accumulates.
        judges: of single units, and of plans (on more data).
        held: samples for the noise of the outputs.
        budget: largest change of a score, points.
        name, onnx_sha256: of the model.

    Returns:
        The plan with the largest share in INT8 within the budget of those tried; with everything in
        float if none is.
    """
    units = [Unit(layer, False) for layer in layers] + [Unit(layer, True) for layer in layers if layer.skip]

    def build(chosen: Sequence[Unit]) -> onnx.ModelProto:
        kept = [unit.layer for unit in chosen if not unit.is_skip]
        skips = [unit.layer for unit in chosen if unit.is_skip]
        return quantise(model, kept, skips, thresholds)

    judge, plan_judge = judges
    reference = judge.score(model)
    talk(f"search: {len(units)} units, each judged on {judge.what}, plans on {plan_judge.what}")
    exact = _outputs(model, held)
    found = {}
    with Progress("sensitivity", len(units)) as line:
        for i, unit in enumerate(units):
            alone = build([unit])
            change = loss(reference, judge.score(alone))
            share = 0.0 if unit.is_skip else shares[unit.layer.name]
            found[unit] = Sensitivity(change, _noise(exact, _outputs(alone, held)), share)
            line.update(i + 1, unit.name)
    order = rank(found, budget)
    reference = plan_judge.score(model)
    points = []
    best: list[Unit] = []
    for number in _ladder(len(units)):
        # A skip without its layer would be a conversion for nothing.
        kept = [unit for unit in units if unit not in order[:number]]
        kept = [unit for unit in kept if not unit.is_skip or Unit(unit.layer, False) in kept]
        scores = plan_judge.score(build(kept))
        change = loss(reference, scores)
        share = sum(found[unit].share for unit in kept)
        points.append({"share": round(share, 4), "loss": round(change, 3), "scores": _rounded(scores), "fp16": number})
        talk(f"search: {share:.1%} of the MACs in int8: " + pairs_text(reference, scores) + f", loss {change:.2f}")
        if change <= _BUDGET_SHARE * budget:
            best = kept
            break
    return PrecisionPlan(
        name, onnx_sha256,
        layers={u.name: "int8" if u in best else "fp16" for u in units if not u.is_skip},
        skips={u.name: "int8" if u in best else "fp16" for u in units if u.is_skip},
        measured={u.name: {k: float(f"{v:.3g}") for k, v in vars(s).items()} for u, s in found.items()},
        pareto=tuple(points),
    )  # fmt: skip


def rank(found: Mapping[Unit, Sensitivity], budget: float) -> list[Unit]:
    """Units, the one to return to float first at the front."""

    def key(unit: Unit) -> tuple[float, float]:
        measured = found[unit]
        return (-measured.loss if measured.loss > budget else 0.0, -measured.noise)

    return sorted(found, key=key)


def _ladder(units: int) -> Iterator[int]:
    """0, 1, 2, 3, 4, 6, 8, 12, 16 ... and all of them."""
    step = 1
    yield from (n for n in (0, 1) if n < units)
    while step < units:
        yield from (n for n in (2 * step, 3 * step) if n < units)
        step *= 2
    yield units


def _outputs(model: onnx.ModelProto, batches: Batches) -> Outputs:
    names = [output.name for output in model.graph.output]
    found: Outputs = {name: [] for name in names}
    for name, value in values(model, names, batches):
        found[name].append(value)
    return found


def _noise(exact: Outputs, other: Outputs) -> float:
    def power(parts: Sequence[NDArray[np.float32]]) -> float:
        return float(sum(np.square(part, dtype=np.float64).sum() for part in parts))

    return max(
        power([a - b for a, b in zip(parts, other[name])]) / max(power(parts), 1e-30) for name, parts in exact.items()
    )


def _rounded(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in scores.items()}
