"""Compiled functions compute what their Python functions do."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glint.compiled import compiled
from glint.interruption import ENDING, Deferral
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


def half(x: float) -> float:
    return x / 2


class Kill:
    """Sends this process a signal at the n-th time that it is asked, and counts."""

    def __init__(self, number: int, at: int) -> None:
        self.number, self.at, self.asked = number, at, 0

    def __call__(self, *_: object) -> bool:
        self.asked += 1
        if self.asked == self.at:
            os.kill(os.getpid(), self.number)
        return True


@pytest.fixture
def interrupting() -> Iterator[None]:
    """All signals that end a command do so."""

    def end(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("moment", "at", "number"),
    [
        ("pass", 1, signal.SIGTERM),
        ("pass", 5, signal.SIGINT),
        ("pass", 20, signal.SIGTERM),
        ("LLVM", 1, signal.SIGTERM),
        *(("callback", at, number) for at in (1, 2) for number in ENDING),
    ],
)
def test_a_signal_while_numba_compiles_is_neither_lost_nor_another_error(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    interrupting: None,
    tmp_path: Path,
    moment: str,
    at: int,
    number: int,
) -> None:
    from numba.core import codegen, event

    monkeypatch.setattr("glint.compiled._ROOT", tmp_path)  # nothing is kept of the tests before

    kill, fast = Kill(number, at), compiled(half)
    if moment == "callback":  # that LLVM calls: what is raised in it is lost
        caching = property(
            lambda library: kill() and vars(library).get("caching", False),
            lambda library, value: vars(library).update(caching=value),
        )
        monkeypatch.setattr(codegen.CodeLibrary, "_object_caching_enabled", caching)
        listening: Any = nullcontext()
    else:
        listener = type("Listener", (event.Listener,), {"on_start": kill, "on_end": lambda self, e: None})()
        listening = event.install_listener({"pass": "numba:run_pass", "LLVM": "numba:llvm_lock"}[moment], listener)
    with listening, pytest.raises(KeyboardInterrupt):
        fast(1.0)
    assert kill.asked >= at
    said = capfd.readouterr().err
    assert "Traceback" not in said and "Exception" not in said
    assert fast(3.0) == 1.5  # the next call is not hurt


def test_signals_wait_only_while_they_are_deferred(interrupting: None) -> None:
    deferral = Deferral()
    with pytest.raises(KeyboardInterrupt), deferral:
        with deferral:
            os.kill(os.getpid(), signal.SIGTERM)
        reached = True
    assert reached
    with deferral, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
        deferral.handle()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)


def test_elsewhere_than_in_the_main_thread_nothing_is_deferred(interrupting: None) -> None:
    deferral, before = Deferral(), signal.getsignal(signal.SIGTERM)

    def inside() -> None:
        with deferral:
            assert signal.getsignal(signal.SIGTERM) is before

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
