"""The film of results as MPEG-TS over UDP: for players, recorders and ground stations that take a live video."""

from __future__ import annotations

from typing import Any

from glint.runtime.sinks.base import Opening, Sink
from glint.runtime.sinks.overlay_video import Film, encoder_of
from glint.runtime.sinks.publishing.address import parse_address
from glint.runtime.sinks.publishing.udp import UdpSink

DATAGRAM_BYTES = 7 * 188  # whole packets of MPEG-TS in one Ethernet frame
_UNFIT = ("ffv1", "mjpeg")  # for MPEG-TS
_AT_ONCE = {"libx264": {"tune": "zerolatency"}}


class OverlayStream(Film):
    """What :class:`OverlayVideo` writes, sent to one receiver; what nobody takes is lost, and counted.

    Args:
        host, port: of the receiver.

    Raises:
        InputError: if the host is not known, or the port is none.
        MissingDependencyError: if PyAV is not installed, or has no encoder for it.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"udp://{host}:{port}", encoder_of(_UNFIT), tuning=_AT_ONCE)
        self._datagrams = _Datagrams(UdpSink(host, port))

    def _target(self) -> tuple[Any, str, dict[str, str]]:
        return self._datagrams, "mpegts", {"flush_packets": "1"}

    def close(self) -> None:
        """Send what is left, and say what was lost."""
        super().close()
        self._datagrams.close()


class _Datagrams:
    """What libav writes into."""

    error = None  # nobody waits for a receiver

    def __init__(self, udp: UdpSink) -> None:
        self._udp, self.close = udp, udp.close

    def write(self, data: bytes) -> int:
        """Send it."""
        for start in range(0, len(data), DATAGRAM_BYTES):
            self._udp.send(bytes(data[start : start + DATAGRAM_BYTES]))
        return len(data)


def open_sink(opening: Opening) -> Sink:
    """What ``--video-udp`` asks for."""
    return OverlayStream(*parse_address(opening.options["video_udp"]))
