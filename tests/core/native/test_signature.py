"""What a compiled function takes, in words."""

import importlib

import pytest

from glint.compiled import ENTRIES
from glint.native.signature import Array, Number, Record, parse


def test_numbers_arrays_and_tuples():
    assert parse("u2[2] i8 Rules(f8 (b1[1])) f4") == (
        Array("u2", 2), Number("i8"), Record("Rules", (Number("f8"), Record("", (Array("b1", 1),)))), Number("f4"),
    )  # fmt: skip
    assert parse("") == ()


@pytest.mark.parametrize("text", ["f8[", "f3", "f8]", "Rules(f8", "f8)", "f8[2]i8", "x8"])
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="no signature"):
        parse(text)


def records(arguments):
    for one in arguments:
        if isinstance(one, Record):
            yield one
            yield from records(one.parts)


def test_signatures_name_classes_that_their_modules_know():
    importlib.import_module("glint.runtime.unmixing.verdicts")
    for function in ENTRIES:
        for text in function.signatures:
            for record in records(parse(text)):
                if record.name:
                    assert len(function.function.__globals__[record.name]._fields) == len(record.parts), text
