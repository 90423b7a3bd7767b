from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import within

from glint.errors import InputError, SourceAbsentError, SourceError, SourceLostError
from glint.runtime.sources.cameras.live import Captured, Connection, LiveSource, Reconnect, reconnect_of
from glint.runtime.sources.open import open_frames
from glint.types import Frame, Gap

IMAGE = np.zeros((2, 3), np.uint16)
SECOND = 1_000_000_000


def at(seconds: float, lost: str = "") -> Captured:
    return Captured(round(seconds * SECOND), IMAGE, 16383.0, lost)


class Script(Connection):
    """Gives what it is told: frames, errors to raise, None for the end, or a function to call."""

    def __init__(self, steps: list[Any]) -> None:
        self.steps, self.closed = steps, 0

    def read(self, seconds: float) -> Captured | None:
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step() if callable(step) else step  # type: ignore[no-any-return]

    def close(self) -> None:
        self.closed += 1


class FakeCamera(LiveSource):
    """Connections by script; sleeping only writes down how long."""

    def __init__(self, *scripts: list[Any] | Exception, policy: Reconnect | None = None) -> None:
        super().__init__("rtsp://me:secret@camera/live", policy or Reconnect(give_up=1e6))
        self.scripts = list(scripts)
        self.connections: list[Script] = []
        self.slept: list[float] = []
        self.waker.sleep = self.slept.append  # type: ignore[method-assign]

    def connect(self) -> Connection:
        script = self.scripts.pop(0)
        if isinstance(script, Exception):
            raise script
        self.connections.append(Script(script))
        return self.connections[-1]


LOST = SourceLostError("unplugged")
REFUSED = SourceError("refused")


def test_frames_are_numbered_and_the_end_of_a_stream_is_the_end() -> None:
    camera = FakeCamera([at(1), at(2), None])
    frames = list(camera.frames())
    assert camera.live
    assert [(f.index, f.t_ns, f.full_scale) for f in frames] == [(0, SECOND, 16383.0), (1, 2 * SECOND, 16383.0)]
    assert camera.connections[0].closed == 1


def test_what_was_missed_is_a_gap_and_never_a_frame() -> None:
    camera = FakeCamera([at(1), LOST], REFUSED, [LOST], [at(9.5), at(10), None])
    first, gap, *rest = list(camera)
    assert isinstance(first, Frame)
    assert gap == Gap(9_500_000_000, 8.5, "unplugged")
    assert [(f.index, f.t_ns) for f in rest if isinstance(f, Frame)] == [(1, 9_500_000_000), (2, 10 * SECOND)]
    assert len(rest) == 2
    assert [c.closed for c in camera.connections] == [1, 1, 1]


def test_pauses_double_up_to_the_longest_and_start_anew_after_success() -> None:
    policy = Reconnect(first=1, longest=5, give_up=1e6)
    camera = FakeCamera([at(1), LOST], *[REFUSED] * 4, [at(2), LOST], REFUSED, [at(3), None], policy=policy)
    list(camera)
    assert camera.slept == [1, 2, 4, 5, 5, 1, 2]


def test_it_is_given_up_after_the_stated_time() -> None:
    for give_up in (0.0, 0.4):
        camera = FakeCamera([at(1), LOST], policy=Reconnect(give_up=give_up))
        items = iter(camera)
        next(items)
        with pytest.raises(SourceLostError, match=rf"unplugged; it did not come back within {give_up:g} s") as caught:
            next(items)
        assert caught.value.exit_code == 4
        assert camera.slept == []
        assert camera.connections[0].closed == 1


def test_a_source_that_cannot_be_opened_is_an_error_at_once() -> None:
    for script, code in ((REFUSED, 2), ([REFUSED], 2), ([LOST], 3)):
        camera = FakeCamera(script)
        with pytest.raises(SourceError) as caught:
            list(camera)
        assert caught.value.exit_code == code
        assert camera.slept == []


def test_a_device_that_is_not_there_yet_is_waited_for_and_no_other() -> None:
    absent = SourceAbsentError("not there")
    camera = FakeCamera(absent, absent, [at(1), None], policy=Reconnect(first=1e-3))
    camera.wait_s = 60.0
    assert len(list(camera.frames())) == 1
    assert camera.slept == [1e-3, 2e-3]
    impatient, coloured = FakeCamera(absent), FakeCamera(SourceError("in colour"))
    coloured.wait_s = 60.0
    for source, code in ((impatient, 3), (coloured, 2)):
        with pytest.raises(SourceError) as caught:
            list(source)
        assert caught.value.exit_code == code
        assert source.slept == []


def test_nobody_waits_for_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no camera or stream"):
        open_frames("synthetic://?frames=1", wait_s=5)
    with pytest.raises(InputError, match="wait_source"):
        open_frames("v4l2:///dev/video9", wait_s=float("nan"))
    source = open_frames(f"v4l2://{tmp_path}/video9", wait_s=5).inner
    assert isinstance(source, LiveSource)
    assert source.wait_s == 5


def test_an_error_that_no_new_connection_mends_ends_the_source() -> None:
    camera = FakeCamera([at(1), SourceError("the picture is in colour")])
    with pytest.raises(SourceError, match="colour"):
        list(camera)
    assert camera.connections[0].closed == 1


def test_frames_that_a_device_dropped_leave_a_gap() -> None:
    items = list(FakeCamera([at(1, "x"), at(2, "the driver dropped 3 frames"), None]))
    assert items[1] == Gap(2 * SECOND, 1.0, "the driver dropped 3 frames")
    assert [type(i).__name__ for i in items] == ["Frame", "Gap", "Frame"]


def test_times_never_go_back() -> None:
    frames = FakeCamera([at(5), at(4), at(6), None]).frames()
    assert [f.t_ns // SECOND for f in frames] == [5, 5, 6]


def test_no_secret_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    leak = SourceLostError("cannot read rtsp://me:secret@camera/live")
    camera = FakeCamera([at(1), leak], [leak], [at(2), leak], policy=Reconnect(first=1, give_up=1.5))
    texts = [camera.uri]
    with pytest.raises(SourceLostError) as caught:
        for item in camera:
            texts.append(str(item.reason) if isinstance(item, Gap) else "")
    assert "rtsp://***@camera/live" in str(caught.value)
    assert "secret" not in "".join([*texts, str(caught.value), *capsys.readouterr()])


def test_closing_ends_a_pause_between_attempts() -> None:
    class Pausing(FakeCamera):
        def __init__(self) -> None:
            super().__init__([at(1), LOST], policy=Reconnect(first=1000, longest=1000, give_up=1e6))
            del self.waker.sleep  # the real one

    camera = Pausing()
    threading.Timer(0.1, camera.close).start()
    assert len(within(10, lambda: list(camera))) == 1


def test_leaving_the_loop_closes_the_connection() -> None:
    camera = FakeCamera([at(1), at(2), at(3)])
    items = iter(camera)
    next(items)
    items.close()  # type: ignore[attr-defined]
    assert camera.connections[0].closed == 1


def test_a_policy_comes_from_the_parameters() -> None:
    assert reconnect_of({"timeout": 2.0, "bits": 14}) == Reconnect(timeout=2.0)
    assert reconnect_of({"give_up": 0.0}).give_up == 0


@pytest.mark.parametrize(
    "values", [{"timeout": 0}, {"timeout": 1e9}, {"first": 0}, {"first": 9, "longest": 3}, {"give_up": -1}]
)
def test_an_impossible_policy_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(InputError, match="reconnect"):
        Reconnect(**values)
