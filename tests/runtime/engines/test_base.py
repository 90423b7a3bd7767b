from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glint.cards import ModelCard, TensorSpec, load_card, zoo_folder
from glint.errors import EngineError, InputError, MissingDependencyError, ModelError
from glint.runtime.engines.base import Engine, EngineProxy
from glint.runtime.engines.choose import choose_engine, open_engine
from glint.runtime.engines.onnxruntime import OnnxRuntimeEngine, available_cores

onnx = pytest.importorskip("onnx")
CARD, _ = load_card("dscsnet-s-sensor")  # ONNX Runtime asks no card


@pytest.fixture(scope="module")
def sum_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with two inputs [N, 3] and two outputs: their sum and their difference."""
    helper, kind = onnx.helper, onnx.TensorProto
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    inputs = [helper.make_tensor_value_info(name, kind.FLOAT, [f"n_{name}", 3]) for name in ("a", "b")]
    outputs = [helper.make_tensor_value_info(name, kind.FLOAT, ["n", 3]) for name in ("sum", "difference")]
    graph = helper.make_graph(nodes, "pair", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path_factory.mktemp("engine") / "pair.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def engine(sum_file: Path) -> Engine:
    return OnnxRuntimeEngine(sum_file, threads=1)


def row(*values: float) -> np.ndarray:
    return np.array([values], dtype=np.float32)


def test_outputs_come_by_name_with_the_values_of_the_graph(engine: Engine) -> None:
    outputs = engine.infer(a=row(1, 2, 3), b=row(10, 20, 30))
    assert outputs.keys() == {"sum", "difference"}
    assert outputs["sum"].tolist() == [[11, 22, 33]]
    assert outputs["difference"].tolist() == [[-9, -18, -27]]


def test_outputs_that_are_not_finite_are_an_error_that_names_the_reason(engine: Engine) -> None:
    large = float(np.finfo(np.float32).max)
    with pytest.raises(EngineError, match=r"'sum'.*not finite.*fp16") as caught:
        engine.infer(a=row(1, 2, large), b=row(0, 0, large))
    assert "--precision fp32" in (caught.value.hint or "")
    with pytest.raises(EngineError, match="input 'b' holds NaN"):
        engine.infer(a=row(1, 2, 3), b=row(0, float("nan"), 0))
    half = large / 2  # finite numbers whose sum overflows are fine
    assert np.isfinite(engine.infer(a=row(half, half, half), b=row(0, 0, 0))["sum"]).all()


def test_outputs_belong_to_the_caller(engine: Engine) -> None:
    a, b = row(1, 2, 3), row(0, 0, 0)
    first = engine.infer(a=a, b=b)["sum"]
    first += 100
    assert a.tolist() == [[1, 2, 3]]
    assert engine.infer(a=a, b=b)["sum"].tolist() == [[1, 2, 3]]


def test_specs_say_names_types_and_free_sizes(engine: Engine) -> None:
    assert engine.inputs == (TensorSpec("a", "float32", (-1, 3)), TensorSpec("b", "float32", (-1, 3)))
    assert [spec.name for spec in engine.outputs] == ["sum", "difference"]


@pytest.mark.parametrize("arrays", [{}, {"a": row(1, 2, 3)}, {"a": row(1, 2, 3), "c": row(1, 2, 3)}])
def test_missing_or_unknown_names_are_told_with_the_expected_ones(engine: Engine, arrays: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        engine.infer(**arrays)
    assert str(["a", "b"]) in str(caught.value)
    assert str(sorted(arrays)) in str(caught.value)


@pytest.mark.parametrize(
    ("bad", "got"),
    [
        (np.zeros((1, 3), np.float64), "float64 1x3"),
        (np.zeros((1, 3), np.uint8), "uint8 1x3"),
        (np.zeros((1, 4), np.float32), "float32 1x4"),
        (np.zeros(3, np.float32), "float32 3"),
        (np.zeros((1, 1, 3), np.float32), "float32 1x1x3"),
    ],
)
def test_a_wrong_type_or_shape_names_the_input_and_both_sides(engine: Engine, bad: np.ndarray, got: str) -> None:
    with pytest.raises(InputError) as caught:
        engine.infer(a=bad, b=row(1, 2, 3))
    message = str(caught.value)
    assert "'a'" in message
    assert "expected float32 anyx3" in message
    assert f"got {got}" in message


def test_a_failure_inside_the_network_is_an_engine_error(engine: Engine) -> None:
    with pytest.raises(EngineError) as caught:  # 2 and 5 rows each fit, but not together
        engine.infer(a=np.zeros((2, 3), np.float32), b=np.zeros((5, 3), np.float32))
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no model at all", bytes(range(256)) * 16])
def test_a_corrupt_file_is_a_model_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        OnnxRuntimeEngine(path)
    assert "broken.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_model_is_a_model_error(tmp_path: Path, share: float) -> None:
    whole = next(zoo_folder().glob("dscsnet*.onnx")).read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ModelError):
        OnnxRuntimeEngine(path)


def test_a_missing_file_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        OnnxRuntimeEngine(tmp_path / "nowhere.onnx")


def test_without_onnxruntime_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, sum_file: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError) as caught:
        OnnxRuntimeEngine(sum_file)
    assert caught.value.exit_code == 3
    assert "pip install onnxruntime" in (caught.value.hint or "")


def test_a_with_block_closes_the_engine_even_when_it_fails() -> None:
    class Counting(Engine):
        inputs = outputs = ()
        closed = 0

        def _infer(self, arrays: Any) -> Any:
            return arrays

        def close(self) -> None:
            self.closed += 1

    with Counting() as engine:
        assert engine.infer() == {}
    assert engine.closed == 1
    with pytest.raises(RuntimeError, match="inside"), engine:
        raise RuntimeError("inside")
    assert engine.closed == 2


def card_of(path: Path) -> ModelCard:
    return replace(CARD, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def test_the_bytes_that_are_loaded_are_those_that_were_hashed(sum_file: Path) -> None:
    with pytest.raises(ModelError, match="hash"):
        open_engine(CARD, sum_file, engine="onnxruntime", threads=1)


@pytest.mark.parametrize("threads", [0, -1, 100_000])
def test_a_number_of_threads_that_cannot_be_is_refused(sum_file: Path, threads: int) -> None:
    with pytest.raises(InputError, match="threads"):
        OnnxRuntimeEngine(sum_file, threads=threads)


def test_close_may_be_called_twice(sum_file: Path) -> None:
    engine = open_engine(card_of(sum_file), sum_file, threads=1)
    engine.close()
    engine.close()


def test_auto_takes_onnxruntime_and_says_why() -> None:
    name, why = choose_engine("auto")
    assert name == "onnxruntime"
    assert why


def test_asking_by_name_gets_that_engine(sum_file: Path) -> None:
    assert choose_engine("onnxruntime")[0] == "onnxruntime"
    assert open_engine(card_of(sum_file), sum_file, engine="onnxruntime", threads=1).name == "onnxruntime"


def test_tensorrt_is_an_engine_error_with_a_way_out(sum_file: Path) -> None:
    with pytest.raises(EngineError) as caught:
        open_engine(card_of(sum_file), sum_file, engine="tensorrt")
    assert "onnxruntime" in (caught.value.hint or "")


def test_an_unknown_engine_is_named_beside_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"auto, tensorrt, onnxruntime.*'abacus'"):
        choose_engine("abacus")


def test_available_cores_respects_the_affinity_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert available_cores() == 3


class Late(Engine):
    """Adds one to what it is given."""

    name = "late"
    inputs = outputs = (TensorSpec("x", "float32", (-1,)),)
    closed = False

    def _infer(self, arrays: dict[str, Any]) -> dict[str, Any]:
        return {"x": arrays["x"] + 1}

    def close(self) -> None:
        self.closed = True


def test_a_proxy_tells_the_time_and_changes_nothing() -> None:
    inner = Late()
    with EngineProxy(inner) as proxy:
        x = np.zeros(3, dtype=np.float32)
        np.testing.assert_array_equal(proxy.infer(x=x)["x"], np.ones(3))
        first = proxy.seconds
        said = proxy.infer(x=x)
        assert proxy.began is not None and proxy.ended is not None
        assert 0 < first < proxy.seconds <= proxy.ended - proxy.began
        assert proxy.given["x"] is x
        assert proxy.said is said
        assert proxy.details() == inner.details()
        proxy.reset()
        assert (proxy.seconds, proxy.began, proxy.ended) == (0.0, None, None)
        with pytest.raises(InputError, match="expected float32"):
            proxy.infer(x=np.zeros(3))
    assert inner.closed


def test_a_proxy_answers_for_a_model_without_an_engine() -> None:
    card, _ = load_card("dscsnet-s-sensor")
    proxy = EngineProxy(card, lambda arrays: {"presence": 2 * arrays["patch"]})
    patch = np.ones((2, *card.inputs[0].shape[1:]), dtype=np.float32)
    np.testing.assert_array_equal(proxy.infer(patch=patch)["presence"], 2 * patch)
    with pytest.raises(InputError, match="engine inputs"):
        proxy.infer(frame=patch)
    with pytest.raises(EngineError, match="no engine"):
        EngineProxy(card).infer(patch=patch)
    proxy.close()


class Two(Late):
    """Two outputs; says which it was asked for."""

    outputs = (TensorSpec("x", "float32", (-1,)), TensorSpec("y", "float32", (-1,)))
    asked: tuple[str, ...] = ()

    def _infer(self, arrays: dict[str, Any]) -> dict[str, Any]:
        self.asked = ("all",)
        return {"x": arrays["x"] + 1, "y": arrays["x"] + 2}

    def _infer_some(self, arrays: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
        results = super()._infer_some(arrays, names)
        self.asked = names
        return results


def test_only_the_outputs_that_are_read_come_back() -> None:
    engine, x = Two(), np.zeros(2, dtype=np.float32)
    assert set(engine.infer(x=x)) == {"x", "y"} and engine.asked == ("all",)
    np.testing.assert_array_equal(engine.infer("y", x=x)["y"], x + 2)
    assert engine.asked == ("y",)
    with EngineProxy(engine) as proxy:
        assert set(proxy.infer("x", x=x)) == set(proxy.said) == {"x"}
    assert engine.asked == ("x",)
    with pytest.raises(InputError, match="expected some of"):
        engine.infer("z", x=x)


def test_a_proxy_that_answers_itself_keeps_all_and_gives_what_is_read() -> None:
    engine, x = Two(), np.zeros(2, dtype=np.float32)
    proxy = EngineProxy(engine, lambda arrays: {"x": arrays["x"], "y": 2 * arrays["x"]})
    assert set(proxy.infer("y", x=x)) == {"y"} and set(proxy.said) == {"x", "y"}
