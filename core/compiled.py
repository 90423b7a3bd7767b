"""Python functions compiled to machine code by Numba: the arithmetic on single patches, where NumPy is all overhead.

The first call of such a function compiles it, which takes seconds; the result is kept beside the
module, or in the folder that ``NUMBA_CACHE_DIR`` names, so that only the first run ever pays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])

# Sums may be reordered, so that they run in vector registers. Infinity and NaN keep their meaning.
_FREEDOM = {"reassoc", "contract", "arcp", "nsz"}


def compiled(function: Function) -> Function:
    """The function as machine code, without the interpreter's lock; division by zero gives infinity."""
    options = {"nogil": True, "fastmath": _FREEDOM, "error_model": "numpy"}
    try:
        result: Function = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to keep it: read-only code and no cache folder
        result = numba.njit(**options)(function)
    return result
