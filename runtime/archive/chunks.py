"""Recordings are cut into chunks: what one worker does at once, and what its part is named by."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from glint.runtime.archive.recordings import Kind, Recording
from glint.runtime.archive.storage import Entry
from glint.runtime.archive.video_index import Piece

_FRAMES, _TARGETS, _TRACKS = "frames", "targets", "tracks"


@dataclass(frozen=True)
class Chunk:
    """Consecutive frames of a recording.

    Attributes:
        recording: name of the recording.
        kind: of the recording.
        number: of the chunk in it, from 0.
        first: number of its first frame in the recording; frames of ``replay`` bring their own.
        files: paths below the root, packed; see :meth:`paths`.
        size: bytes of these files, of a video its share.
        facts: hash of the files' paths, sizes and times, and of the piece.
        piece: of a video that is cut; None: whole files.
        head: key of the chunk that learned the recording's optics; "" if there was nothing to learn.
        key: hash of all that decides what comes out.
    """

    recording: str
    kind: Kind
    number: int
    first: int
    files: bytes
    size: int
    facts: str
    piece: Piece | None = None
    head: str = ""
    key: str = ""

    def paths(self) -> list[str]:
        """Its files, below the root."""
        paths: list[str] = json.loads(zlib.decompress(self.files))
        return paths

    def keyed(self, settings: str, head: Chunk | None) -> Chunk:
        """The chunk with its key.

        Args:
            settings: digest of the job's settings.
            head: the chunk from which the recording's start was learned; None: this one, or nothing is learned.
        """
        after = "" if head is None else f"{head.number:06d}-{head.key}"
        return replace(self, head=after, key=digest([self.recording, self.number, self.facts, settings, after]))

    @property
    def name(self) -> str:
        """Of its parts, below ``frames/`` and ``targets/``."""
        return f"{self.recording}/{self.number:06d}-{self.key}.parquet".removeprefix("./")

    @property
    def frames_part(self) -> str:
        """Its part of the frames: it is there when the chunk is done."""
        return f"{_FRAMES}/{self.name}"

    @property
    def targets_part(self) -> str:
        """Its part of the targets."""
        return f"{_TARGETS}/{self.name}"

    @property
    def head_part(self) -> str | None:
        """The part of the frames that tells how the recording starts, or None."""
        if not self.head:
            return None
        return f"{_FRAMES}/{self.recording}/{self.head}.parquet".replace("/./", "/")


def tracks_part(chunks: Sequence[Chunk], settings: str) -> str:
    """The part of a recording's tracks, made of these chunks."""
    name = chunks[0].recording
    return f"{_TRACKS}/{name}/{digest([name, [c.key for c in chunks], settings])}.parquet".replace("/./", "/")


def digest(value: Any) -> str:
    """16 hex digits of the hash of a JSON-ready value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def cut(recording: Recording, frames: int, pieces: Sequence[Piece] = ()) -> Iterator[Chunk]:
    """The chunks of a recording, without their keys.

    Images are cut by their number. A tar file of glint, which is 1 GiB at most, and a TIFF stack are a chunk each.

    Args:
        recording: what is cut.
        frames: of one chunk, at most.
        pieces: of a video that can be cut; none: it is one chunk.
    """
    if recording.kind == "images":
        for number, first in enumerate(range(0, len(recording.files), frames)):
            yield _chunk(recording, number, first, recording.files[first : first + frames])
    elif pieces:
        for number, piece in enumerate(pieces):
            size = recording.bytes // len(pieces)
            yield replace(_chunk(recording, number, piece.first, recording.files, piece), size=size)
    else:
        for number, file in enumerate(recording.files):
            yield _chunk(recording, number, 0, [file])


def _chunk(recording: Recording, number: int, first: int, files: Sequence[Entry], piece: Piece | None = None) -> Chunk:
    packed = zlib.compress(json.dumps([f.path for f in files]).encode(), 1)
    facts = digest([[f.facts() for f in files], None if piece is None else vars(piece)])
    return Chunk(recording.name, recording.kind, number, first, packed, sum(f.size for f in files), facts, piece)
