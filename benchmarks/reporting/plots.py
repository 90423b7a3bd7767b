"""Plots for reports (``glint.benchmarks.reporting.html``): lines, points and histograms as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import ArrayLike, NDArray

from glint.benchmarks.reporting.html import caption_text, colour, legend

_WIDTH, _HEIGHT = 460, 290  # of a plot, in its own units; the browser scales it
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 12, 46
_LETTER, _LINE = 7.4, 14.0  # about the size of a letter of a label


@dataclass(frozen=True, eq=False)
class Series:
    """One line or cloud of points of a plot.

    Attributes:
        name: for the legend; "" for none.
        x, y: ``[N]``; values that are not finite, or not positive on a logarithmic axis, are left out.
        labels: of the points, ``[N]`` or none; "" labels nothing.
    """

    name: str
    x: ArrayLike
    y: ArrayLike
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Axis:
    """An axis of a plot: what it shows, whether it is logarithmic, and its range (default: that of the data)."""

    title: str
    log: bool = False
    low: float | None = None
    high: float | None = None


def line_plot(series: Sequence[Series], x: Axis, y: Axis, *, caption: str = "") -> str:
    """Lines through the points of each series, in their order."""
    plot = _Plot(x, y, [s.x for s in series], [s.y for s in series])
    for number, one in enumerate(series):
        points = plot.place(one)
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in points[np.isfinite(points).all(axis=1)])
        plot.draw(f'<path d="M{path}" fill="none" stroke="{colour(number)}" stroke-width="1.5"/>')
    plot.label_all(series)
    return plot.figure([s.name for s in series], caption)


def scatter(series: Sequence[Series], x: Axis, y: Axis, *, caption: str = "", diagonal: bool = False) -> str:
    """Points; ``diagonal`` adds the line on which y equals x."""
    plot = _Plot(x, y, [s.x for s in series], [s.y for s in series], square=diagonal)
    if diagonal:
        plot.diagonal()
    for number, one in enumerate(series):
        points = plot.place(one)
        # One path for all points: half the size of one element for each.
        path = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in points[np.isfinite(points).all(axis=1)])
        width = 7 if len(points) <= 50 else 3
        plot.draw(
            f'<path d="{path}" stroke="{colour(number)}" stroke-width="{width}" stroke-linecap="round" fill="none"/>'
        )
    plot.label_all(series)
    return plot.figure([s.name for s in series], caption)


def histogram(edges: ArrayLike, counts: ArrayLike, x: Axis, *, caption: str = "") -> str:
    """Bars of ``counts [N]`` between ``edges [N + 1]``."""
    border, height = np.asarray(edges, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    plot = _Plot(x, Axis("number", low=0.0), [border], [[0.0, max(height.max(initial=0.0), 1.0)]])
    left, right = plot.scale_x(border[:-1]), plot.scale_x(border[1:])
    base, top = float(plot.scale_y(np.zeros(1))[0]), plot.scale_y(height)
    for a, b, t, number in zip(left, right, top, height):
        if number > 0:
            plot.draw(
                f'<rect x="{a:.1f}" y="{t:.1f}" width="{max(b - a - 0.5, 0.5):.1f}" height="{base - t:.1f}" '
                f'fill="{colour(0)}"><title>{number:.6g}</title></rect>'
            )
    return plot.figure([], caption)


class _Plot:
    """A frame with two axes; what is drawn into it is kept in ``parts``."""

    def __init__(
        self, x: Axis, y: Axis, xs: Sequence[ArrayLike], ys: Sequence[ArrayLike], *, square: bool = False
    ) -> None:
        self.x, self.y = x, y
        self.range_x, self.range_y = _range(x, xs), _range(y, ys)
        if square:
            both = (min(self.range_x[0], self.range_y[0]), max(self.range_x[1], self.range_y[1]))
            self.range_x = self.range_y = both
        self.parts: list[str] = []
        self._boxes: list[tuple[float, float, float, float]] = []

    def scale_x(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * _share(values, self.x, self.range_x)

    def scale_y(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * _share(values, self.y, self.range_y)

    def place(self, series: Series) -> NDArray[np.float64]:
        """Where the points of a series lie, ``[M, 2]``; NaN where there is no place for them."""
        x, y = (np.asarray(v, dtype=np.float64) for v in (series.x, series.y))
        return np.stack([self.scale_x(x), self.scale_y(y)], axis=-1)

    def draw(self, svg: str) -> None:
        self.parts.append(svg)

    def diagonal(self) -> None:
        ends = np.asarray(self.range_x)
        (a, c), (b, d) = self.scale_x(ends), self.scale_y(ends)
        self.draw(f'<path class="frame" d="M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}" stroke-dasharray="4 4"/>')

    def label_all(self, series: Sequence[Series]) -> None:
        """Words beside points, above all that is drawn."""
        for number, one in enumerate(series):
            self._label(self.place(one), one.labels, number)

    def _label(self, points: NDArray[np.float64], labels: Sequence[str], number: int) -> None:
        """Where there is room: right, left, above or below."""
        for (x, y), text in zip(points, labels):
            if not text or not math.isfinite(x + y):
                continue
            width = _LETTER * len(text)
            places = [(x + 7, y + 4), (x - 7 - width, y + 4), (x - width / 2, y - 8), (x - width / 2, y + 18)]
            free = next((place for place in places if self._free(*place, width)), None)
            if free is None:
                continue
            left, base = free
            self._boxes.append((left, base - _LINE, left + width, base))
            self.draw(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour(number)}"/>'
                f'<text class="label" x="{left:.1f}" y="{base:.1f}">{escape(text)}</text>'
            )

    def _free(self, left: float, base: float, width: float) -> bool:
        inside = left >= _LEFT and left + width <= _WIDTH and base - _LINE >= _TOP and base <= _HEIGHT - _BOTTOM
        return inside and all(
            left + width <= a or c <= left or base <= b or d <= base - _LINE for a, b, c, d in self._boxes
        )

    def figure(self, names: Sequence[str], caption: str) -> str:
        right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        parts = [f'<rect class="frame" x="{_LEFT}" y="{_TOP}" width="{right - _LEFT}" height="{bottom - _TOP}"/>']
        for value in ticks(self.range_x, self.x.log):
            at = float(self.scale_x(np.array([value]))[0])
            parts.append(f'<path class="grid" d="M{at:.1f} {_TOP}V{bottom}"/>')
            parts.append(f'<text x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">{tick_text(value)}</text>')
        for value in ticks(self.range_y, self.y.log):
            at = float(self.scale_y(np.array([value]))[0])
            parts.append(f'<path class="grid" d="M{_LEFT} {at:.1f}H{right}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{tick_text(value)}</text>')
        middle = (_TOP + bottom) / 2
        parts.append(
            f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(self.x.title)}</text>'
        )
        parts.append(
            f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">{escape(self.y.title)}</text>'
        )
        drawing = "".join(parts + self.parts)
        return (
            f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(caption)}">{drawing}</svg>'
            f"{legend(names)}{caption_text(caption)}</figure>"
        )


def _range(axis: Axis, data: Sequence[ArrayLike]) -> tuple[float, float]:
    """Ends of an axis, with a little room about the data where the ends are not given."""
    values = np.concatenate([np.asarray(d, dtype=np.float64).ravel() for d in data] or [np.zeros(0)])
    values = values[np.isfinite(values) & ((values > 0) | (not axis.log))]
    if not len(values):
        values = np.array([1.0, 10.0])
    low, high = float(values.min()), float(values.max())
    if axis.log:
        room = max((high / low) ** 0.04, 1.05)
        return axis.low or low / room, axis.high or high * room
    room = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room if axis.low is None else axis.low, high + room if axis.high is None else axis.high


def _share(values: NDArray[np.float64], axis: Axis, ends: tuple[float, float]) -> NDArray[np.float64]:
    """Where values lie on an axis, 0 to 1; NaN where a logarithm has no place for them."""
    low, high = ends
    if not axis.log:
        return (values - low) / (high - low)
    positive = np.where(values > 0, values, np.nan)
    share: NDArray[np.float64] = np.log(positive / low) / math.log(high / low)
    return share


def ticks(ends: tuple[float, float], log: bool) -> list[float]:
    """Three to ten round numbers."""
    low, high = ends
    if log and 10 <= high / low < 1000:
        first, last = math.floor(math.log10(low)), math.floor(math.log10(high))
        return [t for e in range(first, last + 1) for m in (1, 2, 5) if low <= (t := m * 10.0**e) <= high]
    if log and high / low >= 1000:
        first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
        step = max(1, -(-(last - first) // 6))
        return [10.0**e for e in range(first, last + 1, step)]
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step_size = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.99)
    return [i * step_size for i in range(math.ceil(low / step_size - 1e-9), math.floor(high / step_size + 1e-9) + 1)]


def tick_text(value: float) -> str:
    """A tick in few letters."""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:g}"
    if 1e4 <= abs(value) < 1e6:
        return f"{value / 1000:g}k"
    digits, power = f"{value:.0e}".split("e")
    return f"{digits}e{int(power)}"
