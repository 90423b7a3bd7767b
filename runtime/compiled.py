"""Python functions compiled to machine code by Numba: the arithmetic on single patches, where NumPy is all overhead.

The first call of such a function compiles it, which takes seconds; the result is kept beside the
module, or in the folder that ``NUMBA_CACHE_DIR`` names, so that only the first run ever pays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])

SOURCES = ("compiled", "fit", "refine", "search", "templates")
"""The modules of this folder that have compiled functions: these call each other across modules."""

# Sums may be reordered, so that they run in vector registers. Infinity and NaN keep their meaning.
_FREEDOM = {"reassoc", "contract", "arcp", "nsz"}


def digest(folder: Path) -> str:
    """A few letters that change with any of the sources."""
    return hashlib.sha256(b"".join((folder / f"{name}.py").read_bytes() for name in SOURCES)).hexdigest()[:10]


_DIGEST = digest(Path(__file__).parent)


def compiled(function: Function) -> Function:
    """The function as machine code, without the interpreter's lock; division by zero gives infinity."""
    options: dict[str, Any] = {"nogil": True, "fastmath": _FREEDOM, "error_model": "numpy"}
    # What Numba keeps has the other functions in it that a function calls, but it looks at the function's own module
    # alone to see whether that is still true. The name of the file that it is kept in is made from this one.
    name = function.__qualname__
    function.__qualname__ = f"{name}_{_DIGEST}"
    try:
        result: Function = numba.njit(cache=True, **options)(function)
    except RuntimeError as error:  # nowhere to keep it: read-only code and no cache folder
        if "no locator available" not in str(error):
            raise
        result = numba.njit(**options)(function)
    finally:
        function.__qualname__ = name
    result.__qualname__ = name
    return result
