"""Streams over lossy networks: no run ends, and every frame is counted.

``python -m glint.benchmarks.streams.loss --frames 300 --out results/loss.json``

Numbered frames are sent as video over loopback, as MPEG-TS in UDP datagrams, in TCP and in RTP of RTSP (there H.264
goes without MPEG-TS, as cameras send it), and a X"""

from __future__ import annotations

import argparse
import io
import random
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.benchmarks.tool import Tool
from glint.cli import positive_int
from glint.errors import GlintError, InputError
from glint.progress import Progress
from glint.runtime.sources.cameras.rtsp import NetworkSource
from glint.runtime.sources.decoding import import_av
from glint.runtime.sources.open import open_source
from glint.types import Frame

TRANSPORTS = ("udp", "tcp", "rtsp")
CODECS: dict[str, dict[str, str]] = {
    "mpeg2video": {},
    "h264": {"tune": "zerolatency", "preset": "veryfast"},
    "h264, stripes": {"tune": "zerolatency", "preset": "veryfast", "intra-refresh": "1"},
    "hevc": {"preset": "ultrafast", "x265-params": "log-level=none:bframes=0:rc-lookahead=0:pools=1:frame-threads=1"},
}  # the encoders' options, by names of codecs; "stripes" refreshes pictures bit by bit and has one key frame only
LOSS_SHARES = (0.005, 0.01, 0.02, 0.05)  # shares of packets
_WIDTH_PX, _HEIGHT_PX = 160, 128
_FIELD_PX, _NUMBER_BITS = 16, 10  # pixels of a field of a frame's number, and its bits
_DATAGRAM_BYTES = 7 * 188  # bytes of MPEG-TS in a datagram
_GROUP_FRAMES = 12  # frames from one that builds on nothing to the next
_RTP_BYTES = 1400  # of a picture's data in an RTP packet
_PACE_S = 0.004  # between frames
_MOST_ERROR_LEVELS = 6.0  # mean difference, of 255, that the codec makes of a whole frame


@dataclass(frozen=True)
class Account:
    """What became of the frames of one stream.

    Attributes:
        codec, transport, loss: what it went through.
        sent: frames.
        received: of these.
        damaged: of those received, marked.
        skipped, missing: counted by the source.
        gaps: told.
        wrong: received unlike what was sent and not marked.
        unaccounted: between the first and the last received, neither received nor counted, or counted beyond all sent.
        ended: "" or the error that ended the run before the sender did.
    """

    codec: str
    transport: str
    loss: float
    sent: int
    received: int
    damaged: int
    skipped: int
    missing: int
    gaps: int
    wrong: int
    unaccounted: int
    ended: str


_TEXTURE = np.random.default_rng(1).normal(
    110, 12, (_HEIGHT_PX, _WIDTH_PX)
)  # moves, so that frames build on each other


def picture(number: int) -> NDArray[np.uint8]:
    """A frame that tells its number: light and dark fields in a row, noise below."""
    image = np.roll(_TEXTURE, (2 * number, 3 * number), (0, 1))
    for bit in range(_NUMBER_BITS):
        image[:_FIELD_PX, bit * _FIELD_PX : (bit + 1) * _FIELD_PX] = 200 if number >> bit & 1 else 40
    return np.clip(image, 0, 255).astype(np.uint8)


def number_of(image: NDArray[Any]) -> int:
    """What :func:`picture` wrote."""
    fields = image[:_FIELD_PX].reshape(_FIELD_PX, -1, _FIELD_PX).mean(axis=(0, 2))[:_NUMBER_BITS]
    return int(sum(1 << bit for bit, level in enumerate(fields) if level > 120))


def can_encode(codec: str) -> bool:
    """Whether this PyAV has an encoder for a codec."""
    av = import_av()
    try:
        av.Codec(codec.partition(",")[0], "w")
    except ValueError:
        return False
    return True


def encoded(frames: int, codec: str = "mpeg2video", *, container: str = "mpegts") -> list[bytes]:
    """So many frames in MPEG-TS, or bare in ``container="h264"``, one part for each."""
    av = import_av()
    buffer, parts = io.BytesIO(), []
    options = {"flush_packets": "1"}
    with av.open(buffer, "w", format=container, options=options) as output:
        stream = output.add_stream(codec.partition(",")[0], rate=Fraction(25), options=CODECS[codec])
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


def payloads(parts: list[bytes]) -> Iterator[list[bytes]]:
    """The RTP payloads of each part of bare H.264 (RFC 6184): one for each unit, or several if it is large."""
    for part in parts:
        found = []
        for unit in filter(None, re.split(rb"\x00*\x00\x00\x01", part)):
            if len(unit) <= _RTP_BYTES:
                found.append(unit)
                continue
            pieces = [unit[start : start + _RTP_BYTES] for start in range(1, len(unit), _RTP_BYTES)]
            for place, piece in enumerate(pieces):
                mark = 0x80 * (place == 0) | 0x40 * (place == len(pieces) - 1) | unit[0] & 0x1F
                found.append(bytes([unit[0] & 0xE0 | 28, mark]) + piece)
        yield found


class Sender:
    """Sends parts over one transport and leaves packets out, from its entry on, once.

    Args:
        transport: one of ``TRANSPORTS``.
        parts: of MPEG-TS.
        loss: share of the packets.
        seed: of the loss.
        bare: the parts are bare H.264, for RTSP.
    """

    def __init__(self, transport: str, parts: list[bytes], loss: float, seed: int, *, bare: bool = False) -> None:
        self._rng = random.Random(seed)  # noqa: S311  (loss, no secret)
        self._parts = list(payloads(parts) if bare else datagrams(parts))
        self._loss, self._rtp, self._bare = loss, transport == "rtsp", bare
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
            for place, packet in enumerate(part):
                number = (number + 1) & 0xFFFF
                if index < 3 or self._rng.random() >= self._loss:
                    last = self._bare and place == len(part) - 1
                    yield _rtp(number, 3600 * index, packet, bare=self._bare, last=last) if self._rtp else packet
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
                words, head = line.decode().split(), {}
                while field := requests.readline().strip():
                    name, _, value = field.decode().partition(":")
                    head[name.lower()] = value.strip()
                connection.sendall(_answer(words[0], words[1], head.get("cseq", "0"), bare=self._bare))
                if words[0] == "PLAY":
                    self._send(connection)
                    return

    def _send(self, connection: socket.socket) -> None:
        try:
            for packet in self._packets():
                connection.sendall(packet)
        except OSError:
            return  # the reader has gone


def _rtp(number: int, stamp: int, payload: bytes, *, bare: bool, last: bool) -> bytes:
    """An RTP packet, framed for RTSP's own connection."""
    kind = (96 if bare else 33) | 0x80 * last
    packet = struct.pack(">BBHII", 0x80, kind, number, stamp, 1) + payload
    return struct.pack(">cBH", b"$", 0, len(packet)) + packet


def _answer(method: str, url: str, sequence: str, *, bare: bool) -> bytes:
    media = (
        "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\n"
        if bare
        else "m=video 0 RTP/AVP 33\r\n"
    )
    body = f"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\n{media}a=control:track\r\n"
    fields = {
        "OPTIONS": ["Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN"],
        "DESCRIBE": ["Content-Type: application/sdp", f"Content-Base: {url}/", f"Content-Length: {len(body)}"],
        "SETUP": ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1"],
    }.get(method, [])
    lines = ["RTSP/1.0 200 OK", f"CSeq: {sequence}", "Session: 1", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n" + (body if method == "DESCRIBE" else "")).encode()


def account(transport: str, loss: float, frames: int, seed: int, codec: str = "mpeg2video") -> Account:
    """Send and receive one stream of so many frames."""
    bare = transport == "rtsp" and codec.startswith("h264")
    return _account(transport, loss, encoded(frames, codec, container="h264" if bare else "mpegts"), seed, codec, bare)


def _account(transport: str, loss: float, parts: list[bytes], seed: int, codec: str, bare: bool) -> Account:
    frames: list[Frame] = []
    gaps, ended = 0, ""
    with Sender(transport, parts, loss, seed, bare=bare) as sender:
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
    reached = len(frames) + counted >= sent - 2 * _GROUP_FRAMES
    unaccounted = max(0, between - counted, len(frames) + counted - sent)
    return Account(
        codec, transport, loss, sent, len(frames), sum(bool(f.damaged) for f in frames), sum(source.skips.values()),
        source.missing, gaps, wrong, unaccounted, "" if reached else ended or "it ended early",
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


def loss(
    *,
    frames: int = 300,
    losses: tuple[float, ...] = LOSS_SHARES,
    seed: int = 1,
    codecs: tuple[str, ...] = tuple(CODECS),
) -> dict[str, Any]:
    """Send a stream of each codec over each transport with each loss.

    Args:
        frames: of each stream; at most as many as a picture can number.
        losses: shares of the packets that are left out.
        seed: of the loss.
        codecs: of ``CODECS``; those that this PyAV cannot encode are left out.

    Returns:
        ``rows``: accounts; ``problems``: empty if all is well.

    Raises:
        InputError: for more frames than have numbers.
    """
    if not 2 * _GROUP_FRAMES <= frames <= 2**_NUMBER_BITS:
        raise InputError(f"frames: expected {2 * _GROUP_FRAMES} to {2**_NUMBER_BITS}, got {frames}")
    known = [codec for codec in codecs if can_encode(codec)]
    runs = [(codec, transport, share) for codec in known for transport in TRANSPORTS for share in losses]
    rows = []
    with Progress("loss", len(runs)) as line:
        for codec, transport, share in runs:
            rows.append(account(transport, share, frames, seed, codec))
            line.update(len(rows), f"{codec}, {transport}, {100 * share:g} %")
    return {"frames": frames, "rows": [asdict(row) for row in rows], "problems": [p for r in rows for p in problems(r)]}


def problems(row: Account) -> list[str]:
    """What should not be."""
    where = f"{row.codec}, {row.transport}, {100 * row.loss:g} %"
    found = [f"{where}: the run ended: {row.ended}"] if row.ended else []
    found += [f"{where}: {row.wrong} frames are wrong and not marked"] if row.wrong else []
    return found + ([f"{where}: {row.unaccounted} frames are not accounted for"] if row.unaccounted else [])


def text_of(result: dict[str, Any]) -> str:
    """The table."""
    names = [field.name for field in fields(Account) if field.name != "ended"]
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
