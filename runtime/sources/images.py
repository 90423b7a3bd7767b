"""Image files as a source of frames, and the times of frames that no camera stamped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from glint.errors import InputError, SourceError, SourceLostError
from glint.images import count_pages, try_pictures
from glint.runtime.sources.base import Source
from glint.runtime.sources.uri import one_of, parameters, positive
from glint.types import Frame

USUAL_FPS = 30.0


@dataclass(frozen=True)
class FrameTimes:
    """When the frames of files were taken.

    Attributes:
        fps: frames per second.
        own: the times at which the files were last written are those of their frames.
        start_ns: UTC of the first frame, nanoseconds since 1970; None: unknown.
    """

    fps: float = USUAL_FPS
    own: bool = False
    start_ns: int | None = None

    def of(self, index: int, path: Path | None = None) -> tuple[int, int | None]:
        """Nanoseconds since the first frame, and UTC if it is known; with ``own``, of the file ``path``.

        Raises:
            OSError: if the file is gone.
        """
        if self.own and path is not None:
            written = path.stat().st_mtime_ns
            return max(0, written - (written if self.start_ns is None else self.start_ns)), written
        t_ns = round(1e9 * index / self.fps)
        return t_ns, None if self.start_ns is None else self.start_ns + t_ns

    def begun_at(self, path: Path) -> FrameTimes:
        """The same with the first file's own time as the start, if the files' own times count."""
        return replace(self, start_ns=path.stat().st_mtime_ns) if self.own and self.start_ns is None else self


class ImageSource(Source):
    """Image files, in the order given; every picture that a file holds is a frame.

    Their times are stated (see :class:`FrameTimes`).
    An unreadable file among others is skipped and counted; a file asked for by name must be good.

    Raises:
        SourceError: on iteration, if none of the files can be read.
        SourceLostError: on iteration, after the last frame, if files vanished in the meantime.
    """

    def __init__(self, uri: str, files: list[Path], times: FrameTimes | None = None) -> None:
        super().__init__(uri)
        self.files, self.times = files, times or FrameTimes()
        self.total = count_pages(files[0]) if len(files) == 1 else len(files)

    def refuse_collisions(self, folder: Path | None) -> None:
        if folder is None:
            return
        twice = [stem for stem, n in Counter(p.stem for p in self.files).items() if n > 1]
        if twice:
            raise InputError(
                f"{self.uri}: {len(twice)} names occur more than once, e.g. {twice[0]}: one picture each",
                hint="give the images of one folder at a time",
            )
        if any(p.parent.resolve() == folder.resolve() for p in self.files):
            raise InputError(
                f"{folder} holds the source: the pictures would replace the images",
                hint="choose another folder for the pictures",
            )

    def __iter__(self) -> Iterator[Frame]:
        index = delivered = gone = 0
        self.start_over()
        times = self.times.begun_at(self.files[0])
        for path in self.files:
            for page, picture in enumerate(try_pictures(path)):
                name = path.stem if not page else f"{path.stem}.{page:06d}"
                if isinstance(picture, SourceError):
                    if len(self.files) == 1 and not delivered:
                        raise picture
                    gone += isinstance(picture.__cause__, FileNotFoundError) and not path.is_symlink()
                    reason = str(picture).removeprefix(f"{path}: ").removeprefix(f"{path} ")
                    self.skip(path.name if not page else f"{path.name}, page {page + 1}", reason)
                    index += 1
                    continue
                t_ns, utc_ns = times.of(index, path)
                yield Frame(index, t_ns, picture.data, name=name, full_scale=picture.full_scale, utc_ns=utc_ns)
                index, delivered = index + 1, delivered + 1
        if not delivered:
            raise SourceError(
                f"{self.uri}: none of its {len(self.files)} files can be read; the first: "
                f"{self.skipped[0].name}: {self.skipped[0].reason}",
                hint="glint run takes PNG, TIFF, BMP, JPEG and PGM",
            )
        if gone:
            raise SourceLostError(
                f"{self.uri}: {gone} of its {len(self.files)} files vanished before they were read",
                hint="the frames before are good; is the disk still there?",
            )


def parse_times(uri: str, query: str) -> FrameTimes:
    """``fps=25``, ``times=files`` and ``start=2026-11-28T20:15:00Z`` of a URI.

    Raises:
        InputError: if a parameter is unknown or malformed.
    """
    values = parameters(uri, query, {"fps": positive, "times": one_of("files"), "start": _utc})
    return FrameTimes(values.get("fps", USUAL_FPS), "times" in values, values.get("start"))


def _utc(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise ValueError("expected a time in ISO 8601, such as 2026-11-28T20:15:00Z") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return round(moment.timestamp() * 1e6) * 1000
