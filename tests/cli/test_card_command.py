"""glint card writes the card of a network of one's own."""

import io
import json
import sys

import pytest

from glint.cards import load_card
from glint.cli import main
from glint.errors import InputError, ModelError, OutputError
from glint.runtime.commands.card import card

onnx = pytest.importorskip("onnx")


def network(path, entry="frame", shape=(1, 1, "h", "w"), outputs=("probability", "background")):
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [helper.make_node("Sigmoid", [entry], [name]) for name in outputs]
    sides = [helper.make_tensor_value_info(entry, kind, shape)]
    ends = [helper.make_tensor_value_info(name, kind, shape) for name in outputs]
    graph = helper.make_graph(nodes, "own", sides, ends)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_the_card_is_one_that_load_card_takes(tmp_path):
    path = network(tmp_path / "own.onnx")
    made = card(path, multiple=8, threshold=0.3, scale=2.0)
    read, onnx_file = load_card(path, task="detect")
    assert (read, onnx_file) == (made, path)
    assert (made.name, made.detector.multiple, made.detector.threshold, made.normaliser.scale) == ("own", 8, 0.3, 2.0)
    with pytest.raises(OutputError):
        card(path)
    assert card(path, overwrite=True).detector.multiple == 16


def test_an_unmixer_is_known_by_its_tensors(tmp_path):
    names = ("grid", "presence", "offset", "radiance", "spread")
    path = network(tmp_path / "own.fp32.onnx", "patch", ("n", 2, 9, 9), names)
    made = card(path, patch=9, crop=9, cells=3, sigma=0.6)
    assert (made.task, made.name, made.unmixer.sigma, made.normaliser.kind) == ("unmix", "own", 0.6, "peak")
    assert load_card(tmp_path / "own.fp32.json")[0] == made


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"task": "unmix"}, ModelError, "other tensors"),
        ({"threshold": 2.0}, InputError, "threshold"),
        ({"scale": 0.0}, InputError, "scale"),
        ({"cells": 3}, InputError, "cells"),
        ({"task": "sing"}, InputError, "task"),
        ({"precision": "fp8"}, InputError, "fp8"),
    ],
)
def test_what_does_not_fit_is_refused_and_no_card_is_left(tmp_path, options, error, word):
    path = network(tmp_path / "own.onnx")
    with pytest.raises(error, match=word):
        card(path, **options)
    assert not path.with_suffix(".json").exists()


def test_tensors_that_fit_no_task_are_named(tmp_path):
    with pytest.raises(ModelError, match="x float32") as caught:
        card(network(tmp_path / "a.onnx", "x", (1, 3), ("y",)))
    assert "probability" in caught.value.hint


def test_questions_are_asked_and_answered(tmp_path, monkeypatch, capsys):
    path = network(tmp_path / "own.onnx")
    monkeypatch.setattr(sys, "stdin", io.StringIO("fixed\n255\n\n32\n"))
    assert main(["card", str(path), "--task", "detect", "--ask", "--json"]) == 0
    shown = capsys.readouterr()
    written = json.loads(shown.out)
    assert written["normaliser"] == {"kind": "fixed", "scale": 255.0}
    assert written["detector"]["multiple"] == 32
    assert "glint run --detector" in shown.err


WRONG = {
    "normaliser": ["none", "Peak", "1"],
    "scale": ["x", "0", "-1", "nan", "inf", "1e999"],
    "threshold": ["1", "0", "nan", "half"],
    "multiple": ["0", "-16", "16.5", "1e1", "99999"],
    "patch": ["0", "7.0", "99999"],
    "crop": ["0", "10", "x"],
    "cells": ["0", "-3", "33", "three"],
    "sigma": ["0", "-0.5", "nan", "1e308", "wide"],
}
RIGHT = {"normaliser": "fixed", "scale": "255", "threshold": "0.4", "multiple": "8", "patch": "9", "crop": "7",
         "cells": "2", "sigma": "0.6"}  # fmt: skip
ASKED = {
    "detect": ("normaliser", "scale", "threshold", "multiple"),
    "unmix": ("normaliser", "scale", "patch", "crop", "cells", "sigma"),
}


def of_task(path, task):
    if task == "detect":
        return network(path)
    return network(path, "patch", ("n", 2, 9, 9), ("grid", "presence", "offset", "radiance", "spread"))


@pytest.mark.parametrize("task", ["detect", "unmix"])
def test_after_every_wrong_answer_the_question_comes_again_and_says_why(tmp_path, monkeypatch, capsys, task):
    path = of_task(tmp_path / "own.onnx", task)
    answers = [line for name in ASKED[task] for line in (*WRONG[name], RIGHT[name])]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(answers) + "\n"))
    assert main(["card", str(path), "--task", task, "--ask", "--json"]) == 0
    shown = capsys.readouterr()
    wrong = sum(len(WRONG[name]) for name in ASKED[task])
    assert shown.err.count("that is not possible: ") == wrong
    assert shown.err.count("(Enter: default)") == wrong + len(ASKED[task])
    written = json.loads(shown.out)
    assert written["normaliser"] == {"kind": "fixed", "scale": 255.0}
    if task == "unmix":
        assert {k: written["unmixer"][k] for k in ("patch", "crop", "cells", "sigma")} == {
            "patch": 9, "crop": 7, "cells": 2, "sigma": 0.6,
        }  # fmt: skip
    else:
        assert (written["detector"]["threshold"], written["detector"]["multiple"]) == (0.4, 8)


@pytest.mark.parametrize("answers", ["", "fixed\n", "fixed\nnothing\n", "fixed\n255\n0.3\n"])
def test_the_end_of_the_answers_is_an_error_and_no_card_is_left(tmp_path, monkeypatch, capsys, answers):
    path = network(tmp_path / "own.onnx")
    monkeypatch.setattr(sys, "stdin", io.StringIO(answers))
    assert main(["card", str(path), "--task", "detect", "--ask"]) == 2
    said = capsys.readouterr().err
    assert "the answers ended before" in said
    assert "hint: answer at a terminal" in said
    assert not path.with_suffix(".json").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [(["--threshold", "2"], "threshold"), (["--cells", "3"], "says nothing"), (["--scale", "0"], "scale")],
)
def test_nothing_is_asked_if_an_option_is_wrong(tmp_path, monkeypatch, capsys, options, word):
    path = network(tmp_path / "own.onnx")
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n" * 9))
    assert main(["card", str(path), "--task", "detect", "--ask", *options]) == 2
    said = capsys.readouterr().err
    assert word in said
    assert "(Enter: default)" not in said


def test_nothing_is_asked_if_the_card_is_there_or_the_network_is_not(tmp_path, capsys):
    path = network(tmp_path / "own.onnx")
    card(path)
    assert main(["card", str(path), "--task", "detect", "--ask"]) == 2
    assert main(["card", str(tmp_path / "b.onnx"), "--task", "detect", "--ask"]) == 2
    assert "(Enter: default)" not in capsys.readouterr().err


def test_a_patch_below_eleven_pixels_is_seen_whole(tmp_path):
    made = card(of_task(tmp_path / "own.onnx", "unmix"), patch=9)
    assert (made.unmixer.patch, made.unmixer.crop) == (9, 9)


def test_a_network_whose_tensors_have_no_readable_names_is_refused(tmp_path):
    path = network(tmp_path / "own.onnx")
    path.write_bytes(path.read_bytes().replace(b"background", b"backgr\x85und"))
    with pytest.raises(ModelError, match="cannot load"):
        card(path)


def test_a_model_without_a_card_is_told_how_to_get_one(tmp_path, capsys):
    path = network(tmp_path / "own.onnx")
    with pytest.raises(ModelError) as caught:
        load_card(path)
    assert f"glint card {path}" in caught.value.hint
