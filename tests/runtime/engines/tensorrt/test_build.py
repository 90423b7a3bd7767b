"""``glint build`` against stand-ins of every supported TensorRT: what it asks for, and what happens when it fails."""

import argparse
import dataclasses
import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import onnx
import pytest
import small_models
import tensorrt_standin
from hypothesis import given
from hypothesis import strategies as st
from tensorrt_standin import MAGIC, VERSIONS, Machine

from glint.cards import UnmixerSpec, in_island, load_card
from glint.cli import main
from glint.errors import CheckFailedError, EngineError, InputError, MissingDependencyError, ModelError, OutputError
from glint.runtime.commands import build as build_command
from glint.runtime.engines.tensorrt import cuda
from glint.runtime.engines.tensorrt import onnx_to_plan as builder
from glint.runtime.engines.tensorrt.build import BuildOptions, build
from glint.runtime.engines.tensorrt.cache import cache_folder, sidecar_path, timing_cache_path
from glint.runtime.pipeline import rehearsal
from glint.types import FrameSize

GPU = cuda.GpuInfo(
    name="Orin", sm="8.7", total=8 << 30, free=4 << 30, integrated=True, cuda="12.6", driver="540.4.0"
)  # fmt: skip
OLD = [v for v in VERSIONS if v.startswith("tensorrt-10")]
NEW = [v for v in VERSIONS if v not in OLD]
OBEY = "OBEY_PRECISION_CONSTRAINTS"
SIZES = BuildOptions(sizes=(FrameSize(96, 64), FrameSize(32, 32)))


@pytest.fixture(autouse=True)
def gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("GLINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cuda, "gpu", lambda: GPU)


@pytest.fixture(autouse=True)
def prepared(monkeypatch):
    """How often the command has made the first run ready."""
    calls = []
    monkeypatch.setattr(rehearsal, "rehearse", lambda: calls.append(None))
    return calls


@pytest.fixture(params=VERSIONS)
def machine(request, monkeypatch):
    machine = Machine()
    tensorrt_standin.install(monkeypatch, request.param, machine)
    return machine


@pytest.fixture
def orin(monkeypatch):
    """JetPack 6."""
    machine = Machine()
    tensorrt_standin.install(monkeypatch, "tensorrt-10.3", machine)
    return machine


def contents():
    """Every file of the cache."""
    return {p: p.read_bytes() for p in cache_folder().rglob("*") if p.is_file() and p.name != ".lock"}


def plans():
    return sorted(cache_folder().glob("*.plan"))


# What TensorRT is asked for.


def test_every_release_builds_a_strongly_typed_engine_with_details(machine, tmp_path):
    built = build(small_models.unmixer(tmp_path), BuildOptions(batches=((1, 32, 100),)))
    (asked,) = machine.builds
    assert asked["strong"]
    assert asked["flags"] == set()  # TF32, the default, is off: fp32 islands are there for their precision
    assert asked["verbosity"].name == "DETAILED"
    assert asked["profiles"] == [{"patch": [[1, 1, 7, 7], [32, 1, 7, 7], [100, 1, 7, 7]]}]
    assert asked["workspace"] == GPU.free // 2
    assert asked["level"] is None
    assert not built.cached


def test_the_plan_on_disk_is_what_tensorrt_made(machine, tmp_path):
    built = build(small_models.unmixer(tmp_path))
    assert built.path.read_bytes().startswith(MAGIC)


def test_the_sidecar_says_where_the_plan_comes_from(machine, tmp_path):
    onnx_file = small_models.unmixer(tmp_path)
    info = build(onnx_file).info
    document = json.loads(sidecar_path(build(onnx_file).path).read_text())
    assert (info.model, info.precision) == ("tiny-unmixer", "fp32")
    assert document["target"]["gpu"] == "Orin"
    assert document["target"]["sm"] == "8.7"
    assert document["target"]["driver"] == "540.4.0"
    assert document["outputs"] == [{"name": "grid", "dtype": "float32", "shape": [-1, 1, 7, 7]}]
    assert document["profiles"][0][0]["max"] == [256, 1, 7, 7]
    assert document["audit"]["layers"]["fp32"] > 0
    assert document["seconds"] >= 0


def test_each_frame_size_is_a_profile(machine, tmp_path):
    build(small_models.detector(tmp_path), SIZES)
    assert machine.builds[0]["profiles"] == [{"frame": [[1, 1, 64, 96]] * 3}, {"frame": [[1, 1, 32, 32]] * 3}]


def test_workspace_is_held_to_half_of_the_free_memory(orin, tmp_path):
    build(small_models.unmixer(tmp_path), BuildOptions(workspace=64 << 20))
    build(small_models.unmixer(tmp_path), BuildOptions(workspace=64 << 30))
    assert [b["workspace"] for b in orin.builds] == [64 << 20, 2 << 30]


# The cache.


def test_a_second_build_is_a_cache_hit(machine, tmp_path):
    model = small_models.unmixer(tmp_path)
    first, second = build(model), build(model)
    assert (first.cached, second.cached) == (False, True)
    assert first.path == second.path
    assert first.info == second.info
    assert len(machine.builds) == 1


def test_other_options_are_another_engine(orin, tmp_path):
    model = small_models.unmixer(tmp_path)
    paths = {build(model, BuildOptions(batches=(batch,))).path for batch in ((1, 1, 1), (1, 8, 8), (1, 8, 9))}
    assert len(paths) == len(plans()) == 3


def test_overwrite_builds_again(orin, tmp_path):
    model = small_models.unmixer(tmp_path)
    build(model)
    assert not build(model, overwrite=True).cached
    assert len(orin.builds) == 2
    assert len(plans()) == 1


def test_another_release_of_tensorrt_builds_its_own_and_says_why(monkeypatch, tmp_path, capsys):
    model = small_models.unmixer(tmp_path)
    for version in VERSIONS:
        tensorrt_standin.install(monkeypatch, version)
        assert not build(model).cached
        assert build(model).cached
    assert len(plans()) == len(VERSIONS)
    assert "it was built for tensorrt 10.13.2.6, this is tensorrt 10.16.1.11" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "Thor"}, "it was built for GPU Orin, this is GPU Thor"),
        ({"sm": "11.0"}, "it was built for compute capability 8.7, this is compute capability 11.0"),
        ({"cuda": "13.0"}, "it was built for CUDA 12.6, this is CUDA 13.0"),
    ],
)
def test_another_gpu_is_another_engine(orin, monkeypatch, tmp_path, capsys, change, reason):
    model = small_models.unmixer(tmp_path)
    build(model)
    monkeypatch.setattr(cuda, "gpu", lambda: dataclasses.replace(GPU, **change))
    with pytest.raises(EngineError, match="the cache has none") as caught:
        build(model, no_build=True)
    assert reason in str(caught.value)
    build(model)
    assert reason in capsys.readouterr().err
    assert len(plans()) == 2


def test_another_driver_is_not(orin, monkeypatch, tmp_path):
    model = small_models.unmixer(tmp_path)
    build(model)
    monkeypatch.setattr(cuda, "gpu", lambda: dataclasses.replace(GPU, driver="999"))
    assert build(model).cached


def test_a_changed_model_is_another_engine(orin, tmp_path, capsys):
    build(small_models.unmixer(tmp_path, seed=0))
    model = small_models.unmixer(tmp_path, seed=1)
    assert not build(model).cached
    assert "it was built for model hash" in capsys.readouterr().err


def truncate(plan):
    plan.write_bytes(plan.read_bytes()[:-100])


def tamper(plan):
    content = bytearray(plan.read_bytes())
    content[len(content) // 2] ^= 1
    plan.write_bytes(content)


def empty(plan):
    plan.write_bytes(b"")


def corrupt_sidecar(plan):
    sidecar_path(plan).write_text('{"model": ')


def edit_sidecar(plan):
    document = json.loads(sidecar_path(plan).read_text())
    document["audit"]["layers"] = {"int8": 1000}
    sidecar_path(plan).write_text(json.dumps(document))


def strange_sidecar(plan):
    sidecar_path(plan).write_text("[1, 2]")


def no_sidecar(plan):
    sidecar_path(plan).unlink()


def no_plan(plan):
    plan.unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "truncated or was changed"),
        (tamper, "truncated or was changed"),
        (empty, "truncated or was changed"),
        (corrupt_sidecar, "is not JSON"),
        (edit_sidecar, "was changed after it was written"),
        (strange_sidecar, "expected an object"),
        (no_sidecar, "No such file"),
        (no_plan, "No such file"),
    ],
)
def test_a_damaged_entry_is_built_again_or_refused_with_the_reason(orin, tmp_path, capsys, damage, reason):
    model = small_models.unmixer(tmp_path)
    good = build(model)
    before = contents()
    damage(good.path)
    damaged = contents()
    with pytest.raises(EngineError, match=reason) as caught:
        build(model, no_build=True)
    assert "--no-build" in caught.value.hint
    assert contents() == damaged  # refusing touches nothing
    assert not build(model).cached
    assert reason in capsys.readouterr().err
    assert contents()[good.path] == before[good.path]
    assert build(model).cached


def test_a_plan_of_another_model_in_its_place_is_not_taken(orin, tmp_path):
    mine = build(small_models.unmixer(tmp_path))
    other = build(small_models.unmixer(tmp_path, name="other", seed=5))
    for of in (lambda p: p, sidecar_path):
        of(mine.path).write_bytes(of(other.path).read_bytes())
    with pytest.raises(EngineError, match="it was built for model hash"):
        build(small_models.unmixer(tmp_path), no_build=True)


def test_without_permission_to_build_an_empty_cache_is_an_error(orin, tmp_path):
    with pytest.raises(EngineError, match="the cache has none"):
        build(small_models.unmixer(tmp_path), no_build=True)
    assert orin.builds == []
    assert contents() == {}


def test_timings_are_kept_for_the_next_build(monkeypatch, tmp_path):
    for version in VERSIONS:
        machine = Machine()
        module = tensorrt_standin.install(monkeypatch, version, machine)
        built = build(small_models.unmixer(tmp_path))
        build(small_models.unmixer(tmp_path, name="second"))
        if version.startswith("tensorrt_rtx"):  # it measures nothing, and warns of being asked to
            assert not timing_cache_path(built.info.target).exists()
            continue
        start = f"timings of {module.__version__}:".encode()
        assert [b["timings"] for b in machine.builds] == [start, start + b"one more build;"]


def test_damaged_timings_are_forgotten(orin, tmp_path):
    target = build(small_models.unmixer(tmp_path)).info.target
    timing_cache_path(target).write_bytes(b"of another machine")
    build(small_models.unmixer(tmp_path, name="second"))
    assert orin.builds[1]["timings"] == b"timings of 10.3.0:"


# Precision.


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_audit_finds_what_the_network_asks_for(machine, tmp_path, precision):
    audit = build(small_models.unmixer(tmp_path, precision=precision)).info.audit
    assert audit["asked"] == audit["obtained"] == {precision: 3}
    assert audit["missed"] == []


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_engine_in_another_precision_than_asked_for_is_refused(machine, tmp_path, precision):
    machine.kernels = "FLOAT"
    with pytest.raises(CheckFailedError, match="first: asked for"):
        build(small_models.unmixer(tmp_path, precision=precision))
    assert plans() == []


def test_a_plan_without_details_is_kept_with_a_word_where_the_types_stand_in_the_model(orin, tmp_path, capsys):
    orin.details = False
    built = build(small_models.unmixer(tmp_path, precision="fp16"))
    assert plans() == [built.path]
    assert built.info.audit["layers"] == built.info.audit["traffic"] == {}
    assert "what the layers run in is not known: TensorRT's engine inspector gave no details" in capsys.readouterr().err


def test_a_weak_plan_without_details_is_refused(orin, tmp_path):
    orin.details = False
    with pytest.raises(EngineError, match="no details"):
        build(small_models.unmixer(tmp_path), BuildOptions(precision="fp16", weak=True))
    assert plans() == []


@pytest.mark.parametrize(
    ("version", "precision", "hint"),
    [
        ("tensorrt-10.3", "fp32", None),
        ("tensorrt-10.3", "fp16", "try --precision fp16 --weak, which"),
        ("tensorrt-11.4", "fp16", None),
        ("tensorrt-10.16", "int8", "--float32-scales, where fp16 scales are refused, or --precision int8 --weak"),
    ],
)
def test_a_build_that_fails_says_what_else_to_try(monkeypatch, tmp_path, version, precision, hint):
    tensorrt_standin.install(monkeypatch, version, Machine(build_error="DequantizeLinear: No matching rules"))
    with pytest.raises(EngineError, match="No matching rules") as caught:
        build(small_models.unmixer(tmp_path, precision=precision))
    assert (caught.value.hint is None) if hint is None else hint in caught.value.hint


def test_a_precision_that_the_file_does_not_have_is_refused(orin, tmp_path):
    with pytest.raises(InputError, match="needs a model in int8"):
        build(small_models.unmixer(tmp_path), BuildOptions(precision="int8"))


@pytest.mark.parametrize("version", OLD)
@pytest.mark.parametrize(
    ("precision", "model", "flags"), [("fp16", "fp32", {"FP16", OBEY}), ("int8", "int8", {"FP16", "INT8", OBEY})]
)
def test_weak_typing_sets_flags_on_10(monkeypatch, tmp_path, version, precision, model, flags):
    machine = Machine()
    tensorrt_standin.install(monkeypatch, version, machine)
    built = build(small_models.unmixer(tmp_path, precision=model), BuildOptions(precision=precision, weak=True))
    assert machine.builds[0]["flags"] == flags
    assert not machine.builds[0]["strong"]
    assert built.info.precision == precision
    assert built.info.audit["layers"][precision] >= 3


def test_weak_typing_that_the_builder_does_not_use_is_refused(orin, tmp_path):
    orin.kernels = "FLOAT"
    with pytest.raises(CheckFailedError, match="fp16 was asked for"):
        build(small_models.unmixer(tmp_path), BuildOptions(precision="fp16", weak=True))


@pytest.mark.parametrize("version", OLD)
def test_weak_typing_keeps_the_float32_islands_and_counts_them(monkeypatch, tmp_path, version):
    machine = Machine()
    tensorrt_standin.install(monkeypatch, version, machine)
    audit = build("dscsnet-s-sensor", BuildOptions(precision="fp16", weak=True)).info.audit
    assert OBEY in machine.builds[0]["flags"]
    assert audit["asked"] == audit["obtained"] and audit["missed"] == []
    assert audit["asked"]["fp32"] == len(islands("dscsnet-s-sensor")) > 0
    assert audit["asked"]["fp16"] > 20


def islands(model):
    """Convolutions and matrix products of a released model that stay float32."""
    graph = onnx.load(load_card(model)[1]).graph
    return [node for node in graph.node if node.op_type in ("Conv", "MatMul", "Gemm") and in_island(node.name)]


def test_weak_typing_that_loses_a_float32_island_is_refused(orin, tmp_path):
    orin.kernels = "HALF"
    with pytest.raises(CheckFailedError, match=r"float32 islands .*MatMul.*: asked for fp32, runs in fp16") as caught:
        build("dscsnet-s-sensor", BuildOptions(precision="fp16", weak=True))
    assert "without --weak" in caught.value.hint


@pytest.mark.parametrize("version", NEW)
def test_weak_typing_is_refused_where_it_is_gone(monkeypatch, tmp_path, version):
    tensorrt_standin.install(monkeypatch, version)
    with pytest.raises(InputError, match="strongly typed networks only"):
        build(small_models.unmixer(tmp_path), BuildOptions(precision="fp16", weak=True))


# Several batches.


@pytest.mark.parametrize("version", VERSIONS)
def test_several_batches_are_profiles_of_one_engine(monkeypatch, tmp_path, version):
    machine = Machine()
    tensorrt_standin.install(monkeypatch, version, machine)
    elsewhere = "8.6" if version.startswith("tensorrt_rtx") else None
    options = BuildOptions(batches=((1, 4, 16), (1, 64, 256), (1, 4, 16)))
    built = build(small_models.unmixer(tmp_path), options, compute_capability=elsewhere)
    shapes = [[[batch, 1, 7, 7] for batch in batches] for batches in ((1, 4, 16), (1, 64, 256))]
    assert [profile["patch"] for profile in machine.builds[0]["profiles"]] == shapes
    assert [(p[0].min[0], p[0].opt[0], p[0].max[0]) for p in built.info.profiles] == [(1, 4, 16), (1, 64, 256)]


def test_the_command_takes_several_batches(orin, tmp_path):
    model = str(small_models.unmixer(tmp_path))
    assert main(["build", model, "--batch", "1,4,16", "--batch", "1,64,256"]) == 0
    assert len(orin.builds[0]["profiles"]) == 2
    assert main(["build", model, "--batch", "1,4,16", "--batch", "9,4,16"]) == 2


# The deep learning accelerator.


@pytest.mark.parametrize("library", ["10.3.0", "10.7.0", "11.4.1.5", "11.5.0", "12.0"])
def test_dla_with_fallback_to_the_gpu(monkeypatch, tmp_path, library):
    machine = Machine(dla_cores=2)
    version = "tensorrt-10.3" if library.startswith("10") else "tensorrt-11.4"
    monkeypatch.setattr(tensorrt_standin.install(monkeypatch, version, machine), "__version__", library)
    build(small_models.unmixer(tmp_path, precision="fp16"), BuildOptions(precision="fp16", dla=1, batches=((8, 8, 8),)))
    (asked,) = machine.builds
    assert asked["flags"] == {"GPU_FALLBACK"}
    assert asked["device"].name == "DLA"
    assert asked["dla"] == 1


def test_what_dla_leaves_to_the_gpu_is_told_and_kept(monkeypatch, tmp_path, capsys):
    machine = install(monkeypatch, tmp_path)
    machine.dla_refuses = ("MATRIX_MULTIPLY",)
    options = BuildOptions(precision="fp16", dla=0, batches=((8, 8, 8),))
    built = build(small_models.unmixer(tmp_path, precision="fp16"), options)
    assert built.info.audit["left_to_gpu"] == ["mix"]
    assert "1 of 6 layers run on the GPU, not on DLA: mix" in capsys.readouterr().err


def test_dla_that_takes_nothing_or_too_many_pieces_is_refused(monkeypatch, tmp_path):
    machine = install(monkeypatch, tmp_path)
    machine.dla_refuses = ("CONVOLUTION", "MATRIX_MULTIPLY", "ELEMENTWISE")
    options = BuildOptions(precision="fp16", dla=0, batches=((8, 8, 8),))
    with pytest.raises(InputError, match="it takes no layer"):
        build(small_models.unmixer(tmp_path, precision="fp16"), options)
    machine.dla_refuses = ("MATRIX_MULTIPLY", "ELEMENTWISE")
    with pytest.raises(InputError, match=r"falls into \d+ pieces .* a core holds 16"):
        build("dscsnet-s-sensor", options)
    assert machine.builds == []


def test_dla_takes_one_shape_and_no_quantised_model_before_11(monkeypatch, tmp_path):
    install(monkeypatch, tmp_path)
    model = small_models.unmixer(tmp_path, precision="fp16")
    with pytest.raises(InputError, match="one shape") as caught:
        build(model, BuildOptions(precision="fp16", dla=0))
    assert "--batch" in caught.value.hint
    int8 = small_models.unmixer(tmp_path, precision="int8")
    with pytest.raises(InputError, match="Q/DQ") as caught:
        build(int8, BuildOptions(precision="int8", dla=0, batches=((8, 8, 8),)))
    assert "fp16" in caught.value.hint


def install(monkeypatch, tmp_path):
    machine = Machine(dla_cores=2)
    tensorrt_standin.install(monkeypatch, "tensorrt-10.3", machine)
    return machine


@pytest.mark.parametrize("library", ["10.8.0", "10.13.2.6", "11.0.0", "11.4.0.106"])
def test_dla_is_refused_where_the_library_has_none(monkeypatch, tmp_path, library):
    version = "tensorrt-10.13" if library.startswith("10") else "tensorrt-11.4"
    monkeypatch.setattr(
        tensorrt_standin.install(monkeypatch, version, Machine(dla_cores=2)), "__version__", library
    )  # fmt: skip
    with pytest.raises(InputError, match=r"DLA: tensorrt .* cannot use it"):
        build(small_models.unmixer(tmp_path, precision="fp16"), BuildOptions(precision="fp16", dla=0))


def test_dla_is_refused_on_rtx_in_fp32_and_without_a_core(monkeypatch, orin, tmp_path):
    model = small_models.unmixer(tmp_path, precision="fp16")
    with pytest.raises(InputError, match="this machine has 0"):
        build(model, BuildOptions(precision="fp16", dla=0, batches=((8, 8, 8),)))
    with pytest.raises(InputError, match="it computes in fp16 or int8, got fp32"):
        build(small_models.unmixer(tmp_path), BuildOptions(dla=0))
    tensorrt_standin.install(monkeypatch, "tensorrt_rtx-1.7", Machine(dla_cores=2))
    with pytest.raises(InputError, match="cannot use it"):
        build(model, BuildOptions(precision="fp16", dla=0))


# Ahead of time.


def test_rtx_builds_for_a_gpu_that_is_not_there(monkeypatch, tmp_path):
    def nothing():
        raise EngineError("no GPU")

    monkeypatch.setattr(cuda, "gpu", nothing)
    machine = Machine()
    tensorrt_standin.install(monkeypatch, "tensorrt_rtx-1.7", machine)
    model = small_models.unmixer(tmp_path)
    built = build(model, compute_capability="8.6")
    assert machine.builds[0]["capabilities"] == {0: "SM86"}
    assert machine.builds[0]["workspace"] is None
    assert (built.info.target.gpu, built.info.target.sm) == ("any", "8.6")
    assert build(model, compute_capability="8.6").cached
    assert not build(model, compute_capability="12.0").cached
    with pytest.raises(EngineError, match="no GPU") as caught:
        build(model)
    assert "--compute-capability" in caught.value.hint


def test_only_rtx_does_and_only_for_what_it_knows(monkeypatch, orin, tmp_path):
    model = small_models.unmixer(tmp_path)
    with pytest.raises(InputError, match="cannot build ahead of time"):
        build(model, compute_capability="8.7")
    tensorrt_standin.install(monkeypatch, "tensorrt_rtx-1.7")
    with pytest.raises(InputError, match=r"compute capability 8\.7") as caught:
        build(model, compute_capability="8.7")
    assert "8.6" in caught.value.hint


# Failures: a clear error, nothing half-written, an old entry as it was.


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


# Options.


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "fp8"},
        {"batches": ((0, 1, 2),)},
        {"batches": ((2, 1, 4),)},
        {"batches": ((1, 5, 4),)},
        {"sizes": ((0, 32),)},
        {"workspace": 0},
        {"dla": -1},
        {"weak": True},
        {"weak": True, "precision": "fp32"},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(InputError):
        BuildOptions(**options)


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (BuildOptions(), "takes frames of any size", "--size 640x512"),
        (BuildOptions(sizes=(FrameSize(64, 50),)), "size 64x50: .* multiples of 16", "--size 64x64"),
        (BuildOptions(sizes=(FrameSize(64, 16),)), "size 64x16: .* from 32 on", "--size 64x32"),
        (BuildOptions(sizes=(FrameSize(32, 32),), batches=((1, 2, 4),)), "one frame at a time", None),
    ],
)
def test_sizes_and_batches_that_a_detector_does_not_take(orin, tmp_path, options, message, hint):
    with pytest.raises(InputError, match=message) as caught:
        build(small_models.detector(tmp_path), options)
    assert hint is None or hint in caught.value.hint


def test_an_unmixer_takes_no_size(orin, tmp_path):
    with pytest.raises(InputError, match="patches of one size"):
        build(small_models.unmixer(tmp_path), SIZES)


def test_the_progress_of_nested_phases_never_falls():
    state = builder.BuildState()
    state.start("build", None, 2)
    seen = [state.fraction()]
    state.start("time", "build", 4)
    for _ in range(4):
        assert state.step("time")
        seen.append(state.fraction())
    state.finish("time")
    state.step("build")
    seen.append(state.fraction())
    state.start("time", "build", 1)
    state.step("time")
    seen.append(state.fraction())
    state.step("unknown")
    assert seen == [0, 0.125, 0.25, 0.375, 0.5, 0.5, 1.0]
    state.cancelled = True
    assert not state.step("build")


# The command.


def test_the_command_tells_and_prints(orin, tmp_path, capsys):
    model = small_models.detector(tmp_path)
    words = ["build", str(model), "--size", "96x64", "32x32", "--json"]
    assert main(words) == 0
    first = capsys.readouterr()
    assert "built in" in first.err
    assert "layers: INT8 0%" in first.err
    document = json.loads(first.out)
    assert not document["cached"]
    assert [p[0]["opt"] for p in document["sidecar"]["profiles"]] == [[1, 1, 64, 96], [1, 1, 32, 32]]
    assert main(words) == 0
    second = capsys.readouterr()
    assert "cache hit: " in second.err
    assert json.loads(second.out)["cached"]
    assert json.loads(second.out)["path"] == document["path"]


def test_the_command_also_compiles_what_the_first_run_here_needs(orin, tmp_path, prepared):
    words = ["build", str(small_models.unmixer(tmp_path)), "--batch", "1,32,100"]
    assert main([*words, "--dry-run"]) == 0
    assert not prepared
    assert main(words) == 0
    assert len(prepared) == 1


def test_a_dry_run_builds_nothing(orin, tmp_path, capsys):
    model = small_models.unmixer(tmp_path)
    words = ["build", str(model), "--batch", "1,8,16", "--workspace", "100", "--dry-run"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "patch 1x1x7x7 to 8x1x7x7 to 16x1x7x7" in text
    assert "100 MiB" in text
    assert "would:     build it: the cache has none" in text
    assert orin.builds == []
    assert contents() == {}
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["workspace"] == 100 << 20
    assert not document["cached"]
    assert main(words[:-1]) == 0
    capsys.readouterr()
    assert main(words) == 0
    assert "would:     take it from the cache" in capsys.readouterr().out


def test_out_gets_a_copy_with_its_sidecar(orin, tmp_path, capsys):
    model, out = small_models.unmixer(tmp_path), tmp_path / "engines" / "mine.plan"
    words = ["build", str(model), "--out", str(out)]
    assert main(words) == 0
    assert out.read_bytes() == plans()[0].read_bytes()
    assert sidecar_path(out).read_bytes() == sidecar_path(plans()[0]).read_bytes()
    assert main(words) == 2
    assert "exists" in capsys.readouterr().err
    out.write_bytes(b"old")
    assert main([*words, "--overwrite"]) == 0
    assert out.read_bytes() == plans()[0].read_bytes()
    assert main(["build", str(model), "--out", "-"]) == 2


@pytest.mark.parametrize(
    "words", [["--size", "64"], ["--size", "64x"], ["--batch", "1,2"], ["--batch", "a,b,c"], ["--workspace", "0"]]
)
def test_malformed_arguments_are_usage_errors(words, capsys):
    assert main(["build", "lsnet-s", *words]) == 2
    assert "error" in capsys.readouterr().err


@given(st.text(max_size=12) | st.from_regex(r"[0-9]{1,6}[x,][0-9]{1,6}([x,][0-9]{1,6})?", fullmatch=True))
def test_sizes_and_batches_are_read_or_refused(text):
    for read, form in ((build_command.frame_size, "{0}x{1}"), (build_command._batch, "{0},{1},{2}")):
        try:
            numbers = read(text)
        except argparse.ArgumentTypeError:
            continue
        assert [int(n) for n in re.split("[x,]", text)] == [int(n) for n in re.split("[x,]", form.format(*numbers))]


@pytest.mark.parametrize(("failure", "code"), [({"kernels": "FLOAT"}, 1), ({"build_error": "no"}, 3)])
def test_exit_codes(orin, tmp_path, capsys, failure, code):
    vars(orin).update(failure)
    assert main(["build", str(small_models.unmixer(tmp_path, precision="fp16"))]) == code
    err = capsys.readouterr().err
    assert "error: " in err
    assert "Traceback" not in err
