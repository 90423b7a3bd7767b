"""Image files as a source of frames."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np

from glint.errors import InputError, SourceError
from glint.images import count_pages, read_pages
from glint.runtime.sources.base import Source
from glint.types import Frame


class ImageSource(Source):
    """Image files, in the order given; every picture that a file holds is a frame.

    An unreadable file among others is skipped and counted; a file asked for by name must be good.

    Raises:
        SourceError: on iteration, if none of the files can be read.
    """

    def __init__(self, uri: str, files: list[Path]) -> None:
        super().__init__(uri)
        self.files = files
        self.total = count_pages(files[0]) if len(files) == 1 else len(files)

    def refuse_collisions(self, folder: Path | None) -> None:
        if folder is None:
            return
        twice = [stem for stem, n in Counter(p.stem for p in self.files).items() if n > 1]
        if twice:
            raise InputError(f"{self.uri}: {len(twice)} names occur more than once, e.g. {twice[0]}: one picture each")
        if any(p.parent.resolve() == folder.resolve() for p in self.files):
            raise InputError(f"{folder} holds the source: the pictures would replace the images")

    def __iter__(self) -> Iterator[Frame]:
        index = delivered = 0
        self.start_over()
        for path in self.files:
            pages = read_pages(path)
            for page in count():
                try:
                    data = next(pages, None)
                except SourceError as error:
                    if len(self.files) == 1 and not delivered:
                        raise
                    self.skip(path.name, str(error).removeprefix(f"{path}: "))
                    index += 1
                    break
                if data is None:
                    break
                name = path.stem if not page else f"{path.stem}.{page:06d}"
                yield Frame(index, time.monotonic_ns(), data, name=name, full_scale=_full_scale(data))
                index, delivered = index + 1, delivered + 1
        if not delivered:
            raise SourceError(
                f"{self.uri}: none of its {len(self.files)} files can be read; the first: "
                f"{self.skipped[0].name}: {self.skipped[0].reason}",
                hint="glint run takes PNG, TIFF, BMP, JPEG and PGM",
            )


def _full_scale(data: np.ndarray[tuple[int, int], np.dtype[np.generic]]) -> float | None:
    return 255.0 if data.dtype == np.uint8 else None  # 16-bit files hold 10 to 16 bits: not known
