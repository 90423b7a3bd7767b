"""The search for a precision plan: the bytes that INT8 saves, within a budget of the task's score.

Each layer, and the skip of each residual sum, is quantised alone in the fp32 network. Two things are
measured: the change of the task's score, and the noise in the outputs (squared error over squared
values). The score is what counts but a few hundred samples resolve it only roughly; the noise is sharp.
A third is counted: the bytes that the unit saves among all the others (:mod:`glint.calibration.bytes_saved`).

Units return to float one after the other: those that cost more than the budget alone first, then by noise
per byte saved; 0, 1, 2, 3, 4, 6, 8, 12 ... of them. Of what is left, units that save no bytes among
the others return as well, so that INT8 forms islands. The first plan within the budget is taken. Every plan
tried is a point of the Pareto curve. Two thirds of the budget are aimed at: the rest is for chance, and for float16.

Plans are judged on few samples first: what costs twice the budget there is not judged on many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from glint.calibration.bytes_saved import BytesSaved
from glint.calibration.int8_layers import QuantisableLayer
from glint.calibration.judge import Judge, loss, pairs_text
from glint.calibration.precision_plan import PrecisionPlan
from glint.calibration.qdq import USUAL, Scales, quantise
from glint.calibration.tensor_ranges import Batches, values
from glint.cli import talk
from glint.progress import Progress

_BUDGET_SHARE = 2 / 3  # share of the budget
_SURELY_OVER_BUDGETS = 2.0  # budgets that a plan costs on few samples and is given up for
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
        bytes: that it saves a run, where all others are quantised, too.
    """

    loss: float
    noise: float
    share: float
    bytes: int


@dataclass(frozen=True)
class Judges:
    """Judges of a search: of single units, of plans on a few samples, and on many."""

    units: Judge
    few: Judge
    many: Judge


def search(
    model: onnx.ModelProto,
    layers: Sequence[QuantisableLayer],
    thresholds: Mapping[str, float],
    shares: Mapping[str, float],
    saved: BytesSaved,
    judges: Judges,
    held: Batches,
    *,
    budget: float,
    name: str,
    onnx_sha256: str,
    scales: Scales = USUAL,
) -> PrecisionPlan:
    """Find a plan.

    Args:
        model: in fp32.
        layers: that may run in INT8.
        thresholds: of their tensors.
        shares: of each layer in the network's multiply-accumulates.
        saved: counts bytes.
        judges: of single units and of plans.
        held: samples for the noise of the outputs.
        budget: largest change of a score, points.
        name, onnx_sha256: of the model.
        scales: form of the Q/DQ.

    Returns:
        The first plan within the budget of those tried; with everything in float if none is.
    """
    units = [Unit(layer, False) for layer in layers] + [Unit(layer, True) for layer in layers if layer.skip]

    def build(chosen: Sequence[Unit]) -> onnx.ModelProto:
        return quantise(model, *_split(chosen), thresholds, scales)

    def saving(chosen: Sequence[Unit]) -> int:
        return saved(*_split(chosen))

    found = _sensitivities(model, units, build, saving, shares, judges.units, held)
    order = rank(found, budget)
    change = _Changes(model)
    points: list[dict[str, Any]] = []
    best: list[Unit] = []
    for kept in _ladder_of(units, order, saving):
        share, bytes_saved = sum(found[unit].share for unit in kept), saving(kept)
        talk(f"search: {share:.1%} of the MACs in int8, {bytes_saved / 1e6:.2f} MB saved")
        cost, scores = change.by(judges, build(kept), budget)
        points.append({
            "share": round(share, 4), "bytes": bytes_saved, "loss": round(cost, 3), "scores": _rounded(scores),
            "fp16": len(units) - len(kept),
        })  # fmt: skip
        if cost <= _BUDGET_SHARE * budget:
            best = kept
            break
    return PrecisionPlan(
        name, onnx_sha256,
        layers={u.name: "int8" if u in best else "fp16" for u in units if not u.is_skip},
        skips={u.name: "int8" if u in best else "fp16" for u in units if u.is_skip},
        measured={u.name: {k: float(f"{v:.3g}") for k, v in vars(s).items()} for u, s in found.items()},
        pareto=tuple(points),
    )  # fmt: skip


class _Changes:
    """Loss and scores of a candidate by a judge, who scores the model itself once."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._references: dict[int, dict[str, float]] = {}

    def __call__(self, judge: Judge, candidate: onnx.ModelProto) -> tuple[float, dict[str, float]]:
        if id(judge) not in self._references:
            self._references[id(judge)] = _scored("search: the float model", judge, self._model)
        reference, scores = self._references[id(judge)], _scored("search: a plan", judge, candidate)
        talk(f"search: on {judge.what}: {pairs_text(reference, scores)}")
        return loss(reference, scores), scores

    def by(self, judges: Judges, candidate: onnx.ModelProto, budget: float) -> tuple[float, dict[str, float]]:
        """By many samples; by few where these already put it surely over the budget."""
        cost, scores = self(judges.few, candidate)
        if cost <= _SURELY_OVER_BUDGETS * budget and judges.many is not judges.few:
            return self(judges.many, candidate)
        return cost, scores


def _ladder_of(
    units: Sequence[Unit], order: Sequence[Unit], saving: Callable[[Sequence[Unit]], int]
) -> Iterator[list[Unit]]:
    """What stays in int8 as more and more units return to float, each choice once."""
    tried: list[Unit] | None = None
    for number in _ladder(len(units)):
        kept = _worth_their_bytes([unit for unit in units if unit not in order[:number]], saving)
        if kept != tried:
            yield kept
        tried = kept


def _scored(what: str, judge: Judge, model: onnx.ModelProto) -> dict[str, float]:
    with Progress(what, judge.size) as line:
        return judge.score(model, line.update)


def rank(found: Mapping[Unit, Sensitivity], budget: float) -> list[Unit]:
    """Units, the one to return to float first at the front."""

    def key(unit: Unit) -> tuple[float, float]:
        measured = found[unit]
        return (-measured.loss if measured.loss > budget else 0.0, -measured.noise / max(measured.bytes, 1))

    return sorted(found, key=key)


def _sensitivities(
    model: onnx.ModelProto,
    units: Sequence[Unit],
    build: Callable[[Sequence[Unit]], onnx.ModelProto],
    saving: Callable[[Sequence[Unit]], int],
    shares: Mapping[str, float],
    judge: Judge,
    held: Batches,
) -> dict[Unit, Sensitivity]:
    talk(f"search: {len(units)} units, each judged on {judge.what}")
    reference, exact = judge.score(model), _outputs(model, held)
    everything = saving(units)
    found = {}
    with Progress("sensitivity", len(units)) as line:
        for i, unit in enumerate(units):
            alone = build([unit])
            found[unit] = Sensitivity(
                loss(reference, judge.score(alone)),
                _noise(exact, _outputs(alone, held)),
                0.0 if unit.is_skip else shares[unit.layer.name],
                everything - saving(_without(units, unit)),
            )
            line.update(i + 1, unit.name)
    return found


def _split(chosen: Sequence[Unit]) -> tuple[list[QuantisableLayer], list[QuantisableLayer]]:
    """Layers, and layers whose skip is chosen."""
    return [unit.layer for unit in chosen if not unit.is_skip], [unit.layer for unit in chosen if unit.is_skip]


def _without(chosen: Sequence[Unit], one: Unit) -> list[Unit]:
    """The others; a skip goes with its layer, without which it would be a conversion for nothing."""
    return [unit for unit in chosen if unit != one and (not unit.is_skip or unit.layer != one.layer)]


def _worth_their_bytes(chosen: Sequence[Unit], saving: Callable[[Sequence[Unit]], int]) -> list[Unit]:
    """The units without those that save no bytes among the others, the worst first; skips without a layer go."""
    layers = {unit.layer for unit in chosen if not unit.is_skip}
    kept = [unit for unit in chosen if unit.layer in layers]
    while kept:
        whole = saving(kept)
        gains = [whole - saving(_without(kept, unit)) for unit in kept]
        least = min(range(len(kept)), key=gains.__getitem__)
        if gains[least] > 0:
            break
        kept = _without(kept, kept[least])
    return kept


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
