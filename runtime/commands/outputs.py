"""The outputs of a run, by the options that ask for them.

Files are claimed at once (one that exists is refused) and created with their first result, so that a run that
fails before has left nothing; servers listen at once. What needs a library of its own is imported when asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from glint.progress import Progress
from glint.runtime.device.state import DeviceState
from glint.runtime.pipeline.pipeline import Result
from glint.runtime.sinks.base import Sink
from glint.runtime.sinks.json_lines import RunFiles
from glint.runtime.sinks.overlay import Overlays
from glint.runtime.sinks.systemd import systemd_watchdog
from glint.runtime.sources.base import Source
from glint.runtime.view.status import StreamStatus


@dataclass(frozen=True)
class OutputOptions:
    """What to write and to publish; see ``run``."""

    out: str | Path | None = None
    overlay: Path | None = None
    csv: Path | None = None
    video: Path | None = None
    record: Path | None = None
    record_events: bool = False
    record_before_s: float = 3.0
    record_after_s: float = 5.0
    record_max_gb: float | None = None
    metrics: str | None = None
    view: str | None = None
    mqtt: str | None = None
    udp: str | None = None
    overwrite: bool = False


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
        self.line.update(self.frames + len(self.source.skipped), f"{len(result.targets)} targets")


def open_outputs(
    options: OutputOptions, uri: str, status: Callable[[], StreamStatus], device: Callable[[], DeviceState]
) -> list[Sink]:
    """All sinks that are asked for; with ``out``, the first one is a :class:`RunFiles`.

    Args:
        options: what to write and to publish.
        uri: of the source.
        status, device: what servers show of the stream and the machine.

    Raises:
        GlintError: one of its subclasses, if an output exists or cannot be had; nothing is left open then.
    """
    sinks: list[Sink] = []
    try:
        sinks.extend(_sinks(options, uri, status, device))
    except BaseException:
        for sink in sinks:
            sink.close()
        raise
    return sinks


def _sinks(
    o: OutputOptions, uri: str, status: Callable[[], StreamStatus], device: Callable[[], DeviceState]
) -> Iterator[Sink]:
    if o.out is not None:
        yield RunFiles(o.out, overwrite=o.overwrite)
    if o.overlay is not None:
        yield Overlays(o.overlay, overwrite=o.overwrite)
    if o.csv is not None:
        from glint.runtime.sinks.csv_table import CsvSink

        yield CsvSink(o.csv, overwrite=o.overwrite)
    if o.video is not None:
        from glint.runtime.sinks.overlay_video import OverlayVideo

        yield OverlayVideo(o.video, overwrite=o.overwrite)
    if o.record is not None:
        from glint.runtime.sinks.recorder import Recorder

        yield Recorder(
            o.record, events=o.record_events, before_s=o.record_before_s, after_s=o.record_after_s,
            max_bytes=None if o.record_max_gb is None else int(1e9 * o.record_max_gb), source=uri,
        )  # fmt: skip
    if o.udp is not None:
        from glint.runtime.sinks.udp import UdpSink
        from glint.runtime.view.web_server import parse_address

        yield UdpSink(*parse_address(o.udp))
    if o.mqtt is not None:
        from glint.runtime.sinks.mqtt import MqttSink

        yield MqttSink(o.mqtt)
    if o.metrics is not None:
        from glint.runtime.view.metrics_endpoint import Metrics
        from glint.runtime.view.web_server import parse_address

        yield Metrics(*parse_address(o.metrics), status=status, device=device)
    if o.view is not None:
        from glint.runtime.view.live_view import LiveView
        from glint.runtime.view.web_server import parse_address

        yield LiveView(*parse_address(o.view), status=status, device=device)
    watchdog = systemd_watchdog()
    if watchdog is not None:
        yield watchdog
