"""``glint archive``: all recordings below a folder or URL become Parquet data sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from glint.errors import InputError, did_you_mean
from glint.runtime.archive.job import Job
from glint.runtime.archive.on_ray import LOCAL, started
from glint.runtime.archive.plan import Plan, make_plan
from glint.runtime.archive.settings import ArchiveSettings
from glint.runtime.archive.storage import Storage
from glint.runtime.commands.run_options import ARCHIVE_OPTIONS, Group, RunOptions


def archive(
    root: str,
    out: str,
    *groups: Group,
    address: str = LOCAL,
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    chunk: int = 1000,
    dry_run: bool = False,
    verify: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Detect and unmix the targets of all recordings below a folder or URL.

    Parts that are there already stay; what failed before is tried again. Ctrl-C leaves what can be gone on with.

    Args:
        root: folder or URL of ``pyarrow.fs`` below which recordings lie.
        out: folder or URL of the data sets ``frames/``, ``targets/`` and, with ``track``, ``tracks/``.
        groups: options in groups: ``Values``, ``Sensor``, ``Models`` (see ``run_options``).
        address: ``local``: this machine; ``auto``: the Ray cluster that it belongs to; or the address of one.
        workers: processes; None: as many as there is room for, with ``gpus_per_worker`` on GPUs.
        gpus_per_worker: GPUs of each; None: none. Of more ``workers`` than there are GPUs for, the others work without
            one, unless the engine is TensorRT.
        chunk: frames of one part.
        dry_run: only say what would be done; nothing is written.
        verify: make so many finished parts again and compare; nothing is written.
        options: by name: those of the groups, and ``track``, ``static``, ``false_tracks_per_hour``.

    Returns:
        The manifest; with ``dry_run`` the plan, with ``verify`` the checks.

    Raises:
        GlintError: one of its subclasses, for a bad root, model or argument, and if Ray cannot be started.
    """
    settings, threads = _settings(chunk, groups, options)
    source, target = Storage(root), Storage(out)
    if not source.is_folder():
        raise InputError(f"{source.shown}: no such folder", hint="is the name right?")
    if not target.may_be_folder():
        raise InputError(f"{target.shown} is a file", hint="OUT is the folder of the data sets")
    if dry_run:
        return _plan_of(make_plan(source, target, chunk, None), settings)
    settings.check()  # bad models and files are said before Ray is started
    on_gpus_only = settings.pipeline.engine == "tensorrt"
    if on_gpus_only and not gpus_per_worker:
        raise InputError("archive: TensorRT needs GPUs, and the workers are given none", hint="--gpus-per-worker 0.5")
    with started(
        address, workers=workers, threads=threads, gpus_per_worker=gpus_per_worker or 0.0, without_gpu=not on_gpus_only
    ) as executor:
        job = Job(source, target, settings, executor)
        if verify is not None:
            checks = job.verify(verify)
            return {"checks": [{**asdict(c), "ok": c.ok} for c in checks], "failures": sum(not c.ok for c in checks)}
        manifest = job.run()
    return {**manifest, "workers": executor.workers, "workers_with_gpu": executor.on_gpus, "threads": threads}


def _settings(chunk: int, groups: tuple[Group, ...], options: Mapping[str, Any]) -> tuple[ArchiveSettings, int]:
    if chunk < 1:
        raise InputError(f"chunk: expected at least 1 frame, got {chunk}", hint="e.g. --chunk 1000")
    for name in {f.name for g in groups for f in fields(g)} | options.keys():
        if name not in ARCHIVE_OPTIONS:
            raise InputError(f"archive: no option {name!r}", hint=did_you_mean(name, ARCHIVE_OPTIONS).strip() or None)
    asked = RunOptions.of(*groups, **options)
    if str(asked.sensor.dead_pixels) == "auto":
        hint = "give a map of dead pixels, or leave it away"
        raise InputError("archive: dead pixels are not learned: a chunk is no stream with a beginning", hint=hint)
    threads = asked.models.threads or 1
    delivery = asked.delivery
    settings = ArchiveSettings(
        asked.settings(), asked.values.polarity, asked.values.scale, delivery.track, delivery.static,
        delivery.false_tracks_per_hour, chunk,
    )  # fmt: skip
    return settings.absolute().with_threads(threads), threads


def _plan_of(plan: Plan, settings: ArchiveSettings) -> dict[str, Any]:
    kinds = {r.kind for r in plan.recordings.values()}
    return {
        "dry_run": True,
        "recordings": {kind: sum(r.kind == kind for r in plan.recordings.values()) for kind in sorted(kinds)},
        "files": sum(len(r.files) for r in plan.recordings.values()),
        "images": sum(len(r.files) for r in plan.recordings.values() if r.kind == "images"),
        "bytes": plan.bytes,
        "chunks": plan.number,
        "settings": settings.as_dict(),
    }


def summary_text(manifest: dict[str, Any]) -> str:
    """The summary for the terminal."""
    if manifest.get("dry_run"):
        kinds = ", ".join(f"{number} {kind}" for kind, number in manifest["recordings"].items())
        gigabytes = manifest["bytes"] / 1e9
        lines = [f"recordings  {kinds}", f"files       {manifest['files']}, {gigabytes:.3f} GB"]
        cut = ", before videos are cut" if "video" in manifest["recordings"] else ""
        return "\n".join([*lines, f"chunks      {manifest['chunks']}{cut}"])
    if "checks" in manifest:
        checks = manifest["checks"]
        lines = [f"verified    {len(checks)} parts, {sum(c['identical'] for c in checks)} identical"]
        lines += [f"  differs   {c['part']}: {c['error'] or _difference(c)}" for c in checks if not c["identical"]]
        return "\n".join(lines)
    lines = [
        f"recordings  {manifest['recordings']}",
        f"chunks      {manifest['done']} of {manifest['chunks']} done: {manifest['made']} made, "
        f"{manifest['already']} were there",
        f"frames      {manifest['frames']}, {manifest['targets']} targets, {manifest['skipped']} frames skipped",
    ]
    if manifest["track"]:
        lines.append(f"tracks      of {manifest['tracks']} recordings")
    if manifest["failures"]:
        lines.append(f"failed      {manifest['failures']}: see {manifest['out']}/failed.jsonl")
    if manifest["interrupted"]:
        lines.append("interrupted: start it again, it goes on from here")
    return "\n".join(lines)


def _difference(check: dict[str, Any]) -> str:
    if check["position_px"] is None:
        return "other targets"
    return f"positions by up to {check['position_px']:.2g} px"
