"""The exceptions of glint: each says what was wrong, what arrived, what was expected and what to do next.

Every exception that glint raises on purpose derives from :class:`GlintError` and also from the
built-in that fits, so that ``except ValueError`` works for people who never heard of glint. The
command line prints ``error:`` and ``hint:`` from it and leaves with :func:`exit_code_of`.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

EXIT_OK = 0
EXIT_CHECK_FAILED = 1
EXIT_USAGE = 2
EXIT_ENVIRONMENT = 3
EXIT_SOURCE_LOST = 4
EXIT_UNEXPECTED = 70
EXIT_INTERRUPTED = 130


class GlintError(Exception):
    """Base of all deliberate errors.

    Args:
        message: what was wrong, what arrived and what was expected.
        hint: what to do next; printed on a line of its own.
    """

    exit_code = EXIT_USAGE
    usual_hint = "glint COMMAND --help tells what it takes"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(redact(message))  # whatever it quotes, a password is none of it
        self.hint = None if hint is None else redact(hint)


class InputError(GlintError, ValueError):
    """An argument, array or file content is not what the function takes."""


class UsageError(InputError):
    """A command line is not what the command takes."""


class SourceError(GlintError, OSError):
    """A source of frames or a data folder is missing or cannot be read."""

    usual_hint = "is the name right? docs/sources.md tells what can be read"


class OutputError(GlintError, OSError):
    """An output exists already or cannot be written."""

    usual_hint = "choose another place, or make room"


class ModelError(GlintError, ValueError):
    """A model file, its card or a checkpoint is missing, corrupt, or not what its card says."""

    usual_hint = "install the file again together with what belongs to it, or name another one"


class MissingDependencyError(GlintError, ImportError):
    """An optional library that the request needs is not installed on this machine."""

    exit_code = EXIT_ENVIRONMENT
    usual_hint = "glint doctor says what is missing and how to get it"


class EngineError(GlintError, RuntimeError):
    """An engine could not be created, or failed while it ran."""

    exit_code = EXIT_ENVIRONMENT
    usual_hint = "glint doctor says what works on this machine"


class SourceAbsentError(SourceError):
    """A camera or stream is not there now, and may be later."""

    exit_code = EXIT_ENVIRONMENT
    usual_hint = "is it switched on, plugged in and reachable? --wait-source SECONDS waits for it"


class SourceLostError(SourceError):
    """A source delivered frames and then stopped without reaching its end."""

    exit_code = EXIT_SOURCE_LOST
    usual_hint = "the frames before it are good"


class CheckFailedError(GlintError, RuntimeError):
    """A check that the user asked for (parity, accuracy, loss) did not hold."""

    exit_code = EXIT_CHECK_FAILED
    usual_hint = "the report above tells what did not hold"


_MACHINE_ERRORS = (
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EADDRINUSE,
    errno.EADDRNOTAVAIL, errno.ENETDOWN,
)  # fmt: skip


def exit_code_of(error: GlintError) -> int:
    """The exit code of a command that ends with this error: a full disk or a port in use is no wrong usage."""
    cause = error.__cause__
    if error.exit_code == EXIT_USAGE and isinstance(cause, OSError) and cause.errno in _MACHINE_ERRORS:
        return EXIT_ENVIRONMENT
    return error.exit_code


_OF_THE_SYSTEM = {
    errno.ENOENT: "is the name right, seen from this folder? ls tells",
    errno.EACCES: "whose is it, and who runs glint? ls -l tells",
    errno.EPERM: "whose is it, and who runs glint? ls -l tells",
    errno.EISDIR: "name a file, not a folder",
    errno.ENOTDIR: "a part of the name before the last is a file, not a folder",
    errno.EEXIST: "choose another name",
    errno.ELOOP: "its symbolic links lead in a circle: ls -l tells",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOSPC: "make room (df -h tells), or choose another place",
    errno.EDQUOT: "make room (quota tells), or choose another place",
    errno.EROFS: "nothing can be written there: choose another place",
    errno.EIO: "the disk or its cable fails: dmesg tells more",
    errno.EMFILE: "too many files are open: ulimit -n 4096 allows more",
    errno.ENFILE: "too many files are open on this machine: close other programs",
    errno.ENOMEM: "close other programs, or process smaller frames",
    errno.EADDRINUSE: "another program has this port: choose another one",
    errno.EADDRNOTAVAIL: "this machine has no such address: 0.0.0.0 stands for all that it has",
}  # what to do about errors of the system, by their numbers


def hint_of(error: GlintError) -> str:
    """What to do next: its own hint, else what helps against the error of the system behind it, else its class's."""
    number = getattr(error.__cause__, "errno", None)
    return error.hint or _OF_THE_SYSTEM.get(number or 0) or error.usual_hint


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``did you mean NAME? `` for the nearest of the known words; "" if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {near[0]}? " if near else ""


def first_line(error: BaseException) -> str:
    """What an exception of another library says, in one line; its name if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def system_reason(error: Exception) -> str:
    """What the system says went wrong, or else the exception itself, in one line."""
    return getattr(error, "strerror", None) or first_line(error)


@contextmanager
def system_errors_as(
    kind: type[GlintError],
    what: str,
    *,
    hint: str | None = None,
    caught: tuple[type[Exception], ...] = (OSError, ValueError),
) -> Iterator[None]:
    """What the system refuses in the block, or a name with a zero in it, as ``WHAT: REASON``; glint's own errors pass.

    Raises:
        GlintError: a ``kind``.
    """
    try:
        yield
    except GlintError:
        raise
    except caught as error:
        raise kind(f"{what}: {system_reason(error)}", hint=hint) from error


# What addresses and texts may show. Better too much is hidden than too little: of a text that looks like a secret,
# nobody can tell that it is none.
HIDDEN = "***"
_MOST_LETTERS = 6000  # of a text that is looked at: some patterns take the square of that
_MOST_NESTED = 200  # properties in the value of another
_LOCAL = ("file", "synthetic", "v4l2")  # they name things of this machine: no secrets
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_URL_IN_TEXT = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,20})://([^\s\"']*)")
_ODD_USER = re.compile(
    r"(\w[\w+.-]{0,20}://)[^\s/@\"']{0,200}:(?!\d+(?:[/\s]|$))(?:(?!://)[^@]){0,200}@"
)  # blanks in it
_USER = re.compile(
    r"[^\s/\\@:\"'=(,<>\[{]{1,200}:(?!//|(?:fp32|fp16|int8)@)(?:(?!://)[^\s@]){0,2000}@(?=[\w\[])"
)  # me:secret@host, but no model
_ENCODED_USER = re.compile(r"%3A[^\s\"'&]{0,2000}?%40", re.IGNORECASE)

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
_PROPERTY = re.compile(r"([\w-]{1,80})( {0,4}= *|%3[Dd])(\(\w+\) *)?" + _VALUE)
_STATED = re.compile(
    rf"((?:{_WORD}|\b(?:pass|pin|otp))\\*[\"']?(?:\s{{0,8}}:\s*|%3A))" + _VALUE, re.IGNORECASE
)  # as JSON and logs state one
_OPTION = re.compile(rf"((?<![\w-])--?[\w-]{{0,80}}(?:{_WORD}|srtp)[\w-]{{0,80}}\s+)" + _VALUE, re.IGNORECASE)
_QUOTED = re.compile(rf"((?:{_WORD})\s+)(\"[^\"\r\n]*\"|'[^'\r\n]*')", re.IGNORECASE)
_TOKEN = re.compile(
    r"((?i:\b(?:bearer|basic|negotiate)\s+|\w[-_]key\s+))(?=\S{0,200}[\dA-Z=])[\w+/.=~-]{6,}"
)  # what looks like one
_HEADER = re.compile(
    r"((?:proxy-)?authorization|(?:set-)?cookies?|x-[\w-]{0,80}(?:key|token|auth|secret|pass|signature)[\w-]{0,80}|extra-headers)"
    r"(\\{0,4}[\"']?\s{0,8}(?:=|:|%3[AD])\s*)(?:(?!\s!\s)[^\r\n])+",
    re.IGNORECASE,
)  # to the end of its line, or of its part of a pipeline
_DIGEST = re.compile(r"((?i:\bdigest\s+))(?=\w+=)[^\r\n]+")
_SDP = re.compile(r"(\binline:|\bk=(?:clear|base64|uri):|\bkey-mgmt:\s*\w+\s+)\S+")  # keys of SRTP
_TORN_URL = re.compile(r"^((?:rtsps?|https?|udp|tcp|mqtts?|rtmps?|srt):?/{1,2})[^\s/?#]*@", re.IGNORECASE)
_IN_PATH = re.compile(rf"((?:{_WORD})[\w-]*[/=]).+", re.IGNORECASE | re.DOTALL)  # it may hold a / itself


def safe_uri(uri: str) -> str:
    """The URI as it may be shown: without user, password or what is asked of a server.

    A URL keeps scheme, host and path; values in the path (``/user=...``, ``/token/...``) are hidden too, and all
    that follows ``?`` or ``#``. A ``gst:`` pipeline goes through :func:`redact`. Other names are
    local and stay as they are. A secret that is a plain part of the path cannot be told from a name.
    """
    url = _URL.fullmatch(_shortened(uri))
    if url is not None:
        return uri if url[1].lower() in _LOCAL else f"{url[1]}://{_mask(url[2])}"
    if uri.startswith("gst:") or "://" in uri:
        return redact(uri)
    return _hide_users(_TORN_URL.sub(rf"\1{HIDDEN}@", uri))


def redact(text: str) -> str:
    """A text without the secrets of the URLs, ``password=...`` properties and headers of requests in it.

    Of a line of more than 6,000 letters the middle is left out.
    """
    if len(text) > _MOST_LETTERS and "\n" in text:
        return "\n".join(redact(line) for line in text.split("\n"))
    text = _HEADER.sub(rf"\1\2{HIDDEN}", _shortened(text))
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


def _shortened(text: str) -> str:
    """A text without its middle if it is longer than anybody reads."""
    half = _MOST_LETTERS // 2
    return text if len(text) <= _MOST_LETTERS else f"{text[:half]} [{len(text) - 2 * half} letters] {text[-half:]}"


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
    if url is not None:
        return name + sign + kind + safe_uri(url[0])
    if value.count("=") > _MOST_NESTED:
        return f"{name}{sign}{HIDDEN}"
    shown: list[str] = []
    for part in value.split("&"):  # there may be more of them, and an & in a password
        shown.append(_PROPERTY.sub(_mask_property, part))
        if shown[-1] != part:
            break
    return name + sign + kind + "&".join(shown)
