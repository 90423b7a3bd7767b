"""What a running stream tells those who watch it, beyond the results and gaps that every sink is given.

Sinks that show or publish, and what makes them (each claims its port or refuses its file at once, and all
take ``write(result)``, ``gap(gap)`` and ``close()``):

- ``csv_sink.CsvSink(path, overwrite=False)``
- ``overlay_video.OverlayVideo(path, fps=None, overwrite=False)``
- ``publish.UdpSink(host, port)`` and ``publish.MqttSink(url)``
- ``metrics.Metrics(host, port, status=..., device=...)``: ``/metrics`` and ``/healthz``
- ``live_view.LiveView(host, port, status=..., device=...)``: the page, and the same two

``status`` is a function without arguments that returns a :class:`StreamStatus`; ``device`` one that returns a
``DeviceState``, such as ``device_watch.DeviceWatch.state``. ``web.parse_address("127.0.0.1:8080")`` gives host
and port.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StreamStatus:
    """Counters of a stream at one moment; called for about once a second, from other threads.

    Attributes:
        source: URI of the source, without credentials.
        engine: what runs the networks, e.g. ``tensorrt``.
        captured: frames that the source has delivered.
        dropped: frames that were not processed, by place or reason, e.g. ``{"inference": 3, "late": 1}``.
        queued: frames and results that wait, by queue.
        live: the source has a pace of its own, so that a silence means trouble.
    """

    source: str = ""
    engine: str = ""
    captured: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    queued: Mapping[str, int] = field(default_factory=dict)
    live: bool = False
