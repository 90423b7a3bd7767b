"""Rows of TensorRT, on a fake GPU: variants, stages and what the engine tells of itself."""

from dataclasses import replace

import pytest

from glint.benchmarks.bench import machine as bench_machine
from glint.benchmarks.bench import turns as bench_run
from glint.benchmarks.bench.cases import BenchCase
from glint.benchmarks.bench.session import Session, _answer
from glint.benchmarks.bench.turns import Bench, Effort, rows_of
from glint.config import to_dict
from glint.errors import EngineError
from glint.types import FrameSize

BRIEF = Effort(seconds=0.02, rounds=4, warm_up=0.01, patches=8)
UNMIX = BenchCase("dscsnet-s-csist", "unmix", engine="tensorrt", batch=2, buffers="pinned")


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A machine with a fake GPU and TensorRT 10.3; workers run in this process."""
    pytest.importorskip("onnx")
    import tensorrt_standin as standin
    from fake_cuda import FakeCuda

    monkeypatch.setenv("GLINT_CACHE", str(tmp_path))
    cuda = FakeCuda()
    cuda.install(monkeypatch)
    standin.install(monkeypatch, "tensorrt-10.3", standin.Machine(enqueue=cuda.enqueue))

    class InProcess:
        def __init__(self, case):
            self.case, self.session = case, Session()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            if self.session.subject is not None:
                self.session.subject.close()

        def ask(self, what, **arguments):
            answer = _answer(self.session, {"do": what, "case": to_dict(self.case), **arguments})
            if "error" in answer:
                raise EngineError(answer["error"])
            return answer["result"]

    monkeypatch.setattr(bench_run, "Worker", InProcess)
    nothing = {"temperature_c": {}, "power_w": {}, "clock_mhz": {}, "throttled_by": [], "over_current_events": None}
    monkeypatch.setattr(bench_machine, "sample", lambda: nothing)
    return cuda


def test_rows_hold_the_stages_of_the_gpu_and_the_engine_s_facts(gpu):
    runner = Bench(BRIEF, judging={"patches": 8, "data": None, "split": "val"})
    reference = replace(UNMIX, engine="onnxruntime", buffers=None)
    group = runner.group([reference, UNMIX, replace(UNMIX, graph=False), replace(UNMIX, buffers="mapped")])
    assert runner.skipped == []
    limits = {"cpu": None, "gpu": {"macs_per_s": {"fp32": 1e12}, "bytes_per_s": 1e11, "how": ""}}
    _, pinned, plain, mapped = rows_of(group, limits, "onnxruntime fp32")
    assert [row["engine"]["cuda_graph"] for row in (pinned, plain, mapped)] == [True, False, True]
    assert [row["engine"]["buffers"] for row in (pinned, plain, mapped)] == ["pinned", "pinned", "mapped"]
    assert ["graph" in row["times_ms"] for row in (pinned, plain, mapped)] == [True, False, True]
    # One piece of work on the fake stream takes a millisecond: one input, four outputs that are read; none if mapped.
    stages = {name: pinned["times_ms"][name]["median"] for name in ("h2d", "gpu", "d2h")}
    assert stages == {"h2d": 1.0, "gpu": 1.0, "d2h": 4.0}
    assert mapped["times_ms"]["h2d"]["median"] == mapped["times_ms"]["d2h"]["median"] == 0.0
    assert pinned["engine"]["scratch_bytes"] > 0
    assert pinned["parity"]["sqnr_db"] > 60
    assert pinned["limit"]["of"] == "gpu"
    assert pinned["ratio"]["to"] == "dscsnet-s-csist x2, onnxruntime fp32"
    assert not gpu.live


def test_a_frame_s_engine_is_split_into_stages_too(gpu):
    case = BenchCase("lsnet-s", "detect", engine="tensorrt", size=FrameSize(64, 64), blobs=1, buffers="pinned")
    (one,) = Bench(BRIEF).group([case])
    assert one.finished["stages"]["gpu"] == [1.0] * 20
    assert one.finished["engine"]["sizes"]["64x64"]["cuda_graph"] is True
