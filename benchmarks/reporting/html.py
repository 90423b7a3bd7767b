"""Reports as one HTML file each: tables, plots and pictures that need no other file and no network.

Every function returns a piece of HTML in which all text is escaped; :func:`page` puts pieces together.
Plots are SVG and follow the reader's light or dark setting.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

COLOURS = 6
_LONG_CHARACTERS = 60  # of a cell, from which on its text is broken into lines
_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1c2024; --faint: #687076; --line: #d7dbdf; --panel: #f6f7f9;
  --good: #18794e; --bad: #c62a2f; --c0: #1668b8; --c1: #c2570c; --c2: #1c7d4d; --c3: #8e3bb0; --c4: #9a6700;
  --c5: #b3257a }
@media (prefers-color-scheme: dark) { :root { --back: #111315; --text: #e8eaed; --faint: #9ba1a6; --line: #34393e;
  --panel: #1a1d20; --good: #4cc38a; --bad: #ff8589; --c0: #6cb2ff; --c1: #ffa057; --c2: #5fd39a; --c3: #d19dff;
  --c4: #e8c14d; --c5: #ff8cc8 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem; max-width: 64rem; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0 } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem }
p { margin: .5rem 0 } .faint { color: var(--faint) }
.verdict { border-left: .4rem solid; padding: .6rem 1rem; background: var(--panel); margin: 1rem 0 }
.good { border-color: var(--good) } .bad { border-color: var(--bad) }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem .25rem 0; text-align: left; border-bottom: 1px solid var(--line) }
th { color: var(--faint); font-weight: 600 } td.number, th.number { text-align: right }
td.number { white-space: nowrap }
td.long { min-width: min(22rem, 50vw); overflow-wrap: anywhere }
td.yes { color: var(--good) } td.no { color: var(--bad); font-weight: 600 }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 1rem }
figure { margin: .5rem 0; max-width: 40rem } .broad { max-width: none }
figcaption { font-size: .9rem; color: var(--faint) }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(40%, 14rem), 1fr)); gap: 1rem }
svg { display: block; width: 100%; height: auto; overflow: visible } svg text { fill: var(--text); font-size: 13px }
.label { paint-order: stroke; stroke: var(--back); stroke-width: 4px; stroke-linejoin: round }
.grid { stroke: var(--line); fill: none } .frame { stroke: var(--faint); fill: none }
.picture { --c0: #2fd0ff; --c1: #ff7a2f; --c2: #5fe08a; --c3: #d19dff; --c4: #f5d33d; --c5: #ff8cc8 }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .9rem }
.legend i { display: inline-block; width: .8rem; height: .8rem; border-radius: .2rem; margin-right: .35rem }
"""


@dataclass(frozen=True)
class Mark:
    """Points on a picture: their name for the legend, and columns and rows in pixels (pixel centres are integers)."""

    name: str
    x: ArrayLike
    y: ArrayLike


def page(title: str, parts: Iterable[str], *, subtitle: str = "") -> str:
    """A whole document."""
    head = f'<p class="faint">{escape(subtitle)}</p>' if subtitle else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>{head}\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A headed part of a page."""
    return f"<section><h2>{escape(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def paragraph(text: str) -> str:
    """Running text."""
    return f"<p>{escape(text)}</p>"


def verdict(passed: bool, text: str, reasons: Sequence[str] = ()) -> str:
    """What the reader came for, with the reasons one per line."""
    lines = "".join(f"<br>{escape(reason)}" for reason in reasons)
    return f'<div class="verdict {"good" if passed else "bad"}"><strong>{escape(text)}</strong>{lines}</div>'


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; columns of numbers stand right, ``True`` and ``False`` are yes and no in colour, None is a dash."""
    rows = [list(row) for row in rows]
    right = [all(_numeric(row[i]) for row in rows) for i in range(len(columns))]
    head = "".join(
        f'<th class="number">{escape(c)}</th>' if r else f"<th>{escape(c)}</th>" for c, r in zip(columns, right)
    )
    body = "".join("<tr>" + "".join(map(_cell, row, right)) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def figures(*parts: str) -> str:
    """Plots side by side where there is room."""
    return f'<div class="figures">{"".join(parts)}</div>'


def pictures(*parts: str) -> str:
    """Pictures in rows."""
    return f'<div class="pictures">{"".join(parts)}</div>'


def picture(
    image: NDArray[Any], *, caption: str = "", low: float | None = None, high: float | None = None,
    marks: Sequence[Mark] = (),
) -> str:  # fmt: skip
    """``[H, W]`` as a grey picture, every pixel a square, with crosses on it.

    Args:
        image: of any real dtype.
        caption: below it.
        low, high: values of black and white; default: the image's own.
        marks: points, in the colours of a plot's series.
    """
    values = np.asarray(image, dtype=np.float64)
    finite = values[np.isfinite(values)]
    black = float(finite.min() if low is None and len(finite) else low or 0.0)
    white = float(finite.max(initial=black) if high is None else high)
    scaled = np.nan_to_num(255 * (values - black) / max(white - black, 1e-30), nan=0.0, posinf=255.0, neginf=0.0)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(np.round(scaled), 0, 255).astype(np.uint8)).save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    height, width = values.shape
    crosses = "".join(_crosses(mark, number, 0.03 * max(height, width)) for number, mark in enumerate(marks))
    return (
        f'<figure class="picture"><svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(caption)}">'
        f'<image width="{width}" height="{height}" style="image-rendering:pixelated" '
        f'href="data:image/png;base64,{data}"/>{crosses}</svg>'
        f"{caption_text(caption)}</figure>"
    )


def colour(number: int) -> str:
    """The colour of a series, by the reader's light or dark setting."""
    return f"var(--c{number % COLOURS})"


def legend(names: Sequence[str]) -> str:
    """Which colour is what; "" is left out."""
    items = (f'<span><i style="background:{colour(i)}"></i>{escape(n)}</span>' for i, n in enumerate(names) if n)
    text = "".join(items)
    return f'<div class="legend">{text}</div>' if text else ""


def number_text(value: float | None) -> str:
    """Three significant digits, exponents only where they help; a dash for None and NaN."""
    if value is None or value != value:
        return "-"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.1e}"


def _crosses(mark: Mark, number: int, arm: float) -> str:
    """Upright and diagonal crosses in turn: they stay apart where they lie on each other."""
    strokes = [(arm, 0.0), (0.0, arm)] if number % 2 == 0 else [(0.7 * arm, 0.7 * arm), (0.7 * arm, -0.7 * arm)]
    places = np.stack(np.broadcast_arrays(mark.x, mark.y), axis=-1).astype(np.float64).reshape(-1, 2) + 0.5
    path = "".join(f"M{x - u:.2f} {y - v:.2f}l{2 * u:.2f} {2 * v:.2f}" for x, y in places for u, v in strokes)
    halo, width = 0.6 * arm, 0.3 * arm  # dark around the colour: it must show on white pixels too
    return (
        f'<path d="{path}" stroke="#000" stroke-opacity="0.55" stroke-width="{halo:.3f}" fill="none"/>'
        f'<path d="{path}" stroke="{colour(number)}" stroke-width="{width:.3f}" fill="none"/>'
    )


def _numeric(value: Any) -> bool:
    """Whether a cell holds a number, perhaps one that is written out already, or nothing."""
    if isinstance(value, str):
        return value[:1] in "+-∞0123456789"
    return value is None or (isinstance(value, (int, float, np.number)) and not isinstance(value, bool))


def _cell(value: Any, right: bool) -> str:
    if isinstance(value, bool):
        return '<td class="yes">yes</td>' if value else '<td class="no">no</td>'
    text = value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else number_text(value)
    if right:
        return f'<td class="number">{escape(text)}</td>'
    return f'<td class="long">{escape(text)}</td>' if len(text) > _LONG_CHARACTERS else f"<td>{escape(text)}</td>"


def caption_text(text: str) -> str:
    """What stands under a figure."""
    return f"<figcaption>{escape(text)}</figcaption>" if text else ""
