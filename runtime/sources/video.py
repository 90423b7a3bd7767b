"""Video files: every codec of PyAV, grey of 8 to 16 bits exactly as stored."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from glint.cli import talk
from glint.errors import SourceError, SourceLostError
from glint.formats.films import UNPROVEN, end_of
from glint.formats.mp4 import stated_sizes
from glint.runtime.sources.base import Source, check_like
from glint.runtime.sources.decoding import (
    GREY_PARAMETERS,
    OF_FILES,
    Clock,
    Decoder,
    choose_stream,
    import_av,
    reason_of,
)
from glint.runtime.sources.grey import grey_of
from glint.runtime.sources.uri import parameters
from glint.types import Frame

_BOXED = (".mp4", ".mov", ".m4v")  # files of boxes, whose container tells the size, too
_SLACK_S = Fraction(1, 10)  # seconds that a whole file may end before its stated length


class VideoSource(Source):
    """A video file; times are those of its stream, from 0.

    A packet that is damaged, and a picture that is in colour or of another size than those before it, are skipped and
    counted; frames that build on what is damaged say so (``Frame.damaged``).

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
            container = av.open(str(self.path), options=OF_FILES)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SourceError(f"{self.uri}: {reason_of(error)}", hint="expected a video file") from error
        with container:
            stream = choose_stream(container, self.uri, self.number)
            clock = Clock(stream)
            index, shape = 0, None
            for picture, damaged in self._pictures(av, container, stream):
                seconds = clock.time_of(picture)
                try:
                    data, full_scale = grey_of(picture, luma=self.luma, where=self.uri)
                    check_like(data, shape)
                except SourceError as error:
                    if shape is None and not damaged:
                        raise
                    self.skip(f"{self.path.name}, frame {index + sum(self.skips.values())}", str(error))
                    continue
                if shape is None:
                    self._compare_size(data.shape)
                shape = data.shape
                full_scale = self.full_scale or full_scale
                yield Frame(index, round(seconds * 10**9), data, full_scale=full_scale, damaged=damaged)
                index += 1
            self.missing = clock.leaps()
            if self.missing:
                talk(f"warning: {self.uri}: by their times {self.missing} frames are missing between others")
            if 0 < stream.frames < index:
                talk(f"warning: {self.uri} says that it holds {stream.frames} frames, and there are {index}")
            if not index:
                raise SourceError(
                    f"{self.uri}: no frame can be decoded" + self._first_reason(),
                    hint="does another player show it? glint doctor tells which PyAV decodes",
                )
            torn, doubt = end_of(self.path, container.format.name)
            if missing := _missing(container, stream, index + sum(self.skips.values()), clock.end) or torn:
                raise SourceLostError(f"{self.uri} is cut off: {missing}", hint="the frames so far are good")
            if not doubt and "matroska" in container.format.name and not container.duration:
                doubt = f"it does not state its length: {UNPROVEN}"
            if doubt:
                talk(f"warning: {self.uri}: {doubt}")

    def _pictures(self, av: Any, container: Any, stream: Any) -> Iterator[tuple[Any, str]]:
        decoder = Decoder(av, container, stream)
        try:
            for number, decoded in enumerate(decoder):
                if decoded.lost:
                    self.skip(f"{self.path.name}, packet {number}", decoded.lost)
                yield from decoded.pictures
        except (av.error.FFmpegError, OSError) as error:
            if isinstance(error, SourceError):
                raise
            raise SourceLostError(f"{self.uri} breaks off: {reason_of(error)}") from error

    def _compare_size(self, shape: tuple[int, ...]) -> None:
        """The container's word for the size against that of the pictures: a damaged head may change one of them."""
        if self.path.suffix.lower() not in _BOXED:
            return
        stated = stated_sizes(self.path)
        if stated and (shape[1], shape[0]) not in stated:
            sizes = " or ".join(f"{width}x{height}" for width, height in sorted(stated))
            talk(
                f"warning: {self.uri} says that its pictures are {sizes}, and they are {shape[1]}x{shape[0]}: damaged?"
            )

    def _first_reason(self) -> str:
        return f"; the first: {self.skipped[0].reason}" if self.skipped else ""


def _missing(container: Any, stream: Any, frames: int, end: Fraction) -> str:
    """What a file lacks of the length that it states, or ""."""
    if stream.frames > frames:
        return f"it holds {frames} of its {stream.frames} frames"
    # Other formats estimate their length from what is there; with sound it may be the sound's.
    if "matroska" in container.format.name and container.duration and len(container.streams) == 1:
        whole = Fraction(container.duration, 10**6)
        if end < whole - _SLACK_S:
            return f"it ends after {float(end):.3f} s of {float(whole):.3f} s"
    return ""


def open_video(uri: str, path: str, query: str) -> VideoSource:
    """A video file with ``?gray=luma&bits=14&stream=1``."""
    values = parameters(uri, query, GREY_PARAMETERS)
    return VideoSource(
        uri, Path(path), luma="gray" in values, full_scale=values.get("bits"), number=values.get("stream")
    )
