"""Where frames come from, by URI: what a source is, images and simulated scenes; other modules know the rest."""

from __future__ import annotations

import glob
import importlib
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from glint.datasets import image_files
from glint.errors import InputError, SourceError
from glint.images import SUFFIXES, read_image
from glint.runtime.source_uri import parameters, positive, safe_uri, split_path
from glint.runtime.waiting import Closed, Pacer
from glint.scenes import SceneConfig, parse_synthetic, read_background, simulate_scene
from glint.types import Frame, Gap

VIDEO_SUFFIXES = (
    ".mkv", ".avi", ".mp4", ".mov", ".nut", ".m4v", ".webm", ".ts", ".m2ts", ".mts", ".mpg", ".wmv", ".y4m",
)  # fmt: skip


@dataclass(frozen=True)
class Skipped:
    """A frame that could not be read: its name and why."""

    name: str
    reason: str


class Source(ABC):
    """An iterable of frames.

    Attributes:
        uri: what the user asked for, without credentials.
        total: number of frames, if known.
        live: its frames come at their own pace, whether or not anybody takes them.
        skipped: frames that could not be read so far.
    """

    uri: str
    total: int | None = None
    live: bool = False

    def __init__(self, uri: str) -> None:
        self.uri = safe_uri(uri)
        self.skipped: list[Skipped] = []

    def refuse_collisions(self, folder: Path | None) -> None:  # noqa: B027  (frames of most sources are no files)
        """Stop if pictures ``NAME.png`` in ``folder`` would replace each other or the frames themselves.

        Raises:
            InputError: if they would.
        """

    @abstractmethod
    def __iter__(self) -> Iterator[Frame | Gap]:
        """Frames in order, each with the time of its capture, and the gaps between them.

        Raises:
            SourceLostError: if the source stopped without reaching its end and did not come back.
        """

    def frames(self) -> Iterator[Frame]:
        """The frames alone, for what does not care when they came."""
        return (item for item in self if isinstance(item, Frame))

    def close(self) -> None:  # noqa: B027  (most sources never wait)
        """End an iteration that waits for its next frame; may be called from another thread."""


class ImageSource(Source):
    """Image files, in the order of their names.

    An unreadable file among others is skipped and counted; a file asked for by name must be good.

    Raises:
        SourceError: on iteration, if none of the files can be read.
    """

    def __init__(self, uri: str, files: list[Path]) -> None:
        super().__init__(uri)
        self.files = files
        self.total = len(files)

    def refuse_collisions(self, folder: Path | None) -> None:
        """See the base class."""
        if folder is None:
            return
        twice = [stem for stem, n in Counter(p.stem for p in self.files).items() if n > 1]
        if twice:
            raise InputError(f"{self.uri}: {len(twice)} names occur more than once, e.g. {twice[0]}: one picture each")
        if any(p.parent.resolve() == folder.resolve() for p in self.files):
            raise InputError(f"{folder} holds the source: the pictures would replace the images")

    def __iter__(self) -> Iterator[Frame]:
        delivered = 0
        self.skipped.clear()
        for index, path in enumerate(self.files):
            try:
                data = read_image(path)
            except SourceError as error:
                if len(self.files) == 1:
                    raise
                self.skipped.append(Skipped(path.name, str(error)))
                continue
            delivered += 1
            yield Frame(index, time.monotonic_ns(), data, name=path.stem, full_scale=_full_scale(data))
        if not delivered:
            raise SourceError(
                f"{self.uri}: none of its {len(self.files)} files can be read; the first: {self.skipped[0].reason}"
            )


def _full_scale(data: np.ndarray[tuple[int, int], np.dtype[np.generic]]) -> float | None:
    return 255.0 if data.dtype == np.uint8 else None  # 16-bit files hold 10 to 16 bits: not known


class SyntheticSource(Source):
    """A simulated scene with known truth (see ``glint.scenes``).

    With a ``rate`` it is live: that many frames per second at most, and the time of each is that at
    which it comes.
    """

    def __init__(self, uri: str, config: SceneConfig, rate: float | None = None) -> None:
        super().__init__(uri)
        self.config, self.rate = config, rate
        self.live = rate is not None
        self.total = config.frames
        self.background = read_background(Path(config.background), config.bits) if config.background else None
        self._pacer = Pacer()

    def __iter__(self) -> Iterator[Frame]:
        for frame, truth in simulate_scene(self.config, self.background):
            if self.rate is None:
                yield replace(frame, truth=truth)
                continue
            try:
                now = self._pacer.wait(round(1e9 * frame.index / self.rate))
            except Closed:
                return
            yield replace(frame, truth=truth, t_ns=now)

    def close(self) -> None:
        """See the base class."""
        self._pacer.close()


def _open_synthetic(uri: str) -> SyntheticSource:
    before, mark, query = uri.partition("?")
    words = query.split("&")
    rates = [word for word in words if word.startswith("rate=")]
    scene = parse_synthetic(before + mark + "&".join(word for word in words if word not in rates))
    return SyntheticSource(uri, scene, parameters(uri, "&".join(rates), {"rate": positive}).get("rate"))


# Each in a module of its own, imported when it is asked for: (module, function of the URI).
_SCHEMES = {
    "v4l2": ("camera", "open_camera"),
    "rtsp": ("network", "open_network"),
    "rtsps": ("network", "open_network"),
    "udp": ("network", "open_network"),
    "tcp": ("network", "open_network"),
    "gst": ("gstreamer", "GstSource"),
    "raw": ("raw_stream", "open_raw"),
    "replay": ("replay", "open_replay"),
}
_BARE = ("gst", "raw", "replay")  # no // behind them
_KNOWN = (
    "a folder, a glob, an image or video file, v4l2:///dev/video0, rtsp://, udp://, tcp://, gst:PIPELINE, "
    "raw:-?size=..., replay:FOLDER, synthetic://"
)


def open_source(uri: str) -> Source:
    """Find out what a URI means.

    Args:
        uri: a folder, a glob pattern (``night/*.png``), an image or video file, each optionally with
            ``file://`` before it; ``v4l2://``, ``rtsp://``, ``udp://``, ``tcp://``, ``gst:``, ``raw:``,
            ``replay:``, or ``synthetic://?size=640x512&frames=100&...``.

    Raises:
        SourceError: if it does not exist or holds no images.
        InputError: if a parameter is unknown or malformed.
        MissingDependencyError: if GStreamer is asked for and not installed.
    """
    if uri.startswith("synthetic:"):
        return _open_synthetic(uri)
    scheme, separator, _ = uri.partition("://")
    bare = uri.partition(":")[0]
    if bare in _BARE or (separator and scheme.lower() in _SCHEMES):
        module, name = _SCHEMES[bare.lower()]
        source: Source = getattr(importlib.import_module(f"glint.runtime.{module}"), name)(uri)
        return source
    if separator and scheme != "file":
        raise SourceError(f"source {scheme}:// is not known", hint=f"known: {_KNOWN}")
    path = unquote(uri.removeprefix("file://")) if separator else uri
    if not path:
        raise InputError("the source is empty", hint=f"known: {_KNOWN}")
    try:
        return _open_path(uri, path)
    except SourceError:
        raise
    except OSError as error:
        raise SourceError(f"{uri}: {error.strerror or error}") from error


def _open_path(uri: str, path: str) -> Source:
    if Path(path).is_dir():
        return ImageSource(uri, image_files(Path(path)))
    file, query = split_path(path)
    if Path(file).suffix.lower() in VIDEO_SUFFIXES and Path(file).is_file():
        from glint.runtime.video import open_video

        return open_video(uri, file, query)
    if Path(path).is_file():
        return ImageSource(uri, [Path(path)])
    if any(c in path for c in "*?["):
        matches = sorted(glob.glob(path))  # noqa: PTH207  (Path.glob takes no absolute pattern)
        files = [Path(p) for p in matches if Path(p).suffix.lower() in SUFFIXES]
        if files:
            return ImageSource(uri, files)
        raise SourceError(f"{uri}: no image matches this pattern")
    if Path(path).is_char_device():
        raise SourceError(f"{uri} is a device", hint=f"a camera is v4l2://{path}?fmt=y16")
    raise SourceError(f"{uri}: no such file or folder")
