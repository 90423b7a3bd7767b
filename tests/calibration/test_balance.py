"""Balanced channels: the same results in float, smaller errors in int8."""

import numpy as np
import onnx
import pytest
import tiny_net
from onnx import numpy_helper

from glint.calibration.balance import balance, channel_factors, worth_balancing
from glint.calibration.fp16 import to_fp16
from glint.calibration.int8_layers import Graph
from glint.calibration.qdq import quantise
from glint.calibration.tensor_ranges import observe
from glint.calibration.threshold_choice import choose_thresholds
from glint.export.lint.lint import lint

FRAMES = tiny_net.frames(4)
METHODS = ("minmax", "mse")


def uneven():
    """The tiny network with a first layer of which two channels are 64 times as large as the others."""
    model = tiny_net.tiny()
    for tensor in model.graph.initializer:
        if tensor.name == "first.weight":
            weights = numpy_helper.to_array(tensor).copy()
            weights[:2] *= 64
            tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
        if tensor.name == "block.inner.weight":
            weights = numpy_helper.to_array(tensor).copy()
            weights[:, :2] /= 64
            tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    return model


def prepared(model):
    layers = Graph(model).layers()
    tensors = list(dict.fromkeys(n for layer in layers for n in (layer.data, layer.skip) if n))
    largest = observe(model, tensors, FRAMES).largest
    choices = choose_thresholds(model, layers, largest, FRAMES[1:], FRAMES[:1], methods=METHODS)
    return layers, choices, channel_factors(model, layers, FRAMES[1:])


@pytest.mark.parametrize("make", [tiny_net.tiny, uneven])
def test_the_balanced_network_computes_the_same(make):
    model = make()
    layers, _, factors = prepared(model)
    for name, factor in factors.items():
        assert (np.exp2(np.round(np.log2(factor))) == factor).all(), name
    other = balance(model, layers, factors)
    for a, b in zip(tiny_net.run(model, FRAMES[0]), tiny_net.run(other, FRAMES[0])):
        assert np.abs(a - b).max() <= 2e-6 * np.abs(a).max()
    assert {layer.name for layer in Graph(other).layers()} == {layer.name for layer in layers}
    onnx.checker.check_model(to_fp16(other), full_check=True)


def test_a_layer_of_uneven_channels_gains_and_the_others_are_left():
    model = uneven()
    layers, choices, factors = prepared(model)
    spread = factors["block.inner/Conv"]
    assert spread[:2].min() >= 16 * spread[2:].max()
    kept, more = worth_balancing(model, layers, choices, factors, FRAMES[1:], FRAMES[:1], METHODS)
    # What the skip hands on is uneven, too; what lies between the two layers of the block is not.
    assert [layer.name for layer in kept] == ["block.inner/Conv", "wide/Conv"]
    assert list(more) == ["block.inner/Conv/balance", "wide/Conv/balance"]
    layer = kept[0]
    base = balance(model, kept, factors)
    (theirs,) = [la for la in Graph(base).layers() if la.name == layer.name]
    thresholds = {name: choice.threshold for name, choice in {**choices, **more}.items()}
    (exact,) = tiny_net.run(model, FRAMES[0], layer.name)
    errors = []
    for graph, which in ((model, layer), (base, theirs)):
        coarse = quantise(graph, [which], [], thresholds)
        assert [finding.text() for finding in lint(coarse)] == []
        errors.append(float(np.square(tiny_net.run(coarse, FRAMES[0], layer.name)[0] - exact).sum()))
    assert errors[1] < 0.3 * errors[0]


def test_even_channels_are_left_alone():
    model = tiny_net.tiny()
    layers, choices, factors = prepared(model)
    assert worth_balancing(model, layers, choices, factors, FRAMES[1:], FRAMES[:1], METHODS) == ([], {})
