"""Streams that lose packets go on, and every frame is counted."""

import pytest

pytest.importorskip("av", reason="needs PyAV")

from glint.benchmarks.streams.loss import (
    Account,
    account,
    can_encode,
    encoded,
    loss,
    number_of,
    payloads,
    picture,
    problems,
    text_of,
)
from glint.runtime.sources.decoding import import_av


def test_a_picture_tells_its_number():
    assert [number_of(picture(n)) for n in (0, 1, 513, 1023)] == [0, 1, 513, 1023]


def test_what_is_lost_is_counted_over_every_transport():
    result = loss(frames=48, losses=(0.02,), codecs=("mpeg2video",))
    assert result["problems"] == []
    assert [row["transport"] for row in result["rows"]] == ["udp", "tcp", "rtsp"]
    for row in result["rows"]:
        assert row["sent"] == 48
        assert 0 < row["received"] < 48
        assert row["gaps"] > 0 < row["missing"]
        assert 46 <= row["received"] + row["missing"] + row["skipped"] <= 48  # the ends are not between frames
    assert text_of(result).count("\n") == 4


def test_nothing_is_missing_where_nothing_is_lost():
    rows = loss(frames=24, losses=(0.0,), codecs=("mpeg2video",))["rows"]
    (row,) = (r for r in rows if r["transport"] == "tcp")
    assert (row["missing"], row["skipped"], row["damaged"], row["gaps"]) == (0, 0, 0, 0)
    assert row["received"] >= 23


@pytest.mark.parametrize(("codec", "transport"), [("h264", "rtsp"), ("h264, stripes", "rtsp"), ("hevc", "tcp")])
def test_codecs_that_conceal_what_is_lost_are_marked(codec, transport):
    if not can_encode(codec):
        pytest.skip(f"this PyAV encodes no {codec}")
    row = account(transport, 0.05, 96, 1, codec)
    assert problems(row) == []
    assert row.damaged > 0 < row.missing


def test_a_refresh_in_stripes_ends_the_damage():
    if not can_encode("h264, stripes"):
        pytest.skip("this PyAV encodes no H.264")
    row = account("rtsp", 0.005, 200, 1, "h264, stripes")
    assert problems(row) == []
    assert 0 < row.damaged < row.received - 50


def test_large_units_of_h264_are_cut_for_rtp():
    (parts,) = payloads([b"\0\0\0\1\x67abc" + b"\0\0\1\x65" + bytes(range(1, 251)) * 12])
    assert parts[0] == b"\x67abc"
    assert [part[0] & 0x1F for part in parts[1:]] == [28, 28, 28]
    assert [part[1] for part in parts[1:]] == [0x85, 0x05, 0x45]
    assert b"".join(part[2:] for part in parts[1:]) == bytes(range(1, 251)) * 12


def test_what_should_not_be_is_named():
    row = Account("h264", "udp", 0.01, 10, 5, 0, 0, 1, 1, 2, 3, "torn")
    assert len(problems(row)) == 3


def test_parts_hold_all_frames():
    assert import_av()
    assert len(encoded(5)) == 6
