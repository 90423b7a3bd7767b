"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def figure(value: float | None, digits: int) -> str:
    """A number with that many decimals; a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column stands left, all others right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
