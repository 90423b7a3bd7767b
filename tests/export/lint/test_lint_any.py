"""The TensorRT check on anything at all."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from glint.export.lint.findings import VERSIONS
from glint.export.lint.lint import lint

UNARY = ("Relu", "Neg", "Exp", "Softplus", "CumSum", "NonZero", "Bernoulli", "Identity", "Shape", "IsNaN")
KINDS = (T.FLOAT, T.FLOAT16, T.DOUBLE, T.INT8, T.UINT8, T.UINT16, T.INT32, T.INT64, T.BOOL, T.STRING, T.COMPLEX64)


@st.composite
def graphs(draw):
    """Small graphs, valid or not: any operators, types, shapes, missing inputs, names, domains and opsets."""
    tensors = [f"t{i}" for i in range(draw(st.integers(1, 3)))]
    shapes = st.one_of(st.none(), st.lists(st.one_of(st.integers(0, 5), st.sampled_from(["n", "m"])), max_size=4))
    values = [helper.make_tensor_value_info(n, draw(st.sampled_from(KINDS)), draw(shapes)) for n in tensors]
    weights = []
    for kind in draw(
        st.lists(st.sampled_from([np.float32, np.int8, np.uint8, np.int32, np.int64, np.float64]), max_size=3)
    ):
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        weights.append(numpy_helper.from_array(np.full(shape, draw(st.integers(0, 3)), kind), f"w{len(weights)}"))
    nodes = []
    weighted = (
        "Conv",
        "ConvTranspose",
        "MatMul",
        "Gemm",
        "QuantizeLinear",
        "DequantizeLinear",
        "TopK",
        "Resize",
        "MaxPool",
    )
    for number in range(draw(st.integers(0, 6))):
        operator = draw(st.sampled_from((*UNARY, *weighted, "Constant", "NoSuchOperator")))
        names = [*tensors, *(w.name for w in weights), ""]
        inputs = draw(st.lists(st.sampled_from(names), max_size=4))
        outputs = [f"n{number}_{i}" for i in range(draw(st.integers(1, 2)))]
        attributes = draw(
            st.dictionaries(
                st.sampled_from(["axis", "antialias", "transB", "output_dtype"]), st.integers(-3, 3), max_size=2
            )
        )
        if draw(st.booleans()):
            attributes["dilations"] = [1, 2]
        node = helper.make_node(
            operator, inputs, outputs, **attributes, domain=draw(st.sampled_from(["", "", "other"]))
        )
        nodes.append(node)
        tensors += outputs
    outputs = [helper.make_empty_tensor_value_info(draw(st.sampled_from(tensors)))]
    graph = helper.make_graph(nodes, "any", values, outputs, initializer=weights)
    opsets = [helper.make_opsetid("", draw(st.integers(1, 30)))] if draw(st.booleans()) else []
    model = helper.make_model(graph, opset_imports=opsets)
    if not opsets:
        del model.opset_import[:]
    return model


@settings(max_examples=300, deadline=None)
@given(graphs())
def test_no_graph_whatever_crashes_the_check(model):
    before = model.SerializeToString(deterministic=True)
    for finding in lint(model):
        assert set(finding.versions) <= set(VERSIONS) and finding.versions and finding.text() and finding.hint
    assert model.SerializeToString(deterministic=True) == before
