from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from io import FileIO
from pathlib import Path

import numpy as np
import pytest
from made_results import made_result

from glint.errors import InputError, MissingDependencyError, OutputError
from glint.runtime.sinks import overlay_video
from glint.runtime.sinks.overlay import draw_overlay
from glint.runtime.sinks.overlay_video import ENCODERS, OverlayVideo

av = pytest.importorskip("av", reason="needs PyAV (pip install '.[video]')")


def read(path: Path) -> tuple[list[np.ndarray], list[float], str]:
    """Pictures, their times in seconds and the codec."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        codec = container.streams.video[0].codec_context.name
    return [f.to_ndarray(format="rgb24") for f in frames], [float(f.time) for f in frames], codec


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_a_video_shows_what_an_overlay_shows_at_the_time_of_capture(tmp_path: Path, ending: str) -> None:
    results = [made_result(n, track=[4], t_ns=10**9 + n * n * 10**8) for n in range(4)]
    sink = OverlayVideo(tmp_path / "new" / f"out{ending}")
    for result in results:
        sink.write(result)
    sink.close()
    sink.close()
    pictures, times, codec = read(tmp_path / "new" / f"out{ending}")
    assert times == pytest.approx([0.0, 0.1, 0.4, 0.9], abs=2e-3)
    assert codec in {"h264", "mpeg4", "ffv1", "mjpeg"}
    expected = draw_overlay(results[0]).astype(float)
    height, width = expected.shape[:2]
    shown = pictures[0][:height, :width].astype(float)
    assert np.abs(shown - expected).mean() < 12
    assert np.corrcoef(shown.ravel(), expected.ravel())[0, 1] > 0.97


@pytest.mark.parametrize(("encoder", "pixels"), ENCODERS)
def test_every_encoder_that_is_there_makes_a_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str, pixels: str
) -> None:
    if encoder not in av.codecs_available:
        pytest.skip(f"this PyAV has no {encoder}")
    monkeypatch.setattr(overlay_video, "ENCODERS", ((encoder, pixels),))
    sink = OverlayVideo(tmp_path / "out.mkv")
    for n in range(3):
        sink.write(made_result(n, shape=(51, 63)))
    sink.close()
    assert len(read(tmp_path / "out.mkv")[0]) == 3


def test_a_steady_rate_can_be_asked_for_and_equal_times_do_no_harm(tmp_path: Path) -> None:
    steady, still = OverlayVideo(tmp_path / "steady.mkv", fps=4), OverlayVideo(tmp_path / "still.mkv")
    for n in range(3):
        steady.write(made_result(n, t_ns=n))
        still.write(made_result(n, t_ns=5))
    steady.close()
    still.close()
    assert read(tmp_path / "steady.mkv")[1] == pytest.approx([0, 0.25, 0.5], abs=2e-3)
    times = read(tmp_path / "still.mkv")[1]
    assert len(times) == 3
    assert times[-1] < 0.01


def test_frames_without_targets_keep_the_size(tmp_path: Path) -> None:
    sink = OverlayVideo(tmp_path / "out.mkv")
    for rows in ([], [(0, 30, 20, 300)], []):
        sink.write(made_result(rows=rows))
    with pytest.raises(InputError, match="changed to"):
        sink.write(made_result(shape=(90, 64)))
    sink.close()
    assert len(read(tmp_path / "out.mkv")[0]) == 3


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_a_killed_run_leaves_a_video_that_plays(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"out{ending}"
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[2]); from made_results import made_result\n"
        "from glint.runtime.sinks.overlay_video import OverlayVideo\n"
        "sink = OverlayVideo(sys.argv[1])\n"
        "for n in range(64): sink.write(made_result(n, t_ns=n * 33_000_000))\n"
        "os.kill(os.getpid(), 9)"
    )
    here = str(Path(__file__).parents[2] / "helpers")
    assert subprocess.run([sys.executable, "-c", script, str(path), here], check=False).returncode == -9
    frames: list[object] = []
    with av.open(str(path)) as container, suppress(av.FFmpegError):
        frames.extend(container.decode(video=0))
    assert len(frames) >= 30


def test_an_existing_file_another_ending_and_a_bad_rate_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "out.mkv").write_text("precious")
    with pytest.raises(OutputError, match="exists"):
        OverlayVideo(tmp_path / "out.mkv")
    OverlayVideo(tmp_path / "out.mkv", overwrite=True).close()
    assert (tmp_path / "out.mkv").read_text() == "precious"
    with pytest.raises(InputError, match=r"\.mp4 or \.mkv"):
        OverlayVideo(tmp_path / "out.gif")
    with pytest.raises(InputError, match="fps"):
        OverlayVideo(tmp_path / "out.mp4", fps=0)


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    (tmp_path / "out.mkv").symlink_to("/dev/full")
    sink = OverlayVideo(tmp_path / "out.mkv", overwrite=True)
    with pytest.raises(OutputError, match="cannot"):
        for n in range(300):
            sink.write(made_result(n))
        sink.close()
    sink.close()


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_disk_that_fills_up_fails_the_film_even_at_its_end(tmp_path: Path, ending: str) -> None:
    class Full:
        """A file whose disk has no room from some moment on."""

        def __init__(self, file: FileIO) -> None:
            self._file, self.full = file, False
            self.seek, self.tell, self.close = file.seek, file.tell, file.close

        def write(self, data: bytes) -> int:
            if self.full:
                raise OSError(28, "No space left on device")
            return self._file.write(data)

    sink = OverlayVideo(tmp_path / f"out.{ending}")
    with pytest.raises(OutputError, match="No space left"):
        sink.write(made_result(0))
        assert sink._file is not None
        sink._file._file = full = Full(sink._file._file)  # type: ignore[assignment]
        full.full = True
        for n in range(1, 40):
            sink.write(made_result(n))
        sink.close()
    sink.close()


def test_a_folder_that_is_none_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        OverlayVideo(tmp_path / "file" / "out.mkv").write(made_result())


def test_without_pyav_or_an_encoder_the_way_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay_video, "ENCODERS", (("no_such_encoder", "gray"),))
    with pytest.raises(MissingDependencyError, match="no encoder"):
        OverlayVideo(tmp_path / "out.mkv")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependencyError, match="PyAV") as caught:
        OverlayVideo(tmp_path / "out.mkv")
    assert "[video]" in (caught.value.hint or "")
