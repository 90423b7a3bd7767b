"""``glint parity``: pairs of all kinds, a verdict that can fail, and a report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sirst_folder import sirst_folder

pytest.importorskip("onnx")
import onnx
from onnx import numpy_helper

from glint.cards import load_card, save_card
from glint.files import sha256
from glint.images import write_image
from glint.simulation.patches import CONDITIONS, simulate_patches

Glint = Callable[..., Any]
FEW = ("--number", 30, "--condition", "8sat", "--threads", 1)
UNMIXER = "dscsnet-s-csist"


def variant(folder: Path, model: str, change: Callable[[onnx.ModelProto], None], *, card: bool = True) -> Path:
    """A changed copy of a released model, with its card or without."""
    original, path = load_card(model)
    graph = onnx.load(path)
    change(graph)
    out = folder / f"changed.{original.precision}.onnx"
    onnx.save(graph, out)
    if card:
        save_card(replace(original, name="changed", file=out.name, sha256=sha256(out)), folder)
    return out


def scaled(number: int, factor: float) -> Callable[[onnx.ModelProto], None]:
    """Changes the weights of one convolution."""

    def change(model: onnx.ModelProto) -> None:
        node = [n for n in model.graph.node if n.op_type == "Conv"][number]
        weight = next(t for t in model.graph.initializer if t.name == node.input[1])
        value = numpy_helper.to_array(weight) * np.float32(factor)
        weight.CopyFrom(numpy_helper.from_array(value, weight.name))

    return change


def blinded(model: onnx.ModelProto) -> None:
    """Takes 100 from the logit of every pixel."""
    bias = next(t for t in model.graph.initializer if t.name == "sparse.2.mask.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) - np.float32(100), bias.name))


def conv_name(model: str, number: int) -> str:
    graph = onnx.load(load_card(model)[1]).graph
    return [n.name for n in graph.node if n.op_type == "Conv"][number]


class Text(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.tags = "", []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_model_is_the_same_as_itself(glint: Glint) -> None:
    done = glint("parity", UNMIXER, f"{UNMIXER}:fp32", *FEW, "--layers", "--json")
    assert done.code == 0
    result = json.loads(done.out)
    assert result["passed"] and result["reasons"] == []
    assert result["data"] == {"data": "simulated", "conditions": ["8sat"], "number": 30, "seed": 1, "labelled": True}
    assert all(row["difference"] == row["low"] == row["high"] == 0 for row in result["scores"])
    assert result["outputs"].keys() == {"grid", "presence", "offset", "radiance", "spread"}
    assert all(o["absolute"]["max"] == 0 and o["sqnr_db"] is None for o in result["outputs"].values())
    assert result["layers"]["compared"] > 100 and result["layers"]["first_bad"] is None
    assert result["layers"]["largest_losses"] == []
    assert result["moved"] == {"8sat": {"patches": 30, "other_number": 0, "median": 0.0, "q99": 0.0, "max": 0.0}}


def test_a_broken_layer_fails_and_is_named(glint: Glint, tmp_path: Path) -> None:
    changed = variant(tmp_path, UNMIXER, scaled(5, 1.3))
    done = glint("parity", UNMIXER, changed, *FEW, "--out", tmp_path / "report.html")
    assert done.code == 1
    name = conv_name(UNMIXER, 5)
    assert done.out.startswith("FAILED: changed.fp32.onnx")
    assert "tolerance" in done.out and f"the first bad one is {name} (Conv)" in done.out
    page = Text((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "does not keep to the budget" in page.text
    assert name in page.text and "Where they differ most" in page.text
    assert page.tags.count("image") == 4 * 6  # the worst six: input, two outputs, their difference
    assert "script" not in page.tags and "link" not in page.tags


def test_how_far_refined_targets_move_is_told(glint: Glint, tmp_path: Path) -> None:
    changed = variant(tmp_path, UNMIXER, scaled(5, 1.001))
    done = glint("parity", UNMIXER, changed, *FEW, "--tolerance", 1, "--out", tmp_path / "report.html", "--json")
    row = json.loads(done.out)["moved"]["8sat"]
    assert row["patches"] == 30 and 0 < row["median"] <= row["q99"] <= row["max"] < 0.1
    assert "another number of targets" in Text((tmp_path / "report.html").read_text(encoding="utf-8")).text
    told = glint("parity", UNMIXER, changed, *FEW, "--tolerance", 1).out
    line = next(
        line for line in told.splitlines() if line.startswith("8sat") and "CSO" not in line and "count" not in line
    )
    assert line.split()[1] == "0" and float(line.split()[-1]) == pytest.approx(row["max"], rel=0.1)


def test_the_budget_is_the_users(glint: Glint, tmp_path: Path) -> None:
    changed = variant(tmp_path, UNMIXER, scaled(5, 1.001))
    words = ("parity", UNMIXER, changed, *FEW, "--json")
    wide = glint(*words, "--budget", 100, "--tolerance", 1)
    assert wide.code == 0 and json.loads(wide.out)["layers"] is None
    result = json.loads(glint(*words, "--budget", 100, "--tolerance", 0).out)
    assert not result["passed"] and all("tolerance" in reason for reason in result["reasons"])
    needed = max(o["needed"] for o in result["outputs"].values())
    assert glint(*words, "--budget", 100, "--tolerance", 1.001 * needed).code == 0
    assert glint(*words, "--budget", 100, "--tolerance", 0.999 * needed).code == 1


def test_scores_are_judged_by_precision(glint: Glint, tmp_path: Path) -> None:
    """The same loss is too much for an fp32 file, and not judged by its tensors in an int8 file."""
    original, path = load_card(UNMIXER)
    changed = variant(tmp_path, UNMIXER, scaled(5, 1.02))
    shutil.copy(changed, tmp_path / "changed.int8.onnx")
    card = replace(original, name="changed", precision="int8", file="changed.int8.onnx", sha256=sha256(changed))
    save_card(card, tmp_path)
    one, two = (
        json.loads(glint("parity", path, tmp_path / f"changed.{p}.onnx", *FEW, "--json").out) for p in ("fp32", "int8")
    )
    assert (one["budget"]["points"], two["budget"]["points"]) == (0.05, 0.3)
    assert one["scores"][0]["difference"] == two["scores"][0]["difference"]
    assert any("tolerance" in reason for reason in one["reasons"])
    assert not any("tolerance" in reason for reason in two["reasons"])


def test_a_checkpoint_and_its_export_agree(glint: Glint) -> None:
    pytest.importorskip("torch")
    weights = Path(__file__).parents[2] / "training" / "weights" / f"{UNMIXER}.safetensors"
    done = glint("parity", weights, UNMIXER, *FEW, "--layers", "--json")
    result = json.loads(done.out)
    assert done.code == 0
    assert (result["reference"]["engine"]["name"], result["candidate"]["engine"]["name"]) == ("torch", "onnxruntime")
    assert max(o["needed"] for o in result["outputs"].values()) < 1e-3
    assert "both must be ONNX files" in result["notes"][-1]


def test_a_file_without_a_card_is_read_by_the_others(glint: Glint, tmp_path: Path) -> None:
    bare = variant(tmp_path, UNMIXER, lambda model: None, card=False)
    assert glint("parity", bare, UNMIXER, *FEW).code == glint("parity", UNMIXER, bare, *FEW).code == 0
    glint("parity", bare, bare, *FEW).refused(2, "model card", "hint:")


def test_patches_without_labels_are_judged_by_the_reference(glint: Glint, tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", simulate_patches(CONDITIONS["n1"], 20, np.random.default_rng(0)).image)
    changed = variant(tmp_path, UNMIXER, scaled(5, 1.2))
    done = glint("parity", UNMIXER, changed, "--data", tmp_path / "p.npy", "--threads", 1, "--json")
    result = json.loads(done.out)
    rows = {row["score"]: row for row in result["scores"]}
    assert rows["CSO-mAP refined"]["data"] == "p.npy"
    assert rows["CSO-mAP refined"]["reference"] == rows["count refined"]["reference"] == 100
    assert "no labels" in result["notes"][0] and not result["data"]["labelled"]


def test_a_csist_folder_has_labels(glint: Glint, tmp_path: Path) -> None:
    assert glint("simulate", tmp_path / "csist", "--number", 12).code == 0
    result = json.loads(glint("parity", UNMIXER, UNMIXER, "--data", tmp_path / "csist", "--number", 10, "--json").out)
    assert result["data"] == {"data": "csist", "number": 10, "labelled": True}
    assert result["scores"][2]["reference"] > 50


def test_detectors_are_compared_on_labelled_images(glint: Glint, tmp_path: Path) -> None:
    done = glint("parity", "lsnet-s", "lsnet-s", "--data", sirst_folder(tmp_path / "sirst"), "--threads", 1, "--json")
    result = json.loads(done.out)
    assert done.code == 0 and result["data"]["labelled"]
    assert [(row["data"], row["score"]) for row in result["scores"]] == [
        ("sirst/val", score) for score in ("IoU", "nIoU", "Pd", "Fa")
    ]
    assert result["outputs"].keys() == {"probability", "background", "target"}


def test_a_detector_that_lost_a_target_fails(glint: Glint, tmp_path: Path) -> None:
    changed = variant(tmp_path, "lsnet-s", blinded)
    root = sirst_folder(tmp_path / "sirst")
    out = tmp_path / "report.html"
    done = glint(
        "parity", "lsnet-s", changed, "--data", root, "--budget", 100, "--tolerance", 100, "--threads", 1, "--out", out
    )
    assert done.code == 1
    assert "Pd on sirst/val went from 100.00" in done.out and "no change" in done.out
    assert "frame one" in Text(out.read_text(encoding="utf-8")).text


def test_frames_without_labels_are_judged_by_the_reference(glint: Glint, night: Path, scene: str) -> None:
    for data in (night, scene):
        result = json.loads(
            glint("parity", "lsnet-s", "lsnet-s", "--data", data, "--number", 2, "--threads", 1, "--json").out
        )
        assert result["scores"][0]["reference"] == 100 and result["passed"]
    assert (
        json.loads(glint("parity", "lsnet-s", "lsnet-s", "--number", 1, "--threads", 1, "--json").out)["scores"][0][
            "data"
        ]
        == "simulated"
    )


@pytest.mark.parametrize("model", [UNMIXER, "lsnet-s"])
def test_nan_is_an_error_that_names_output_and_layer(glint: Glint, tmp_path: Path, model: str) -> None:
    changed = variant(tmp_path, model, scaled(3, np.nan))
    words = FEW if model == UNMIXER else ("--data", sirst_folder(tmp_path / "sirst"), "--threads", 1)
    done = glint("parity", model, changed, *words)
    done.refused(1, "changed.fp32.onnx", "NaN or infinite", conv_name(model, 3))


def test_other_networks_are_refused(glint: Glint, tmp_path: Path) -> None:
    glint("parity", UNMIXER, "lsnet-s").refused(2, "inputs differ", "hint:")
    glint("parity", UNMIXER, "dscsnet-s-sensor").refused(2, "the cards disagree on", "hint:")

    def rename(model: onnx.ModelProto) -> None:
        model.graph.node.append(onnx.helper.make_node("Identity", [model.graph.output[0].name], ["other"]))
        model.graph.output[0].name = "other"

    bare = variant(tmp_path, UNMIXER, rename, card=False)
    glint("parity", UNMIXER, bare).refused(2, "outputs differ", "other")


def test_data_that_do_not_fit_are_refused(glint: Glint, tmp_path: Path) -> None:
    def parity(data: object, model: str = UNMIXER) -> Any:
        return glint("parity", model, model, "--data", data, "--threads", 1)

    np.save(tmp_path / "none.npy", np.zeros((0, 11, 11)))
    np.save(tmp_path / "small.npy", np.zeros((3, 9, 9)))
    np.save(tmp_path / "flat.npy", np.zeros((3, 121)))
    np.save(tmp_path / "nan.npy", np.full((3, 11, 11), np.nan))
    parity(tmp_path / "none.npy").refused(2, "no patches")
    parity(tmp_path / "small.npy").refused(2, "[N, 11, 11]")
    parity(tmp_path / "flat.npy").refused(2, "[N, n, n]")
    parity(tmp_path / "nan.npy").refused(2, "NaN")
    parity(tmp_path / "nowhere").refused(2, "nowhere")
    parity(tmp_path / "nowhere", "lsnet-s").refused(2, "nowhere")
    parity(tmp_path / "small.npy", "lsnet-s").refused(2, "frames, not patches", "hint:")
    glint("parity", UNMIXER, UNMIXER, "--data", tmp_path / "none.npy", "--condition", "8sat").refused(2, "--condition")


def test_data_without_targets_judge_nothing_and_are_refused(glint: Glint, tmp_path: Path) -> None:
    np.save(tmp_path / "dark.npy", np.zeros((3, 11, 11)))
    words = (UNMIXER, UNMIXER, "--data", tmp_path / "dark.npy", "--threads", 1)
    glint("parity", *words).refused(2, "no targets that the reference finds", "hint:")
    root = sirst_folder(tmp_path / "sirst")
    for name in ("one", "two"):
        write_image(root / "masks" / f"{name}.png", np.zeros((40, 48), np.uint8))
    glint("parity", "lsnet-s", "lsnet-s", "--data", root, "--threads", 1).refused(2, "hold no targets:")


def test_a_verdict_stands_without_layers_in_common(glint: Glint, tmp_path: Path) -> None:
    def rename(model: onnx.ModelProto) -> None:
        scaled(5, 1.3)(model)
        for number, node in enumerate(model.graph.node):
            node.name = f"n{number}"

    changed = variant(tmp_path, UNMIXER, rename)
    result = json.loads(glint("parity", UNMIXER, changed, *FEW, "--json").out)
    assert not result["passed"] and result["layers"] is None and "in common" in result["notes"][-1]
    glint("parity", UNMIXER, changed, *FEW, "--layers").refused(2, "in common")


def test_what_cannot_be_opened_is_refused(glint: Glint, tmp_path: Path, broken: Callable[[str, str], Path]) -> None:
    glint("parity", UNMIXER, f"{UNMIXER}:int4").refused(2, "int4")
    glint("parity", UNMIXER, tmp_path / "x.onnx").refused(2, "x.json")
    glint("parity", UNMIXER, tmp_path / "x.plan").refused(2, "x.plan")
    glint("parity", UNMIXER, f"{tmp_path / 'x.safetensors'}@tensorrt").refused(2, "not a choice")
    glint("parity", f"{UNMIXER}@tensorrt", UNMIXER).refused(3, "TensorRT")
    glint("parity", UNMIXER, broken(UNMIXER, "hash")).refused(2, "hash")


def test_a_report_is_not_overwritten_and_not_left_half(glint: Glint, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("mine")
    words = ("parity", UNMIXER, UNMIXER, *FEW, "--out", out)
    glint(*words).refused(2, "report.html", "--overwrite")
    assert out.read_text() == "mine"
    assert glint(*words, "--overwrite").code == 0
    assert out.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    glint("parity", UNMIXER, "lsnet-s", "--out", tmp_path / "other.html").refused(2, "differ")
    assert not (tmp_path / "other.html").exists()


@pytest.mark.parametrize(
    "words", [["--budget", "-1"], ["--tolerance", "nan"], ["--number", "0"], ["--condition", "rain"]]
)
def test_a_bad_option_is_a_usage_error(glint: Glint, words: list[str]) -> None:
    glint("parity", UNMIXER, UNMIXER, *words).refused(2, words[0])
