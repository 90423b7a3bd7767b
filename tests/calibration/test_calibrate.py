"""``glint calibrate`` from end to end, with small calibration sets."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import tiny_net

from glint.calibration.calibrate import CalibrateOptions, calibrate
from glint.calibration.int8_layers import Graph
from glint.calibration.precision_plan import load_plan
from glint.cards import load_card
from glint.cli import main
from glint.errors import CheckFailedError, InputError, OutputError
from glint.export.lint.lint import lint
from glint.runtime.unmixing.unmix import unmix
from glint.simulation.patches import CONDITIONS, simulate_patches

QUICK = CalibrateOptions(samples=64, scored=120, budget=3.0)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """The small unmixer in fp16 and int8."""
    folder = tmp_path_factory.mktemp("zoo")
    for precision in ("fp16", "int8"):
        calibrate("dscsnet-s-csist", folder, precision=precision, options=QUICK)
    return folder


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_card_says_what_was_done_and_what_it_costs(zoo, precision):
    card, path = load_card(zoo / f"dscsnet-s-csist.{precision}.json", task="unmix")
    original, source = load_card("dscsnet-s-csist")
    assert (card.precision, card.name) == (precision, original.name)
    assert (card.inputs, card.outputs, card.unmixer, card.islands) == (
        original.inputs, original.outputs, original.unmixer, original.islands,
    )  # fmt: skip
    assert card.calibration["samples"] == 64 and card.calibration["range"]["largest"] < 65504 / 16
    assert card.parity["task"]["loss"] <= 3 and 0 < card.parity["relative"] < 1
    assert set(card.parity["outputs"]) == {spec.name for spec in card.outputs}
    islands = sum(len(t.raw_data) for t in onnx.load(path).graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
    assert path.stat().st_size - islands < 0.6 * (source.stat().st_size - islands)
    assert [finding.text() for finding in lint(onnx.load(path))] == []
    floor = {"fp16": 35, "int8": 10}[precision]
    assert all(output["sqnr_db"] > floor for output in card.parity["outputs"].values())


def test_most_of_the_work_is_in_int8(zoo):
    card = load_card(zoo / "dscsnet-s-csist.int8.json")[0]
    assert card.calibration["int8_share"] > 0.8
    operators = [node.op_type for node in onnx.load(zoo / card.file).graph.node]
    assert operators.count("DequantizeLinear") >= 2 * len(card.calibration["int8_layers"])


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_runtime_takes_them(zoo, precision):
    patches = simulate_patches(CONDITIONS["14bit"], 40, np.random.default_rng(3))
    model = zoo / f"dscsnet-s-csist.{precision}.json"
    exact, coarse = (unmix(patches.image, unmixer=m, engine="onnxruntime") for m in ("dscsnet-s-csist", model))
    assert abs(len(coarse.x) - len(exact.x)) <= 2
    count = np.bincount(exact.blob, minlength=40) == np.bincount(coarse.blob, minlength=40)
    same = np.isin(exact.blob, np.flatnonzero(count)), np.isin(coarse.blob, np.flatnonzero(count))
    assert np.median(np.abs(exact.x[same[0]] - coarse.x[same[1]])) < 0.01


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_same_command_gives_the_same_bytes(zoo, tmp_path, precision):
    calibrate("dscsnet-s-csist", tmp_path, precision=precision, options=QUICK)
    for ending in ("onnx", "json"):
        name = f"dscsnet-s-csist.{precision}.{ending}"
        assert (tmp_path / name).read_bytes() == (zoo / name).read_bytes()


def test_another_calibration_set_gives_other_scales(zoo, tmp_path):
    calibrate("dscsnet-s-csist", tmp_path, precision="int8", options=replace(QUICK, seed=5))
    name = "dscsnet-s-csist.int8.onnx"
    assert (tmp_path / name).read_bytes() != (zoo / name).read_bytes()


def test_a_saved_set_and_an_edited_plan_are_followed(zoo, tmp_path):
    first, second = tmp_path / "one", tmp_path / "two"
    listed, plan = tmp_path / "set.json", tmp_path / "plan.json"
    calibrate("dscsnet-s-csist", first, precision="int8", options=QUICK, save_set=listed, save_plan_to=plan)
    name = "dscsnet-s-csist.int8.onnx"
    assert (first / name).read_bytes() == (zoo / name).read_bytes()
    stored = json.loads(plan.read_text())
    left = [layer for layer in stored["layers"] if not layer.startswith("head.")]
    stored["layers"].update(dict.fromkeys(left, "fp16"))
    plan.write_text(json.dumps(stored))
    options = replace(QUICK, samples=None, set_file=listed, plan=plan)
    card = calibrate("dscsnet-s-csist", second, precision="int8", options=options)
    assert card.calibration["int8_layers"] and all(n.startswith("head.") for n in card.calibration["int8_layers"])
    graph = Graph(onnx.load(second / name))
    assert "proxes.0.features/Conv/DequantizeLinear_0" not in graph.nodes
    assert "head.blocks.0.first/Conv/DequantizeLinear_0" in graph.nodes


def test_a_missed_budget_writes_nothing(tmp_path):
    with pytest.raises(CheckFailedError, match=r"the budget is 0.0001") as caught:
        calibrate("dscsnet-s-csist", tmp_path / "new", precision="int8", options=replace(QUICK, budget=1e-4))
    assert "--search" in caught.value.hint
    assert not (tmp_path / "new").exists()


def test_a_detector_of_any_size_stays_one(tmp_path):
    path = tiny_net.save_tiny(tmp_path)
    options = CalibrateOptions(samples=4, scored=2, budget=100.0)
    for precision in ("fp16", "int8"):
        card = calibrate(path, tmp_path, precision=precision, options=options)
        assert card.inputs[0].shape == (1, 1, -1, -1)
        model = onnx.load(tmp_path / card.file)
        for shape in ((32, 48), (64, 32)):
            frame = np.random.default_rng(0).normal(size=(1, 1, *shape)).astype(np.float32)
            assert [value.shape for value in tiny_net.run(model, frame)] == [(1, 1, *shape)] * 2
    assert card.calibration["int8_layers"] == tiny_net.CANDIDATES


def test_a_search_is_saved_as_a_plan(tmp_path):
    path = tiny_net.save_tiny(tmp_path)
    options = CalibrateOptions(samples=4, scored=2, budget=100.0, find_plan=True)
    calibrate(path, tmp_path, precision="int8", options=options, save_plan_to=tmp_path / "plan.json")
    plan = load_plan(tmp_path / "plan.json")
    assert set(plan.layers) == set(tiny_net.CANDIDATES) and set(plan.measured) == {*plan.layers, tiny_net.SKIP}
    assert plan.pareto


def test_values_beyond_fp16_are_refused_before_anything_is_written(tmp_path):
    path = tiny_net.save_tiny(tmp_path / "hot", tiny_net.tiny(gain=3e4))
    with pytest.raises(InputError, match="fp16 ends at"):
        calibrate(path, tmp_path / "out", precision="fp16", options=CalibrateOptions(samples=4, scored=2))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"precision": "int4"}, "expected fp16 or int8"),
        ({"options": CalibrateOptions(find_plan=True)}, "what runs in int8"),
        ({"options": CalibrateOptions(methods=("magic",)), "precision": "int8"}, "expected some of"),
    ],
)
def test_requests_that_make_no_sense_are_refused(tmp_path, change, reason):
    options = change.get("options")
    if options is not None:
        options = replace(options, samples=16)
    arguments = {"precision": "fp16", **change, "options": options}
    with pytest.raises(InputError, match=reason):
        calibrate("dscsnet-s-csist", tmp_path, **arguments)


def test_options_that_exclude_each_other_are_refused(tmp_path):
    with pytest.raises(InputError, match="exclude each other"):
        CalibrateOptions(plan=tmp_path, find_plan=True)
    with pytest.raises(InputError, match="own number"):
        CalibrateOptions(set_file=tmp_path, samples=3)


def test_what_is_no_fp32_model_is_refused(zoo, tmp_path):
    with pytest.raises(InputError, match="starts from the fp32 model"):
        calibrate(zoo / "dscsnet-s-csist.fp16.onnx", tmp_path, precision="int8")
    with pytest.raises(OutputError, match="exists"):
        calibrate("dscsnet-s-csist", zoo, precision="fp16", options=QUICK)


def test_the_command(zoo, tmp_path, capsys):
    words = ["calibrate", "dscsnet-s-csist", "--precision", "fp16", "--out", str(tmp_path), "--samples", "64"]
    assert main([*words, "--scored", "120", "--budget", "3", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["precision"] == "fp16" and "refined" in said.err
    name = "dscsnet-s-csist.fp16.onnx"
    assert (tmp_path / name).read_bytes() == (zoo / name).read_bytes()
    assert main(words) == 2 and "exists" in capsys.readouterr().err
    assert main(["calibrate", "nothing", "--precision", "fp16"]) == 2
    assert "error: no released model 'nothing'" in capsys.readouterr().err


def test_the_command_refuses_bad_data(tmp_path, capsys):
    np.save(tmp_path / "zeros.npy", np.zeros((40, 11, 11), np.float32))
    words = ["calibrate", "dscsnet-s-csist", "--precision", "int8", "--out", str(tmp_path / "out")]
    assert main([*words, "--data", str(tmp_path / "zeros.npy")]) == 2
    said = capsys.readouterr().err
    assert "40 of 40 samples are all zeros" in said and "hint:" in said and "Traceback" not in said
    assert not (tmp_path / "out").exists()
