"""Work and limits: counted against another reader of the same models, measured rates plausible."""

import importlib.util
import math

import numpy as np
import pytest

from glint.benchmarks.bench.cases import BenchCase
from glint.benchmarks.bench.roofline import Work, best_time, limits, precision_shares, roofline, work
from glint.benchmarks.bench.subjects import model_files
from glint.cards import count_macs, load_card
from glint.types import FrameSize


def needs_onnx():
    return pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="reading ONNX files needs onnx")


GRID, PATCH = 21, 7  # cells and pixels of a side of DSCSNet-s
CELLS, PIXELS = GRID**2, PATCH**2
TWO_SIDED = PATCH * GRID * (GRID + PATCH)  # from the cells to the pixels or back
# Exported, each two-sided product is one matrix with a row more ("glint.training.networks.dscsnet.product"). Two solves
# pass from the cells to the pixels, and three back, by way of the eigenvectors of the pixels; so does the
# back-projection, without these. The three generators of kernels, with 96 outputs each, read a row more, too
# ("EvenLinear").
FOLDED_MACS = (
    2 * ((CELLS + 1) * PIXELS - TWO_SIDED)
    + 3 * ((PIXELS + 1) * CELLS - TWO_SIDED - 2 * PATCH**3)
    + (PIXELS + 1) * CELLS
    - TWO_SIDED
    + 3 * 96
)


@pytest.mark.parametrize(
    ("case", "share", "added"),
    [
        (BenchCase("dscsnet-s-csist", "unmix", batch=1), 1.0, FOLDED_MACS),
        (BenchCase("lsnet-s", "detect", size=FrameSize(512, 512)), 1.112, 0),
    ],
)
def test_work_agrees_with_what_the_card_counted_by_pytorch(case, share, added):
    card, _ = load_card(case.subject)
    found = work(case)
    # Narrow convolutions are exported as wider ones, which is more work ("glint.training.networks.lsnet.narrow_conv").
    assert found.macs == pytest.approx(share * card.macs + added, rel=0.005)
    assert found.weight_numbers == card.parameters
    assert found.activation_numbers > found.macs / 5000


def test_work_grows_with_the_batch_and_with_the_padded_frame():
    one, eight = (work(BenchCase("dscsnet-s-csist", "unmix", batch=b)) for b in (1, 8))
    assert eight.macs == 8 * one.macs
    assert 7 * one.activation_numbers < eight.activation_numbers <= 8 * one.activation_numbers
    odd, even = (work(BenchCase("lsnet-s", "detect", size=size, blobs=1)) for size in ((150, 120), (160, 128)))
    assert odd == even


@pytest.mark.parametrize(
    ("operator", "inputs", "out", "expected"),
    [
        ("Conv", [(1, 4, 9, 9), (8, 4, 3, 3), (8,)], (1, 8, 7, 7), 8 * 7 * 7 * 4 * 9),
        ("Conv", [(1, 8, 5, 5), (8, 1, 3, 3)], (1, 8, 5, 5), 8 * 25 * 9),  # one group per channel
        ("ConvTranspose", [(1, 8, 5, 5), (8, 4, 2, 2)], (1, 4, 10, 10), 8 * 25 * 4 * 4),
        ("MatMul", [(3, 2, 5), (5, 7)], (3, 2, 7), 3 * 2 * 5 * 7),
        ("Gemm", [(4, 6), (6, 3), (3,)], (4, 3), 4 * 6 * 3),
    ],
)
def test_multiply_accumulates_of_a_layer(operator, inputs, out, expected):
    assert count_macs(operator, *inputs[:2], out) == expected


@needs_onnx()
def test_shares_of_a_float_model():
    (path,) = model_files(BenchCase("dscsnet-s-csist", "unmix"))
    assert precision_shares(path) == {"fp32": 1.0}


def test_the_limit_is_the_longer_of_computing_and_moving():
    peak = {"macs_per_s": {"fp32": 1e9, "fp16": 4e9}, "bytes_per_s": 1e9}
    heavy = roofline(Work(10**9, 1000, 10**6), "fp32", peak)
    assert (heavy["compute_ms"], heavy["limit_ms"]) == (1000, 1000)
    assert heavy["memory_ms"] == pytest.approx(4.004)
    assert roofline(Work(10**9, 0, 0), "fp16", peak)["limit_ms"] == 250
    assert roofline(Work(10**9, 0, 0), "int8", peak)["limit_ms"] == 1000  # its rate is not known: fp32's
    thirsty = roofline(Work(10, 0, 10**9), "int8", peak)
    assert (thirsty["bytes"], thirsty["limit_ms"]) == (10**9, 1000)
    assert roofline(Work(10, 0, 10), "fp32", {"macs_per_s": {}, "bytes_per_s": 1e9})["compute_ms"] is None
    assert roofline(Work(10, 0, 10), "fp32", None)["limit_ms"] is None


def test_this_machine_has_limits():
    found = limits(1, 0.05)["cpu"]
    assert 1e7 < found["macs_per_s"]["fp32"] < 1e14
    assert 1e7 < found["bytes_per_s"] < 1e13
    assert "1 thread" in found["how"]


def test_the_best_time_is_the_shortest_of_three_calls_at_least():
    calls = []
    spent = best_time(lambda: calls.append(None), 0.0)
    assert len(calls) == 4  # one does not count
    assert 0 <= spent < math.inf and np.isfinite(spent)
