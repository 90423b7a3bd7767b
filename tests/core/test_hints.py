"""Every error that a user can meet says what to do next."""

import ast
import errno
from pathlib import Path

import pytest

from glint import errors
from glint.errors import GlintError, InputError, OutputError, hint_of

ROOT = Path(__file__).parents[2]
FOLDERS = ("core", "runtime", "training", "export", "calibration", "benchmarks")
ERRORS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, GlintError)}
OF_THE_SYSTEM = ("strerror", "_reason(", "reason_of(")  # what the system or libav says; hint_of knows its numbers


def without_hint(path):
    """(line, error) of each error that a module makes without a hint of its own.

    Three kinds need none: what names the value that was expected, what passes on an error of the system, and a
    check that did not hold, above which stands a report.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS):
            continue
        text = ast.unparse(node)
        told = any(keyword.arg == "hint" for keyword in node.keywords) or "expected" in text
        if not (told or any(word in text for word in OF_THE_SYSTEM) or node.func.id == "CheckFailedError"):
            yield node.lineno, node.func.id


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_error_has_a_hint_or_says_what_was_expected(folder):
    if not (ROOT / folder).is_dir():
        pytest.skip("not a checkout")
    files = sorted((ROOT / folder).rglob("*.py"))
    bare = [f"{path.relative_to(ROOT)}:{line} {name}" for path in files for line, name in without_hint(path)]
    assert bare == []


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EACCES, "whose is it"),
        (errno.EADDRINUSE, "another program has this port"),
        (errno.EROFS, "choose another place"),
    ],
)
def test_what_the_system_says_has_a_hint_by_its_number(number, hint):
    error = OutputError("cannot write x")
    error.__cause__ = OSError(number, "text")
    assert hint in hint_of(error)


def test_an_own_hint_comes_first_and_that_of_the_class_last():
    error = InputError("wrong", hint="mend it")
    error.__cause__ = OSError(errno.ENOSPC, "text")
    assert hint_of(error) == "mend it"
    other = InputError("wrong")
    other.__cause__ = OSError(12345, "text")
    assert hint_of(other) == hint_of(InputError("wrong")) == InputError.usual_hint
