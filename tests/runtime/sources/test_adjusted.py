"""Scale, polarity and the first look at a source's frames."""

from pathlib import Path

import numpy as np
import pytest

from glint.errors import InputError, SourceError
from glint.images import write_image
from glint.processing.layout import Layout, looks_swapped
from glint.runtime.sources.adjusted import picture_of, warnings_of
from glint.runtime.sources.open import open_any, open_frames
from glint.types import Frame

SKY = np.random.default_rng(1).normal(7000, 40, (64, 80)).astype(np.uint16)


def test_black_hot_frames_are_turned_by_option_or_parameter(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", SKY)
    for source in (
        open_frames(str(tmp_path / "a.png"), polarity="black"),
        open_frames(f"{tmp_path}/a.png?polarity=black"),
    ):
        (frame,) = source.frames()
        assert np.array_equal(frame.data, 65535 - SKY)


def test_common_parameters_leave_the_others_where_they_are(tmp_path: Path) -> None:
    SKY.tofile(tmp_path / "a.raw")
    for query in ("size=80x64&polarity=black&dtype=uint16", "polarity=black&size=80x64&dtype=uint16"):
        (frame,) = open_frames(f"raw:{tmp_path}/a.raw?{query}").frames()
        assert np.array_equal(frame.data, 65535 - SKY)
    with pytest.raises(InputError, match="scale"):
        open_frames(f"raw:{tmp_path}/a.raw?size=80x64&dtype=uint16&scale=3")


@pytest.mark.parametrize("polarity", ["white", "black"])
def test_a_scale_brings_floats_to_dn(tmp_path: Path, polarity: str) -> None:
    unit = np.linspace(0, 1, 64 * 80, dtype=np.float32).reshape(64, 80)
    unit.tofile(tmp_path / "a.raw")
    (frame,) = open_frames(f"raw:{tmp_path}/a.raw?size=80x64&dtype=float32", scale="0,1", polarity=polarity).frames()
    expected = 16383 * (unit if polarity == "white" else 1 - unit)
    assert np.allclose(frame.data, expected, atol=0.01)


def test_small_numbers_and_contradictions_are_told() -> None:
    assert "--scale" in warnings_of(Frame(0, 0, (SKY / 65535).astype(np.float32)))[0]
    assert "full scale" in warnings_of(Frame(0, 0, SKY, full_scale=1023.0))[0]
    assert warnings_of(Frame(0, 0, SKY)) == []


def test_bits_that_the_values_exceed_are_refused(tmp_path: Path) -> None:
    SKY.tofile(tmp_path / "a.raw")
    with pytest.raises(SourceError, match="full scale"):
        list(open_frames(f"raw:{tmp_path}/a.raw?size=80x64&dtype=uint16&bits=10"))


@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("top", [False, True])
def test_telemetry_rows_are_found(rows: int, top: bool) -> None:
    words = np.zeros((rows, 80), np.uint16)
    words[:, :30] = np.random.default_rng(2).integers(0, 65535, (rows, 30))
    data = np.vstack([words, SKY] if top else [SKY, words])
    assert picture_of(data) == (0, rows if top else 0, 80, 64)
    assert f"--roi 0,{rows if top else 0},80,64" in warnings_of(Frame(0, 0, data))[0]


def test_bars_are_found_and_a_sloping_sky_is_none() -> None:
    assert picture_of(np.pad(SKY, ((0, 0), (6, 3)))) == (6, 0, 80, 64)
    slope = SKY + (np.arange(64, dtype=np.uint16) * 50)[:, None]
    assert picture_of(slope) is None


def test_a_frame_that_is_not_finite_after_good_ones_is_skipped(tmp_path: Path) -> None:
    frames = np.ones((4, 8, 8), np.float32) * np.arange(1, 5, dtype=np.float32)[:, None, None]
    frames[2, 3, 3] = np.nan
    frames.tofile(tmp_path / "a.raw")
    source = open_frames(f"raw:{tmp_path}/a.raw?size=8x8&dtype=float32")
    assert [f.index for f in source.frames()] == [0, 1, 3]
    assert source.skips.total() == 1 and source.skipped[0].name == "frame 2"
    frames[0, 0, 0] = np.inf
    frames.tofile(tmp_path / "a.raw")
    with pytest.raises(SourceError, match="NaN"):
        list(source)


def test_python_gives_the_same_parameters_in_uris(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", SKY)
    (frame,) = open_any(f"{tmp_path}/a.png?polarity=black").frames()
    assert np.array_equal(frame.data, 65535 - SKY)
    (as_it_is,) = open_any(tmp_path / "a.png").frames()
    assert np.array_equal(as_it_is.data, SKY)


def raw(tmp_path: Path, data: np.ndarray, query: str) -> list[Frame]:
    (tmp_path / "a.raw").write_bytes(data.tobytes())
    height, width = data.shape[-2:]
    return list(open_frames(f"raw:{tmp_path}/a.raw?size={width}x{height}&dtype=uint16{query}").frames())


def test_values_at_the_top_of_their_words_are_brought_down(tmp_path: Path) -> None:
    values = SKY & np.uint16(0x3FFF)
    for query in ("&align=msb&bits=14", "&bits=14&align=msb", "&align=msb"):
        (frame,) = raw(tmp_path, values << np.uint16(2), query)
        assert np.array_equal(frame.data, values)
        assert frame.full_scale == 16383
    with pytest.raises(SourceError, match="16 bits"):
        list(open_frames(f"raw:{tmp_path}/a.raw?size=80x64&dtype=uint8&align=msb"))


@pytest.mark.parametrize(("full_scale", "shift"), [(65532, 2), (65520, 4), (65535, 0), (16383, 2), (None, 2)])
def test_a_full_scale_at_the_top_of_the_word_says_how_far_down_values_come(
    full_scale: float | None, shift: int
) -> None:
    layout, frame = Layout(aligned=True), Frame(0, 0, (SKY & 0x3FFF) << np.uint16(2), full_scale=full_scale)
    assert layout.shift_of(frame) == shift
    mended = layout.mended(frame, shift)
    assert np.array_equal(mended.data, frame.data >> np.uint16(shift))
    assert mended.full_scale == 2 ** (16 - shift) - 1


def test_turned_bytes_are_told_and_turned_back(tmp_path: Path) -> None:
    assert any("endian=swap" in word for word in warnings_of(Frame(0, 0, SKY.byteswap())))
    quiet = np.random.default_rng(1).normal(7300, 6, (96, 128)).astype(np.uint16)  # a cooled sensor
    assert looks_swapped(quiet.byteswap())
    assert not looks_swapped(quiet)
    assert not looks_swapped((quiet & 0xFF) << 8)  # 8 bits at the top of 16
    write_image(tmp_path / "a.png", SKY.byteswap())
    (frame,) = open_frames(f"{tmp_path}/a.png?endian=swap").frames()
    assert np.array_equal(frame.data, SKY)
    (frame,) = raw(tmp_path, SKY.byteswap(), "&endian=big")
    assert np.array_equal(frame.data, SKY)


def test_the_picture_alone_is_taken(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.pad(SKY, ((2, 1), (5, 0))))
    (frame,) = open_frames(f"{tmp_path}/a.png?crop=5,2,80,64").frames()
    assert np.array_equal(frame.data, SKY)
    (frame,) = open_frames(f"{tmp_path}/a.png?deinterlace=bottom").frames()
    assert frame.shape == (33, 85)
    with pytest.raises(SourceError, match="over the edge"):
        list(open_frames(f"{tmp_path}/a.png?crop=5,2,81,64"))
    for query in (
        "crop=1,2,3",
        "crop=0,0,0,5",
        "crop=-1,0,5,5",
        "align=lsb",
        "deinterlace=both",
        "crop=1,1,5,5&crop=1,1,5,5",
    ):
        with pytest.raises(InputError):
            open_frames(f"{tmp_path}/a.png?{query}")


def test_a_later_frame_that_the_crop_does_not_fit_is_skipped(tmp_path: Path) -> None:
    write_image(tmp_path / "1.png", SKY)
    write_image(tmp_path / "2.png", SKY[:20])
    write_image(tmp_path / "3.png", SKY)
    source = open_frames(f"{tmp_path}?crop=0,10,80,40")
    assert [frame.name for frame in source.frames()] == ["1", "3"]
    assert sum(source.skips.values()) == 1


def test_headers_and_padded_rows_of_raw_frames_are_left_out(tmp_path: Path) -> None:
    frames = np.stack([SKY, SKY + 1])
    padded = np.pad(frames, ((0, 0), (0, 0), (0, 8)), constant_values=9)
    parts = [b"H" * 100] + [b"h" * 12 + image.tobytes() for image in padded]
    (tmp_path / "a.raw").write_bytes(b"".join(parts))
    uri = f"raw:{tmp_path}/a.raw?size=80x64&dtype=uint16&header=100&frame_header=12"
    source = open_frames(f"{uri}&stride=176")
    assert source.total == 2
    assert np.array_equal([frame.data for frame in source.frames()], frames)
    for query in ("stride=10", "stride=99999999", "header=-1", "header=x"):
        with pytest.raises(InputError):
            open_frames(f"{uri.replace('header=100&', '')}&{query}")


def test_kelvin_is_told() -> None:
    kelvin = (290 + 3 * (SKY - SKY.min()) / np.ptp(SKY)).astype(np.float32)
    assert any("--scale" in word for word in warnings_of(Frame(0, 0, kelvin)))


def test_what_a_sender_is_asked_is_left_to_it() -> None:
    uri = "rtsp://camera/live?crop=1&scale=2#timeout=3"
    source = open_frames(f"{uri}&polarity=black&crop=0,0,8,8").inner
    assert source._url == "rtsp://camera/live?crop=1&scale=2"  # type: ignore[attr-defined]
    assert source.policy.timeout == 3  # type: ignore[attr-defined]
    assert open_frames("rtsp://me:a#crop=1@camera/live").polarity == "white"
    source = open_frames("udp://127.0.0.1:5004#crop=0,0,8,8").inner
    assert source._url == "udp://127.0.0.1:5004"  # type: ignore[attr-defined]
