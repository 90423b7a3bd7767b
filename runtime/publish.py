"""Results as messages for other programs: JSON over UDP, or through an MQTT broker.

Both send what the JSON lines of a run hold, never wait for anybody, and count what could not be sent: a receiver
that is slow or absent costs a message, not a frame.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit

from glint.cli import talk
from glint.errors import InputError, MissingDependencyError
from glint.runtime.pipeline import Result
from glint.runtime.records import frame_record, gap_record
from glint.runtime.sinks import Sink
from glint.types import Gap

DATAGRAM = 1400  # bytes; fits into one Ethernet frame, so that none arrives in pieces
_MOST_WAITING = 100  # MQTT messages on their way; a link that is slower than the frames loses the rest
_FRAMES, _EVENTS, _STATE = "frames", "events", "state"


class UdpSink(Sink):
    """One JSON object per datagram: a frame, a part of a frame with many targets, or a gap.

    A frame that does not fit into 1400 bytes is sent in parts, each with all but the targets, a share of the
    targets, and ``"part": [1, 3]``.

    Args:
        host, port: of the receiver; a broadcast address is allowed.

    Raises:
        InputError: if the host is not known, no way leads there, or the port is none.
    """

    def __init__(self, host: str, port: int) -> None:
        if not 0 < port <= 65535:
            raise InputError(f"UDP port {port}: expected 1 to 65535")
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        except (socket.gaierror, UnicodeError) as error:
            raise InputError(f"UDP host {host!r} is not known") from error
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self._socket.setblocking(False)
        try:
            self._socket.connect(address)  # no message is sent by this, but refusals are heard of
        except OSError as error:
            self._socket.close()
            raise InputError(f"UDP {host}:{port}: {error.strerror or error}") from error
        self.where = f"{host}:{port}"
        self.sent = self.lost = 0

    def write(self, result: Result) -> None:
        """Send one frame."""
        for part in split_record(frame_record(result), DATAGRAM):
            self._send(part)

    def gap(self, gap: Gap) -> None:
        """Send one gap."""
        self._send(_encoded(gap_record(gap)))

    def close(self) -> None:
        """Say what was lost, if anything."""
        if self._socket.fileno() >= 0 and self.lost:
            talk(f"udp {self.where}: {self.lost} of {self.sent + self.lost} messages could not be sent")
        self._socket.close()

    def _send(self, data: bytes) -> None:
        try:
            self._socket.send(data)
            self.sent += 1
        except OSError:  # nobody there, no route, no room: the next one may arrive
            self.lost += 1


def split_record(record: Mapping[str, Any], limit: int) -> list[bytes]:
    """A frame's record as one JSON text, or as several of at most ``limit`` bytes (a single target is never cut)."""
    whole = _encoded(record)
    if len(whole) <= limit or len(record["targets"]) < 2:
        return [whole]
    room = limit - len(_encoded({**record, "targets": [], "part": [10_000, 10_000]}))
    shares: list[list[Any]] = [[]]
    taken = 0
    for target in record["targets"]:
        size = len(_encoded(target)) + 1
        if shares[-1] and taken + size > room:
            shares.append([])
            taken = 0
        shares[-1].append(target)
        taken += size
    return [_encoded({**record, "targets": t, "part": [i, len(shares)]}) for i, t in enumerate(shares, 1)]


def _encoded(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


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
            raise InputError("MQTT URL: the port is no number") from error  # the URL may hold a password
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or port == 0 or parts.query or "#" in url:
            raise InputError("MQTT URL: expected mqtt://HOST:PORT/TOPIC or mqtts://HOST:PORT/TOPIC")
        self.topic = unquote(parts.path).strip("/") or "glint"
        if any(c in self.topic for c in "+#\0"):
            raise InputError(f"MQTT topic {self.topic!r}: + and # cannot be published to")
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
        """Publish one frame, unless the link is down or behind."""
        self._publish(_FRAMES, frame_record(result))

    def gap(self, gap: Gap) -> None:
        """Publish one gap."""
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
            if not self._client.is_connected() or len(self._waiting) >= _MOST_WAITING:
                self.lost += 1
                return
            self.sent += 1
            self._waiting.append(self._client.publish(f"{self.topic}/{kind}", _encoded(record)))

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
