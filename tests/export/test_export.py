"""Export of both networks: parity, card, what the runtime makes of it."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from glint import cli
from glint.cards import load_card
from glint.errors import CheckFailedError, InputError, ModelError, OutputError
from glint.export.export import export, measure_parity
from glint.export.export_spec import make_plan
from glint.export.lint.lint import lint
from glint.images import write_image
from glint.processing.candidates import find_candidates
from glint.processing.crop import recentre
from glint.processing.extent import Extent
from glint.runtime.pipeline.detector import Detector
from glint.runtime.unmixing.unmixer import Unmixer
from glint.simulation.patches import CONDITIONS, simulate_patches
from glint.training.checkpoint import keep_weights
from glint.training.loop import Recipe, Trainer
from glint.training.networks.dscsnet import DSCSNetConfig
from glint.training.networks.lsnet import LSNetConfig
from glint.training.networks.registry import load_model
from glint.training.networks.unet import UNet, UNetConfig
from glint.training.tasks.augmentation import NORMALISER
from glint.training.tasks.detection import DetectionTask, predict
from glint.training.tasks.unmixing import UnmixingTask
from glint.types import Frame, FrameSize

# Enough to differ from the start, where the presence is the same everywhere and so any order of candidates.
RECIPE = Recipe(steps=6, batch=4, validate_every=6, amp="off", lr=0.01, warmup=1)


@pytest.fixture(scope="module")
def unmixing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unmixing")
    config = DSCSNetConfig(size=7, channels=4, hidden=8, stages=2, memory=2)
    Trainer(UnmixingTask("dscsnet-s", config, "sensor"), RECIPE, folder).fit()
    (card,) = export(folder / "last.safetensors", folder / "zoo", name="small")
    return folder, card


def test_the_card_of_one_cameras_network_tells_its_width(tmp_path):
    config = DSCSNetConfig(size=7, channels=4, hidden=8, stages=2, memory=2, sigma=0.6)
    task = UnmixingTask("dscsnet-s", config, "sensor", (0.57, 0.63))
    Trainer(task, replace(RECIPE, steps=1, validate_every=1), tmp_path / "run").fit()
    info, model = load_model(tmp_path / "run" / "last.safetensors")
    spec = make_plan(info, model).unmixer
    assert (spec.sigma, spec.sigma_sd) == (0.6, pytest.approx(0.06 / 12**0.5, abs=1e-6))


@pytest.fixture(scope="module")
def detection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detection")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        write_image(folder / "images" / f"{name}.png", rng.integers(0, 255, (32, 32)).astype(np.uint8))
        write_image(folder / "masks" / f"{name}.png", np.zeros((32, 32), dtype=np.uint8))
    (folder / "train.txt").write_text("a\n")
    (folder / "val.txt").write_text("b\n")
    config = LSNetConfig(stages=1, background=(8, 12), heads=1, head_dim=4, state=2, sparse=(4, 6, 8), unshuffle=2)
    Trainer(DetectionTask("lsnet-s", config, folder), RECIPE, folder / "run").fit()
    (card,) = export(folder / "run" / "last.safetensors", folder / "zoo", threshold=0.4)
    return folder, card


def test_the_unmixer_computes_in_onnx_what_it_computes_in_pytorch(unmixing):
    folder, card = unmixing
    assert card.parity["relative"] < 1e-4
    _, model = load_model(folder / "last.safetensors")
    patches = simulate_patches(CONDITIONS["n1"], 33, np.random.default_rng(1)).image
    runtime = Unmixer.open(folder / "zoo" / "small.fp32.json")
    limit = np.full(33, np.inf)
    limit[::2] = 150.0  # some patches have saturated pixels
    unmixed = runtime(patches, full_scale=limit[:, None, None])
    crops, left, top = recentre(patches, 7)
    scale = crops.max(axis=(1, 2), keepdims=True)
    saturated = (crops >= limit[:, None, None]).astype(np.float32)
    assert saturated.any()
    with torch.no_grad():
        outputs = model(torch.from_numpy(np.stack([crops / scale, saturated], axis=1)))
    grids, *head = (out.numpy() for out in outputs)
    assert np.abs(unmixed.grids - grids[:, 0] * scale).max() < 1e-4 * np.abs(grids * scale[:, None]).max()
    expected = find_candidates(*head, c=3).moved(left, top)
    assert np.allclose(unmixed.candidates.presence, expected.presence, atol=1e-5)
    seen = expected.presence > 1e-3
    for name in ("x", "y", "sigma_x", "sigma_y"):
        assert np.allclose(getattr(unmixed.candidates, name)[seen], getattr(expected, name)[seen], atol=1e-3), name
    radiance = expected.radiance * scale[:, 0]
    assert np.allclose(unmixed.candidates.radiance[seen], radiance[seen], rtol=1e-3)


def test_the_detector_takes_frames_of_any_size(detection):
    folder, card = detection
    assert card.parity["relative"] < 1e-4
    runtime = Detector.open(folder / "zoo" / "lsnet-s.fp32.json")
    assert runtime.spec.threshold == 0.4
    for shape in ((33, 50), (64, 32), (5, 5)):
        image = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
        assert runtime(Frame(0, 0, image)).probability.shape == shape


def test_training_judges_what_the_exported_detector_will_do(detection):
    """The same background, and the same masks from the same light."""
    folder, card = detection
    assert card.detector.extent == Extent()
    _, model = load_model(folder / "run" / "last.safetensors")
    image = np.random.default_rng(3).integers(40, 60, (48, 64)).astype(np.uint8)
    image[20:23, 30:33] += np.array([[40, 90, 30], [80, 140, 60], [20, 70, 30]], dtype=np.uint8)
    found = predict(model, image, torch.device("cpu"))
    told = Detector.open(folder / "zoo" / card.file).decompose(Frame(0, 0, image))
    for ours, theirs in zip(found, told):
        assert np.allclose(ours, theirs, atol=1e-3 * np.abs(theirs).max())
    with torch.no_grad():
        value = NORMALISER.apply(image).value
        bare = model(torch.from_numpy(value)[None, None])[0][0, 0].numpy()
    assert (np.abs(found[0] - bare) > 0.05).any()  # the rule has ended something


def test_a_network_without_a_rule_for_where_targets_end_has_none_in_its_card():
    model = UNet(UNetConfig((2, 3, 4, 5, 6)))
    assert make_plan(SimpleNamespace(network="unet-s"), model).detector.extent is None


def test_the_graphs_keep_to_plain_operators(unmixing, detection):
    forbidden = {"Loop", "Scan", "If", "NonZero", "Col2Im", "CumSum", "Cast", "Constant", "Identity"}
    for folder, card in (unmixing, detection):
        model = onnx.load(folder / "zoo" / card.file)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 19)]
        assert {n.domain for n in model.graph.node} <= {"", "ai.onnx"}
        assert not forbidden & {n.op_type for n in model.graph.node}
        assert lint(model) == []


def test_the_card_names_what_goes_in_and_comes_out_of_the_unmixer(unmixing):
    _, card = unmixing
    assert [(t.name, t.shape) for t in card.inputs] == [("patch", (-1, 2, 7, 7))]
    assert [(t.name, t.shape) for t in card.outputs] == [
        ("grid", (-1, 1, 21, 21)), ("presence", (-1, 1, 21, 21)), ("offset", (-1, 2, 21, 21)),
        ("radiance", (-1, 1, 21, 21)), ("spread", (-1, 3, 21, 21)),
    ]  # fmt: skip
    # What the domain "sensor" knows beforehand: nothing of the radiance, and that the optics vary.
    assert card.unmixer.radiance_prior is None and card.unmixer.sigma_sd == pytest.approx(0.017)


def test_the_card_tells_where_the_model_comes_from(unmixing):
    folder, card = unmixing
    loaded, path = load_card(folder / "zoo" / "small.fp32.json")
    assert path.name == card.file == "small.fp32.onnx"
    assert loaded == card
    assert loaded.training["data"]["domain"] == "sensor" and loaded.macs > 0 and loaded.unmixer.crop == 7


def test_an_existing_model_is_not_overwritten_unless_asked(unmixing):
    folder, card = unmixing
    before = (folder / "zoo" / card.file).stat().st_mtime_ns
    with pytest.raises(OutputError, match="exists"):
        export(folder / "last.safetensors", folder / "zoo", name="small")
    assert (folder / "zoo" / card.file).stat().st_mtime_ns == before


def test_an_unsound_export_is_refused_and_leaves_nothing(unmixing, tmp_path, monkeypatch):
    folder, _ = unmixing
    monkeypatch.setattr("glint.export.export.measure_parity", lambda *_: {"absolute": 1.0, "relative": 0.5})
    with pytest.raises(CheckFailedError, match="differs from PyTorch"):
        export(folder / "last.safetensors", tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()


def test_parity_notices_other_weights(unmixing):
    folder, card = unmixing
    _, model = load_model(folder / "last.safetensors")
    with torch.no_grad():
        model.proxes[0].project.bias.add_(1.0)
    trial = np.random.default_rng(0).random((3, 2, 7, 7)).astype(np.float32)
    assert measure_parity(model, folder / "zoo" / card.file, [trial])["relative"] > 1e-3


def test_parity_is_not_fooled_by_nan(unmixing):
    folder, card = unmixing
    _, model = load_model(folder / "last.safetensors")
    trial = np.full((1, 2, 7, 7), np.nan, dtype=np.float32)
    parity = measure_parity(model, folder / "zoo" / card.file, [trial])
    assert not parity["absolute"] <= 1e-3


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        export(tmp_path / "nothing.safetensors", tmp_path / "zoo")


def test_the_card_is_json_that_names_the_hash(unmixing):
    folder, card = unmixing
    stored = json.loads((folder / "zoo" / "small.fp32.json").read_text())
    assert stored["sha256"] == card.sha256 and len(card.sha256) == 64


def test_the_card_has_the_parity_of_every_output_and_the_islands(detection):
    _, card = detection
    outputs = card.parity["outputs"]
    assert list(outputs) == [o.name for o in card.outputs] == ["probability", "background", "target"]
    assert max(o["relative"] for o in outputs.values()) == card.parity["relative"]
    assert "low_rank.0.fine/fp32/" in card.islands and all(("/" + island).endswith("/fp32/") for island in card.islands)


def test_the_same_checkpoint_gives_the_same_bytes(unmixing, tmp_path):
    folder, _ = unmixing
    export(folder / "last.safetensors", tmp_path, name="small")
    for name in ("small.fp32.onnx", "small.fp32.json"):
        assert (tmp_path / name).read_bytes() == (folder / "zoo" / name).read_bytes()


# Sizes


def test_the_detector_is_exported_for_several_sizes_at_once(detection, tmp_path, capsys):
    folder, _ = detection
    checkpoint = folder / "run" / "last.safetensors"
    assert cli.main(["export", str(checkpoint), "--out", str(tmp_path), "--size", "64x48", "32x80"]) == 0
    assert "exporting lsnet-s.64x48" in capsys.readouterr().err
    files = {f"lsnet-s.{size}.fp32.{ending}" for size in ("64x48", "32x80") for ending in ("onnx", "json")}
    assert {path.name for path in tmp_path.iterdir()} == files
    any_size = Detector.open(folder / "zoo" / "lsnet-s.fp32.json")
    image = np.random.default_rng(0).integers(0, 255, (48, 64)).astype(np.uint8)
    for size, shape in (("64x48", (48, 64)), ("32x80", (80, 32))):
        card, path = load_card(tmp_path / f"lsnet-s.{size}.fp32.json")
        assert {spec.shape for spec in (*card.inputs, *card.outputs)} == {(1, 1, *shape)}
        assert "Shape" not in {node.op_type for node in onnx.load(path).graph.node}
        assert card.macs > 0 and card.parity["relative"] < 1e-4
    one_size = Detector.open(tmp_path / "lsnet-s.64x48.fp32.json")
    expected, actual = (d(Frame(0, 0, image)) for d in (any_size, one_size))
    assert np.abs(expected.probability - actual.probability).max() < 1e-4
    assert one_size(Frame(0, 0, image[:30, :30])).probability.shape == (30, 30)  # padded to the one size


def test_the_smallest_frame_can_be_exported(detection, tmp_path):
    folder, _ = detection
    (card,) = export(folder / "run" / "last.safetensors", tmp_path, sizes=[FrameSize(16, 16)])
    assert card.inputs[0].shape == (1, 1, 16, 16)


@pytest.mark.parametrize(("size", "fitting"), [("100x96", "112x96"), ("8x16", "16x16")])
def test_a_size_that_does_not_fit_is_refused_with_one_that_does(detection, tmp_path, capsys, size, fitting):
    folder, _ = detection
    words = ["export", folder / "run" / "last.safetensors", "--out", tmp_path, "--size", "64x48", size]
    assert cli.main([str(word) for word in words]) == 2
    assert f"multiples of 16\nhint: take {fitting}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_patch_network_takes_no_size(unmixing, tmp_path):
    folder, _ = unmixing
    with pytest.raises(InputError, match="patches of 7x7 pixels"):
        export(folder / "last.safetensors", tmp_path, sizes=[FrameSize(64, 64)])


@pytest.mark.parametrize("text", ["64", "64x", "axb", "64x48x3"])
def test_a_size_is_width_x_height(capsys, text):
    assert cli.main(["export", "a.safetensors", "--out", "b", "--size", text]) == 2
    assert "expected WIDTHxHEIGHT" in capsys.readouterr().err


def test_nothing_is_written_if_one_of_the_sizes_fails(detection, tmp_path, monkeypatch):
    folder, _ = detection
    parities = iter(
        [{"absolute": 0.0, "relative": 0.0, "outputs": {}}, {"absolute": 1.0, "relative": 0.5, "outputs": {}}]
    )
    monkeypatch.setattr("glint.export.export.measure_parity", lambda *_: next(parities))
    with pytest.raises(CheckFailedError, match=r"lsnet-s\.48x32"):
        export(folder / "run" / "last.safetensors", tmp_path, sizes=[FrameSize(32, 32), FrameSize(48, 32)])
    assert list(tmp_path.iterdir()) == []


# Operators


class Folding(nn.Module):
    """Takes a patch apart and puts it together again with an operator that TensorRT does not have."""

    OUTPUTS = ("grid",)

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.body = nn.Fold((7, 7), 1)

    def forward(self, patch):
        return self.body(patch.flatten(2))


def test_an_operator_that_tensorrt_refuses_is_named_with_its_place(unmixing, tmp_path, monkeypatch):
    folder, _ = unmixing
    info, model = load_model(folder / "last.safetensors")
    monkeypatch.setattr("glint.export.export.load_model", lambda _: (info, Folding(model.config)))
    with pytest.raises(ModelError, match=r"export of dscsnet-s: refused by every TensorRT at body/Col2Im") as error:
        export(folder / "last.safetensors", tmp_path)
    assert error.value.hint and list(tmp_path.iterdir()) == []


def test_a_network_must_name_all_its_outputs(unmixing, tmp_path, monkeypatch):
    folder, _ = unmixing
    monkeypatch.setattr("glint.training.networks.dscsnet.DSCSNet.OUTPUTS", ("grid", "presence"))
    with pytest.raises(InputError, match="gives 5 outputs"):
        export(folder / "last.safetensors", tmp_path)


def test_kept_weights_are_the_averaged_ones_and_nothing_else(unmixing, tmp_path):
    folder, _ = unmixing
    keep_weights(folder / "last.safetensors", tmp_path / "kept.safetensors")
    _, original = load_model(folder / "last.safetensors")
    info, kept = load_model(tmp_path / "kept.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(original.state_dict().values(), kept.state_dict().values()))
    assert info.step == RECIPE.steps and info.rng == {}
    assert (tmp_path / "kept.safetensors").stat().st_size < 0.5 * (folder / "last.safetensors").stat().st_size


def test_weights_kept_in_half_precision_are_the_same_to_its_rounding(unmixing, tmp_path):
    folder, _ = unmixing
    sizes = {}
    for half in (False, True):
        keep_weights(folder / "last.safetensors", tmp_path / f"{half}.safetensors", half=half)
        sizes[half] = (tmp_path / f"{half}.safetensors").stat().st_size
    assert sizes[True] < 0.6 * sizes[False]
    (_, exact), (_, rounded) = (load_model(tmp_path / f"{half}.safetensors") for half in (False, True))
    for (name, value), close in zip(exact.state_dict().items(), rounded.state_dict().values()):
        assert close.dtype == value.dtype
        assert torch.allclose(close, value, rtol=2**-11, atol=2**-24), name


def test_half_precision_without_weights_to_keep_is_refused(unmixing, tmp_path):
    folder, _ = unmixing
    with pytest.raises(InputError, match="--half"):
        export(folder / "last.safetensors", tmp_path / "out", half=True)
    assert not (tmp_path / "out").exists()
