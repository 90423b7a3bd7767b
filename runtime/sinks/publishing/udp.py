"""Results as UDP datagrams of JSON.

A receiver that is slow or absent costs a message, not a frame: nothing waits, and what could not be sent is counted.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from glint.cli import talk
from glint.errors import InputError
from glint.runtime.pipeline.pipeline import Result
from glint.runtime.sinks.base import Opening, Sink
from glint.runtime.sinks.publishing.address import parse_address
from glint.runtime.sinks.records import encode_record, frame_record, gap_record
from glint.types import Gap

DATAGRAM_BYTES = 1400  # fits into one Ethernet frame, so that none arrives in pieces


class UdpSink(Sink):
    """One JSON object per datagram: a frame, a part of a frame with many targets, or a gap.

    A frame that does not fit into 1400 bytes is sent in parts, each with all but the targets, a share of the
    targets, and ``"part": [1, 3]``.

    Args:
        host, port: of the receiver; a broadcast address is allowed.

    Raises:
        InputError: if the host is not known, there is no route to it, or the port is none.
    """

    def __init__(self, host: str, port: int) -> None:
        if not 0 < port <= 65535:
            raise InputError(f"UDP port {port}: expected 1 to 65535", hint="e.g. udp://127.0.0.1:5000")
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        except (socket.gaierror, UnicodeError) as error:
            raise InputError(
                f"UDP host {host!r} is not known", hint="is the name right? an address works without a name server"
            ) from error
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self._socket.setblocking(False)
        try:
            self._socket.connect(address)  # sends nothing, but lets the socket hear of refusals
        except OSError as error:
            self._socket.close()
            raise InputError(f"UDP {host}:{port}: {error.strerror or error}") from error
        self.where = f"{host}:{port}"
        self.sent = self.lost = 0

    def write(self, result: Result) -> None:
        for part in split_record(frame_record(result), DATAGRAM_BYTES):
            self.send(part)

    def gap(self, gap: Gap) -> None:
        self.send(encode_record(gap_record(gap)))

    def close(self) -> None:
        """Say what was lost, if anything."""
        if self._socket.fileno() >= 0 and self.lost:
            talk(f"udp {self.where}: {self.lost} of {self.sent + self.lost} messages could not be sent")
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send one datagram, or count it as lost."""
        try:
            self._socket.send(data)
            self.sent += 1
        except OSError:  # nobody there, no route, no room: the next one may arrive
            self.lost += 1


def split_record(record: Mapping[str, Any], limit: int) -> list[bytes]:
    """A frame's record as one JSON text, or as several of at most ``limit`` bytes (a single target is never cut)."""
    whole = encode_record(record)
    if len(whole) <= limit or len(record["targets"]) < 2:
        return [whole]
    room = limit - len(encode_record({**record, "targets": [], "part": [10_000, 10_000]}))
    shares: list[list[Any]] = [[]]
    taken = 0
    for target in record["targets"]:
        size = len(encode_record(target)) + 1
        if shares[-1] and taken + size > room:
            shares.append([])
            taken = 0
        shares[-1].append(target)
        taken += size
    return [encode_record({**record, "targets": t, "part": [i, len(shares)]}) for i, t in enumerate(shares, 1)]


def open_sink(opening: Opening) -> Sink:
    """What ``--udp`` asks for."""
    return UdpSink(*parse_address(opening.options["udp"]))
