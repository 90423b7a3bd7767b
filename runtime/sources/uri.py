"""What is common to the URIs of sources: their parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from glint.errors import InputError, safe_uri

Converter = Callable[[str], Any]


def split_path(text: str) -> tuple[str, str]:
    """``FILE?NAME=VALUE&...`` as file and parameters; a ``?`` of a file that exists is part of its name."""
    match = re.search(r"\?([a-z_]+=[^/]*)$", text)
    if match is None or Path(text).exists():
        return text, ""
    return text[: match.start()], match[1]


def parameters(uri: str, query: str, known: Mapping[str, Converter]) -> dict[str, Any]:
    """The values of ``NAME=VALUE&NAME=VALUE``, each through its converter.

    Args:
        uri: where they stand, for the messages; shown without secrets.
        query: the text.
        known: converters by name; one raises ValueError on text that it does not take.

    Raises:
        InputError: if a name is unknown or occurs twice, or a value is malformed.
    """
    values: dict[str, Any] = {}
    shown, hint = safe_uri(uri), f"known: {', '.join(known)}"
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            raise InputError(f"{shown}: unknown parameter {name!r}", hint=hint)
        if name in values:
            raise InputError(f"{shown}: {name} is given twice", hint="leave one of them out")
        try:
            values[name] = known[name](text)
        except ValueError as error:
            raise InputError(
                f"{shown}: {name}={text!r}: {error}", hint="docs/sources.md lists the parameters and what they take"
            ) from error
    if query and not values:
        raise InputError(f"{shown}: {query!r} is no NAME=VALUE", hint=hint)
    return values


def take(query: str, name: str) -> tuple[str | None, str]:
    """The value of one parameter, or None, and the rest of the query."""
    given = [part for part in query.split("&") if part.startswith(f"{name}=")]
    rest = "&".join(part for part in query.split("&") if part not in given)
    return unquote(given[0].partition("=")[2]) if given else None, rest


def positive(text: str) -> float:
    """A finite number > 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise ValueError("expected a positive number")
    return value


def not_negative(text: str) -> float:
    """A finite number >= 0."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise ValueError("expected a number of at least 0")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("expected a number") from None


def full_scale_of_bits(text: str) -> float:
    """The highest value of a sensor of 8 to 16 ``bits``."""
    if text not in {str(bits) for bits in range(8, 17)}:
        raise ValueError("expected 8 to 16")
    return 2.0 ** int(text) - 1


def one_of(*choices: str) -> Converter:
    """One of these words."""

    def convert(text: str) -> str:
        if text not in choices:
            raise ValueError(f"expected {' or '.join(choices)}")
        return text

    return convert
