"""The library of machine code that came with this package, if one did for this processor and these sources."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import platform
import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.native.signature import Argument, Array, Number, Record, parse

TABLE = "machine_code.json"
_OBJECT_HEAD_BYTES = (
    object.__basicsize__
)  # bytes; behind them NumPy's object holds address, dimensions, shape and strides
_V3_FLAGS = {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}


@dataclass(frozen=True)
class Target:
    """A kind of processors.

    Attributes:
        name: of the library.
        machine: what ``platform.machine`` says.
        flags: what ``/proc/cpuinfo`` must list.
        triple, cpu, features: LLVM's names.
        zig: Zig's name, with the oldest C library.
    """

    name: str
    machine: str
    flags: frozenset[str]
    triple: str
    cpu: str
    features: str
    zig: str

    @property
    def file(self) -> str:
        """Name of the library."""
        return f"{self.name}.so"


TARGETS = (
    Target(
        "x86_64_v3",
        "x86_64",
        frozenset(_V3_FLAGS),
        "x86_64-unknown-linux-gnu",
        "x86-64-v3",
        "",
        "x86_64-linux-gnu.2.28",
    ),
    Target("x86_64", "x86_64", frozenset(), "x86_64-unknown-linux-gnu", "x86-64", "", "x86_64-linux-gnu.2.28"),
    Target("aarch64", "aarch64", frozenset(), "aarch64-unknown-linux-gnu", "cortex-a78", "", "aarch64-linux-gnu.2.28"),
)
"""The best first."""


class Library:
    """An opened library.

    Args:
        path: of the library; ``machine_code.json`` lies beside it.

    Raises:
        OSError: if it does not suit this system.
        ValueError: if the table is torn.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self._table = json.loads((path.parent / TABLE).read_bytes())
        self._library = ctypes.CDLL(str(path))
        release = getattr(self._library, "glint.release")  # its place keeps what it is told of its arguments
        release.argtypes, release.restype = [ctypes.c_void_p], None

    @property
    def labels(self) -> tuple[str, ...]:
        """The functions that it holds, each with its module."""
        return tuple(self._table)

    def entry(self, label: str, digest: str) -> Callable[..., Any] | None:
        """The machine code of a function, or None if there is none that was made of its sources."""
        kept = self._table.get(label)
        if kept is None or kept["digest"] != digest:
            return None
        calls = {}
        for variant in kept["variants"]:
            takes = parse(variant["takes"])
            call = _Call(self._library, variant["symbol"], takes, parse(variant["returns"]))
            calls[takes[0].dtype if isinstance(takes[0], Array) else None] = call
        if len(calls) == 1:
            return next(iter(calls.values()))
        return lambda first, *others: calls[first.dtype](first, *others)


@functools.cache
def library() -> Library | None:
    """The library for this processor, or None. ``GLINT_JIT=1`` leaves it alone."""
    if sys.platform != "linux" or os.environ.get("GLINT_JIT") or not _arrays_are_known():
        return None
    for target in TARGETS:
        path = Path(__file__).with_name(target.file)
        if target.machine == platform.machine() and target.flags <= _flags() and path.exists():
            with suppress(OSError, ValueError):
                return Library(path)
    return None


def _arrays_are_known() -> bool:
    """Whether NumPy's objects hold what the library reads of them, in this Python."""
    array = np.zeros((2, 3))
    if sys.implementation.name != "cpython":
        return False
    address, _, shape = (ctypes.c_size_t.from_address(id(array) + _OBJECT_HEAD_BYTES + 8 * i).value for i in range(3))
    return address == array.ctypes.data and list((ctypes.c_int64 * 2).from_address(shape)) == [2, 3]


@functools.cache
def _flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in text.splitlines() if line.startswith("flags")), "").split())


class _Call:
    """A function of the library."""

    def __init__(
        self, library: ctypes.CDLL, symbol: str, takes: Sequence[Argument], returns: Sequence[Argument]
    ) -> None:
        self.function, self.takes = library[symbol], takes
        self.release = getattr(library, "glint.release")
        self.function.argtypes, self.function.restype = [ctypes.c_char_p], ctypes.c_int
        results = returns[0].parts if returns and isinstance(returns[0], Record) else returns
        self.results, self.many = results, results is not returns
        self.words = struct.Struct("".join(_format(one) for one in takes))
        self._arrays = tuple((one.dtype, one.dims) if isinstance(one, Array) else (None, 0) for one in takes)
        # Of an array: owner, address and shape.
        self.back = struct.Struct("".join(f"{2 + r.dims}q" if isinstance(r, Array) else _format(r) for r in results))
        self._block = ctypes.c_char * (self.words.size + self.back.size)

    def __call__(self, *arguments: Any) -> Any:
        words: list[Any] = []
        copies: list[tuple[Any, Any]] = []
        for value, kind, (dtype, dims) in zip(arguments, self.takes, self._arrays, strict=True):
            # Most are arrays as they are wanted: this is done ten times per call.
            if dtype is not None and value.dtype is dtype and value.ndim == dims and value.flags.c_contiguous:
                words.append(id(value) + _OBJECT_HEAD_BYTES)
            else:
                _put(value, kind, words, copies)
        block = self._block()
        self.words.pack_into(block, 0, *words)
        if self.function(block):
            raise MemoryError("machine code failed: no memory")
        for original, copy in copies:
            if original.flags.writeable:
                original[...] = copy
        return self._returned(block) if self.results else None

    def _returned(self, block: ctypes.Array[ctypes.c_char]) -> Any:
        words, place, values = self.back.unpack_from(block, self.words.size), 0, []
        for kind in self.results:
            if isinstance(kind, Array):
                end = place + 2 + kind.dims
                owner, address = words[place : place + 2]
                values.append(np.asarray(_Owned(self.release, owner, address, words[place + 2 : end], kind)))
                place = end
            else:
                values.append(words[place])
                place += 1
        return tuple(values) if self.many else values[0]


def _format(kind: Argument) -> str:
    if isinstance(kind, Record):
        return "".join(_format(one) for one in kind.parts)
    return "d" if isinstance(kind, Number) and kind.kind[0] == "f" else "q"


def _put(value: Any, kind: Argument, words: list[Any], copies: list[tuple[NDArray[Any], NDArray[Any]]]) -> None:
    """Add the words of an argument."""
    if isinstance(kind, Record):
        for part, inner in zip(value, kind.parts, strict=True):
            _put(part, inner, words, copies)
    elif isinstance(kind, Array):
        if value.dtype is not kind.dtype or value.ndim != kind.dims or not value.flags.c_contiguous:
            value = _fitting(value, kind, copies)
        words.append(id(value) + _OBJECT_HEAD_BYTES)
    else:
        words.append(value)


def _fitting(value: NDArray[Any], kind: Array, copies: list[tuple[NDArray[Any], NDArray[Any]]]) -> NDArray[Any]:
    """The array as the function takes it; what is written into a copy is copied back."""
    if value.dtype != kind.dtype or value.ndim != kind.dims:
        raise TypeError(
            f"machine code: expected {kind.kind} in {kind.dims} dimensions, got {value.dtype} {value.shape}"
        )
    copy = np.array(value, dtype=kind.dtype, order="C")
    copies.append((value, copy))
    return copy


class _Owned:
    """Memory that a function returned; NumPy holds it as long as it has views of it."""

    __slots__ = ("__array_interface__", "_owner", "_release")

    def __init__(
        self, release: Callable[[int], None], owner: int, address: int, shape: tuple[int, ...], kind: Array
    ) -> None:
        self._release, self._owner = release, owner
        self.__array_interface__ = {"shape": shape, "typestr": kind.dtype.str, "data": (address, False), "version": 3}

    def __del__(self) -> None:
        self._release(self._owner)
