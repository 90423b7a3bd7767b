"""``glint parity``: is the candidate still the reference? Tensors, scores, layers and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.benchmarks.parity.compare import Comparison, compare_detectors, compare_unmixers
from glint.benchmarks.parity.data import frame_set, patch_sets
from glint.benchmarks.parity.layers import LayerError, compare_layers, first_below, largest_losses
from glint.benchmarks.parity.report import report_html
from glint.benchmarks.parity.score_difference import Difference
from glint.benchmarks.parity.sides import NotFiniteError, Side, open_pair
from glint.cards import ModelCard
from glint.cli import talk
from glint.errors import GlintError
from glint.files import known, refuse_existing, write_bytes
from glint.progress import Progress
from glint.runtime.engines.base import Arrays

_CLOSE_SCORES = ("CSO-mAP grid", "CSO-mAP refined", "IoU")  # must stay within the budget, up and down
_CLEAN_MARGIN_DB = 30.0  # dB above the limit of a bad layer at which a signal counts as clean
_EXCUSED_BUDGETS = 5.0  # budgets; a change that chance explains must be sure to be less
_VIEW_PX = 256  # px; largest side of the frame in which layers are compared


@dataclass(frozen=True)
class Budget:
    """What a candidate may lose.

    Attributes:
        points: largest difference of CSO-mAP (grid and refined) and of IoU, percent, either way.
        tolerance: largest error of an output over its largest magnitude; None: any.
        pd_may_rise: Pd must not fall; unless this is set it must not rise either.
        layers: dB of signal to noise below which a layer is called bad.
    """

    points: float
    tolerance: float | None
    pd_may_rise: bool
    layers: float


BUDGETS = {
    "fp32": Budget(points=0.05, tolerance=1e-3, pd_may_rise=False, layers=60.0),
    "fp16": Budget(points=0.1, tolerance=None, pd_may_rise=False, layers=20.0),
    "int8": Budget(points=0.3, tolerance=None, pd_may_rise=True, layers=10.0),
}
"""By the precision of the candidate."""


def parity(
    reference: str,
    candidate: str,
    *,
    data: str | None = None,
    split: str = "val",
    conditions: Sequence[str] = (),
    number: int | None = None,
    seed: int = 1,
    budget: float | None = None,
    tolerance: float | None = None,
    layers: bool = False,
    threads: int | None = None,
    out: Path | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Compare two forms of one network.

    Args:
        reference, candidate: each a checkpoint (``*.safetensors``), an ONNX file, a model card, a released
            model ``NAME`` or ``NAME:PRECISION``, or a TensorRT plan; ``@tensorrt`` behind a model runs it there.
        data: an ``.npy`` array or folder of patches, a CSIST-100K folder; a SIRST-style folder or a source of
            frames; None: simulated. Without labels, what the reference finds is taken for the truth.
        split: of a SIRST-style folder.
        conditions, number, seed: of simulated patches: which (default: all), how many of each (default 1000);
            of simulated frames: how many (default 20). ``number`` also limits what is taken of ``data``.
        budget: largest difference of a score, points; default by the candidate's precision (:data:`BUDGETS`).
        tolerance: largest error of an output over its largest magnitude; likewise.
        layers: compare layer by layer even if the verdict is good: ONNX files, and what TensorRT makes of them
            (needs Polygraphy).
        threads: CPU threads.
        out: HTML report.
        overwrite: replace ``out``.

    Returns:
        JSON-ready: ``passed``, ``reasons`` why not, ``notes``, ``reference``, ``candidate``, ``data``, ``budget``,
        ``scores`` (see :class:`glint.benchmarks.parity.score_difference.Difference`), ``outputs`` (see
        :meth:`glint.benchmarks.parity.tensor_error.TensorError.summary`), ``moved`` (by data: how many patches have
        another number of refined targets, and quantiles of how far those of the others moved, px), ``layers``
        (None if not compared).

    Raises:
        CheckFailedError: if one of them computes NaN or infinity.
        GlintError: another one of its subclasses, for things that cannot be loaded or compared.
    """
    if out is not None:
        refuse_existing(out, overwrite=overwrite)
    with ExitStack() as stack:
        first, second, card = open_pair(reference, candidate, stack, threads=threads)
        allowed = _allowed(second.precision, budget, tolerance)
        try:
            compared, facts, labelled = _compare(
                (first, second), card, data=data, split=split, conditions=conditions, number=number, seed=seed
            )
        except NotFiniteError as error:
            raise NotFiniteError(f"{error}{_where_not_finite(first, second, threads)}", hint=error.hint) from error
        reasons, notes = _reasons(compared, allowed), _notes(compared, allowed, labelled)
        steps = None
        if layers or reasons:
            steps, note = _compared_layers(first, second, compared.inputs, threads, asked=layers)
            notes += [note] if note else []
        result = {
            "passed": not reasons, "reasons": reasons, "notes": notes,
            "reference": first.facts(), "candidate": second.facts(), "data": {**facts, "labelled": labelled},
            **_measured(compared, allowed), "layers": None if steps is None else _layer_facts(steps, allowed),
        }  # fmt: skip
    if out is not None:
        write_bytes(out, report_html(result, compared, steps).encode())
        talk(f"wrote {out}")
    return result


def _measured(compared: Comparison, allowed: Budget) -> dict[str, Any]:
    return {
        "budget": asdict(allowed), "scores": [_score(d, allowed) for d in compared.differences],
        "outputs": {name: error.summary() for name, error in compared.errors.items()},
        "moved": {name: _moved(distance) for name, distance in compared.moved.items()},
    }  # fmt: skip


def _allowed(precision: str, points: float | None, tolerance: float | None) -> Budget:
    asked: dict[str, Any] = {"points": points, "tolerance": tolerance}
    return replace(BUDGETS[precision], **{name: value for name, value in asked.items() if value is not None})


def _compare(
    pair: tuple[Side, Side],
    card: ModelCard,
    *,
    data: str | None,
    split: str,
    conditions: Sequence[str],
    number: int | None,
    seed: int,
) -> tuple[Comparison, dict[str, Any], bool]:
    if card.task == "unmix":
        patches = patch_sets(data, card, conditions=conditions, number=number, seed=seed)
        with Progress("parity", sum(map(len, patches.sets.values()))) as line:
            return compare_unmixers(pair, card, patches, progress=line.update), patches.facts, patches.labelled
    frames = frame_set(data, split=split, number=number, seed=seed)
    with Progress("parity", frames.total) as line:
        return compare_detectors(pair, card, frames, progress=line.update), frames.facts, frames.labelled


def _within(one: Difference, allowed: Budget) -> bool | None:
    """Whether a score keeps to the budget; None if there is none for it or nothing was to be scored."""
    change = one.difference
    if change != change:
        return None
    if one.score in _CLOSE_SCORES:
        return abs(change) <= allowed.points + 1e-9 or _chance(one, allowed)
    if one.score == "Pd":
        return change >= -1e-9 if allowed.pd_may_rise else abs(change) <= 1e-9
    return None


def _chance(one: Difference, allowed: Budget) -> bool:
    """Whether chance explains a change: no change lies within its interval, and nothing far beyond the budget.

    Of few samples an interval holds everything, and 0 as well: that excuses nothing.
    """
    return one.low <= 0 <= one.high and max(-one.low, one.high) <= _EXCUSED_BUDGETS * allowed.points


def _unsure(one: Difference) -> bool:
    """Whether more samples could still show that a change which counts is chance."""
    return one.score in _CLOSE_SCORES and one.low <= 0 <= one.high


def _reasons(compared: Comparison, allowed: Budget) -> list[str]:
    """Why the verdict is bad."""
    reasons = [
        f"{d.score} on {d.data} went from {d.reference:.2f} to {d.candidate:.2f} ({d.difference:+.2f}), allowed: "
        + (f"±{allowed.points:g}" if d.score in _CLOSE_SCORES else "no loss" if allowed.pd_may_rise else "no change")
        + (f"; too few samples to call it chance, 95 % interval {d.low:+.2f} to {d.high:+.2f}" if _unsure(d) else "")
        for d in compared.differences
        if _within(d, allowed) is False
    ]
    for name, error in compared.errors.items():
        if allowed.tolerance is not None and error.needed > allowed.tolerance:
            reasons.append(
                f"output {name!r} needs a tolerance of {error.needed:.1e} of its largest magnitude, "
                f"allowed: {allowed.tolerance:.0e}"
            )
    return reasons


def _notes(compared: Comparison, allowed: Budget, labelled: bool) -> list[str]:
    """What a reader of the verdict should know."""
    notes = []
    if not labelled:
        notes.append("the data have no labels: what the reference finds is taken for the truth")
    by_chance = [
        f"{d.score} on {d.data} ({d.difference:+.2f})" for d in compared.differences
        if d.score in _CLOSE_SCORES and _within(d, allowed) and abs(d.difference) > allowed.points + 1e-9
    ]  # fmt: skip
    if by_chance:
        notes.append(
            f"beyond the budget, but no further than chance: {', '.join(by_chance)}; --number with more data tells"
        )
    unsure = [
        f"{d.score} on {d.data}" for d in compared.differences
        if d.score in _CLOSE_SCORES and _within(d, allowed) and max(-d.low, d.high) > allowed.points
    ]  # fmt: skip
    if unsure:
        notes.append(
            f"the 95 % interval of {', '.join(unsure[:3])}{' and others' if len(unsure) > 3 else ''} reaches beyond "
            "the budget: more data would make the verdict surer"
        )
    return notes


def _score(one: Difference, allowed: Budget) -> dict[str, Any]:
    values = {**asdict(one), "difference": one.difference}
    rounded = {k: round(v, 4) + 0.0 if isinstance(v, float) and v == v else v for k, v in values.items()}  # no -0.0
    return {**known(rounded), "within": _within(one, allowed)}


def _moved(distance: NDArray[np.float64]) -> dict[str, Any]:
    same = distance[np.isfinite(distance)]
    quantiles = {"median": 0.5, "q99": 0.99, "max": 1.0}
    moved = {name: float(np.quantile(same, q)) if len(same) else None for name, q in quantiles.items()}
    return {"patches": len(distance), "other_number": len(distance) - len(same), **moved}


def _compared_layers(
    first: Side, second: Side, inputs: Arrays, threads: int | None, *, asked: bool
) -> tuple[list[LayerError] | None, str]:
    """Layer by layer, where that is possible, and a note about it; what nobody asked for may fail."""
    try:
        steps = _layers(first, second, inputs, threads, build=asked)
    except GlintError as error:
        if asked:
            raise
        return None, f"layers were not compared: {error}"
    if steps is not None:
        return steps, ""
    if asked:
        return None, "layers were not compared: both must be ONNX files, or plans whose ONNX file is here"
    return None, "--layers shows where it goes wrong"


def _layers(
    first: Side, second: Side, inputs: Arrays, threads: int | None, *, build: bool = False
) -> list[LayerError] | None:
    """Layer by layer, or None if one of the two has none, or needs an engine that may not be built."""
    one, two = first.graph(second), second.graph(first)
    if one is None or two is None or ((one.tensorrt or two.tensorrt) and not build):
        return None
    free = {spec.name: spec.shape for spec in first.engine.inputs}
    with Progress("layers") as line:

        def progress(done: int, total: int) -> None:
            line.total = total
            line.update(done)

        views = {name: _view(array, free[name]) for name, array in inputs.items()}
        return compare_layers(one, two, views, threads=threads, progress=progress)


def _view(array: np.ndarray[Any, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """The middle of a frame if the network takes any size: the tensors of all layers of a large one are gigabytes."""
    index = [slice(None)] * array.ndim
    for axis in range(2, array.ndim):
        size = array.shape[axis]
        if shape[axis] == -1 and size > _VIEW_PX:
            index[axis] = slice((size - _VIEW_PX) // 2, (size - _VIEW_PX) // 2 + _VIEW_PX)
    return np.ascontiguousarray(array[tuple(index)])


def _where_not_finite(first: Side, second: Side, threads: int | None) -> str:
    """The first layer that computes NaN, in words, for the end of a message."""
    try:
        layers = _layers(first, second, second.engine.given, threads) or []
    except GlintError:  # the message stands without it
        return ""
    found = next((layer for layer in layers if layer.not_finite), None)
    return f"; the first layer with such numbers is {found.name} ({found.operator})" if found else ""


def _layer_facts(steps: list[LayerError], allowed: Budget) -> dict[str, Any]:
    bad, clean = first_below(steps, allowed.layers), allowed.layers + _CLEAN_MARGIN_DB
    return {
        "compared": len(steps),
        "limit_db": allowed.layers,
        "first_bad": None if bad is None else _layer(bad, clean),
        "largest_losses": [_layer(step, clean) for step in largest_losses(steps, clean)],
    }


def _layer(one: LayerError, clean: float) -> dict[str, Any]:
    return known({**asdict(one), "lost": one.lost(clean)})
