"""The page in a real browser: Chromium, by Playwright's own copy or the system's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_results import made_result, made_tracks

from glint.runtime.commands.review import review
from glint.runtime.device.state import DeviceState
from glint.runtime.sinks.json_lines import JsonLines
from glint.runtime.view.live_view import LiveView
from glint.runtime.view.status import StreamStatus
from glint.types import Gap

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")

NASTY = "<img src=x onerror=\"document.title='owned'\">"
ROWS = [(0, 30.2, 20.4, 300), (0, 31.0, 20.0, 200), (1, 150.0, 100.0, 100)]
DEVICE = DeviceState(0, {"tj": 61.0}, {"VDD_IN": 7.5}, gpu_load=0.5, throttled_by=("gpu-throttle-alert",))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as p:
        system = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        try:
            chromium = p.chromium.launch(executable_path=system, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no browser: {str(error).splitlines()[0]}")
        yield chromium
        chromium.close()


@pytest.fixture
def view() -> Iterator[LiveView]:
    status = StreamStatus(f"cam {NASTY}", "tensorrt", 9, {"queue": 2}, {"frames": 1}, live=True)
    view = LiveView("127.0.0.1", 0, status=lambda: status, device=lambda: DEVICE)
    yield view
    view.close()


class Page:
    """A page that remembers its errors and where it asked for things."""

    def __init__(self, browser: Any, view: LiveView, **settings: Any) -> None:
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(view.url + "/")

    def shows(self, selector: str, text: str) -> None:
        """Wait until the element holds the text."""
        playwright.expect(self.page.locator(selector)).to_contain_text(text, timeout=20_000)

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *error: Any) -> None:
        self.context.close()


def test_the_page_shows_the_frame_its_targets_and_the_device(browser: Any, view: LiveView) -> None:
    view.write(made_result(12, ROWS, shape=(120, 200), name=NASTY, track=[3, 4, -1]))
    view.gap(Gap(0, 2.5, NASTY))
    with Page(browser, view) as look:
        look.shows("#name", "frame 12")
        look.shows("#name", NASTY)
        look.shows("#where", NASTY)
        look.shows("#gaplist", NASTY)
        look.shows("#state", "running")
        look.shows("#facts", "61")
        look.shows("#facts", "throttled")
        look.shows("#facts", "7.5")
        look.shows("#count", "3 in 2 blobs")
        look.shows("#cluster", "2 targets")
        assert look.page.locator("#targets tr").count() == 3
        assert look.page.locator("#targets tr.chosen").count() == 2
        look.shows("#latencykeys", "detect 8.0")
        pixels = "[...document.getElementById('frame').getContext('2d').getImageData(0, 0, 200, 100).data]"
        assert len(set(look.page.evaluate(pixels))) > 50
        assert look.page.title().endswith("glint")  # the nasty name is text, not markup
        assert look.errors == []
        assert {url for url in look.asked if not url.startswith((view.url, "data:", "blob:"))} == set()


def test_a_click_chooses_a_cluster_and_it_is_followed(browser: Any, view: LiveView) -> None:
    view.write(made_result(0, ROWS, shape=(120, 200)))
    with Page(browser, view) as look:
        look.shows("#cluster", "2 targets")
        box = look.page.locator("#frame").bounding_box()
        look.page.mouse.click(box["x"] + 150.5 / 200 * box["width"], box["y"] + 100.5 / 120 * box["height"])
        for step in range(1, 8):
            view.write(made_result(step, [*ROWS[:2], (1, 150.0 + 3 * step, 100.0, 100)], shape=(120, 200)))
            look.shows("#cluster", f"1 target at {150 + 3 * step}.0")
        look.page.locator("#targets tr").first.click()
        view.write(made_result(9, ROWS, shape=(120, 200)))
        look.shows("#cluster", "2 targets")
        assert look.errors == []


def test_a_pause_keeps_the_picture_and_the_end_of_the_run_is_told(browser: Any, view: LiveView) -> None:
    view.write(made_result(1))
    with Page(browser, view) as look:
        look.shows("#name", "frame 1")
        look.page.locator("#pause").click()
        look.shows("#state", "paused")
        look.page.wait_for_timeout(1500)
        view.write(made_result(2))
        look.page.wait_for_timeout(500)
        look.shows("#name", "frame 1")
        look.page.locator("#pause").click()
        look.shows("#name", "frame 2")
        view.close()
        look.shows("#state", "no connection")
        look.shows("#note", "no connection")


def test_a_run_without_targets_is_no_error(browser: Any, view: LiveView) -> None:
    with Page(browser, view) as look:
        look.shows("#note", "waiting for the first frame")
        view.write(made_result(5, []))
        look.shows("#name", "frame 5")
        look.shows("#cluster", "none found")
        look.shows("#count", "0 in 0 blobs")
        assert look.errors == []


def test_a_phone_never_scrolls_sideways(browser: Any, view: LiveView) -> None:
    view.write(made_result(1, ROWS, shape=(512, 640), track=[3, 4, 12345]))
    phone = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
    with Page(browser, view, **phone) as look:
        look.shows("#name", "frame 1")
        look.shows("#latencykeys", "detect 8.0")
        assert look.page.evaluate("document.documentElement.scrollWidth") == 360
        look.page.locator("#targets tr").last.tap()
        assert look.errors == []


def test_labels_on_a_phone_never_lie_on_each_other(browser: Any, view: LiveView) -> None:
    crowd = [(i, 40.0 + 14 * (i % 5), 30.0 + 9 * (i // 5), 300) for i in range(25)]
    crowd += [(i, 300.0 + 3 * i, 200.0, 100) for i in range(25)]  # two in each blob
    result = made_result(1, crowd, shape=(512, 640), track=[100 + i for i in range(50)])
    view.write(
        replace(
            result,
            tracks=made_tracks([100 + i for i in range(50)], x=[row[1] for row in crowd], y=[row[2] for row in crowd]),
        )
    )
    phone = {"viewport": {"width": 375, "height": 740}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
    with Page(browser, view, **phone) as look:
        look.shows("#name", "frame 1")
        labels = look.page.evaluate("document.getElementById('frame').labels")
        assert 5 < len(labels) < 75
        boxes = [(one["left"], one["middle"], one["width"]) for one in labels]
        for i, (left, middle, width) in enumerate(boxes):
            assert left >= 0
            assert left + width <= 2 * 375
            for other_left, other_middle, other_width in boxes[:i]:
                beside = left >= other_left + other_width or other_left >= left + width
                assert beside or abs(middle - other_middle) >= 2 * 11
        assert look.errors == []


def test_targets_under_one_cross_are_counted(browser: Any, view: LiveView) -> None:
    view.write(made_result(1, [(0, 30.2, 20.4, 300), (0, 30.2, 20.4, 200), (0, 31.5, 21.0, 100)]))
    with Page(browser, view) as look:
        look.shows("#cluster", "3 targets")
        labels = [one["text"] for one in look.page.evaluate("document.getElementById('unmixed').labels")]
        assert sorted(labels) == ["100 DN", "2 here: 500 DN"]


@pytest.mark.parametrize(("scheme", "dark"), [("dark", True), ("light", False)])
def test_the_page_follows_the_system_s_colours(browser: Any, view: LiveView, scheme: str, dark: bool) -> None:
    with Page(browser, view, color_scheme=scheme) as look:
        colour = look.page.evaluate("getComputedStyle(document.body).backgroundColor")
        levels = [int(v) for v in colour[4:-1].split(",")]
        assert (sum(levels) < 300) == dark


def test_a_finished_run_is_stepped_through_and_sorted(browser: Any, tmp_path: Path) -> None:
    results = [made_result(i, ROWS[: i + 1], name=f"f{i}", shape=(128, 200)) for i in range(3)]
    with JsonLines(tmp_path / "hits.jsonl") as lines:
        for result in results:
            lines.write(result.to_dict())
    np.save(tmp_path / "f.npy", np.stack([r.frame.data for r in results]))
    with review(tmp_path / "hits.jsonl", str(tmp_path / "f.npy")) as served:
        page = Page(browser, served, viewport={"width": 390, "height": 844})  # type: ignore[arg-type]
        page.shows("#at", "1 of 3")
        page.shows("#count", "1 in 1")
        page.page.click("#on")
        page.shows("#name", "frame 1 · f1")
        page.page.select_option("#order", "targets")
        page.shows("#at", "1 of 3")
        page.shows("#name", "frame 2 · f2")
        page.shows("#state", "finished run")
        assert page.errors == []
        page.context.close()
