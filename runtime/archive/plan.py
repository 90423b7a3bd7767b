"""What is to be done: the recordings below a root, cut into chunks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from glint.errors import GlintError, InputError, OutputError, SourceError
from glint.runtime.archive.chunks import Chunk, cut, digest
from glint.runtime.archive.recordings import Recording, find_recordings
from glint.runtime.archive.storage import Storage
from glint.runtime.archive.video_index import Piece, index_video

T = TypeVar("T")
R = TypeVar("R")


class Executor(Protocol):
    """Runs the same work on many things, in processes of its own or here."""

    def map(self, make: Callable[[], Callable[[T], R]], items: Sequence[T]) -> Iterator[R]:
        """What the work makes of the items, in any order.

        Args:
            make: makes the work, once in each process; it and the items travel there.
            items: each is worked on at least once.
        """
        ...


@dataclass(frozen=True)
class Plan:
    """Recordings, and the chunks of each, without their keys, in order.

    Attributes:
        recordings: by name.
        chunks: by name of the recording.
    """

    recordings: dict[str, Recording]
    chunks: dict[str, list[Chunk]]

    @property
    def number(self) -> int:
        """Of all chunks."""
        return sum(map(len, self.chunks.values()))

    @property
    def bytes(self) -> int:
        """Of all recordings."""
        return sum(r.bytes for r in self.recordings.values())


def make_plan(root: Storage, out: Storage, frames: int, executor: Executor | None) -> Plan:
    """Find the recordings and cut them.

    Args:
        root: where they are.
        out: where indices of videos are kept; what lies there is no recording.
        frames: of a chunk.
        executor: looks for key frames of videos; None: videos are left whole, and nothing is written.

    Raises:
        SourceError: if the root cannot be listed.
        InputError: if there is nothing below it.
    """
    entries = root.entries()
    inside = out.url.rstrip("/").removeprefix(root.url.rstrip("/") + "/") + "/"
    if inside != out.url.rstrip("/") + "/":
        entries = (e for e in entries if not e.path.startswith(inside))
    found = find_recordings(root, entries)
    if not found:
        hint = "expected folders of images, recordings of --record, videos or TIFF stacks"
        raise InputError(f"{root.shown} holds no recordings", hint=hint)
    pieces: dict[str, list[Piece]] = {}
    videos = [r for r in found if r.kind == "video"]
    if executor is not None and videos:
        pieces = dict(executor.map(partial(Indexer, root, out, frames), videos))
    return Plan({r.name: r for r in found}, {r.name: list(cut(r, frames, pieces.get(r.name, ()))) for r in found})


class Indexer:
    """Looks for the key frames of videos, and keeps what it found.

    Args:
        root, out: where videos are, and below which indices are kept, in ``index/``.
        frames: of a chunk.
    """

    def __init__(self, root: Storage, out: Storage, frames: int) -> None:
        self.root, self.out, self.frames = root, out, frames

    def __call__(self, recording: Recording) -> tuple[str, list[Piece]]:
        """The name of a video and its pieces; none if it must stay whole or is damaged."""
        facts = digest([recording.files[0].facts(), self.frames])
        kept = f"index/{recording.name}-{facts}.json"
        with suppress(SourceError):  # what is not there is made
            values: list[dict[str, Any]] = json.loads(self.out.read(kept))
            return recording.name, [Piece(**value) for value in values]
        try:
            pieces = index_video(self.root, recording, self.frames)
        except GlintError:  # the reader of the whole says what is wrong with it
            return recording.name, []
        with suppress(OutputError):  # chunks will say so
            self.out.put(kept, json.dumps([asdict(piece) for piece in pieces]).encode())
        return recording.name, pieces
