"""Compiled functions: what they compute, and what is kept of them."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from glint.runtime import compiled as module
from glint.runtime.compiled import SOURCES, compiled, digest
from glint.runtime.fit import Patch, Start, fit_targets, pixel_profile, targets_of
from glint.runtime.search import count_costs

FOLDER = Path(str(module.__file__)).parent


def ratio(a: float, b: float) -> float:
    return a / b


def total(values: Any) -> float:
    result = 0.0
    for value in values:
        result += value
    return result


def test_a_compiled_function_is_its_python_function() -> None:
    assert count_costs.py_func is not count_costs  # type: ignore[attr-defined]
    for presence in (np.zeros(6), np.ones(6), np.random.default_rng(0).random(6)):
        assert count_costs(presence) == pytest.approx(count_costs.py_func(presence), rel=1e-12)  # type: ignore[attr-defined]
    assert targets_of(np.zeros(13)) == targets_of.py_func(np.zeros(13)) == 3  # type: ignore[attr-defined]
    one, other = np.empty((3, 11)), np.empty((3, 11))
    pixel_profile(4.3, 0.5, *one)
    pixel_profile.py_func(4.3, 0.5, *other)  # type: ignore[attr-defined]
    assert one == pytest.approx(other, abs=1e-14)


def test_a_compiled_fit_is_its_python_function_too() -> None:
    image = np.random.default_rng(1).normal(0, 1, (7, 7))
    image[2:5, 2:5] += 40
    patch = Patch(image, 1.0, np.full((7, 7), 45.0), np.ones((7, 7), dtype=bool))
    theta = np.array([2.6, 3.3, 3.2, 2.9, 180.0, 150.0, 0, 0, 0, 0.5])
    start = Start(theta, theta.copy(), np.array([4.0, 4, 4, 4, 1e-3, 1e-3, 1, 9, 9, 400]))
    ours, theirs = fit_targets(patch, start, 6), fit_targets.py_func(patch, start, 6)  # type: ignore[attr-defined]
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
    assert ratio.__qualname__ == "ratio"


def test_where_nothing_can_be_kept_a_function_is_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba looks for a folder that it may write to, and says so if there is none."""
    monkeypatch.setenv("NUMBA_CACHE_LOCATOR_CLASSES", "IPythonCacheLocator")  # the one for notebooks: not this file
    numba.config.reload_config()
    try:
        with pytest.raises(RuntimeError, match="no locator available"):
            numba.njit(cache=True)(ratio)
        fast = compiled(ratio)
    finally:
        monkeypatch.undo()
        numba.config.reload_config()
    assert fast(3.0, 2.0) == 1.5
    assert not fast.stats.cache_path  # type: ignore[attr-defined]
    assert ratio.__qualname__ == "ratio"


def test_other_errors_are_not_taken_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**options: Any) -> Any:
        raise RuntimeError("cannot load the compiler")

    monkeypatch.setattr(numba, "njit", broken)
    with pytest.raises(RuntimeError, match="cannot load the compiler"):
        compiled(ratio)
    assert ratio.__qualname__ == "ratio"


@pytest.mark.parametrize("name", SOURCES)
def test_machine_code_is_kept_for_these_sources_only(name: str, tmp_path: Path) -> None:
    """A change of one module changes where the code of all is kept: it may hold the code of that one."""
    for source in SOURCES:
        shutil.copy(FOLDER / f"{source}.py", tmp_path)
    before = digest(tmp_path)
    assert before == digest(FOLDER)
    with (tmp_path / f"{name}.py").open("a") as file:
        file.write("\n")
    assert digest(tmp_path) != before


def test_the_name_of_what_is_kept_has_the_digest_in_it() -> None:
    targets_of(np.zeros(7))
    kept = targets_of.stats.cache_path  # type: ignore[attr-defined]
    if not kept:
        pytest.skip("there is nowhere to keep anything: read-only code and no cache folder")
    assert list(Path(kept).glob(f"fit.targets_of_{module._DIGEST}-*.nbi"))


def test_all_modules_with_compiled_functions_are_sources() -> None:
    users = {path.stem for path in FOLDER.glob("*.py") if "import compiled" in path.read_text(encoding="utf-8")}
    assert users | {"compiled"} == set(SOURCES)
