"""Scale, polarity and the first look at a source's frames."""

from pathlib import Path

import numpy as np
import pytest

from glint.errors import InputError, SourceError
from glint.images import write_image
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
