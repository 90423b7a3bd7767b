"""Results as MQTT messages: what the JSON lines of a run hold, through a broker.

Nothing waits for the broker: a link that is slow or absent costs messages, which are counted, not frames.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit

from glint.cli import talk
from glint.errors import InputError, MissingDependencyError
from glint.runtime.pipeline.pipeline import Result
from glint.runtime.sinks.base import Opening, Sink
from glint.runtime.sinks.records import encode_record, event_records, frame_record, gap_record
from glint.types import Gap

_MOST_WAITING_MESSAGES = 100  # MQTT messages on their way; a link that is slower than the frames loses the rest
_FRAMES, _EVENTS, _STATE = "frames", "events", "state"
_URL_HINT = "e.g. mqtt://broker.local:1883/glint"


class MqttSink(Sink):
    """Publishes to ``TOPIC/frames`` and ``TOPIC/events``, and keeps ``online`` or ``offline`` in ``TOPIC/state``.

    Messages go out once, without acknowledgement. A broker that is not there is tried again, after 1 s at first
    and every 30 s later; what happens in between is lost.

    Args:
        url: ``mqtt://[USER:PASSWORD@]HOST[:PORT][/TOPIC]``; ``mqtts://`` for TLS. The topic is ``glint`` by default.

    Raises:
        InputError: if the URL is none of these.
        MissingDependencyError: if paho-mqtt is not installed.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise InputError(
                "MQTT URL: the port is no number", hint=_URL_HINT
            ) from error  # the URL may hold a password
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or port == 0 or parts.query or "#" in url:
            raise InputError("MQTT URL: expected mqtt://HOST:PORT/TOPIC or mqtts://HOST:PORT/TOPIC", hint=_URL_HINT)
        self.topic = unquote(parts.path).strip("/") or "glint"
        if any(c in self.topic for c in "+#\0"):
            raise InputError(
                f"MQTT topic {self.topic!r}: + and # cannot be published to", hint="choose a topic without + and #"
            )
        try:
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError as error:
            hint = "pip install '.[mqtt]' in the checkout of glint"
            raise MissingDependencyError("paho-mqtt is not installed", hint=hint) from error
        secure = parts.scheme == "mqtts"
        self.where = f"{parts.hostname}:{port or (8883 if secure else 1883)}"
        self.sent = self.lost = 0
        self._waiting: deque[Any] = deque()  # what paho says of each message that may still be on its way
        self._lock = threading.Lock()
        self._closed = self._told = False
        self._client = Client(CallbackAPIVersion.VERSION2)
        if parts.username:
            self._client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
        if secure:
            self._client.tls_set()
        self._client.will_set(f"{self.topic}/{_STATE}", "offline", retain=True)
        self._client.reconnect_delay_set(1, 30)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.connect_async(parts.hostname, port or (8883 if secure else 1883))
        self._client.loop_start()

    def write(self, result: Result) -> None:
        """Publish one frame and what became of its tracks, unless the link is down or behind."""
        self._publish(_FRAMES, frame_record(result))
        for event in event_records(result):
            self._publish(_EVENTS, event)

    def gap(self, gap: Gap) -> None:
        self._publish(_EVENTS, gap_record(gap))

    def close(self) -> None:
        """Say goodbye, and what was lost, if anything; may be called twice."""
        if self._closed:
            return
        self._closed = True
        with suppress(RuntimeError, ValueError):  # the link went down just now
            if self._client.is_connected():
                self._client.publish(f"{self.topic}/{_STATE}", "offline", retain=True).wait_for_publish(1.0)
        self._client.disconnect()
        self._client.loop_stop()
        if self.lost:
            talk(f"mqtt {self.where}: {self.lost} of {self.sent + self.lost} messages could not be sent")

    def _publish(self, kind: str, record: Mapping[str, Any]) -> None:
        with self._lock:
            while self._waiting and (self._waiting[0].rc or self._waiting[0].is_published()):
                self._waiting.popleft()
            if not self._client.is_connected() or len(self._waiting) >= _MOST_WAITING_MESSAGES:
                self.lost += 1
                return
            self.sent += 1
            self._waiting.append(self._client.publish(f"{self.topic}/{kind}", encode_record(record)))

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._tell(f"refused ({reason})")
            return
        with self._lock:
            self._waiting.clear()
        self._told = False
        talk(f"mqtt {self.where}: connected, publishing to {self.topic}/")
        client.publish(f"{self.topic}/{_STATE}", "online", retain=True)

    def _on_connect_fail(self, client: Any, data: Any) -> None:
        self._tell("cannot be reached")

    def _on_disconnect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if not self._closed:
            self._tell(f"connection lost ({reason})")

    def _tell(self, trouble: str) -> None:
        """Once per trouble, not once per attempt."""
        if not self._told:
            talk(f"mqtt {self.where}: {trouble}, trying again")
        self._told = True


def open_sink(opening: Opening) -> Sink:
    """What ``--mqtt`` asks for."""
    return MqttSink(opening.options["mqtt"])
