"""The TensorRT check of files: weights beside the model, nodes out of order, and what is no model."""

import importlib.util
import subprocess
import sys

import onnx
import pytest
import small_graphs as small
from lint_graphs import unsorted
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from glint.cards import zoo_folder
from glint.errors import ModelError
from glint.export.lint.findings import REFUSED
from glint.export.lint.lint import lint, load_onnx, load_whole_onnx


def external(folder):
    model = small.model([small.node("Add", ["x", "w"])], weights={"w": small.kernel(1, 8, 16, 16)})
    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="model.data", size_threshold=0)
    return path


def test_external_data_are_found_beside_the_model(tmp_path):
    model = load_onnx(external(tmp_path))
    assert lint(model, folder=tmp_path) == []
    assert numpy_helper.to_array(model.graph.initializer[0]).shape == (1, 8, 16, 16)


BYTES = 4 * 8 * 16 * 16


@pytest.mark.parametrize(
    ("location", "more", "problem"),
    [
        ("model.data", {}, None),
        ("./in/../model.data", {"length": BYTES}, None),
        ("twice.data", {"offset": BYTES}, None),
        ("twice.data", {"offset": 64, "length": BYTES}, None),
        ("none.data", {}, "not there"),
        ("in", {}, "not there"),
        ("short.data", {}, "too short: 100 bytes"),
        ("model.data", {"offset": 64, "length": BYTES}, "too short"),
        ("model.data", {"offset": -64}, "too short"),
        ("twice.data", {}, f"of which {2 * BYTES} bytes are for w, which has {BYTES}"),
        ("model.data", {"length": 100}, "of which 100 bytes"),
        ("../outside.data", {}, "outside of the model's folder"),
        ("in/../../outside.data", {}, "outside of the model's folder"),
        ("/model.data", {}, "absolute path"),
        ("model.data", {"offset": "soon"}, "not described"),
        ("", {}, "no name"),
    ],
)  # fmt: skip
def test_external_data_must_be_whole_and_in_the_folder(tmp_path, location, more, problem):
    folder = tmp_path / "model"
    (folder / "in").mkdir(parents=True)
    weights = {"w": small.kernel(1, 8, 16, 16)}
    for name, content in (("model", 1), ("twice", 2), ("../outside", 1)):
        (folder / f"{name}.data").write_bytes(content * weights["w"].tobytes())
    (folder / "short.data").write_bytes(bytes(100))
    model = small.model([small.node("Add", ["x", "w"])], weights=weights)
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = T.EXTERNAL
    location = f"{folder}{location}" if location.startswith("/") else location
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=str(value))
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    found = lint(load_onnx(path), folder=folder)
    if problem is None:
        assert found == []
        load_whole_onnx(path)
    else:
        ((finding,)) = found
        assert (finding.code, finding.severity, finding.node) == ("external-data", REFUSED, location or "w")
        assert problem in finding.message
        with pytest.raises(ModelError, match="in another file"):
            load_whole_onnx(path)
    if importlib.util.find_spec("tensorrt_rtx") is not None and more.get("offset") != "soon":  # it takes that for 0
        assert parses(path) == (problem is None)


def parses(path):
    """Whether the real parser takes a file."""
    code = (
        "import sys, tensorrt_rtx as trt\n"
        "logger = trt.Logger(trt.Logger.INTERNAL_ERROR); network = trt.Builder(logger).create_network(0)\n"
        "print(trt.OnnxParser(network, logger).parse_from_file(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip().endswith("True")


def test_unsorted_nodes_are_read_and_sorted_for_work(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(unsorted(), path)
    assert [f.code for f in lint(load_onnx(path))] == ["unsorted"]
    whole = load_whole_onnx(path)
    onnx.checker.check_model(whole, full_check=True)
    assert lint(whole) == []
    assert {n.name for n in whole.graph.node} == {n.name for n in unsorted().graph.node}


def test_nodes_in_a_circle_are_no_model(tmp_path):
    nodes = [
        helper.make_node("Relu", ["b"], ["a"]),
        helper.make_node("Add", ["a", "x"], ["b"]),
        small.node("Relu", ["b"]),
    ]
    path = tmp_path / "circle.onnx"
    path.write_bytes(small.model(nodes).SerializeToString())
    with pytest.raises(ModelError, match=r"circle\.onnx"):
        load_onnx(path)


def test_work_is_not_begun_without_the_weights(tmp_path):
    path = external(tmp_path)
    (tmp_path / "model.data").unlink()
    with pytest.raises(ModelError, match=r"model\.data"):
        load_whole_onnx(path)


@pytest.mark.parametrize("content", [b"", b"no model" * 50, None])
def test_what_is_no_model_is_said_to_be_none(tmp_path, content):
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"bad\.onnx"):
        load_onnx(path)


def test_a_truncated_model_is_said_to_be_none(tmp_path):
    whole = (zoo_folder() / "dscsnet-s-csist.fp32.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"cut\.onnx"):
        load_onnx(path)
