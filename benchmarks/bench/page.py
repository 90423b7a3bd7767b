"""A benchmark's report as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from glint.benchmarks.bench.text import figure, growth_lines, head, interval_text, ratio_text
from glint.benchmarks.reporting.html import (
    caption_text,
    colour,
    figures,
    legend,
    page,
    paragraph,
    section,
    table,
    verdict,
)
from glint.benchmarks.reporting.plots import Axis, Series, line_plot, scatter

_STAGES = ("pre", "network", "post", "refine")
_PIPELINE_STAGES = ("detector", "around detector", "unmixer", "around unmixer", "refine")
_WIDE, _BAR, _STEP, _GAP, _FIGURE = 460, 18, 44, 12, 70  # sizes in the drawing of bars, in its own units

Row = dict[str, Any]


def page_of(report: dict[str, Any]) -> str:
    """The page; it needs no other file and no network."""
    rows: list[Row] = report["rows"]
    parts = [_verdict(report)]
    if rows:
        parts += [section("At a glance", *map(paragraph, summary(rows))), section("Rows", _rows_table(rows), _legend())]
        parts.append(section("Where the time goes", figures(*_breakdowns(rows))))
        parts += [section("How latencies spread", figures(*_histograms(rows)))]
        if pareto := _pareto(rows):
            parts.append(section("Accuracy against latency", figures(*pareto)))
        if sizes := _by_size(rows):
            parts.append(section("By batch and size", figures(*sizes)))
        parts.append(section("Limits", *_limits(report)))
    if report["growth"]:
        text = [paragraph(line) for line in growth_lines(report["growth"]) if line]
        parts.append(section("Growth of costs", figures(*map(_growth, report["growth"])), *text))
    if rows:
        parts.append(section("Models, memory and device", _details(rows)))
        gpu = [row for row in rows if "gpu" in row["times_ms"]]
        if gpu:
            parts.append(section("Stages of the GPU", _gpu_stages(gpu)))
    if report["skipped"]:
        skips = [[skip["name"], skip["reason"]] for skip in report["skipped"]]
        parts.append(section("Not measured", table(["row", "reason"], skips)))
    parts.append(section("How it was measured", *_method(report)))
    return page("glint bench", parts, subtitle=f"{head(report)}, {report['started']}")


def _verdict(report: dict[str, Any]) -> str:
    doubts = list(report["warnings"])
    if report["interrupted"]:
        doubts.insert(0, "the run was interrupted: this is what had been measured by then")
    return verdict(
        not doubts, "Read these figures with care" if doubts else "Nothing disturbed the measurement", doubts
    )


def summary(rows: Sequence[Row]) -> list[str]:
    """The main figures as sentences: of each place its fastest row, and what the pipeline adds to its networks."""
    lines = []
    for place in dict.fromkeys(row["place"] for row in rows):
        here = [row for row in rows if row["place"] == place]
        telling = [row for row in here if row["accuracy"] or not row["variant"].endswith("(fresh weights)")]
        best = min(telling or here, key=lambda row: row["times_ms"]["total"]["median"])
        text = (
            f"{place}: {figure(best['times_ms']['total']['median'])} ms, {figure(best['per_second'])} {best['unit']}/s"
        )
        if len(here) > 1:
            text += f" with {best['variant']}, the fastest of {len(here)}"
        if best["case"]["task"] == "pipeline":
            share = best["times_ms"]["total"]["median"] / best["times_ms"]["network"]["median"]
            text += f"; {share:.2f} times what its two networks take"
        if best["limit"] and best["limit"]["reached"]:
            text += f"; {100 * best['limit']['reached']:.0f} % of the machine's limit"
        lines.append(text + ".")
    return lines


def _rows_table(rows: Sequence[Row]) -> str:
    body = []
    for row in rows:
        total = row["times_ms"]["total"]
        network = row["times_ms"].get("network")
        whole = row["ratio"]["total"]
        baseline = row["ratio"]["to"] == row["name"]
        figures_of_total = [total[k] for k in ("median", "p90", "p95", "p99", "mean", "std", "n")]
        ratios = ["baseline", ""] if baseline else [ratio_text(row), interval_text(whole) if whole else ""]
        body.append([row["name"], *figures_of_total, network and network["median"], row["per_second"], *ratios])
    names = "row, median ms, p90, p95, p99, mean, std, n, network ms, per s, x, x whole"
    return _table(names.split(", "), body)


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table without the columns that say nothing."""
    kept = [i for i in range(len(names)) if any(row[i] not in (None, "") for row in rows)]
    return table([names[i] for i in kept], [[row[i] for i in kept] for row in rows])


def _legend() -> str:
    return paragraph(
        "Times are those of whole calls: network, and what comes before and after it. x: speed over the baseline's, of "
        "the network where both rows are of one model, else of whole calls; x whole: of whole calls; 95 % intervals "
        "over the rounds. A percentile is left out where there are too few calls for it."
    )


def _breakdowns(rows: Sequence[Row]) -> list[str]:
    """Bars of the models' stages, and of the pipeline's."""
    plots = []
    for stages in (_STAGES, _PIPELINE_STAGES):
        both = "detector" in stages
        here = [r for r in rows if set(stages) & set(r["times_ms"]) and ("detector" in r["times_ms"]) == both]
        if here:
            plots.append(_bars(here, [name for name in stages if any(name in row["times_ms"] for row in here)]))
    return plots


def _bars(rows: Sequence[Row], stages: Sequence[str]) -> str:
    """Mean time of a call as a bar of its stages, for each row; each place has a scale of its own."""
    svg, top = [], 0.0
    for place in dict.fromkeys(row["place"] for row in rows):
        here = [row for row in rows if row["place"] == place]
        longest = max(row["times_ms"]["total"]["mean"] for row in here) or 1.0
        for row in here:
            svg.append(f'<text x="0" y="{top + 13:.0f}">{escape(row["name"])}</text>')
            left = 0.0
            for number, name in enumerate(stages):
                value = row["times_ms"][name]["mean"] if name in row["times_ms"] else 0.0
                width = value / longest * (_WIDE - _FIGURE)
                svg.append(
                    f'<rect x="{left:.1f}" y="{top + 18:.0f}" width="{width:.2f}" height="{_BAR}" '
                    f'fill="{colour(number)}"><title>{escape(name)} {figure(value)} ms</title></rect>'
                )
                left += width
            total = figure(row["times_ms"]["total"]["mean"])
            svg.append(f'<text x="{left + 6:.1f}" y="{top + 32:.0f}">{total} ms</text>')
            top += _STEP
        top += _GAP
    drawing = f'<svg viewBox="0 0 {_WIDE} {top:.0f}" role="img" aria-label="stages of each row">{"".join(svg)}</svg>'
    return (
        f"<figure>{legend(stages)}{drawing}{caption_text('Mean of a call; bars of one place share a scale.')}</figure>"
    )


def _histograms(rows: Sequence[Row]) -> list[str]:
    plots = []
    for place in dict.fromkeys(row["place"] for row in rows):
        series = []
        here = [row for row in rows if row["place"] == place]
        far = max(row["histogram"]["edges"][-1] for row in here) > 5 * min(row["histogram"]["edges"][0] for row in here)
        for row in here:
            edges, counts = row["histogram"]["edges"], row["histogram"]["counts"]
            most = max(max(counts), 1)
            x = [edges[0], *(e for e in edges for _ in range(2)), edges[-1]][1:-1]
            y = [0.0, *(c / most for c in counts for _ in range(2)), 0.0]
            series.append(Series(row["variant"], x, y))
        plots.append(
            line_plot(series, Axis("ms per call", log=far), Axis("calls, of the most frequent", low=0.0), caption=place)
        )
    return plots


def _pareto(rows: Sequence[Row]) -> list[str]:
    """Score against time per patch or frame, one plot per metric."""
    plots = []
    scored = [row for row in rows if row["accuracy"] and row["accuracy"]["value"] is not None]
    for metric in dict.fromkeys(row["accuracy"]["metric"] for row in scored):
        here = [row for row in scored if row["accuracy"]["metric"] == metric]
        series = []
        for variant in dict.fromkeys(row["variant"] for row in here):
            mine = [row for row in here if row["variant"] == variant]
            x = [row["times_ms"]["total"]["median"] / row["amount"] for row in mine]
            series.append(Series(variant, x, [r["accuracy"]["value"] for r in mine], [r["place"] for r in mine]))
        unit = {"patches": "patch", "frames": "frame"}[here[0]["unit"]]
        on = "; ".join(dict.fromkeys(row["accuracy"]["on"] for row in here))
        plots.append(scatter(series, Axis(f"ms per {unit}", log=True), Axis(metric), caption=f"On {on}."))
    return plots


def _by_size(rows: Sequence[Row]) -> list[str]:
    """Throughput against batch, and time against the frame's pixels, where there is more than one of them."""
    plots = []
    for task, size, title in (("unmix", "batch", "patches per call"), ("detect", "size", "pixels")):
        here = [row for row in rows if row["case"]["task"] == task]
        for subject in dict.fromkeys(row["case"]["subject"] for row in here):
            series = []
            for variant in dict.fromkeys(row["variant"] for row in here):
                points = sorted(
                    (
                        _extent(row["case"][size]),
                        row["per_second"] if task == "unmix" else row["times_ms"]["total"]["median"],
                    )
                    for row in here
                    if (row["case"]["subject"], row["variant"]) == (subject, variant)
                )
                if len(points) > 1:
                    series.append(Series(variant, *zip(*points)))
            if series:
                y = Axis("patches per second" if task == "unmix" else "ms per frame", log=True)
                plots.append(line_plot(series, Axis(title, log=True), y, caption=subject))
    return plots


def _extent(size: Any) -> float:
    return float(size[0] * size[1]) if isinstance(size, list) else float(size)


def _limits(report: dict[str, Any]) -> list[str]:
    """The roofline of each row, and what the machine's peaks are."""
    rows = [row for row in report["rows"] if row["limit"]]
    body = [
        [
            row["name"], row["limit"]["macs"] / 1e6, row["limit"]["bytes"] / 1e6, row["limit"]["compute_ms"],
            row["limit"]["memory_ms"], row["times_ms"]["network"]["median"],
            f"{100 * row['limit']['reached']:.0f} %" if row["limit"]["reached"] else "",
        ]
        for row in rows
    ]  # fmt: skip
    parts = [table(["row", "MMAC", "MB", "computing ms", "moving ms", "network ms", "reached"], body)] if body else []
    for device, peak in (report["limits"] or {}).items():
        if peak:
            rates = ", ".join(f"{name} {rate / 1e9:,.0f} GMAC/s" for name, rate in peak["macs_per_s"].items())
            parts.append(
                paragraph(f"{device.upper()}: {rates}, {peak['bytes_per_s'] / 1e9:,.1f} GB/s ({peak['how']}).")
            )
    parts.append(
        paragraph(
            "The limit is the longer of computing and moving. Moved are the weights once, and what convolutions and "
            "matrix products read and write; caches are taken to hold nothing, so that small networks may beat it."
        )
    )
    return parts


def _growth(curve: dict[str, Any]) -> str:
    x, y = ([point[key] for point in curve["points"]] for key in ("size", "cost"))
    exponent = curve["exponent"]
    series = [Series("measured", x, y)]
    if exponent:
        series.append(Series("fitted", x, [curve["start"] + curve["slope"] * size ** exponent["value"] for size in x]))
    text = f"exponent {interval_text(exponent)}" if exponent else "does not grow"
    return line_plot(series, Axis(curve["size"]), Axis(curve["cost"], low=0.0), caption=f"{curve['subject']}: {text}")


def _details(rows: Sequence[Row]) -> str:
    body = []
    for row in rows:
        memory, parity, device = row["memory"] or {}, row["parity"] or {}, row["device"]
        size = sum(f["bytes"] for f in row["files"]) / 1e6 if row["files"] else None
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in (row["shares"] or {}).items())
        accuracy = row["accuracy"]
        body.append(
            [
                row["name"], size, shares, *(_mb(memory.get(k)) for k in ("loaded_bytes", "peak_bytes")),
                _mb((row["engine"] or {}).get("scratch_bytes")), parity.get("sqnr_db"),
                f"{accuracy['metric']} {figure(accuracy['value'])}" if accuracy else "",
                device["energy_mj"], device["hottest_c"], ", ".join(device["throttled_by"]),
            ]
        )  # fmt: skip
    names = "row, model MB, MACs in, loaded MB, peak MB, scratch MB, SQNR dB, score, mJ, °C, throttled"
    return _table(names.split(", "), body)


def _mb(value: float | None) -> float | None:
    return None if value is None else value / 1e6


def _gpu_stages(rows: Sequence[Row]) -> str:
    stages = ["h2d", "gpu", "d2h", "enqueue", "graph"]
    body = [[row["name"], *((row["times_ms"].get(s) or {}).get("median") for s in stages)] for row in rows]
    return table(["row", *(f"{stage} ms" for stage in stages)], body)


def _method(report: dict[str, Any]) -> list[str]:
    settings = report["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    machine = report["machine"]
    facts = [[name.replace("_", " "), _fact(value)] for name, value in machine.items() if value not in (None, "")]
    return [
        paragraph(
            f"Each row runs in a process of its own. Rows of one place take turns in up to {settings['rounds']} "
            f"rounds, so that drift falls on all of them; {settings['seconds']:g} s are measured per row, after its "
            f"latency has settled: three windows of 0.1 s whose medians lie within 5 %, or {settings['warm_up']:g} s."
        ),
        paragraph(f"Command: {report['command'] or 'called from Python'}"),
        paragraph(f"Versions: {versions}"),
        table(["machine", ""], facts),
    ]


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {inner}" for name, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
