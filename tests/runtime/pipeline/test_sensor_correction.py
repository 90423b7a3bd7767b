from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glint.errors import InputError, SourceError
from glint.images import write_image
from glint.runtime.pipeline.sensor_correction import Conditioner
from glint.types import Frame

SHAPE = (12, 16)


def sensor(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gain and offset of every pixel, and a scene in the units that a perfect sensor would give."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0.8, 1.25, SHAPE), rng.uniform(500, 700, SHAPE), rng.uniform(100, 3000, SHAPE)


def test_two_points_make_all_pixels_alike() -> None:
    gain, offset, scene = sensor()
    dark, flat = offset + 200 * gain, offset + 2000 * gain
    raw = (offset + gain * scene).astype(np.float32)
    corrected = Conditioner(dark=dark, flat=flat)(Frame(0, 0, raw)).frame.data
    assert corrected.dtype == np.float32
    slope, level = np.polyfit(scene.ravel(), corrected.ravel(), 1)
    assert slope == pytest.approx(gain.mean(), rel=1e-6)  # the mean response stays
    assert corrected == pytest.approx(level + slope * scene, abs=0.01)


def test_a_dark_frame_alone_takes_the_pattern_away_and_keeps_the_level() -> None:
    _, offset, scene = sensor()
    corrected = Conditioner(dark=offset)(Frame(0, 0, np.round(offset + scene).astype(np.uint16))).frame.data
    assert corrected == pytest.approx(scene + offset.mean(), abs=0.51)


def test_a_dark_frame_corrected_by_itself_is_flat() -> None:
    _, offset, _ = sensor()
    dark = np.round(offset).astype(np.uint16)
    corrected = Conditioner(dark=dark.astype(np.float64))(Frame(0, 0, dark)).frame.data
    assert corrected == pytest.approx(np.full(SHAPE, dark.mean()), abs=1e-3)


def test_a_dead_pixel_gets_the_median_of_its_good_neighbours() -> None:
    dead = np.zeros(SHAPE, dtype=bool)
    dead[5, 5] = dead[5, 6] = dead[0, 0] = True
    data = np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.uint16)
    data[dead] = 65535
    corrected = Conditioner(dead)(Frame(0, 0, data)).frame.data
    assert corrected[5, 5] == np.median([*data[4, 4:7], data[5, 4], *data[6, 4:7]])
    assert corrected[5, 6] == np.median([*data[4, 5:8], data[5, 7], *data[6, 5:8]])
    assert corrected[0, 0] == np.median([data[0, 1], data[1, 0], data[1, 1]])
    assert np.array_equal(corrected[~dead], data[~dead])


def test_in_the_middle_of_a_dead_area_the_nearest_good_pixels_count() -> None:
    dead = np.zeros(SHAPE, dtype=bool)
    dead[3:8, 3:8] = True
    data = np.zeros(SHAPE, dtype=np.uint8)
    data[2:9, 2:9] = 7  # the ring around the area
    assert Conditioner(dead)(Frame(0, 0, data)).frame.data[5, 5] == 7


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.floats(0, 0.97))
def test_replaced_values_lie_among_those_of_good_pixels_and_good_ones_stay(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    dead = rng.random(SHAPE) < share
    dead[3, 4] = False
    data = rng.integers(0, 65536, SHAPE).astype(np.uint16)
    corrected = Conditioner(dead)(Frame(0, 0, data)).frame.data
    assert np.array_equal(corrected[~dead], data[~dead])
    assert ((corrected >= data[~dead].min()) & (corrected <= data[~dead].max())).all()


def test_the_frame_itself_stays_as_it_was() -> None:
    dead = np.zeros(SHAPE, dtype=bool)
    dead[2, 2] = True
    frame = Frame(0, 0, np.full(SHAPE, 100, dtype=np.uint16))
    before = frame.data.copy()
    Conditioner(dead, dark=np.full(SHAPE, 10.0))(frame)
    assert np.array_equal(frame.data, before)


def test_saturation_is_known_after_the_correction_and_not_where_a_pixel_is_dead() -> None:
    gain, offset, _ = sensor()
    dead = np.zeros(SHAPE, dtype=bool)
    dead[1, 1] = True
    raw = np.full(SHAPE, 4095, dtype=np.uint16)
    raw[6, 6] = 4094
    done = Conditioner(dead, offset, offset + 100 * gain)(Frame(0, 0, raw, full_scale=4095.0))
    assert done.frame.full_scale is None
    expected = ~dead
    expected[6, 6] = False
    assert np.array_equal(done.frame.data >= done.ceiling, expected)


def test_unknown_full_scale_stays_unknown() -> None:
    done = Conditioner(dark=np.zeros(SHAPE))(Frame(0, 0, np.zeros(SHAPE, dtype=np.uint8)))
    assert done.ceiling is None


def test_without_corrections_a_frame_passes_through() -> None:
    frame = Frame(0, 0, np.zeros(SHAPE, dtype=np.uint8), full_scale=255.0)
    done = Conditioner()(frame)
    assert done.frame is frame
    assert done.ceiling == 255.0
    assert Conditioner.load(None, None, None) is None


def test_a_map_without_dead_pixels_is_a_map(tmp_path: Path) -> None:
    frame = Frame(0, 0, np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8))
    assert np.array_equal(Conditioner(np.zeros(SHAPE, dtype=bool))(frame).frame.data, frame.data)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dead": np.ones(SHAPE, dtype=bool)}, "not a single pixel"),
        ({"flat": np.ones(SHAPE)}, "without a dark"),
        ({"dark": np.zeros(SHAPE), "flat": np.ones((3, 4))}, "different shapes"),
        ({"dark": np.zeros(SHAPE), "flat": np.zeros(SHAPE)}, "192 pixels are not brighter"),
    ],
)
def test_corrections_that_make_no_sense_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Conditioner(**arguments)


def test_a_pixel_without_response_is_fine_if_it_is_known_to_be_dead() -> None:
    flat = np.full(SHAPE, 100.0)
    flat[2, 3] = 0
    dead = np.zeros(SHAPE, dtype=bool)
    dead[2, 3] = True
    corrected = Conditioner(dead, np.zeros(SHAPE), flat)(Frame(0, 0, np.full(SHAPE, 50, dtype=np.uint8))).frame.data
    assert corrected == pytest.approx(np.full(SHAPE, 50.0))


def test_a_frame_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match="a frame of 5x4 meets corrections for frames of 16x12"):
        Conditioner(dark=np.zeros(SHAPE))(Frame(0, 0, np.zeros((4, 5), dtype=np.uint8)))


def test_maps_are_read_from_arrays_and_images(tmp_path: Path) -> None:
    dead = np.zeros(SHAPE, dtype=np.uint8)
    dead[4, 4] = 255
    write_image(tmp_path / "dead.png", dead)
    np.save(tmp_path / "dead.npy", dead.astype(bool))
    np.save(tmp_path / "dark.npy", np.full(SHAPE, 20, dtype=np.uint16))
    data = np.full(SHAPE, 100, dtype=np.uint16)
    data[4, 4] = 0
    for name in ("dead.png", "dead.npy"):
        conditioner = Conditioner.load(tmp_path / name, tmp_path / "dark.npy", None)
        assert conditioner is not None
        assert conditioner(Frame(0, 0, data)).frame.data == pytest.approx(np.full(SHAPE, 100.0))


def test_files_that_hold_no_map_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "text.png").write_text("no image")
    np.save(tmp_path / "nan.npy", np.full(SHAPE, np.nan))
    np.save(tmp_path / "cube.npy", np.zeros((2, *SHAPE)))
    np.save(tmp_path / "words.npy", np.array([["a"]]))
    np.save(tmp_path / "objects.npy", np.array([[None]], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "many.npz", a=np.zeros(SHAPE))
    (tmp_path / "many.npz").rename(tmp_path / "many.npy")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises((InputError, SourceError), match=path.name):
            Conditioner.load(None, path, None)
    with pytest.raises(SourceError, match=r"nowhere\.npy"):
        Conditioner.load(tmp_path / "nowhere.npy", None, None)
