"""Machine code made ahead of time computes what the Python functions do, without Numba."""

import json
import platform
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from glint.compiled import digest_of
from glint.native.library import TARGETS, Library
from glint.processing.connected import number_connected, pixels_above
from glint.processing.crop import _crop
from glint.runtime.tracking.tracker import _pair_costs, _predict

FUNCTIONS = (pixels_above, number_connected, _crop, _predict, _pair_costs)
BUILD = """
import importlib.util, platform, sys
from pathlib import Path
from glint.build_native import build
from glint.native.library import TARGETS
chosen = [one for one in build._entries() if one.__name__ in sys.argv[2:]]
build.build(Path(sys.argv[1]), [t for t in TARGETS if t.machine == platform.machine() and not t.flags], chosen)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A library of some functions, for any processor of this machine's kind."""
    target = next((t for t in TARGETS if t.machine == platform.machine() and not t.flags), None)
    if target is None or not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("no linker for this machine")
    folder = tmp_path_factory.mktemp("native")
    names = [one.__name__ for one in FUNCTIONS]
    subprocess.run([sys.executable, "-c", BUILD, str(folder), *names], check=True)
    return folder / target.file


@pytest.fixture(scope="module")
def code(made):
    library = Library(made)
    return {one.__name__: library.entry(one.label, digest_of(one.function)) for one in FUNCTIONS}


def test_results_are_those_of_python(code):
    rng = np.random.default_rng(0)
    probability = rng.random((40, 50)).astype(np.float32)
    rows, columns = code["pixels_above"](probability, 0.9)
    for ours, theirs in zip((rows, columns), np.nonzero(probability > np.float32(0.9))):
        np.testing.assert_array_equal(ours, theirs)
    ours, theirs = np.zeros((2, 40, 50), dtype=np.int32)
    assert code["number_connected"](rows, columns, ours) == number_connected.function(rows, columns, theirs)
    np.testing.assert_array_equal(ours, theirs)
    state, place = rng.random((5, 3, 2)), rng.random((4, 2))
    ours, theirs = (f(state, place, 0.1 + place, 3.0, 1e-3) for f in (code["_pair_costs"], _pair_costs.function))
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f4", "f8"])
def test_a_function_of_several_types_takes_each(code, dtype):
    image = (np.random.default_rng(0).random((30, 30)) * 200).astype(dtype)
    windows = code["_crop"](image, np.array([3, -2]), np.array([5, 28]), 7)
    assert windows.dtype == image.dtype
    np.testing.assert_array_equal(windows[0], image[5:12, 3:10])


def test_an_array_of_any_layout_is_read_and_written(code):
    state = np.random.default_rng(0).random((5, 6, 4))[:, ::2, ::2]
    expected = state.copy()
    _predict.function(expected, 0.5, 2.0)
    code["_predict"](state, 0.5, 2.0)
    np.testing.assert_allclose(state, expected, rtol=1e-12)


def test_other_types_and_dimensions_are_refused(code):
    with pytest.raises(TypeError, match=r"expected f8 in 3 dimensions, got float32 \(5, 3, 2\)"):
        code["_predict"](np.zeros((5, 3, 2), dtype=np.float32), 0.5, 2.0)
    with pytest.raises(TypeError, match="in 3 dimensions"):
        code["_predict"](np.zeros((5, 3)), 0.5, 2.0)


def test_results_outlive_the_call_and_their_memory_is_given_back(code):
    state, place = np.random.default_rng(0).random((5, 300, 2)), np.zeros((400, 2))
    first = code["_pair_costs"](state, place, 0.1 + place, 3.0, 1e-3)
    kept, part = first.copy(), first[10:, 5:]
    del first
    for _ in range(2000):  # 2 GB, were it kept
        code["_pair_costs"](state, place, 0.1 + place, 3.0, 1e-3)
    np.testing.assert_array_equal(part, kept[10:, 5:])


def test_machine_code_of_other_sources_is_not_used(made):
    label = _crop.label
    assert Library(made).entry(label, json.loads(made.with_name("machine_code.json").read_text())[label]["digest"])
    assert Library(made).entry(label, "0" * 16) is None
    assert Library(made).entry("glint.unknown", "0" * 16) is None


OPTIMISED = """
import sys
from pathlib import Path
from glint.build_native import build
from glint.native.library import TARGETS
from glint.runtime.tracking import scene_memory
made = []
optimised = build._optimised
build._optimised = lambda module, target: made.append(optimised(module, target)) or made[-1]
build._link = lambda *arguments: None
oldest = [t for t in TARGETS if t.machine == "x86_64" and not t.flags]
build.build(Path(sys.argv[1]), oldest, [scene_memory._point_light])
print(made[0][1])
"""


def test_loops_run_in_vector_registers(tmp_path):
    """Optimised with all others at once only, this function had none."""
    command = [sys.executable, "-c", OPTIMISED, str(tmp_path)]
    code = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(r"fmul [^\n]*<4 x float>", code)
