"""Pictures of a stream by PyAV, each with what speaks against it.

A decoder would rather show something than nothing: it fills in what a damaged packet lacks, and goes on from pictures
that are wrong. What it says of that stands in its log, or nowhere. So its log is read, a picture of a packet that it
complains of is not delivered, and those that build on one that is wrong or missing are marked until the next one that
builds on nothing.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from glint.cli import talk
from glint.errors import MissingDependencyError, SourceError
from glint.runtime.sources.uri import Converter, full_scale_of_bits, one_of

DAMAGED = "damaged data"
BUILT_ON_DAMAGE = "built on pictures that are damaged or missing"
_COVER = 0x400  # libav's AV_DISPOSITION_ATTACHED_PIC: a picture of a file that is no film
_CAPRICIOUS = ("mjpeg",)  # codecs of which cameras write every picture with something to complain of
_COUNTED_STEPS = 9  # between frames, of which the middle one counts
_EVEN_SHARE = 0.7  # share of steps of one length, from which on a film counts as one of a constant rate
_MOST_STEP_LENGTHS = 1000  # of steps that are told apart
_CONCEALED = "concealing "  # how libav begins the line that says that it made up a part of a picture
_INTRA = 1  # libav's AV_PICTURE_TYPE_I
_MOST_DELAY_S = 1  # of a decoder
_MISSED = re.compile(r"missed (\d+) packets")
# A playlist names other files and hosts; nobody asked for those. So neither its formats nor its protocols are let in.
_FORMATS = (
    "matroska,webm,avi,mov,mp4,m4a,3gp,3g2,mj2,nut,mpegts,mpeg,mpegvideo,asf,yuv4mpegpipe,m4v,h264,hevc,ogg,flv,mxf,"
    "rawvideo,mjpeg,mpjpeg,gif,ivf,obu,dv,vc1"
)
OF_FILES = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
OF_STREAMS = {
    "protocol_whitelist": "rtsp,rtsps,rtp,srtp,udp,udplite,tcp,tls,crypto",
    "format_whitelist": f"{_FORMATS},rtsp,rtp,sdp",
}
OF_HTTP = {"protocol_whitelist": "http,https,tcp,tls,crypto", "format_whitelist": _FORMATS, "max_redirects": "0"}


def whole_number(text: str) -> int:
    """Converter: 0, 1, 2, ..."""
    if not (text.isascii() and text.isdigit() and len(text) < 4):
        raise ValueError("expected a whole number, from 0")
    return int(text)


GREY_PARAMETERS: dict[str, Converter] = {
    "gray": one_of("luma"), "bits": full_scale_of_bits, "stream": whole_number,
}  # fmt: skip


def import_av() -> Any:
    """PyAV, which tells nobody but us: what libav logs may hold the URL with its password.

    Raises:
        MissingDependencyError: if it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError(
            "video needs PyAV, which is not installed", hint="pip install '.[video]' in the checkout of glint"
        ) from error
    silent = logging.getLogger("libav")
    silent.propagate = False
    if not silent.handlers:
        silent.addHandler(logging.NullHandler())
    av.logging.set_level(av.logging.INFO)  # that errors are concealed is an information
    av.logging.set_skip_repeated(False)
    return av


@dataclass
class Decoded:
    """What a packet gave.

    Attributes:
        pictures: those that are whole, each with why its pixels may be wrong, or "".
        lost: what is missing with this packet or before it, or "".
    """

    pictures: list[tuple[Any, str]] = field(default_factory=list)
    lost: str = ""


class Decoder:
    """Demultiplexes and decodes one video stream of an open container.

    Attributes:
        damaged: why the pictures that come next may be wrong, or "".
    """

    def __init__(self, av: Any, container: Any, stream: Any) -> None:
        if stream.codec_context.name == "h264":
            stream.codec_context.thread_count = 1  # threads that share a picture do not see that a part is missing
        self._av, self._packets = av, container.demux(stream)
        self._listens = stream.codec_context.name not in _CAPRICIOUS
        self.damaged = ""
        self._latest: int | None = None  # time of the latest packet that may be damaged
        self._next_too = False
        self._refreshes = 0  # that began since the damage

    def __iter__(self) -> Iterator[Decoded]:
        """What each packet gives.

        Raises:
            av.error.FFmpegError, OSError: what ends the stream before its end.
        """
        while True:
            with self._av.logging.Capture(local=True) as said:
                packet = next(self._packets, None)
            if packet is None:
                return
            missed = sum(int(match[1]) for _, _, text in said if (match := _MISSED.search(text)))
            complaint = any(level <= self._av.logging.ERROR for level, _, _ in said)
            self._weigh(packet, told=bool(missed or complaint or packet.is_corrupt))
            decoded = self._decode(packet)
            if missed:
                decoded.lost = f"{DAMAGED}: {missed} packets are missing"
            elif complaint:
                decoded.lost = decoded.lost or DAMAGED
            yield decoded

    def lacks(self, picture: Any) -> str:
        """Pictures before this one are missing, by their times: why this one may be wrong, or ""."""
        if not _is_intra(picture):
            self._doubt(picture.pts)
        return self.damaged

    def _weigh(self, packet: Any, *, told: bool) -> None:
        """What is told of a packet before it is decoded; it may hold for the next one, for which libav has read on."""
        if told or self._next_too:
            self._doubt(packet.pts)
        elif self.damaged and packet.is_keyframe:
            # A camera that refreshes its pictures stripe by stripe begins a round here, and the one before is over.
            self._refreshes += 1
            self.damaged = "" if self._refreshes > 1 else self.damaged
        self._next_too = told

    def _decode(self, packet: Any) -> Decoded:
        if packet.is_corrupt:
            return Decoded(lost=DAMAGED)
        try:
            with self._av.logging.Capture(local=True) as said:
                pictures = packet.decode()
        except self._av.error.FFmpegError:
            self._doubt(packet.pts)
            return Decoded(lost=DAMAGED)
        complaint = self._listens and any(
            level <= self._av.logging.ERROR or text.startswith(_CONCEALED) for level, _, text in said
        )
        decoded = Decoded()
        for picture in pictures:
            if complaint or picture.is_corrupt:
                self._doubt(packet.pts)
                decoded.lost = DAMAGED
                continue
            if self.damaged and _is_intra(picture) and not self._may_be_hit(picture):
                self.damaged = ""
            decoded.pictures.append((picture, self.damaged))
        if complaint:
            self._doubt(packet.pts)
            decoded.lost = DAMAGED
        return decoded

    def _doubt(self, pts: int | None) -> None:
        """All that does not begin anew after this time builds on damage."""
        self.damaged, self._refreshes = BUILT_ON_DAMAGE, 0
        self._latest = self._latest if pts is None else pts

    def _may_be_hit(self, picture: Any) -> bool:
        """Whether a picture, which may come some packets after its own, is of one that may be damaged, or before it."""
        if self._latest is None or picture.pts is None:
            return False
        late = (self._latest - picture.pts) * (picture.time_base or 0)
        return 0 <= late < _MOST_DELAY_S  # else the sender's clock has begun anew


def _is_intra(picture: Any) -> bool:
    """Whether nothing before this picture shows in it."""
    return bool(picture.key_frame) and int(picture.pict_type) == _INTRA


def choose_stream(container: Any, uri: str, number: int | None) -> Any:
    """One video stream of an open container; others are named.

    Raises:
        SourceError: if there is no such stream.
    """
    films = [s for s in container.streams.video if not s.disposition & _COVER]
    streams = [s for s in films if s.codec_context is not None]
    if films and not streams:
        raise SourceError(
            f"{uri}: its codec is not known", hint="it is damaged, or of a kind that libav does not decode"
        )
    shown = ", ".join(f"stream={i} ({_words_of(s)})" for i, s in enumerate(streams))
    if not streams:
        raise SourceError(f"{uri} holds no video", hint="expected a video stream")
    if number is None and len(streams) > 1:
        talk(f"warning: {uri} holds {len(streams)} video streams: {shown}; taking stream=0, choose with stream=NUMBER")
    if (number or 0) >= len(streams):
        raise SourceError(f"{uri} has no video stream {number}", hint=f"there are {shown}")
    return streams[number or 0]


def _words_of(stream: Any) -> str:
    context = stream.codec_context
    return f"{context.name}, {context.width}x{context.height}, {context.pix_fmt}"


class Clock:
    """Seconds since the first frame; a stamp that is missing or does not grow is one period after the last.

    Attributes:
        period: of a frame, seconds, as the stream states.
        missing: frames that are not there by the stamps of those around them.
    """

    def __init__(self, stream: Any) -> None:
        rate = stream.average_rate or stream.guessed_rate
        self.period = 1 / Fraction(rate) if rate else Fraction(1, 30)
        self.missing = 0
        self._lengths: Counter[int] = Counter()  # of steps, milliseconds
        self._steps: deque[Fraction] = deque(maxlen=_COUNTED_STEPS)
        self._holes: list[Fraction] = []  # that wait for the first step
        self._start = self._last = self._stamp = None  # type: Fraction | None

    def time_of(self, picture: Any, *, lost: bool = False) -> Fraction:
        """When a picture was taken; with ``lost``, what lies between it and the one before is counted as missing."""
        stamp = None if picture.pts is None or picture.time_base is None else picture.pts * Fraction(picture.time_base)
        if stamp is not None:
            self._count(stamp, lost=lost)
        if self._start is None or self._last is None:
            self._start = self._last = stamp or Fraction(0)
        elif stamp is None or stamp <= self._last:
            self._last += self.period
        else:
            self._last = stamp
        return self._last - self._start

    def _count(self, stamp: Fraction, *, lost: bool) -> None:
        """What is missing before a stamp, or what a step is where nothing is."""
        before, self._stamp = self._stamp, stamp
        if before is None or stamp <= before:
            return
        if lost:
            self._holes.append(stamp - before)
        else:
            self._steps.append(stamp - before)
            if len(self._lengths) < _MOST_STEP_LENGTHS:
                self._lengths[round(1000 * (stamp - before))] += 1
        if self._steps:  # a sender's own word on its rate may be that of fields or of its clock
            step = sorted(self._steps)[len(self._steps) // 2]
            self.missing += sum(max(0, round(hole / step) - 1) for hole in self._holes)
            self._holes.clear()

    def leaps(self) -> int:
        """Frames that would fit between those of a film of a constant rate, where nobody said that any is lost."""
        lengths = sorted(self._lengths.elements())
        if not lengths:
            return 0
        usual = lengths[len(lengths) // 2]
        even = sum(number for length, number in self._lengths.items() if abs(length - usual) <= max(1, usual // 10))
        if usual < 1 or even < _EVEN_SHARE * len(lengths):
            return 0
        return sum(number * max(0, round(length / usual) - 1) for length, number in self._lengths.items())

    @property
    def end(self) -> Fraction:
        """When the last frame is over, on the clock of the file."""
        return (self._last or Fraction(0)) + self.period


def reason_of(error: Exception) -> str:
    """What libav says, without the name of what it opened: that may be a URL with a password."""
    return getattr(error, "strerror", None) or type(error).__name__
