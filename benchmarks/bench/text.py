"""A benchmark's report for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from glint.benchmarks.reporting.text import columns

COLUMNS = ("", "ms", "p90", "p99", "network ms", "per s", "x", "of limit", "score", "peak MB", "mJ")
LEGEND = """\
ms: median of whole calls. x: speed over that of the row marked *, with its 95 % interval: of the network where both
rows are of one model, else of whole calls."""


def text_of(report: dict[str, Any]) -> str:
    """Machine, one table per group of rows, growth of costs, what was skipped, and what to doubt."""
    lines = [head(report)]
    if report["interrupted"]:
        lines.append("INTERRUPTED: this is what had been measured by then")
    lines += [f"warning: {text}" for text in report["warnings"]]
    if report["rows"]:
        lines += ["", *columns([COLUMNS, *(cells(row) for row in report["rows"])]), "", LEGEND]
    lines += growth_lines(report["growth"])
    lines += [f"skipped: {skip['name']}: {skip['reason']}" for skip in report["skipped"]]
    return "\n".join(lines)


def head(report: dict[str, Any]) -> str:
    """Machine and settings in one line."""
    machine, settings = report["machine"], report["settings"]
    gpu = f", {machine['gpu']['name']}" if machine["gpu"] else ""
    mode = f", power mode {machine['power_mode']}" if machine["power_mode"] else ""
    governor = f", governor {machine['governor']}" if machine["governor"] else ""
    threads = f"{settings['threads']} thread{'s' if settings['threads'] > 1 else ''} of {machine['cores']} cores"
    return f"glint {report['glint']} on {machine['cpu']}{gpu}, {threads}{mode}{governor}, {report['seconds']:.0f} s"


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table."""
    total, network = row["times_ms"]["total"], row["times_ms"].get("network")
    accuracy, memory, limit = row["accuracy"], row["memory"], row["limit"]
    score = "" if not accuracy or accuracy["value"] is None else f"{accuracy['metric']} {accuracy['value']:.1f}"
    peak = memory and memory["peak_bytes"]
    energy = row["device"]["energy_mj"]
    return (
        row["name"], figure(total["median"]), figure(total["p90"]), figure(total["p99"]),
        figure(network and network["median"]), figure(row["per_second"]), ratio_text(row),
        f"{100 * limit['reached']:.0f} %" if limit and limit["reached"] else "", score,
        f"{peak / 1e6:.0f}" if peak else "", figure(energy),
    )  # fmt: skip


def ratio_text(row: dict[str, Any]) -> str:
    """Ratio with its interval; a star for the baseline itself."""
    if row["ratio"]["to"] == row["name"]:
        return "*"
    ratio = row["ratio"][row["ratio"]["of"]]
    return interval_text(ratio) if ratio else ""


def interval_text(interval: dict[str, Any]) -> str:
    """A value with its interval, e.g. ``1.23 (1.20-1.26)``."""
    text = f"{interval['value']:.2f}"
    return text if interval["low"] is None else f"{text} ({interval['low']:.2f}-{interval['high']:.2f})"


def figure(value: float | None) -> str:
    """Three significant digits without exponent; nothing for None."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def growth_lines(curves: Sequence[dict[str, Any]]) -> list[str]:
    """One line per curve: cost, size and exponent."""
    lines = [""] if curves else []
    for curve in curves:
        exponent = curve["exponent"]
        grows = f"grows as {curve['size']}^{interval_text(exponent)}" if exponent else "does not grow"
        points = ", ".join(f"{p['size']:g}: {figure(p['cost'])}" for p in curve["points"])
        lines.append(f"{curve['cost']} ({curve['subject']}) {grows} [{points}]")
    return lines
