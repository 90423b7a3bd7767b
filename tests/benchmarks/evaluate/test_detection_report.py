"""The report of an evaluation: its pictures and its page."""

import json
from html.parser import HTMLParser

import numpy as np

from glint.benchmarks.evaluate.detection_report import draw_errors, write_report
from glint.benchmarks.evaluate.detection_scores import Examined, Prediction, evaluate_detection
from glint.data.datasets import LabelledImage
from glint.images import SUFFIXES
from glint.metrics.detection import count_image

GREEN, RED = (90, 220, 120), (255, 80, 60)


def examined(shape=(120, 90), *, truth=(30, 40), guess=(70, 20)):
    actual, predicted = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    if truth:
        actual[truth[0] : truth[0] + 3, truth[1] : truth[1] + 3] = True
    if guess:
        predicted[guess[0] : guess[0] + 4, guess[1] : guess[1] + 2] = True
    image = np.random.default_rng(0).integers(0, 4000, shape).astype(np.uint16)
    return Examined(LabelledImage("<one>", image, actual), predicted, count_image(predicted, actual))


def coloured(picture, colour):
    return (picture == np.array(colour, dtype=np.uint8)).all(-1)


def test_a_picture_marks_truth_and_prediction():
    picture = draw_errors(examined())
    assert picture.dtype == np.uint8 and picture.ndim == 3
    green, red = np.argwhere(coloured(picture, GREEN)), np.argwhere(coloured(picture, RED))
    zoom = 744 / 120
    for pixels, (row, column) in ((green, (31.5, 41.5)), (red, (72, 21))):
        whole = pixels[pixels[:, 0] < 744]
        assert np.allclose((whole.min(0) + whole.max(0)) / 2, (row * zoom, column * zoom), atol=3)
    assert (green[:, 0] > 754).any() and (red[:, 0] > 754).any()  # the magnified pieces


def test_pictures_of_small_large_and_faultless_images():
    for shape in ((20, 24), (41, 41), (600, 1300)):
        assert draw_errors(examined(shape, truth=(5, 5), guess=(10, 12))).shape[1] == 744
    nothing = draw_errors(examined(truth=None, guess=None))
    assert len(nothing) < len(draw_errors(examined()))  # no room for pieces that are not there
    assert not coloured(nothing, GREEN).any()
    assert not coloured(nothing, RED).any()


class Page(HTMLParser):
    """Tags that were opened and not closed, texts, and addresses."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.addresses = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br", "path", "rect"):
            self.open.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def result(**more):
    samples = [examined().sample]
    evaluation = evaluate_detection(lambda one: Prediction(0.3 + 0.6 * one.mask), samples, legacy=True)
    common = {"model": "<m>", "precision": "fp32", "engine": "e", "data": "d", "split": "val", "leaks": None}
    return {**common, **evaluation.result, **more}, evaluation.worst


def test_the_page_is_whole_escaped_and_needs_no_other_file(tmp_path):
    figures, worst = result()
    write_report(tmp_path, figures, worst)
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert all(address.startswith("data:") for address in page.addresses)
    assert "<m>" not in text and "<one>" not in text
    words = " ".join(page.texts)
    for word in ("<m> on d/val", "IoU", "legacy Pd", "Pd against Fa", "<one>: IoU 100.0 %", "no training list"):
        assert word in words
    assert json.loads((tmp_path / "scores.json").read_text()) == figures
    assert [p.suffix for p in (tmp_path / "worst").iterdir()] == [SUFFIXES[0]]


def test_every_part_is_shown(tmp_path):
    background = {
        "data": "sky", "seed": 1,
        "false_alarms": {
            "frames": 2, "per_frame": 1.5, "unseen_frames": 0, "per_unseen_frame": None,
            "worst": [{"name": "w", "alarms": 3}],
        },
        "pd_by_scr": [
            {"scr": 1.0, "targets": 0, "pd": None, "interval": None},
            {"scr": 5.0, "targets": 4, "pd": 50.0, "interval": [15.0, 85.0]},
        ],
        "flux": {"clusters": 4, "found": 0, "residual_error": None, "residual_ratio": None, "target_error": None,
                 "inside": None},
    }  # fmt: skip
    decomposition = {
        "background_error_on": 12.5, "background_error_off": 1.0, "target_energy_on": 99.0, "target_energy_off": None,
    }  # fmt: skip
    leaks = {"against": "train", "near_duplicates": [{"first": "x", "second": "y", "correlation": 0.91}]}
    figures, worst = result(backgrounds=background, decomposition=decomposition, leaks=leaks)
    write_report(tmp_path, figures, worst)
    words = " ".join(Page((tmp_path / "report.html").read_text()).texts)
    for word in ("without targets: sky", "w (3)", "Planted", "0 of 4 found", "Decomposition", "12.5", "0.91"):
        assert word in words


def test_of_many_pairs_that_look_the_same_the_first_are_shown(tmp_path):
    pairs = [{"first": f"x{i}", "second": "y", "correlation": 0.9} for i in range(30)]
    figures, worst = result(leaks={"against": "train", "near_duplicates": pairs})
    write_report(tmp_path, figures, worst)
    page = (tmp_path / "report.html").read_text()
    assert ("x19<" in page, "x20<" in page, "10 more" in page) == (True, False, True)


def test_masks_without_a_curve_have_no_section_of_it(tmp_path):
    figures, worst = result(curve=[])
    write_report(tmp_path, figures, worst)
    assert "Pd against Fa" not in (tmp_path / "report.html").read_text()


def test_the_curve_shows_where_there_is_something_to_choose(tmp_path):
    points = [(0.01, 98.0, 5e5), (0.3, 99.0, 87.0), (0.5, 97.9, 13.0), (0.7, 96.9, 11.0), (0.99, 22.0, 0.0)]
    curve = [{"threshold": t, "iou": 50.0, "niou": 50.0, "pd": pd, "fa": fa} for t, pd, fa in points]
    figures, worst = result(curve=curve)
    write_report(tmp_path, figures, worst)
    page = (tmp_path / "report.html").read_text()
    plot = page[page.index('aria-label="Pd against Fa') :]
    words = Page(plot[: plot.index("</svg>")]).texts
    assert {"0.3", "0.5", "0.7"} <= set(words)
    assert not {"0.01", "0.99", "200k", "500k"} & set(words)
