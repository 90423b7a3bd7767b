"""Tables as text."""

from glint.benchmarks.reporting.text import columns, figure, markdown_table


def test_cells_are_aligned_and_empty_columns_are_left_out():
    rows = [
        ["", "kind", "score", "none", "note"],
        ["first", "a", "1.5", "", ""],
        ["second", "longer", "-12.5", "", "(x)"],
    ]
    assert columns(rows) == [
        "          kind  score  note",
        "first        a    1.5",
        "second  longer  -12.5   (x)",
    ]
    assert columns(rows, left=2) == [
        "        kind    score  note",
        "first   a         1.5",
        "second  longer  -12.5   (x)",
    ]


def test_a_figure_that_nobody_knows_is_a_dash():
    assert (figure(None), figure(1.005, 1), figure(-2.0)) == ("-", "1.0", "-2.00")


def test_a_table_in_markdown():
    assert markdown_table(["a", "b"], [["x", "1"]]) == ["| a | b |", "| --- | ---: |", "| x | 1 |"]
