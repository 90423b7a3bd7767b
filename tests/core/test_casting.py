from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from glint.casting import as_float32, as_pixels
from glint.errors import InputError


@pytest.mark.parametrize(
    ("values", "given", "expected"),
    [
        ([0, 255], "u1", "u1"), ([0, 65535], "u2", "u2"), ([0.1, -3], "f4", "f4"), ([0, 65535], ">u2", "u2"),
        ([0, 200], "i8", "u2"), ([0, 65535], "i4", "u2"), ([-1, 65535], "i4", "f4"), ([0, 65536], "u4", "f4"),
        ([2**24, -(2**24)], "i8", "f4"), ([2**40], "u8", "f4"), ([-(2**63)], "i8", "f4"), ([0.5, 1000.25], "f8", "f4"),
        ([0.5], "f2", "f4"), ([1.5], ">f4", "f4"), ([], "i8", "u2"),
    ],
)  # fmt: skip
def test_numbers_are_kept(values: list[float], given: str, expected: str) -> None:
    array = np.array(values, given)
    cast = as_pixels("frame", array)
    assert cast.dtype == np.dtype(expected) and cast.dtype.isnative
    assert [float(v) for v in cast] == [float(v) for v in array]
    assert not np.shares_memory(cast, array)


def test_a_double_is_rounded_to_24_bits() -> None:
    array = np.random.default_rng(0).normal(1000, 300, 1000)
    assert np.abs(as_pixels("frame", array) / array - 1).max() < 2**-24


@pytest.mark.parametrize(
    "array",
    [
        np.array([0, 2**24 + 1]), np.array([-(2**24) - 1]), np.array([2**63 - 1]), np.array([2**64 - 1], np.uint64),
        np.array([True]), np.array([1j]), np.array(["1"]), np.array([None]), np.ma.masked_array([1, 2], [0, 1]), [[1]],
        None,
    ],
)  # fmt: skip
def test_what_would_be_lost_is_refused(array: Any) -> None:
    for cast in (as_pixels, as_float32):
        with pytest.raises(InputError, match="frame 3: "):
            cast("frame 3", array)
