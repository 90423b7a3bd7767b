"""``glint bench compare BEFORE.json AFTER.json``: what became faster or slower, beyond noise.

A row has regressed if the whole 95 % interval of its time over the time before lies above 1 + tolerance
(5 % by default): the interval holds what the rounds of both runs vary, the tolerance what one run differs
from the next by itself, such as where memory lies. It has also regressed if its score is lower by
more than 0.3 points: the scores of both runs are on the same data.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from glint.benchmarks.bench.stats import unpaired_ratio
from glint.benchmarks.bench.text import figure, interval_text
from glint.benchmarks.reporting.text import columns
from glint.cli import print_result
from glint.errors import EXIT_CHECK_FAILED, EXIT_OK, InputError
from glint.files import read_json

FORMAT = 1
TOLERANCE_SHARE = 0.05
SCORE_POINTS = 0.3
SLOWER, FASTER, SAME, UNKNOWN, WORSE = "slower", "faster", "same", "too few rounds", "less accurate"
_MACHINE = ("cpu", "architecture", "cores", "gpu", "jetson")
_CONDITIONS = ("governor", "power_mode")

Report = dict[str, Any]
_PARTS = {"machine": dict, "settings": dict, "versions": dict, "interrupted": bool, "warnings": list, "rows": list}
_HINT = "glint bench --out FILE.json writes one anew"


def compare(
    before: str | Path, after: str | Path, *, tolerance: float = TOLERANCE_SHARE, anyway: bool = False
) -> dict[str, Any]:
    """Compare two reports row by row.

    Args:
        before, after: JSON files of ``glint bench``.
        tolerance: share of the time that is no regression.
        anyway: compare reports of other machines, settings or rows: of the rows that both have.

    Returns:
        ``rows`` (``name``, ``before_ms``, ``after_ms``, ``ratio`` with its interval, ``score``: the difference
        in points or None, ``verdict``), ``regressed`` (names), ``notes`` (what else differs).

    Raises:
        InputError: if a file is no report, or the reports cannot be compared; it says why.
    """
    if not 0 <= tolerance < 10:
        raise InputError(f"tolerance: expected a share from 0, got {tolerance}")
    first, second = read_report(Path(before)), read_report(Path(after))
    old, new = ({row["name"]: row for row in report["rows"]} for report in (first, second))
    obstacles = differences(first, second) + _missing(old, new)
    if obstacles and not anyway:
        raise InputError(
            f"the reports cannot be compared: {'; '.join(obstacles)}",
            hint="--anyway compares the rows that both have",
        )
    common = [name for name in old if name in new]
    if not common:
        raise InputError("the reports have no row in common", hint="compare reports of the same models and sizes")
    rows = [_compared(old[name], new[name], tolerance) for name in common]
    return {
        "before": str(before), "after": str(after), "tolerance": tolerance, "rows": rows,
        "regressed": [row["name"] for row in rows if row["verdict"] in (SLOWER, WORSE)],
        "notes": [*obstacles, *_notes(first, second)],
    }  # fmt: skip


def read_report(path: Path) -> Report:
    """A report of ``glint bench``.

    Raises:
        InputError: if the file is none, or of another format.
    """
    report = read_json(path, what="report", kind=dict)
    if not isinstance(report, dict) or report.get("kind") != "glint bench":
        raise InputError(f"{path} is no report of glint bench", hint="glint bench --out FILE.json writes one")
    if report.get("format") != FORMAT:
        raise InputError(
            f"{path}: format {report.get('format')}, this glint reads {FORMAT}", hint="run glint bench again"
        )
    for name, kind in _PARTS.items():
        if not isinstance(report.get(name), kind):
            raise InputError(f"{path}: {name}: expected {kind.__name__}, got {report.get(name)!r:.80}", hint=_HINT)
    rows = report["rows"]
    for index, row in enumerate(rows):
        if not _is_row(row):
            raise InputError(f"{path}: row {index} lacks its name, times, rounds or accuracy", hint=_HINT)
    if len({row["name"] for row in rows}) < len(rows):
        raise InputError(f"{path}: several rows have the same name", hint=_HINT)
    return report


def _is_row(row: Any) -> bool:
    """Whether what a comparison asks for is there."""
    if not (isinstance(row, dict) and isinstance(row.get("name"), str) and "accuracy" in row):
        return False
    accuracy, rounds, times = row.get("accuracy"), row.get("rounds_ms"), row.get("times_ms")
    if not (isinstance(rounds, dict) and isinstance(times, dict) and isinstance(times.get("total"), dict)):
        return False
    numbers = [times["total"].get("median")]
    if isinstance(accuracy, dict):
        numbers += [value for value in [accuracy.get("value", "")] if value is not None]
    elif accuracy is not None:
        return False
    totals = rounds.get("total")
    return (
        all(_is_number(value) for value in numbers)
        and isinstance(totals, list)
        and all(_is_number(value) and value > 0 for value in totals)
        and (accuracy is None or {"metric", "on"} <= accuracy.keys())
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def differences(first: Report, second: Report) -> list[str]:
    """Why times of two reports say nothing about each other: another machine, or other threads."""
    found = [
        f"{name} {first['machine'].get(name)!r} and {second['machine'].get(name)!r}"
        for name in _MACHINE
        if first["machine"].get(name) != second["machine"].get(name)
    ]
    threads = [report["settings"].get("threads") for report in (first, second)]
    return found + ([f"threads {threads[0]} and {threads[1]}"] if threads[0] != threads[1] else [])


def _missing(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    lost = [f"only the first has {name!r}" for name in old if name not in new]
    return lost + [f"only the second has {name!r}" for name in new if name not in old]


def _notes(first: Report, second: Report) -> list[str]:
    """What differs besides, and what makes either report doubtful."""
    notes = [
        f"{name.replace('_', ' ')}: {first['machine'].get(name)} and {second['machine'].get(name)}"
        for name in _CONDITIONS
        if first["machine"].get(name) != second["machine"].get(name)
    ]
    names = {**first["versions"], **second["versions"]}
    notes += [
        f"{name}: {first['versions'].get(name, 'none')} and {second['versions'].get(name, 'none')}"
        for name in names
        if first["versions"].get(name) != second["versions"].get(name)
    ]
    for word, report in (("first", first), ("second", second)):
        notes += [f"the {word} was interrupted"] if report["interrupted"] else []
        notes += [f"the {word}: {text}" for text in report["warnings"]]
    return notes


def _compared(old: dict[str, Any], new: dict[str, Any], tolerance: float) -> dict[str, Any]:
    ratio = unpaired_ratio(new["rounds_ms"]["total"], old["rounds_ms"]["total"])
    score = _score_difference(old, new)
    if ratio.low is None or ratio.high is None:
        verdict = UNKNOWN
    elif ratio.low > 1 + tolerance:
        verdict = SLOWER
    else:
        verdict = FASTER if ratio.high < 1 / (1 + tolerance) else SAME
    if score is not None and score < -SCORE_POINTS:
        verdict = WORSE
    return {
        "name": new["name"], "before_ms": old["times_ms"]["total"]["median"],
        "after_ms": new["times_ms"]["total"]["median"], "ratio": asdict(ratio), "score": score, "verdict": verdict,
    }  # fmt: skip


def _score_difference(old: dict[str, Any], new: dict[str, Any]) -> float | None:
    """Points that the score rose by, if both are on the same data."""
    before, after = old["accuracy"], new["accuracy"]
    if not before or not after or (before["metric"], before["on"]) != (after["metric"], after["on"]):
        return None
    if before["value"] is None or after["value"] is None:
        return None
    return float(after["value"] - before["value"])


def text_of(comparison: dict[str, Any]) -> str:
    """The comparison for the terminal."""
    rows = [("", "before ms", "after ms", "after / before", "score", "")]
    for row in comparison["rows"]:
        score = "" if row["score"] is None else f"{row['score']:+.2f}"
        times = (figure(row["before_ms"]), figure(row["after_ms"]), interval_text(row["ratio"]))
        rows.append((row["name"], *times, score, row["verdict"]))
    lines = [f"note: {note}" for note in comparison["notes"]]
    lines += columns(rows)
    number = len(comparison["regressed"])
    lines.append(f"{number} of {len(comparison['rows'])} rows regressed" if number else "no row regressed")
    return "\n".join(lines)


def main(arguments: argparse.Namespace) -> int:
    """Run ``glint bench compare``; exit code 1 if a row regressed.

    Raises:
        InputError: if it was not given two reports.
    """
    files = arguments.what[1:]
    if len(files) != 2:
        raise InputError(
            f"compare: expected two reports, got {len(files)}", hint="glint bench compare BEFORE.json AFTER.json"
        )
    comparison = compare(*files, tolerance=arguments.tolerance / 100, anyway=arguments.anyway)
    print_result(comparison, text_of, as_json=arguments.json)
    return EXIT_CHECK_FAILED if comparison["regressed"] else EXIT_OK
