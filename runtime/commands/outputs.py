"""The outputs of a run, by the options that ask for them.

Places are tried at once (a file that exists is refused, so is a folder that takes none), and files are created with
their first result, so that a run that fails before has left nothing; servers listen at once. What needs a library of
its own is imported when asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from glint.cli import talk
from glint.errors import InputError
from glint.files import is_device
from glint.progress import Progress
from glint.runtime.commands.run_options import OPTIONS, RunOptions
from glint.runtime.device.state import DeviceState
from glint.runtime.pipeline.pipeline import Pipeline, Result
from glint.runtime.sinks.base import Opening, Sink
from glint.runtime.sinks.json_lines import beside
from glint.runtime.sinks.systemd import systemd_watchdog
from glint.runtime.sources.base import Source
from glint.runtime.view.status import StreamStatus


class Callback(Sink):
    """Calls a function with every result."""

    def __init__(self, function: Callable[[Result], None]) -> None:
        self.function = function

    def write(self, result: Result) -> None:
        self.function(result)


class ProgressLine(Sink):
    """Moves the line of progress on."""

    def __init__(self, line: Progress, source: Source) -> None:
        self.line, self.source, self.frames = line, source, 0

    def write(self, result: Result) -> None:
        self.frames += 1
        self.line.update(self.frames + sum(self.source.skips.values()), f"{len(result.targets)} targets")


class DarkHint(Sink):
    """Looks once whether targets are dark: at the first frame, if it has no bright one."""

    def __init__(self, pipeline: Pipeline, uri: str) -> None:
        self._pipeline, self._uri, self._first = pipeline, uri, True

    def write(self, result: Result) -> None:
        if self._first and not len(result.blobs):
            number = self._pipeline.dark_spots(result.frame)
            if number:
                talk(
                    f"warning: {self._uri}: the first frame has no bright spot, and {number} dark ones; if these are "
                    "targets: --polarity black, or both"
                )
        self._first = False


def open_outputs(
    options: RunOptions, uri: str, status: Callable[[], StreamStatus], device: Callable[[], DeviceState]
) -> list[Sink]:
    """All sinks that are asked for; with ``out``, the first one is a :class:`~glint.runtime.sinks.json_lines.RunFiles`.

    Args:
        options: what to write and to publish.
        uri: of the source.
        status, device: what servers show of the stream and the machine.

    Raises:
        GlintError: one of its subclasses, if an output exists or cannot be had; nothing is left open then.
    """
    _refuse_shared(options)
    opening = Opening(options.by_name(), uri, status, device)
    sinks: list[Sink] = []
    try:
        for name, value in opening.options.items():
            module = OPTIONS[name].metadata["opens"]
            if module and value is not None:
                sinks.append(importlib.import_module(f"glint.runtime.{module}").open_sink(opening))
        watchdog = systemd_watchdog()
        if watchdog is not None:
            sinks.append(watchdog)
    except BaseException:
        for sink in sinks:
            sink.close()
        raise
    return sinks


def _refuse_shared(options: RunOptions) -> None:
    """Two outputs in one file would spoil each other.

    Raises:
        InputError: if there are any.
    """
    outputs, recording = options.outputs, options.recording
    paths = {
        "--csv": outputs.csv, "--video": outputs.video, "--overlay": outputs.overlay, "--record": recording.record,
        "--tracks": outputs.tracks, "--parquet": outputs.parquet, "--coco": outputs.coco, "--masks": outputs.masks,
        "--mcap": outputs.mcap,
    }  # fmt: skip
    piped = [name for name, path in {**paths, "--out": outputs.out}.items() if str(path) == "-"]
    if len(piped) > 1:
        raise InputError(f"{' and '.join(piped)} both want standard output", hint="give all but one a file")
    paths = {name: path for name, path in paths.items() if name not in piped}
    if outputs.out is not None and str(outputs.out) != "-" and Path(outputs.out).name:
        out = Path(outputs.out)
        paths |= {"--out": out, "the manifest": beside(out, "manifest.json"), "the truth": beside(out, "truth.jsonl")}
    seen: dict[Path, str] = {}
    for name, path in paths.items():
        if path is None or is_device(path):
            continue  # it takes everything
        other = seen.setdefault(path.resolve(), name)
        if other != name and {name, other} != {"--overlay", "--record"}:
            raise InputError(f"{other} and {name} both want {path}", hint="give each output a file of its own")
