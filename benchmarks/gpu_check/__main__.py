"""One command, one report: ``python -m glint.benchmarks.gpu_check --out gpu-check``.

Writes ``gpu-check.json`` and ``gpu-check.html``. Exit code 0: every step passed; 1: one failed; 3: none failed,
but some could not run here (``incomplete``).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from glint import __version__
from glint.benchmarks.gpu_check.anywhere import ANYWHERE
from glint.benchmarks.gpu_check.on_gpu import ON_GPU
from glint.benchmarks.gpu_check.steps import FAIL, PASS, Result, answer, run_all, verdict
from glint.benchmarks.reporting import html
from glint.cli import positive_float
from glint.errors import EXIT_CHECK_FAILED, EXIT_ENVIRONMENT, EXIT_OK, GlintError
from glint.files import refuse_existing, write_bytes, write_json
from glint.progress import speaking, talk
from glint.runtime.engines.choose import choose_engine

STEPS = (ANYWHERE[0], *ON_GPU, *ANYWHERE[1:])  # the facts, then what a GPU is lent for, while there is time
_EXIT = {"passed": EXIT_OK, "failed": EXIT_CHECK_FAILED, "incomplete": EXIT_ENVIRONMENT}


def gpu_check(out: Path, *, minutes: float = 25.0, overwrite: bool = False) -> dict[str, Any]:
    """Run all steps and write the report as ``OUT.json`` and ``OUT.html``.

    Returns:
        ``verdict`` (``passed``, ``failed`` or ``incomplete``) and ``steps``.

    Raises:
        OutputError: if a report is there already, or cannot be written.
    """
    files = [out.with_name(f"{out.name}.{ending}") for ending in ("json", "html")]
    for file in files:
        refuse_existing(file, overwrite=overwrite)
    results = []
    for result in run_all(STEPS, missing=_no_gpu(), minutes=minutes):
        results.append(result)
        talk(f"{result.state:<8}{result.name:<14}{result.seconds:6.1f} s  {result.reason or result.what}")
    report = {
        "kind": "glint gpu-check", "glint": __version__, "verdict": verdict(results),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"), "steps": [asdict(r) for r in results],
    }  # fmt: skip
    write_json(files[0], report)
    write_bytes(files[1], _page(report, results).encode())
    return report


def _no_gpu() -> str:
    """Why steps that need a GPU and TensorRT cannot run, or ""."""
    try:
        choose_engine("tensorrt")
    except GlintError as error:
        return str(error)
    return ""


def _page(report: dict[str, Any], results: list[Result]) -> str:
    rows = [(r.name, r.state, r.what, r.reason or "", r.seconds) for r in results]
    failed = [f"{r.name}: {r.reason}" for r in results if r.state == FAIL]
    text = _told(report["verdict"], [r.state for r in results])
    parts = [
        html.verdict(report["verdict"] == "passed", text, failed),
        html.section("Steps", html.table(("step", "result", "what", "reason", "s"), rows)),
    ]
    parts += [
        html.section(r.name, html.table(("figure", "value"), [(key, _text(value)) for key, value in r.figures.items()]))
        for r in results
        if r.figures
    ]
    return html.page("glint gpu-check", parts, subtitle=f"glint {report['glint']}, {report['started']}")


def _text(value: Any) -> str:
    """A figure for people: what stands in dictionaries in one line."""
    return "; ".join(f"{key}: {_text(item)}" for key, item in value.items()) if isinstance(value, dict) else str(value)


def _told(verdict: str, states: list[str]) -> str:
    return f"{verdict}: {states.count(PASS)} of {len(states)} steps passed"


def main(words: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m glint.benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), metavar="STEM", help="default: gpu-check")
    parser.add_argument("--minutes", type=positive_float, default=25.0, help="for all steps (default: 25)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing report")
    parser.add_argument("--step", choices=[step.name for step in STEPS], help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.step is not None:
        with speaking():  # what is said goes into the report
            answer(next(step for step in STEPS if step.name == arguments.step))
        return EXIT_OK
    try:
        with speaking():
            report = gpu_check(arguments.out, minutes=arguments.minutes, overwrite=arguments.overwrite)
    except GlintError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(
        f"{_told(report['verdict'], [s['state'] for s in report['steps']])}; {arguments.out}.html, {arguments.out}.json"
    )
    return _EXIT[report["verdict"]]


if __name__ == "__main__":
    sys.exit(main())
