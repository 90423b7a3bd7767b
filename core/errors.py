"""The exceptions of glint: each says what was wrong, what arrived, what was expected and what to do next.

Every exception that glint raises on purpose derives from :class:`GlintError` and also from the
built-in that fits, so that ``except ValueError`` works for people who never heard of glint. The
command line prints ``error:`` and ``hint:`` from it and leaves with :attr:`GlintError.exit_code`.
"""

from __future__ import annotations

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

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class InputError(GlintError, ValueError):
    """An argument, array or file content is not what the function takes."""


class SourceError(GlintError, OSError):
    """A source of frames or a data folder is missing or cannot be read."""


class OutputError(GlintError, OSError):
    """An output exists already or cannot be written."""


class ModelError(GlintError, ValueError):
    """A model file, its card or a checkpoint is missing, corrupt, or not what its card says."""


class MissingDependencyError(GlintError, ImportError):
    """An optional library that the request needs is not installed on this machine."""

    exit_code = EXIT_ENVIRONMENT


class EngineError(GlintError, RuntimeError):
    """An engine could not be created, or failed while it ran."""

    exit_code = EXIT_ENVIRONMENT


class SourceLostError(SourceError):
    """A source delivered frames and then stopped without reaching its end."""

    exit_code = EXIT_SOURCE_LOST


class CheckFailedError(GlintError, RuntimeError):
    """A check that the user asked for (parity, accuracy, loss) did not hold."""

    exit_code = EXIT_CHECK_FAILED


def first_line(error: BaseException) -> str:
    """What an exception of another library says, in one line; its name if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
