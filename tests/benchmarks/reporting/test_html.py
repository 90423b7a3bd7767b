"""Reports: escaped, self-contained, and plots that put things where they belong."""

import base64
import io
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from glint.benchmarks.reporting.html import Mark, legend, number_text, page, paragraph, picture, section, table, verdict
from glint.benchmarks.reporting.plots import Axis, Series, histogram, line_plot, scatter, ticks

NASTY = "<script>alert(\"x\")</script> & 'more'"


class Reader(HTMLParser):
    """Tags and text of a document."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def svg(html):
    """The drawing in a figure, which must be well-formed."""
    return ElementTree.fromstring(re.search(r"<svg.*?</svg>", html, re.DOTALL)[0])  # noqa: S314  (our own text)


def points(html):
    """Where the strokes of the plots' points or lines start and go."""
    paths = [e.get("d") for e in svg(html).iter("path") if e.get("class") is None]
    return [[tuple(map(float, p)) for p in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path)] for path in paths]


def test_nothing_of_the_text_becomes_markup_and_nothing_is_fetched():
    series = [Series(NASTY, [1, 2], [3, 4], [NASTY, NASTY])]
    axis = Axis(NASTY)
    html = page(NASTY, [
        section(NASTY, paragraph(NASTY), table([NASTY], [[NASTY]]), verdict(False, NASTY, [NASTY])),
        scatter(series, axis, axis, caption=NASTY), line_plot(series, axis, axis, caption=NASTY),
        histogram([0, 1], [2], axis, caption=NASTY), picture(np.eye(3), caption=NASTY),
    ], subtitle=NASTY)  # fmt: skip
    reader = Reader(html)
    assert "script" not in {tag for tag, _ in reader.tags}
    assert reader.text.count(NASTY) >= 14
    for _, attributes in reader.tags:
        assert "src" not in attributes
        assert attributes.get("href", "data:image/png").startswith("data:image/png")


def test_a_table_shows_verdicts_gaps_and_numbers_on_the_right():
    html = table(["name", "value", "good"], [["a", 0.012345, True], ["b", None, False], ["c", 1234567, True]])
    reader = Reader(html)
    assert "0.0123" in reader.text and "1,234,567" in reader.text
    classes = [a.get("class") for tag, a in reader.tags if tag == "td"]
    assert classes == [None, "number", "yes", None, "number", "no", None, "number", "yes"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (float("nan"), "-"),
        (0, "0"),
        (12.345, "12.3"),
        (45678.9, "45,679"),
        (1e-5, "1.0e-05"),
        (-0.5, "-0.5"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert number_text(value) == text


def test_points_lie_where_their_values_say():
    (found,) = points(scatter([Series("", [0, 1, 2], [0, 1, 4])], Axis("x"), Axis("y")))
    (x0, y0), (x1, y1), (x2, y2) = found
    assert x2 - x1 == pytest.approx(x1 - x0, abs=0.2)
    assert y1 - y2 == pytest.approx(3 * (y0 - y1), abs=0.5)  # up is more


def test_a_logarithmic_axis_leaves_out_what_has_no_logarithm():
    (found,) = points(
        line_plot([Series("", [1, 10, 100, 0, -5, np.nan], [1, 2, 3, 4, 5, 6])], Axis("x", log=True), Axis("y"))
    )
    assert len(found) == 3
    (x0, _), (x1, _), (x2, _) = found
    assert x2 - x1 == pytest.approx(x1 - x0, abs=0.2)


def test_labels_do_not_lie_on_each_other():
    series = Series("", [0.5, 0.5001, 0.5002, 1, 0], [0.5, 0.5001, 0.5, 1, 0], ["first", "second", "third", "", ""])
    texts = [e for e in svg(scatter([series], Axis("x"), Axis("y"))).iter("text") if e.text in series.labels]
    places = [(float(e.get("x")), float(e.get("y"))) for e in texts]
    assert len(places) == len(set(places)) == 3


def test_bars_are_as_high_as_their_counts():
    bars = [e for e in svg(histogram([1, 10, 100, 1000], [4, 0, 2], Axis("x", log=True))).iter("rect") if e.get("fill")]
    heights = [float(e.get("height")) for e in bars]
    assert len(heights) == 2 and heights[0] == pytest.approx(2 * heights[1], abs=0.2)


def test_plots_without_data_are_frames():
    for html in (
        scatter([], Axis("x"), Axis("y")),
        histogram([1, 2], [0], Axis("x")),
        line_plot([Series("", [], [])], Axis("x", log=True), Axis("y")),
    ):
        assert not [p for p in points(html) if p]


def test_a_picture_holds_the_pixels_and_its_marks():
    image = np.arange(12.0).reshape(3, 4)
    html = picture(image, low=0, high=11, marks=[Mark("truth", [1.0], [2.0])])
    data = base64.b64decode(re.search(r"base64,([^\"]+)", html)[1])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), np.round(255 * image / 11).astype(np.uint8))
    path = next(e for e in svg(html).iter("path"))
    strokes = np.array(re.findall(r"M(-?[\d.]+) (-?[\d.]+)l(-?[\d.]+) (-?[\d.]+)", path.get("d")), dtype=float)
    assert strokes[:, :2] + strokes[:, 2:] / 2 == pytest.approx(np.array([[1.5, 2.5]] * 2))  # pixel centres


@pytest.mark.parametrize("image", [np.full((2, 2), np.nan), np.zeros((2, 2)), np.array([[0, np.inf], [1, np.nan]])])
def test_a_picture_of_nothing_is_still_a_picture(image):
    assert svg(picture(image)) is not None


def test_a_legend_names_what_has_a_name():
    assert Reader(legend(["a", "", "b"])).text == "ab"
    assert legend([""]) == ""


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_and_inside(low, width):
    high = low + width
    found = ticks((low, high), False)
    assert 2 <= len(found) <= 11
    assert min(found) >= low - 1e-6 * width - 1e-9 * abs(low) and max(found) <= high + 1e-6 * width + 1e-9 * abs(high)


@given(st.floats(1e-12, 1e6), st.floats(1.06, 1e18))
def test_ticks_of_a_logarithmic_axis_are_few_and_inside(low, ratio):
    found = ticks((low, low * ratio), True)
    assert 1 <= len(found) <= 11
    assert all(low * (1 - 1e-6) <= t <= low * ratio * (1 + 1e-6) for t in found)


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ((7.0, 560.0), [10, 20, 50, 100, 200, 500]),
        ((0.3, 4.0), [0.5, 1, 2]),
        ((2.0, 9.0), [2, 4, 6, 8]),
        ((3.0, 2e5), [10, 100, 1e3, 1e4, 1e5]),
    ],
)
def test_ticks_of_a_logarithmic_axis_lie_where_its_data_do(ends, expected):
    assert ticks(ends, True) == pytest.approx(expected)
