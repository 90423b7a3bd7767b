"""Where a video can be cut: its key frames, with the numbers that frames from there on have."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from glint.errors import SourceError
from glint.runtime.archive.recordings import Recording
from glint.runtime.archive.storage import Storage
from glint.runtime.sources.decoding import choose_stream, import_av, reason_of


@dataclass(frozen=True)
class Piece:
    """Frames of a video from a key frame up to another one, in the order in which they are shown.

    Attributes:
        first: number of its first frame.
        frames: how many.
        start, stop: stamp of its first frame, and of the first one behind it (None: the end of the file).
        origin: stamp of the video's first frame.
    """

    first: int
    frames: int
    start: int
    stop: int | None
    origin: int


def index_video(storage: Storage, recording: Recording, frames: int) -> list[Piece]:
    """Pieces of a video of at least ``frames`` frames each, or none if it must stay whole.

    All packets are looked at, none is decoded. A video whose stamps are missing or occur twice stays whole: frames of a
    piece could not be numbered.

    Raises:
        SourceError: if it is no video.
    """
    path = recording.files[0].path
    av = import_av()
    with storage.opened(path) as file:
        try:
            container = av.open(file, format=None)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SourceError(f"{path}: {reason_of(error)}", hint="expected a video file") from error
        with container:
            stream = choose_stream(container, PurePosixPath(path).name, None)
            stamps, keys = _stamps(av, container, stream)
    if stamps is None or len(stamps) <= frames or len(set(stamps)) != len(stamps):
        return []
    stamps.sort()
    return pieces_of(stamps, sorted(keys), frames)


def _stamps(av: Any, container: Any, stream: Any) -> tuple[list[int] | None, list[int]]:
    """Stamps of all packets, None if one has none, and those of key frames."""
    stamps: list[int] = []
    keys: list[int] = []
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return stamps, keys
        except (av.error.FFmpegError, OSError):  # it breaks off: the reader of the whole says where
            return None, keys
        if packet.size == 0:  # the end, for decoders
            continue
        if packet.pts is None:
            return None, keys
        stamps.append(packet.pts)
        if packet.is_keyframe:
            keys.append(packet.pts)


def pieces_of(stamps: list[int], keys: list[int], frames: int) -> list[Piece]:
    """Pieces of at least ``frames`` frames, the last one of more; each begins at a key frame.

    Args:
        stamps: of all frames, ascending.
        keys: of key frames, ascending.
        frames: of a piece, at least.
    """
    if not keys or keys[0] != stamps[0]:
        return []  # frames before the first key frame: not to be decoded by themselves
    cuts = [0]
    for key in keys[1:]:
        at = bisect_left(stamps, key)
        if at - cuts[-1] >= frames and len(stamps) - at >= frames:
            cuts.append(at)
    ends = [*cuts[1:], len(stamps)]
    return [Piece(a, b - a, stamps[a], stamps[b] if b < len(stamps) else None, stamps[0]) for a, b in zip(cuts, ends)]
