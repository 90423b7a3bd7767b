"""``glint run``: frames in, sub-pixel targets out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from typing import Any

from glint import __version__
from glint.cards import ModelCard
from glint.cli import talk
from glint.errors import OutputError, SourceLostError
from glint.interruption import Interruption
from glint.progress import Progress
from glint.runtime.commands.outputs import Callback, DarkHint, ProgressLine, open_outputs
from glint.runtime.commands.provenance import Provenance
from glint.runtime.commands.run_options import Delivery, Group, RunOptions, with_options
from glint.runtime.device.watch import DeviceWatch
from glint.runtime.engines.choose import choose_engine, choose_precision
from glint.runtime.pipeline.follow import Follower
from glint.runtime.pipeline.pipeline import Pipeline, Result
from glint.runtime.sinks.base import Sink
from glint.runtime.sinks.json_lines import LINES_VERSION, RunFiles
from glint.runtime.sinks.summary import Summary
from glint.runtime.sources.adjusted import AdjustedSource
from glint.runtime.sources.base import Source
from glint.runtime.sources.open import open_frames
from glint.runtime.stream.following import Following
from glint.runtime.stream.stream import Stream
from glint.runtime.unmixing.optics_state import UNKNOWN, OpticsState
from glint.runtime.view.status import StreamStatus


@with_options
def run(
    source: str | Sequence[str],
    *groups: Group,
    on_result: Callable[[Result], None] | None = None,
    on_end: Callable[[dict[str, Any]], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Process all frames of a source.

    Capture, networks and outputs work at the same time (see ``runtime.stream``). In the main thread the first
    Ctrl-C or SIGTERM ends the run in order.

    Args:
        source: URI (see ``sources.open_frames``), or paths of several images.
        groups: options in groups: ``Outputs``, ``Recording``, ``Delivery``, ``Values``, ``Sensor``,
            ``Models`` (see ``run_options``).
        on_result: called with every result, in order, in the thread of the outputs.
        on_end: called with the manifest, also where an error ends the run after its first frame or a source is lost.
        options: by name, e.g. ``out="targets.jsonl", track=True``: those of the command, and what the groups hold.
            Beside ``out`` come ``NAME.manifest.json`` and, for a simulated source, ``NAME.truth.jsonl``.

    Returns:
        The manifest: settings, models, counts, drops, latency percentiles, and the score for a source with truth.

    Raises:
        GlintError: one of its subclasses, for a bad source, model, output or argument.
    """
    asked = RunOptions.of(*groups, **options)
    provenance = Provenance()
    values, delivery = asked.values, asked.delivery
    frames = open_frames(source, polarity=values.polarity, scale=values.scale, wait_s=delivery.wait_source)
    frames.refuse_collisions(asked.outputs.overlay)
    name, why = choose_engine(asked.models.engine)
    watch, summary = DeviceWatch(), Summary()
    following = Following.of(delivery, track=asked.outputs.tracks is not None)
    streams: list[Stream] = []
    sinks = open_outputs(asked, frames.uri, lambda: _status(frames, name, streams), watch.state)
    try:
        pipeline = Pipeline.of(asked.settings(), following.candidates_above)
        follow = following.follower(frames, pipeline)
        talk(f"engine: {name} ({why}); {_models_text(pipeline, asked.models.precision, name)}")
        _made_ready(pipeline, frames, asked.models.refine)
        line = Progress("run", frames.total)
        stream = _stream(asked.delivery, frames, pipeline, follow, [*sinks, summary], line, on_result)
    except BaseException:
        for sink in sinks:
            sink.close()
        raise
    streams.append(stream)
    started, error = time.perf_counter(), None
    with Interruption() as signals, pipeline:
        try:
            with watch, line:
                stream.run(signals)
        except Exception as problem:
            error = problem
        manifest = {
            "glint": __version__,
            "lines": LINES_VERSION,
            **provenance.as_dict(),
            **_settings(asked, frames, name, pipeline),
            **_ending(stream, frames, error, time.perf_counter() - started),
            **summary.as_dict(),
            **({"tracks": follow.confirmed, "static": follow.static} if follow is not None else {}),
            **following.as_dict(),
            "device": watch.report(),
        }
        try:
            _finish(sinks, manifest, error, on_end)
        finally:
            for sink in sinks:
                sink.linger(lambda: error is not None or signals.requested)
    return manifest


def _stream(
    delivery: Delivery, frames: AdjustedSource, pipeline: Pipeline, follow: Follower | None, sinks: Sequence[Sink],
    line: Progress, on_result: Callable[[Result], None] | None,
) -> Stream:  # fmt: skip
    """The stream of a run: its sinks, and what watches it from here."""
    last: list[Sink] = [ProgressLine(line, frames), *([Callback(on_result)] if on_result else [])]
    last += [DarkHint(pipeline, frames.uri)] if frames.polarity == "white" else []
    return Stream(
        frames, pipeline, [*sinks, *last], drop=delivery.drop, deadline_ms=delivery.deadline_ms, warm=delivery.warm_up,
        track=follow,
    )  # fmt: skip


def _made_ready(pipeline: Pipeline, frames: AdjustedSource, refine: bool) -> None:
    """Tell the pipeline what is known of the source, and say what becomes of its frames."""
    if frames.polarity == "both":
        talk("polarity: both; every frame goes through the networks twice")
    pipeline.learn_live(frames.live)
    if refine:
        _tell_optics(pipeline)
    if frames.size is not None:
        pipeline.prepare(frames.size)


def _ending(stream: Stream, frames: AdjustedSource, error: Exception | None, seconds: float) -> dict[str, Any]:
    """How a run ended, and which frames it did not see."""
    return {
        "interrupted": stream.interrupted,
        "error": None if error is None else str(error) or type(error).__name__,
        "seconds": round(seconds, 3),
        "skipped": [asdict(s) for s in frames.skipped],
        "skips": dict(frames.skips),
        "missing": frames.missing,
        **_account(stream),
    }


def _models_text(pipeline: Pipeline, precision: str, engine: str) -> str:
    chosen, reason = choose_precision(precision, engine)
    detector, unmixer = (f"{m.card.name} ({m.card.precision})" for m in (pipeline.detector, pipeline.unmixer))
    return f"{chosen} ({reason}); detector {detector}, unmixer {unmixer}"


def _settings(asked: RunOptions, frames: AdjustedSource, engine: str, pipeline: Pipeline) -> dict[str, Any]:
    """What a manifest tells of the source, the models and what becomes of a frame."""
    models, sensor, opened = asked.models, asked.sensor, (pipeline.detector, pipeline.unmixer)
    return {
        "source": frames.uri,
        "engine": engine,
        "engines": {m.card.task: m.engine.details() for m in opened},
        "models": {m.card.task: _described(m.card) for m in opened},
        "refine": models.refine,
        "radiance_prior": pipeline.config.radiance,
        "psf": {**pipeline.optics.as_dict(), "given": None if models.psf is None else str(models.psf)},
        "corrections": {what: str(path) for what, path in sensor.corrections.items() if path is not None},
        "roi": sensor.roi,
        "polarity": frames.polarity,
        "scale": frames.scale,
        "tile": sensor.tile,
    }


def _tell_optics(pipeline: Pipeline) -> None:
    """Say what is known of the PSF, now and whenever it changes."""
    if pipeline.learner is None:
        talk(f"optics: {pipeline.optics.text()}")
    else:
        pipeline.learner.tell = talk


def _finish(
    sinks: Sequence[Sink], manifest: dict[str, Any], error: Exception | None, on_end: Callable[[Any], None] | None
) -> None:
    """Write the manifest, and hand it over; raise the error.

    A run that failed before its first result leaves nothing, but whoever lost a camera wants to know when.
    """
    told = error is None or bool(manifest["frames"]) or isinstance(error, SourceLostError)
    for files in sinks:
        if isinstance(files, RunFiles) and told:
            with nullcontext() if error is None else suppress(OutputError):
                files.finish(manifest)
    if on_end is not None and told:
        on_end(manifest)
    if error is not None:
        raise error


def _described(card: ModelCard) -> dict[str, str]:
    # A model given as a file has a precision of its own, whatever was asked for.
    return {"name": card.name, "precision": card.precision, "sha256": card.sha256}


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
    skipped, number = manifest["skipped"], sum(manifest["skips"].values())
    lines = [f"frames    {manifest['frames']}" + (f", {number} skipped" if number else "")]
    lines += [f"  skipped {s['name']}: {s['reason']}" for s in skipped[:5]]
    if manifest["dropped"]:
        lines.append("dropped   " + ", ".join(f"{number} {place}" for place, number in manifest["dropped"].items()))
    if manifest["deadline_ms"] is not None:
        lines.append(f"late      {manifest['late']} after {manifest['deadline_ms']:g} ms")
    if manifest["repeated"]:
        lines.append(f"repeated  {manifest['repeated']} frames with the bytes of the one before")
    if manifest["damaged"]:
        lines.append(f"damaged   {manifest['damaged']} frames build on pictures that are damaged or missing")
    if manifest["gaps"]["count"]:
        missing = f", at least {manifest['missing']} frames" if manifest["missing"] else ""
        lines.append(f"gaps      {manifest['gaps']['count']}, {manifest['gaps']['seconds']:.1f} s{missing}")
    if "tracks" in manifest:
        lines.append(f"tracks    {manifest['tracks']}")
    if manifest["device"]["throttled"]:
        lines.append("device    throttled: " + ", ".join(manifest["device"]["throttled_by"]))
    lines.append(f"targets   {manifest['targets']} in {manifest['blobs']} blobs")
    if manifest["refine"]:
        lines.append(f"optics    {OpticsState(**{k: v for k, v in manifest['psf'].items() if k != 'given'}).text()}")
    if manifest["extended"]:
        what = "the PSF" if manifest["psf"]["kind"] != UNKNOWN else "the model's PSF"
        lines.append(
            f"extended  {manifest['extended']} of {manifest['blobs']} spots are wider than {what}: "
            "counts within them mean nothing"
        )
    if manifest["refine"] and manifest["blobs"] and manifest["psf"]["kind"] == UNKNOWN:
        lines.append("counts    a cluster counts as one target while the optics are unknown: give --psf FILE or SIGMA")
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
