"""Tables as text: for the terminal, and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def figure(value: float | None, digits: int = 2) -> str:
    """A number with that many decimals; a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def columns(rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Rows as aligned text, the first one the head; columns that are empty below it are left out.

    Args:
        rows: cells, all rows of one length.
        left: how many columns stand to the left; the others stand to the right.
    """
    kept = [i for i in range(len(rows[0])) if i == 0 or any(row[i] for row in rows[1:])]
    widths = {i: max(len(row[i]) for row in rows) for i in kept}
    return [
        "  ".join(row[i].ljust(widths[i]) if i < left else row[i].rjust(widths[i]) for i in kept).rstrip()
        for row in rows
    ]


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown: the first column stands left, all others right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
