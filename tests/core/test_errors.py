"""Errors are caught by glint's name and by the built-in's, and carry a hint and an exit code."""

import pickle

import pytest

from glint import errors
from glint.errors import (
    CheckFailedError,
    EngineError,
    GlintError,
    InputError,
    MissingDependencyError,
    ModelError,
    OutputError,
    SourceAbsentError,
    SourceError,
    SourceLostError,
    UsageError,
    first_line,
)

CODES = {
    InputError: (ValueError, 2),
    UsageError: (ValueError, 2),
    SourceError: (OSError, 2),
    OutputError: (OSError, 2),
    ModelError: (ValueError, 2),
    MissingDependencyError: (ImportError, 3),
    EngineError: (RuntimeError, 3),
    SourceAbsentError: (OSError, 3),
    SourceLostError: (OSError, 4),
    CheckFailedError: (GlintError, 1),
}


def test_the_table_names_every_error():
    found = {e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, GlintError)}
    assert found == {*CODES, GlintError}


@pytest.mark.parametrize(("error", "expected"), CODES.items(), ids=lambda v: getattr(v, "__name__", ""))
def test_errors_are_built_ins_with_an_exit_code(error, expected):
    builtin, code = expected
    with pytest.raises(builtin) as caught:
        raise error("what was wrong", hint="what to do")
    assert isinstance(caught.value, GlintError)
    assert (str(caught.value), caught.value.hint, caught.value.exit_code) == ("what was wrong", "what to do", code)


@pytest.mark.parametrize("error", CODES)
def test_a_hint_is_optional_and_survives_another_process(error):
    assert error("text").hint is None
    copy = pickle.loads(pickle.dumps(error("text", hint="next")))  # noqa: S301  (made here)
    assert (type(copy), str(copy), copy.hint) == (error, "text", "next")


def test_the_first_line_of_what_another_library_says() -> None:
    assert first_line(ValueError("\n one thing\nand another")) == "one thing"
    assert first_line(KeyError()) == "KeyError"
