"""Streams for the tests: encoded in memory by PyAV, served over real sockets by scripts of parts and faults."""

from __future__ import annotations

import base64
import io
import re
import socket
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

av = pytest.importorskip("av", reason="needs PyAV: pip install '.[video]'")

WIDTH, HEIGHT = 64, 48


def noise(count: int, bits: int = 16, seed: int = 0) -> np.ndarray:
    """Random frames ``[count, 48, 64]`` that use all values of so many bits."""
    dtype = np.uint8 if bits == 8 else np.uint16
    return np.random.default_rng(seed).integers(0, 2**bits, (count, HEIGHT, WIDTH)).astype(dtype)


def encode(
    frames: np.ndarray, container: str, codec: str, pixels: str, *, stamps: Sequence[int] | None = None
) -> bytes:
    """A video file; ``frames`` fills the first plane, any chroma is neutral; 30 frames per second."""
    return _encode(frames, container, codec, pixels, stamps)[0]


def packets(frames: np.ndarray, container: str, codec: str, pixels: str) -> list[bytes]:
    """A stream in parts: one for each frame, with what stands before it; the last is the trailer."""
    return _encode(frames, container, codec, pixels, None)[1]


def _encode(
    frames: np.ndarray, container: str, codec: str, pixels: str, stamps: Sequence[int] | None
) -> tuple[bytes, list[bytes]]:
    buffer = io.BytesIO()
    parts: list[bytes] = []

    def cut() -> None:
        parts.append(buffer.getvalue()[sum(map(len, parts)) :])

    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pixels
        if codec == "mpeg2video":
            stream.codec_context.gop_size = 1
        for index, image in enumerate(frames):
            picture = fill(av.VideoFrame(frames.shape[2], frames.shape[1], pixels), image)
            picture.pts = index if stamps is None else stamps[index]
            for packet in stream.encode(picture):
                output.mux(packet)
            cut()
        for packet in stream.encode(None):
            output.mux(packet)
    cut()
    return buffer.getvalue(), parts


def fill(picture: Any, image: np.ndarray) -> Any:
    """Put an image into a frame's first plane, and half of full scale into the others."""
    big = picture.format.name.endswith("be")
    for index, plane in enumerate(picture.planes):
        wide = image.dtype.newbyteorder(">" if big else "<")
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size).view(wide)
        if index:
            bits = int((re.findall(r"p(\d+)", picture.format.name) or ["8"])[0])
            rows[:] = 1 << (bits - 1)
        else:
            rows[: image.shape[0], : image.shape[1]] = image
    return picture


class TcpServer:
    """Serves one script per connection: bytes are sent, ``"stall"`` waits for the end, then the socket closes.

    The last script is for all connections that follow; with ``ends`` nobody listens after it.
    """

    def __init__(self, *scripts: Sequence[bytes | str], ends: bool = False) -> None:
        self.scripts, self.ends = list(scripts), ends
        self.ended = threading.Event()
        self.accepted = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> TcpServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        with socket.socket() as knock:  # ends an accept that waits
            knock.connect_ex(("127.0.0.1", self.port))
        self._thread.join(10)
        self._socket.close()
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        while not (self.ends and self.accepted == len(self.scripts)):
            connection, _ = self._socket.accept()
            with connection:
                if self.ended.is_set():
                    return
                script = self.scripts[min(self.accepted, len(self.scripts) - 1)]
                self.accepted += 1
                self.play(connection, script)
                self._part(connection)
        self._socket.close()

    @staticmethod
    def _part(connection: socket.socket) -> None:
        """Close as servers do: one that closes before it has read what it was asked resets the connection."""
        with suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(0.5)
            while connection.recv(4096):
                pass

    def play(self, connection: socket.socket, script: Sequence[bytes | str]) -> None:
        """Send one script."""
        try:
            for part in script:
                if isinstance(part, str):
                    self._wait_for_the_other(connection)
                    return
                connection.sendall(part)
        except OSError:
            pass  # the other side has gone

    def _wait_for_the_other(self, connection: socket.socket) -> None:
        connection.settimeout(0.05)
        while not self.ended.is_set():
            try:
                if not connection.recv(4096):
                    return
            except TimeoutError:
                continue


PROGRAM_MEDIA = "m=video 0 RTP/AVP 33\r\n"
H264_MEDIA = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\n"


class RtspServer(TcpServer):
    """RTSP with RTP inside its TCP connection; scripts hold what ``rtp_program`` or ``rtp_h264`` makes.

    With a ``user`` (``NAME:PASSWORD``) only requests that carry it as ``Basic`` credentials are served.
    """

    def __init__(self, *scripts: Sequence[bytes | str], user: str = "", media: str = PROGRAM_MEDIA) -> None:
        super().__init__(*scripts)
        self.description = f"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\n{media}a=control:track\r\n"
        self.credentials = base64.b64encode(user.encode()).decode()
        self.refused = 0

    def play(self, connection: socket.socket, script: Sequence[bytes | str]) -> None:
        """Answer requests until PLAY, then send."""
        with connection.makefile("rb") as requests:
            while line := requests.readline():
                method, url = line.decode().split()[:2]
                headers = {}
                while (field := requests.readline().strip()) != b"":
                    name, _, value = field.decode().partition(":")
                    headers[name.lower()] = value.strip()
                if self.credentials and headers.get("authorization") != f"Basic {self.credentials}":
                    self.refused += 1
                    self._answer(connection, headers, 'WWW-Authenticate: Basic realm="x"', status="401 Unauthorized")
                    continue
                self._answer(
                    connection,
                    headers,
                    *self._fields(method, url),
                    body=self.description if method == "DESCRIBE" else "",
                )
                if method == "PLAY":
                    break
            else:
                return
        super().play(connection, script)

    @staticmethod
    def _fields(method: str, url: str) -> list[str]:
        return {
            "OPTIONS": ["Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN"],
            "DESCRIBE": ["Content-Type: application/sdp", f"Content-Base: {url}/"],
            "SETUP": ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1"],
        }.get(method, [])

    @staticmethod
    def _answer(
        connection: socket.socket, headers: dict[str, str], *fields: str, status: str = "200 OK", body: str = ""
    ) -> None:
        lines = [f"RTSP/1.0 {status}", f"CSeq: {headers.get('cseq', '0')}", "Session: 1", *fields]
        lines += [f"Content-Length: {len(body)}"] if body else []
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n" + body).encode())


def rtp_program(stream: bytes) -> bytes:
    """MPEG-TS in RTP packets of seven cells."""
    cells = [stream[start : start + 7 * 188] for start in range(0, len(stream), 7 * 188)]
    return b"".join(_rtp(33, number, 0, cell) for number, cell in enumerate(cells))


def rtp_h264(frames: np.ndarray) -> bytes:
    """Grey frames as H.264, one RTP packet for each of its units; 30 frames per second."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
    encoder.framerate, encoder.time_base, encoder.gop_size = 30, Fraction(1, 30), 1
    encoder.options = {"tune": "zerolatency", "x264-params": "repeat-headers=1", "qp": "10"}
    out, number = [], 0
    for index, image in enumerate(frames):
        picture = fill(av.VideoFrame(frames.shape[2], frames.shape[1], "yuv420p"), image)
        picture.pts = index
        (packet,) = encoder.encode(picture)
        units = [unit for unit in re.split(rb"\x00\x00\x00?\x01", bytes(packet)) if unit]
        for unit in units:
            assert len(unit) < 60_000
            out.append(_rtp(96, number, 3000 * index, unit, last=unit is units[-1]))
            number += 1
    return b"".join(out)


def _rtp(kind: int, number: int, stamp: int, payload: bytes, *, last: bool = False) -> bytes:
    """One packet, framed for RTSP's own connection."""
    packet = struct.pack(">BBHII", 0x80, kind | (0x80 if last else 0), number, stamp, 1) + payload
    return struct.pack(">cBH", b"$", 0, len(packet)) + packet
