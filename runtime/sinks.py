"""Where results go: JSON lines, flushed frame by frame."""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from glint.errors import OutputError
from glint.files import refuse_existing
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

    The file appears with its first line, so that a run that fails before has left nothing, and
    every line is flushed, so that a killed run has lost at most its last line.

    Raises:
        OutputError: if the file exists and ``overwrite`` is not set, or cannot be written.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        self.path = None if str(path) == "-" else Path(path)
        self._stream: TextIO | None = None
        if self.path is not None:
            refuse_existing(self.path, overwrite=overwrite)

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.open()  # a run without a single frame still leaves an (empty) file
        if self._stream is not None and self.path is not None:
            self._stream.close()

    def open(self) -> TextIO:
        """The stream, created if need be."""
        if self._stream is None:
            try:
                if self.path is not None:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                self._stream = sys.stdout if self.path is None else self.path.open("w", encoding="utf-8")
            except OSError as error:
                raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from error
        return self._stream

    def write(self, value: dict[str, Any]) -> None:
        """Append one object."""
        stream = self.open()
        try:
            stream.write(json.dumps(value, allow_nan=False) + "\n")
            stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"cannot write {self.path or 'standard output'}: {error.strerror or error}") from error
