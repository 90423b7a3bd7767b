"""Arrays of other types become those that glint works with, where nothing is lost."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.errors import InputError

_KEPT_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))
_MOST_UINT16 = 65535


def as_pixels(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """A copy of an array as ``uint8``, ``uint16`` or ``float32``, the types of a frame.

    Arrays of these types keep theirs. Other integers become ``uint16`` if they are all from 0 to 65535, else
    ``float32``; so do floats (see :func:`as_float32`).

    Args:
        name: what a message calls it.
        array: integers or floats of any shape.

    Raises:
        InputError: if it is no plain array of numbers, or a value would not survive.
    """
    numbers = _numbers(name, array)
    if numbers.dtype in _KEPT_DTYPES:
        return numbers.astype(numbers.dtype, order="C")
    if numbers.dtype.kind in "ui" and (not numbers.size or (numbers.min() >= 0 and numbers.max() <= _MOST_UINT16)):
        return numbers.astype(np.uint16)
    return as_float32(name, numbers)


def as_float32(name: str, array: NDArray[Any]) -> NDArray[np.float32]:
    """A copy of an array as ``float32``.

    Integers must be kept exactly. Doubles are rounded to the 24 bits of a ``float32``, which is more than a sensor
    gives; one that is too large becomes infinite.

    Raises:
        InputError: if it is no plain array of numbers, or an integer would not survive.
    """
    numbers = _numbers(name, array)
    with np.errstate(over="ignore"):
        values = numbers.astype(np.float32)
    if numbers.dtype.kind in "ui":
        # Compared as Python would: a comparison of int64 with float32 rounds both.
        lost = np.abs(numbers.astype(np.float64)) > 2**24
        lost[lost] = [int(a) != int(b) for a, b in zip(numbers[lost].tolist(), values[lost].tolist())]
        if lost.any():
            raise InputError(
                f"{name}: {lost.sum()} values of {numbers.dtype} do not survive as float32, e.g. {numbers[lost][0]}",
                hint="scale them to 24 bits yourself: which digits matter is not ours to guess",
            )
    return values


def _numbers(name: str, array: Any) -> NDArray[Any]:
    if isinstance(array, np.ma.MaskedArray):
        raise InputError(f"{name}: expected a plain array, got a masked one", hint="fill it: array.filled(value)")
    if not isinstance(array, np.ndarray):
        hint = "numpy.asarray(x) makes one of lists and of tensors on the CPU"
        raise InputError(f"{name}: expected a NumPy array, got {type(array).__name__}", hint=hint)
    if array.dtype.kind not in "uif":
        hint = "convert it yourself, e.g. array.astype(numpy.float32): what its values mean is not known"
        raise InputError(f"{name}: expected integers or floating-point numbers, got {array.dtype}", hint=hint)
    return array
