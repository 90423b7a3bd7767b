"""The result of ``glint parity`` for the terminal and as a page."""

from __future__ import annotations

from typing import Any

import numpy as np

from glint import __version__
from glint.benchmarks.parity.compare import Comparison, WorstCase
from glint.benchmarks.parity.layers import LayerError
from glint.benchmarks.parity.tensor_error import BINS_PER_OCTAVE, TensorError, bin_edges
from glint.benchmarks.reporting.html import (
    Mark,
    figures,
    legend,
    number_text,
    page,
    paragraph,
    picture,
    pictures,
    section,
    table,
    verdict,
)
from glint.benchmarks.reporting.interval_plot import Interval, interval_plot
from glint.benchmarks.reporting.plots import Axis, Series, histogram, line_plot, scatter
from glint.benchmarks.reporting.text import columns, figure

_NAMED_LAYERS = 3  # layers that the plot names
_BINS_PER_BAR = BINS_PER_OCTAVE // 4  # bins of an error per bar of a histogram: four per factor of two
_CEILING_DB = 150.0  # dB; what "no difference" is drawn as

Result = dict[str, Any]


def report_text(result: Result) -> str:
    """Verdict, scores, outputs and layers as lines for the terminal."""
    lines = [f"{'PASSED' if result['passed'] else 'FAILED'}: {_names(result)}"]
    lines += [f"  {reason}" for reason in result["reasons"]] + [f"  note: {note}" for note in result["notes"]]
    scores = [
        [r["data"], r["score"], figure(r["reference"]), figure(r["candidate"]), _signed(r["difference"]), _interval(r)]
        for r in result["scores"]
    ]
    lines += ["", *columns([["data", "score", "reference", "candidate", "change", "95 % interval"], *scores], left=2)]
    outputs = [["output", "SQNR dB", "needed", "max", "mean", "99.9 %"]]
    for name, row in result["outputs"].items():
        error = row["absolute"]
        values = (row["needed"], error["max"], error["mean"], error["q99.9"])
        outputs.append([name, _db(row["sqnr_db"]), *map(number_text, values)])
    lines += ["", *columns(outputs)]
    if result["moved"]:
        moved = [[name, *_moved_texts(row)] for name, row in result["moved"].items()]
        lines += ["", *columns([["refined targets", "other number", "moved, px", "99 %", "max"], *moved])]
    if result["layers"] is not None:
        lines += ["", *_layer_lines(result["layers"])]
    return "\n".join(lines)


def _moved_texts(row: dict[str, Any]) -> list[str]:
    return [
        str(row["other_number"]),
        *("" if row[k] is None else number_text(row[k]) for k in ("median", "q99", "max")),
    ]


def _layer_lines(layers: dict[str, Any]) -> list[str]:
    bad = layers["first_bad"]
    head = f"{layers['compared']} layers compared; "
    if bad is None:
        head += f"all above {layers['limit_db']:g} dB"
    elif bad["not_finite"]:
        head += f"the first bad one is {bad['name']} ({bad['operator']}): {bad['not_finite']} NaN or infinite"
    else:
        before = "no difference" if bad["before"] is None else f"{bad['before']:.1f} dB"
        head += f"the first bad one is {bad['name']} ({bad['operator']}): {_db(bad['sqnr'])} dB, {before} before it"
    rows = [f"  {_db(s['before']):>6} -> {_db(s['sqnr']):>6} dB  {s['name']}" for s in layers["largest_losses"][:5]]
    return [head, *(["most is lost in", *rows] if rows else [])]


def report_html(result: Result, compared: Comparison, layers: list[LayerError] | None) -> str:
    """One self-contained page."""
    text = "The candidate keeps to the budget." if result["passed"] else "The candidate does not keep to the budget."
    parts = [
        verdict(result["passed"], text, [*result["reasons"], *(f"Note: {note}." for note in result["notes"])]),
        section("Scores", paragraph(_budget_text(result)), _score_plot(result), _score_table(result)),
        section("Outputs", _output_table(result), figures(*_output_plots(compared))),
    ]
    if result["moved"]:
        columns = ["data", "patches", "another number of targets", "moved by, px: median", "99 %", "max"]
        rows = [[name, str(row["patches"]), *_moved_texts(row)] for name, row in result["moved"].items()]
        parts.append(section("Refined targets", table(columns, rows)))
    if layers is not None:
        parts.append(section("Layers", *_layer_parts(result["layers"], layers)))
    parts.append(section("Where they differ most", *map(_case, compared.cases)))
    parts.append(section("What was compared", _facts_table(result)))
    return page(f"Parity: {_names(result)}", parts, subtitle=f"glint {__version__}")


def _names(result: Result) -> str:
    one, two = (f"{result[k]['name']} ({result[k]['engine']['name']})" for k in ("candidate", "reference"))
    return f"{one} against {two}"


def _budget_text(result: Result) -> str:
    budget = result["budget"]
    pd = "must not fall" if budget["pd_may_rise"] else "must not change"
    limit = (
        "" if budget["tolerance"] is None else f" Outputs: at most {budget['tolerance']:g} of the largest magnitude."
    )
    return (
        f"Budget: {budget['points']:g} points of CSO-mAP (grid and refined) and IoU, either way; Pd {pd}.{limit} "
        "Intervals are 95 %, paired bootstrap over patches or images."
    )


def _score_plot(result: Result) -> str:
    """The changes that have a budget, with their intervals."""
    points = result["budget"]["points"]
    rows = [
        Interval(f"{row['score']}, {row['data']}", row["low"], row["difference"], row["high"], row["within"])
        for row in result["scores"]
        if row["within"] is not None and row["low"] is not None
    ]
    caption = "Dots: changes. Bars: their 95 % intervals. Green band: the budget of all but Pd."
    return interval_plot(rows, "change, points", band=(-points, points), caption=caption)


def _score_table(result: Result) -> str:
    columns = ["data", "score", "reference", "candidate", "change", "95 % interval", "within budget"]
    rows = [
        [
            row["data"], row["score"], figure(row["reference"]), figure(row["candidate"]), _signed(row["difference"]),
            _interval(row), "" if row["within"] is None else row["within"],
        ]
        for row in result["scores"]
    ]  # fmt: skip
    return table(columns, rows)


def _output_table(result: Result) -> str:
    columns = [
        "output",
        "SQNR, dB",
        "tolerance needed",
        "largest magnitude",
        "error",
        "max",
        "mean",
        "median",
        "99 %",
        "99.9 %",
    ]
    rows = []
    for name, row in result["outputs"].items():
        for kind in ("absolute", "relative"):
            values = [row[kind][key] for key in ("max", "mean", "q50", "q99", "q99.9")]
            texts = ["∞" if value is None else number_text(value) for value in values]
            head = [name, _db(row["sqnr_db"]), number_text(row["needed"]), number_text(row["peak"])]
            rows.append([*(head if kind == "absolute" else [""] * 4), kind, *texts])
    return table(columns, rows)


def _output_plots(compared: Comparison) -> list[str]:
    plots = []
    for name, error in compared.errors.items():
        pairs = np.concatenate([*compared.sample[name], np.zeros((0, 2))])
        plots.append(_error_histogram(name, error))
        plots.append(
            scatter(
                [Series("", pairs[:, 0], pairs[:, 1])], Axis("reference"), Axis("candidate"), diagonal=True,
                caption=f"{name}: {len(pairs)} values, half of them large ones, and the worst of every batch",
            )
        )  # fmt: skip
    return plots


def _error_histogram(name: str, error: TensorError) -> str:
    counts = error.bins.reshape(-1, _BINS_PER_BAR).sum(axis=1)
    used = np.flatnonzero(counts)
    first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
    equal = error.count - int(error.bins.sum())
    caption = f"{name}: absolute errors of {error.count:,} values; {equal:,} have none"
    return histogram(
        bin_edges()[::_BINS_PER_BAR][first : last + 1], counts[first:last], Axis("error", log=True), caption=caption
    )


def _layer_parts(facts: dict[str, Any], layers: list[LayerError]) -> list[str]:
    bad, losses = facts["first_bad"], facts["largest_losses"]
    head = f"{_layer_lines(facts)[0]}. Layers are those with the same name and kind in both graphs."
    named = {row["name"] for row in losses[:_NAMED_LAYERS]} | ({bad["name"]} if bad else set())
    height = [min(max(layer.sqnr, -10.0), _CEILING_DB) for layer in layers]
    labels = [layer.name if layer.name in named else "" for layer in layers]
    plot = line_plot(
        [Series("", np.arange(len(layers)), height, labels)], Axis("layer, in order"), Axis("SQNR, dB"),
        caption=f"Signal to noise along the network; {_CEILING_DB:g} dB stands for no difference",
    )  # fmt: skip
    rows = [
        [row["name"], row["operator"], _db(row["before"]), _db(row["sqnr"]), number_text(row["needed"])]
        for row in losses
    ]
    columns = ["most is lost in", "operator", "dB before", "dB after", "largest error / magnitude"]
    return [paragraph(head), plot, table(columns, rows)]


def _case(case: WorstCase) -> str:
    low, high = (float(f([o.min() if f is min else o.max() for o in case.outputs])) for f in (min, max))
    change = case.outputs[1].astype(np.float64) - case.outputs[0]
    marks = [Mark(name, *xy) for name, xy in case.targets.items()]
    return (
        paragraph(case.title)
        + pictures(
            picture(case.image, caption="input and refined targets" if marks else "input", marks=marks),
            picture(case.outputs[0], caption=f"{case.output} of the reference", low=low, high=high),
            picture(case.outputs[1], caption=f"{case.output} of the candidate", low=low, high=high),
            picture(np.abs(change), caption=f"difference, at most {np.abs(change).max():.2g}", low=0.0),
        )
        + legend([mark.name for mark in marks])
    )


def _facts_table(result: Result) -> str:
    sides = [result["reference"], result["candidate"]]
    rows = [[key, *(_plain(side[key]) for side in sides)] for key in sides[0]]
    data = [[key, _plain(value)] for key, value in result["data"].items()]
    return table(["", "reference", "candidate"], rows) + table(["data", ""], data)


def _plain(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 3) + 0.0:+.3f}"  # no -0.000


def _interval(row: dict[str, Any]) -> str:
    return "-" if row["low"] is None else f"{_signed(row['low'])} to {_signed(row['high'])}"


def _db(value: float | None) -> str:
    return "∞" if value is None or value == np.inf else f"{value:.1f}"
