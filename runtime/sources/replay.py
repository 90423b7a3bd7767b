"""Recordings as a source: ``replay:FILE``, a folder or a pattern."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from glint.errors import SourceError, SourceLostError, system_errors_as
from glint.runtime.sources.base import Skipped, Source
from glint.runtime.sources.recording_format import RECORDING, Missing, read_recording, recordings
from glint.runtime.sources.uri import parameters, positive, split_path
from glint.runtime.sources.waiting import Closed, Pacer
from glint.types import Frame, Gap


class ReplaySource(Source):
    """What a recorder has kept, bit by bit, with its times, indices, names and gaps.

    With a ``speed`` it is live: frames come at that multiple of their pace and carry the time at
    which they come; without, they come as fast as they are taken and carry the time of their capture.
    What is damaged or cut off is skipped and said; the rest is delivered.

    Raises:
        SourceError: on iteration, if a file is no recording or holds no frame.
        SourceLostError: on iteration, after the last frame, if frames or files in between are missing.
    """

    def __init__(self, uri: str, files: list[Path], speed: float | None = None) -> None:
        super().__init__(uri)
        self.files, self.speed = files, speed
        self.live = speed is not None
        self._pacer = Pacer()

    def __iter__(self) -> Iterator[Frame | Gap]:
        self.start_over()
        frames, start, missing, lacking = 0, None, 0, ""
        number: re.Match[str] | None = None  # of the file, in its name
        for path in self.files:
            last, number = number, RECORDING.fullmatch(path.name)
            if last is not None and number is not None and _lacks_between(last, number):
                self.skip(path.name, f"a file between {last[0]} and this one is missing")
                missing, lacking = missing + 1, self.skipped[-1].reason
            for item in read_recording(path):
                if isinstance(item, Skipped):
                    self.skip(item.name, item.reason)
                    if isinstance(item, Missing):
                        missing, lacking = missing + item.number, item.reason
                    continue
                frames += isinstance(item, Frame)
                if self.speed is None:
                    yield item
                    continue
                start = item.t_ns if start is None else start
                try:
                    now = self._pacer.wait(max(0, int((item.t_ns - start) / self.speed)))
                except Closed:
                    return
                yield replace(item, t_ns=now)
        if not frames:
            why = f"; the first: {self.skipped[0].reason}" if self.skipped else ""
            raise SourceError(
                f"{self.uri} holds no frame that can be read{why}",
                hint="is it a recording of glint? tar tf shows what it holds",
            )
        if missing:
            raise SourceLostError(
                f"{self.uri} lacks {missing} frames or files at least, e.g.: {lacking}",
                hint="all other frames were delivered",
            )

    def close(self) -> None:
        self._pacer.close()


def _lacks_between(last: re.Match[str], this: re.Match[str]) -> bool:
    return last[1] == this[1] and int(this[2]) > int(last[2]) + 1


def open_replay(uri: str) -> ReplaySource:
    """``replay:FILE|FOLDER|PATTERN[?speed=NUMBER|max]``.

    Raises:
        SourceError: if it names no recording, or a folder with several.
        InputError: if a parameter is unknown or malformed.
    """
    path, query = split_path(uri.removeprefix("replay:").removeprefix("//"))
    values = parameters(uri, query, {"speed": _speed})
    return ReplaySource(uri, _files(uri, path), values.get("speed"))


def _speed(text: str) -> float | None:
    try:
        return None if text == "max" else positive(text)
    except ValueError:
        raise ValueError("expected a positive number or max") from None


def _files(uri: str, path: str) -> list[Path]:
    if not path:
        raise SourceError(f"{uri} names no recording", hint="e.g. replay:FOLDER, replay:FILE.tar?speed=1")
    with system_errors_as(SourceError, uri):
        if Path(path).is_file():
            return [Path(path)]
        is_folder = Path(path).is_dir()
        # Path.glob takes no absolute pattern.
        files = recordings(Path(path)) if is_folder else sorted(Path(p) for p in glob.glob(path))  # noqa: PTH207
    if is_folder:
        return _only_run(uri, files)
    if not files:
        raise SourceError(
            f"{uri}: no such file or folder", hint="name the folder that --record wrote, or one of its .tar files"
        )
    return files


def _only_run(uri: str, files: list[Path]) -> list[Path]:
    """The files of a folder if they are of one run: times of different runs have nothing in common."""
    runs = sorted({match[1] for p in files if (match := RECORDING.fullmatch(p.name))})
    if not runs:
        raise SourceError(f"{uri} holds no recordings", hint="expected files that --record has written")
    if len(runs) > 1:
        raise SourceError(
            f"{uri} holds recordings of {len(runs)} runs, from {runs[0]} to {runs[-1]}",
            hint=f"replay one of them: replay:{files[0].parent}/{runs[-1]}-*.tar",
        )
    return files
