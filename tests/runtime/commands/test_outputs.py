from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stream_parts import frame, result_of

from glint.errors import InputError, OutputError
from glint.runtime.commands.outputs import open_outputs
from glint.runtime.commands.run_options import RunOptions
from glint.runtime.device.state import DeviceState
from glint.runtime.sinks.base import Sink
from glint.runtime.sinks.json_lines import RunFiles
from glint.runtime.sinks.overlay import Overlays
from glint.runtime.view.status import StreamStatus
from glint.types import Frame, Gap, Targets


def opened(**options: Any) -> list[Sink]:
    return open_outputs(RunOptions.of(**options), "fake:", StreamStatus, lambda: DeviceState(0))


def test_lines_tell_of_late_results_dropped_frames_gaps_and_tracks(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    (files,) = opened(out=path)
    ones = np.ones(2)
    two = Targets(ones, ones, ones, ones, ones, ones, ones, ones, np.zeros(2))
    files.write(result_of(frame(0), two, track=np.array([7, -1])))
    files.gap(Gap(123, 1.5, "no signal"))
    files.write(result_of(frame(5), late=True, dropped={"queue": 4}))
    files.close()
    first, gap, second = (json.loads(line) for line in path.read_text().splitlines())
    assert [t["track"] for t in first["targets"]] == [7, None]
    assert "late" not in first
    assert "dropped" not in first
    assert gap == {"event": "gap", "t_ns": 123, "utc": None, "seconds": 1.5, "reason": "no signal"}
    assert (second["late"], second["dropped"]) == (True, {"queue": 4})


def test_every_line_is_in_the_file_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    (files,) = opened(out=path)
    for index in range(3):
        files.write(result_of(frame(index)))
        assert [json.loads(line)["frame"] for line in path.read_text().splitlines()] == list(range(index + 1))
    files.close()


def test_nothing_is_created_before_the_first_result(tmp_path: Path) -> None:
    sinks = opened(out=tmp_path / "a" / "r.jsonl", overlay=tmp_path / "p")
    assert [type(sink) for sink in sinks] == [RunFiles, Overlays]
    for sink in sinks:
        sink.close()
    assert list(tmp_path.iterdir()) == []


def test_no_output_is_touched_if_one_of_them_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "precious.png").write_text("")
    with pytest.raises(OutputError, match="not empty"):
        opened(out=tmp_path / "r.jsonl", overlay=tmp_path / "p")
    assert not (tmp_path / "r.jsonl").exists()


def test_the_manifest_comes_last_and_an_empty_run_has_an_empty_file(tmp_path: Path) -> None:
    (files,) = opened(out=tmp_path / "r.jsonl")
    assert isinstance(files, RunFiles)
    files.close()
    files.finish({"frames": 0})
    assert (tmp_path / "r.jsonl").read_text() == ""
    assert json.loads((tmp_path / "r.manifest.json").read_text()) == {"frames": 0}


def test_nothing_is_written_beside_a_device(tmp_path: Path) -> None:
    device = Path("/dev/null")
    if not device.exists():
        pytest.skip("needs /dev/null")
    (files,) = opened(out=device, overwrite=True)
    assert isinstance(files, RunFiles)
    item = Frame(0, 0, np.zeros((4, 6), dtype=np.uint8), truth=Targets())
    files.write(result_of(item))
    files.close()
    files.finish({"frames": 1})
    assert not list(device.parent.glob("null.*"))


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"csv": "r.csv"}, "CsvSink"),
        ({"csv": "-"}, "CsvSink"),
        ({"parquet": "r.parquet"}, "ParquetSink"),
        ({"mcap": "r.mcap"}, "McapSink"),
        ({"coco": "r.json"}, "CocoFile"),
        ({"masks": "masks"}, "Masks"),
        ({"tracks": "t.jsonl"}, "TrackLines"),
        ({"tracks": "t.CSV"}, "TrackTable"),
        ({"tracks": "t.txt"}, "MotFile"),
        ({"video": "r.mkv"}, "OverlayVideo"),
        ({"record": "frames", "record_events": True, "record_max_gb": 0.5}, "Recorder"),
        ({"udp": "127.0.0.1:9"}, "UdpSink"),
        ({"video_udp": "127.0.0.1:9"}, "OverlayStream"),
        ({"mqtt": "mqtt://127.0.0.1:1/glint"}, "MqttSink"),
        ({"metrics": "127.0.0.1:0"}, "Metrics"),
        ({"view": "127.0.0.1:0"}, "LiveView"),
    ],
)
def test_every_option_opens_its_output(tmp_path: Path, options: dict[str, Any], kind: str) -> None:
    if kind in ("OverlayVideo", "OverlayStream"):
        pytest.importorskip("av")
    if kind == "MqttSink":
        pytest.importorskip("paho.mqtt.client")
    if kind == "ParquetSink":
        pytest.importorskip("pyarrow")
    if kind == "McapSink":
        pytest.importorskip("mcap_ros2")
    files = ("csv", "parquet", "mcap", "coco", "masks", "tracks", "video", "record")
    paths = {name: tmp_path / value for name, value in options.items() if name in files and value != "-"}
    (sink,) = opened(**{**options, **paths})
    try:
        assert type(sink).__name__ == kind
    finally:
        sink.close()
    assert list(tmp_path.iterdir()) == []


def test_a_recording_is_told_its_source_and_bounds(tmp_path: Path) -> None:
    (sink,) = opened(record=tmp_path / "r", record_events=True, record_after=7.0, record_max_gb=0.5)
    assert (sink.events, sink.max_bytes, sink.source) == (True, 500_000_000, "fake:")  # type: ignore[attr-defined]


def test_a_service_of_systemd_has_its_watchdog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "socket"))
    (sink,) = opened()
    sink.close()
    assert type(sink).__name__ == "Watchdog"


def test_a_taken_port_is_an_error_and_closes_what_was_opened(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = "127.0.0.1:" + str(server.getsockname()[1])
        with pytest.raises(OutputError, match="cannot listen"):
            opened(metrics="127.0.0.1:0", view=address)


@pytest.mark.parametrize("other", ["x.jsonl", "./x.jsonl", "x.manifest.json", "x.truth.jsonl"])
def test_two_outputs_in_one_file_are_refused(tmp_path: Path, other: str) -> None:
    with pytest.raises(InputError, match="both want"):
        opened(out=tmp_path / "x.jsonl", csv=tmp_path / other)
    with pytest.raises(InputError, match="both want"):
        opened(out=tmp_path / "x.jsonl", tracks=tmp_path / other)
    assert list(tmp_path.iterdir()) == []


def test_the_second_of_two_runs_on_one_file_is_refused(tmp_path: Path) -> None:
    (first,), (second,) = (opened(out=tmp_path / "x.jsonl") for _ in range(2))
    first.write(result_of(frame(0)))
    with pytest.raises(OutputError, match="exists"):
        second.write(result_of(frame(0)))
    first.close()
    assert len((tmp_path / "x.jsonl").read_text().splitlines()) == 1
