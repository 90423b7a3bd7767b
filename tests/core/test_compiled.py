"""Compiled functions compute what their Python functions do."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glint.compiled import compiled
from glint.runtime.unmixing.count_search import count_costs
from glint.runtime.unmixing.fit import Patch, Start, fit_targets
from glint.runtime.unmixing.point_model import pixel_profile, targets_of


def ratio(a: float, b: float) -> float:
    return a / b


def total(values: Any) -> float:
    result = 0.0
    for value in values:
        result += value
    return result


def test_a_compiled_function_is_its_python_function() -> None:
    assert count_costs.function is not count_costs  # type: ignore[attr-defined]
    for presence in (np.zeros(6), np.ones(6), np.random.default_rng(0).random(6)):
        assert count_costs(presence) == pytest.approx(count_costs.function(presence), rel=1e-12)  # type: ignore[attr-defined]
    assert targets_of(np.zeros(13)) == targets_of.function(np.zeros(13)) == 3  # type: ignore[attr-defined]
    one, other = np.empty((3, 11)), np.empty((3, 11))
    pixel_profile(4.3, 0.5, *one)
    pixel_profile.function(4.3, 0.5, *other)  # type: ignore[attr-defined]
    assert one == pytest.approx(other, abs=1e-14)


def test_a_compiled_fit_is_its_python_function_too() -> None:
    image = np.random.default_rng(1).normal(0, 1, (7, 7))
    image[2:5, 2:5] += 40
    patch = Patch(image, 1.0, np.full((7, 7), 45.0), np.ones((7, 7), dtype=bool))
    theta = np.array([2.6, 3.3, 3.2, 2.9, 180.0, 150.0, 0, 0, 0, 0.5])
    start = Start(theta, theta.copy(), np.array([4.0, 4, 4, 4, 1e-3, 1e-3, 1, 9, 9, 400]))
    ours, theirs = fit_targets(patch, start, 6), fit_targets.function(patch, start, 6)  # type: ignore[attr-defined]
    assert ours.theta == pytest.approx(theirs.theta, rel=1e-10)
    assert ours.information == pytest.approx(theirs.information, rel=1e-8, abs=1e-8)
    assert (ours.misfit, ours.strain) == pytest.approx((theirs.misfit, theirs.strain), rel=1e-10)
    assert (ours.counted, ours.converged) == (theirs.counted, theirs.converged)


def test_division_by_zero_is_infinite_and_nan_stays_nan() -> None:
    fast = compiled(ratio)
    assert fast(1.0, 0.0) == math.inf
    assert fast(-1.0, 0.0) == -math.inf
    assert math.isnan(fast(0.0, 0.0))
    assert math.isnan(fast(math.nan, 2.0))
    total_of = compiled(total)
    assert math.isnan(total_of(np.array([1.0, math.nan, 2.0] * 10)))
    assert math.isinf(total_of(np.array([1.0, math.inf, 2.0] * 10)))


def test_sums_may_be_reordered_but_are_sums() -> None:
    values = np.random.default_rng(0).normal(0, 1, 1001)
    assert compiled(total)(values) == pytest.approx(math.fsum(values), abs=1e-12)


def test_a_function_keeps_its_name() -> None:
    fast = compiled(ratio)
    assert (fast.__name__, fast.__qualname__, fast.__module__) == ("ratio", "ratio", ratio.__module__)


MODULE = """
import sys
import time

from glint.compiled import _one_compiles, compiled
from glint.progress import speaking


@compiled
def twice(x):
    return 2 * x


if sys.argv[1] == "hold":
    with _one_compiles():
        print("held", flush=True)
        sys.stdin.readline()
else:
    with speaking():
        print(twice(21))
"""


def test_who_waits_for_the_compilation_of_another_process_says_so(tmp_path: Path) -> None:
    module = tmp_path / "twice.py"
    module.write_text(MODULE, encoding="utf-8")
    settings = {"env": {**os.environ, "GLINT_CACHE": str(tmp_path / "cache")}, "text": True}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    holds = subprocess.Popen([sys.executable, str(module), "hold"], **pipes, **settings)  # type: ignore[call-overload]
    try:
        assert holds.stdout.readline() == "held\n"
        waits = subprocess.Popen([sys.executable, str(module), "call"], **pipes, **settings)  # type: ignore[call-overload]
        first = waits.stderr.readline()
        assert first.startswith("waiting for another process, which compiles")
        holds.communicate("\n", timeout=60)
        out, err = waits.communicate(timeout=300)
    finally:
        holds.kill()
    assert (out, waits.returncode) == ("42\n", 0), err
    assert "waiting" not in err
