"""Intervals one below the other, and the budget behind them."""

import re
from xml.etree import ElementTree

import pytest

from glint.benchmarks.reporting.interval_plot import Interval, interval_plot

ROWS = [Interval("IoU <a>", -0.3, 0.1, 0.5, True), Interval("Pd", -2.0, -1.0, -0.5, False), Interval("F1", 0, 0, 0)]


def drawing(**options):
    figure = interval_plot(ROWS, "change, points", **options)
    return ElementTree.fromstring(re.search("<svg.*</svg>", figure)[0])  # noqa: S314  (our own)


def test_a_row_is_a_bar_with_its_value_between_its_ends():
    svg = drawing()
    bars = [p.get("d") for p in svg.iter("path") if p.get("stroke-width")]
    ends = [tuple(float(v) for v in re.fullmatch(r"M([\d.]+) [\d.]+H([\d.]+)", d).groups()) for d in bars]
    dots = [float(c.get("cx")) for c in svg.iter("circle")]
    assert len(ends) == len(dots) == 3
    assert all(low <= dot <= high for (low, high), dot in zip(ends, dots, strict=True))
    assert (dots[0] - ends[0][0]) / (ends[0][1] - ends[0][0]) == pytest.approx(0.5, abs=0.01)
    assert [c.get("fill") for c in svg.iter("circle")] == ["var(--good)", "var(--bad)", "var(--c0)"]
    assert "IoU <a>" in [t.text for t in svg.iter("text")]


def test_the_band_is_the_budget():
    svg = drawing(band=(-0.3, 0.3))
    (band,) = svg.iter("rect")
    left, right = float(band.get("x")), float(band.get("x")) + float(band.get("width"))
    dots = [float(c.get("cx")) for c in svg.iter("circle")]
    assert left < dots[0] < right and dots[1] < left
    assert next(iter(drawing().iter("rect")), None) is None


def test_nothing_gives_no_plot():
    assert interval_plot([], "x") == ""
