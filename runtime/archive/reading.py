"""A chunk as a source of frames: the same frames, with the same numbers and times, as of the whole recording."""

from __future__ import annotations

import tempfile
from bisect import bisect_left, insort
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

from glint.errors import SourceError, SourceLostError
from glint.images import read_pictures
from glint.runtime.archive.chunks import Chunk
from glint.runtime.archive.recordings import Kind
from glint.runtime.archive.storage import Storage
from glint.runtime.archive.video_index import Piece
from glint.runtime.sources.base import Source, check_like
from glint.runtime.sources.decoding import Decoder, choose_stream, import_av, reason_of
from glint.runtime.sources.grey import grey_of
from glint.runtime.sources.images import FrameTimes, ImageSource
from glint.runtime.sources.replay import ReplaySource
from glint.runtime.sources.video import VideoSource
from glint.types import Frame, Gap


class ChunkSource(Source):
    """The frames of one chunk.

    Args:
        storage: of the recordings.
        chunk: which.

    Attributes:
        gaps: of a recording, as far as it was read.
        lost: what is missing at the end or in between; "" if nothing is.

    Raises:
        SourceError: on iteration, if nothing of it can be read, or a file is not what it was when the chunk was cut.
    """

    def __init__(self, storage: Storage, chunk: Chunk) -> None:
        super().__init__(chunk.recording)
        self.storage, self.chunk = storage, chunk
        self.gaps: list[Gap] = []
        self.lost = ""

    def __iter__(self) -> Iterator[Frame]:
        self.start_over()
        self.gaps, self.lost = [], ""
        if self.chunk.piece is not None:
            yield from self._piece(self.chunk.piece)
            return
        with tempfile.TemporaryDirectory(prefix="glint-archive-") as folder:
            read = self._images if self.chunk.kind == "images" else self._file
            yield from read(Path(folder))

    def _images(self, folder: Path) -> Iterator[Frame]:
        delivered = 0
        paths = self.chunk.paths()
        for place, name in enumerate(paths):
            try:
                with self.storage.as_path(name, folder) as path:
                    pictures = list(islice(read_pictures(path), 2))
            except SourceError as error:
                self.skip(Path(name).name, str(error).split(": ", 1)[-1])
                continue
            if len(pictures) > 1:  # frames behind it would have other numbers
                raise SourceError(
                    f"{name} holds several pictures, the first TIFF of its folder one: the folder cannot be cut",
                    hint="move stacks into a folder of their own",
                )
            (picture,) = pictures
            index = self.chunk.first + place
            t_ns, _ = FrameTimes().of(index)
            yield Frame(index, t_ns, picture.data, name=Path(name).stem, full_scale=picture.full_scale)
            delivered += 1
        if not delivered:
            first = f"{self.skipped[0].name}: {self.skipped[0].reason}"
            raise SourceError(
                f"none of the {len(paths)} files can be read; the first: {first}",
                hint="glint run with one of them tells more; leave the folder out if it holds no frames",
            )

    def _file(self, folder: Path) -> Iterator[Frame]:
        (name,) = self.chunk.paths()
        with self.storage.as_path(name, folder) as path:
            source = _source_of(self.chunk.kind, name, path)
            delivered = 0
            try:
                for item in source:
                    if isinstance(item, Gap):
                        self.gaps.append(item)
                    else:
                        delivered += 1
                        yield item
            except SourceLostError as error:
                if not delivered:
                    raise
                self.lost = str(error)
            finally:
                for skipped in source.skipped:
                    self.skip(skipped.name, skipped.reason)

    def _piece(self, piece: Piece) -> Iterator[Frame]:
        """Frames from a key frame on; their numbers are the ranks of their stamps among those of all packets."""
        (name,) = self.chunk.paths()
        av = import_av()
        with self.storage.opened(name) as file:
            try:
                container = av.open(file)
            except (av.error.FFmpegError, OSError, ValueError) as error:
                raise SourceError(f"{name}: {reason_of(error)}", hint="expected a video file") from error
            with container:
                stream = choose_stream(container, Path(name).name, None)
                packets = _Packets(container, piece)
                shape = None
                for picture, damaged in self._pictures(av, packets, stream, piece):
                    index = packets.number_of(picture, name)
                    seconds = (picture.pts - piece.origin) * Fraction(picture.time_base)
                    try:
                        data, full_scale = grey_of(picture, luma=False, where=name)
                        check_like(data, shape)
                    except SourceError as error:
                        if shape is None and not damaged:
                            raise
                        self.skip(f"frame {index}", str(error))
                        continue
                    shape = data.shape
                    yield Frame(index, round(seconds * 10**9), data, full_scale=full_scale, damaged=damaged)
                if len(packets.stamps) != piece.frames:
                    counted = f"{len(packets.stamps)} frames where {piece.frames} were counted"
                    raise SourceError(
                        f"{name}: {counted}: it was changed",
                        hint="leave recordings as they are while they are processed; run it again with another OUT",
                    )
                if shape is None:
                    raise SourceError(
                        f"{name}: none of {piece.frames} frames can be decoded",
                        hint="glint run with the file tells more; leave it out if it is damaged",
                    )

    def _pictures(self, av: Any, packets: _Packets, stream: Any, piece: Piece) -> Iterator[tuple[Any, str]]:
        """Pictures of a piece, as shown, each with what speaks against it."""
        packets.container.seek(piece.start, stream=stream, backward=True)
        decoder = Decoder(av, packets, stream)
        try:
            for decoded in decoder:
                if decoded.lost:
                    self.skip(f"packet at {packets.last}", decoded.lost)
                for picture, damaged in decoded.pictures:
                    if piece.stop is not None and picture.pts is not None and picture.pts >= piece.stop:
                        return
                    if picture.pts is not None and picture.pts >= piece.start:
                        yield picture, damaged
        except (av.error.FFmpegError, OSError) as error:
            if isinstance(error, SourceError):
                raise
            raise SourceError(f"{self.uri} breaks off: {reason_of(error)}") from error


def _source_of(kind: Kind, uri: str, path: Path) -> Source:
    """A file of a recording as a source."""
    if kind == "video":
        return VideoSource(uri, path)
    return ReplaySource(uri, [path]) if kind == "replay" else ImageSource(uri, [path])


class _Packets:
    """A container whose packets are counted on their way to the decoder.

    Attributes:
        stamps: of the packets of the piece so far, ascending. A frame comes after the packets of all frames before it.
        last: stamp of the last packet.
    """

    def __init__(self, container: Any, piece: Piece) -> None:
        self.container, self.piece = container, piece
        self.stamps: list[int] = []
        self.last: int | None = None

    def demux(self, stream: Any) -> Iterator[Any]:
        """The packets of a stream.

        Raises:
            SourceError: if the first one is not the key frame that was looked for, or one before it.
        """
        piece, first = self.piece, True
        for packet in self.container.demux(stream):
            self.last = packet.pts
            if first and (packet.pts is None or packet.pts > piece.start):
                raise SourceError(
                    f"the key frame of frame {piece.first} is not found", hint="convert it with ffmpeg, or leave it out"
                )
            first = False
            inside = packet.pts is not None and packet.pts >= piece.start
            if inside and packet.size and (piece.stop is None or packet.pts < piece.stop):
                insort(self.stamps, packet.pts)
            yield packet

    def number_of(self, picture: Any, name: str) -> int:
        """The number of a picture in its recording: the rank of its stamp.

        Raises:
            SourceError: if no packet has its stamp.
        """
        place = bisect_left(self.stamps, picture.pts)
        if place == len(self.stamps) or self.stamps[place] != picture.pts:
            raise SourceError(
                f"{name}: a frame with a stamp that no packet has: it cannot be cut",
                hint="convert it with ffmpeg, or leave it out",
            )
        return self.piece.first + place
