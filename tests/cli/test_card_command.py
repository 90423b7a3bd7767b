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


def test_a_model_without_a_card_is_told_how_to_get_one(tmp_path, capsys):
    path = network(tmp_path / "own.onnx")
    with pytest.raises(ModelError) as caught:
        load_card(path)
    assert f"glint card {path}" in caught.value.hint
