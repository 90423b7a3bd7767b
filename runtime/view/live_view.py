"""A page to look at a run while it goes on: the stream, one cluster magnified, targets, latencies, the device.

The browser asks for one picture at a time with all that is drawn on it (``/live``), and gets the newest: who
looks slowly, or not at all, costs the pipeline nothing. At most fifteen pictures a second are made, once for all
who look. Nothing of the page comes from anywhere else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import resources
from typing import Any

from glint import __version__
from glint.cli import talk
from glint.runtime.pipeline.pipeline import Result
from glint.runtime.sinks.base import Opening, Sink
from glint.runtime.sinks.publishing.address import parse_address
from glint.runtime.sinks.track_tails import Tails
from glint.runtime.view.history import History
from glint.runtime.view.live_frame import ViewFrame, cluster_facts, display_range, frame_facts, picture
from glint.runtime.view.metrics_endpoint import Device, Status, metrics_routes
from glint.runtime.view.status import StreamStatus
from glint.runtime.view.telemetry import Telemetry
from glint.runtime.view.web_server import Answer, Route, WebServer, json_answer
from glint.types import Gap

_PERIOD_S = 1 / 15  # between two pictures
_PATIENCE_S = 1.0  # for a new frame, before a client is told that there is none
_LAST_GAPS = 5


class LiveView(Sink):
    """Serves the page, ``/metrics`` and ``/healthz`` from the moment it is made.

    Args:
        host, port: where to listen; port 0 takes any free one (see ``url``).
        status: gives the counters of the stream.
        device: gives the state of the device, if that is to be shown.
        hold: ``close`` leaves the last picture to be looked at, until ``linger``.

    Raises:
        InputError: if ``host`` is not known.
        OutputError: if the port cannot be had.
    """

    def __init__(
        self, host: str, port: int, *, status: Status = StreamStatus, device: Device | None = None,
        hold: bool = False,
    ) -> None:  # fmt: skip
        self._hold = hold
        self._status, self._device = status, device
        self._telemetry, self._history, self._tails = Telemetry(), History(), Tails()
        self._news = threading.Condition()
        self._shown: ViewFrame | None = None
        self._gaps: list[dict[str, Any]] = []
        self._closed = threading.Event()
        self._pictures = _Pictures()
        page = page_answer()
        routes: dict[str, Route] = {
            "/": lambda query: page,
            "/live": self._live,
            "/history": self._past,
            **metrics_routes(self._telemetry, status, device),
        }
        self._server = WebServer(host, port, routes, what="the live view")
        self.url = self._server.url
        self._sampler = threading.Thread(target=self._sample, name="live-view", daemon=True)
        self._sampler.start()
        talk(f"live view: {self.url}")

    def write(self, result: Result) -> None:
        """Show one result to whoever looks."""
        self._telemetry.add(result)
        self._tails.add(result)
        with self._news:
            number = self._shown.number + 1 if self._shown else 1
            self._shown = ViewFrame(number, result, self._tails.points())
            self._news.notify_all()

    def gap(self, gap: Gap) -> None:
        """Count one gap and show why."""
        self._telemetry.add_gap(gap)
        entry = {"seconds": round(gap.seconds, 1), "reason": gap.reason, "at": time.time()}
        self._gaps = [*self._gaps, entry][-_LAST_GAPS:]

    def close(self) -> None:
        """Hang up on everybody; may be called twice."""
        self._telemetry.end()
        if self._hold or self._closed.is_set():
            return
        self._closed.set()
        with self._news:
            self._news.notify_all()
        self._sampler.join()
        self._server.close()

    def linger(self, done: Callable[[], bool]) -> None:
        """Show the last picture until Ctrl-C, if that was asked for, and then hang up."""
        if self._hold and not done():
            talk(f"live view: {self.url} stays open; Ctrl-C ends it")
            with suppress(KeyboardInterrupt):
                while not done():
                    time.sleep(0.2)
        self._hold = False
        self.close()

    def _sample(self) -> None:
        last = time.monotonic()
        while not self._closed.wait(1.0):
            now = time.monotonic()
            state = self._device() if self._device else None
            self._history.take(now - last, self._telemetry.snapshot(), self._status(), state)
            last = now

    def _live(self, query: Mapping[str, str]) -> Answer:
        """The newest frame after number ``after``, and the cluster at ``x``, ``y``; without news, the state alone.

        The body is the length of a JSON document (four bytes, big-endian), the document, and the picture.
        """
        try:
            after = int(query.get("after", "0"))
            at = (float(query["x"]), float(query["y"])) if "x" in query else None
        except (KeyError, ValueError):
            return Answer(b"expected after=NUMBER, and x=PIXELS&y=PIXELS or neither\n", "text/plain", 400)
        if at is not None and not all(abs(v) < 1e6 for v in at):
            return Answer(b"expected x and y inside the frame\n", "text/plain", 400)
        facts, image = self._state(), b""
        made = self._next_picture(after)
        if made is not None:
            shown, described, image = made
            facts = {**facts, "shown": described, "cluster": cluster_facts(shown.result, at)}
        text = json.dumps(facts, allow_nan=False).encode()
        return Answer(struct.pack(">I", len(text)) + text + image, "application/octet-stream")

    def _next_picture(self, after: int) -> tuple[ViewFrame, dict[str, Any], bytes] | None:
        deadline = time.monotonic() + _PATIENCE_S
        while (shown := self._newer(after, deadline)) is not None:
            made = self._pictures.of(shown, min(after, shown.number - 1))
            if made is not None:
                return made
            time.sleep(_PERIOD_S / 4)  # the last picture is too recent for another one
        return None

    def _newer(self, after: int, deadline: float) -> ViewFrame | None:
        """The newest frame, once there is one after number ``after``; None after the deadline and the end."""

        def ready() -> bool:  # a number that is still to come was given by an earlier run
            number = self._shown.number if self._shown else 0
            return self._closed.is_set() or 0 < number != after

        with self._news:
            self._news.wait_for(ready, deadline - time.monotonic())
            return self._shown if ready() and not self._closed.is_set() else None

    def _state(self) -> dict[str, Any]:
        run, stream = self._telemetry.snapshot(), self._status()
        device = self._device().as_dict() if self._device else None
        return {
            "version": __version__,
            "state": run.state, "age_s": round(run.age_s, 1), "fps": round(run.fps, 2), "frames": run.frames,
            "targets": run.targets, "gaps": run.gaps, "gap_seconds": round(run.gap_seconds, 1),
            "last_gaps": self._gaps,
            "source": stream.source, "engine": stream.engine, "captured": stream.captured, "live": stream.live,
            "dropped": dict(stream.dropped), "queued": dict(stream.queued), "device": device,
        }  # fmt: skip

    def _past(self, query: Mapping[str, str]) -> Answer:
        try:
            return json_answer(self._history.since(int(query.get("since", "0"))))
        except ValueError:
            return Answer(b"expected since=NUMBER\n", "text/plain", 400)


class _Pictures:
    """Makes a picture of a frame once for all who ask, and not too often."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: tuple[ViewFrame, dict[str, Any], bytes] | None = None
        self._at = -1.0

    def of(self, shown: ViewFrame, after: int) -> tuple[ViewFrame, dict[str, Any], bytes] | None:
        """A picture newer than ``after``: of ``shown``, or the last one; None while it is too early for another."""
        with self._lock:
            newer = self._made is None or shown.number > self._made[0].number
            if newer and time.monotonic() - self._at >= _PERIOD_S:
                low, high = display_range(shown.result.frame.data)
                image, factor = picture(shown.result.frame.data, low, high)
                self._made, self._at = (shown, frame_facts(shown, low, high, factor), image), time.monotonic()
            return self._made if self._made and self._made[0].number > after else None


def page_answer(*, review: bool = False) -> Answer:
    """The page (``review``: of a finished run), with a policy that lets its own script and style run, nothing else."""
    text = resources.files("glint.runtime.view").joinpath("live_view.html").read_text(encoding="utf-8")

    def source(tag: str) -> str:
        found = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = hashlib.sha256((found[1] if found else "").encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    policy = (
        f"default-src 'none'; script-src {source('script')}; style-src {source('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    if review:
        text = text.replace("<html ", "<html data-review ", 1)
    return Answer(text.encode(), "text/html; charset=utf-8", headers={"Content-Security-Policy": policy})


def open_sink(opening: Opening) -> Sink:
    """What ``--view`` asks for."""
    where, hold = parse_address(opening.options["view"]), opening.options["hold"]
    return LiveView(*where, status=opening.status, device=opening.device, hold=hold)
