"""Damaged inputs end in a reading, an error or a word, never in a traceback, a hang or a crash."""

import pytest

from glint.benchmarks.robustness import fuzz as module
from glint.benchmarks.robustness.fuzz import OUTCOMES, fuzz, text_of
from glint.benchmarks.robustness.kinds import KINDS, Kind, Reading
from glint.benchmarks.robustness.mutations import mutated
from glint.errors import InputError

pytest.importorskip("av", reason="needs PyAV")
pytest.importorskip("onnxscript", reason="needs onnxscript")


def test_a_few_mutations_of_every_kind_are_survived():
    result = fuzz(mutations=4)
    assert result["problems"] == []
    assert len(result["rows"]) == len(KINDS) >= 20
    assert all(sum(row[o] for o in OUTCOMES) == row["tried"] == 4 for row in result["rows"])
    assert sum(row["reported"] for row in result["rows"]) > len(KINDS)
    assert text_of(result).count("\n") == len(KINDS) + 1


def test_damage_is_the_same_for_the_same_seed_and_damage():
    data = bytes(range(256))
    assert mutated(data, 5, text=True) == mutated(data, 5, text=True)
    assert any(mutated(data, seed, text=False) != data for seed in range(3))


def _reader(answer):
    def read(path):
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return Kind("k", lambda folder: folder, read)


@pytest.mark.parametrize(
    ("answer", "checked", "expected"),
    [
        (Reading(1, "a"), True, "clean"),
        (Reading(1, "b"), False, "unseen"),
        (Reading(1, "b"), True, "silent"),
        (Reading(2, "b"), False, "silent"),
        (Reading(2, "b", told=True), True, "reported"),
        (InputError("no"), True, "reported"),
        (KeyError("oops"), True, "traceback"),
    ],
)
def test_outcomes(tmp_path, answer, checked, expected):
    kind = _reader(answer)
    kind = Kind(kind.name, kind.make, kind.read, checked=checked)
    assert module.outcome(kind, tmp_path, Reading(1, "a"))[0] == expected


def test_an_unknown_kind_is_an_error():
    with pytest.raises(InputError, match="PNG"):
        fuzz(mutations=1, kinds=["EXE"])
