"""Results as JSON lines, and beside their file the truth and the manifest."""

from __future__ import annotations

import json
import sys
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

from glint.errors import OutputError
from glint.files import append_whole, claim, refuse_existing, write_json
from glint.runtime.pipeline.pipeline import Result
from glint.runtime.sinks.base import Opening, Sink
from glint.runtime.sinks.records import gap_record
from glint.types import Gap

_Lines = TypeVar("_Lines", bound="Lines")


LINES_VERSION = 1
"""Of the lines, whose JSON Schema is ``line.schema.json`` beside this file."""


class RunFiles(Sink):
    """The JSON lines, and beside a file the truth, if it is known, and at the end the manifest."""

    def __init__(self, out: str | Path, *, overwrite: bool) -> None:
        self.lines = JsonLines(out, overwrite=overwrite)
        self._overwrite = overwrite
        self._truth: JsonLines | None = None
        path = self.lines.path
        if path is not None and not path.name:
            raise OutputError(f"--out {path} names no file", hint="e.g. --out targets.jsonl")
        # Nothing belongs beside standard output or a device such as /dev/null.
        self._file = None if path is None or (path.exists() and not path.is_file()) else path
        if self._file is not None:
            for ending in ("manifest.json", "truth.jsonl"):
                refuse_existing(beside(self._file, ending), overwrite=overwrite)

    def write(self, result: Result) -> None:
        frame = result.frame
        self.lines.write(result.to_dict())
        if self._file is not None and frame.truth is not None:
            if self._truth is None:
                self._truth = JsonLines(beside(self._file, "truth.jsonl"), overwrite=self._overwrite)
            self._truth.write({"frame": frame.index, "t_ns": frame.t_ns, "targets": frame.truth.records()})

    def gap(self, gap: Gap) -> None:
        self.lines.write(gap_record(gap))

    def close(self) -> None:
        self.lines.close()
        if self._truth is not None:
            self._truth.close()

    def finish(self, manifest: dict[str, Any]) -> None:
        """Write the manifest, after ``close``; a run without a single frame still leaves an (empty) file."""
        if self._file is not None:
            self.lines.open()
            self.lines.close()
            if self._truth is None:  # that of an earlier run is not the truth of these frames
                beside(self._file, "truth.jsonl").unlink(missing_ok=True)
            write_json(beside(self._file, "manifest.json"), manifest)


def beside(out: Path, ending: str) -> Path:
    """Where what belongs to an output stands."""
    return out.with_name(f"{out.stem}.{ending}")


class Lines:
    """A file of text, line by line; ``-`` is standard output.

    The file appears with its first line, so that a run that fails before has left nothing. Every line is handed
    to the system at once, so that a killed run has lost at most its last one; one that does not fit on the disk
    is taken back.

    Raises:
        OutputError: if the file exists and ``overwrite`` is not set, or cannot be written.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        self.path = None if str(path) == "-" else Path(path)
        self._overwrite = overwrite
        self._file: FileIO | None = None
        self._size = 0
        if self.path is not None:
            refuse_existing(self.path, overwrite=overwrite)
        elif sys.stdout is None:
            raise OutputError("there is no standard output: it was closed", hint="give the output a file")

    def __enter__(self: _Lines) -> _Lines:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self.open()  # a run without a single frame still leaves an (empty) file
        self.close()

    def open(self) -> None:
        """Create the file, if there is to be one and it is not there yet."""
        if self._file is None and self.path is not None:
            self._file = claim(self.path, overwrite=self._overwrite)

    def append(self, text: str) -> None:
        """Append whole lines."""
        self.open()
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


class JsonLines(Lines):
    """One JSON object per line."""

    def write(self, value: dict[str, Any]) -> None:
        """Append one object."""
        self.append(json.dumps(value, allow_nan=False) + "\n")


def open_sink(opening: Opening) -> Sink:
    """What ``--out`` asks for."""
    return RunFiles(opening.options["out"], overwrite=opening.options["overwrite"])
