"""glint inspect: models, bare ONNX files, checkpoints, engines and networks."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import small_graphs as small
import torch
from onnx import TensorProto as T
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from glint import cli
from glint.cards import load_card, zoo_folder
from glint.errors import MissingDependencyError, ModelError
from glint.export.inspect.inspect import inspect
from glint.export.inspect.onnx_file import inspect_onnx
from glint.export.inspect.text import report_text
from glint.export.lint.findings import PRODUCTS, VERSIONS
from glint.export.to_onnx import to_onnx
from glint.files import sha256, write_json
from glint.formats.seal import seal_of_document


def run(capsys, *words):
    code = cli.main(["inspect", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


# Models


@pytest.mark.parametrize("name", ["lsnet-s", "dscsnet-s-csist"])
def test_a_released_model(capsys, name):
    code, out, err = run(capsys, name, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    card, path = load_card(name)
    assert report["kind"] == "model" and report["file"] == str(path)
    assert (report["parameters"], report["macs"]) == (card.parameters, card.macs)
    graph = report["graph"]
    assert [spec["name"] for spec in graph["outputs"]] == [spec.name for spec in card.outputs]
    assert graph["inputs"][0]["shape"] == list(card.inputs[0].shape)
    assert graph["versions"] == dict.fromkeys(VERSIONS, "clean") and graph["findings"] == []
    assert sum(graph["operators"].values()) == len(graph["layers"])
    # What the graph does is what the network does, but for branches that lead nowhere and convolutions made wide.
    assert 0.97 * card.macs < graph["macs"] < 1.13 * card.macs
    assert {layer["precision"] for layer in graph["layers"] if layer["operator"] in PRODUCTS} == {"float32"}
    assert all(layer["macs"] for layer in graph["layers"] if layer["operator"] in PRODUCTS)


def test_a_model_for_a_person(capsys):
    code, out, _ = run(capsys, "dscsnet-s-csist")
    assert code == 0
    for words in (
        "patch float32 anyx2x7x7",
        "per batch of 64",
        "TensorRT 10.3  clean",
        "Conv 25",
        "100.0% of the MACs",
    ):
        assert words in out
    layers = [layer["name"] for layer in inspect("dscsnet-s-csist")["graph"]["layers"]]
    told = run(capsys, "dscsnet-s-csist", "--layers")[1].splitlines()[-len(layers) :]
    assert [line.split()[-1] for line in told] == layers and len(layers) > 100


def test_by_path_of_card_or_onnx_it_is_the_same(capsys):
    path = zoo_folder() / "dscsnet-s-csist.fp32.onnx"
    reports = [inspect(model) for model in ("dscsnet-s-csist", path, path.with_suffix(".json"))]
    assert reports[0] == reports[1] == reports[2]


def test_without_onnx_the_card_is_still_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, out, _ = run(capsys, "lsnet-s")
    assert code == 0 and "parameters" in out and "need onnx: pip install" in out
    path = tmp_path / "some.onnx"
    path.write_bytes((zoo_folder() / "lsnet-s.fp32.onnx").read_bytes())
    with pytest.raises(MissingDependencyError, match="without onnx"):
        inspect(path)


def test_no_heavy_library_is_imported_for_a_card_or_an_engine(tmp_path):
    write_engine(tmp_path)
    code = (
        "import sys; heavy = ('onnx', 'onnxruntime', 'torch', 'tensorrt', 'pycuda')\n"
        "for name in heavy: sys.modules[name] = None\n"
        "from glint.cli import main; raise SystemExit(main(['inspect', sys.argv[1]]))"
    )
    for model in ("lsnet-s", str(tmp_path / "e.plan")):
        done = subprocess.run([sys.executable, "-c", code, model], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_what_is_nothing_is_said_to_be_nothing(capsys, tmp_path):
    code, out, err = run(capsys, "nonesuch")
    assert (code, out) == (2, "") and "dscsnet-s-csist" in err and "networks: lsnet, lsnet-s, dscsnet" in err
    for name in ("a.json", "a.onnx", "a.safetensors", "a.plan", "a/b"):
        with pytest.raises(ModelError):
            inspect(tmp_path / name)


# Bare ONNX files


def test_int8_layers_are_told_from_float_ones_and_findings_are_shown(tmp_path, capsys):
    path = tmp_path / "good.onnx"
    onnx.save(small.quantised_conv(bias="float32"), path)
    (layer,) = inspect(path)["graph"]["layers"]
    assert (layer["operator"], layer["precision"], layer["macs"]) == ("Conv", "int8", 32 * 32 * 9 * 16 * 16)
    onnx.save(small.quantised_conv(zero=3), path)
    code, out, _ = run(capsys, path)
    assert code == 0 and "a zero point that is not zero [zero-point; 10.3, 10.13" in out and "hint: quantise" in out
    assert "TensorRT-RTX   see findings" in out and "clean" not in out


def test_half_precision_layers(tmp_path):
    nodes = [
        small.node("Cast", ["x"], ["h"], to=T.FLOAT16),
        small.node("Relu", ["h"], ["r"]),
        small.node("Cast", ["r"], to=1),
    ]
    path = tmp_path / "half.onnx"
    onnx.save(small.model(nodes), path)
    assert [layer["precision"] for layer in inspect(path)["graph"]["layers"]] == ["float16", "float16", "float32"]


class Weighted(nn.Module):
    """Every operator that multiplies and adds, grouped, strided, transposed, batched and broadcast."""

    def __init__(self):
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3, groups=8),
            nn.ConvTranspose2d(8, 6, 2, stride=2), nn.ConvTranspose2d(6, 6, 3, groups=3), nn.Conv2d(6, 5, (1, 3)),
        )  # fmt: skip
        self.linear = nn.Linear(5, 7)
        self.register_buffer("square", torch.randn(7, 7))

    def forward(self, x):
        rows = self.linear(self.convs(x).mean(-1).transpose(1, 2))  # [N, H, 7]
        return rows @ self.square, rows @ rows.transpose(1, 2)


def test_work_is_counted_as_pytorch_counts_it(tmp_path):
    torch.manual_seed(0)
    model, value = Weighted().eval(), np.random.default_rng(0).normal(size=(3, 4, 20, 24)).astype(np.float32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.from_numpy(value))
    path = tmp_path / "weighted.onnx"
    onnx.save(to_onnx(model, value, inputs=["x"], outputs=["y", "z"], dynamic={}), path)
    report = inspect_onnx(path)
    assert report["macs"] == counter.get_total_flops() // 2
    assert {layer["operator"] for layer in report["layers"] if layer["macs"]} >= {"Conv", "ConvTranspose", "MatMul"}


def test_the_work_on_a_frame_of_a_free_size_is_that_on_512_x_512(tmp_path):
    model, value = nn.Conv2d(1, 2, 3, padding=1).eval(), np.zeros((1, 1, 32, 48), np.float32)
    dynamic = {2: 16 * torch.export.Dim("rows", min=2, max=64), 3: 16 * torch.export.Dim("columns", min=2, max=64)}
    path = tmp_path / "free.onnx"
    onnx.save(to_onnx(model, value, inputs=["x"], outputs=["y"], dynamic=dynamic), path)
    report = inspect(path)
    assert report["graph"]["macs"] == 2 * 9 * 512 * 512
    assert "free axes" in report_text(report)


def test_a_broken_file_is_named(tmp_path):
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"not onnx" * 20)
    with pytest.raises(ModelError, match=r"bad\.onnx"):
        inspect(path)


# Networks and checkpoints


def test_the_network_of_the_paper_beside_its_published_size(capsys):
    report = json.loads(run(capsys, "dscsnet", "--json")[1])
    assert report["kind"] == "network" and report["config"]["stages"] == 6
    assert report["published"] == {"parameters": 6.23e6, "macs": 40.70e9}
    assert report["parameters"] == pytest.approx(6.23e6, rel=0.05)
    assert 64 * report["macs"] == pytest.approx(40.70e9, rel=0.05)
    text = run(capsys, "dscsnet")[1]
    assert "published: 6.23 M" in text and "per batch of 64 (published: 40.70 G" in text


def test_the_other_networks(capsys):
    report = inspect("lsnet")
    assert report["macs"] == pytest.approx(report["published"]["macs"], rel=0.03)
    assert "per frame of 512 x 512 (published: 24.46 G" in report_text(report)
    assert "published" not in inspect("dscsnet-s")


def test_a_network_needs_pytorch(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    code, out, err = run(capsys, "dscsnet")
    assert (code, out) == (3, "") and "without PyTorch" in err and "pip install" in err


def test_a_checkpoint(tmp_path):
    from glint.training.checkpoint import CheckpointInfo, save_checkpoint
    from glint.training.networks.lsnet import LSNet, LSNetConfig

    config = LSNetConfig(stages=1, background=(8, 12), heads=1, head_dim=4, state=2, sparse=(4, 6, 8), unshuffle=2)
    from glint.config import to_dict

    info = CheckpointInfo("lsnet-s", to_dict(config), {}, {}, step=7)
    model = LSNet(config)
    save_checkpoint(tmp_path / "c.safetensors", info, {f"ema/{k}": v for k, v in model.state_dict().items()})
    report = inspect(tmp_path / "c.safetensors")
    assert report["kind"] == "checkpoint" and report["card"]["training"]["step"] == 7
    assert report["parameters"] == sum(p.numel() for p in model.parameters())
    assert "probability float32 1x1xanyxany" in report_text(report)


# Engines


def write_engine(folder, **changes):
    plan = folder / "e.plan"
    plan.write_bytes(b"plan")
    info = {
        "model": "lsnet-s", "precision": "fp16", "plan_sha256": sha256(plan),
        "inputs": [{"name": "frame", "dtype": "float32", "shape": [1, 1, 512, 640]}],
        "target": {"tensorrt": "10.3.0", "sm": "8.7"},
    }  # fmt: skip
    info |= changes
    write_json(folder / "e.plan.json", {**info, "seal": seal_of_document(info)})
    return plan


def test_an_engine_is_told_by_its_sidecar(tmp_path, capsys):
    plan = write_engine(tmp_path)
    code, out, _ = run(capsys, plan)
    assert code == 0
    for words in ("e.plan (engine)", "frame float32 1x1x512x640", "tensorrt 10.3.0, sm 8.7", "fp16"):
        assert words in out
    assert inspect(tmp_path / "e.plan.json") == inspect(plan)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("plan", "the hash is"),
        ("no sidecar", "No such file"),
        ("no plan", "no such file"),
        ("list", "plan_sha256"),
        ("text", "JSON"),
        ("edited", "was changed after it was written"),
    ],
)
def test_an_engine_that_is_not_its_sidecars_is_refused(tmp_path, capsys, how, words):
    plan = write_engine(tmp_path)
    sidecar = tmp_path / "e.plan.json"
    {
        "plan": lambda: plan.write_bytes(b"other"), "no sidecar": sidecar.unlink, "no plan": plan.unlink,
        "list": lambda: sidecar.write_text("[1]"), "text": lambda: sidecar.write_text("{"),
        "edited": lambda: sidecar.write_text(sidecar.read_text().replace("fp16", "fp32")),
    }[how]()  # fmt: skip
    code, out, err = run(capsys, plan)
    assert (code, out) == (2, "") and words in err and "glint build" in err and "Traceback" not in err


def test_a_model_without_its_weights_is_still_described(tmp_path):
    model = small.model([small.node("Conv", ["x", "w"], pads=[1, 1, 1, 1])], weights={"w": small.kernel(8, 8, 3, 3)})
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="model.data", size_threshold=0)
    (tmp_path / "model.data").unlink()
    graph = inspect(path)["graph"]
    assert [f["code"] for f in graph["findings"]] == ["external-data"]
    assert graph["macs"] == 8 * 8 * 3 * 3 * 16 * 16


def test_bytes_are_those_of_what_layers_read_and_write(tmp_path):
    path = tmp_path / "two.onnx"
    helper = onnx.helper
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], "cast", to=onnx.TensorProto.FLOAT16),
        helper.make_node("Mul", ["half", "half"], ["square"], "square"),
        helper.make_node("Reshape", ["square", "shape"], ["y"], "view"),
    ]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 6])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT16, ["n", 2, 3])
    shape = onnx.numpy_helper.from_array(np.array([0, 2, 3]), "shape")
    opset = [helper.make_opsetid("", 17)]
    onnx.save(
        helper.make_model(helper.make_graph(nodes, "g", [x], [y], [shape]), opset_imports=opset, ir_version=8), path
    )
    graph = inspect(path)["graph"]
    assert {layer["name"]: layer["bytes"] for layer in graph["layers"]} == {"cast": 24 + 12, "square": 24, "view": None}
    assert (graph["bytes"], graph["casts"], graph["quantisers"]) == (60, 1, 0)
