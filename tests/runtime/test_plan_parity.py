"""``glint parity`` of TensorRT plans, on the stand-in for TensorRT: what it compares, not how exact a GPU is."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_cuda import FakeCuda
from fake_gpu import install_gpu

from glint.benchmarks.parity.parity import parity
from glint.errors import InputError
from glint.runtime.engines.tensorrt.build import BuildOptions, build

MODEL = "dscsnet-s-csist"


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCuda:
    """A GPU with TensorRT 10.3 and an empty cache of engines."""
    return install_gpu(monkeypatch, tmp_path / "cache")


def test_a_plan_is_compared_with_its_model_whichever_is_the_reference(gpu: FakeCuda) -> None:
    plan = str(build(MODEL, BuildOptions(precision="fp32", batches=((1, 8, 64),))).path)
    few = {"conditions": ["8sat"], "number": 12}
    for pair in ((MODEL, plan), (plan, MODEL), (plan, plan)):
        result = parity(*pair, **few, layers=True)
        assert result["passed"], result["reasons"]
        assert result["layers"] is None and "ONNX files" in result["notes"][-1]
    result = parity(MODEL, plan, **few)
    assert result["candidate"]["engine"]["name"] == "tensorrt"
    assert (result["candidate"]["model"], result["candidate"]["precision"]) == (MODEL, "fp32")
    assert gpu.used == 0


def test_a_model_runs_in_tensorrt_if_that_is_asked_for() -> None:
    result = parity(MODEL, f"{MODEL}@tensorrt", conditions=["float"], number=5)
    assert result["passed"] and result["candidate"]["engine"]["name"] == "tensorrt"
    frames = parity("lsnet-s", "lsnet-s:fp32@tensorrt", data="synthetic://?size=96x64&frames=2&seed=1")
    assert frames["passed"] and frames["candidate"]["engine"]["name"] == "tensorrt"


def test_plans_of_other_networks_are_refused() -> None:
    plan = str(build(MODEL, BuildOptions(precision="fp32", batches=((1, 8, 64),))).path)
    with pytest.raises(InputError, match="inputs differ"):
        parity("lsnet-s", plan)
