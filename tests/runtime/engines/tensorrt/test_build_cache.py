"""Engines that ``glint build`` keeps: when one is taken, and when it is built again."""

import dataclasses
import json

import pytest
import small_models
import tensorrt_standin
from built_engines import GPU, contents, plans
from tensorrt_standin import VERSIONS, Machine

from glint.errors import EngineError
from glint.runtime.engines.tensorrt import cuda
from glint.runtime.engines.tensorrt.build import BuildOptions, build
from glint.runtime.engines.tensorrt.cache import sidecar_path, timing_cache_path

pytestmark = pytest.mark.usefixtures("gpu", "prepared")


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
