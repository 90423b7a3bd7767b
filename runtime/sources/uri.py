"""What is common to the URIs of sources: their parameters, and how they are shown without secrets."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from glint.errors import InputError

Converter = Callable[[str], Any]
_LOCAL = ("file", "synthetic", "v4l2")  # they name things of this machine: no secrets
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_URL_IN_TEXT = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^\s\"']*)")
_VALUE = r"(\"(?:\\.|[^\"])*\"|'[^']*'|\S+)"
_PROPERTY = re.compile(r"([\w-]+)( *= *)(?:\(\w+\) *)?" + _VALUE)
_SECRET = re.compile(
    r"user|pw|pass|proxy-id|secret|token|key|auth|cred|header|cookie|bearer|signature|(?:^|[-_])(?:pin|psk|sas|sig)$",
    re.IGNORECASE,
)
_STATED = re.compile(
    r"([\w-]*(?:passw(?:or)?d|passphrase|pwd|token|secret|api[-_]?key)[\"']?\s*:\s*)" + _VALUE, re.IGNORECASE
)  # as JSON and logs state one
_INLINE_KEY = re.compile(r"(inline:)\S+")  # of SRTP, in SDP
_TORN_URL = re.compile(r"^((?:rtsps?|https?|udp|tcp|mqtts?|rtmps?|srt):?/{1,2})[^\s/?#]*@", re.IGNORECASE)
_HEADER = re.compile(
    r"((?:proxy-)?authorization|set-cookie|cookie|x-[\w-]*key)(\s*[:=]\s*)(?:\(\w+\)\s*)?(?:\"[^\"]*\"?|[^\"'\r\n]*)",
    re.IGNORECASE,
)


def safe_uri(uri: str) -> str:
    """The URI as it may be shown: without user, password or what is asked of a server.

    A URL keeps scheme, host and path; values in the path (``/user=...``) are hidden too, and all
    that follows ``?`` or ``#``. A ``gst:`` pipeline goes through :func:`redact`. Other names are
    local and stay as they are. A secret that is a plain part of the path cannot be told from a name.
    """
    url = _URL.fullmatch(uri)
    if url is not None:
        return uri if url[1].lower() in _LOCAL else f"{url[1]}://{_mask(url[2])}"
    return redact(uri) if uri.startswith("gst:") or "://" in uri else _TORN_URL.sub(r"\1***@", uri)


def redact(text: str) -> str:
    """A text without the secrets of the URLs, ``password=...`` properties and headers of requests in it."""
    text = _HEADER.sub(r"\1\2***", text)
    text = _PROPERTY.sub(_mask_property, text)
    text = _STATED.sub(r"\1***", _INLINE_KEY.sub(r"\1***", text))
    return _URL_IN_TEXT.sub(lambda m: m[0] if m[1].lower() in _LOCAL else f"{m[1]}://{_mask(m[2])}", text)


def _mask(rest: str) -> str:
    # The last @ counts: an unescaped / or @ in a password must not end its hiding place.
    before, user, rest = rest.rpartition("@")
    if "?" in before or "#" in before:
        return "***"  # of a password or of the query: nobody can tell where the host is
    place = re.split(r"[?#]", rest, maxsplit=1)
    path = re.sub(r"=[^/]*", "=***", place[0])
    return ("***@" if user else "") + path + ("?***" if len(place) > 1 else "")


def _mask_property(match: re.Match[str]) -> str:
    name, sign, value = match[1], match[2], match[3]
    if _SECRET.search(name) or (value[:1] in "\"'" and _SECRET.search(value)):
        return f"{name}{sign}***"
    url = _URL.fullmatch(value.strip("\"'"))
    return f"{name}{sign}{safe_uri(url[0])}" if url is not None else match[0]


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
