"""Layers of a TensorRT engine by Polygraphy: on a stand-in, and its real calls without a GPU."""

import os
import subprocess
import sys

import numpy as np
import onnx
import polygraphy_standin as standin
import pytest

from glint.benchmarks.parity.layers import Graph, compare_layers, first_below
from glint.benchmarks.parity.plan_layers import MarkedEngine
from glint.cards import load_card
from glint.errors import EngineError, MissingDependencyError

PATH = load_card("dscsnet-s-csist")[1]
X = {"patch": np.random.default_rng(0).random((4, 2, 7, 7), dtype=np.float32)}
NODES = [node for node in onnx.load(PATH).graph.node if node.op_type == "Conv"]


def test_a_good_engine_has_no_bad_layer_and_takes_the_samples_shapes(monkeypatch):
    folded = NODES[0].output[0]
    asked = standin.install(monkeypatch, folded=(folded,))
    layers = compare_layers(PATH, Graph(PATH, tensorrt=True), X)
    assert len(layers) > 100 and first_below(layers, 60) is None
    assert NODES[0].name not in {layer.name for layer in layers}  # what TensorRT does not have is not compared
    assert asked["typed"] and asked["shapes"] == {"patch": (4, 2, 7, 7)} and asked["closed"]
    assert asked["config"] == {"fp16": False, "int8": False} and folded not in asked["marked"]


def test_the_layer_that_an_engine_gets_wrong_is_named(monkeypatch):
    node = NODES[4]
    standin.install(monkeypatch, harm=standin.doubled(node.output[0]))
    bad = first_below(compare_layers(PATH, Graph(PATH, tensorrt=True), X), 60)
    assert bad is not None and bad.name == node.name and bad.needed == pytest.approx(1, rel=1e-3)


def test_a_weak_engine_may_choose_its_precision(monkeypatch):
    asked = standin.install(monkeypatch)
    with MarkedEngine(PATH, [NODES[0].output[0]], X, precision="fp16") as engine:
        assert engine.run(X).keys() == {NODES[0].output[0]}
    assert not asked["typed"] and asked["config"] == {"fp16": True, "int8": False}


def test_what_is_missing_or_fails_is_told(monkeypatch):
    standin.install(monkeypatch, fails=RuntimeError("no GPU\nsecond line"))
    with pytest.raises(EngineError, match=r"dscsnet-s-csist\.fp32\.onnx .* failed: no GPU$"):
        MarkedEngine(PATH, [], X)
    monkeypatch.setitem(sys.modules, "polygraphy.backend", None)
    with pytest.raises(MissingDependencyError, match="Polygraphy"):
        MarkedEngine(PATH, [], X)


def test_polygraphy_itself_parses_and_marks():
    """The real one on tensorrt_rtx: everything up to the build, which needs a GPU."""
    pytest.importorskip("polygraphy", reason="polygraphy is not installed")
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed (x86-64 Linux and Windows only)")
    code = """
import sys
from polygraphy.backend import trt
from glint.benchmarks.parity.plan_layers import tensors_of
builder, network, *parser = trt.NetworkFromOnnxPath(sys.argv[1], strongly_typed=True)()
assert set(sys.argv[2:]) <= tensors_of(network)
profile = trt.Profile()
profile.add("patch", *[(4, 2, 7, 7)] * 3)
trt.ModifyNetworkOutputs((builder, network, *parser), outputs=sys.argv[2:])()
assert [network.get_output(i).name for i in range(network.num_outputs)] == sys.argv[2:]
trt.CreateConfig(profiles=[profile], fp16=False, int8=False)(builder, network)
trt.EngineFromNetwork, trt.TrtRunner
"""
    names = [node.output[0] for node in NODES[2:4]]
    environment = {**os.environ, "POLYGRAPHY_USE_TENSORRT_RTX": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(PATH), *names], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
