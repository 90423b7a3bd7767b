"""The TensorRT engine over its life: threads, memory, closing, and plans that must not be loaded."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorrt_standin as standin
from engine_bench import Bench, check_pair, network, pair, pair_profile, rows

from glint.errors import EngineError, MissingDependencyError, ModelError
from glint.runtime.engines.tensorrt import api as tensorrt_api
from glint.runtime.engines.tensorrt.build import machine
from glint.runtime.engines.tensorrt.cache import InputRange
from glint.runtime.engines.tensorrt.engine import TensorRTEngine

onnx = pytest.importorskip("onnx")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    return Bench(monkeypatch, "tensorrt-10.3", tmp_path)


def test_a_thousand_runs_take_no_memory(bench: Bench) -> None:
    with TensorRTEngine(bench.plan(pair(), pair_profile(1, 4, 8))) as engine:
        for number in range(1, 20):
            engine.infer(**rows(number))
        used, graphs = bench.cuda.used, bench.cuda.graphs
        for number in range(1000):
            engine.infer(**rows(1 + number % 19))
        assert (bench.cuda.used, bench.cuda.graphs) == (used, graphs)
    assert (bench.cuda.used, bench.cuda.graphs, bench.cuda.stack) == (0, 0, [])


def test_shapes_beyond_number_are_not_all_kept(bench: Bench) -> None:
    model = network(
        onnx.helper.make_node("Add", ["x", "x"], ["y"]), inputs={"x": [1, "w"]}, outputs={"y": [1, "w"]}
    )  # fmt: skip
    with TensorRTEngine(bench.plan(model, (InputRange("x", (1, 1), (1, 4), (1, 500)),))) as engine:
        for width in range(1, 300):
            x = np.full((1, width), width, np.float32)
            np.testing.assert_array_equal(engine.infer(x=x)["y"], 2 * x)
        assert bench.cuda.graphs <= 65


def test_a_closed_engine_gave_everything_back_and_says_so(bench: Bench) -> None:
    engine = TensorRTEngine(bench.plan(pair(), pair_profile(1, 4, 8)))
    check_pair(engine, rows(19))
    engine.close()
    assert (bench.cuda.used, bench.cuda.graphs) == (0, 0)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(**rows(1))


def test_any_thread_may_run_and_close(bench: Bench) -> None:
    engine = TensorRTEngine(bench.plan(pair(), pair_profile(1, 4, 8)))
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for number in range(1, 25):
                check_pair(engine, rows(number, seed))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    closer = threading.Thread(target=engine.close)
    closer.start()
    closer.join()
    assert not failures
    assert not bench.cuda.live
    assert (len(bench.cuda.streams), bench.cuda.lost_streams) == (0, 0)


def test_two_engines_live_side_by_side(bench: Bench) -> None:
    path = bench.plan(pair(), pair_profile(1, 4, 8))
    with TensorRTEngine(path) as second:
        with TensorRTEngine(path) as first:
            check_pair(first, rows(9))
            check_pair(second, rows(9, seed=1))
        check_pair(second, rows(17))
    assert bench.cuda.retained == 1
    assert not bench.cuda.live


def test_the_context_of_other_users_of_the_gpu_stays(bench: Bench) -> None:
    path = bench.plan(pair(), pair_profile(1, 4, 8))
    theirs: Any = object()
    bench.cuda.stack.append(theirs)
    with TensorRTEngine(path) as engine:
        check_pair(engine, rows(9))
    assert bench.cuda.stack == [theirs]


def test_a_failing_run_is_an_engine_error_and_the_next_one_works(bench: Bench) -> None:
    bench.cuda.refuse_capture = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"
    with TensorRTEngine(bench.plan(pair(), pair_profile(1, 4, 8))) as engine:
        check_pair(engine, rows(20))
        execute = bench.module.IExecutionContext.execute_async_v3
        runs = 0

        def fail_at_the_second(self: Any, *arguments: Any) -> bool:
            nonlocal runs
            runs += 1
            return execute(self, *arguments) if runs != 2 else self._refuse("Cask convolution execution")

        bench.module.IExecutionContext.execute_async_v3 = fail_at_the_second
        with pytest.raises(EngineError, match=r"TensorRT failed to run the network: .*Cask convolution execution"):
            engine.infer(**rows(20))
        assert not any(stream.queue for stream in bench.cuda.streams.values())
        check_pair(engine, rows(20, seed=1))
    assert not bench.cuda.live


def test_a_gpu_that_failed_for_good_does_not_hinder_closing(bench: Bench) -> None:
    engine = TensorRTEngine(bench.plan(pair(), pair_profile(1, 4, 8)))
    bench.cuda.broken = "cuMemcpyHtoDAsync failed: an illegal memory access was encountered"
    with pytest.raises(EngineError, match="illegal memory access"):
        engine.infer(**rows(3))
    engine.close()
    assert bench.cuda.stack == []


def test_memory_that_runs_out_is_told_as_that_and_given_back(bench: Bench) -> None:
    path = bench.plan(pair(), pair_profile(1, 4, 100_000))
    with TensorRTEngine(path) as engine:
        check_pair(engine, rows(4))
        used = bench.cuda.used
        bench.cuda.total = used + 3_000_000  # enough for the first tensor
        with pytest.raises(EngineError, match="out of GPU memory") as caught:
            engine.infer(**rows(100_000))
        assert "smaller batch" in (caught.value.hint or "")
        assert bench.cuda.used == used
        check_pair(engine, rows(5))
    assert not bench.cuda.live


def test_too_little_memory_to_open_leaves_nothing_behind(bench: Bench) -> None:
    path = bench.plan(pair(), pair_profile(1, 4, 8))
    bench.cuda.total = standin.SCRATCH + 100  # enough for the first tensor
    with pytest.raises(EngineError, match="out of GPU memory"):
        TensorRTEngine(path)
    assert not bench.cuda.live


# Plans that must not be loaded


def damaged(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes(content[: len(content) // 2] if how == "truncated" else b"" if how == "empty" else content)


@pytest.mark.parametrize("how", ["flipped", "truncated", "empty"])
def test_a_damaged_plan_never_reaches_tensorrt(bench: Bench, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bench.plan(pair(), pair_profile(1, 4, 8))
    damaged(path, how)
    monkeypatch.setattr(bench.module, "Runtime", lambda logger: pytest.fail("TensorRT was given the plan"))
    with pytest.raises(EngineError, match=r"model\.plan cannot be used: .*truncated or was changed") as caught:
        TensorRTEngine(path)
    assert "glint build" in (caught.value.hint or "")


def test_a_plan_or_sidecar_that_is_missing_or_edited_is_refused(bench: Bench) -> None:
    path = bench.plan(pair(), pair_profile(1, 4, 8))
    sidecar = path.with_name("model.plan.json")
    text = sidecar.read_text()
    sidecar.write_text(text.replace('"model": "model"', '"model": "other"'))
    with pytest.raises(ModelError, match="was changed"):
        TensorRTEngine(path)
    sidecar.unlink()
    with pytest.raises(ModelError, match="sidecar"):
        TensorRTEngine(path)
    sidecar.write_text(text)
    path.unlink()
    with pytest.raises(EngineError, match="No such file"):
        TensorRTEngine(path)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("tensorrt", "10.7.0", r"tensorrt 10\.7\.0.* 10\.3\.0"),
        ("gpu", "Orin", "GPU Orin.*Fake GPU"),
        ("sm", "8.7", r"compute capability 8\.7.*8\.6"),
    ],
)
def test_a_plan_of_another_machine_is_refused_with_the_difference(
    bench: Bench, field: str, value: str, told: str
) -> None:
    target = dataclasses.replace(machine(tensorrt_api.load())[0], **{field: value})
    path = bench.plan(pair(), pair_profile(1, 4, 8), target=target)
    with pytest.raises(EngineError, match=told):
        TensorRTEngine(path)


def test_a_plan_of_the_other_flavour_needs_that_flavour(bench: Bench) -> None:
    target = dataclasses.replace(machine(tensorrt_api.load())[0], flavour="tensorrt_rtx")
    path = bench.plan(pair(), pair_profile(1, 4, 8), target=target)
    with pytest.raises(MissingDependencyError, match="tensorrt_rtx"):
        TensorRTEngine(path)


def test_a_plan_for_dla_runs_on_its_core(bench: Bench) -> None:
    bench.trt.dla_cores = 2
    path = bench.plan(pair(), pair_profile(1, 4, 8), dla=1, options={"dla": 1})
    with TensorRTEngine(path) as engine:
        check_pair(engine, rows(3))


def test_without_a_driver_tensorrt_cannot_start(bench: Bench) -> None:
    path = bench.plan(pair(), pair_profile(1, 4, 8))
    bench.trt.driver = False
    with pytest.raises(EngineError, match=r"TensorRT cannot start: .*CUDA initialization failure"):
        TensorRTEngine(path)
