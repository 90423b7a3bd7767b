from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tensorrt_standin as standin
from engine_bench import Bench, check_pair, network, pair, pair_profile, rows
from hypothesis import given
from hypothesis import strategies as st

from glint.cards import TensorSpec, load_card
from glint.errors import EngineError, InputError
from glint.runtime.engines.onnxruntime import OnnxRuntimeEngine
from glint.runtime.engines.tensorrt import api as tensorrt_api
from glint.runtime.engines.tensorrt import loaded_plan as tensorrt_plan
from glint.runtime.engines.tensorrt.build import BuildOptions, build
from glint.runtime.engines.tensorrt.cache import InputRange
from glint.runtime.engines.tensorrt.engine import TensorRTEngine
from glint.runtime.engines.tensorrt.loaded_plan import round_up
from glint.runtime.engines.tensorrt.slot import Slot
from glint.types import FrameSize

onnx = pytest.importorskip("onnx")
UNMIXER = "dscsnet-s-sensor"


@pytest.fixture(params=standin.VERSIONS)
def every(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    return Bench(monkeypatch, request.param, tmp_path)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    return Bench(monkeypatch, "tensorrt-10.3", tmp_path)


# On every release


def test_the_unmixer_agrees_with_onnxruntime_at_any_batch(every: Bench) -> None:
    card, path = load_card(UNMIXER)
    shape = card.inputs[0].shape[1:]
    plan = build(UNMIXER, BuildOptions(precision="fp32", batches=((2, 4, 8),)))
    with TensorRTEngine(plan.path) as engine, OnnxRuntimeEngine(path, threads=1) as reference:
        assert engine.inputs == reference.inputs
        assert {spec.name for spec in engine.outputs} == {spec.name for spec in reference.outputs}
        for number in (1, 2, 3, 8, 9, 21):
            patches = np.random.default_rng(number).uniform(0, 1, (number, *shape)).astype(np.float32)
            ours, theirs = engine.infer(patch=patches), reference.infer(patch=patches)
            for name, expected in theirs.items():
                np.testing.assert_allclose(ours[name], expected, rtol=1e-5, atol=1e-5)
    assert not every.cuda.live
    assert (every.cuda.graphs, len(every.cuda.streams), every.cuda.lost_streams) == (0, 0, 0)


def test_outputs_that_nobody_reads_are_not_copied(every: Bench) -> None:
    path = every.plan(pair(), pair_profile(1, 4, 8))
    with TensorRTEngine(path, buffers="pinned") as engine:
        arrays = rows(3)
        check_pair(engine, arrays)
        assert set(engine.infer("twice", **arrays)) == {"twice"}
        for names in (("sum",), ("twice", "sum"), ()):
            results = engine.infer(*names, **arrays)
            assert set(results) == set(names or ("sum", "twice"))
            expected = {"sum": arrays["a"] + arrays["b"], "twice": 2 * arrays["a"]}
            for name, array in results.items():
                np.testing.assert_array_equal(array, expected[name])
        fresh = rows(7)  # a size that was not there before
        engine.infer("twice", **fresh)
        every.cuda.executed.clear()
        engine.infer("twice", **fresh)
        assert every.cuda.executed.count("download") == 1


def test_every_size_of_a_frame_is_made_ready_at_open(every: Bench) -> None:
    path = every.plan(pair(), pair_profile(1, 4, 8), pair_profile(4, 16, 64))
    with TensorRTEngine(path, ready=24) as engine:
        assert engine.details()["ready"] == [1, 2, 3, 4, 6, 8, 12, 16, 24]
        slots = dict(engine._slots)
        for number in range(1, 25):
            check_pair(engine, rows(number, number))
        assert engine._slots == slots
        check_pair(engine, rows(25))
        assert len(engine._slots) == len(slots) + 1
    assert not every.cuda.live


def test_pieces_of_a_batch_that_is_cut_are_made_ready_too(every: Bench) -> None:
    path = every.plan(pair(), pair_profile(1, 4, 16))
    with TensorRTEngine(path, ready=32) as engine:
        slots = dict(engine._slots)
        for number in range(1, 33):
            check_pair(engine, rows(number, number))
        assert engine._slots == slots


def test_the_detector_runs_at_the_sizes_of_its_plan_and_refuses_others(every: Bench) -> None:
    plan = build("lsnet-s", BuildOptions(precision="fp32", sizes=(FrameSize(48, 32), FrameSize(32, 64))))
    with TensorRTEngine(plan.path) as engine, OnnxRuntimeEngine(load_card("lsnet-s")[1], threads=1) as reference:
        for height, width in ((32, 48), (64, 32)):
            frame = np.random.default_rng(0).normal(size=(1, 1, height, width)).astype(np.float32)
            ours, theirs = engine.infer(frame=frame), reference.infer(frame=frame)
            for name, expected in theirs.items():
                np.testing.assert_allclose(ours[name], expected, rtol=1e-4, atol=1e-5)
        with pytest.raises(InputError) as caught:
            engine.infer(frame=np.zeros((1, 1, 48, 80), np.float32))
    for part in ("1x1x32x48", "1x1x64x32", "1x1x48x80"):
        assert part in str(caught.value)
    assert "glint build MODEL --size 80x48" in (caught.value.hint or "")


def test_what_tensorrt_logged_is_in_the_error(every: Bench) -> None:
    path = every.plan(pair(), pair_profile(1, 4, 8))
    every.trt.load_error = "Magic tag does not match"
    with pytest.raises(EngineError, match=r"refuses the engine model\.plan: .*Magic tag does not match"):
        TensorRTEngine(path)
    assert not every.cuda.live


def test_an_error_tells_what_was_logged_for_it_and_not_before(bench: Bench) -> None:
    path = bench.plan(pair(), pair_profile(1, 4, 8))
    for trouble in ("first trouble", "second trouble"):
        bench.trt.load_error = trouble
        with pytest.raises(EngineError, match=trouble) as caught:
            TensorRTEngine(path)
    assert "first trouble" not in str(caught.value)


def test_memory_that_runs_out_in_a_build_is_heard_beside_an_open_engine(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """TensorRT tells it to the logger of whoever came first, which is the engine's."""
    with TensorRTEngine(bench.plan(pair(), pair_profile(1, 4, 8))):
        bench.trt.memory = 64 << 20
        build(UNMIXER, BuildOptions(precision="fp32", workspace=128 << 20))
    assert "out of GPU memory with 128 MiB of workspace" in capsys.readouterr().err


# Batches, profiles, buffers and graphs: one release is enough


@given(number=st.integers(1, 100_000))
def test_padding_is_small_and_needs_few_sizes(number: int) -> None:
    size = round_up(number)
    assert number <= size < 1.5 * number + 1
    assert round_up(size) == size
    assert size & (size - 1) == 0 or (size % 3 == 0 and size // 3 & (size // 3 - 1) == 0)


@pytest.mark.parametrize("number", [0, 1, 2, 3, 5, 8, 9, 16, 17, 50])
def test_batches_are_cut_and_padded_to_the_profile(bench: Bench, number: int) -> None:
    with TensorRTEngine(bench.plan(pair(), pair_profile(3, 4, 8))) as engine:
        arrays = rows(number)
        check_pair(engine, arrays)
        check_pair(engine, arrays)


def test_padding_is_the_last_row_again(bench: Bench) -> None:
    with TensorRTEngine(bench.plan(pair(), pair_profile(8, 8, 8))) as engine:
        arrays = rows(5)
        check_pair(engine, arrays)
        uploaded = [block.view(np.float32) for address, block in bench.cuda.live.items() if len(block) == 8 * 3 * 4]
        for array in arrays.values():
            padded = np.concatenate([array, array[[4, 4, 4]]]).ravel()
            assert any(np.array_equal(block, padded) for block in uploaded)


def test_an_empty_batch_has_outputs_of_no_rows(bench: Bench) -> None:
    with TensorRTEngine(bench.plan(pair(), pair_profile(1, 4, 8))) as engine:
        results = engine.infer(**rows(0))
    assert {name: (array.shape, array.dtype) for name, array in results.items()} == {
        "sum": ((0, 3), np.float32), "twice": ((0, 3), np.float32),
    }  # fmt: skip


def test_the_tightest_profile_that_holds_the_batch_is_used(bench: Bench) -> None:
    profiles = pair_profile(1, 32, 64), pair_profile(1, 4, 8), pair_profile(1, 1, 1)
    plan = tensorrt_plan.LoadedPlan(bench.plan(pair(), *profiles))
    chosen = {n: plan.choose({"a": (n, 3), "b": (n, 3)}) for n in (1, 2, 8, 9, 64, 65)}
    assert chosen == {1: 2, 2: 1, 8: 1, 9: 0, 64: 0, 65: 0}


def test_inputs_must_agree_on_the_batch(bench: Bench) -> None:
    with TensorRTEngine(bench.plan(pair(), pair_profile(1, 4, 8))) as engine:
        with pytest.raises(InputError, match="a 2, b 5"):
            engine.infer(a=rows(2)["a"], b=rows(5)["b"])
        check_pair(engine, rows(2))


def test_the_order_of_the_arguments_does_not_matter(bench: Bench) -> None:
    node = onnx.helper.make_node
    shapes = [{"a": [1, "w"], "b": [1, "v"]}, {"aa": [1, "w"], "bb": [1, "v"]}]
    model = network(
        node("Add", ["a", "a"], ["aa"]), node("Add", ["b", "b"], ["bb"]), inputs=shapes[0], outputs=shapes[1]
    )
    profile = tuple(InputRange(name, (1, 1), (1, 2), (1, 4)) for name in "ab")
    two, three = np.full((1, 2), 2, np.float32), np.full((1, 3), 3, np.float32)
    with TensorRTEngine(bench.plan(model, profile)) as engine:
        for arrays in ({"a": two, "b": three}, {"b": two, "a": three}, {"b": three, "a": two}):
            results = engine.infer(**arrays)
            np.testing.assert_array_equal(results["aa"], 2 * arrays["a"])
            np.testing.assert_array_equal(results["bb"], 2 * arrays["b"])


def test_any_layout_in_memory_will_do(bench: Bench) -> None:
    with TensorRTEngine(bench.plan(pair(), pair_profile(1, 4, 8))) as engine:
        wide = np.arange(60, dtype=np.float32).reshape(10, 6)
        check_pair(engine, {"a": wide[::2, ::2], "b": np.asfortranarray(wide[5:, :3])})


def test_outputs_are_the_callers(bench: Bench) -> None:
    with TensorRTEngine(bench.plan(pair(), pair_profile(1, 4, 8))) as engine:
        arrays = rows(20)
        first = engine.infer(**arrays)
        engine.infer(**rows(20, seed=1))
    np.testing.assert_array_equal(first["sum"], arrays["a"] + arrays["b"])
    first["sum"][...] = 0  # and writable


def test_pieces_of_a_large_batch_are_under_way_together(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with TensorRTEngine(bench.plan(pair(), pair_profile(8, 8, 8))) as engine:
        check_pair(engine, rows(32))
        bench.cuda.executed.clear()
        most = 0

        def watch(wait: Callable[[], None]) -> None:
            nonlocal most
            most = max(most, sum(bool(s.queue) for s in bench.cuda.streams.values()))
            wait()

        for stream in bench.cuda.streams.values():
            monkeypatch.setattr(stream, "synchronize", partial(watch, stream.synchronize))
        check_pair(engine, rows(32))
    assert most == 2  # two streams have work whenever one is waited for
    assert bench.cuda.executed.count("network") == 4


def test_a_fixed_batch_is_run_as_it_is(bench: Bench) -> None:
    model = network(
        onnx.helper.make_node("Add", ["x", "x"], ["y"]), inputs={"x": [5, "w"]}, outputs={"y": [5, "w"]}
    )  # fmt: skip
    profile = (InputRange("x", (5, 1), (5, 4), (5, 8)),)
    with TensorRTEngine(bench.plan(model, profile)) as engine:
        assert engine.inputs == (TensorSpec("x", "float32", (5, -1)),)
        for width in (1, 7):
            x = np.random.default_rng(width).normal(size=(5, width)).astype(np.float32)
            np.testing.assert_array_equal(engine.infer(x=x)["y"], 2 * x)
        with pytest.raises(InputError, match="expected 5x1 to 5x8 as the engine was built for, got 5x9"):
            engine.infer(x=np.zeros((5, 9), np.float32))


@pytest.mark.parametrize(("kind", "dtype"), [(10, "float16"), (7, "int64"), (6, "int32")])
def test_tensors_of_other_types(bench: Bench, kind: int, dtype: str) -> None:
    node = onnx.helper.make_node("Add", ["x", "x"], ["y"])
    model = network(node, inputs={"x": ["n", 2]}, outputs={"y": ["n", 2]}, kind=kind)
    with TensorRTEngine(bench.plan(model, (InputRange("x", (1, 2), (2, 2), (4, 2)),))) as engine:
        x = np.arange(6).reshape(3, 2).astype(dtype)
        result = engine.infer(x=x)["y"]
        assert result.dtype == x.dtype
        np.testing.assert_array_equal(result, 2 * x)
        with pytest.raises(InputError, match=f"expected {dtype} anyx2, got float64 3x2"):
            engine.infer(x=x.astype(np.float64))


def test_a_type_that_numpy_lacks_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bench.plan(pair(), pair_profile(1, 4, 8))
    monkeypatch.setattr(tensorrt_api.TensorRT, "dtype_name", lambda self, dtype: "bfloat16")
    with pytest.raises(EngineError, match="'a' is of type bfloat16, which NumPy does not have"):
        TensorRTEngine(path)


def test_runs_are_graphs_where_they_can_be_recorded(bench: Bench) -> None:
    with TensorRTEngine(bench.plan(pair(), pair_profile(1, 4, 8))) as engine:
        assert (engine.details()["cuda_graph"], engine.details()["cuda_graph_problem"]) == (True, None)
        for number in (4, 4, 8, 19):
            check_pair(engine, rows(number))
        assert bench.cuda.launches == 6  # 1 + 1 + 1 + 3 pieces


def test_without_cuda_bindings_it_runs_call_by_call_and_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bench = Bench(monkeypatch, "tensorrt-10.3", tmp_path, bindings=False)
    with TensorRTEngine(bench.plan(pair(), pair_profile(1, 4, 8))) as engine:
        check_pair(engine, rows(19))
        facts = engine.details()
    assert not facts["cuda_graph"]
    assert "pip install cuda-bindings" in facts["cuda_graph_problem"]
    assert bench.cuda.launches == 0


def test_where_recording_fails_it_runs_call_by_call_and_says_why(bench: Bench) -> None:
    bench.cuda.refuse_capture = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"
    with TensorRTEngine(bench.plan(pair(), pair_profile(1, 4, 8))) as engine:
        check_pair(engine, rows(19))
        facts = engine.details()
    assert not facts["cuda_graph"]
    assert "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" in facts["cuda_graph_problem"]
    assert not bench.cuda.live


def test_bindings_newer_than_the_driver_cost_the_graphs_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: object) -> None:
        raise RuntimeError('Function "cuGraphInstantiate" not found')

    monkeypatch.setattr(sys.modules["cuda.bindings"].driver, "cuGraphInstantiate", missing)
    with TensorRTEngine(bench.plan(pair(), pair_profile(1, 4, 8))) as engine:
        check_pair(engine, rows(19))
        assert "cuda-bindings newer than the driver?" in engine.details()["cuda_graph_problem"]
    assert not bench.cuda.live


def test_tensorrt_rtx_is_asked_whether_it_can_be_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench = Bench(monkeypatch, "tensorrt_rtx-1.7", tmp_path)
    path = bench.plan(pair(), pair_profile(1, 4, 8))
    monkeypatch.setattr(bench.module.IExecutionContext, "is_stream_capturable", lambda self, stream: False)
    with TensorRTEngine(path) as engine:
        check_pair(engine, rows(3))
        assert "cannot be recorded" in engine.details()["cuda_graph_problem"]


@pytest.mark.parametrize("fast", ["mapped", "pinned"])
def test_where_memory_is_shared_the_faster_kind_of_buffer_is_used(
    bench: Bench, fast: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.plan(pair(), pair_profile(1, 4, 8))
    bench.cuda.integrated = True
    order: list[bool] = []

    def trial(slot: Slot) -> Callable[[], float]:
        mapped = any(buffer._device is None for buffer in slot._buffers.values())

        def run() -> float:
            order.append(mapped)
            return 0.001 if mapped == (fast == "mapped") else 0.002

        return run

    monkeypatch.setattr(Slot, "trial", trial)
    monkeypatch.setattr("glint.runtime.engines.tensorrt.slot._SETTLE_S", 0.01)
    with TensorRTEngine(path) as engine:
        facts = engine.details()
        assert facts["buffers"] == fast
        assert facts["buffers_ms"] == {fast: 1.0, ({"mapped", "pinned"} - {fast}).pop(): 2.0}
        assert all(one != other for one, other in pairwise(order))  # in turns
        assert ("mapped" in bench.cuda.kinds.values()) == (fast == "mapped")
        check_pair(engine, rows(19))
    assert not bench.cuda.live


@pytest.mark.parametrize("kind", ["mapped", "pinned"])
def test_graph_and_buffers_can_be_asked_for(bench: Bench, kind: str) -> None:
    path = bench.plan(pair(), pair_profile(1, 4, 8))
    bench.cuda.integrated = True
    with TensorRTEngine(path, graph=False, buffers=kind) as engine:
        check_pair(engine, rows(19))
        facts = engine.details()
        assert (facts["buffers"], facts["buffers_ms"]) == (kind, {})
        assert (facts["cuda_graph"], facts["cuda_graph_problem"]) == (False, "switched off")
        assert ("mapped" in bench.cuda.kinds.values()) == (kind == "mapped")
    assert bench.cuda.launches == 0
    with pytest.raises(InputError, match="expected pinned or mapped, got 'paged'"):
        TensorRTEngine(path, buffers="paged")


def test_a_run_is_split_into_its_stages(bench: Bench) -> None:
    with TensorRTEngine(bench.plan(pair(), pair_profile(1, 4, 8))) as engine:
        times = engine.stage_times(3, **rows(19))
        # The fake stream takes a millisecond per piece of work: two inputs, one network, two outputs.
        assert (times["h2d"], times["gpu"], times["d2h"]) == ([2.0] * 3, [1.0] * 3, [2.0] * 3)
        assert len(times["enqueue"]) == len(times["graph"]) == 3
        check_pair(engine, rows(19))
    with pytest.raises(EngineError, match="closed"):
        engine.stage_times(3, **rows(19))


def test_mapped_buffers_have_no_copies_to_time(bench: Bench) -> None:
    with TensorRTEngine(bench.plan(pair(), pair_profile(1, 4, 8)), graph=False, buffers="mapped") as engine:
        times = engine.stage_times(1, **rows(2))
    assert (times["h2d"], times["gpu"], times["d2h"]) == ([0.0], [1.0], [0.0])
    assert "graph" not in times


def test_both_kinds_of_buffer_are_timed_on_the_network(bench: Bench) -> None:
    path = bench.plan(pair(), pair_profile(1, 4, 8))
    bench.cuda.integrated = True
    with TensorRTEngine(path) as engine:
        times = engine.details()["buffers_ms"]
        assert times.keys() == {"pinned", "mapped"}
        assert all(value > 0 for value in times.values())
        check_pair(engine, rows(5))
    assert not bench.cuda.live
