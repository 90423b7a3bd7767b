"""What lies below a root: folders of images, recordings of glint, videos, TIFF stacks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from glint.data.datasets import natural_order
from glint.formats import tiff
from glint.formats.stored import FormatError, StoredFile
from glint.images import SUFFIXES
from glint.runtime.archive.storage import Entry, Storage
from glint.runtime.sources.open import VIDEO_SUFFIXES
from glint.runtime.sources.recording_format import RECORDING, SUFFIX

Kind = Literal["images", "stack", "video", "replay"]
_TIFF = (".tif", ".tiff")


@dataclass(frozen=True)
class Recording:
    """Frames that belong together, in order.

    Attributes:
        name: its path below the root: a folder of images, a file, or a folder with the time at which glint began to
            record; ``.`` for images that lie at the root itself.
        kind: ``images``, ``stack`` (a TIFF of several pages), ``video`` or ``replay`` (what ``--record`` wrote).
        files: in order.
    """

    name: str
    kind: Kind
    files: tuple[Entry, ...]

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file.size for file in self.files)


def find_recordings(storage: Storage, entries: Iterable[Entry] | None = None) -> list[Recording]:
    """All recordings below a root, by name.

    A folder's images are one recording, in natural order of their names; if its first TIFF holds several pictures, each
    of its TIFFs is one. Hidden files and folders are left out.

    Args:
        storage: the root.
        entries: its files; None: they are listed.

    Raises:
        SourceError: if it cannot be listed.
    """
    groups: dict[tuple[str, Kind], list[Entry]] = {}
    for entry in storage.entries() if entries is None else entries:
        if any(part.startswith(".") for part in PurePosixPath(entry.path).parts):
            continue
        suffix = PurePosixPath(entry.path).suffix.lower()
        if suffix in SUFFIXES:
            groups.setdefault((entry.folder or ".", "images"), []).append(entry)
        elif suffix in VIDEO_SUFFIXES:
            groups[entry.path, "video"] = [entry]
        elif suffix == SUFFIX:
            match = RECORDING.fullmatch(entry.name)
            name = entry.path if match is None else f"{entry.folder}/{match[1]}".lstrip("/")
            groups.setdefault((name, "replay"), []).append(entry)
    found: list[Recording] = []
    for (name, kind), files in groups.items():
        if kind == "images":
            found += _of_images(storage, name, files)
        else:
            found.append(Recording(name, kind, tuple(sorted(files, key=lambda e: e.path))))
    return sorted(found, key=lambda r: r.name)


def _of_images(storage: Storage, name: str, files: list[Entry]) -> list[Recording]:
    files.sort(key=lambda e: natural_order(Path(e.name)))
    tiffs = [f for f in files if PurePosixPath(f.path).suffix.lower() in _TIFF]
    if not tiffs or not _is_stack(storage, tiffs[0]):
        return [Recording(name, "images", tuple(files))]
    single = tuple(f for f in files if f not in set(tiffs))
    images = [Recording(name, "images", single)] if single else []
    return [*images, *(Recording(f.path, "stack", (f,)) for f in tiffs)]


def _is_stack(storage: Storage, entry: Entry) -> bool:
    """Whether a TIFF holds several pictures; one that cannot be read is told of when its turn comes."""
    try:
        with storage.opened(entry.path) as stream:
            return tiff.count_pages(StoredFile(stream, entry.size)) > 1
    except (FormatError, OSError):
        return False
