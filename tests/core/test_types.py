"""The records validate what they are given and cannot be changed."""

import json
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glint.errors import InputError
from glint.types import FLAG_TEXT, Blobs, Frame, FrameSize, TargetFlag, Targets, flag_names


def targets(number=3, **columns):
    values = {f.name: np.arange(number) + 1 for f in fields(Targets)}
    return Targets(**{**values, **columns})


# Frame


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_frame_keeps_its_data_as_they_are(dtype):
    data = np.ones((3, 5), dtype=dtype)
    frame = Frame(2, 10, data, name="a.png", full_scale=255.0)
    assert frame.data is data
    assert frame.shape == (3, 5)


@pytest.mark.parametrize("dtype", [np.float64, np.int16, np.uint32, bool, complex])
def test_frames_of_other_types_are_refused(dtype):
    with pytest.raises(InputError, match="uint8, uint16 or float32"):
        Frame(0, 0, np.zeros((2, 2), dtype=dtype))


def test_a_frame_that_is_no_array_is_refused():
    with pytest.raises(InputError, match="got list"):
        Frame(0, 0, [[1, 2]])


@pytest.mark.parametrize("shape", [(4,), (2, 3, 1), (0, 3), (3, 0)])
def test_frames_of_other_shapes_are_refused(shape):
    with pytest.raises(InputError, match=r"\[H, W\]"):
        Frame(0, 0, np.zeros(shape, dtype=np.uint8))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_frames_that_are_not_finite_are_refused(value):
    data = np.zeros((2, 2), dtype=np.float32)
    data[1, 1] = value
    with pytest.raises(InputError, match="finite"):
        Frame(0, 0, data)


# Columns


def test_columns_become_arrays_of_their_types():
    blobs = Blobs(x=[1, 2], y=(3, 4), area=[5.0, 6.0], score=[0, 1])
    assert [blobs.x.dtype, blobs.y.dtype, blobs.area.dtype, blobs.score.dtype] == [float, float, np.int64, float]
    assert len(blobs) == 2


def test_no_targets_need_no_columns():
    empty = Targets()
    assert len(empty) == 0
    assert empty.records() == []
    assert empty.flags.dtype == empty.blob.dtype == np.int64


def test_columns_of_another_length_are_refused_by_name():
    with pytest.raises(InputError, match=r"Targets\.radiance: expected 3 entries .* got 2"):
        targets(radiance=[1.0, 2.0])


def test_columns_of_more_dimensions_are_refused_by_name():
    with pytest.raises(InputError, match=r"Blobs\.x: expected one dimension, got shape \(1, 2\)"):
        Blobs(x=[[1, 2]], y=[1, 2], area=[1, 2], score=[1, 2])


def test_records_cannot_be_changed():
    record = targets()
    with pytest.raises(FrozenInstanceError):
        record.x = np.zeros(3)
    with pytest.raises(ValueError, match="read-only"):
        record.x[0] = 5


def test_building_a_record_does_not_lock_the_callers_arrays():
    x = np.zeros(3)
    record = targets(x=x)
    x[0] = 5  # the caller's buffer stays the caller's
    assert not record.x.flags.writeable


# Selection and records


@settings(deadline=None, max_examples=30, derandomize=True)
@given(rows=st.lists(st.integers(0, 5), max_size=8))
def test_select_takes_all_columns_in_the_order_of_the_rows(rows):
    chosen = targets(6).select(np.array(rows, dtype=int))
    for field in fields(Targets):
        assert getattr(chosen, field.name).tolist() == [i + 1 for i in rows]


def test_columns_of_another_record_are_not_copied():
    first = Targets(x=[1.0, 2.0], y=[0, 0], radiance=[1, 1], sigma_x=[0, 0], sigma_y=[0, 0], sigma_radiance=[0, 0],
                    blob=[0, 1], score=[0, 0], flags=[0, 0])  # fmt: skip
    moved = replace(first, x=first.x + 1)
    assert moved.y is first.y
    half = first.x[:1]  # of an array that somebody may write to
    assert Blobs(x=half, y=half, area=[1], score=[1]).x is not half
    assert not (moved.x.flags.writeable or first.select([0]).x.flags.writeable)


def test_select_takes_a_mask():
    chosen = targets(4).select(np.array([True, False, False, True]))
    assert chosen.x.tolist() == [1, 4]


def test_records_are_json_with_none_for_the_unknown():
    nan = [np.nan]
    record = Targets(
        x=[1.23456789], y=[2.0], radiance=[235.00049], sigma_x=nan, sigma_y=nan, sigma_radiance=nan, blob=[7],
        score=[0.5], flags=[TargetFlag.SATURATED | TargetFlag.ON_GRID],
    ).records()  # fmt: skip
    assert json.loads(json.dumps(record, allow_nan=False)) == [
        {
            "x": 1.23457, "y": 2.0, "radiance": 235.0, "sigma_x": None, "sigma_y": None, "sigma_radiance": None,
            "blob": 7, "score": 0.5, "flags": ["SATURATED", "ON_GRID"],
        }
    ]  # fmt: skip


def test_records_are_one_per_target_in_order():
    assert [row["blob"] for row in targets(3).records()] == [1, 2, 3]


# Flags


def test_flags_are_distinct_bits_and_every_one_has_its_text():
    assert set(FLAG_TEXT) == set(TargetFlag)
    assert all(FLAG_TEXT.values())
    values = [flag.value for flag in TargetFlag]
    assert sum(values) == (1 << len(values)) - 1


@settings(deadline=None, max_examples=40, derandomize=True)
@given(flags=st.sets(st.sampled_from(list(TargetFlag))))
def test_flag_names_are_those_of_the_set_bits_in_order(flags):
    value = sum(flag.value for flag in flags)
    assert flag_names(value) == [flag.name for flag in sorted(flags)]


def test_bits_without_a_name_are_left_out():
    assert flag_names(1024 + TargetFlag.EDGE) == ["EDGE"]


def test_the_page_of_conventions_explains_every_flag_as_registered():
    page = (Path(__file__).parents[2] / "docs" / "conventions.md").read_text(encoding="utf-8")
    for flag, text in FLAG_TEXT.items():
        assert f"| `{flag.name}` | {text}" in page


def test_a_frame_size_is_width_by_height() -> None:
    size = FrameSize.parse("640x512")
    assert (size, size.width, size.shape, str(size)) == ((640, 512), 640, (512, 640), "640x512")
    assert np.zeros(size.shape).shape[1] == size.width


@pytest.mark.parametrize(
    "text", ["640", "640x", "x512", "0x512", "640x512x1", "-640x512", "6 x 5", "٣x٣", "16385x1", ""]
)
def test_what_is_no_frame_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected WIDTHxHEIGHT"):
        FrameSize.parse(text)


def test_changed_columns_are_kept_where_they_fit_and_refused_where_they_do_not():
    targets = Targets([1.0, 2.0], [0.0, 0.0], [5.0, 6.0], [0.1] * 2, [0.1] * 2, [1.0] * 2, [0, 0], [0.5] * 2, [0, 0])
    blob = np.array([3, 4])
    changed = targets.changed(blob=blob, score=[1, 0])
    assert changed.blob is blob and changed.blob.tolist() == [3, 4] and not changed.blob.flags.writeable
    assert changed.score.dtype == np.float64 and changed.x is targets.x
    with pytest.raises(InputError, match=r"Targets.flags: expected 2 entries"):
        targets.changed(flags=np.zeros(3, dtype=np.int64))
