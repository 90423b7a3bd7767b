"""Streams over lossy networks: no run ends, and every frame is counted.

::

    python -m glint.benchmarks.streams.loss --frames 300 --out results/loss.json

Numbered frames are sent as video over loopback, as MPEG-TS in UDP datagrams, in TCP and in RTP of RTSP, and a
share of the packets is left out. Between the first and the last frame that arrive each one must be a frame, or be
counted as skipped or missing, and one that differs from what was sent must say that it is damaged.
"""

from __future__ import annotations

import argparse
import io
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.benchmarks.tool import Tool
from glint.cli import positive_int
from glint.errors import GlintError, InputError
from glint.progress import Progress
from glint.runtime.sources.decoding import import_av
from glint.runtime.sources.open import open_source
from glint.runtime.sources.rtsp import NetworkSource
from glint.types import Frame

TRANSPORTS = ("udp", "tcp", "rtsp")
LOSS_SHARES = (0.005, 0.01, 0.02, 0.05)  # shares of packets
_WIDTH_PX, _HEIGHT_PX = 160, 128
_FIELD_PX, _NUMBER_BITS = 16, 10  # pixels of a field of a frame's number, and its bits
_DATAGRAM_BYTES = 7 * 188  # bytes of MPEG-TS in a datagram
_GROUP_FRAMES = 12  # frames from one that builds on nothing to the next
_PACE_S = 0.004  # between frames
_MOST_ERROR_LEVELS = 6.0  # mean difference, of 255, that the codec makes of a whole frame


@dataclass(frozen=True)
class Account:
    """What became of the frames of one stream.

    Attributes:
        transport, loss: what it went through.
        sent: frames.
        received: of these.
        damaged: of those received, marked.
        skipped, missing: counted by the source.
        wrong: received unlike what was sent and not marked.
        unaccounted: between the first and the last received, neither received nor counted, or counted beyond all sent.
        gaps: told.
        ended: "" or the error that ended the run before the sender did.
    """

    transport: str
    loss: float
    sent: int
    received: int
    damaged: int
    skipped: int
    missing: int
    wrong: int
    unaccounted: int
    gaps: int
    ended: str


def picture(number: int) -> NDArray[np.uint8]:
    """A frame that tells its number: light and dark fields in a row, noise below."""
    image = np.random.default_rng(number).normal(110, 12, (_HEIGHT_PX, _WIDTH_PX))
    for bit in range(_NUMBER_BITS):
        image[:_FIELD_PX, bit * _FIELD_PX : (bit + 1) * _FIELD_PX] = 200 if number >> bit & 1 else 40
    return np.clip(image, 0, 255).astype(np.uint8)


def number_of(image: NDArray[Any]) -> int:
    """What :func:`picture` wrote."""
    fields = image[:_FIELD_PX].reshape(_FIELD_PX, -1, _FIELD_PX).mean(axis=(0, 2))[:_NUMBER_BITS]
    return int(sum(1 << bit for bit, level in enumerate(fields) if level > 120))


def encoded(frames: int) -> list[bytes]:
    """MPEG-TS of so many frames, one part for each."""
    av = import_av()
    buffer, parts = io.BytesIO(), []
    with av.open(buffer, "w", format="mpegts") as output:
        stream = output.add_stream("mpeg2video", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = _WIDTH_PX, _HEIGHT_PX, "yuv420p", 6_000_000
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = _GROUP_FRAMES, 0
        done = 0
        for number in range(frames):
            grey = av.VideoFrame.from_ndarray(picture(number), format="gray").reformat(format="yuv420p")
            for packet in stream.encode(grey):
                output.mux(packet)
            parts.append(buffer.getvalue()[done:])
            done += len(parts[-1])
        for packet in stream.encode(None):
            output.mux(packet)
    return [*parts, buffer.getvalue()[done:]]


def datagrams(parts: list[bytes]) -> Iterator[list[bytes]]:
    """The packets of each part, at most seven cells of MPEG-TS."""
    for part in parts:
        yield [part[start : start + _DATAGRAM_BYTES] for start in range(0, len(part), _DATAGRAM_BYTES)]


class Sender:
    """Sends parts over one transport and leaves packets out, from :meth:`start` on, once."""

    def __init__(self, transport: str, parts: list[bytes], loss: float, seed: int) -> None:
        self._rng = random.Random(seed)  # noqa: S311  (loss, no secret)
        self._parts, self._loss, self._rtp = list(datagrams(parts)), loss, transport == "rtsp"
        kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
        self._socket = socket.socket(socket.AF_INET, kind)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        if transport == "udp":
            self._socket.close()  # the reader binds that port
        else:
            self._socket.listen(1)
        run = {"udp": self._udp, "tcp": self._tcp, "rtsp": self._rtsp}[transport]
        self._thread = threading.Thread(target=run, name="sender", daemon=True)
        self.uri = {
            "udp": f"udp://127.0.0.1:{self.port}#timeout=2&give_up=0", "tcp": f"tcp://127.0.0.1:{self.port}#give_up=0",
            "rtsp": f"rtsp://127.0.0.1:{self.port}/a#timeout=2&give_up=0",
        }[transport]  # fmt: skip

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.join(30)
        self._socket.close()

    def _packets(self) -> Iterator[bytes]:
        """What is not lost; the first group of frames is spared, so that the stream begins."""
        number = 0
        for index, part in enumerate(self._parts):
            for packet in part:
                number = (number + 1) & 0xFFFF
                if index < 3 or self._rng.random() >= self._loss:
                    yield _rtp(number, 3600 * index, packet) if self._rtp else packet
            time.sleep(_PACE_S)

    def _udp(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            time.sleep(0.5)  # the reader binds
            for packet in self._packets():
                sender.sendto(packet, ("127.0.0.1", self.port))

    def _tcp(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            self._send(connection)

    def _rtsp(self) -> None:
        connection, _ = self._socket.accept()
        with connection, connection.makefile("rb") as requests:
            while line := requests.readline():
                words, fields = line.decode().split(), {}
                while field := requests.readline().strip():
                    name, _, value = field.decode().partition(":")
                    fields[name.lower()] = value.strip()
                connection.sendall(_answer(words[0], words[1], fields.get("cseq", "0")))
                if words[0] == "PLAY":
                    self._send(connection)
                    return

    def _send(self, connection: socket.socket) -> None:
        try:
            for packet in self._packets():
                connection.sendall(packet)
        except OSError:
            return  # the reader has gone


def _rtp(number: int, stamp: int, payload: bytes) -> bytes:
    """An RTP packet of MPEG-TS, framed for RTSP's own connection."""
    packet = struct.pack(">BBHII", 0x80, 33, number, stamp, 1) + payload
    return struct.pack(">cBH", b"$", 0, len(packet)) + packet


def _answer(method: str, url: str, sequence: str) -> bytes:
    body = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"
    fields = {
        "OPTIONS": ["Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN"],
        "DESCRIBE": ["Content-Type: application/sdp", f"Content-Base: {url}/", f"Content-Length: {len(body)}"],
        "SETUP": ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1"],
    }.get(method, [])
    lines = ["RTSP/1.0 200 OK", f"CSeq: {sequence}", "Session: 1", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n" + (body if method == "DESCRIBE" else "")).encode()


def account(transport: str, loss: float, parts: list[bytes], seed: int) -> Account:
    """Send and receive one stream."""
    frames: list[Frame] = []
    gaps, ended = 0, ""
    with Sender(transport, parts, loss, seed) as sender:
        source = open_source(sender.uri)
        assert isinstance(source, NetworkSource)  # noqa: S101  (its address says so)
        try:
            for item in source:
                if isinstance(item, Frame):
                    frames.append(item)
                else:
                    gaps += 1
        except GlintError as error:
            ended = str(error)
    numbers = [number_of(frame.data) for frame in frames]
    sent = len(parts) - 1
    wrong = sum(not frame.damaged and not _is_like(frame.data, n, sent) for frame, n in zip(frames, numbers))
    whole = [n for frame, n in zip(frames, numbers) if not frame.damaged]
    between = frames_between(frames, whole)
    counted = sum(source.skips.values()) + source.missing
    reached = bool(whole) and max(whole) >= sent - 2 * _GROUP_FRAMES
    unaccounted = max(0, between - counted, len(frames) + counted - sent)
    return Account(
        transport, loss, sent, len(frames), sum(bool(f.damaged) for f in frames), sum(source.skips.values()),
        source.missing, wrong, unaccounted, gaps, "" if reached else ended or "it ended early",
    )  # fmt: skip


def frames_between(frames: list[Frame], whole: list[int]) -> int:
    """Frames that did not arrive between the first and the last whole one."""
    if not whole:
        return 0
    marks = [i for i, frame in enumerate(frames) if not frame.damaged]
    return (whole[-1] - whole[0] + 1) - (marks[-1] - marks[0] + 1)


def _is_like(image: NDArray[Any], number: int, sent: int) -> bool:
    if not 0 <= number < sent:
        return False
    return float(np.abs(image.astype(np.float64) - picture(number)).mean()) < _MOST_ERROR_LEVELS


def loss(*, frames: int = 300, losses: tuple[float, ...] = LOSS_SHARES, seed: int = 1) -> dict[str, Any]:
    """Send a stream over each transport with each loss.

    Args:
        frames: of each stream; at most as many as a picture can number.
        losses: shares of the packets that are left out.
        seed: of the loss.

    Returns:
        ``rows``: accounts; ``problems``: empty if all is well.

    Raises:
        InputError: for more frames than have numbers.
    """
    if not 2 * _GROUP_FRAMES <= frames <= 2**_NUMBER_BITS:
        raise InputError(f"frames: expected {2 * _GROUP_FRAMES} to {2**_NUMBER_BITS}, got {frames}")
    parts, rows = encoded(frames), []
    with Progress("loss", len(TRANSPORTS) * len(losses)) as line:
        for transport in TRANSPORTS:
            for share in losses:
                rows.append(account(transport, share, parts, seed))
                line.update(len(rows), f"{transport}, {100 * share:g} %")
    return {"frames": frames, "rows": [asdict(row) for row in rows], "problems": [p for r in rows for p in problems(r)]}


def problems(row: Account) -> list[str]:
    """What should not be."""
    where = f"{row.transport}, {100 * row.loss:g} %"
    found = [f"{where}: the run ended: {row.ended}"] if row.ended else []
    found += [f"{where}: {row.wrong} frames are wrong and not marked"] if row.wrong else []
    return found + ([f"{where}: {row.unaccounted} frames are not accounted for"] if row.unaccounted else [])


def text_of(result: dict[str, Any]) -> str:
    """The table."""
    names = ("transport", "loss", "sent", "received", "damaged", "skipped", "missing", "gaps", "wrong", "unaccounted")
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    return "\n".join(lines + ["| " + " | ".join(str(row[name]) for name in names) + " |" for row in result["rows"]])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    parser.add_argument("--frames", type=positive_int, default=300, help="of each stream (default: %(default)s)")
    parser.add_argument("--seed", type=positive_int, default=1, help="of the loss (default: %(default)s)")


TOOL = Tool(
    "Lose packets of streams, and see whether every frame is counted.", loss, add_arguments, text=text_of, file=True
)


if __name__ == "__main__":
    sys.exit(TOOL())
