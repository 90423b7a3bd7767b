"""Graphs that the TensorRT check is for: one function per kind of node or part."""

import numpy as np
import small_graphs as small
from onnx import TensorProto as T
from onnx import helper, numpy_helper

SHAPE = (1, 8, 16, 16)


def cast(kind):
    return small.model([small.node("Cast", ["x"], to=T.FLOAT)], inputs={"x": (kind, SHAPE)})


def opset(number):
    return small.model([small.node("Relu", ["x"])], opset=number)


def top_k(k):
    outputs = {"y": (T.FLOAT, (1, k)), "i": (T.INT32, (1, k))}
    nodes = [small.node("TopK", ["x", "k"], ["y", "long"]), small.node("Cast", ["long"], ["i"], to=T.INT32)]
    return small.model(nodes, inputs={"x": (T.FLOAT, (1, 5000))}, outputs=outputs, weights={"k": np.array([k])})


def resize(**attributes):
    nodes = [small.node("Resize", ["x", "", "scales"], **attributes)]
    scales = np.array([1, 1, 0.5, 0.5], np.float32)
    return small.model(nodes, outputs={"y": (T.FLOAT, (1, 8, 8, 8))}, weights={"scales": scales})


def second_output():
    nodes = [
        small.node("MaxPool", ["x"], ["y", "long"], kernel_shape=[2, 2]),
        small.node("Cast", ["long"], ["i"], to=T.INT32),
    ]
    return small.model(nodes, outputs={n: (t, (1, 8, 15, 15)) for n, t in (("y", T.FLOAT), ("i", T.INT32))})


def plugin():
    model = small.model([small.node("Mine", ["x"], domain="my.own")])
    model.opset_import.append(helper.make_opsetid("my.own", 1))
    return model


def branches(operator):
    def graph(name, inner):
        value = helper.make_tensor_value_info(name, T.FLOAT, SHAPE)
        return helper.make_graph([helper.make_node(inner, ["x"], [name], name=f"the/{inner}")], name, [], [value])

    node = small.node("If", ["c"], then_branch=graph("t", "Relu"), else_branch=graph("e", operator))
    return small.model([node], inputs={"x": (T.FLOAT, SHAPE), "c": (T.BOOL, ())})


def loop():
    values = [
        helper.make_tensor_value_info(*spec)
        for spec in (
            ("i", T.INT64, ()),
            ("go", T.BOOL, ()),
            ("v", T.FLOAT, SHAPE),
            ("on", T.BOOL, ()),
            ("w", T.FLOAT, SHAPE),
        )
    ]
    nodes = [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Relu", ["v"], ["w"])]
    body = helper.make_graph(nodes, "body", values[:3], values[3:])
    return small.model(
        [small.node("Loop", ["n", "yes", "x"], body=body)], weights={"n": np.array(3), "yes": np.array(True)}
    )


def half_quantised(part):
    """A quantised convolution of which the activation or the weights stay float."""
    model = small.quantised_conv()
    if part == "weight":
        drop, of, to = ("the/QuantizeLinear", "the/DequantizeLinear"), "x_dq", "x"
    else:
        drop, of, to = ("the/weight/DequantizeLinear",), "w_dq", "float_w"
        model.graph.initializer.append(numpy_helper.from_array(small.kernel(32, 32, 3, 3), "float_w"))
    nodes = [n for n in model.graph.node if n.name not in drop]
    nodes[-1].input[:] = [to if name == of else name for name in nodes[-1].input]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def without_zero_point():
    model = small.quantised_conv(activation=np.uint8)
    for node in model.graph.node[:2]:
        del node.input[2]
    return model


def dynamic_quantisation():
    outputs = {"y": (T.UINT8, SHAPE), "s": (T.FLOAT, ()), "z": (T.UINT8, ())}
    return small.model([small.node("DynamicQuantizeLinear", ["x"], list(outputs))], outputs=outputs)


def qlinear_conv():
    nodes = [
        small.node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        small.node("QLinearConv", ["q", "s", "z", "w", "s", "z", "s", "z"], ["r"], pads=[1, 1, 1, 1]),
        small.node("DequantizeLinear", ["r", "s", "z"]),
    ]
    return small.model(
        nodes, weights={"s": np.float32(0.1), "z": np.int8(0), "w": small.kernel(8, 8, 3, 3, dtype=np.int8)}
    )


def col2im():
    return small.model(
        [small.node("Col2Im", ["x", "s", "b"])], inputs={"x": (T.FLOAT, (1, 9, 4))},
        outputs={"y": (T.FLOAT, (1, 1, 4, 4))}, weights={"s": np.array([4, 4]), "b": np.array([3, 3])},
    )  # fmt: skip


def scatter():
    weights = {"i": np.array([[0, 1]]), "u": np.ones((1, 16, 16), np.float32)}
    return small.model([small.node("ScatterND", ["x", "i", "u"], reduction="add")], weights=weights)


def nonzero():
    nodes = [small.node("NonZero", ["x"], ["long"]), small.node("Cast", ["long"], to=T.INT32)]
    return small.model(nodes, outputs={"y": (T.INT32, (4, "n"))})


def uint8_sum():
    kinds = dict.fromkeys("xy", (T.UINT8, SHAPE))
    return small.model([small.node("Add", ["x", "x"])], inputs={"x": kinds["x"]}, outputs={"y": kinds["y"]})


def int64_input():
    kinds = dict.fromkeys("xy", (T.INT64, SHAPE))
    return small.model([small.node("Neg", ["x"])], inputs={"x": kinds["x"]}, outputs={"y": kinds["y"]})


def rms_normalisation():
    nodes = [small.node("RMSNormalization", ["x", "w"], axis=-1)]
    return small.model(nodes, weights={"w": small.kernel(16)}, opset=23)


def scaled(**changed):
    """A quantised convolution whose scales or zero points are others: arrays, stored."""
    model = small.quantised_conv()
    for tensor in model.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(numpy_helper.from_array(changed[tensor.name], tensor.name))
    return model


def sized_scales(shape):
    return scaled(w_scale=np.full(shape, 0.01, np.float32), w_zero=np.zeros(shape, np.int8))


def computed(name, nodes, **weights):
    """A quantised convolution of which nodes make a scale or a zero point."""
    model = small.quantised_conv()
    model.graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in weights.items())
    model.graph.initializer.remove(next(t for t in model.graph.initializer if t.name == name))
    nodes = [*nodes, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def cast_zero_point(value):
    constant = helper.make_node("Constant", [], ["c"], name="c", value=numpy_helper.from_array(np.float32(value)))
    return computed("zero", [constant, helper.make_node("Cast", ["c"], ["zero"], name="cast", to=T.INT8)])


def dead_channel(value):
    scales = np.full(32, 0.01, np.float32)
    scales[3] = value
    return scales


def by_node(operator, inputs, output="zero", **weights):
    return computed(output, [helper.make_node(operator, inputs, [output], name=operator)], **weights)


def batch_normalisation(training):
    weights = {name: np.ones(8, np.float32) for name in "sbmv"}
    node = small.node("BatchNormalization", ["x", *"sbmv"], training_mode=training)
    return small.model([node], weights=weights)


def dropout(training, *, computed=False):
    nodes = [small.node("Dropout", ["x", "r", "t"])]
    if computed:
        nodes.insert(0, helper.make_node("Not", ["f"], ["t"], name="not"))
    weights = {"r": np.float32(0.5), "f" if computed else "t": np.array(training)}
    return small.model(nodes, weights=weights)


def resize_up(scales, mode, *, roi=False, **attributes):
    weights = {"scales": np.array(scales, np.float32)}
    if roi:
        weights["roi"] = np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32)
    node = small.node("Resize", ["x", "roi" if roi else "", "scales"], mode=mode, **attributes)
    shape = tuple(int(n * s) for n, s in zip(SHAPE, scales))
    return small.model([node], outputs={"y": (T.FLOAT, shape)}, weights=weights)


def scatter_elements(reduction):
    node = small.node("ScatterElements", ["x", "i", "u"], axis=1, reduction=reduction)
    weights = {"i": np.zeros((1, 1, 16, 16), np.int64), "u": np.ones((1, 1, 16, 16), np.float32)}
    return small.model([node], weights=weights)


def of_rank(rank):
    shape = (1,) * (rank - 1) + (4,)
    return small.model([small.node("Relu", ["x"])], inputs={"x": (T.FLOAT, shape)}, outputs={"y": (T.FLOAT, shape)})


def rank_inside():
    nodes = [
        helper.make_node("Unsqueeze", ["x", "a"], ["t"], name="grow"),
        helper.make_node("Relu", ["t"], ["u"], name="relu"),
        helper.make_node("Squeeze", ["u", "a"], ["y"], name="shrink"),
    ]
    return small.model(nodes, weights={"a": np.arange(5)})


def lp_pool(p):
    node = small.node("LpPool", ["x"], kernel_shape=[2, 2], p=p)
    return small.model([node], outputs={"y": (T.FLOAT, (1, 8, 15, 15))})


def roi_align():
    node = small.node("RoiAlign", ["x", "r", "b"], output_height=4, output_width=4)
    weights = {"r": np.array([[0, 0, 8, 8]], np.float32), "b": np.array([0])}
    return small.model([node], outputs={"y": (T.FLOAT, (1, 8, 4, 4))}, weights=weights)


def pooled(operator, *window):
    node = small.node(operator, ["x"], kernel_shape=window)
    shape = (1, 1, *(side + 1 for side in window))
    return small.model([node], inputs={"x": (T.FLOAT, shape)}, outputs={"y": (T.FLOAT, (1, 1, *(2 for _ in window)))})


def convolved(axes):
    shape = (1, 2, *(4 for _ in range(axes)))
    outputs = {"y": (T.FLOAT, (1, 2, *(3 for _ in range(axes))))}
    weights = {"w": small.kernel(2, 2, *(2 for _ in range(axes)))}
    return small.model(
        [small.node("Conv", ["x", "w"])], inputs={"x": (T.FLOAT, shape)}, outputs=outputs, weights=weights
    )


def of_type(operator, kind, *more, weights=None, shape=SHAPE, opset=20, **attributes):
    node, unknown = small.node(operator, ["x", *more], **attributes), [f"d{axis}" for axis in range(len(shape))]
    kinds = {"inputs": {"x": (kind, shape)}, "outputs": {"y": (kind, unknown)}}
    return small.model([node], weights=weights, opset=opset, **kinds)


def reduced(operator, *, by=None, kind=T.FLOAT):
    """A reduction whose axes are stored, or made from stored ones by a node."""
    nodes = [small.node(operator, ["x", "axes"])]
    if by is not None:
        nodes.insert(0, helper.make_node(by, ["a"], ["axes"], name="axes", **({"to": T.INT64} if by == "Cast" else {})))
    weights = {"axes" if by is None else "a": np.array([1])}
    kinds = {"inputs": {"x": (kind, SHAPE)}, "outputs": {"y": (kind, (1, 1, 16, 16))}}
    return small.model(nodes, weights=weights, opset=20, **kinds)


def by_input(operator, kind, shape, **attributes):
    """A node that reads what the engine is built from out of an input."""
    node = small.node(operator, ["x", "", "p"] if operator == "Resize" else ["x", "p"], **attributes)
    outputs = {"y": (T.FLOAT, [f"d{axis}" for axis in range(3 if operator == "Squeeze" else 4)])}
    return small.model([node], inputs={"x": (T.FLOAT, SHAPE), "p": (kind, shape)}, outputs=outputs)


def resize_to(sizes, mode, **attributes):
    outputs = {"y": (T.FLOAT, [f"d{axis}" for axis in range(4)])}
    node = small.node("Resize", ["x", "", "", "sizes"], mode=mode, **attributes)
    return small.model([node], outputs=outputs, weights={"sizes": np.array(sizes)})


def suppression():
    nodes = [small.node("NonMaxSuppression", ["x", "s", "n"], ["long"]), small.node("Cast", ["long"], to=T.INT32)]
    inputs = {"x": (T.FLOAT, (1, 8, 4)), "s": (T.FLOAT, (1, 1, 8))}
    return small.model(nodes, inputs=inputs, outputs={"y": (T.INT32, ("n", 3))}, weights={"n": np.array(3)})


def attention():
    outputs = {"y": (T.FLOAT, (1, 2, 4, 8)), "k": (T.FLOAT, ("a", "b", "c", "d"))}
    node = small.node("Attention", ["x", "x", "x"], ["y", "", "", "k"])
    return small.model([node], inputs={"x": (T.FLOAT, (1, 2, 4, 8))}, outputs=outputs, opset=23)


def lstm(coupled):
    weights = {"w": small.kernel(1, 16, 8), "r": small.kernel(1, 16, 4)}
    node = small.node("LSTM", ["x", "w", "r"], hidden_size=4, input_forget=coupled)
    kinds = {"inputs": {"x": (T.FLOAT, (5, 2, 8))}, "outputs": {"y": (T.FLOAT, (5, 1, 2, 4))}}
    return small.model([node], weights=weights, **kinds)


def uint8_by_type():
    model = without_zero_point()
    model.opset_import[0].version = 21
    model.graph.node[0].attribute.append(helper.make_attribute("output_dtype", T.UINT8))
    return model


def unsorted():
    model = small.quantised_conv()
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model
