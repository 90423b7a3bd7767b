"""The audit of precisions: what the two witnesses say, and what is made of it."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glint.errors import CheckFailedError, EngineError
from glint.runtime.engines.tensorrt.audit import (
    Audit,
    EngineLayer,
    audit,
    int8_verdict,
    layers_of_inspector,
    layers_of_log,
    require,
)

# Lines of a real build of an int8 network by tensorrt_rtx 1.7.1.
LOG = (Path(__file__).parents[3] / "data" / "tensorrt-rtx-layers.txt").read_text(encoding="utf-8")


def test_the_builders_log():
    layers = layers_of_log(["Parsing", LOG, "done"])
    assert [(layer.kind, layer.precision) for layer in layers] == [
        ("shape_call", "other"),
        ("signal", "other"),
        ("wait", "other"),
        ("kgen", "int8"),
        ("kgen", "fp32"),
        ("runtime_fusion", "fp32"),  # reads INT8 data and float weights, and multiplies in float
        ("gemm", "int8"),
        ("correlation", "int8"),
    ]
    assert layers[6].nodes[0] == "node_matmul_1"


def test_the_audit_of_the_builders_log():
    asked = {"node_matmul_1": "int8", "node_conv2d_20": "int8", "node_matmul_4": "int8", "folded_away": "int8"}
    found = audit(layers_of_log([LOG]), asked)
    assert found.layers == {"int8": 3, "fp32": 2}  # what only orders kernels does not count
    assert (found.asked, found.obtained) == ({"int8": 3}, {"int8": 2})
    assert found.missed == ("node_matmul_4: asked for int8, runs in fp32",)
    assert found.share("int8") == 0.6


def test_the_traffic_of_the_builders_log():
    found = audit(layers_of_log([LOG]), {})
    assert found.traffic["kernels"] == 5
    assert found.traffic["int8_products"] == 2
    copy = layers_of_log([LOG])[3]  # [-1, 7] to [-1, 8], both int8
    assert (copy.writes, copy.bytes) == (("int8",), 15)
    assert layers_of_log([LOG], rows=64)[3].bytes == 64 * 15
    last = layers_of_log([LOG])[4]
    assert last.bytes == 4 * (22 + 22 + 21) or last.bytes > 0
    assert found.traffic["bytes"] == sum(layer.bytes for layer in layers_of_log([LOG]))
    assert "MB by 5 kernels" in found.traffic_text()


def test_the_traffic_of_an_inspector():
    def tensor(kind, *dims):
        return {"Name": "t", "Dimensions": list(dims), "Format/Datatype": f"Row major linear {kind}"}

    layers = [
        {"Name": "conv", "LayerType": "CaskConvolution", "Inputs": [tensor("Int8", 1, 32, 8, 8)],
         "Outputs": [tensor("FP16", 1, 32, 8, 8)], "Weights": {"Type": "Int8"}},
        {"Name": "to", "LayerType": "Reformat", "Inputs": [tensor("FP16", 4)], "Outputs": [tensor("FP16", 4)]},
        {"Name": "cast", "LayerType": "kgen", "Inputs": [tensor("FP32", 10)], "Outputs": [tensor("FP16", 10)]},
    ]  # fmt: skip
    found = audit(layers_of_inspector(json.dumps({"Layers": layers})), {})
    assert found.traffic == {
        "kernels": 2, "reformats": 1, "casts": 1, "int8_products": 1, "int8_writes_float": 1,
        "bytes": 2048 * 3 + 16 + 60, "product_bytes": 2048 * 3,
    }  # fmt: skip
    assert found.heaviest[0] == "conv: 0.0 MB"
    free = {"Name": "relu", "LayerType": "kgen", "Inputs": [tensor("FP16", -1, 8)], "Outputs": [tensor("FP16", 1, 8)]}
    (layer,) = layers_of_inspector(json.dumps({"Layers": [free]}), rows=64)
    assert layer.bytes == 2 * 64 * 8 + 2 * 8


def test_a_tensor_that_a_kernel_names_twice_comes_from_memory_once():
    def tensor(name, *dims):
        return {"Name": name, "Dimensions": list(dims), "Format/Datatype": "Row major linear FP16"}

    halves = [tensor("x", 1, 8), tensor("x", 1, 16), tensor("w", 4)]
    layer = {"Name": "max", "LayerType": "kgen", "Inputs": halves, "Outputs": [tensor("x", 1, 16)]}
    (found,) = layers_of_inspector(json.dumps({"Layers": [layer]}))
    assert found.bytes == 2 * (16 + 4) + 2 * 16  # what is written counts beside what is read
    operands = "{ Name: x, Dimensions: [1,8], Datatype: Half }, { Name: x, Dimensions: [1,16], Datatype: Half }"
    line = f"Name: max, LayerType: kgen, Inputs: [ {operands}], Constants: [], Outputs: [ {operands}], TacticName: t"
    (logged,) = layers_of_log([line])
    assert logged.bytes == 2 * 16 + 2 * 16


def test_int8_that_moves_more_than_fp16_is_not_worth_it():
    def moving(megabytes, products=10, floats=0):
        traffic = {"kernels": 1, "int8_products": products, "int8_writes_float": floats, "bytes": int(1e6 * megabytes)}
        return Audit({}, {}, {}, traffic=traffic)

    assert "673.0 MB, fp16 599.0 MB" in int8_verdict(moving(673), moving(599))
    assert int8_verdict(moving(500, floats=10), moving(599)) == ""
    assert "10 of 10 int8 products write float" in int8_verdict(moving(500, floats=10), None)
    assert int8_verdict(moving(500, floats=2), None) == "" and int8_verdict(Audit({}, {}, {}), None) == ""


def test_a_node_must_have_its_precision_in_every_profile():
    kernels = [EngineLayer(f"k{i}", "gemm", (reads, reads), ("node",)) for i, reads in enumerate(["int8", "fp16"])]
    found = audit([*kernels, EngineLayer("after", "kgen", ("fp32",), ("node",))], {"node": "int8"})
    assert found.obtained == {}
    assert found.missed == ("node: asked for int8, runs in fp16+int8",)


def test_a_log_without_layers_is_an_error():
    with pytest.raises(EngineError, match="lists no layers"):
        layers_of_log(["nothing", "here"])


def ten(name, kind, inputs, **more):
    tensors = [{"Name": f"t{i}", "Location": "Device", "Dimensions": [1], "Format/Datatype": t} for i, t in inputs]
    return {"Name": name, "LayerType": kind, "Inputs": tensors, "Outputs": [], **more}


INSPECTOR_10 = {
    "Layers": [
        ten("reformat", "Reformat", enumerate(["Row major linear FP32"])),
        ten(
            "a", "CaskConvolution", enumerate(["Thirty-two wide channel vectorized row major Int8 format."]),
            Weights={"Type": "Int8", "Count": 9}, Metadata="[ONNX Layer: conv_a]\x1e[ONNX Layer: relu_a]",
        ),
        ten(
            "b", "CaskConvolution", enumerate(["Channel major FP16 format where channel % 8 == 0"]),
            Weights={"Type": "Half", "Count": 9}, Metadata="[ONNX Layer: conv_b]",
        ),
        ten("c", "gemm", enumerate(["Int8", "Int8", "Float"]), Metadata="[ONNX Layer: matmul_c]"),
        ten("d", "kgen", enumerate(["Float"]), Metadata="[ONNX Layer: exp_d]\x1f[ONNX Layer: matmul_c]"),
        ten("e", "kgen", enumerate(["Row major linear INT32"])),
    ],
    "Bindings": ["in", "out"],
}  # fmt: skip


def eleven(name, kind, inputs, **more):
    tensors = [{"Name": "t", "Dimensions": [1], "Format": "Row major linear format", "DataType": t} for t in inputs]
    return {"Name": name, "LayerType": kind, "Inputs": tensors, "Outputs": [], **more}


INSPECTOR_11 = {
    "Layers": [
        eleven("a", "CaskConvolution", ["Int8"], Weights={"Type": "Int8"}, Metadata="[ONNX Layer: conv_a]"),
        eleven("b", "CaskConvolution", ["Half"], Weights={"Type": "Half"}, Metadata="[ONNX Layer: conv_b]"),
        eleven("c", "gemm", ["Int8", "Int8", "Float"], Metadata="[ONNX Layer: matmul_c]"),
        eleven("d", "kgen", ["Float"], Metadata="[ONNX Layer: exp_d][ONNX Layer: matmul_c]"),
        eleven("e", "kgen", ["Int32"]),
    ],
    "I/O Tensors": [{"Name": "in", "IOMode": "Input", "DataType": "Float"}],
}


@pytest.mark.parametrize("document", [INSPECTOR_10, INSPECTOR_11], ids=["10.x", "11.x"])
def test_the_engine_inspector(document):
    # json.dumps escapes the control character between two nodes, some releases do not.
    for text in (json.dumps(document), json.dumps(document).replace("\\u001f", "\x1f")):
        found = audit(
            layers_of_inspector(text), {"conv_a": "int8", "conv_b": "fp16", "matmul_c": "int8", "elsewhere": "int8"}
        )
        assert found.layers == {"int8": 2, "fp16": 1, "fp32": 1, "other": 1}
        assert found.asked == found.obtained == {"int8": 2, "fp16": 1}
        assert found.missed == ()


@pytest.mark.parametrize("number", ["nan", "-nan", "inf", "-inf"])
def test_numbers_that_are_no_json_do_not_hide_the_layers(number):
    entry = json.dumps({"Name": "clip: inf", "LayerType": "kgen", "Alpha": 0})
    (layer,) = layers_of_inspector('{"Layers": [' + entry.replace(" 0", f" {number}") + "]}")
    assert (layer.name, layer.kind) == ("clip: inf", "kgen")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "3", '{"Layers": 3}', '{"Layers": ["only", "names"]}', '{"Layers": [1]}']
)
def test_an_inspector_that_says_nothing_is_an_error(text):
    with pytest.raises(EngineError, match="inspector gave no"):
        layers_of_inspector(text)


def test_shares_need_no_layers():
    assert Audit({}, {}, {}).share("int8") == 0
    assert "does not say" in Audit({}, {}, {}).text()


WIDTHS = ["int8", "fp16", "fp32"]


@given(st.lists(st.sampled_from(WIDTHS), min_size=2))
def test_a_product_computes_in_the_wider_of_its_operands(reads):
    layer = EngineLayer("k", "gemm", tuple(reads), ())
    assert layer.precision == sorted(reads, key=WIDTHS.index)[1]


@pytest.mark.parametrize(
    ("audited", "precision", "good"),
    [
        (Audit({"fp32": 5}, {}, {}), "fp32", True),
        (Audit({"fp32": 5}, {"int8": 4}, {"int8": 2}), "int8", True),
        (Audit({"int8": 5}, {"int8": 4}, {"int8": 1}), "int8", False),
        (Audit({"fp32": 5}, {"int8": 4}, {}), "int8", False),
        (Audit({"fp32": 5, "fp16": 1}, {}, {}), "fp16", True),  # no nodes are named
        (Audit({"fp32": 5}, {}, {}), "fp16", False),
        (Audit({"fp16": 5}, {"fp16": 5}, {"fp16": 5}), "int8", False),
    ],
)
def test_what_is_required(audited, precision, good):
    if good:
        require(audited, precision)
        return
    with pytest.raises(CheckFailedError, match=f"{precision} was asked for"):
        require(audited, precision)
