"""The first use of compiled functions: nothing before it waits for Numba, and the machine code is kept."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from glint.cli import COMMANDS
from glint.compiled import Compiled, compiled
from glint.errors import OutputError
from glint.optics import Psf
from glint.processing.candidates import SLOTS, Candidates
from glint.progress import told_if_slow
from glint.runtime.unmixing.refine import RefineConfig, _refine_all, prepare_refinement, refine
from glint.types import Targets

PSF = Psf(0.5)

# Small enough to be compiled in a moment: `outer` has `inner` in it.
MODULES = {
    "inner_part.py": (
        "from {home} import compiled\n\n@compiled\ndef inner(x: float) -> float:\n    return x + {shift}\n"
    ),
    "outer_part.py": (
        "from {home} import compiled\nfrom inner_part import inner\n\n"
        "@compiled\ndef outer(x: float) -> float:\n    return inner(2 * x)\n"
    ),
}


def write_modules(folder: Path, shift: float) -> None:
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    for name, text in MODULES.items():
        (folder / name).write_text(text.format(home=compiled.__module__, shift=shift), encoding="utf-8")


def start(program: str, folder: Path, cache: Path) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "GLINT_CACHE": str(cache)}
    return subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def result(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return out.strip()


OUTER = "from outer_part import outer; print(outer(1.5), sum(outer.dispatcher.stats.cache_hits.values()))"


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS), ["doctor"], ["run", "no://x"]])
def test_numba_is_not_imported_before_something_is_computed(words: list[str]) -> None:
    if words[0] in ("train", "export", "calibrate"):
        pytest.importorskip("torch")
        pytest.importorskip("onnx")
    program = f"""if True:
        import sys
        from glint.cli import main
        try:
            main({words!r})
        except SystemExit:
            pass
        sys.exit("numba" in sys.modules or "llvmlite" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_machine_code_is_kept_for_the_next_process(tmp_path: Path) -> None:
    write_modules(tmp_path, 0.25)
    cache = tmp_path / "cache"
    assert result(start(OUTER, tmp_path, cache)) == "3.25 0"
    assert result(start(OUTER, tmp_path, cache)) == "3.25 1"
    assert not list(tmp_path.glob("__pycache__/*.nb?"))  # there, and nowhere else


def test_a_change_of_a_function_from_another_module_is_seen(tmp_path: Path) -> None:
    for shift, said in ((0.25, "3.25"), (1.0, "4.0"), (0.25, "3.25")):
        write_modules(tmp_path, shift)
        assert result(start(OUTER, tmp_path, tmp_path / "cache")).split()[0] == said


def test_a_change_of_a_constant_from_another_module_is_seen(tmp_path: Path) -> None:
    """Constants are parts of the machine code, too."""
    package = tmp_path / "part"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "outer.py").write_text(
        f"from {compiled.__module__} import compiled\nfrom part.shift import Shift\nSHIFT = Shift.VALUE\n\n"
        "@compiled\ndef outer(x: float) -> float:\n    return x + SHIFT\n"
    )
    for value, said in ((1.0, "2.0"), (3.0, "4.0")):
        shutil.rmtree(package / "__pycache__", ignore_errors=True)
        (package / "shift.py").write_text(f"class Shift:\n    VALUE = {value}\n")
        assert result(start("from part.outer import outer; print(outer(1.0))", tmp_path, tmp_path / "cache")) == said


@pytest.mark.parametrize(("suffix", "size"), [("nbi", 0), ("nbi", 10), ("nbc", 0), ("nbc", 100)])
def test_torn_machine_code_is_made_again(tmp_path: Path, suffix: str, size: int) -> None:
    """As a power cut leaves it."""
    write_modules(tmp_path, 0.25)
    cache = tmp_path / "cache"
    result(start(OUTER, tmp_path, cache))
    torn = list(cache.rglob(f"*.{suffix}"))
    assert torn
    for path in torn:
        os.truncate(path, size)
    assert result(start(OUTER, tmp_path, cache)) == "3.25 0"
    assert result(start(OUTER, tmp_path, cache)) == "3.25 1"


def test_processes_that_compile_at_the_same_time_agree_and_leave_a_whole_cache(tmp_path: Path) -> None:
    write_modules(tmp_path, 0.25)
    cache = tmp_path / "cache"
    together = [start(OUTER, tmp_path, cache) for _ in range(3)]
    said = sorted(result(process) for process in together)
    assert said == ["3.25 0", "3.25 1", "3.25 1"]  # the others waited, and found what the first had made
    assert result(start(OUTER, tmp_path, cache)) == "3.25 1"


def test_without_a_folder_it_is_compiled_each_time(tmp_path: Path) -> None:
    write_modules(tmp_path, 0.25)
    (tmp_path / "file").write_text("in the way")
    for _ in range(2):
        assert result(start(OUTER, tmp_path, tmp_path / "file")) == "3.25 0"


def test_a_full_disk_is_an_error_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    full = compiled(lambda x: x)
    assert isinstance(full, Compiled)

    class Full:
        def compile(self, types: object) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(full, "_dispatcher", Full())
    with pytest.raises(OutputError, match="No space left on device") as caught:
        full(1.0)
    assert "GLINT_CACHE" in (caught.value.hint or "")


def test_threads_that_call_first_at_the_same_time_compile_one_function() -> None:
    @compiled
    def shifted(x: float) -> float:
        return x + 0.5

    assert isinstance(shifted, Compiled)
    barrier = threading.Barrier(4)

    def call(x: int) -> float:
        barrier.wait(timeout=60)
        return shifted(float(x))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(call, range(4))) == [0.5, 1.5, 2.5, 3.5]
    assert len(shifted.dispatcher.signatures) == 1


def clusters(seed: int, number: int = 40) -> tuple[np.ndarray, Candidates]:
    """Noisy patches of one to five targets and what a network may say of them."""
    rng = np.random.default_rng(seed)
    patches = np.zeros((number, 11, 11))
    table = np.zeros((7, number, SLOTS), dtype=np.float32)
    for i in range(number):
        k = int(rng.integers(1, 6))
        x, y = rng.uniform(4.4, 5.6, (2, k))
        radiance = rng.uniform(150, 300, k)
        patches[i] = PSF.render(x[None], y[None], radiance[None], (11, 11))[0] + rng.normal(0, 2, (11, 11))
        table[0, i, :k] = rng.uniform(0.6, 1.0, k)
        table[1, i, :k], table[2, i, :k] = x + rng.normal(0, 0.1, k), y + rng.normal(0, 0.1, k)
        table[3, i, :k], table[4:, i] = radiance, 0.1
    table[6] = 20.0
    return patches, Candidates(*table)


def test_threads_refine_as_one_does() -> None:
    batches = [clusters(seed) for seed in range(8)]

    def work(batch: tuple[np.ndarray, Candidates]) -> Targets:
        return refine(*batch, PSF, noise=2.0)

    alone = [work(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for one, other in zip(alone, pool.map(work, batches)):
                for name, values in vars(one).items():
                    np.testing.assert_array_equal(values, getattr(other, name), err_msg=name)


def test_what_is_prepared_fits_all_inputs() -> None:
    """A second compilation would be one in the middle of a stream."""
    prepare_refinement(PSF)
    patches, candidates = clusters(0, 2)
    frozen = patches.copy()
    frozen.setflags(write=False)
    wide = np.zeros((2, 11, 22))
    wide[:, :, ::2] = patches
    limits = np.full(patches.shape, 500.0)
    limits.setflags(write=False)
    valid = np.ones(patches.shape, dtype=bool)
    valid.setflags(write=False)
    refine(frozen, candidates, PSF, noise=[1, 2], full_scale=limits, valid=valid)
    refine(wide[:, :, ::2], candidates, PSF, full_scale=limits.astype(np.float32))
    whole = RefineConfig(radiance=(200, 10), noise_floor=1, background_share=1, misfit=1, trust=1, separation=1)
    refine(patches.astype(np.float32), candidates, Psf(1), noise=2, full_scale=500, config=whole)
    assert isinstance(_refine_all, Compiled)
    assert len(_refine_all.dispatcher.signatures) == (_refine_all._native is None)


REHEARSED = """
import gc, sys
from glint.cli import main
from glint.compiled import Compiled
from glint.runtime.pipeline.rehearsal import rehearse

def compiled():
    functions = [one for one in gc.get_objects() if isinstance(one, Compiled)]
    return {one.label: len(one._dispatcher.signatures) if one._dispatcher else 0 for one in functions}

rehearse()
before = compiled()
for options in ("size=70x50", "size=64x64&bits=14"):
    source = f"synthetic://?{options}&frames=4&clusters=1&singles=1&noise=1&seed=3"
    assert main(["run", source, "--track", "--engine", "onnxruntime", "--out", sys.argv[1], "--overwrite"]) == 0
after = compiled()
called = [one.label for one in gc.get_objects() if isinstance(one, Compiled) and one._called and not one.signatures]
assert not called, f"{called}: called by Python, and no entry"
confine = before["glint.processing.extent._confine"] if "numba" in sys.modules else 1
print(len(open(sys.argv[1]).read()), confine, sorted(after.items() - before.items()))
"""


def test_after_a_rehearsal_no_run_compiles_anything(tmp_path: Path) -> None:
    program = [sys.executable, "-c", REHEARSED, str(tmp_path / "out.jsonl")]
    size, once, more = subprocess.run(program, check=True, capture_output=True, text=True).stdout.split(maxsplit=2)
    assert (int(size) > 0, int(once), more.strip()) == (True, 1, "[]")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("kind", "seconds", "said"), [(Terminal, 0.5, 1), (Terminal, 0, 0), (io.StringIO, 0.5, 1)])
def test_only_what_is_slow_is_told(kind: type[io.StringIO], seconds: float, said: int) -> None:
    stream = kind()
    with told_if_slow("this takes long", stream=stream, delay=0.1 if seconds else 60.0):
        time.sleep(seconds)
    assert stream.getvalue() == "this takes long\n" * said
