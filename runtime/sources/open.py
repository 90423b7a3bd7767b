"""A URI becomes a source: the one door."""

from __future__ import annotations

import glob
import importlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from glint.data.datasets import image_files, natural_order
from glint.errors import InputError, SourceError, safe_uri, system_errors_as
from glint.images import SUFFIXES
from glint.runtime.sources.adjusted import LAYOUT, AdjustedSource, Scale, adjusted, layout_of
from glint.runtime.sources.base import Source
from glint.runtime.sources.cameras.live import LiveSource
from glint.runtime.sources.images import ImageSource, parse_times
from glint.runtime.sources.items import items_of
from glint.runtime.sources.synthetic import open_synthetic
from glint.runtime.sources.uri import parameters, split_path

VIDEO_SUFFIXES = (
    ".mkv", ".avi", ".mp4", ".mov", ".nut", ".m4v", ".webm", ".ts", ".m2ts", ".mts", ".mpg", ".wmv", ".y4m",
)  # fmt: skip


# Each in a module of its own, imported when it is asked for: (module, function of the URI).
_SCHEMES = {
    "v4l2": ("cameras.v4l2", "open_camera"),
    "rtsp": ("cameras.rtsp", "open_network"),
    "rtsps": ("cameras.rtsp", "open_network"),
    "udp": ("cameras.rtsp", "open_network"),
    "tcp": ("cameras.rtsp", "open_network"),
    "http": ("cameras.rtsp", "open_network"),
    "https": ("cameras.rtsp", "open_network"),
    "gst": ("cameras.gstreamer", "GstSource"),
    "raw": ("raw", "open_raw"),
    "replay": ("replay", "open_replay"),
}


_BARE = ("gst", "raw", "replay")  # no // behind them


_KNOWN = (
    "a folder, a glob, an image or video file, v4l2:///dev/video0, csi://0, rtsp://, udp://, tcp://, "
    "http://, gst:PIPELINE, raw:-?size=..., replay:FOLDER, synthetic://"
)


_CAMERA = re.compile(r"/dev/video\d+")
_NUMBERED = re.compile(r"(?:usb:|video)?(\d{1,3})")  # how other programs name cameras
_CSI = re.compile(r"csi://(\d+)")
_ARGUS = "gst:nvarguscamerasrc sensor-id={} ! nvvidconv ! video/x-raw,format=GRAY8"
_RAW_SUFFIXES = (".raw", ".bin")
_COMMON = re.compile(r"([?&#])(polarity|scale|crop|align|endian|deinterlace)=([^&#?]*)")
_COMMON_OF_RAW = re.compile(r"([?&#])(polarity|scale|crop|align|deinterlace)=([^&#?]*)")
_BY_SOURCE = re.compile(r"raw:.*[?&]endian=")  # that of raw frames says what their bytes are


def open_frames(
    uri: str | Sequence[str],
    *,
    polarity: str | None = None,
    scale: Scale | str | None = None,
    wait_s: float | None = None,
) -> AdjustedSource:
    """The source that a URI means, with frames as the detector wants them and warnings where they are not.

    Args:
        uri: see :func:`open_source`; among its parameters may stand ``polarity=black``, ``scale=auto`` or
            ``scale=MIN,MAX``, ``crop=X,Y,W,H``, ``align=msb``, ``endian=swap`` and ``deinterlace=top`` or ``bottom``;
            or paths of several images.
        polarity: ``white``, ``black`` or ``both``: what targets are; goes before the URI's.
        scale: values that become 0 and 16383 DN, or ``auto``; goes before the URI's.
        wait_s: seconds for which a camera or stream that is not there yet is waited for.

    Raises:
        GlintError: as ``open_source``; InputError too if polarity or scale is malformed, or nobody waits for files.
    """
    if not isinstance(uri, str):
        if len(uri) > 1:
            return adjusted(open_paths(uri), polarity, scale)
        uri = "".join(uri)
    plain, found = _common(uri)
    given = polarity or found.get("polarity"), found.get("scale") if scale is None else scale
    layout = layout_of(parameters(uri, "&".join(f"{k}={v}" for k, v in found.items() if k in LAYOUT), LAYOUT))
    source = open_source(plain)
    source.top_aligned = layout.aligned
    if wait_s is not None:
        if not 0 <= wait_s < math.inf:
            raise InputError(
                f"wait_source: expected a number of seconds of at least 0, got {wait_s}", hint="e.g. --wait-source 60"
            )
        if not isinstance(source, LiveSource):
            raise InputError(f"{source.uri} is no camera or stream to wait for", hint="leave --wait-source out")
        source.wait_s = wait_s
    return adjusted(source, *given, layout)


def _common(uri: str) -> tuple[str, dict[str, str]]:
    """The URI without the parameters that every one may have, and these."""
    plain, found = uri, dict[str, str]()
    if uri.startswith("gst:") or _exists(uri):
        return plain, found
    pattern = _COMMON_OF_RAW if _BY_SOURCE.match(uri) else _COMMON
    kept = ""
    if _SCHEMES.get(uri.partition("://")[0].lower(), ("", ""))[1] == "open_network":  # before # all is for the sender
        kept, mark, rest = uri.rpartition("#")
        if not mark or "@" in rest:
            return plain, found
        plain = mark + rest
    while match := pattern.search(plain):
        if match[2] in found:
            raise InputError(f"{safe_uri(uri)}: {match[2]} is given twice", hint="leave one of them out")
        found[match[2]] = match[3]
        behind = plain[match.end() :]
        plain = plain[: match.start()] + (match[1] + behind[1:] if behind.startswith("&") else behind)
    return kept + plain, found


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def open_source(uri: str) -> Source:
    """Find out what a URI means.

    Args:
        uri: a folder, a glob pattern (``night/*.png``), an image or video file, each optionally with
            ``file://`` before it; ``v4l2://``, ``csi://``, ``rtsp://``, ``udp://``, ``tcp://``, ``http://``,
            ``gst:``, ``raw:``, ``replay:``, or ``synthetic://?size=640x512&frames=100&...``.

    Raises:
        SourceError: if it does not exist or holds no images.
        InputError: if a parameter is unknown or malformed.
        MissingDependencyError: if GStreamer is asked for and not installed.
    """
    if uri.startswith("synthetic:"):
        return open_synthetic(uri)
    scheme, separator, _ = uri.partition("://")
    bare = uri.partition(":")[0]
    if bare in _BARE or (separator and scheme.lower() in _SCHEMES):
        module, name = _SCHEMES[bare.lower()]
        source: Source = getattr(importlib.import_module(f"glint.runtime.sources.{module}"), name)(uri)
        return source
    if sensor := _CSI.fullmatch(uri):
        return open_source(_ARGUS.format(sensor[1]))
    if separator and scheme != "file":
        raise SourceError(f"source {scheme}:// is not known", hint=f"known: {_KNOWN}")
    path = unquote(uri.removeprefix("file://")) if separator else uri
    if not path:
        raise InputError("the source is empty", hint=f"known: {_KNOWN}")
    with system_errors_as(SourceError, uri):
        return _open_path(uri, path)


def _open_file(uri: str, path: Path, query: str) -> Source:
    ending = path.suffix.lower()
    if ending in VIDEO_SUFFIXES:
        from glint.runtime.sources.video import open_video

        return open_video(uri, str(path), query)
    if ending in (".npy", ".npz"):
        from glint.runtime.sources.arrays import open_array

        return open_array(uri, path, query)
    if ending in _RAW_SUFFIXES:
        raise InputError(
            f"{uri}: raw frames do not tell their size", hint=f"raw:{path}?size=WIDTHxHEIGHT&dtype=uint16 tells it"
        )
    if ending == ".tar":
        return open_source(f"replay:{path}" + (f"?{query}" if query else ""))
    return ImageSource(uri, [path], parse_times(uri, query))


def open_paths(paths: Sequence[str]) -> Source:
    """Several images as one source, such as a pattern that the shell has taken apart.

    Args:
        paths: of images. In the order in which a shell lists them, they are taken in natural order.

    Raises:
        InputError: if one is no image.
        SourceError: if one is missing.
    """
    files = [Path(p) for p in paths]
    for path in files:
        if not path.is_file():
            raise SourceError(
                f"{path}: no such file" if not path.is_dir() else f"{path} is one of several folders",
                hint="name files, or one folder alone",
            )
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(f"{path} is no image: only images go together", hint="one call of glint for each video")
    if [p.as_posix() for p in files] == sorted(p.as_posix() for p in files):
        files.sort(key=natural_order)
    return ImageSource(f"{files[0]} and {len(files) - 1} more", files)


def open_any(source: Any) -> Source:
    """A source of whatever a program holds.

    Args:
        source: a URI (see :func:`open_frames`), a ``Path``, an array ``[N, H, W]`` or ``[H, W]``, a list or another
            iterable of arrays ``[H, W]``, frames and paths of images, or a source.

    Raises:
        GlintError: one of its subclasses, if it is none of these.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, str):
        return open_frames(source)
    if isinstance(source, Path):
        with system_errors_as(SourceError, str(source)):
            return _open_path(str(source), str(source))  # a path is no URI: it may hold % and ://
    return items_of(source)


def _open_path(uri: str, path: str) -> Source:
    file, query = split_path(path)
    where = Path(file)
    if where.is_dir():
        return ImageSource(uri, image_files(where), parse_times(uri, query))
    if where.is_file():
        return _open_file(uri, where, query)
    if any(c in file for c in "*?["):
        matches = glob.glob(file)  # noqa: PTH207  (Path.glob takes no absolute pattern)
        files = sorted((Path(p) for p in matches if Path(p).suffix.lower() in SUFFIXES), key=natural_order)
        if files:
            return ImageSource(uri, files, parse_times(uri, query))
        raise SourceError(
            f"{uri}: no image matches this pattern",
            hint="quote the pattern, so that the shell leaves it alone; images are PNG, TIFF, BMP, JPEG and PGM",
        )
    if _CAMERA.fullmatch(file):
        return open_source(f"v4l2://{path}")
    if where.is_char_device():
        raise SourceError(f"{uri} is a device", hint=f"a camera is v4l2://{path}?fmt=y16")
    hint = "is the name right, seen from this folder? ls tells"
    if number := _NUMBERED.fullmatch(file):
        hint = f"a camera is v4l2:///dev/video{number[1]}?fmt=y16; v4l2-ctl --list-devices lists cameras"
    raise SourceError(f"{uri}: no such file or folder", hint=hint)
