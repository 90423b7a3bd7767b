"""Where frames come from, by URI: what a source is, images and simulated scenes; other modules know the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from glint.runtime.sources.uri import safe_uri
from glint.types import Frame, Gap


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
