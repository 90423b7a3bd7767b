"""The sets of frames that a detector is trained and validated on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from glint.data.boxes import is_boxed
from glint.data.datasets import image_files
from glint.data.leaks import refuse_shared_names
from glint.errors import InputError


@dataclass(frozen=True)
class DataSet:
    """A folder of labelled frames and how often it is drawn from.

    Attributes:
        root: folder of masks (see :mod:`glint.data.datasets`) or of boxes (:mod:`glint.data.boxes`).
        share: of the crops with labels, relative to the other sets'; positive.
    """

    root: Path
    share: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.share) and self.share > 0):
            raise InputError(f"{self.root}: expected a positive share, got {self.share}")

    @property
    def boxed(self) -> bool:
        """Whether its targets have boxes instead of masks."""
        return is_boxed(self.root)

    @staticmethod
    def parse(text: str) -> DataSet:
        """``FOLDER`` or ``FOLDER=SHARE``.

        Raises:
            InputError: if the share is no positive number.
        """
        folder, equals, share = text.rpartition("=")
        if not equals or Path(text).is_dir():
            return DataSet(Path(text))
        try:
            return DataSet(Path(folder), float(share))
        except ValueError as error:
            raise InputError(f"--data {text}: {share!r} is no share", hint="--data FOLDER or FOLDER=SHARE") from error


def checked_sets(data: Path | Sequence[DataSet | Path]) -> tuple[DataSet, ...]:
    """The sets of a training run.

    Raises:
        InputError: if there is none, if one is given twice, or if a set trains on what it validates on.
        SourceError: if a list is missing.
    """
    given = [data] if isinstance(data, Path) else list(data)
    sets = tuple(d if isinstance(d, DataSet) else DataSet(d) for d in given)
    if not sets:
        raise InputError("training a detector needs labelled images", hint="--data FOLDER with images/ and masks/")
    places = [s.root.resolve() for s in sets]
    names = [p.name for p in places]
    if len(set(names)) < len(names):
        raise InputError(f"--data: two sets have one name: {', '.join(names)}", hint="give each set once")
    for one in sets:
        refuse_shared_names(one.root, "train", "val")
    return sets


def empty_frames(sets: Iterable[DataSet], folders: Iterable[Path]) -> list[tuple[str, list[Path], list[Path]]]:
    """Frames without targets: of each folder its name, what is trained on, and what is held back for measuring.

    Every second one, in the order of their names, is held back. A set's own are in ``backgrounds/``.

    Raises:
        SourceError: if a folder is missing or holds no image.
        InputError: if two folders hold frames of the same name.
    """
    own = [(s.root.resolve().name, s.root / "backgrounds") for s in sets if (s.root / "backgrounds").is_dir()]
    found, seen = [], dict[str, str]()
    for name, folder in (*own, *((f.resolve().name, f) for f in folders)):
        files = image_files(folder)
        for path in files:
            if path.stem in seen:
                raise InputError(
                    f"{folder}: there is a frame {path.stem!r} in {seen[path.stem]}, too",
                    hint="which frames a model has seen is told by their names; rename one",
                )
            seen[path.stem] = str(folder)
        found.append((name, files[::2], files[1::2]))
    return found
