"""Modules as ONNX graphs: names, float32 islands, any number of outputs, determinism, and what cannot be exported."""

import hashlib
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from glint.cards import in_island
from glint.errors import CheckFailedError, ModelError
from glint.export.to_onnx import island_prefixes, to_onnx
from glint.optics import Psf
from glint.training.networks.dscsnet import DSCSNet, DSCSNetConfig, EvenLinear
from glint.training.networks.lsnet import (
    AttentiveBlock,
    Contrast,
    LSNet,
    LSNetConfig,
    NarrowConv,
    SelectiveScan2d,
    SmoothingConv,
    SplitConv,
    narrow_conv,
)

LSNET = LSNetConfig(stages=2, background=(8, 12), heads=1, head_dim=4, state=2, sparse=(4, 6, 8), unshuffle=2)
DSCSNET = DSCSNetConfig(size=7, channels=4, hidden=8, stages=2, memory=2)
FRAME = np.random.default_rng(0).normal(size=(1, 1, 32, 48)).astype(np.float32)
PATCHES = np.random.default_rng(0).random((7, 2, 7, 7)).astype(np.float32)


class Inner(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Net(nn.Module):
    """A convolution and then a module ``body`` that does what it is given."""

    def __init__(self, function):
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3, padding=1)
        self.body = nn.Sequential(Inner(function))

    def forward(self, x):
        return self.body(self.stem(x))


def convert(function, outputs=("y",), dynamic=None):
    torch.manual_seed(0)
    model = Net(function).eval()
    return to_onnx(model, FRAME, inputs=["x"], outputs=outputs, dynamic=dynamic or {})


def distinct(model):
    """All weights different from one another: equal ones are stored once, under the first one's name."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def lsnet():
    torch.manual_seed(0)
    return to_onnx(distinct(LSNet(LSNET)), FRAME, inputs=["frame"], outputs=LSNet.OUTPUTS, dynamic={})


@pytest.fixture(scope="module")
def dscsnet():
    torch.manual_seed(0)
    dynamic = {0: torch.export.Dim("batch", min=1, max=64)}
    return to_onnx(DSCSNet(DSCSNET).eval(), PATCHES, inputs=["patch"], outputs=DSCSNet.OUTPUTS, dynamic=dynamic)


# Names


def test_nodes_are_called_after_their_modules(lsnet, dscsnet):
    names = {node.name: node.op_type for node in dscsnet.graph.node}
    assert {"proxes.0.features/Conv", "proxes.1.analysis.generator.0/Gemm"} <= names.keys()
    assert {"dir.fuse_codes/Conv", "head.merge/Conv"} <= names.keys()
    assert {"low_rank.0.fine.expand/Conv", "sparse.1.block1.attention/Conv"} <= {n.name for n in lsnet.graph.node}
    for model, network in ((lsnet, LSNet(LSNET)), (dscsnet, DSCSNet(DSCSNET))):
        modules = dict(network.named_modules())
        for node in model.graph.node:
            path, _, operator = node.name.rpartition("/")
            assert operator.split("_")[0] == node.op_type
            assert path.removesuffix("fp32").removesuffix("/") in modules
            if node.op_type == "Conv" and "neighbours" not in node.input[1]:
                assert re.sub(r"_\d$", "", node.input[1]) == f"{path.removesuffix('/fp32')}.weight"


def test_names_of_nodes_and_tensors_are_unique_and_tensors_follow_their_nodes(lsnet):
    names = [node.name for node in lsnet.graph.node]
    assert len(set(names)) == len(names)
    outputs = {value.name for value in lsnet.graph.output}
    for node in lsnet.graph.node:
        assert all(name in outputs or name.split(":")[0] == node.name for name in node.output)


def test_a_graph_tells_nothing_of_the_machine_it_was_made_on(lsnet, dscsnet):
    for model in (lsnet, dscsnet):
        data = model.SerializeToString()
        assert b"/" + b"lib/python" not in data and b".py" not in data and b"pkg.torch" not in data
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_shapes_are_known_everywhere(lsnet):
    known = {v.name for v in (*lsnet.graph.value_info, *lsnet.graph.output)}
    assert {name for node in lsnet.graph.node for name in node.output} <= known


# Operators


def test_static_graphs_compute_no_shapes_and_no_triangles(lsnet):
    assert {"Shape", "Trilu", "CumSum", "ConstantOfShape", "Range", "Constant", "Identity", "Cast"}.isdisjoint(
        {node.op_type for node in lsnet.graph.node}
    )


def test_the_solver_is_two_products_with_constants_through_the_pixels(dscsnet):
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in dscsnet.graph.initializer}
    solver = [node for node in dscsnet.graph.node if node.name.startswith("solvers.")]
    assert {node.op_type for node in solver} == {"Mul", "Add", "Sub", "Reshape", "Pad", "MatMul"}
    matrices = [weights[node.input[1]] for node in solver if node.op_type == "MatMul"]
    assert len(matrices) == 2 * DSCSNET.stages  # the origin layer is a product with the patch
    torch.manual_seed(0)
    phi = Psf(DSCSNET.sigma).sampling_matrix(DSCSNET.size, DSCSNET.cells)
    for seen, answer, module in zip(matrices[::2], matrices[1::2], list(DSCSNet(DSCSNET).solvers)[1:]):
        rho = float(module.log_rho.detach().exp())
        expected = np.linalg.solve(phi.T @ phi + rho * np.eye(DSCSNET.grid**2), phi.T).T
        for matrix, wanted in ((seen, phi.T), (answer, expected)):
            assert np.abs(matrix[: len(wanted)] - wanted).max() < 1e-5 * np.abs(wanted).max()
            assert not matrix[len(wanted) :].any()  # a row of zeros makes their number even


def test_the_free_axes_keep_their_names(dscsnet):
    for value in (*dscsnet.graph.input, *dscsnet.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


# Float32 islands


def test_islands_hold_the_scan_the_norms_and_the_solver_and_nothing_that_should_be_fast(lsnet, dscsnet):
    for model in (lsnet, dscsnet):
        outside = {node.op_type for node in model.graph.node if not in_island(node.name)}
        assert {"Exp", "Sqrt", "Reciprocal", "Pow", "Softplus", "Log", "Div"}.isdisjoint(outside)
        slow = {n.name for n in model.graph.node if in_island(n.name) and n.op_type in ("Conv", "Gemm", "Resize")}
        assert {name.rpartition("/")[0] for name in slow} <= {"contrast/fp32"}  # whose difference of squares cancels
    assert {"low_rank.0.fine/fp32/", "low_rank.1.coarse.out_norm/fp32/", "low_rank.0.fine_svt/fp32/"} <= set(
        island_prefixes(lsnet)
    )
    assert {"fp32/", "solvers.1/fp32/", "solvers.2/fp32/", "dtg/fp32/", "head/fp32/"} == set(island_prefixes(dscsnet))
    # The mixing by the scan's weights may be half precision; the weights themselves may not.
    scan = [n for n in lsnet.graph.node if n.name.startswith("low_rank.0.fine/") and n.op_type == "MatMul"]
    assert sum(in_island(n.name) for n in scan) == 2 and len(scan) == 6


def test_an_island_is_where_autocast_is_off_or_keeps_float32_itself():
    def function(x):
        with torch.autocast("cpu", enabled=False):
            y = x.sin()
        with torch.autocast("cpu", enabled=True):
            z = x.cos()
        return torch.tanh(y + z) * nn.functional.softplus(x)

    islands = {node.op_type for node in convert(function).graph.node if in_island(node.name)}
    assert islands == {"Sin", "Softplus", "Greater", "Where"}


def test_lost_islands_are_noticed(monkeypatch):
    def function(x):
        with torch.autocast("cpu", enabled=False):
            return x.sin()

    monkeypatch.setattr("glint.export.to_onnx._path", lambda node: "body")
    with pytest.raises(CheckFailedError, match="islands"):
        convert(function)


# Outputs


def test_a_module_may_give_one_tensor_or_several():
    one = convert(lambda x: x.abs())
    two = convert(lambda x: (x.abs(), x.mean((2, 3))), ("grid", "presence"))
    assert [o.name for o in one.graph.output] == ["y"]
    assert [o.name for o in two.graph.output] == ["grid", "presence"]
    session = onnxruntime.InferenceSession(two.SerializeToString(), providers=["CPUExecutionProvider"])
    grid, presence = session.run(None, {"x": FRAME})
    torch.manual_seed(0)
    with torch.no_grad():
        expected = Net(lambda x: (x.abs(), x.mean((2, 3))))(torch.from_numpy(FRAME))
    assert np.allclose(grid, expected[0].numpy(), atol=1e-6) and np.allclose(presence, expected[1].numpy(), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_folded_image_is_one_operator_in_the_order_of_pytorch(channels):
    def function(x):
        return nn.functional.pixel_unshuffle(x[:, :channels], 4)

    model = convert(function)
    assert "SpaceToDepth" in {node.op_type for node in model.graph.node}
    assert "Transpose" not in {node.op_type for node in model.graph.node}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    torch.manual_seed(0)
    with torch.no_grad():
        expected = Net(function)(torch.from_numpy(FRAME))
    assert np.allclose(session.run(None, {"x": FRAME})[0], expected.numpy(), atol=1e-6)


@pytest.mark.parametrize(("shuffle", "fold", "kernel"), [(1, 4, 3), (1, 2, 7), (2, 2, 3), (2, 1, 3)])
def test_a_narrow_convolution_is_exported_wide_and_gives_the_same_map(shuffle, fold, kernel):
    torch.manual_seed(0)
    layer = NarrowConv(3, kernel, shuffle=shuffle, fold=fold).eval()
    value = np.random.default_rng(0).normal(size=(2, 3, 8, 12)).astype(np.float32)
    model = to_onnx(layer, value, inputs=["x"], outputs=["y"], dynamic={})
    (conv,) = (node for node in model.graph.node if node.op_type == "Conv")
    weights = next(i for i in model.graph.initializer if i.name == conv.input[1])
    assert list(weights.dims) == [(shuffle * fold) ** 2, 3, kernel + fold - 1, kernel + fold - 1]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    plain = nn.functional.conv2d(torch.from_numpy(value), layer.weight, layer.bias, padding=kernel // 2)
    expected = nn.functional.pixel_shuffle(plain, shuffle).detach().numpy()
    assert np.allclose(session.run(None, {"x": value})[0], expected, atol=1e-5)


def test_two_convolutions_in_one_module_that_compute_their_kernels_have_different_names():
    box = torch.full((1, 1, 3, 3), 1 / 9)

    def function(x):
        return narrow_conv(x[:, :1], box * 2, fold=4) + narrow_conv(x[:, 1:], box * 3, fold=4)

    model = convert(function)
    names = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
    assert len(names) == len(set(names)) == 3  # the first is the stem
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    torch.manual_seed(0)
    with torch.no_grad():
        expected = Net(function)(torch.from_numpy(FRAME))
    assert np.allclose(session.run(None, {"x": FRAME})[0], expected.numpy(), atol=1e-6)


# Determinism


def test_the_same_network_gives_the_same_bytes_in_every_process(dscsnet):
    code = (
        "import hashlib, torch, tests_graph as t\n"
        "torch.manual_seed(0); dynamic = {0: torch.export.Dim('batch', min=1, max=64)}\n"
        "model, names = t.DSCSNet(t.DSCSNET).eval(), t.DSCSNet.OUTPUTS\n"
        "g = t.to_onnx(model, t.PATCHES, inputs=['patch'], outputs=names, dynamic=dynamic)\n"
        "print(hashlib.sha256(g.SerializeToString(deterministic=True)).hexdigest())"
    )
    loader = f"import importlib.util as u, sys; s = u.spec_from_file_location('tests_graph', {__file__!r}); "
    loader += "m = u.module_from_spec(s); sys.modules['tests_graph'] = m; s.loader.exec_module(m)\n"
    here = hashlib.sha256(dscsnet.SerializeToString(deterministic=True)).hexdigest()
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    done = subprocess.run(
        [sys.executable, "-c", loader + code], capture_output=True, text=True, timeout=300, check=True,
        env={"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1", "HOME": "/nowhere"},
    )  # fmt: skip
    assert done.stdout.strip() == here


# What cannot be exported


def eigenvalues(x):
    return torch.linalg.eigh(x @ x.transpose(-1, -2))[0]


def inverse(x):
    return torch.linalg.inv(x @ x.transpose(-1, -2))


def branch(x):
    return x if x.sum() > 0 else -x


def leave(x):
    return torch.from_numpy(x.numpy() * 2)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (eigenvalues, ["module body.0", "aten._linalg_eigh", "opset 19"]),
        (inverse, ["module body.0", "aten.linalg_inv"]),
        (branch, ["module body.0", "cannot be traced"]),
        (leave, ["module body.0", "cannot be traced", "numpy"]),
    ],
)
def test_what_has_no_onnx_form_is_named_with_its_place(function, words, capfd):
    with pytest.raises(ModelError) as error:
        convert(function)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert error.value.hint
    assert capfd.readouterr() == ("", "")  # torch keeps quiet


def test_control_flow_is_refused():
    def function(x):
        return torch.cond(x.sum() > 0, lambda v: v.sin(), lambda v: v.cos(), (x,))

    with pytest.raises(ModelError, match=r"module body\.0.* needs the operator If \(control flow\)"):
        convert(function)


# Exported differently than trained, the same all the same

EXPORTED = {
    "channels that go separate ways": (lambda: SplitConv(3, [4, 1, 2]), (1, 3, 4, 6), 3),
    "a smoothing of pixels that are channels": (lambda: SmoothingConv(2), (2, 4, 4, 6), 1),
    "attention of many channels": (lambda: AttentiveBlock(12, fold=2), (1, 12, 4, 6), 1),
    "contrast at the edges": (Contrast, (2, 1, 8, 12), 1),
    "a scan of rows and columns": (lambda: SelectiveScan2d(6, LSNET), (1, 6, 4, 6), 1),
    "an odd number of inputs": (lambda: EvenLinear(5, 3), (2, 5), 1),
    "even ones": (lambda: EvenLinear(4, 3), (2, 4), 1),
    "a small network of folded features": (lambda: DSCSNet(replace(DSCSNET, folded=True, channels=9)), (2, 2, 7, 7), 5),
    "a large one": (lambda: DSCSNet(replace(DSCSNET, size=9)), (2, 2, 9, 9), 5),
}


@pytest.mark.parametrize("what", EXPORTED)
def test_a_module_that_is_exported_in_another_form_computes_the_same(what):
    make, shape, outputs = EXPORTED[what]
    torch.manual_seed(0)
    layer = distinct(make())
    value = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    names = [f"y{i}" for i in range(outputs)]
    model = to_onnx(layer, value, inputs=["x"], outputs=names, dynamic={})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = layer(torch.from_numpy(value))
    for wanted, got in zip(expected if outputs > 1 else [expected], session.run(None, {"x": value})):
        assert np.allclose(got, wanted.numpy(), atol=1e-4 * max(1.0, float(wanted.abs().max())))
    constant = {tensor.name for tensor in model.graph.initializer}
    assert not [node.name for node in model.graph.node if set(node.input) <= constant]  # weights are computed once


def test_inputs_of_a_narrow_convolution_are_not_joined():
    torch.manual_seed(0)
    layer = NarrowConv(3, 3, fold=2).eval()

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x[:, :2], x[:, 2:])

    value = np.random.default_rng(0).normal(size=(2, 3, 8, 12)).astype(np.float32)
    model = to_onnx(Two(), value, inputs=["x"], outputs=["y"], dynamic={})
    assert "Concat" not in {node.op_type for node in model.graph.node}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = layer(torch.from_numpy(value)).numpy()
    assert np.allclose(session.run(None, {"x": value})[0], expected, atol=1e-5)


def test_small_solvers_are_two_products_and_heads_one_convolution():
    torch.manual_seed(0)
    network = DSCSNet(replace(DSCSNET, folded=True, channels=9)).eval()
    model = to_onnx(network, PATCHES, inputs=["patch"], outputs=DSCSNet.OUTPUTS, dynamic={})
    names = [node.name for node in model.graph.node]
    assert [name for name in names if name.startswith("solvers") and "MatMul" in name] == [
        f"solvers.{k}/fp32/MatMul{n}" for k in (1, 2) for n in ("", "_1")
    ]
    assert [name for name in names if name.startswith("head/Conv")] == ["head/Conv"]
