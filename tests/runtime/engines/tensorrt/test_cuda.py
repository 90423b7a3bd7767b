from __future__ import annotations

import sys
import threading
from pathlib import Path

import fake_cuda
import numpy as np
import pytest
from fake_cuda import FakeCuda

from glint.errors import EngineError, MissingDependencyError
from glint.runtime.engines.tensorrt import cuda
from glint.runtime.engines.tensorrt.cuda_graph import CudaGraph, recording_problem


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    machine = FakeCuda()
    machine.install(monkeypatch)
    return machine


def test_the_facts_are_those_of_the_gpu(machine: FakeCuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.name, machine.sm, machine.integrated = "Orin", (8, 7), True
    monkeypatch.setattr(cuda, "driver_version", lambda: "540.4.0")
    meminfo, mode = tmp_path / "meminfo", tmp_path / "status"
    meminfo.write_text("MemTotal:  8000000 kB\nMemFree:  1000 kB\nMemAvailable:  2000 kB\n")
    mode.write_text("pmode:0002\n")
    monkeypatch.setattr(cuda, "_MEMORY_FILE", meminfo)
    monkeypatch.setattr(cuda, "_POWER_MODE_FILE", mode)
    with cuda.current() as driver:
        block = driver.mem_alloc(1000)
    info = cuda.gpu()
    assert info == cuda.GpuInfo("Orin", "8.7", 1 << 30, (1 << 30) - 1000, True, "12.6", "540.4.0", 8, "2")
    machine.total = 100 << 20  # the page cache holds the rest
    meminfo.write_text("MemAvailable:  81920 kB\n")
    with cuda.current() as driver:
        page_cache = driver.mem_alloc(90 << 20)
    assert cuda.gpu().free == 80 << 20
    machine.integrated = False
    assert cuda.gpu().free < 11 << 20
    with cuda.current():
        page_cache.free()
    with cuda.current():
        block.free()


@pytest.mark.parametrize(
    ("nvidia", "l4t", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n",
            None,
            "535.183.01",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build\n", None, "540.4.0"),
        (None, "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n", "R36.4.3"),
        ("nonsense", None, None),
        (None, None, None),
    ],
)
def test_the_driver_is_told_by_the_kernel_or_by_the_jetsons_release(
    nvidia: str | None, l4t: str | None, version: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("_DRIVER_FILE", nvidia), ("_L4T_FILE", l4t)):
        path = tmp_path / name
        if text is not None:
            path.write_text(text)
        monkeypatch.setattr(cuda, name, path)
    assert cuda.driver_version() == version


def test_without_pycuda_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_retained", None)
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(MissingDependencyError) as caught:
        cuda.gpu()
    assert "pip install pycuda" in (caught.value.hint or "")


def test_a_pycuda_of_another_cuda_must_be_built_again(machine: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_import(monkeypatch, "libcurand.so.10: cannot open shared object file: No such file or directory")
    with pytest.raises(MissingDependencyError, match="libcurand") as caught:
        cuda.gpu()
    assert "--force-reinstall" in (caught.value.hint or "")


def fail_import(monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    """Let pycuda be installed, and its driver module fail to load."""

    class Finder:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "pycuda.driver":
                raise ImportError(message)

    monkeypatch.delitem(sys.modules, "pycuda.driver")
    monkeypatch.delattr(sys.modules["pycuda"], "driver")
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])


def test_without_a_driver_it_is_the_driver_that_is_missing(machine: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_import(monkeypatch, "libcuda.so.1: cannot open shared object file: No such file or directory")
    with pytest.raises(EngineError, match="no NVIDIA driver"):
        cuda.gpu()


def test_without_a_gpu_the_error_says_so(machine: FakeCuda) -> None:
    machine.broken = "cuInit failed: no CUDA-capable device is detected"
    with pytest.raises(EngineError, match=r"no NVIDIA GPU.*no CUDA-capable device") as caught:
        cuda.gpu()
    assert "onnxruntime" in (caught.value.hint or "")


def test_the_context_is_retained_once_and_left_as_it_was_found(machine: FakeCuda) -> None:
    with cuda.current(), cuda.current():
        assert len(machine.stack) == 2
    cuda.gpu()
    with pytest.raises(ValueError, match="inside"), cuda.current():
        raise ValueError("inside")
    assert (machine.retained, machine.stack) == (1, [])


def test_any_thread_may_call(machine: FakeCuda) -> None:
    cuda.gpu()
    found: list[cuda.GpuInfo] = []
    threads = [threading.Thread(target=lambda: found.append(cuda.gpu())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [info.name for info in found] == ["Fake GPU"] * 4
    assert machine.retained == 1


def test_memory_that_runs_out_is_told_as_that(machine: FakeCuda) -> None:
    machine.total = 1000
    with pytest.raises(EngineError, match="out of GPU memory") as caught, cuda.current() as driver:
        cuda.Buffer(driver, machine.total, mapped=False)
    assert caught.value.hint
    assert machine.used == 0  # the page-locked half was given back


@pytest.mark.parametrize("mapped", [False, True])
def test_a_buffer_carries_bytes_to_the_gpu_and_back(machine: FakeCuda, mapped: bool) -> None:
    with cuda.current() as driver:
        stream, buffer = cuda.stream(driver), cuda.Buffer(driver, 16, mapped=mapped)
        assert sorted(machine.kinds.values()) == (["mapped"] if mapped else ["device", "pinned"])
        buffer.host[:] = np.arange(16)
        buffer.upload(stream)
        stream.synchronize()
        np.testing.assert_array_equal(machine.live[buffer.address], np.arange(16))
        machine.live[buffer.address][:] = 7
        buffer.download(stream)
        stream.synchronize()
        np.testing.assert_array_equal(buffer.host, np.full(16, 7))
        assert machine.executed == ([] if mapped else ["upload", "download"])
        buffer.free()
    assert not machine.live


def test_streams_do_not_wait_for_other_users_of_the_gpu(machine: FakeCuda) -> None:
    with cuda.current() as driver:
        assert cuda.stream(driver).flags == 1


def test_other_failures_of_cuda_keep_its_words(machine: FakeCuda) -> None:
    with pytest.raises(EngineError, match="CUDA failed: an illegal memory access"), cuda.current():
        raise fake_cuda.LaunchError("an illegal memory access was encountered")


def test_a_graph_repeats_what_was_recorded(machine: FakeCuda) -> None:
    done: list[int] = []
    with cuda.current() as driver:
        stream = cuda.stream(driver)
        graph = CudaGraph(stream.handle, lambda: machine.enqueue(stream.handle, "work", lambda: done.append(1)))
        stream.synchronize()
        assert not done  # recording runs nothing
        graph.launch()
        graph.launch()
        stream.synchronize()
        assert done == [1, 1]
        graph.close()
        graph.close()
    assert machine.graphs == 0


def test_a_recording_that_fails_leaves_nothing_behind(machine: FakeCuda) -> None:
    with cuda.current() as driver:
        stream = cuda.stream(driver)
        machine.refuse_capture = "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
        with pytest.raises(EngineError, match="cuStreamEndCapture: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"):
            CudaGraph(stream.handle, lambda: None)
        machine.refuse_capture = None

        def broken() -> None:
            raise fake_cuda.LogicError("operation not permitted")

        with pytest.raises(fake_cuda.LogicError):
            CudaGraph(stream.handle, broken)
        stream.synchronize()  # it would refuse if it still recorded
    assert machine.graphs == 0


def test_without_cuda_bindings_the_reason_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = FakeCuda()
    machine.install(monkeypatch, bindings=False)
    assert "pip install cuda-bindings" in (recording_problem() or "")
    machine.install(monkeypatch)
    assert recording_problem() is None
