"""``glint run``: frames in, sub-pixel targets out."""

from __future__ import annotations

import argparse
import inspect
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from glint import __version__
from glint.cards import DEFAULT_DETECTOR, DEFAULT_UNMIXER, ModelCard
from glint.cli import print_json, talk
from glint.errors import EXIT_INTERRUPTED, EXIT_OK, InputError, OutputError, SourceLostError
from glint.optics import Psf, load_psf
from glint.progress import Progress
from glint.runtime.commands.options import add_engine_arguments, add_refine_arguments, engine_of
from glint.runtime.commands.outputs import Callback, OutputOptions, ProgressLine, open_outputs
from glint.runtime.commands.run_options import add_input_arguments, add_output_arguments, add_stream_arguments
from glint.runtime.device.watch import DeviceWatch
from glint.runtime.engines.choose import choose_engine
from glint.runtime.pipeline.detector import Detector
from glint.runtime.pipeline.pipeline import Pipeline, Result
from glint.runtime.pipeline.sensor_correction import Conditioner
from glint.runtime.pipeline.settings import Roi
from glint.runtime.pipeline.tracker import Tracker
from glint.runtime.sinks.base import Sink
from glint.runtime.sinks.json_lines import RunFiles
from glint.runtime.sinks.summary import Summary
from glint.runtime.sources.base import Source
from glint.runtime.sources.open import open_source
from glint.runtime.stream.interruption import Interruption
from glint.runtime.stream.results import follower
from glint.runtime.stream.stream import Drop, Stream
from glint.runtime.unmixing.refine import RadiancePrior, refine_config
from glint.runtime.unmixing.unmixer import Unmixer
from glint.runtime.view.status import StreamStatus
from glint.types import FrameSize


def run(
    source: str,
    *,
    out: str | Path | None = None,
    overlay: str | Path | None = None,
    csv: str | Path | None = None,
    video: str | Path | None = None,
    record: str | Path | None = None,
    record_events: bool = False,
    record_before: float = 3.0,
    record_after: float = 5.0,
    record_max_gb: float | None = None,
    view: str | None = None,
    metrics: str | None = None,
    mqtt: str | None = None,
    udp: str | None = None,
    detector: str | Path = DEFAULT_DETECTOR,
    unmixer: str | Path = DEFAULT_UNMIXER,
    engine: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    refine: bool = True,
    radiance_prior: RadiancePrior = "card",
    psf: str | Path | None = None,
    roi: Roi | None = None,
    tile: FrameSize | None = None,
    dead_pixels: str | Path | None = None,
    dark: str | Path | None = None,
    flat: str | Path | None = None,
    drop: Drop | None = None,
    deadline_ms: float | None = None,
    warm_up: bool | None = None,
    track: bool = False,
    overwrite: bool = False,
    on_result: Callable[[Result], None] | None = None,
) -> dict[str, Any]:
    """Process all frames of a source.

    Capture, networks and outputs work at the same time (see ``runtime.stream``). In the main thread the first
    Ctrl-C or SIGTERM ends the run in order.

    Args:
        source: URI (see ``sources.open_source``).
        out: JSON lines, one object per frame and per gap; ``-`` for standard output. Beside a file come
            ``NAME.manifest.json`` and, for a simulated source, ``NAME.truth.jsonl``.
        overlay: folder for a picture of each frame.
        csv: table of targets. video: the frames with their targets as a film.
        record: folder for the frames themselves, bit by bit; with ``record_events`` only those from
            ``record_before`` seconds before frames with targets to ``record_after`` seconds after them; the oldest
            recordings make room when there are more than ``record_max_gb`` (1e9 bytes) in the folder.
        view, metrics: HOST:PORT at which to serve the live page, and metrics without it.
        mqtt, udp: URL and HOST:PORT to which results are published.
        detector, unmixer: names in the zoo or paths of model cards.
        engine, precision, threads: what runs the networks.
        refine: fit the optical model to what the network found.
        radiance_prior: mean and standard deviation of a target's radiance, DN of the frame; None if it is
            unknown; "card": what the unmixer's card says.
        psf: file of a measured PSF (see ``psf``) that the refinement takes instead of the model's.
        roi: x, y, width, height of the part of the frame in which targets are looked for, pixels.
        tile: size above which a frame is given to the detector in tiles, pixels.
        dead_pixels, dark, flat: files of the sensor's corrections (see ``runtime.pipeline.sensor_correction``).
        drop, deadline_ms: what happens to frames that come too fast or are too old (see ``stream.stream.Stream``).
        warm_up: run the first frame until the latency settles, uncounted; None: for live sources.
        track: follow the targets from frame to frame (see ``runtime.pipeline.tracker``).
        overwrite: replace existing outputs.
        on_result: called with every result, in order, in the thread of the outputs.

    Returns:
        The manifest: settings, models, counts, drops, latency percentiles, and the score for a source with truth.

    Raises:
        GlintError: one of its subclasses, for a bad source, model, output or argument.
    """
    frames = open_source(source)
    options = OutputOptions(
        out=out, overlay=_path(overlay), csv=_path(csv), video=_path(video), record=_path(record),
        record_events=record_events, record_before_s=record_before, record_after_s=record_after,
        record_max_gb=record_max_gb, metrics=metrics, view=view, mqtt=mqtt, udp=udp, overwrite=overwrite,
    )  # fmt: skip
    frames.refuse_collisions(options.overlay)
    name, why = choose_engine(engine)
    watch, summary, tracker = DeviceWatch(), Summary(), Tracker() if track else None
    streams: list[Stream] = []
    sinks = open_outputs(options, frames.uri, lambda: _status(frames, name, streams), watch.state)
    try:
        settings: dict[str, Any] = {"engine": engine, "precision": precision, "threads": threads}
        measured = load_psf(Path(psf)) if psf is not None else None
        first = Detector.open(detector, tile=tile, **settings)
        second = Unmixer.open(unmixer, **settings)
        models = [f"{m.card.name} ({m.card.precision})" for m in (first, second)]
        talk(f"engine: {name} ({why}); detector {models[0]}, unmixer {models[1]}")
        pipeline = Pipeline(
            first, second, refine=refine, psf=Psf(measured.sigma if measured else second.spec.sigma),
            config=refine_config(second.spec, radiance=radiance_prior, measured=measured), roi=roi,
            conditioner=Conditioner.load(_path(dead_pixels), _path(dark), _path(flat)),
        )  # fmt: skip
        line = Progress("run", frames.total)
        last: list[Sink] = [summary, ProgressLine(line, frames), *([Callback(on_result)] if on_result else [])]
        stream = Stream(
            frames, pipeline, [*sinks, *last], drop=drop, deadline_ms=deadline_ms, warm=warm_up,
            track=None if tracker is None else follower(frames, tracker),
        )  # fmt: skip
    except BaseException:
        for sink in sinks:
            sink.close()
        raise
    streams.append(stream)
    started, error = time.perf_counter(), None
    with Interruption() as signals, first.engine, second.engine:
        try:
            with watch, line:
                stream.run(signals)
        except Exception as problem:
            error = problem
        corrections = {"dead_pixels": dead_pixels, "dark": dark, "flat": flat}
        manifest = {
            "glint": __version__,
            "source": frames.uri,
            "engine": name,
            "engines": {m.card.task: m.engine.details() for m in (first, second)},
            "models": {m.card.task: _described(m.card) for m in (first, second)},
            "refine": refine,
            "radiance_prior": pipeline.config.radiance,
            "psf": {"sigma": pipeline.psf.sigma, "file": str(psf) if psf is not None else None},
            "corrections": {what: str(path) for what, path in corrections.items() if path is not None},
            "roi": roi,
            "tile": tile,
            "interrupted": stream.interrupted,
            "error": None if error is None else str(error) or type(error).__name__,
            "seconds": round(time.perf_counter() - started, 3),
            "skipped": [asdict(s) for s in frames.skipped],
            **_account(stream),
            **summary.as_dict(),
            **({"tracks": tracker.confirmed} if tracker is not None else {}),
            "device": watch.report(),
        }
        _finish(sinks, manifest, error)
    return manifest


def _finish(sinks: Sequence[Sink], manifest: dict[str, Any], error: Exception | None) -> None:
    """Write the manifest; raise the error.

    A run that failed before its first result leaves nothing, but whoever lost a camera wants to know when.
    """
    for files in sinks:
        if isinstance(files, RunFiles) and (error is None or manifest["frames"] or isinstance(error, SourceLostError)):
            with nullcontext() if error is None else suppress(OutputError):
                files.finish(manifest)
    if error is not None:
        raise error


def _described(card: ModelCard) -> dict[str, str]:
    # A model given as a file has a precision of its own, whatever was asked for.
    return {"name": card.name, "precision": card.precision, "sha256": card.sha256}


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)


def _status(source: Source, engine: str, streams: Sequence[Stream]) -> StreamStatus:
    """What servers show; before the models are loaded there is no stream yet."""
    if not streams:
        return StreamStatus(source=source.uri, engine=engine, live=source.live)
    (stream,) = streams
    return StreamStatus(source.uri, engine, stream.captured, stream.dropped, stream.queued, source.live)


def _account(stream: Stream) -> dict[str, Any]:
    """What became of the frames that were captured."""
    return {
        "drop": stream.drop,
        "deadline_ms": stream.deadline_ms,
        "warm_up": None if stream.warm_up is None else asdict(stream.warm_up),
        "captured": stream.captured,
        "dropped": stream.dropped,
        "waited_s": stream.waited_s,
    }


def summary_text(manifest: dict[str, Any]) -> str:
    """The summary for the terminal."""
    skipped = manifest["skipped"]
    lines = [f"frames    {manifest['frames']}" + (f", {len(skipped)} skipped" if skipped else "")]
    lines += [f"  skipped {s['name']}: {s['reason']}" for s in skipped[:5]]
    if manifest["dropped"]:
        lines.append("dropped   " + ", ".join(f"{number} {place}" for place, number in manifest["dropped"].items()))
    if manifest["deadline_ms"] is not None:
        lines.append(f"late      {manifest['late']} after {manifest['deadline_ms']:g} ms")
    if manifest["gaps"]["count"]:
        lines.append(f"gaps      {manifest['gaps']['count']}, {manifest['gaps']['seconds']:.1f} s")
    if "tracks" in manifest:
        lines.append(f"tracks    {manifest['tracks']}")
    if manifest["device"]["throttled"]:
        lines.append("device    throttled: " + ", ".join(manifest["device"]["throttled_by"]))
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
    """Arguments of ``glint run``; each that has a parameter of :func:`run` has its name."""
    parser.add_argument("source", help="folder, glob, image, or synthetic://?size=640x512&frames=100&seed=1")
    add_output_arguments(parser)
    add_stream_arguments(parser)
    add_input_arguments(parser)
    models = parser.add_argument_group("models")
    models.add_argument("--detector", default=DEFAULT_DETECTOR, metavar="NAME|CARD", help="default: %(default)s")
    models.add_argument("--unmixer", default=DEFAULT_UNMIXER, metavar="NAME|CARD", help="default: %(default)s")
    add_engine_arguments(parser)
    add_refine_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run ``glint run``."""
    if arguments.json and arguments.out == "-":
        raise InputError("--json and --out - both want standard output", hint="write the JSON lines to a file")
    given = {**vars(arguments), "engine": engine_of(arguments), "refine": not arguments.no_refine}
    manifest = run(**{name: given[name] for name in inspect.signature(run).parameters if name in given})
    print(summary_text(manifest), file=sys.stderr)
    if arguments.json:
        print_json(manifest)
    return EXIT_INTERRUPTED if manifest["interrupted"] else EXIT_OK
