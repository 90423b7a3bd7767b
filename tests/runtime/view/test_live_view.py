from __future__ import annotations

import http.client
import io
import json
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from exposition_format import parse
from made_results import made_result, made_tracks
from PIL import Image

from glint.errors import OutputError
from glint.runtime.device.state import DeviceState
from glint.runtime.sinks.track_tails import Tails
from glint.runtime.view import telemetry
from glint.runtime.view.live_frame import cluster_facts, display_range, picture
from glint.runtime.view.live_view import LiveView
from glint.runtime.view.metrics_endpoint import Metrics
from glint.runtime.view.status import StreamStatus
from glint.types import Gap


def fetch(url: str) -> tuple[int, bytes, dict[str, str]]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)


def live(view: LiveView, query: str = "after=0") -> tuple[dict[str, Any], bytes]:
    status, body, _ = fetch(f"{view.url}/live?{query}")
    assert status == 200
    (length,) = struct.unpack(">I", body[:4])
    return json.loads(body[4 : 4 + length]), body[4 + length :]


@pytest.fixture
def view() -> Iterator[LiveView]:
    view = LiveView("127.0.0.1", 0, status=lambda: StreamStatus("cam", "tensorrt", 9, {"queue": 2}, {"frames": 1}))
    yield view
    view.close()


def test_a_frame_comes_with_its_picture_and_what_is_drawn_on_it(view: LiveView) -> None:
    result = made_result(7, [(0, 30.2, 20.4, 300), (0, 31.0, 20.0, 200), (1, 5.5, 6.5, 100)], track=[4, 5, -1])
    view.write(result)
    facts, image = live(view)
    assert Image.open(io.BytesIO(image)).size == (64, 48)
    shown = facts["shown"]
    assert (shown["number"], shown["frame"], shown["width"], shown["height"]) == (1, 7, 64, 48)
    assert [t["x"] for t in shown["targets"]] == [30.2, 31.0, 5.5]
    assert [t["track"] for t in shown["targets"]] == [4, 5, None]
    assert [blob[2] for blob in shown["blobs"]] == [2, 1]
    assert shown["latency_ms"]["detect"] == 8.0
    assert (facts["source"], facts["dropped"], facts["state"]) == ("cam", {"queue": 2}, "ok")


def test_tracks_come_with_their_way_and_what_they_are(view: LiveView) -> None:
    view.write(made_result(0))
    assert live(view)[0]["shown"]["tracks"] == []
    tracks = made_tracks([4, 9], x=[30.0, 5.0], vx=[12.345, -3.0])
    view.write(replace(made_result(1, track=[4]), tracks=tracks))
    shown = live(view, "after=1")[0]["shown"]["tracks"]
    assert [(t["track"], t["x"], t["vx"], t["static"], t["seen"]) for t in shown] == [
        (4, 30.0, 12.35, False, True), (9, 5.0, -3.0, True, True),
    ]  # fmt: skip


def test_without_news_only_the_state_comes(view: LiveView) -> None:
    assert live(view)[1] == b""
    view.write(made_result())
    live(view)
    started = time.monotonic()
    facts, image = live(view, "after=1")
    assert time.monotonic() - started > 0.5  # it waited for a frame
    assert image == b""
    assert "shown" not in facts
    assert facts["frames"] == 1


def test_a_waiting_client_gets_the_next_frame_at_once(view: LiveView) -> None:
    view.write(made_result(0))
    live(view)
    answers: list[dict[str, Any]] = []
    waiting = threading.Thread(target=lambda: answers.append(live(view, "after=1")[0]))
    waiting.start()
    time.sleep(0.2)
    view.write(made_result(1))
    waiting.join()
    assert answers[0]["shown"]["frame"] == 1


def test_a_slow_client_gets_the_newest_frame_and_none_in_between(view: LiveView) -> None:
    for index in range(50):
        view.write(made_result(index))
    assert live(view)[0]["shown"]["frame"] == 49


def test_a_page_that_watched_an_earlier_run_gets_the_frames_of_this_one(view: LiveView) -> None:
    view.write(made_result(3))
    assert live(view, "after=777")[0]["shown"]["frame"] == 3


def test_fifty_clients_share_the_pictures_and_do_not_slow_the_writer(view: LiveView) -> None:
    done = threading.Event()
    seen: list[int] = []

    def look() -> None:
        after = 0
        while not done.is_set():
            facts, _ = live(view, f"after={after}")
            if "shown" in facts:
                assert facts["shown"]["number"] > after
                after = facts["shown"]["number"]
                seen.append(after)

    clients = [threading.Thread(target=look) for _ in range(50)]
    for client in clients:
        client.start()
    result, slowest = made_result(0), 0.0
    for _ in range(30):
        started = time.monotonic()
        view.write(result)
        slowest = max(slowest, time.monotonic() - started)
        time.sleep(0.02)
    time.sleep(0.5)
    done.set()
    for client in clients:
        client.join()
    assert len(seen) >= 50
    assert slowest < 3.0  # it waits for a lock at most, not for fifty answers


def test_the_cluster_pointed_at_is_magnified(view: LiveView) -> None:
    view.write(made_result(0, [(0, 30.2, 20.4, 300), (1, 50.0, 40.0, 100)]))
    cluster = live(view, "after=0&x=49&y=41")[0]["cluster"]
    assert cluster["blob"] == 1
    assert (cluster["patch"]["left"], cluster["patch"]["top"]) == (45, 35)
    assert np.shape(cluster["patch"]["rows"]) == (11, 11)
    assert np.shape(cluster["crop"]["rows"]) == (21, 21)


@pytest.mark.parametrize("query", ["after=x", "x=1", "x=nan&y=1", "x=1e30&y=1", "x=a&y=b"])
def test_what_makes_no_sense_is_a_bad_request(view: LiveView, query: str) -> None:
    assert fetch(f"{view.url}/live?{query}")[0] == 400


def test_the_page_loads_nothing_from_elsewhere(view: LiveView) -> None:
    status, body, headers = fetch(view.url + "/")
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "connect-src 'self'" in policy
    text = body.decode()
    assert "innerHTML" not in text
    assert [part for part in text.split('"') if part.startswith(("http:", "https:", "//"))] == []


def test_history_metrics_and_health_are_served_too(view: LiveView) -> None:
    view.write(made_result())
    deadline = time.monotonic() + 10
    while not (rows := json.loads(fetch(view.url + "/history?since=0")[1])["rows"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert rows[0]["dropped"] == 2
    assert fetch(view.url + "/history?since=x")[0] == 400
    assert parse(fetch(view.url + "/metrics")[1].decode())["glint_frames_total", ()] == 1
    assert fetch(view.url + "/healthz")[0] == 200


def test_gaps_are_shown_with_their_reason(view: LiveView) -> None:
    for n in range(7):
        view.gap(Gap(0, 1.0, f"lost {n}"))
    facts, _ = live(view)
    assert facts["gaps"] == 7
    assert [g["reason"] for g in facts["last_gaps"]] == [f"lost {n}" for n in range(2, 7)]


def test_the_device_is_shown_if_it_is_known() -> None:
    view = LiveView("127.0.0.1", 0, device=lambda: DeviceState(0, {"tj": 50.0}))
    try:
        assert live(view)[0]["device"]["temperature_c"] == {"tj": 50.0}
    finally:
        view.close()


def test_closing_wakes_who_waits_and_may_happen_twice(view: LiveView) -> None:
    view.write(made_result())
    live(view)

    def wait() -> None:
        with suppress(OSError, http.client.HTTPException):  # hung up on, unless the answer was just going out
            fetch(f"{view.url}/live?after=1")

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.1)
    started = time.monotonic()
    view.close()
    view.close()
    assert time.monotonic() - started < 4
    waiting.join(5)
    assert not waiting.is_alive()
    assert not [t for t in threading.enumerate() if t.name in ("web", "live-view")]


def test_a_port_in_use_leaves_no_thread_behind(view: LiveView) -> None:
    port, before = int(view.url.rpartition(":")[2]), threading.active_count()
    with pytest.raises(OutputError, match="in use"):
        LiveView("127.0.0.1", port)
    assert threading.active_count() == before


def test_health_follows_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics("127.0.0.1", 0)

    def health(stall_s: float) -> tuple[int, str]:
        monkeypatch.setattr(telemetry, "STALL_S", stall_s)
        status, body, _ = fetch(metrics.url + "/healthz")
        return status, json.loads(body)["state"]

    try:
        assert health(60) == (503, "starting")
        metrics.write(made_result())
        assert health(60) == (200, "ok")
        assert health(0) == (503, "stalled")
        metrics.gap(Gap(0, 0.4, "lost"))
        assert parse(fetch(metrics.url + "/metrics")[1].decode())["glint_gaps_total", ()] == 1
    finally:
        metrics.close()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (48, 64)])
def test_frames_of_any_kind_become_pictures(shape: tuple[int, int], dtype: type) -> None:
    data = np.full(shape, 7, dtype)
    image, factor = picture(data, *display_range(data))
    assert Image.open(io.BytesIO(image)).size == shape[::-1]
    assert factor == 1


def test_a_large_frame_is_reduced_without_losing_a_pixel_that_shines() -> None:
    data = np.zeros((1000, 3001), np.uint16)
    data[501, 1999] = 4000
    image, factor = picture(data, 0.0, 4000.0)
    reduced = np.asarray(Image.open(io.BytesIO(image)))
    assert factor == 3
    assert reduced.shape == (334, 1001)
    assert np.unravel_index(reduced.argmax(), reduced.shape) == (501 // 3, 1999 // 3)
    assert reduced.max() > 120


def test_one_hot_pixel_does_not_darken_the_picture() -> None:
    data = np.random.default_rng(0).normal(1000, 10, (512, 640)).astype(np.float32)
    data[0, 0] = 1e6
    low, high = display_range(data)
    assert 950 < low < 1000 < high < 1100


def test_without_a_hint_the_most_crowded_cluster_is_magnified() -> None:
    result = made_result(0, [(0, 30.2, 20.4, 300), (1, 50.0, 40.0, 100), (1, 50.5, 40.5, 100)])
    facts = cluster_facts(result, None)
    assert facts is not None
    assert facts["blob"] == 1
    assert cluster_facts(made_result(0, []), None) is None


def test_where_nothing_is_the_frame_alone_is_magnified() -> None:
    result = made_result(0, [(0, 30.2, 20.4, 300)], shape=(200, 200))
    facts = cluster_facts(result, (150.0, 150.0))
    assert facts is not None
    assert (facts["blob"], facts["patch"]) == (None, None)
    assert facts["crop"]["rows"][10][10] == pytest.approx(float(result.frame.data[150, 150]))


@pytest.mark.parametrize("at", [(-500.0, -500.0), (0.0, 0.0), (63.0, 47.0), (9e5, 9e5)])
@pytest.mark.parametrize("shape", [(48, 64), (5, 7), (1, 1)])
def test_the_view_of_a_cluster_stays_inside_the_frame(at: tuple[float, float], shape: tuple[int, int]) -> None:
    facts = cluster_facts(made_result(0, [], shape=shape), at)
    assert facts is not None
    crop = facts["crop"]
    assert np.shape(crop["rows"]) == (min(21, shape[0]), min(21, shape[1]))
    assert 0 <= crop["left"] <= shape[1] - len(crop["rows"][0])
    assert 0 <= crop["top"] <= shape[0] - len(crop["rows"])


def test_tails_follow_tracks_and_forget_them() -> None:
    tails = Tails(length=3, patience=2, most=10)
    for n in range(5):
        tails.add(made_result(n, [(0, 10 + n, 5, 100), (0, 20, 5, 100)], track=[7, -1]))
    assert tails.points() == {7: ((12, 5), (13, 5), (14, 5))}
    tails.add(made_result(5, []))
    for n in range(6, 8):
        tails.add(made_result(n, [(0, 30, 5, 100)], track=[8]))
    assert list(tails.points()) == [8]
    tails.add(made_result(8))  # not tracked
    assert list(tails.points()) == [8]


def test_tails_of_tracks_go_on_where_the_target_is_not_seen() -> None:
    tails = Tails(length=3)
    for n in range(4):
        tails.add(replace(made_result(n, track=[-1]), tracks=made_tracks([7], x=[10.0 + n], y=[5.0])))
    assert tails.points() == {7: ((11, 5), (12, 5), (13, 5))}


def test_the_number_of_tails_is_bounded() -> None:
    tails = Tails(patience=1000, most=5)
    for n in range(50):
        rows = [(0, 10, 5, 100), (0, 12, 5, 100)]
        tails.add(made_result(n, rows, track=[2 * n, 2 * n + 1]))
        tails.add(made_result(n, rows, track=[2 * n, 2 * n + 1]))
    assert list(tails.points()) == [95, 96, 97, 98, 99]


def test_a_page_that_is_held_answers_after_the_end_until_nobody_waits() -> None:
    view = LiveView("127.0.0.1", 0, hold=True)
    view.write(made_result(3))
    view.close()
    facts, _ = _held(view.url)
    assert (facts["state"], facts["shown"]["frame"]) == ("ended", 3)
    view.linger(lambda: True)
    with pytest.raises(OSError):
        _held(view.url)


def _held(url: str) -> tuple[dict[str, Any], bytes]:
    with urllib.request.urlopen(f"{url}/live?after=0", timeout=20) as answer:  # noqa: S310  (our own server)
        body = answer.read()
    length = int.from_bytes(body[:4], "big")
    return json.loads(body[4 : 4 + length]), body[4 + length :]
