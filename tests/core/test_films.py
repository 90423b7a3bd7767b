"""The ends of films whose containers do not tell their length."""

import struct

import pytest

from glint.formats.films import end_of


def written(tmp_path, content):
    path = tmp_path / "film"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("length", "before"), [(188, 0), (192, 4), (204, 0)])
def test_a_transport_stream_ends_with_a_packet(tmp_path, length, before):
    packet = (bytes(before) + b"\x47" + bytes(187)).ljust(length, b"\0")
    assert end_of(written(tmp_path, 5 * packet), "mpegts") == ("", "")
    lost, _ = end_of(written(tmp_path, 5 * packet + packet[:100]), "mpegts")
    assert lost == f"it ends after 100 bytes of a packet of {length}"


@pytest.mark.parametrize(
    ("layout", "frame"),
    [
        ("Cmono", 35),
        ("Cmono16", 70),
        ("C420jpeg", 35 + 2 * 4 * 3),
        ("C422", 35 + 2 * 4 * 5),
        ("C444p10", 6 * 35),
        ("", 59),
    ],
)
def test_yuv4mpeg_ends_with_a_frame(tmp_path, layout, frame):
    head = f"YUV4MPEG2 W7 H5 F30:1 {layout}".strip().encode() + b"\n"
    whole = head + 3 * (b"FRAME\n" + bytes(frame))
    assert end_of(written(tmp_path, whole), "yuv4mpegpipe") == ("", "")
    for cut in (1, frame, frame + 3):
        assert end_of(written(tmp_path, whole[:-cut]), "yuv4mpegpipe") == ("it ends inside a frame", "")


def test_nut_ends_with_its_index(tmp_path):
    body, index = b"nut/multimedia container\0" + bytes(300), b"NX\xdd\x67\x2f\x23\xe6\x4e" + bytes(40)
    whole = body + index + struct.pack(">Q", len(index) + 12) + bytes(4)
    assert end_of(written(tmp_path, whole), "nut") == ("", "")
    for part in (whole[:-20], body, b""):
        assert "no index" in end_of(written(tmp_path, part), "nut")[1]


def test_a_second_film_in_an_mp4_is_told(tmp_path):
    film = b"".join(struct.pack(">I4s", 16, kind) + bytes(8) for kind in (b"ftyp", b"moov", b"mdat"))
    assert end_of(written(tmp_path, film), "mov,mp4,m4a,3gp,3g2,mj2") == ("", "")
    assert "2 films" in end_of(written(tmp_path, 2 * film), "mov,mp4,m4a,3gp,3g2,mj2")[1]


@pytest.mark.parametrize("width", [1, 4, 8])
def test_matroska_promises_a_length(tmp_path, width):
    head = b"\x1a\x45\xdf\xa3\x85abcde\x18\x53\x80\x67"
    film = head + (1 << 7 * width | 100).to_bytes(width, "big") + bytes(100)
    assert end_of(written(tmp_path, film), "matroska,webm") == ("", "")
    assert end_of(written(tmp_path, film + b"more"), "matroska,webm") == ("", "")
    assert end_of(written(tmp_path, film[:-3]), "matroska,webm")[0].startswith("it lacks 3 of the bytes")
    streamed = head + ((1 << 7 * width + 1) - 1).to_bytes(width, "big") + bytes(10)
    assert end_of(written(tmp_path, streamed), "matroska,webm") == ("", "")


@pytest.mark.parametrize(
    "data", [b"", b"\x1a\x45\xdf\xa3", b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67", b"\x1a\x45\xdf\xa3\x00"]
)
def test_a_torn_head_of_matroska_says_nothing(tmp_path, data):
    assert end_of(written(tmp_path, data), "matroska,webm") == ("", "")


def test_other_containers_say_nothing(tmp_path):
    assert end_of(written(tmp_path, b"anything"), "avi") == ("", "")
