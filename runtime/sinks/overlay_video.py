"""A video of results for people: every frame with its markers, tracks and magnified clusters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from glint.errors import InputError, MissingDependencyError, OutputError
from glint.files import claim, refuse_existing
from glint.runtime.pipeline.pipeline import Result
from glint.runtime.sinks.base import Opening, Sink
from glint.runtime.sinks.overlay import draw_overlay
from glint.runtime.sinks.track_tails import Tails

# By preference: small, then playable everywhere, then exact, then plain.
ENCODERS = (
    ("libx264", "yuv420p"), ("libopenh264", "yuv420p"), ("mpeg4", "yuv420p"), ("ffv1", "bgr0"), ("mjpeg", "yuvj420p"),
)  # fmt: skip
_SHARP_QUANTISERS = {"qmin": "2", "qmax": "5"}
_OPTIONS = {
    "libx264": {"crf": "20", "preset": "veryfast", "bf": "0"},
    "mpeg4": _SHARP_QUANTISERS,
    "mjpeg": _SHARP_QUANTISERS,
}
_CONTAINERS = {".mp4": {"movflags": "frag_keyframe+empty_moov+default_base_moof"}, ".mkv": {}}
_FORMATS = {".mp4": "mp4", ".mkv": "matroska"}
_TICKS_PER_S = 1000  # per second, of the times of frames


class _File:
    """What libav writes into: it forgets errors, this remembers the first."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self.error: OSError | None = None
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def write(self, data: bytes) -> int:
        """All of it, as far as the disk takes it; libav is told that it did."""
        left = memoryview(data)
        try:
            while left and self.error is None:
                left = left[self._file.write(left) :]
        except OSError as error:
            self.error = error
        return len(data)


class Film(Sink):
    """Pictures of results, encoded one by one.

    Args:
        where: they go, for messages.
        encoder: and its format of pixels, of :func:`encoder_of`.
        fps: show frames at this steady rate instead of the pace of the capture, frames per second.
        tuning: further options of the encoder, by its name.
    """

    def __init__(
        self, where: str, encoder: tuple[str, str], *, fps: float | None = None,
        tuning: dict[str, dict[str, str]] | None = None,
    ) -> None:  # fmt: skip
        self.where, (self.encoder, self._format) = where, encoder
        self._options = {**_OPTIONS.get(self.encoder, {}), **(tuning or {}).get(self.encoder, {})}
        self._fps = fps
        self._file: Any = None
        self._tails = Tails()
        self._container: Any = None
        self._stream: Any = None
        self._first_ns = self._count = 0
        self._time = -1

    @abstractmethod
    def _target(self) -> tuple[Any, str, dict[str, str]]:
        """What takes the bytes (``write``, ``close``, ``error``), the format of the container, and its options."""

    def write(self, result: Result) -> None:
        import av

        self._tails.add(result)
        picture = draw_overlay(result, result.frame.truth, self._tails.points())
        height, width = (side + side % 2 for side in picture.shape[:2])  # what most encoders ask for
        picture = np.pad(picture, ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0)), mode="edge")
        try:
            if self._container is None:
                self._open(width, height, result.frame.t_ns)
            if (self._stream.width, self._stream.height) != (width, height):
                raise InputError(
                    f"video {self.where}: the size of the frames changed to {result.frame.shape[::-1]}",
                    hint="--overlay FOLDER draws frames of any size",
                )
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.time_base, frame.pts = Fraction(1, _TICKS_PER_S), self._next_time(result.frame.t_ns)
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
            if self._file is not None and self._file.error is not None:
                raise self._file.error
        except OutputError:
            raise
        except (av.FFmpegError, OSError) as error:
            self._give_up(error)

    def close(self) -> None:
        import av

        container, self._container = self._container, None
        if container is None:
            return
        try:
            for packet in self._stream.encode(None):
                container.mux(packet)
            container.close()
            if self._file is not None and self._file.error is not None:
                raise self._file.error
        except (av.FFmpegError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OutputError(f"cannot finish {self.where}: {reason}", hint="is the disk full?") from error
        finally:
            if self._file is not None:
                self._file.close()

    def _open(self, width: int, height: int, t_ns: int) -> None:
        import av

        self._file, kind, options = self._target()
        self._container = av.open(self._file, "w", format=kind, options=options)
        self._stream = self._container.add_stream(self.encoder, rate=30, options=self._options)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, self._format
        self._stream.codec_context.time_base = Fraction(1, _TICKS_PER_S)
        self._stream.codec_context.gop_size = 30
        self._first_ns = t_ns

    def _next_time(self, t_ns: int) -> int:
        """In ticks since the first frame; always later than the one before."""
        wanted = (
            round(_TICKS_PER_S * self._count / self._fps)
            if self._fps
            else (t_ns - self._first_ns) * _TICKS_PER_S // 10**9
        )
        self._count += 1
        self._time = max(self._time + 1, wanted)
        return self._time

    def _give_up(self, error: Exception) -> None:
        import av

        container, self._container = self._container, None
        with suppress(av.FFmpegError, OSError):  # it would say the same again
            if container is not None:
                container.close()
        if self._file is not None:
            self._file.close()
        raise OutputError(f"cannot write {self.where}: {getattr(error, 'strerror', None) or error}") from error


class OverlayVideo(Film):
    """An H.264 video (or, if the encoder is missing, MPEG-4, FFV1 or MJPEG), of the pace of the capture.

    ``.mp4`` or ``.mkv``; FFV1 goes into ``.mkv`` only. Both are written so that a killed run leaves what it had
    shown up to a second before. The file appears with the first result.

    Args:
        path: the file.
        fps: show frames at this steady rate instead, frames per second.
        overwrite: replace an existing one.

    Raises:
        InputError: if the name has another ending.
        OutputError: if the file exists and ``overwrite`` is not set.
        MissingDependencyError: if PyAV is not installed, or brings none of the encoders.
    """

    def __init__(self, path: str | Path, *, fps: float | None = None, overwrite: bool = False) -> None:
        self.path, self._overwrite = Path(path), overwrite
        suffix = self.path.suffix.lower()
        if suffix not in _CONTAINERS:
            raise InputError(
                f"video {self.path}: expected a name that ends in {' or '.join(_CONTAINERS)}",
                hint="e.g. --video night.mp4",
            )
        if fps is not None and not 0 < fps <= _TICKS_PER_S:
            raise InputError(
                f"fps: expected a number above 0 and up to {_TICKS_PER_S}, got {fps}",
                hint="leave it out for the pace of the capture",
            )
        refuse_existing(self.path, overwrite=overwrite)
        unfit = ("ffv1",) if suffix == ".mp4" else ()
        super().__init__(str(self.path), encoder_of(unfit), fps=fps)

    def _target(self) -> tuple[Any, str, dict[str, str]]:
        suffix = self.path.suffix.lower()
        return _File(claim(self.path, overwrite=self._overwrite)), _FORMATS[suffix], _CONTAINERS[suffix]


def encoder_of(unfit: Sequence[str] = ()) -> tuple[str, str]:
    """The best encoder that PyAV has, and its format of pixels; never one of ``unfit``.

    Raises:
        MissingDependencyError: if PyAV is not installed, or brings none.
    """
    try:
        import av
    except ImportError as error:
        hint = "pip install '.[video]' in the checkout of glint"
        raise MissingDependencyError("a video needs PyAV, which is not installed", hint=hint) from error
    for name, pixels in ENCODERS:
        if name in av.codecs_available and name not in unfit:
            with suppress(av.FFmpegError, ValueError):
                av.codec.Codec(name, "w")
                return name, pixels
    tried = ", ".join(name for name, _ in ENCODERS)
    raise MissingDependencyError(f"this PyAV has no encoder for a video; tried {tried}", hint="pip install av")


def open_sink(opening: Opening) -> Sink:
    """What ``--video`` asks for."""
    return OverlayVideo(opening.options["video"], overwrite=opening.options["overwrite"])
