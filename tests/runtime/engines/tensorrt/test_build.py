"""``glint build`` against stand-ins of every supported TensorRT: what it asks for, and what happens when it fails."""

import json

import onnx
import pytest
import small_models
import tensorrt_standin
from built_engines import GPU, SIZES, plans
from tensorrt_standin import MAGIC, VERSIONS, Machine

from glint.cards import in_island, load_card
from glint.cli import main
from glint.errors import CheckFailedError, EngineError, InputError
from glint.runtime.engines.tensorrt import cuda
from glint.runtime.engines.tensorrt.build import BuildOptions, build
from glint.runtime.engines.tensorrt.cache import sidecar_path

pytestmark = pytest.mark.usefixtures("gpu", "prepared")


OLD = [v for v in VERSIONS if v.startswith("tensorrt-10")]
NEW = [v for v in VERSIONS if v not in OLD]
OBEY = "OBEY_PRECISION_CONSTRAINTS"


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
