"""The exceptions of glint: each says what was wrong, what arrived, what was expected and what to do next.

Every exception that glint raises on purpose derives from :class:`GlintError` and also from the
built-in that fits, so that ``except ValueError`` works for people who never heard of glint. The
command line prints ``error:`` and ``hint:`` from it and leaves with :func:`exit_code_of`.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

from glint.formats.secrets import redact

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
