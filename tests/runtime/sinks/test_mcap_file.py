"""Targets as MCAP: ROS 2 messages that another library reads back, and a file that is whole or not there."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from made_results import made_result

from glint.errors import MissingDependencyError, OutputError
from glint.runtime.sinks.mcap_file import MESSAGE, TOPIC, McapSink
from glint.types import Blobs


def test_messages_come_back_with_their_types_and_times(tmp_path):
    pytest.importorskip("mcap_ros2", reason="needs mcap-ros2-support")
    from mcap.reader import make_reader
    from mcap_ros2.decoder import DecoderFactory

    path = tmp_path / "new" / "r.mcap"
    first = made_result(3, [(0, 30.25, 20.5, 300), (0, 31, 20, 200)], sigma=float("nan"), t_ns=5)
    second = made_result(4, track=[7])
    labels = np.zeros((48, 64), dtype=np.int32)
    labels[19:22, 28:33] = 1
    blobs = Blobs(np.array([30.0]), np.array([20.0]), np.array([15]), np.array([0.8]), labels)
    utc_ns = 1_790_000_000 * 10**9 + 123
    second = replace(
        second, frame=replace(second.frame, utc_ns=utc_ns), detection=replace(second.detection, blobs=blobs)
    )
    sink = McapSink(path)
    for result in (first, second, made_result(5, rows=[])):
        sink.write(result)
    assert not path.exists()
    sink.close()
    sink.close()
    with path.open("rb") as stream:
        reader = make_reader(stream, decoder_factories=[DecoderFactory()])
        read = list(reader.iter_decoded_messages(log_time_order=False))
        assert reader.get_header().profile == "ros2"
    assert {(schema.name, channel.topic, channel.message_encoding) for schema, channel, _, _ in read} == {
        (MESSAGE, TOPIC, "cdr")
    }
    assert [(m.sequence, m.log_time) for _, _, m, _ in read] == [(3, 5), (4, utc_ns), (5, 50_000_000)]
    one, two, none = (decoded for _, _, _, decoded in read)
    assert list(none.detections) == []
    assert (one.header.stamp.sec, one.header.stamp.nanosec, one.header.frame_id) == (0, 5, "camera")
    assert (two.header.stamp.sec, two.header.stamp.nanosec) == (1_790_000_000, 123)
    assert [d.id for d in (*one.detections, *two.detections)] == ["", "", "7"]
    poses = [d.results[0].pose for d in one.detections]
    assert [(p.pose.position.x, p.pose.position.y, p.pose.position.z) for p in poses] == [
        (30.25, 20.5, 300.0), (31.0, 20.0, 200.0),
    ]  # fmt: skip
    assert set(poses[0].covariance) == {0.0}  # unknown
    (found,) = two.detections
    assert np.diag(np.reshape(found.results[0].pose.covariance, (6, 6))).tolist() == [0.05**2, 0.05**2, 2.0**2, 0, 0, 0]
    assert (found.results[0].hypothesis.class_id, found.results[0].hypothesis.score) == ("target", 0.9)
    assert (found.bbox.center.position.x, found.bbox.center.position.y) == (30.0, 20.0)
    assert (found.bbox.size_x, found.bbox.size_y) == (5.0, 3.0)


def test_an_existing_file_is_refused(tmp_path):
    pytest.importorskip("mcap_ros2", reason="needs mcap-ros2-support")
    (tmp_path / "r.mcap").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        McapSink(tmp_path / "r.mcap")


def test_a_full_disk_ends_the_run_without_a_file(tmp_path, monkeypatch):
    pytest.importorskip("mcap_ros2", reason="needs mcap-ros2-support")
    sink = McapSink(tmp_path / "r.mcap")
    sink.write(made_result())

    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sink._writer, "finish", full)
    with pytest.raises(OutputError, match="No space left"):
        sink.close()
    assert list(tmp_path.iterdir()) == []


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mcap_ros2", None)
    with pytest.raises(MissingDependencyError, match="needs mcap-ros2-support"):
        McapSink(tmp_path / "r.mcap")
