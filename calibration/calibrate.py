"""``glint calibrate``: a model in fp16 or int8 that still scores like the float model, and its card."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from glint import __version__
from glint.calibration.balance import balance, channel_factors, worth_balancing
from glint.calibration.bytes_saved import BytesSaved
from glint.calibration.clamps import clamped, extreme_inputs
from glint.calibration.fp16 import check_range, to_fp16
from glint.calibration.int8_layers import MOVES, Graph, QuantisableLayer, float_tensors, macs_by_node
from glint.calibration.judge import Judge, frame_judge, loss, pairs_text, patch_judge
from glint.calibration.plan_search import Judges, search
from glint.calibration.precision_plan import PrecisionPlan, full_plan, load_plan, save_plan
from glint.calibration.qdq import USUAL, Scales, quantise
from glint.calibration.rounding import round_like_fp16
from glint.calibration.samples import Samples, load_samples, make_samples
from glint.calibration.tensor_ranges import Batches, observe, values
from glint.calibration.threshold_choice import Choice, choose_thresholds
from glint.calibration.thresholds import METHODS
from glint.cards import ModelCard, load_card, save_card
from glint.cli import talk
from glint.config import to_dict
from glint.data.datasets import LabelledImage, labelled_images
from glint.errors import CheckFailedError, InputError
from glint.export.lint.findings import PRODUCTS, REFUSED, VERSIONS
from glint.export.lint.lint import lint, load_whole_onnx
from glint.files import refuse_existing, sha256, write_bytes, write_json
from glint.progress import Progress, told_if_slow

PRECISIONS = ("fp16", "int8")
BUDGET_POINTS = {"fp16": 0.1, "int8": 0.3}  # points
SCORED_BY_TASK = {"unmix": 10000, "detect": 96}
# Samples by which a search judges units, and plans (few, many).
SEARCHED_BY_TASK = {"unmix": (600, 2000, 10000), "detect": (24, 24, 96)}
_LARGEST_PIXELS = 640 * 512  # pixels of an image that a search still takes
_JUDGED_SPLIT = "val"


@dataclass(frozen=True)
class CalibrateOptions:
    """How to calibrate.

    Attributes:
        samples: size of the calibration set (default: 512 patches or 24 frames).
        data: real data for it (:func:`glint.calibration.samples.make_samples`). A detector with a SIRST-style
            folder is also judged by it: on ``val``, searches on ``split``.
        split: of a SIRST-style folder, for the calibration set.
        bits: of the camera that the model is for.
        seed: of everything simulated.
        set_file: a saved calibration set to use again.
        methods: that may propose thresholds.
        plan: a precision plan to follow; None: everything that may run in INT8 does.
        find_plan: search for a plan that keeps to the budget.
        budget: largest change of a score, points (default: 0.1 for fp16, 0.3 for int8).
        scored: patches or frames that the result is judged by (default: 10,000 or 96).
        scales: form of int8's Q/DQ.
    """

    samples: int | None = None
    data: Path | None = None
    split: str = "train"
    bits: int | None = None
    seed: int = 1
    set_file: Path | None = None
    methods: tuple[str, ...] = tuple(METHODS)
    plan: Path | None = None
    find_plan: bool = False
    budget: float | None = None
    scored: int | None = None
    scales: Scales = USUAL

    def __post_init__(self) -> None:
        if self.plan is not None and self.find_plan:
            raise InputError("a plan to follow and a search for one exclude each other", hint="leave one of them away")
        if self.set_file is not None and self.samples is not None:
            raise InputError("a saved calibration set has its own number of samples", hint="leave --samples away")


def calibrate(
    model: str | Path,
    out: Path,
    *,
    precision: str,
    options: CalibrateOptions | None = None,
    save_set: Path | None = None,
    save_plan_to: Path | None = None,
    overwrite: bool = False,
) -> ModelCard:
    """Write ``NAME.PRECISION.onnx`` and its card into a folder.

    The same model, data and options give the same bytes.

    Args:
        model: an fp32 model: name in the zoo, card or ONNX file with its card.
        out: folder.
        precision: ``fp16`` or ``int8``.
        options: how.
        save_set: JSON file for the list of the calibration set.
        save_plan_to: JSON file for the precision plan.
        overwrite: replace existing files.

    Returns:
        The card that was written.

    Raises:
        InputError: if the calibration set, the plan or an option will not do, or values exceed fp16.
        ModelError: if there is no such model, or its weights are missing.
        OutputError: if an output exists or cannot be written.
        CheckFailedError: if the result misses the budget, or no TensorRT would take it; nothing is written then
            but the plan of a search.
    """
    options = options or CalibrateOptions()
    _check(options, precision)
    card, path = _float_model(model)
    file = out / f"{card.name}.{precision}.onnx"
    for output in (file, file.with_suffix(".json"), save_set, save_plan_to):
        if output is not None:
            refuse_existing(output, overwrite=overwrite)

    samples = _samples(card, options)
    if save_set is not None:
        write_json(save_set, samples.listed())
    float_model = load_whole_onnx(path)
    _tell_findings(float_model)
    network = _observe(float_model, samples)
    talk(
        f"calibrate {card.name}: {len(samples.names)} samples; largest value in fp16 {network.range['largest']:.4g} "
        f"({network.range['layer']})"
    )
    notes: dict[str, Any] = {}
    with told_if_slow(f"calibrate {card.name}: extreme scenes"):
        safe, reached = clamped(float_model, network.largest, extreme_inputs(card))
    if precision == "fp16":
        result = to_fp16(safe)
    else:
        result, plan, notes = _quantised(card, safe, network, samples, options)
        if save_plan_to is not None:
            save_plan(plan, save_plan_to)
    _require_buildable(result, file)
    parity = _judge(card, float_model, result, samples, precision, options)
    calibration = {**_described(samples, options), "range": network.range, "clamped": reached, **notes}
    return _write(result, file, replace(card, precision=precision, parity=parity, calibration=calibration))


def _check(options: CalibrateOptions, precision: str) -> None:
    if precision not in PRECISIONS:
        raise InputError(f"precision: expected {' or '.join(PRECISIONS)}, got {precision!r}")
    if precision == "fp16" and (options.plan or options.find_plan):
        raise InputError("a precision plan says what runs in int8", hint="--precision int8")
    if precision == "fp16" and options.scales != USUAL:
        raise InputError("only int8 has scales", hint="--precision int8")


def _float_model(model: str | Path) -> tuple[ModelCard, Path]:
    card, path = load_card(model)
    if card.precision != "fp32":
        raise InputError(
            f"{path.name} is in {card.precision}; calibration starts from the fp32 model", hint="name the .fp32.onnx"
        )
    return card, path


def _write(result: onnx.ModelProto, file: Path, card: ModelCard) -> ModelCard:
    """Write the model and its card; returns the card with the file's hash and what made it."""
    data = result.SerializeToString(deterministic=True)
    write_bytes(file, data)
    made_with = {"glint": __version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    described = replace(card, file=file.name, sha256=sha256(file), versions={**card.versions, **made_with})
    save_card(described, file.parent)
    talk(f"wrote {file} ({len(data) / 1e6:.1f} MB)")
    return described


@dataclass(frozen=True)
class _Network:
    """What is known of the float model: what may run in INT8, its share of the work, shapes, largest values."""

    layers: list[QuantisableLayer]
    shares: dict[str, float]
    shapes: dict[str, tuple[int, ...]]
    largest: dict[str, float]
    range: dict[str, float | str]


def _tell_findings(model: onnx.ModelProto) -> None:
    """Say what TensorRT will make of the float model: calibration changes nothing of it."""
    for finding in lint(model):
        talk(f"calibrate: {finding.text()}; hint: {finding.hint}")


def _require_buildable(model: onnx.ModelProto, file: Path) -> None:
    for finding in lint(model):
        if finding.severity == REFUSED and finding.versions == VERSIONS:
            raise CheckFailedError(f"{file.name} is not written: {finding.text()}", hint=finding.hint)


def _observe(model: onnx.ModelProto, samples: Samples) -> _Network:
    graph = Graph(model)
    # An operator that only moves values has the largest value of its source.
    products = [node for node in model.graph.node if node.op_type in PRODUCTS]
    asked = {name for node in products for name in node.input}
    layers = graph.layers()
    asked |= {layer.skip for layer in layers}
    tensors = [n for n in float_tensors(model) if n in asked or graph.maker[n].op_type not in MOVES]
    seen = observe(model, tensors, samples.batches)
    shapes = {model.graph.input[0].name: samples.batches[0].shape, **seen.shapes}
    macs = macs_by_node(graph, shapes)
    total = sum(macs.values())
    return _Network(
        layers, {name: n / total for name, n in macs.items()}, shapes, seen.largest,
        check_range(model, seen.largest),
    )  # fmt: skip


def _samples(card: ModelCard, options: CalibrateOptions) -> Samples:
    if options.set_file is not None:
        return load_samples(card, options.set_file, data=options.data, split=options.split)
    return make_samples(
        card, number=options.samples, data=options.data, split=options.split, bits=options.bits, seed=options.seed
    )


def _quantised(
    card: ModelCard, float_model: onnx.ModelProto, network: _Network, samples: Samples, options: CalibrateOptions
) -> tuple[onnx.ModelProto, PrecisionPlan, dict[str, Any]]:
    """The int8 model, its plan and what the card says of it."""
    fit, held = samples.split()
    methods = options.methods
    choices = choose_thresholds(float_model, network.layers, network.largest, fit, held, methods=methods)
    factors = channel_factors(float_model, network.layers, fit)
    uneven, more = worth_balancing(float_model, network.layers, choices, factors, fit, held, methods)
    choices = {**choices, **more}
    thresholds = {name: choice.threshold for name, choice in choices.items()}
    base = balance(float_model, uneven, factors)
    plan = _plan(card, base, thresholds, network, held, options)
    names = {layer.name for layer in plan.select(network.layers)[0]}
    # Layers that stay in float16 need no balance.
    balanced = [layer for layer in uneven if layer.name in names]
    base = balance(float_model, balanced, factors)
    layers, skips = plan.select(Graph(base).layers())
    if not layers:
        raise CheckFailedError(
            "the plan leaves nothing in int8", hint="use fp16, raise --budget, or train with quantisation"
        )
    share = sum(network.shares[layer.name] for layer in layers)
    saved = BytesSaved(Graph(base), network.shapes)(layers, skips)
    talk(
        f"calibrate {card.name}: {share:.1%} of the multiply-accumulates in int8 ({len(layers)} layers), "
        f"{saved / 1e6:.2f} MB a run less than in fp16"
    )
    read = {name for layer in layers for name in (layer.data, layer.skip if layer in skips else "")}
    notes = {
        "int8_share": round(share, 4),
        "int8_layers": [layer.name for layer in layers],
        "scales": to_dict(options.scales),
        "bytes_saved": saved,
        "balanced": [layer.name for layer in balanced],
        "methods": dict(Counter(choice.method for name, choice in choices.items() if name in read)),
        "thresholds": _thresholds(choices, read),
    }
    return quantise(to_fp16(base), layers, skips, thresholds, options.scales), plan, notes


def _plan(
    card: ModelCard,
    base: onnx.ModelProto,
    thresholds: dict[str, float],
    network: _Network,
    held: Batches,
    options: CalibrateOptions,
) -> PrecisionPlan:
    """The plan of the file, of a search, or everything."""
    if options.plan is not None:
        plan = load_plan(options.plan)
        if plan.onnx_sha256 != card.sha256:
            talk(f"note: {options.plan.name} was made for another {plan.model}: the result is judged all the same")
        return plan
    if not options.find_plan:
        return full_plan(card.name, card.sha256, network.layers)
    made = {number: _make_judge(card, options, searched=number) for number in SEARCHED_BY_TASK[card.task]}
    judges = Judges(*(made[number] for number in SEARCHED_BY_TASK[card.task]))
    graph = Graph(base)
    return search(
        base, graph.layers(), thresholds, network.shares, BytesSaved(graph, network.shapes), judges, held,
        budget=_budget("int8", options), name=card.name, onnx_sha256=card.sha256, scales=options.scales,
    )  # fmt: skip


def _budget(precision: str, options: CalibrateOptions) -> float:
    return BUDGET_POINTS[precision] if options.budget is None else options.budget


def _thresholds(choices: dict[str, Choice], read: set[str]) -> dict[str, float]:
    return {name: float(f"{c.threshold:.6g}") for name, c in choices.items() if name in read}


def _judge(
    card: ModelCard,
    float_model: onnx.ModelProto,
    result: onnx.ModelProto,
    samples: Samples,
    precision: str,
    options: CalibrateOptions,
) -> dict[str, Any]:
    """What the result differs by from the float model, in numbers and in the task's score."""
    budget = _budget(precision, options)
    judge = _make_judge(card, options)
    rounded = round_like_fp16(result)
    _require_finite(rounded, extreme_inputs(card))
    with Progress(f"calibrate {card.name}: fp32 and {precision} are scored", 2 * judge.size) as line:
        reference = judge.score(float_model, line.update)
        scores = judge.score(rounded, lambda done: line.update(judge.size + done))
    change = loss(reference, scores)
    pairs = pairs_text(reference, scores)
    talk(f"calibrate {card.name}: {precision}: {pairs} on {judge.what}")
    if not change <= budget:
        searched = "search with a smaller --budget, or set more layers of the plan to fp16"
        helps = searched if options.find_plan or options.plan else "--search keeps the layers in fp16 that cost most"
        hint = helps if precision == "int8" else "mark more float32 islands in the network"
        raise CheckFailedError(
            f"{card.name} in {precision} changes a score by {change:.2f} points, the budget is {budget:g} ({pairs})",
            hint=f"{hint}; nothing was written",
        )
    task = {
        "data": judge.what, "fp32": _rounded(reference), precision: _rounded(scores), "loss": round(change, 3),
        "budget": budget,
    }  # fmt: skip
    return {**_errors(float_model, rounded, samples.split()[1]), "task": task}


def _require_finite(rounded: onnx.ModelProto, extremes: Batches) -> None:
    """Refuse a model that fp16 drives out of its range in extreme scenes.

    Raises:
        CheckFailedError: if an output is not finite.
    """
    names = [output.name for output in rounded.graph.output]
    for name, value in values(rounded, names, extremes, what="extremes"):
        if not np.isfinite(value).all():
            raise CheckFailedError(
                f"{name} is not finite in fp16 for a saturated, empty or broken scene",
                hint="mark the layers that grow as a float32 island in the network, and export again",
            )


def _make_judge(card: ModelCard, options: CalibrateOptions, *, searched: int | None = None) -> Judge:
    """Data to be judged by; a search has others than the last judgement, and only so many."""
    number = options.scored or SCORED_BY_TASK[card.task]
    if searched is not None:
        number = min(number, searched)
    seed = options.seed + (2 if searched is None else 1)
    if card.task == "unmix":
        return patch_judge(card, number, seed)
    folder = options.data
    if folder is None or not (folder / "masks").is_dir():
        return frame_judge(card, number, seed, options.bits)
    split = _JUDGED_SPLIT if searched is None else options.split
    images: list[LabelledImage] = list(labelled_images(folder, split))
    if searched is not None:
        small = [image for image in images if image.image.size <= _LARGEST_PIXELS] or images
        images = small[:: -(-len(small) // number)]
    return Judge(card, images=images, what=f"{len(images)} images of {folder.name}/{split}")


def _errors(float_model: onnx.ModelProto, result: onnx.ModelProto, batches: Batches) -> dict[str, Any]:
    """Largest error per output, absolute and relative to its largest value, and signal to noise in dB."""
    names = [output.name for output in float_model.graph.output]
    outputs = {}
    exact, other = ([*values(model, names, batches)] for model in (float_model, result))
    for name in names:
        pairs = [(a.astype(np.float64), b) for (n, a), (_, b) in zip(exact, other) if n == name]
        worst = max(float(np.abs(a - b).max()) for a, b in pairs)
        largest = max(float(np.abs(a).max()) for a, _ in pairs)
        signal = sum(float(np.square(a).sum()) for a, _ in pairs)
        noise = sum(float(np.square(a - b).sum()) for a, b in pairs)
        ratio = 10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30))
        outputs[name] = {"absolute": worst, "relative": worst / max(largest, 1e-12), "sqnr_db": round(ratio, 2)}
    return {**{k: max(o[k] for o in outputs.values()) for k in ("absolute", "relative")}, "outputs": outputs}


def _described(samples: Samples, options: CalibrateOptions) -> dict[str, Any]:
    return {
        "samples": len(samples.names), "samples_sha256": samples.digest(), "seed": samples.seed, "bits": samples.bits,
        "data": None if options.data is None else options.data.name,
    }  # fmt: skip


def _rounded(scores: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in scores.items()}
