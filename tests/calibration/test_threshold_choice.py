"""What flows through a network, and which threshold its tensors get."""

import numpy as np
import pytest
import tiny_net

from glint.calibration.int8_layers import Graph, float_tensors
from glint.calibration.tensor_ranges import BINS, histograms, observe
from glint.calibration.threshold_choice import choose_thresholds, rounded
from glint.errors import InputError

TENSORS = ["start/Mul", "block.middle/Mul", "block/Add_1"]


def test_largest_values_and_histograms_are_numpys():
    model, frames = tiny_net.tiny(), tiny_net.frames(3)
    seen = observe(model, float_tensors(model), frames)
    counts = histograms(model, {name: seen.largest[name] for name in TENSORS}, frames)
    for name in TENSORS:
        values = np.abs(np.concatenate([tiny_net.run(model, f, name)[0] for f in frames]))
        assert seen.largest[name] == values.max()
        assert seen.shapes[name] == (1, 32, 32, 32)
        expected = np.histogram(values, BINS, (0, values.max()))[0]
        assert counts[name].sum() == values.size
        assert np.abs(np.cumsum(counts[name]) - np.cumsum(expected)).max() <= 5  # values on the border of bins


def test_a_value_that_is_not_finite_is_refused_with_its_layer():
    frames = tiny_net.frames(2)
    frames[1][0, 0, 3, 4] = np.inf
    model = tiny_net.tiny()
    with pytest.raises(InputError, match="first/Conv is not finite"):
        observe(model, float_tensors(model), frames)


def choose(frames, **options):
    model = tiny_net.tiny()
    layers = Graph(model).layers()
    largest = observe(model, TENSORS, frames).largest
    return choose_thresholds(model, layers, largest, frames[1:], frames[:1], **options)


def test_the_method_with_the_least_error_of_the_layers_results_is_taken():
    choices = choose(tiny_net.frames(4, side=64))
    assert set(choices) == set(TENSORS)
    for choice in choices.values():
        assert choice.errors[choice.method] == min(choice.errors.values())
        assert 0 < choice.threshold <= choice.largest * 1.2
    (value,) = tiny_net.run(tiny_net.tiny(), tiny_net.frames(4, side=64)[0], "start/Mul")
    # The tensor is read by a layer and, as a skip, by a sum: the layer's result decides.
    error = float(np.square(rounded(value, choices["start/Mul"].threshold) - value).sum() / np.square(value).sum())
    assert 0.05 < choices["start/Mul"].errors[choices["start/Mul"].method] / error < 20


def test_one_method_needs_no_choice():
    choices = choose(tiny_net.frames(4), methods=("minmax",))
    frames = tiny_net.frames(4)[1:]
    for name, choice in choices.items():
        assert choice.method == "minmax" and choice.threshold == choice.largest
        assert choice.largest >= max(np.abs(tiny_net.run(tiny_net.tiny(), f, name)[0]).max() for f in frames)


@pytest.mark.parametrize("methods", [(), ("minmax", "magic")])
def test_an_unknown_method_is_refused(methods):
    with pytest.raises(InputError, match="expected some of minmax, percentile, entropy, mse"):
        choose(tiny_net.frames(2), methods=methods)
