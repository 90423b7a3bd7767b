"""The report of ``glint inspect`` for the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BATCH = 64  # patches that an unmixer's work is also given for


def report_text(report: dict[str, Any], *, layers: bool = False) -> str:
    """The report for the terminal; ``layers`` adds a line for every layer of the graph."""
    lines = [("name", f"{report['name']} ({report['kind']})")]
    if "file" in report:
        lines.append(("file", f"{report['file']}, {Path(report['file']).stat().st_size / 1e6:.2f} MB"))
    card, graph = report.get("card"), report.get("graph")
    for side in ("inputs", "outputs"):
        specs = (graph or card or report.get("engine", {})).get(side, [])
        if specs:
            lines.append((side, "; ".join(_tensor(spec) for spec in specs)))
    if "parameters" in report:
        lines += _work(report)
    if card:
        lines += _card_lines(card)
    if "engine" in report:
        lines += [(key, _plain(value)) for key, value in report["engine"].items() if key not in ("inputs", "outputs")]
    if graph:
        lines += _graph_lines(report, graph)
    if "config" in report:
        lines.append(("configuration", ", ".join(f"{k} {v}" for k, v in report["config"].items())))
    if "note" in report:
        lines.append(("note", report["note"]))
    text = [f"{key:<15}{value}" for key, value in lines]
    if graph and layers:
        text += ["", *_layer_lines(graph)]
    return "\n".join(text)


def _work(report: dict[str, Any]) -> list[tuple[str, str]]:
    parameters, macs, published = report["parameters"], report["macs"], report.get("published")
    counted, work = _number(parameters), f"{_number(macs)} per frame of 512 x 512"
    total = macs
    if report["task"] == "unmix":
        total = BATCH * macs
        work = f"{_number(macs)} per patch, {_number(total)} per batch of {BATCH}"
    if published:
        counted += f" (published: {_number(published['parameters'])}, {parameters / published['parameters'] - 1:+.1%})"
        work += f" (published: {_number(published['macs'])}, {total / published['macs'] - 1:+.1%})"
    return [("parameters", counted), ("MACs", work)]


def _card_lines(card: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [("network", f"{card['network']}, {card['precision']}, to {card['task']}")]
    if card["metrics"]:
        lines.append(("validation", _plain(card["metrics"])))
    if card["parity"]:
        lines.append(("parity", f"{card['parity']['relative']:.1e} of the largest output"))
    if card["islands"]:
        lines.append(("islands", f"{len(card['islands'])} in float32: {', '.join(card['islands'])}"))
    lines.append(("made with", ", ".join(f"{name} {version}" for name, version in card["versions"].items())))
    return lines


def _graph_lines(report: dict[str, Any], graph: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [("opset", str(graph["opset"]))]
    if "parameters" not in report:
        lines.append(("numbers stored", _number(graph["numbers"])))
        free = any(-1 in spec["shape"] for spec in graph["inputs"])
        lines.append(("MACs", _number(graph["macs"]) + (" (free axes: batch 1, others 512)" if free else "")))
    lines.append(("operators", ", ".join(f"{name} {number}" for name, number in graph["operators"].items())))
    others = f"{graph['casts']} casts, {graph['quantisers']} quantizers"
    lines.append(("bytes", f"{graph['bytes'] / 1e6:.1f} MB if no layers become one kernel; {others}"))
    for precision in sorted({layer["precision"] for layer in graph["layers"]}):
        chosen = [layer for layer in graph["layers"] if layer["precision"] == precision]
        share = sum(layer["macs"] or 0 for layer in chosen) / max(graph["macs"], 1)
        lines.append((precision, f"{len(chosen)} layers, {share:.1%} of the MACs"))
    for version, verdict in graph["versions"].items():
        name = "TensorRT-RTX" if version == "rtx" else f"TensorRT {version}"
        lines.append((name, verdict))
    for finding in graph["findings"]:
        which = ", ".join(finding["versions"])
        lines.append((finding["severity"], f"{finding['node']}: {finding['message']} [{finding['code']}; {which}]"))
        lines.append(("", f"hint: {finding['hint']}"))
    return lines


def _layer_lines(graph: dict[str, Any]) -> list[str]:
    return [
        f"{layer['precision']:<9}{'island' if layer['island'] else '':<8}"
        f"{'' if layer['macs'] is None else _number(layer['macs']):>8}"
        f"{'' if layer['bytes'] is None else _number(layer['bytes']) + 'B':>10}  {layer['name']}"
        for layer in graph["layers"]
    ]


def _tensor(spec: dict[str, Any]) -> str:
    return f"{spec['name']} {spec['dtype']} {'x'.join('any' if n == -1 else str(n) for n in spec['shape'])}"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return ", ".join(_plain(item) for item in value) if isinstance(value, (list, tuple)) else str(value)


def _number(value: float) -> str:
    """Rounded, with a unit: 459.36 k, 6.21 M, 39.65 G."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"
