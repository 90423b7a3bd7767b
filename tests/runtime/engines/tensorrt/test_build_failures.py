"""Builds that fail: a clear error, nothing half-written, an old entry as it was."""

import dataclasses
import os
import signal
import sys
import threading
import time
from pathlib import Path

import onnx
import pytest
import small_models
from built_engines import GPU, contents

from glint.cards import UnmixerSpec
from glint.errors import EngineError, InputError, MissingDependencyError, ModelError, OutputError
from glint.runtime.engines.tensorrt import cuda
from glint.runtime.engines.tensorrt.build import BuildOptions, build

pytestmark = pytest.mark.usefixtures("gpu", "prepared")


def test_where_memory_runs_out_it_tries_with_less(orin, tmp_path, capsys):
    orin.memory = 1 << 30
    build(small_models.unmixer(tmp_path))
    assert [b["workspace"] for b in orin.builds] == [2 << 30, None, 1 << 30]
    told = capsys.readouterr().err
    assert "out of GPU memory with 2048 MiB of workspace" in told
    assert "out of GPU memory with TensorRT's default of workspace" in told


def test_no_implementation_is_told_apart_from_memory(machine, tmp_path, capsys):
    machine.build_error = "Could not find any implementation for node /conv/Conv."
    with pytest.raises(EngineError, match="has no implementation for a node of") as caught:
        build(small_models.unmixer(tmp_path))
    assert "memory is not the reason" in caught.value.hint
    assert [b["workspace"] for b in machine.builds] == [2 << 30, None]  # once with TensorRT's own
    assert "a node has no implementation with 2048 MiB of workspace" in capsys.readouterr().err


def test_a_workspace_that_is_too_small_for_a_node_is_a_matter_of_memory(orin, tmp_path):
    """With little memory TensorRT finds no implementation in what is left; that is not the model's fault."""
    orin.memory, orin.least = 1 << 30, 2 << 30
    with pytest.raises(EngineError, match="ran out of GPU memory"):
        build(small_models.unmixer(tmp_path))
    assert [b["workspace"] for b in orin.builds] == [2 << 30, None, 1 << 30, 256 << 20]


def test_the_optimisation_level_is_handed_over_and_part_of_the_key(machine, tmp_path):
    model = small_models.unmixer(tmp_path)
    first = build(model)
    second = build(model, BuildOptions(optimization_level=5))
    assert [b["level"] for b in machine.builds] == [None, 5]
    assert first.path != second.path and second.info.options["optimization_level"] == 5


def test_engines_belong_to_a_power_mode_and_to_multiprocessors(orin, tmp_path, monkeypatch):
    model = small_models.unmixer(tmp_path)
    paths = []
    for count, mode in ((8, "0"), (4, "1"), (8, "1"), (8, "0")):
        monkeypatch.setattr(
            cuda, "gpu", lambda c=count, m=mode: dataclasses.replace(GPU, multiprocessors=c, power_mode=m)
        )
        paths.append(build(model).path)
    assert len(set(paths)) == len(orin.builds) == 3 and paths[0] == paths[3]


def test_the_last_try_takes_fewer_tactics(machine, tmp_path):
    machine.memory = 300 << 20
    build(small_models.unmixer(tmp_path))
    assert [b["workspace"] for b in machine.builds] == [2 << 30, None, 1 << 30, 256 << 20]
    assert [b["level"] for b in machine.builds] == [None, None, None, 2]


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        ({"memory": 0}, EngineError, "ran out of GPU memory"),
        ({"build_error": "Internal Error (myelin)"}, EngineError, r"cannot build .*: Internal Error \(myelin\)"),
        ({"load_error": "no kernel image"}, EngineError, "cannot load the plan that it built: .*no kernel image"),
        ({"driver": False}, EngineError, "cannot start: CUDA initialization failure"),
    ],
)
def test_a_failed_rebuild_leaves_the_old_entry_as_it_was(orin, tmp_path, failure, error, message):
    model = small_models.unmixer(tmp_path)
    build(model)
    before = contents()
    for name, value in failure.items():
        setattr(orin, name, value)
    with pytest.raises(error, match=message) as caught:
        build(model, overwrite=True)
    assert "\n" not in str(caught.value)
    assert contents() == before
    assert build(model, no_build=True).cached


def full_disk(monkeypatch, *endings):
    """Writing files with these endings fails half-way."""
    write = Path.write_bytes

    def fail(path, data):
        if path.name.endswith(endings):
            write(path, bytes(data)[:100])
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", fail)


@pytest.mark.parametrize("ending", [".plan", ".json"])
def test_a_full_disk_leaves_the_old_entry_as_it_was(orin, tmp_path, monkeypatch, ending):
    model = small_models.unmixer(tmp_path)
    build(model)
    before = contents()
    full_disk(monkeypatch, ending)
    with pytest.raises(OutputError, match="No space left"):
        build(model, overwrite=True)
    assert contents() == before


def test_timings_that_cannot_be_kept_do_not_cost_the_engine(orin, tmp_path, monkeypatch, capsys):
    full_disk(monkeypatch, ".cache")
    model = small_models.unmixer(tmp_path)
    build(model)
    assert "timings of this build are not kept" in capsys.readouterr().err
    assert build(model).cached


def test_a_cache_that_cannot_be_written_is_an_error(orin, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GLINT_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="engine cache") as caught:
        build(small_models.unmixer(tmp_path))
    assert "GLINT_CACHE" in caught.value.hint


def test_weights_that_are_not_beside_the_model_are_missed(machine, tmp_path):
    model = small_models.unmixer(tmp_path)
    onnx.save(
        onnx.load(model), model, save_as_external_data=True, location=f"{model.name}.data", size_threshold=0,
        convert_attribute=False,
    )  # fmt: skip
    spec = UnmixerSpec(patch=7, crop=7, cells=1)
    small_models.write_card(model, task="unmix", shape=(-1, 1, 7, 7), outputs=("grid",), unmixer=spec)
    weights = model.with_name(f"{model.name}.data")
    first = build(model)
    weights.write_bytes(bytes(weights.stat().st_size))
    assert build(model).path != first.path  # other weights are another engine
    weights.unlink()
    before = contents()
    with pytest.raises(ModelError, match="cannot parse") as caught:
        build(model)
    assert f"{model.name}.data" in caught.value.hint
    assert contents() == before


def test_a_file_that_is_no_model_is_refused(machine, tmp_path):
    model = small_models.unmixer(tmp_path)
    model.write_bytes(b"\x00\x01not a model")
    with pytest.raises(ModelError, match="hash"):
        build(model)
    spec = UnmixerSpec(patch=7, crop=7, cells=1)
    small_models.write_card(model, task="unmix", shape=(-1, 1, 7, 7), outputs=("grid",), unmixer=spec)
    with pytest.raises(ModelError, match="cannot parse"):
        build(model)
    assert contents() == {}


@pytest.mark.parametrize("shape", [(-1, 1, 9, 9), (-1, 7, 7)])
def test_a_card_that_does_not_fit_its_model_is_refused(machine, tmp_path, shape):
    model = small_models.unmixer(tmp_path)
    spec = UnmixerSpec(patch=7, crop=7, cells=1)
    small_models.write_card(model, task="unmix", shape=shape, outputs=("grid",), unmixer=spec)
    with pytest.raises(ModelError, match="its profile wants"):
        build(model)


def test_missing_libraries_are_named(monkeypatch, tmp_path):
    model = small_models.unmixer(tmp_path)
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match="TensorRT cannot be used") as caught:
        build(model)
    assert "--system-site-packages" in caught.value.hint
    with pytest.raises(MissingDependencyError) as caught:
        build(model, flavour="tensorrt_rtx")
    assert "pip install tensorrt_rtx" in caught.value.hint
    with pytest.raises(InputError, match="flavour"):
        build(model, flavour="tensorflow")


def test_ctrl_c_stops_the_builder_and_leaves_nothing(orin, tmp_path):
    orin.steps, orin.pause = 1000, 0.02
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        build(small_models.unmixer(tmp_path))
    assert time.monotonic() - started < 10
    assert 0 < orin.steps_done < 100
    stopped = orin.steps_done
    time.sleep(0.1)
    assert orin.steps_done == stopped
    assert contents() == {}


def test_two_at_once_build_it_once(orin, tmp_path, capsys):
    model = small_models.unmixer(tmp_path)
    orin.steps, orin.pause = 20, 0.05
    results = []
    threads = [threading.Thread(target=lambda: results.append(build(model))) for _ in range(2)]
    for thread in threads:
        thread.start()
        time.sleep(0.3)
    for thread in threads:
        thread.join()
    assert len(orin.builds) == 1
    assert sorted(r.cached for r in results) == [False, True]
    assert "waiting for another process" in capsys.readouterr().err
