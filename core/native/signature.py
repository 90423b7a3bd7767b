"""What a compiled function takes when Python calls it, in words: ``"f4[2] i8 Rules(f8 i8)"``.

Each argument is a letter and the bytes of a number (``b1``, ``u1``, ``u2``, ``i4``, ``i8``, ``f4``, ``f8``), an array
of them with its number of dimensions in brackets, or a tuple in parentheses, with the name of its class before them if
it has one. Arrays are contiguous, the last axis first.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

_TOKEN = re.compile(r"\s*(?:(?P<kind>[biuf][1248])(?:\[(?P<dims>\d)\])?(?=[\s)]|$)|(?P<name>\w*)\(|(?P<end>\)))")


@dataclass(frozen=True)
class Number:
    """A number, e.g. ``f8``."""

    kind: str


@dataclass(frozen=True)
class Array:
    """An array of numbers."""

    kind: str
    dims: int

    @functools.cached_property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's type of the numbers."""
        return np.dtype(self.kind)


@dataclass(frozen=True)
class Record:
    """A tuple; ``name`` is that of its class, or empty."""

    name: str
    parts: tuple[Argument, ...]


Argument = Number | Array | Record


def parse(text: str) -> tuple[Argument, ...]:
    """The arguments that a signature names.

    Raises:
        ValueError: if it is none.
    """
    stack: list[tuple[str, list[Argument]]] = [("", [])]
    place = 0
    while place < len(text.rstrip()):
        found = _TOKEN.match(text, place)
        if not found:
            raise ValueError(f"no signature: {text!r}, at {text[place:]!r}")
        place = found.end()
        if found["kind"]:
            one = Array(found["kind"], int(found["dims"])) if found["dims"] else Number(found["kind"])
            stack[-1][1].append(one)
        elif found["end"]:
            if len(stack) == 1:
                raise ValueError(f"no signature: {text!r} has a parenthesis too many")
            name, parts = stack.pop()
            stack[-1][1].append(Record(name, tuple(parts)))
        else:
            stack.append((found["name"], []))
    if len(stack) > 1:
        raise ValueError(f"no signature: {text!r} misses a parenthesis")
    return tuple(stack[0][1])
