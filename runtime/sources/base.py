"""Where frames come from: what a source is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.cli import talk
from glint.errors import SourceError, redact, safe_uri
from glint.types import Frame, FrameSize, Gap


@dataclass(frozen=True)
class Skipped:
    """A frame that could not be read: its name and why."""

    name: str
    reason: str


MOST_NAMED_SKIPS = 1000


def check_like(data: NDArray[Any], shape: tuple[int, ...] | None) -> None:
    """Refuse a frame that is not like those before it: of another size, or not finite.

    Args:
        data: ``[H, W]``.
        shape: of the first frame; None: this is the first.

    Raises:
        SourceError: if it is.
    """
    if shape is not None and data.shape != shape:
        raise SourceError(
            f"the size changed from {shape[1]}x{shape[0]} to {data.shape[1]}x{data.shape[0]}",
            hint="a stream has one size: run each size on its own",
        )
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        raise SourceError("the frame holds NaN or infinite values", hint="are dtype and endian right?")


class Source(ABC):
    """An iterable of frames.

    Attributes:
        uri: what the user asked for, without credentials.
        total: number of frames, if known.
        size: of its frames, if it is known before the first one comes.
        live: its frames come at their own pace, whether or not anybody takes them.
        skipped: frames that could not be read so far; of very many the first :data:`MOST_NAMED_SKIPS`.
        skips: how many were skipped for each reason.
        top_aligned: values stand at the top of their words, whatever full scale the user states.
        missing: frames that a live source lost on the way, as far as their stamps tell.
    """

    uri: str
    total: int | None = None
    size: FrameSize | None = None
    live: bool = False
    top_aligned: bool = False

    def __init__(self, uri: str) -> None:
        self.uri = safe_uri(uri)
        self.skipped: list[Skipped] = []
        self.skips: Counter[str] = Counter()
        self.missing = 0

    def skip(self, name: str, reason: str) -> None:
        """Count a frame that cannot be used; each reason is told when it comes up for the first time."""
        reason = redact(reason.removeprefix(f"{self.uri}: "))
        if len(self.skipped) < MOST_NAMED_SKIPS:
            self.skipped.append(Skipped(name, reason))
        self.skips[reason] += 1
        if self.live and self.skips[reason] == 1:
            talk(f"{self.uri}: skipped {name}: {reason}")

    def start_over(self) -> None:
        """Forget what was skipped, as a new iteration begins."""
        self.skipped.clear()
        self.skips.clear()

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
