from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glint.cards import load_card
from glint.errors import EngineError, InputError
from glint.runtime.commands.run import run
from glint.runtime.engines.base import Arrays
from glint.runtime.engines.onnxruntime import OnnxRuntimeEngine
from glint.runtime.engines.tensorrt import cuda_graph
from glint.runtime.engines.tensorrt.build import BuildOptions, BuiltEngine, build
from glint.runtime.engines.tensorrt.cuda import GpuInfo, gpu
from glint.runtime.engines.tensorrt.engine import TensorRTEngine

pytestmark = pytest.mark.gpu
MIB = 1 << 20
SLACK = 64 * MIB  # what others may take meanwhile; on a Jetson that is the whole system


@pytest.fixture(scope="module")
def unmix(unmixer_plan: BuiltEngine) -> Iterator[TensorRTEngine]:
    with TensorRTEngine(unmixer_plan.path) as engine:
        yield engine


@pytest.fixture(scope="module")
def reference() -> Callable[[str], OnnxRuntimeEngine]:
    return lambda name: OnnxRuntimeEngine(load_card(name)[1])


def patches(number: int, seed: int = 0) -> Arrays:
    side = load_card("dscsnet-s-sensor")[0].inputs[0].shape[-1]
    values = np.random.default_rng(seed).uniform(0, 1, (number, 1, side, side))
    return {"patch": values.astype(np.float32)}


def frame(shape: tuple[int, ...], seed: int = 0) -> Arrays:
    values = np.random.default_rng(seed).normal(0, 1, shape)
    return {"frame": values.astype(np.float32)}


def assert_alike(ours: Arrays, theirs: Arrays, share: float = 2e-3) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        scale = float(np.abs(expected).max()) or 1.0
        np.testing.assert_allclose(ours[name], expected, rtol=0, atol=share * scale, err_msg=name)


@pytest.mark.parametrize("number", [1, 2, 3, 64, 65, 200, 201, 399, 1001])
def test_unmixing_agrees_with_onnxruntime_at_every_batch(
    unmix: TensorRTEngine, reference: Callable[[str], OnnxRuntimeEngine], number: int
) -> None:
    arrays = patches(number, seed=number)
    assert_alike(unmix.infer(**arrays), reference("dscsnet-s-sensor").infer(**arrays))


def test_detection_agrees_with_onnxruntime(
    detector_plan: BuiltEngine, reference: Callable[[str], OnnxRuntimeEngine]
) -> None:
    shape = detector_plan.info.profiles[0][0].opt
    with TensorRTEngine(detector_plan.path) as engine:
        for seed in range(3):
            arrays = frame(shape, seed)
            assert_alike(engine.infer(**arrays), reference("lsnet-s").infer(**arrays))


def test_a_frame_of_another_size_is_refused_with_the_command_that_helps(detector_plan: BuiltEngine) -> None:
    with TensorRTEngine(detector_plan.path) as engine, pytest.raises(InputError) as caught:
        engine.infer(**frame((1, 1, 128, 160)))
    assert "--size 160x128" in (caught.value.hint or "")


def test_results_are_the_same_with_and_without_a_cuda_graph(
    unmix: TensorRTEngine, unmixer_plan: BuiltEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("cuda") is None:
        pytest.skip("cuda-bindings is not installed")
    assert unmix.details()["cuda_graph"], unmix.details()["cuda_graph_problem"]
    arrays = patches(501)
    monkeypatch.setattr(cuda_graph, "recording_problem", lambda: "switched off")
    with TensorRTEngine(unmixer_plan.path) as plain:
        assert plain.details()["cuda_graph_problem"] == "switched off"
        assert_alike(unmix.infer(**arrays), plain.infer(**arrays), share=1e-6)


def test_outputs_are_the_callers(unmix: TensorRTEngine) -> None:
    first = unmix.infer(**patches(5, seed=1))["grid"]
    kept = first.copy()
    unmix.infer(**patches(5, seed=2))
    np.testing.assert_array_equal(first, kept)


def test_buffers_are_chosen_by_measurement_where_memory_is_shared(unmix: TensorRTEngine, machine: GpuInfo) -> None:
    facts = unmix.details()
    if machine.integrated:
        assert facts["buffers_ms"][facts["buffers"]] == min(facts["buffers_ms"].values())
    else:
        assert (facts["buffers"], facts["buffers_ms"]) == ("pinned", {})


def test_a_thousand_runs_take_no_memory(unmix: TensorRTEngine) -> None:
    sizes = [1, 7, 64, 200, 450]
    for number in sizes:
        unmix.infer(**patches(number))
    before = gpu().free
    for i in range(1000):
        unmix.infer(**patches(sizes[i % len(sizes)]))
    assert before - gpu().free < SLACK


def test_closing_gives_the_memory_back(unmixer_plan: BuiltEngine, detector_plan: BuiltEngine) -> None:
    def use() -> None:
        with TensorRTEngine(unmixer_plan.path) as unmix, TensorRTEngine(detector_plan.path) as detect:
            unmix.infer(**patches(450))
            detect.infer(**frame(detector_plan.info.profiles[0][0].opt))

    use()  # CUDA loads kernels into the context once, and keeps them
    before = gpu().free
    for _ in range(10):
        use()
    assert before - gpu().free < SLACK


def test_a_closed_engine_says_so(unmixer_plan: BuiltEngine) -> None:
    engine = TensorRTEngine(unmixer_plan.path)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(**patches(1))


def test_two_engines_at_once_from_several_threads(
    unmix: TensorRTEngine, detector_plan: BuiltEngine, reference: Callable[[str], OnnxRuntimeEngine]
) -> None:
    shape = detector_plan.info.profiles[0][0].opt
    expected_grid = reference("dscsnet-s-sensor").infer(**patches(260))
    expected_frame = reference("lsnet-s").infer(**frame(shape))
    failures: list[BaseException] = []
    with TensorRTEngine(detector_plan.path) as detect:

        def work(call: Callable[[], Arrays], expected: Arrays) -> None:
            try:
                for _ in range(25):
                    assert_alike(call(), expected)
            except BaseException as error:
                failures.append(error)

        jobs: list[tuple[Any, Arrays]] = [
            (lambda: unmix.infer(**patches(260)), expected_grid),
            (lambda: detect.infer(**frame(shape)), expected_frame),
        ]
        threads = [threading.Thread(target=work, args=job) for job in jobs * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


def test_torch_may_use_the_gpu_meanwhile(unmix: TensorRTEngine) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    expected = unmix.infer(**patches(64))
    values = torch.arange(1000, device="cuda")
    ours = unmix.infer(**patches(64))
    assert int(values.sum()) == 499500
    assert_alike(ours, expected, share=1e-6)


def test_the_second_build_is_a_cache_hit(unmixer_plan: BuiltEngine) -> None:
    again = build("dscsnet-s-sensor", BuildOptions(precision="fp32", batches=((2, 64, 200),)))
    assert again.cached
    assert again.path == unmixer_plan.path


def test_a_damaged_plan_is_refused_before_tensorrt_sees_it(unmixer_plan: BuiltEngine, tmp_path: Path) -> None:
    plan = tmp_path / unmixer_plan.path.name
    sidecar = unmixer_plan.path.with_name(unmixer_plan.path.name + ".json")
    (tmp_path / sidecar.name).write_bytes(sidecar.read_bytes())
    content = bytearray(unmixer_plan.path.read_bytes())
    content[len(content) // 2] ^= 1
    plan.write_bytes(content)
    with pytest.raises(EngineError, match="hash"):
        TensorRTEngine(plan)


def test_a_run_finds_what_onnxruntime_finds() -> None:
    source = "synthetic://?size=320x256&frames=4&clusters=4&noise=2&bits=14&seed=1"
    ours, theirs = (run(source, engine=engine) for engine in ("tensorrt", "onnxruntime"))
    assert ours["engines"]["detect"]["sizes"].keys() == {"320x256"}
    assert abs(ours["truth"]["found"] - theirs["truth"]["found"]) <= 1
    assert abs(ours["targets"] - theirs["targets"]) <= 1
