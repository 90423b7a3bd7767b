"""What addresses and texts may show: passwords, tokens and keys are hidden in whatever glint says and writes.

Better too much is hidden than too little: of a text that looks like a secret, nobody can tell that it is none.
"""

from __future__ import annotations

import re

HIDDEN = "***"
_LOCAL = ("file", "synthetic", "v4l2")  # they name things of this machine: no secrets
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_URL_IN_TEXT = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^\s\"']*)")
_ODD_USER = re.compile(r"(\w[\w+.-]*://)[^\s/@\"']*:(?!\d+(?:[/\s]|$))(?:(?!://)[^@]){0,200}@")  # blanks in it
_USER = re.compile(
    r"[^\s/\\@:\"'=(,<>\[{]+:(?!//|(?:fp32|fp16|int8)@)(?:(?!://)[^\s@])*@(?=[\w\[])"
)  # me:secret@host, but no model
_ENCODED_USER = re.compile(r"[^\s/\"'=&?\[{]*%3A[^\s\"'&]*?%40", re.IGNORECASE)

_WORD = (
    r"passw(?:or)?d|passphrase|pwd|secret|token|credentials?|authorization|api[-_ ]?key|"
    r"(?:srtp|access|private|master|auth|encryption)[-_]?key|jwt|psk"
)  # a name of a secret wherever it stands
_SECRET = re.compile(
    rf"{_WORD}|user|pw|pass|proxy-id|key|auth|cred|headers|cookie|bearer|signature|session|srtp|"
    r"(?:^|[-_])(?:pin|sas|sig|otp|sid)$",
    re.IGNORECASE,
)  # in the name of a property
_VALUE = (
    r"(\*\*\*|\\\"(?:(?!\\\").)*\\\"|\"(?:\\.|[^\"])*\"|'[^']*'|<[^>]*>|[\"'][^\r\n]*|\S+)"  # the last but one is torn
)
_PROPERTY = re.compile(r"([\w-]+)( *= *|%3[Dd])(\(\w+\) *)?" + _VALUE)
_STATED = re.compile(
    rf"((?:[\w-]*(?:{_WORD})|\b(?:pass|pin|otp))\\*[\"']?(?:\s*:\s*|%3A))" + _VALUE, re.IGNORECASE
)  # as JSON and logs state one
_OPTION = re.compile(rf"((?<![\w-])--?[\w-]*(?:{_WORD}|srtp)[\w-]*\s+)" + _VALUE, re.IGNORECASE)
_QUOTED = re.compile(rf"(\b[\w-]*(?:{_WORD})\s+)(\"[^\"\r\n]*\"|'[^'\r\n]*')", re.IGNORECASE)
_TOKEN = re.compile(
    r"((?i:\b(?:bearer|basic|negotiate)\s+|\b[\w-]+[-_]key\s+))(?=\S*[\dA-Z=])[\w+/.=~-]{6,}"
)  # what looks like one
_HEADER = re.compile(
    r"((?:proxy-)?authorization|(?:set-)?cookies?|x-[\w-]*(?:key|token|auth|secret|pass|signature)[\w-]*|extra-headers)"
    r"(\\*[\"']?\s*(?:=|:|%3[AD])\s*)(?:(?!\s!\s)[^\r\n])+",
    re.IGNORECASE,
)  # to the end of its line, or of its part of a pipeline
_DIGEST = re.compile(r"((?i:\bdigest\s+))(?=\w+=)[^\r\n]+")
_SDP = re.compile(r"(\binline:|\bk=(?:clear|base64|uri):|\bkey-mgmt:\s*\w+\s+)\S+")  # keys of SRTP
_TORN_URL = re.compile(r"^((?:rtsps?|https?|udp|tcp|mqtts?|rtmps?|srt):?/{1,2})[^\s/?#]*@", re.IGNORECASE)
_IN_PATH = re.compile(rf"([\w-]*(?:{_WORD})[\w-]*[/=]).+", re.IGNORECASE | re.DOTALL)  # it may hold a / itself


def safe_uri(uri: str) -> str:
    """The URI as it may be shown: without user, password or what is asked of a server.

    A URL keeps scheme, host and path; values in the path (``/user=...``, ``/token/...``) are hidden too, and all
    that follows ``?`` or ``#``. A ``gst:`` pipeline goes through :func:`redact`. Other names are
    local and stay as they are. A secret that is a plain part of the path cannot be told from a name.
    """
    url = _URL.fullmatch(uri)
    if url is not None:
        return uri if url[1].lower() in _LOCAL else f"{url[1]}://{_mask(url[2])}"
    if uri.startswith("gst:") or "://" in uri:
        return redact(uri)
    return _hide_users(_TORN_URL.sub(rf"\1{HIDDEN}@", uri))


def redact(text: str) -> str:
    """A text without the secrets of the URLs, ``password=...`` properties and headers of requests in it."""
    text = _HEADER.sub(rf"\1\2{HIDDEN}", text)
    text = _ODD_USER.sub(rf"\1{HIDDEN}@", text)
    text = _PROPERTY.sub(_mask_property, _DIGEST.sub(rf"\1{HIDDEN}", text))
    for pattern in (_STATED, _OPTION, _QUOTED, _TOKEN, _SDP):
        text = pattern.sub(rf"\1{HIDDEN}", text)
    text = _URL_IN_TEXT.sub(lambda m: m[0] if m[1].lower() in _LOCAL else f"{m[1]}://{_mask(m[2])}", text)
    return _hide_users(text)


def has_secret(uri: str) -> bool:
    """Whether anything of a URI must be hidden; what glint takes for itself behind ``#`` mostly need not be."""
    theirs, _, ours = uri.partition("#")
    return safe_uri(theirs) != theirs or redact(ours) != ours


def _hide_users(text: str) -> str:
    return _ENCODED_USER.sub(f"{HIDDEN}%40", _USER.sub(f"{HIDDEN}@", text))


def _mask(rest: str) -> str:
    # The last @ counts: an unescaped / or @ in a password must not end its hiding place.
    before, user, rest = rest.rpartition("@")
    if "?" in before or "#" in before:
        return HIDDEN  # of a password or of the query: nobody can tell where the host is
    place = re.split(r"[?#]", rest, maxsplit=1)
    path = re.sub(r"=[^/]*", f"={HIDDEN}", _IN_PATH.sub(rf"\1{HIDDEN}", place[0]))
    return (f"{HIDDEN}@" if user else "") + path + (f"?{HIDDEN}" if len(place) > 1 else "")


def _mask_property(match: re.Match[str]) -> str:
    name, sign, kind, value = match[1], match[2], match[3] or "", match[4]
    if _SECRET.search(name) or (value[:1] in "\"'" and _SECRET.search(value)):
        return f"{name}{sign}{HIDDEN}"
    url = _URL.fullmatch(value.strip("\"'"))
    # Behind an & there may be more of them.
    return name + sign + kind + (_PROPERTY.sub(_mask_property, value) if url is None else safe_uri(url[0]))
