"""``glint parity`` of TensorRT plans, on the stand-in for TensorRT: what it compares, not how exact a GPU is."""

from __future__ import annotations

from pathlib import Path

import onnx
import polygraphy_standin
import pytest
from fake_cuda import FakeCuda
from fake_gpu import install_gpu

from glint.benchmarks.parity import sides
from glint.benchmarks.parity.parity import parity
from glint.cards import load_card
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
        assert parity(*pair, **few)["passed"]
    result = parity(MODEL, plan, **few)
    assert result["candidate"]["engine"]["name"] == "tensorrt"
    assert (result["candidate"]["model"], result["candidate"]["precision"]) == (MODEL, "fp32")
    assert gpu.used == 0


def test_the_layers_of_a_plan_are_those_of_its_onnx_file_in_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = str(build(MODEL, BuildOptions(precision="fp32", batches=((1, 8, 64),))).path)
    few = {"conditions": ["8sat"], "number": 12}
    node = next(n for n in onnx.load(load_card(MODEL)[1]).graph.node if n.op_type == "Conv" and "head" in n.name)
    asked = polygraphy_standin.install(monkeypatch, harm=polygraphy_standin.doubled(node.output[0]))
    for candidate in (plan, f"{MODEL}:fp32@tensorrt"):
        layers = parity(MODEL, candidate, **few, layers=True)["layers"]
        assert layers["compared"] > 100 and layers["first_bad"]["name"] == node.name
        assert asked["shapes"]["patch"][0] == 12
    asked.clear()
    result = parity(MODEL, plan, **few, tolerance=0.0)  # bad, but nobody asked for an engine to be built
    assert not result["passed"] or result["layers"] is None
    assert asked == {}


def test_a_plan_whose_onnx_file_is_not_here_has_no_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = str(build(MODEL, BuildOptions(precision="fp32", batches=((1, 8, 64),))).path)
    polygraphy_standin.install(monkeypatch)
    monkeypatch.setattr(sides, "_files_of", lambda _: [])
    result = parity(f"{MODEL}:fp16", plan, conditions=["8sat"], number=12, layers=True, budget=100)
    assert result["layers"] is None and "whose ONNX file is here" in result["notes"][-1]


def test_a_model_runs_in_tensorrt_if_that_is_asked_for() -> None:
    result = parity(MODEL, f"{MODEL}@tensorrt", conditions=["float"], number=5)
    assert result["passed"] and result["candidate"]["engine"]["name"] == "tensorrt"
    frames = parity("lsnet-s", "lsnet-s:fp32@tensorrt", data="synthetic://?size=96x64&frames=2&seed=1")
    assert frames["passed"] and frames["candidate"]["engine"]["name"] == "tensorrt"


def test_plans_of_other_networks_are_refused() -> None:
    plan = str(build(MODEL, BuildOptions(precision="fp32", batches=((1, 8, 64),))).path)
    with pytest.raises(InputError, match="inputs differ"):
        parity("lsnet-s", plan)
