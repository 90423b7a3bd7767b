"""Frames brought to what the detector looks for (bright on dark, DN), and a first look at whether they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from glint.choices import Polarity
from glint.cli import talk
from glint.errors import InputError, SourceError
from glint.processing.layout import Area, Layout, looks_swapped
from glint.processing.marks import drawn_marks
from glint.runtime.sources.base import Source
from glint.runtime.sources.uri import Converter, one_of
from glint.types import Frame, Gap

POLARITIES: tuple[Polarity, ...] = get_args(Polarity)
Scale = tuple[float, float] | Literal["auto"]
PLAIN = Layout()
FULL_DN = 16383.0  # to which a scale brings its greater end: a sensor of 14 bits

_KELVIN, _KELVIN_SPREAD = (150.0, 1000.0), 20.0
_LARGEST_STRIP_SHARE = 0.25  # of a frame, that may be left out for the marks in it
_LEAST_SIDE_PX = 32  # pixels of a frame whose edges say something
_STRANGE_SHARE = 0.2  # share of a row's pixels that are far from all of the picture


class AdjustedSource(Source):
    """Another source's frames, turned and scaled, with warnings about the first one.

    Args:
        inner: where they come from.
        polarity: ``black`` where targets are dark: values are turned at their full scale; ``both`` leaves them and asks
            for targets of either kind.
        scale: values that become 0 and 16383 DN (``float32``); ``auto``: least and greatest of the first frame.
        layout: where the picture and the bits of its values are.
        turn_at: value at which dark targets are turned; None: what the first frame tells.

    Raises:
        SourceError: on iteration, if the first frame does not fit what is asked; a later one is skipped.
    """

    def __init__(
        self, inner: Source, *, polarity: Polarity = "white", scale: Scale | None = None, layout: Layout = PLAIN,
        turn_at: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(inner.uri)
        self.inner, self.polarity, self.scale, self.layout = inner, polarity, scale, layout
        self.turn_at = turn_at
        self.total, self.live = inner.total, inner.live
        self.size = inner.size if layout == PLAIN else None
        self.skipped, self.skips = inner.skipped, inner.skips

    @property
    def missing(self) -> int:
        """Of the inner source."""
        return self.inner.missing

    @missing.setter
    def missing(self, number: int) -> None:
        """Only the inner source counts."""

    def refuse_collisions(self, folder: Path | None) -> None:
        self.inner.refuse_collisions(folder)

    def close(self) -> None:
        self.inner.close()

    def __iter__(self) -> Iterator[Frame | Gap]:
        first = True
        for item in self.inner:
            if isinstance(item, Gap):
                yield item
                continue
            try:
                if first:
                    self._shift = self.layout.shift_of(item)
                frame = self.layout.mended(item, self._shift)
            except SourceError as error:
                if first:
                    raise SourceError(f"{self.uri}: {error}", hint=error.hint) from error
                self.inner.skip(item.name or f"frame {item.index}", str(error))
                continue
            if first:
                self._prepare(frame)
            frame = self._adjusted(frame)
            if first:
                for warning in warnings_of(frame):
                    talk(f"warning: {self.uri}: {warning}")
            first = False
            yield frame

    def _prepare(self, frame: Frame) -> None:
        if self.scale == "auto":
            low, high = float(frame.data.min()), float(frame.data.max())
            if low == high:
                raise SourceError(f"{self.uri}: all pixels are {low:g}: no scale can be told", hint="--scale MIN,MAX")
            self.scale = low, high
            talk(f"{self.uri}: scale {low:g},{high:g} of the first frame")
        if self.turn_at is None:
            self.turn_at = frame.full_scale or _top(frame.data)

    def _adjusted(self, frame: Frame) -> Frame:
        turn_at = 0.0 if self.turn_at is None else self.turn_at
        if self.polarity == "black":
            frame = replace(frame, data=_turned(frame.data, turn_at))
        if self.scale is not None and self.scale != "auto":
            low, high = self.scale
            if self.polarity == "black":
                low, high = turn_at - high, turn_at - low
            factor = FULL_DN / (high - low)
            data = ((frame.data.astype(np.float64) - low) * factor).astype(np.float32)
            full = None if frame.full_scale is None else (frame.full_scale - low) * factor
            frame = replace(frame, data=data, full_scale=full)
        return replace(frame, dark_too=True) if self.polarity == "both" else frame


def _top(data: NDArray[Any]) -> float:
    return float(data.max()) if data.dtype.kind == "f" else float(np.iinfo(data.dtype).max)


def _turned(data: NDArray[Any], top: float) -> NDArray[Any]:
    if data.dtype.kind == "f":
        return (top - data).astype(data.dtype)
    return (int(top) - np.minimum(data, int(top))).astype(data.dtype)


def warnings_of(frame: Frame) -> list[str]:
    """What about a frame speaks against its being an infrared picture in DN, with the option that mends it."""
    data, found = frame.data, []
    spread = float(data.std())
    if data.dtype.kind == "f" and 0 < spread < 1:
        found.append(
            f"values from {data.min():g} to {data.max():g} spread by {spread:.2g}: differences below 1 DN are taken "
            "for nothing; --scale auto or --scale MIN,MAX brings them to DN"
        )
    elif data.dtype.kind == "f" and spread < _KELVIN_SPREAD and _KELVIN[0] < data.min() and data.max() < _KELVIN[1]:
        found.append(
            f"values from {data.min():g} to {data.max():g} look like kelvin; --scale MIN,MAX, e.g. 250,350, makes "
            "DN of them"
        )
    if frame.full_scale is not None and float(data.max()) > 1.1 * frame.full_scale:
        found.append(
            f"values up to {data.max():g} exceed the full scale of {frame.full_scale:g} and count as saturated; "
            "give the bits that the values have, or align=msb if they stand at the top of 16 bits"
        )
    if looks_swapped(data):
        found.append("neighbours are alike only with their bytes turned: endian=swap")
    inner = picture_of(data)
    if inner is not None:
        x, y, width, height = inner
        found.append(
            f"rows or columns at the edge are unlike the picture (telemetry, bars?); --roi {x},{y},{width},{height} "
            "leaves them out"
        )
    marks = drawn_marks(data, dark_too=frame.dark_too)
    if marks.any():
        found.append(
            f"{int(marks.sum())} pixels look drawn (text, a reticle?) and may be taken for targets; switch the "
            f"camera's overlay off, or --dead-pixels auto replaces what never changes{_beside(marks)}"
        )
    return found


def _beside(marks: NDArray[np.bool_]) -> str:
    """The option that leaves marks out that all lie at one side, in a quarter of the frame."""
    height, width = marks.shape
    rows, columns = (np.flatnonzero(marks.any(axis=axis)) for axis in (1, 0))
    sides = {
        (0, int(rows[-1]) + 2, width, height - int(rows[-1]) - 2): (int(rows[-1]) + 2) / height,
        (0, 0, width, int(rows[0]) - 1): 1 - (int(rows[0]) - 1) / height,
        (int(columns[-1]) + 2, 0, width - int(columns[-1]) - 2, height): (int(columns[-1]) + 2) / width,
        (0, 0, int(columns[0]) - 1, height): 1 - (int(columns[0]) - 1) / width,
    }
    area, lost = min(sides.items(), key=lambda side: side[1])
    return f", or --roi {','.join(map(str, area))} leaves them out" if lost <= _LARGEST_STRIP_SHARE else ""


def picture_of(data: NDArray[Any]) -> tuple[int, int, int, int] | None:
    """x, y, width and height of the picture if rows or columns at the edges are none of it, else None.

    A row is none if a fifth of its pixels lie further from the values of the middle than these spread.
    """
    height, width = data.shape
    if min(data.shape) < _LEAST_SIDE_PX:
        return None
    middle = data[height // 4 : -(height // 4), width // 4 : -(width // 4)]
    low, high = (float(v) for v in np.percentile(middle, (0.1, 99.9)))
    # A smooth picture may be darker at its edges, but not by several times of all that its middle spans.
    reach = max(3 * (high - low), 1.0 if data.dtype.kind == "u" else 1e-6)
    strange = (data < low - reach) | (data > high + reach)
    if high == low:
        return None
    top, bottom = _ends(strange[:, width // 4 : -(width // 4)].mean(axis=1), strange.mean(axis=1))
    left, right = _ends(strange[height // 4 : -(height // 4)].mean(axis=0), np.zeros(width))
    if not (top or bottom or left or right):
        return None
    return left, top, width - left - right, height - top - bottom


def _ends(*shares: NDArray[np.float64]) -> tuple[int, int]:
    """How many lines at the two ends are strange, at most a quarter of all at each."""
    lines = np.max(shares, axis=0) > _STRANGE_SHARE
    quarter = len(lines) // 4
    first = int(np.argmin(lines[:quarter])) if not lines[:quarter].all() else quarter
    last = int(np.argmin(lines[::-1][:quarter])) if not lines[::-1][:quarter].all() else quarter
    return first, last


def parse_scale(text: str) -> Scale:
    """``auto`` or ``MIN,MAX``.

    Raises:
        ValueError: if it is neither.
    """
    if text == "auto":
        return "auto"
    numbers = [float(part) for part in text.split(",")]
    if len(numbers) != 2 or not (np.isfinite(numbers).all() and numbers[0] < numbers[1]):
        raise ValueError("expected auto or MIN,MAX")
    return numbers[0], numbers[1]


def area(text: str) -> Area:
    """Converter: ``X,Y,W,H``."""
    numbers = [int(part) if part.isascii() and part.isdigit() and len(part) < 6 else -1 for part in text.split(",")]
    if len(numbers) != 4 or min(numbers) < 0 or min(numbers[2:]) < 1:
        raise ValueError("expected X,Y,W,H in pixels, e.g. 0,2,640,512")
    return numbers[0], numbers[1], numbers[2], numbers[3]


LAYOUT: dict[str, Converter] = {
    "crop": area, "align": one_of("msb"), "endian": one_of("swap"), "deinterlace": one_of("top", "bottom"),
}  # fmt: skip


def layout_of(values: dict[str, Any]) -> Layout:
    """The layout that parameters of a URI ask for."""
    return Layout(values.get("crop"), "endian" in values, "align" in values, values.get("deinterlace"))


def adjusted(
    source: Source, polarity: str | None, scale: Scale | str | None, layout: Layout = PLAIN,
    turn_at: float | None = None,
) -> AdjustedSource:  # fmt: skip
    """A source as options or parameters ask for it.

    Raises:
        InputError: if one of them is malformed.
    """
    if polarity not in (None, *POLARITIES):
        raise InputError(
            f"polarity: expected {', '.join(POLARITIES[:-1])} or {POLARITIES[-1]}, got {polarity!r}",
            hint="white: targets are brighter than what surrounds them; black: darker",
        )
    try:
        wanted = parse_scale(scale) if isinstance(scale, str) else scale
    except ValueError as error:
        raise InputError(f"scale={scale!r}: {error}", hint="e.g. --scale 0,1") from error
    chosen: Polarity = next((known for known in POLARITIES if known == polarity), "white")
    return AdjustedSource(source, polarity=chosen, scale=wanted, layout=layout, turn_at=turn_at)
