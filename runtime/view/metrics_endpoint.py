"""``/metrics`` for Prometheus and ``/healthz`` for whoever restarts things, over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from glint.cli import talk
from glint.runtime.device.state import DeviceState
from glint.runtime.pipeline.pipeline import Result
from glint.runtime.sinks.base import Opening, Sink
from glint.runtime.sinks.publishing.address import parse_address
from glint.runtime.view.prometheus_text import CONTENT_TYPE, metrics_text
from glint.runtime.view.status import StreamStatus
from glint.runtime.view.telemetry import Telemetry
from glint.runtime.view.web_server import Answer, Route, WebServer, json_answer
from glint.types import Gap

Status = Callable[[], StreamStatus]
Device = Callable[[], DeviceState]


def metrics_routes(telemetry: Telemetry, status: Status, device: Device | None) -> dict[str, Route]:
    """The two paths.

    ``/healthz`` answers 200 while frames come, else 503: before the first one, when none came for 5 s, and after
    the end.
    """

    def metrics(query: Mapping[str, str]) -> Answer:
        text = metrics_text(telemetry.snapshot(), status(), device() if device else None)
        return Answer(text.encode(errors="replace"), CONTENT_TYPE)

    def health(query: Mapping[str, str]) -> Answer:
        run = telemetry.snapshot()
        facts = {"state": run.state, "frames": run.frames, "fps": round(run.fps, 2), "age_s": round(run.age_s, 2)}
        return json_answer(facts, 200 if run.state == "ok" else 503)

    return {"/metrics": metrics, "/healthz": health}


class Metrics(Sink):
    """Serves both from the moment it is made; counts what it is given.

    Args:
        host, port: where to listen; port 0 takes any free one (see ``url``).
        status: gives the counters of the stream.
        device: gives the state of the device, if that is to be shown.

    Raises:
        InputError: if ``host`` is not known.
        OutputError: if the port cannot be had.
    """

    def __init__(self, host: str, port: int, *, status: Status = StreamStatus, device: Device | None = None) -> None:
        self._telemetry = Telemetry()
        self._server = WebServer(host, port, metrics_routes(self._telemetry, status, device), what="metrics")
        self.url = self._server.url
        talk(f"metrics: {self.url}/metrics")

    def write(self, result: Result) -> None:
        self._telemetry.add(result)

    def gap(self, gap: Gap) -> None:
        self._telemetry.add_gap(gap)

    def close(self) -> None:
        self._telemetry.end()
        self._server.close()


def open_sink(opening: Opening) -> Sink:
    """What ``--metrics`` asks for."""
    return Metrics(*parse_address(opening.options["metrics"]), status=opening.status, device=opening.device)
