"""Where results go: what a sink is, and JSON lines."""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from glint.errors import OutputError
from glint.files import append_whole, refuse_existing
from glint.runtime.pipeline import Result
from glint.types import Gap


class Sink(ABC):
    """What takes the results of a run, one by one and in order, in a thread of its own."""

    @abstractmethod
    def write(self, result: Result) -> None:
        """Take one result.

        Raises:
            OutputError: if it cannot be written; the run ends.
        """

    def gap(self, gap: Gap) -> None:  # noqa: B027  (not every output shows gaps)
        """Take note of a gap in the source."""

    def close(self) -> None:  # noqa: B027
        """Finish what is open, so that what was written so far is valid."""


class JsonLines:
    """One JSON object per line; ``-`` is standard output.

    The file appears with its first line, so that a run that fails before has left nothing. Every line is handed
    to the system at once, so that a killed run has lost at most its last one; one that does not fit on the disk
    is taken back.

    Raises:
        OutputError: if the file exists and ``overwrite`` is not set, or cannot be written.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        self.path = None if str(path) == "-" else Path(path)
        self._file: FileIO | None = None
        self._size = 0
        if self.path is not None:
            refuse_existing(self.path, overwrite=overwrite)

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.open()  # a run without a single frame still leaves an (empty) file
        self.close()

    def open(self) -> None:
        """Create the file, if there is to be one and it is not there yet."""
        if self._file is None and self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = FileIO(self.path, "w")
            except OSError as error:
                raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from error

    def write(self, value: dict[str, Any]) -> None:
        """Append one object."""
        self.open()
        text = json.dumps(value, allow_nan=False) + "\n"
        try:
            if self._file is None:
                sys.stdout.write(text)
                sys.stdout.flush()
            else:
                self._size = append_whole(self._file, text.encode(), self._size)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"cannot write {self.path or 'standard output'}: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the file; standard output stays open."""
        if self._file is not None:
            self._file.close()
