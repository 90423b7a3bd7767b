from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from patience import within

from glint.errors import InputError, MissingDependencyError, SourceError, SourceLostError
from glint.runtime.sources.cameras.gstreamer import LAUNCHER, GstSource
from glint.runtime.sources.cameras.live import Reconnect
from glint.runtime.sources.open import open_source
from glint.types import Frame, Gap

needs_gstreamer = pytest.mark.skipif(shutil.which(LAUNCHER) is None, reason=f"needs GStreamer ({LAUNCHER})")
IMAGES = np.random.default_rng(0).integers(0, 65536, (4, 6, 11)).astype(np.uint16)  # rows are padded to 24 bytes
POLICY = Reconnect(timeout=20, first=0.05, give_up=20)

# A stand-in for gst-launch-1.0: which part it plays is counted in a file beside it.
LAUNCH = """#!{python}
import os, re, signal, sys, time
here = os.path.dirname(os.path.abspath(__file__))
calls = os.path.join(here, "calls")
number = os.path.getsize(calls) if os.path.exists(calls) else 0
open(calls, "a").write("x")
assert sys.argv[1] == "-v", sys.argv
end = int(re.search(r" fd=(\\d+)", " ".join(sys.argv))[1])
def caps(width):
    print("/GstPipeline:pipeline0/GstFdSink:glint_frames.GstPad:sink: caps = video/x-raw, "
          f"format=(string)GRAY16_LE, width=(int){{width}}, height=(int)6, framerate=(fraction)30/1", flush=True)
frames = open(os.path.join(here, "frames.raw"), "rb").read()
size = len(frames) // 4
def send(content):
    os.write(end, content)
script = open(os.path.join(here, "script")).read().split("|")
for step in script[min(number, len(script) - 1)].split():
    if step == "caps": caps(11)
    elif step == "other-caps":
        while not os.path.exists(os.path.join(here, "go")): time.sleep(0.01)
        caps(22)
    elif step == "on":
        while True: send(frames[:size]); time.sleep(0.1)
    elif step == "half": send(frames[: size // 2])
    elif step == "stall": time.sleep(60)
    elif step == "deaf": signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)
    elif step == "fail": print("ERROR: from element /x: location=rtsp://me:secret@camera failed"); sys.exit(1)
    elif step == "crash": os.kill(os.getpid(), signal.SIGSEGV)
    else: send(frames[int(step) * size : (int(step) + 1) * size])
"""


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., GstSource]:
    """``launch(script, ...)``: a source whose pipeline plays one script per start, the last one for ever."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / LAUNCHER).write_text(LAUNCH.format(python=sys.executable))
    (tools / LAUNCHER).chmod(0o755)
    padded = np.full((4, 6, 12), 0xEEEE, np.uint16)
    padded[..., :11] = IMAGES
    (tools / "frames.raw").write_bytes(padded.tobytes())
    monkeypatch.setenv("PATH", str(tools))

    def start(*scripts: str, policy: Reconnect = POLICY) -> GstSource:
        (tools / "script").write_text("|".join(scripts))
        return GstSource("gst:camera location=rtsp://me:secret@camera", policy)

    return start


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = (len(list(Path("/proc/self/fd").iterdir())), threading.active_count())
    yield
    assert (len(list(Path("/proc/self/fd").iterdir())), threading.active_count()) == before


def test_frames_come_without_the_padding_of_their_rows(launch: Callable[..., GstSource]) -> None:
    source = launch("caps 0 1 2 3")
    frames = within(60, lambda: list(source.frames()))
    assert source.live
    assert np.array_equal([f.data for f in frames], IMAGES)
    assert all(f.data.dtype == np.uint16 and f.data.flags.c_contiguous and f.full_scale is None for f in frames)
    assert [f.t_ns for f in frames] == sorted(f.t_ns for f in frames)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("fail", "failed"), ("crash", "code -11"), ("half", "inside a frame")],
)
def test_a_pipeline_that_fails_is_started_again(launch: Callable[..., GstSource], fault: str, reason: str) -> None:
    source = launch(f"caps 0 1 {fault}", "caps 2 3")
    items = within(60, lambda: list(source))
    gap = items.pop(2)
    assert isinstance(gap, Gap)
    assert reason in gap.reason
    assert "secret" not in gap.reason
    assert np.array_equal([f.data for f in items], IMAGES)


def test_a_pipeline_that_changes_its_format_is_started_again(launch: Callable[..., GstSource], tmp_path: Path) -> None:
    source = launch("caps 0 other-caps on", "caps 3")
    items = iter(source)
    assert isinstance(within(60, lambda: next(items)), Frame)
    (tmp_path / "tools" / "go").touch()
    rest = within(60, lambda: list(items))
    assert [i.reason for i in rest if isinstance(i, Gap)] == ["the pipeline has changed the format of its frames"]
    assert np.array_equal(rest[-1].data, IMAGES[3])


def test_a_pipeline_that_stalls_is_started_again_even_if_it_does_not_listen(launch: Callable[..., GstSource]) -> None:
    source = launch("caps 0 deaf", "caps 1", policy=Reconnect(timeout=2, first=0.05, give_up=20))
    first, gap, second = within(60, lambda: list(source))
    assert isinstance(gap, Gap)
    assert "no frame in time" in gap.reason
    assert np.array_equal([first.data, second.data], IMAGES[:2])


def test_a_pipeline_that_fails_at_once_is_an_error_with_its_words(
    launch: Callable[..., GstSource], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SourceError, match="from element /x") as caught:
        within(60, lambda: list(launch("fail")))
    assert caught.value.exit_code == 3
    assert "secret" not in "".join([str(caught.value), *capfd.readouterr()])


def test_a_pipeline_that_never_comes_back_is_lost(launch: Callable[..., GstSource]) -> None:
    source = launch("caps 0 crash", "fail", policy=Reconnect(timeout=20, first=0.05, give_up=0.4))
    with pytest.raises(SourceLostError, match="did not come back"):
        within(60, lambda: list(source))


def test_closing_ends_the_wait_and_the_pipeline(launch: Callable[..., GstSource]) -> None:
    source = launch("caps 0 stall")
    items = iter(source)
    assert isinstance(within(60, lambda: next(items)), Frame)
    threading.Timer(0.1, source.close).start()
    began = time.monotonic()
    assert within(60, lambda: list(items)) == []
    assert time.monotonic() - began < 20


def test_without_gstreamer_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingDependencyError, match="GStreamer") as caught:
        open_source("gst:videotestsrc")
    assert "apt install" in (caught.value.hint or "")


@pytest.mark.parametrize("uri", ["gst:", "gst:   ", 'gst:filesrc location="open'])
def test_a_malformed_pipeline_is_an_input_error(uri: str) -> None:
    with pytest.raises(InputError):
        open_source(uri)


@needs_gstreamer
@pytest.mark.parametrize(("caps", "dtype"), [("GRAY8", np.uint8), ("GRAY16_LE", np.uint16)])
def test_real_pipelines_are_read_bit_by_bit(tmp_path: Path, caps: str, dtype: type) -> None:
    images = (IMAGES[..., :8] >> 8 * (dtype == np.uint8)).astype(dtype)  # its parser knows no padding
    (tmp_path / "frames.raw").write_bytes(images.tobytes())
    source = open_source(
        f"gst:filesrc location={tmp_path}/frames.raw ! "
        f"rawvideoparse format={caps.lower().replace('_', '-')} width=8 height=6 framerate=30/1"
    )
    frames = within(60, lambda: list(source.frames()))
    assert np.array_equal([f.data for f in frames], images)
    assert all(f.data.dtype == dtype for f in frames)


@needs_gstreamer
def test_real_rows_are_padded_as_glint_thinks() -> None:
    source = open_source(
        "gst:videotestsrc num-buffers=2 pattern=gradient ! video/x-raw,format=GRAY8,width=51,height=40"
    )
    frames = within(60, lambda: list(source.frames()))
    assert [f.shape for f in frames] == [(40, 51)] * 2
    assert all((f.data == f.data[:, :1]).all() for f in frames)  # the gradient runs down: rows are of one value
    assert len(np.unique(frames[0].data[:, 0])) > 20


@needs_gstreamer
@pytest.mark.parametrize(
    ("pipeline", "words", "hint"),
    [
        ("videotestsrc ! video/x-raw,format=RGB", "link", "format=GRAY8"),
        ("nosuchelement", "nosuchelement", ""),
        ("filesrc location=/nowhere/rtsp://me:secret@camera ! rawvideoparse", "ERROR", ""),
    ],
)
def test_real_failures_are_told(pipeline: str, words: str, hint: str) -> None:
    with pytest.raises(SourceError, match=words) as caught:
        within(60, lambda: list(open_source(f"gst:{pipeline}")))
    assert hint in (caught.value.hint or "")
    assert "secret" not in str(caught.value)
