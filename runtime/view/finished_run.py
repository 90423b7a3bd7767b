"""A finished run as it lies on the disk: its lines, the frames that they are about, and the truth if it is known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from glint.data.datasets import files_by_stem
from glint.errors import InputError, SourceError, system_errors_as
from glint.files import parse_json, read_json
from glint.images import read_image
from glint.metrics.matching import UNMIXING_MATCH_PX, match_points
from glint.runtime.sinks.json_lines import beside
from glint.runtime.sources.adjusted import AdjustedSource
from glint.runtime.sources.images import ImageSource
from glint.runtime.sources.open import open_frames
from glint.types import Frame

MASK_MATCH_PX = 3.0  # between a target and the centre of a spot of a mask, as detectors are scored
Line = dict[str, Any]
_LINES_HINT = "name the file that --out wrote"


class FinishedRun:
    """The lines of ``glint run --out``, any of them at any time.

    Args:
        lines: the file of JSON lines.
        frames: URI of the source; None: what the manifest beside the lines says.
        truth: ``*.truth.jsonl``, or a folder of masks named like the frames; None: the file beside the lines, if any.

    Raises:
        InputError: if the lines are none, or are about no frame.
        SourceError: if frames or truth are missing, or the source is live.
    """

    def __init__(self, lines: Path, frames: str | None = None, truth: Path | None = None) -> None:
        self.lines = [line for line in read_lines(lines) if "frame" in line]
        if not self.lines:
            raise InputError(f"{lines} holds no line of a frame", hint="expected what glint run --out has written")
        manifest_path = beside(lines, "manifest.json")
        manifest = read_json(manifest_path, what="manifest", kind=dict) if manifest_path.is_file() else {}
        uri = frames or manifest.get("source")
        if not uri:
            raise InputError(f"{manifest_path} does not tell the frames", hint="glint review LINES FRAMES")
        scale = manifest.get("scale")
        self.source = open_frames(
            uri, polarity=manifest.get("polarity"), scale=None if scale is None else (scale[0], scale[1])
        )
        if self.source.live:
            raise SourceError(f"{self.source.uri} is live: its frames are gone", hint="review what --record kept")
        self._frames = _Frames(self.source)
        known = beside(lines, "truth.jsonl")
        self._truth = _truth(truth if truth is not None else known if known.is_file() else None)

    def frame(self, row: int) -> Frame:
        """The frame of a line.

        Raises:
            SourceError: if it cannot be read any more.
        """
        return self._frames.at(self.lines[row]["frame"])

    def truth(self, row: int) -> list[tuple[float, float, bool]] | None:
        """True places of a line's frame, and whether each was missed; None if nobody knows."""
        line = self.lines[row]
        found = np.array([[t["x"], t["y"]] for t in line["targets"]], dtype=np.float64).reshape(-1, 2)
        if isinstance(self._truth, dict):
            key: Any = line["frame"] if line["frame"] in self._truth else line.get("name", "")
            places = self._truth.get(key)
            if isinstance(places, Path):
                places, limit = _centres(places), MASK_MATCH_PX
            else:
                limit = UNMIXING_MATCH_PX
            if places is None:
                return None
            distance = np.hypot(*(places[:, None] - found).transpose(2, 0, 1))
            hit = set(match_points(distance, limit)[0].tolist())
            return [(float(x), float(y), i not in hit) for i, (x, y) in enumerate(places)]
        return None

    def index(self) -> list[dict[str, Any]]:
        """What a list of the frames shows, in the order of the lines."""
        rows = []
        for row, line in enumerate(self.lines):
            truth = self.truth(row) if self._truth_is_cheap else None
            rows.append(
                {
                    "frame": line["frame"], "name": line.get("name", ""), "targets": len(line["targets"]),
                    "flags": sum(bool(t["flags"]) for t in line["targets"]),
                    "score": min((t["score"] for t in line["targets"]), default=None),
                    "missed": None if truth is None else sum(missed for _, _, missed in truth),
                }
            )  # fmt: skip
        return rows

    @property
    def _truth_is_cheap(self) -> bool:
        return isinstance(self._truth, dict) and not any(isinstance(v, Path) for v in self._truth.values())


def read_lines(path: Path) -> Iterator[Line]:
    """The objects of a file of JSON lines; one that a killed run left torn at the end is left out.

    Raises:
        InputError: if it is missing, or a line is no object.
    """
    with system_errors_as(InputError, str(path), hint=_LINES_HINT):
        content = path.read_bytes()
    texts = content.split(b"\n")
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            line = parse_json(text)
        except ValueError as error:
            if number == len(texts):
                return
            raise InputError(f"{path}, line {number} is not JSON: {error}", hint=_LINES_HINT) from error
        if not isinstance(line, dict):
            raise InputError(
                f"{path}, line {number}: expected an object, got {json.dumps(line)[:40]}", hint=_LINES_HINT
            )
        yield line


class _Frames:
    """Frames of a source by their numbers: files at once, others by playing on, or again from the start."""

    def __init__(self, source: AdjustedSource) -> None:
        self._source = source
        inner = source.inner
        self._files = inner.files if isinstance(inner, ImageSource) and inner.total == len(inner.files) else None
        self._playing: Iterator[Frame] | None = None
        self._last: Frame | None = None

    def at(self, index: int) -> Frame:
        if self._files is not None and index < len(self._files):
            one = AdjustedSource(
                ImageSource(str(self._files[index]), [self._files[index]]), polarity=self._source.polarity,
                scale=self._source.scale,
            )  # fmt: skip
            return next(one.frames())
        if self._last is not None and self._last.index == index:
            return self._last
        if self._playing is None or self._last is None or self._last.index > index:
            self._playing = self._source.frames()
        for frame in self._playing:
            if frame.index >= index:
                self._last = frame
                return frame
        self._playing = self._last = None
        raise SourceError(f"{self._source.uri} has no frame {index}", hint="are these the frames of the run?")


def _truth(path: Path | None) -> dict[Any, Any] | None:
    """Places ``[N, 2]`` by the number of the frame, or files of masks by its name."""
    if path is None:
        return None
    if path.is_dir():
        return dict(files_by_stem(path))
    return {
        line["frame"]: np.array([[t["x"], t["y"]] for t in line["targets"]], dtype=np.float64).reshape(-1, 2)
        for line in read_lines(path)
    }


def _centres(mask: Path) -> NDArray[np.float64]:
    labels, number = ndimage.label(read_image(mask) > 0, structure=np.ones((3, 3)))
    centres = ndimage.center_of_mass(labels > 0, labels, np.arange(1, number + 1))
    return np.array(centres, dtype=np.float64).reshape(-1, 2)[:, ::-1]
