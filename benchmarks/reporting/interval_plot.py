"""A plot of values with their intervals, one below the other, and of the budget that they are to keep to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from glint.benchmarks.reporting.html import caption_text, colour
from glint.benchmarks.reporting.plots import tick_text, ticks

_WIDTH, _LEFT, _RIGHT = 460, 16, 24  # in units of the plot; the browser scales it
_ROW, _BAR, _TOP, _BOTTOM = 40, 28, 4, 44  # a row's label stands above its bar
_MOST_WIDTH_REM = 32  # of the picture, so that its text is that of the page


@dataclass(frozen=True)
class Interval:
    """A value between the ends of its interval; ``good`` is whether it keeps to the budget, None if there is none."""

    label: str
    low: float
    value: float
    high: float
    good: bool | None = None


def interval_plot(
    rows: Sequence[Interval], title: str, *, band: tuple[float, float] | None = None,
    ends: tuple[float, float] | None = None, caption: str = "",
) -> str:  # fmt: skip
    """Bars from the low to the high end of each interval, a dot at its value.

    Args:
        rows: from above; none gives no plot.
        title: of the axis, with the unit.
        band: the budget, drawn as a band.
        ends: of the axis; default: what the rows and the band take.
        caption: below.
    """
    if not rows:
        return ""
    values = [v for row in rows for v in (row.low, row.high)] + list(band or ())
    room = 0.05 * (max(values) - min(values)) or 0.5
    low, high = ends or (min(values) - room, max(values) + room)
    bottom = _TOP + _ROW * len(rows)

    def at(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - low) / (high - low)

    parts = []
    if band is not None:
        parts.append(
            f'<rect x="{at(band[0]):.1f}" y="{_TOP}" width="{at(band[1]) - at(band[0]):.1f}" height="{bottom - _TOP}" '
            'fill="var(--good)" fill-opacity="0.15"/>'
        )
    for value in ticks((low, high), log=False):
        parts.append(f'<path class="grid" d="M{at(value):.1f} {_TOP}V{bottom}"/>')
        parts.append(f'<text x="{at(value):.1f}" y="{bottom + 17}" text-anchor="middle">{tick_text(value)}</text>')
    for number, row in enumerate(rows):
        y = _TOP + _ROW * number + _BAR
        paint = colour(0) if row.good is None else "var(--good)" if row.good else "var(--bad)"
        parts.append(f'<text class="label" x="{_LEFT}" y="{y - 11}">{escape(row.label)}</text>')
        parts.append(f'<path d="M{at(row.low):.1f} {y}H{at(row.high):.1f}" stroke="{paint}" stroke-width="5"/>')
        parts.append(f'<circle cx="{at(row.value):.1f}" cy="{y}" r="5" fill="{paint}"/>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{bottom + 38}" text-anchor="middle">{escape(title)}</text>')
    return (
        f'<figure style="max-width:{_MOST_WIDTH_REM}rem"><svg viewBox="0 0 {_WIDTH} {bottom + _BOTTOM}" role="img" '
        f'aria-label="{escape(caption)}">{"".join(parts)}</svg>{caption_text(caption)}</figure>'
    )
