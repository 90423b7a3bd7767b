"""``glint run``: frames in, sub-pixel targets out."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint import __version__
from glint.cards import DEFAULT_DETECTOR, DEFAULT_UNMIXER
from glint.cli import print_json, talk
from glint.errors import EXIT_INTERRUPTED, EXIT_OK, InputError, OutputError
from glint.files import refuse_existing, write_json
from glint.images import write_image
from glint.metrics.matching import match_points
from glint.optics import Psf
from glint.progress import Progress
from glint.psf_file import load_psf
from glint.runtime.detector import Detector
from glint.runtime.engine import choose_engine
from glint.runtime.options import add_engine_arguments, add_refine_arguments, engine_of
from glint.runtime.overlay import draw_overlay
from glint.runtime.pipeline import STAGES, Pipeline, Result
from glint.runtime.refine import RadiancePrior, refine_config
from glint.runtime.sinks import JsonLines
from glint.runtime.sources import Source, open_source
from glint.runtime.unmixer import Unmixer
from glint.types import Gap, Targets

MATCH_DISTANCE = 0.5  # px within which a found target is a true one


class Summary:
    """What a run amounts to, gathered frame by frame."""

    def __init__(self) -> None:
        self.frames = self.targets = self.blobs = self.truths = self.found = 0
        self.has_truth = False
        self.errors: list[NDArray[np.float64]] = []
        self.latency: dict[str, list[float]] = {stage: [] for stage in STAGES}

    def add(self, result: Result, truth: Targets | None) -> None:
        """Count one frame."""
        self.frames += 1
        self.targets += len(result.targets)
        self.blobs += len(result.detection.blobs)
        for stage, value in result.latency_ms.items():
            self.latency[stage].append(value)
        if truth is not None:
            self.has_truth = True
            found = result.targets
            distance = np.hypot(truth.x[:, None] - found.x, truth.y[:, None] - found.y)
            rows, columns = match_points(distance, MATCH_DISTANCE)
            self.truths += len(truth)
            self.found += len(rows)
            self.errors.append(distance[rows, columns])

    def as_dict(self, source: Source) -> dict[str, Any]:
        """JSON-ready figures; ``truth`` only for a simulated source."""
        summary: dict[str, Any] = {
            "frames": self.frames,
            "skipped": [asdict(s) for s in source.skipped],
            "blobs": self.blobs,
            "targets": self.targets,
            "latency_ms": {k: percentiles(v) for k, v in self.latency.items()} if self.frames else {},
        }
        if self.has_truth:
            errors = np.concatenate(self.errors) if self.errors else np.zeros(0)
            summary["truth"] = {
                "targets": self.truths,
                "found": self.found,
                "false": self.targets - self.found,
                "match_distance_px": MATCH_DISTANCE,
                "median_position_error_px": round(float(np.median(errors)), 4) if len(errors) else None,
            }
        return summary


def percentiles(values: list[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds."""
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return {"p50": round(float(p50), 3), "p95": round(float(p95), 3), "p99": round(float(p99), 3)}


def run(
    source: str,
    *,
    out: str | Path | None = None,
    overlay: str | Path | None = None,
    detector: str | Path = DEFAULT_DETECTOR,
    unmixer: str | Path = DEFAULT_UNMIXER,
    engine: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    refine: bool = True,
    radiance_prior: RadiancePrior = "card",
    psf: str | Path | None = None,
    overwrite: bool = False,
    on_result: Callable[[Result], None] | None = None,
) -> dict[str, Any]:
    """Process all frames of a source.

    Args:
        source: URI (see ``sources.open_source``).
        out: JSON lines, one object per frame; ``-`` for standard output. Beside a file come
            ``NAME.manifest.json`` and, for a simulated source, ``NAME.truth.jsonl``.
        overlay: folder for a picture of each frame.
        detector, unmixer: names in the zoo or paths of model cards.
        engine, precision, threads: what runs the networks.
        refine: fit the optical model to what the network found.
        radiance_prior: mean and standard deviation of a target's radiance, DN of the frame; None if it is
            unknown; "card": what the unmixer's card says.
        psf: file of a measured PSF (see ``psf``) that the refinement takes instead of the model's.
        overwrite: replace existing outputs.
        on_result: called with every result.

    Returns:
        The manifest: settings, models, counts, latency percentiles, and the score for a source
        with truth.

    Raises:
        GlintError: one of its subclasses, for a bad source, model, output or argument.
    """
    overlay = Path(overlay) if overlay is not None else None
    measured = load_psf(Path(psf)) if psf is not None else None
    frames = open_source(source)
    frames.refuse_collisions(overlay)
    sinks = _Sinks(out, overlay, overwrite=overwrite)
    name, why = choose_engine(engine)
    settings = {"engine": engine, "precision": precision, "threads": threads}
    first = Detector.open(detector, **settings)  # type: ignore[arg-type]
    second = Unmixer.open(unmixer, **settings)  # type: ignore[arg-type]
    talk(f"engine: {name} ({why}); detector {first.card.name}, unmixer {second.card.name}, {precision}")
    optics = Psf(measured.sigma if measured else second.spec.sigma)
    config = refine_config(second.spec, radiance=radiance_prior, measured=measured)
    pipeline = Pipeline(first, second, refined=refine, config=config, psf=optics)
    summary = Summary()
    started, interrupted = time.perf_counter(), False
    with first.engine, second.engine, sinks, Progress("run", frames.total) as line:
        ready = time.perf_counter()
        try:
            for frame in frames:
                if isinstance(frame, Gap):
                    continue
                result = pipeline(frame, capture_ms=1e3 * (time.perf_counter() - ready))
                sinks.write(result, result.frame.truth)
                summary.add(result, result.frame.truth)
                if on_result is not None:
                    on_result(result)
                line.update(summary.frames + len(frames.skipped), f"{len(result.targets)} targets")
                ready = time.perf_counter()
        except KeyboardInterrupt:
            interrupted = True  # what is done is done: close the files and say what it amounts to
    manifest = {
        "glint": __version__,
        "source": source,
        "engine": name,
        "engines": {m.card.task: m.engine.details() for m in (first, second)},
        "precision": precision,
        "models": {m.card.task: {"name": m.card.name, "sha256": m.card.sha256} for m in (first, second)},
        "refine": refine,
        "radiance_prior": config.radiance,
        "psf": {"sigma": optics.sigma, "file": str(psf) if psf is not None else None},
        "interrupted": interrupted,
        "seconds": round(time.perf_counter() - started, 3),
        **summary.as_dict(frames),
    }
    sinks.finish(manifest)
    return manifest


class _Sinks:
    """The outputs of a run; nothing is created before the first result."""

    def __init__(self, out: str | Path | None, overlay: Path | None, *, overwrite: bool) -> None:
        self.overlay, self.overwrite = overlay, overwrite
        self.lines = JsonLines(out, overwrite=overwrite) if out is not None else None
        self.path = self.lines.path if self.lines else None
        self.truth: JsonLines | None = None
        if overlay is not None and not overwrite and overlay.is_dir() and any(overlay.iterdir()):
            raise OutputError(f"overlay folder {overlay} is not empty", hint="choose another or pass --overwrite")
        if self.path is not None:
            if not self.path.name:
                raise OutputError(f"--out {self.path} names no file")
            refuse_existing(self._beside("manifest.json"), overwrite=overwrite)
            refuse_existing(self._beside("truth.jsonl"), overwrite=overwrite)

    def _beside(self, ending: str) -> Path:
        assert self.path is not None  # noqa: S101  (callers checked)
        return self.path.with_name(f"{self.path.stem}.{ending}")

    def __enter__(self) -> _Sinks:
        return self

    def __exit__(self, *error: Any) -> None:
        for sink in (self.lines, self.truth):
            if sink is not None:
                sink.__exit__(*error)

    def write(self, result: Result, truth: Targets | None) -> None:
        frame = result.frame
        if self.overlay is not None:
            name = frame.name or f"{frame.index:06d}"
            write_image(self.overlay / f"{name}.png", draw_overlay(result, truth))
        if self.lines is not None:
            self.lines.write(frame_record(result))
        if self.path is not None and truth is not None:
            if self.truth is None:
                self.truth = JsonLines(self._beside("truth.jsonl"), overwrite=self.overwrite)
            self.truth.write({"frame": frame.index, "t_ns": frame.t_ns, "targets": truth.records()})

    def finish(self, manifest: dict[str, Any]) -> None:
        if self.path is not None:
            if self.truth is None:  # that of an earlier run is not the truth of these frames
                self._beside("truth.jsonl").unlink(missing_ok=True)
            write_json(self._beside("manifest.json"), manifest)


def frame_record(result: Result) -> dict[str, Any]:
    """The JSON line of one frame."""
    return {
        "frame": result.frame.index,
        "name": result.frame.name,
        "t_ns": result.frame.t_ns,
        "targets": result.targets.records(),
        "latency_ms": {k: round(v, 3) for k, v in result.latency_ms.items()},
    }


def summary_text(manifest: dict[str, Any]) -> str:
    """The summary for the terminal."""
    skipped = manifest["skipped"]
    lines = [f"frames    {manifest['frames']}" + (f", {len(skipped)} skipped" if skipped else "")]
    lines += [f"  skipped {s['name']}: {s['reason']}" for s in skipped[:5]]
    lines.append(f"targets   {manifest['targets']} in {manifest['blobs']} blobs")
    if truth := manifest.get("truth"):
        share = 100 * truth["found"] / max(truth["targets"], 1)
        lines.append(
            f"truth     {truth['found']} of {truth['targets']} targets found ({share:.1f} %), {truth['false']} false "
            f"(match within {truth['match_distance_px']} px)"
        )
        if truth["median_position_error_px"] is not None:
            lines.append(f"position  median error {truth['median_position_error_px']:.3f} px")
    if manifest["latency_ms"]:
        lines.append("latency   ms per frame       p50      p95      p99")
        for stage, values in manifest["latency_ms"].items():
            lines.append(f"          {stage:<14}" + "".join(f"{values[p]:9.2f}" for p in ("p50", "p95", "p99")))
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``glint run``."""
    parser.add_argument("source", help="folder, glob, image, or synthetic://?size=640x512&frames=100&seed=1")
    group = parser.add_argument_group("output")
    group.add_argument("--out", metavar="FILE", help="JSON lines, one object per frame; - for standard output")
    group.add_argument("--overlay", type=Path, metavar="FOLDER", help="a picture of each frame with its targets")
    group.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    group.add_argument("--json", action="store_true", help="print the manifest as JSON on standard output")
    models = parser.add_argument_group("models")
    models.add_argument("--detector", default=DEFAULT_DETECTOR, metavar="NAME|CARD", help="default: %(default)s")
    models.add_argument("--unmixer", default=DEFAULT_UNMIXER, metavar="NAME|CARD", help="default: %(default)s")
    add_engine_arguments(parser)
    add_refine_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run ``glint run``."""
    if arguments.json and arguments.out == "-":
        raise InputError("--json and --out - both want standard output", hint="write the JSON lines to a file")
    manifest = run(
        arguments.source, out=arguments.out, overlay=arguments.overlay, detector=arguments.detector,
        unmixer=arguments.unmixer, engine=engine_of(arguments), precision=arguments.precision,
        threads=arguments.threads, refine=not arguments.no_refine, radiance_prior=arguments.radiance_prior,
        psf=arguments.psf,
        overwrite=arguments.overwrite,
    )  # fmt: skip
    print(summary_text(manifest), file=sys.stderr)
    if arguments.json:
        print_json(manifest)
    return EXIT_INTERRUPTED if manifest["interrupted"] else EXIT_OK
