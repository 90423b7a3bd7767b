"""Video files: every codec of PyAV, grey of 8 to 16 bits exactly as stored."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from glint.cli import talk
from glint.errors import MissingDependencyError, SourceError, SourceLostError
from glint.runtime.sources.base import Source, check_like
from glint.runtime.sources.grey import grey_of
from glint.runtime.sources.uri import Converter, full_scale_of_bits, one_of, parameters
from glint.types import Frame

_SLACK = Fraction(1, 10)  # seconds that a whole file may end before its stated length


def whole_number(text: str) -> int:
    """Converter: 0, 1, 2, ..."""
    if not (text.isascii() and text.isdigit() and len(text) < 4):
        raise ValueError("expected a whole number, from 0")
    return int(text)


GREY_PARAMETERS: dict[str, Converter] = {
    "gray": one_of("luma"), "bits": full_scale_of_bits, "stream": whole_number,
}  # fmt: skip
_COVER = 0x400  # libav's AV_DISPOSITION_ATTACHED_PIC: a picture of a file that is no film


def import_av() -> Any:
    """PyAV, silent: what libav logs may hold the URL with its password.

    Raises:
        MissingDependencyError: if it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError(
            "video needs PyAV, which is not installed", hint="pip install '.[video]' in the checkout of glint"
        ) from error
    av.logging.set_level(None)
    return av


class VideoSource(Source):
    """A video file; times are those of its stream, from 0.

    A packet that cannot be decoded, and a picture that is in colour or of another size than those before it, are
    skipped and counted.

    Args:
        uri: what the user asked for.
        path: the file.
        luma: take the luma of colour pictures.
        full_scale: the sensor's, if the format does not tell.
        number: of the video stream, from 0; None: the first, with a word if there are others.

    Raises:
        SourceError: on iteration, if it is no video or in colour.
        SourceLostError: on iteration, after its last frame, if the file is cut off.
    """

    def __init__(
        self, uri: str, path: Path, *, luma: bool = False, full_scale: float | None = None, number: int | None = None
    ) -> None:
        super().__init__(uri)
        self.path, self.luma, self.full_scale, self.number = path, luma, full_scale, number

    def __iter__(self) -> Iterator[Frame]:
        av = import_av()
        self.start_over()
        try:
            container = av.open(str(self.path))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SourceError(f"{self.uri}: {reason_of(error)}", hint="expected a video file") from error
        with container:
            stream = choose_stream(container, self.uri, self.number)
            clock = _Clock(stream)
            index, shape = 0, None
            for picture in self._pictures(av, container, stream):
                seconds = clock.time_of(picture)
                try:
                    data, full_scale = grey_of(picture, luma=self.luma, where=self.uri)
                    check_like(data, shape)
                except SourceError as error:
                    if shape is None:
                        raise
                    self.skip(f"{self.path.name}, frame {index + sum(self.skips.values())}", str(error))
                    continue
                shape = data.shape
                yield Frame(index, round(seconds * 10**9), data, full_scale=self.full_scale or full_scale)
                index += 1
            if not index:
                raise SourceError(f"{self.uri}: no frame can be decoded" + self._first_reason())
            if missing := _missing(container, stream, index + sum(self.skips.values()), clock.end):
                raise SourceLostError(f"{self.uri} is cut off: {missing}", hint="the frames so far are good")

    def _pictures(self, av: Any, container: Any, stream: Any) -> Iterator[Any]:
        packets = container.demux(stream)
        number = -1
        while True:
            number += 1
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.error.FFmpegError, OSError) as error:
                raise SourceLostError(f"{self.uri} breaks off: {reason_of(error)}") from error
            try:
                # A decoder would fill in what a damaged packet lacks.
                pictures = None if packet.is_corrupt else packet.decode()
            except av.error.FFmpegError as error:
                self.skip(f"{self.path.name}, packet {number}", reason_of(error))
                continue
            if pictures is None or any(picture.is_corrupt for picture in pictures):
                self.skip(f"{self.path.name}, packet {number}", "it is damaged")
            yield from (picture for picture in pictures or () if not picture.is_corrupt)

    def _first_reason(self) -> str:
        return f"; the first: {self.skipped[0].reason}" if self.skipped else ""


def choose_stream(container: Any, uri: str, number: int | None) -> Any:
    """One video stream of an open container; others are named.

    Raises:
        SourceError: if there is no such stream.
    """
    streams = [s for s in container.streams.video if not s.disposition & _COVER]
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


class _Clock:
    """Seconds since the first frame; a stamp that is missing or does not grow is one period after the last."""

    def __init__(self, stream: Any) -> None:
        rate = stream.average_rate or stream.guessed_rate
        self.period = 1 / Fraction(rate) if rate else Fraction(1, 30)
        self._start = self._last = None  # type: Fraction | None

    def time_of(self, picture: Any) -> Fraction:
        stamp = None if picture.pts is None or picture.time_base is None else picture.pts * Fraction(picture.time_base)
        if self._start is None or self._last is None:
            self._start = self._last = stamp or Fraction(0)
        elif stamp is None or stamp <= self._last:
            self._last += self.period
        else:
            self._last = stamp
        return self._last - self._start

    @property
    def end(self) -> Fraction:
        """When the last frame is over, on the clock of the file."""
        return (self._last or Fraction(0)) + self.period


def _missing(container: Any, stream: Any, frames: int, end: Fraction) -> str:
    """What a file lacks of the length that it states, or ""."""
    if stream.frames > frames:
        return f"it holds {frames} of its {stream.frames} frames"
    # Other formats estimate their length from what is there; with sound it may be the sound's.
    if "matroska" in container.format.name and container.duration and len(container.streams) == 1:
        whole = Fraction(container.duration, 10**6)
        if end < whole - _SLACK:
            return f"it ends after {float(end):.3f} s of {float(whole):.3f} s"
    return ""


def reason_of(error: Exception) -> str:
    """What libav says, without the name of what it opened: that may be a URL with a password."""
    return getattr(error, "strerror", None) or type(error).__name__


def open_video(uri: str, path: str, query: str) -> VideoSource:
    """A video file with ``?gray=luma&bits=14&stream=1``."""
    values = parameters(uri, query, GREY_PARAMETERS)
    return VideoSource(
        uri, Path(path), luma="gray" in values, full_scale=values.get("bits"), number=values.get("stream")
    )
