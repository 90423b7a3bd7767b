"""The page and the text of a report: valid, self-contained, and saying what the report says."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from bench_reports import measurement, report, simple

from glint.benchmarks.bench.cases import BenchCase
from glint.benchmarks.bench.page import page_of, summary
from glint.benchmarks.bench.text import columns, figure, text_of

VOID = {"meta", "br", "img", "input", "link", "hr"}
PIPELINE = BenchCase("pipeline", "pipeline", threads=2)


class Strict(HTMLParser):
    """Refuses tags that do not match and everything that would be fetched."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        assert tag not in {"script", "link", "iframe", "img"}
        for name, value in attributes:
            assert not name.startswith("on")
            assert name not in {"src", "href"} or (value or "").startswith(("data:", "#")), value

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(page):
    parser = Strict()
    parser.feed(page)
    assert parser.open == []
    assert not re.search(r"@import|url\(", page)
    return " ".join(parser.text)


def full():
    """A report with everything in it."""
    document = simple()
    pipe = measurement(replace(PIPELINE), 100.0)
    for turn in pipe.rounds:
        turn.update({"detector": turn.pop("pre"), "unmixer": turn.pop("post"), "around unmixer": turn["refine"]})
    pipe.judged["accuracy"] = {"metric": "targets found %", "value": 93.0, "on": "2 frames"}
    pipe.opened["unit"] = "frames"
    pipe.work = None
    document["rows"] += report([pipe])["rows"]
    gpu = measurement(BenchCase("net", "unmix", engine="tensorrt", batch=64, buffers="pinned"), 5.0)
    gpu.finished["stages"] = {"h2d": [0.1] * 20, "gpu": [1.0] * 20, "d2h": [0.2] * 20, "enqueue": [0.05] * 20}
    document["rows"] += report([gpu], limits=None)["rows"]
    document["skipped"] = [{"name": "net, torch fp16", "reason": "<on a GPU only>"}]
    curve = {"subject": "pipeline", "size": "blobs", "cost": "ms", "start": 1.0, "slope": 0.1}
    points = [{"size": s, "cost": 1 + 0.1 * s} for s in (0.0, 10.0, 100.0)]
    document["growth"] = [
        {**curve, "points": points, "exponent": {"value": 1.0, "low": 0.9, "high": 1.1}},
        {**curve, "points": points, "exponent": None},
    ]
    return document


def test_the_page_is_whole_and_needs_nothing_else():
    text = read(page_of(full()))
    for words in (
        "Nothing disturbed the measurement", "At a glance", "Where the time goes", "How latencies spread",
        "Accuracy against latency", "By batch and size", "Limits", "Growth of costs", "Stages of the GPU",
        "Not measured", "<on a GPU only>", "exponent 1.00 (0.90-1.10)", "does not grow", "Testing 2000",
    ):  # fmt: skip
        assert words in text


def test_what_hurts_a_report_stands_at_its_top():
    page = page_of(full() | {"interrupted": True, "warnings": ["it was <hot>"]})
    assert page.index("Read these figures with care") < page.index("At a glance")
    assert "the run was interrupted" in page
    assert "it was &lt;hot&gt;" in page


@pytest.mark.parametrize("rows", [0, 1])
def test_a_report_with_hardly_any_row_is_a_page(rows):
    document = simple()
    document["rows"] = document["rows"][:rows]
    assert "glint bench" in read(page_of(document))


def test_a_row_whose_end_was_not_seen_is_a_row():
    broken = measurement(BenchCase("net", "unmix", threads=2), 10.0)
    broken.finished, broken.judged, broken.work = {}, {}, None
    document = report([broken], interrupted=True)
    assert "net x1, onnxruntime fp32" in read(page_of(document))
    assert "INTERRUPTED" in text_of(document)


def test_the_summary_tells_the_fastest_row_and_what_the_pipeline_adds():
    lines = summary(full()["rows"])
    assert re.match(
        r"net x1: 0\.(49|50)\d* ms, (199|20\d)\d patches/s with onnxruntime int8, the fastest of 2", lines[0]
    )
    assert any("times what its two networks take" in line for line in lines)


def test_the_table_is_aligned_and_marks_the_baseline():
    text = text_of(simple())
    table = [line for line in text.splitlines() if line.startswith(("net x", " "))]
    assert len({len(line) for line in table}) <= 2
    starred = [line for line in table if "*" in line]
    assert len(starred) == 2 and all("fp32" in line for line in starred)
    ratio = re.search(r"int8 .* (\d\.\d\d) \((\d\.\d\d)-(\d\.\d\d)\)", text)
    assert float(ratio[2]) <= float(ratio[1]) <= float(ratio[3])
    assert 1.9 < float(ratio[1]) < 2.1


def test_columns_without_a_word_are_left_out():
    assert columns([("", "a", "b"), ("x", "", "1"), ("yy", "", "22")]) == ["     b", "x    1", "yy  22"]


@pytest.mark.parametrize(("value", "text"), [(None, ""), (0.01234, "0.0123"), (99.44, "99.4"), (123456.7, "123457")])
def test_figures_have_three_digits(value, text):
    assert figure(value) == text
