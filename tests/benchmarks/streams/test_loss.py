"""Streams that lose packets go on, and every frame is counted."""

import pytest

pytest.importorskip("av", reason="needs PyAV")

from glint.benchmarks.streams.loss import Account, encoded, loss, number_of, picture, problems, text_of
from glint.runtime.sources.decoding import import_av


def test_a_picture_tells_its_number():
    assert [number_of(picture(n)) for n in (0, 1, 513, 1023)] == [0, 1, 513, 1023]


def test_what_is_lost_is_counted_over_every_transport():
    result = loss(frames=48, losses=(0.02,))
    assert result["problems"] == []
    assert [row["transport"] for row in result["rows"]] == ["udp", "tcp", "rtsp"]
    for row in result["rows"]:
        assert row["sent"] == 48
        assert 0 < row["received"] < 48
        assert row["gaps"] > 0 < row["missing"]
        assert 46 <= row["received"] + row["missing"] + row["skipped"] <= 48  # the ends are not between frames
    assert text_of(result).count("\n") == 4


def test_nothing_is_missing_where_nothing_is_lost():
    (row,) = (r for r in loss(frames=24, losses=(0.0,))["rows"] if r["transport"] == "tcp")
    assert (row["missing"], row["skipped"], row["damaged"], row["gaps"]) == (0, 0, 0, 0)
    assert row["received"] >= 23


def test_what_should_not_be_is_named():
    row = Account("udp", 0.01, 10, 5, 0, 0, 1, 2, 3, 1, "torn")
    assert len(problems(row)) == 3


def test_parts_hold_all_frames():
    assert import_av()
    assert len(encoded(5)) == 6
