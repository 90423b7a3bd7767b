from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sirst_folder import sirst_folder

from glint.cards import load_card
from glint.images import write_image

Glint = Callable[..., Any]


def test_an_unmixer_is_scored_on_its_grid_off_it_and_refined(glint: Glint) -> None:
    done = glint("evaluate", "dscsnet-s-sensor", "--number", 40, "--condition", "n1", "--json")
    assert done.code == 0
    result = json.loads(done.out)
    assert (result["model"], result["precision"], result["engine"]) == ("dscsnet-s-sensor", "fp32", "onnxruntime")
    assert (result["condition"], result["number"], result["seed"], result["patches"]) == ("n1", 40, 1, 40)
    for name in ("grid", "network", "refined"):
        score = result[name]
        assert len(score["ap"]) == 5
        assert score["cso_map"] == pytest.approx(np.mean(score["ap"]), abs=1e-3)
        assert all(0 <= v <= 100 for v in (*score["ap"], score["count_accuracy"], score["matched"]))
    assert result["refined"]["cso_map"] > result["grid"]["cso_map"]  # what the refinement is for
    assert result["refined"]["matched"] > 50
    assert result["ms_per_patch"].keys() == {"unmix", "refine"}


def test_a_detector_is_scored_on_labelled_images(glint: Glint, tmp_path: Path) -> None:
    done = glint("evaluate", "lsnet-s", "--data", sirst_folder(tmp_path / "sirst"), "--json")
    assert done.code == 0
    result = json.loads(done.out)
    assert (result["data"], result["split"], result["images"], result["targets"]) == ("sirst", "val", 2, 2)
    assert result["matching"] == "one-to-one"
    assert all(0 <= result[name] <= 100 for name in ("iou", "niou", "f1", "pd"))
    assert result["pd"] == 100  # two bright squares in a quiet sky
    assert all(low <= result[name] <= high for name, (low, high) in result["intervals"].items())
    assert (result["list"], result["protocol"], result["leaks"]) == ("val.txt", "native", None)
    assert {point["threshold"] for point in result["curve"]} >= {0.1, 0.5, 0.9}
    assert set(result["decomposition"]) >= {"background_error_on", "target_energy_on"}


def test_without_json_there_is_a_table_for_people(glint: Glint, tmp_path: Path) -> None:
    unmixed = glint("evaluate", "dscsnet-s-sensor", "--number", 5)
    assert unmixed.code == 0
    assert "CSO-mAP" in unmixed.out
    assert all(f"\n{row} " in unmixed.out for row in ("grid", "network", "refined"))
    detected = glint("evaluate", "lsnet-s", "--data", sirst_folder(tmp_path / "sirst"), "--legacy")
    assert detected.code == 0
    assert "sirst/val (2 images, 2 targets; protocol native" in detected.out
    assert "legacy matching: pd 100.00 %" in detected.out


def test_a_csist_folder_is_scored_like_the_simulation_it_came_from(glint: Glint, tmp_path: Path) -> None:
    words = ("--number", 20, "--condition", "8sat", "--seed", 4)
    assert glint("simulate", tmp_path / "csist", *words).code == 0
    folder = json.loads(glint("evaluate", "dscsnet-s-sensor", "--data", tmp_path / "csist", "--json").out)
    fresh = json.loads(glint("evaluate", "dscsnet-s-sensor", *words, "--json").out)
    assert folder["data"] == "csist"
    for name in ("grid", "network", "refined"):
        assert folder[name] == fresh[name]


def test_a_radiance_prior_is_used_and_told(glint: Glint) -> None:
    words = ("evaluate", "dscsnet-s-sensor", "--number", 20, "--condition", "n5", "--json")
    free, known = json.loads(glint(*words).out), json.loads(glint(*words, "--radiance-prior", "235,10").out)
    assert (free["radiance_prior"], known["radiance_prior"]) == (None, [235, 10])
    assert known["grid"] == free["grid"]
    assert known["network"] == free["network"]
    assert known["refined"]["radiance_error"] < free["refined"]["radiance_error"]


def test_the_radiance_prior_is_that_of_the_card_unless_it_is_said_to_be_unknown(glint: Glint) -> None:
    words = ("evaluate", "dscsnet-s-csist", "--number", 20, "--condition", "n5", "--json")
    card = load_card("dscsnet-s-csist")[0].unmixer
    assert card is not None and card.radiance_prior is not None
    mean, sd = card.radiance_prior
    by_card, same, unknown = (
        json.loads(glint(*words, *more).out)
        for more in ((), ("--radiance-prior", f"{mean},{sd}"), ("--radiance-prior", "none"))
    )
    assert by_card["radiance_prior"] == [mean, sd]
    assert by_card["refined"] == same["refined"]
    assert unknown["radiance_prior"] is None
    assert unknown["network"] == by_card["network"]
    assert unknown["refined"]["radiance_error"] > by_card["refined"]["radiance_error"]


def test_no_refine_is_obeyed_or_not_offered(glint: Glint) -> None:
    done = glint("evaluate", "dscsnet-s-sensor", "--number", 2, "--no-refine", "--json")
    assert done.code == 2 or not json.loads(done.out).get("refined")


def test_a_square_protocol_is_named_and_used(glint: Glint, tmp_path: Path) -> None:
    root = sirst_folder(tmp_path / "sirst")
    result = json.loads(glint("evaluate", "lsnet-s", "--data", root, "--protocol", "256", "--json").out)
    assert (result["protocol"], result["targets"]) == ("256", 2)
    assert result["iou"] != json.loads(glint("evaluate", "lsnet-s", "--data", root, "--json").out)["iou"]


def test_stored_masks_are_scored_like_the_model_that_made_them(glint: Glint, tmp_path: Path) -> None:
    root = sirst_folder(tmp_path / "sirst")
    assert glint("detect", root / "images", "--out", tmp_path / "masks").code == 0
    stored = json.loads(glint("evaluate", "--pred", tmp_path / "masks", "--data", root, "--json").out)
    model = json.loads(glint("evaluate", "lsnet-s", "--data", root, "--json").out)
    for name in ("iou", "niou", "f1", "pd", "fa", "intervals", "targets", "images"):
        assert stored[name] == model[name]
    assert (stored["model"], stored["engine"], stored["curve"]) == ("masks", "stored", [])
    (tmp_path / "masks" / "two.png").unlink()
    glint("evaluate", "--pred", tmp_path / "masks", "--data", root).refused(2, "the first is 'two'")


def test_a_model_or_predictions_but_not_both_or_neither(glint: Glint, tmp_path: Path) -> None:
    glint("evaluate", "--data", tmp_path).refused(2, "a model or predictions")
    glint("evaluate", "lsnet-s", "--pred", tmp_path, "--data", tmp_path).refused(2, "a model or predictions")
    glint("evaluate", "--pred", tmp_path).refused(2, "labelled images")
    glint("evaluate", "--pred", tmp_path, "--data", tmp_path, "--backgrounds", tmp_path).refused(2, "needs a model")


@pytest.mark.parametrize("option", ["--out", "--backgrounds"])
def test_what_is_for_detectors_is_refused_for_an_unmixer(glint: Glint, tmp_path: Path, option: str) -> None:
    glint("evaluate", "dscsnet-s-sensor", "--number", 2, option, tmp_path / "x").refused(2, option)
    assert not (tmp_path / "x").exists()


def test_leaks_are_listed_and_shared_names_refused(glint: Glint, tmp_path: Path) -> None:
    root = sirst_folder(tmp_path / "sirst")
    write_image(root / "images" / "old.png", np.asarray(Image.open(root / "images" / "one.png")))
    (root / "train.txt").write_text("old\n")
    done = json.loads(glint("evaluate", "lsnet-s", "--data", root, "--json").out)
    assert done["leaks"]["against"] == "train"
    assert done["leaks"]["near_duplicates"][0] == {"first": "old", "second": "one", "correlation": 1.0}
    (root / "train.txt").write_text("old\ntwo\n")
    glint("evaluate", "lsnet-s", "--data", root).refused(2, "train and val share 1 images: two", "hint:")
    assert json.loads(glint("evaluate", "lsnet-s", "--data", root, "--against", "none", "--json").out)["leaks"] is None
    glint("evaluate", "lsnet-s", "--data", root, "--against", "dev").refused(2, "dev.txt")


def test_backgrounds_give_false_alarms_and_the_curve_of_planted_targets(glint: Glint, tmp_path: Path) -> None:
    root = sirst_folder(tmp_path / "sirst")
    sky = np.round(np.random.default_rng(1).normal(50, 2, (128, 160))).astype(np.uint8)
    write_image(tmp_path / "sky" / "a.png", sky)
    words = ("evaluate", "lsnet-s", "--data", root, "--backgrounds", tmp_path / "sky", "--seed", 2)
    result = json.loads(glint(*words, "--json").out)["backgrounds"]
    assert (result["data"], result["seed"], result["false_alarms"]["frames"]) == ("sky", 2, 1)
    assert [point["scr"] for point in result["pd_by_scr"]] == [1, 2, 3, 4, 5, 7, 10]
    assert result["flux"]["clusters"] > 0
    assert "false alarms per frame" in glint(*words).out
    glint("evaluate", "lsnet-s", "--data", root, "--backgrounds", tmp_path / "nowhere").refused(2, "nowhere")


def test_a_report_is_written_once(glint: Glint, tmp_path: Path) -> None:
    words = (
        "evaluate",
        "lsnet-s",
        "--data",
        sirst_folder(tmp_path / "sirst"),
        "--out",
        tmp_path / "report",
        "--json",
    )
    done = glint(*words)
    assert done.code == 0
    assert "report.html" in done.err
    assert json.loads((tmp_path / "report" / "scores.json").read_text()) == json.loads(done.out)
    assert (tmp_path / "report" / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert {p.name for p in (tmp_path / "report" / "worst").iterdir()} == {"one.png", "two.png"}
    glint(*words).refused(2, "not empty", "--overwrite")
    assert glint(*words, "--overwrite").code == 0


def test_images_without_any_target_have_a_score_in_json(glint: Glint, tmp_path: Path) -> None:
    done = glint("evaluate", "lsnet-s", "--data", sirst_folder(tmp_path / "sky", target=False), "--json")
    assert done.code == 0
    assert json.loads(done.out)["pd"] is None


def test_a_detector_needs_data(glint: Glint) -> None:
    glint("evaluate", "lsnet-s").refused(2, "labelled images", "hint: --data")


def test_missing_data_splits_images_and_masks_are_refused(glint: Glint, tmp_path: Path) -> None:
    root = sirst_folder(tmp_path / "sirst")
    glint("evaluate", "lsnet-s", "--data", tmp_path / "nowhere").refused(2, "nowhere")
    glint("evaluate", "lsnet-s", "--data", root, "--split", "test").refused(2, "test.txt", "hint:", "val")
    (root / "masks" / "two.png").unlink()
    glint("evaluate", "lsnet-s", "--data", root).refused(2, "'two'")
    glint("evaluate", "dscsnet-s-sensor", "--data", tmp_path / "nowhere").refused(2, "nowhere")


def test_a_truncated_image_or_a_mask_of_another_size_is_refused(glint: Glint, tmp_path: Path) -> None:
    root = sirst_folder(tmp_path / "sirst")
    write_image(root / "masks" / "two.png", np.zeros((40, 40), np.uint8))
    glint("evaluate", "lsnet-s", "--data", root).refused(2, "two.png")
    (root / "images" / "one.png").write_bytes((root / "images" / "one.png").read_bytes()[:80])
    glint("evaluate", "lsnet-s", "--data", root).refused(2, "one.png")


def test_a_csist_folder_with_a_malformed_annotation_is_refused(glint: Glint, tmp_path: Path) -> None:
    assert glint("simulate", tmp_path / "csist", "--number", 2).code == 0
    (tmp_path / "csist" / "annotations" / "CSO1.xml").write_text("<annotation>")
    glint("evaluate", "dscsnet-s-sensor", "--data", tmp_path / "csist").refused(2, "CSO1.xml")
    (tmp_path / "csist" / "annotations" / "CSO1.xml").unlink()
    glint("evaluate", "dscsnet-s-sensor", "--data", tmp_path / "csist").refused(2, "annotation")


@pytest.mark.parametrize("how", ["hash", "corrupt", "absent", "card"])
def test_a_broken_model_is_an_error(glint: Glint, broken: Callable[[str, str], Path], how: str) -> None:
    card = broken("dscsnet-s-sensor", how)
    glint("evaluate", card, "--number", 2).refused(2, card.stem)


def test_a_checkpoint_without_torch_says_how_to_get_it(
    glint: Glint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "glint.benchmarks.torch_engine", raising=False)
    glint("evaluate", tmp_path / "x.safetensors").refused(3, "torch is not installed", "'.[train]'")


def test_an_unknown_model_and_a_missing_engine_have_their_codes(glint: Glint, tmp_path: Path) -> None:
    glint("evaluate", "alexnet").refused(2, "'alexnet'", "hint:")
    glint("evaluate", "dscsnet-s-sensor", "--number", 2, "--engine", "tensorrt").refused(3, "TensorRT", "hint:")


@pytest.mark.parametrize(
    "words",
    [["--seed", "-1"], ["--number", "0"], ["--condition", "rain"], ["--protocol", "128"], ["--radiance-prior=-1,2"]],
)
def test_a_bad_option_is_a_usage_error(glint: Glint, words: list[str]) -> None:
    glint("evaluate", "dscsnet-s-sensor", "--number", "2", *words).refused(2, words[0].split("=")[0])


def test_a_process_leaves_with_the_code_of_the_command(shell: Callable[..., Any]) -> None:
    shell("evaluate", "dscsnet-s-sensor", "--engine", "tensorrt").refused(3, "TensorRT")


def boxed(root: Path) -> Path:
    """A folder of two images with one box each, one of which holds a bright spot."""
    rng = np.random.default_rng(2)
    for name, light in (("one", 120), ("two", 0)):
        image = rng.normal(50, 2, (40, 48))
        image[15:17, 20:22] += light
        write_image(root / "images" / f"{name}.png", np.round(image).astype(np.uint8))
    entry = {"box": [17, 12, 8, 8], "point": [20.5, 15.5], "good": True, "scr": 30.0}
    (root / "points.json").write_text(json.dumps({"one": entry, "two": entry}))
    (root / "val.txt").write_text("one\ntwo\n")
    return root


def test_several_sets_are_scored_in_one_table(glint: Glint, tmp_path: Path) -> None:
    masks, boxes = sirst_folder(tmp_path / "sirst"), boxed(tmp_path / "drones")
    for i in range(3):
        image = np.random.default_rng(i).normal(50, 2, (40, 48)).round().astype(np.uint8)
        write_image(tmp_path / "empty" / f"{i}.png", image)
    words = ("evaluate", "lsnet-s", "--data", masks, "--data", boxes, "--backgrounds", tmp_path / "empty")
    result = json.loads(glint(*words, "--json").out)
    first, second = result["sets"]
    assert (first["data"], first["labels"], first["images"], first["targets"]) == ("sirst", "masks", 2, 2)
    alone = json.loads(glint("evaluate", "lsnet-s", "--data", masks, "--json").out)
    assert all(first[name] == alone[name] for name in ("iou", "niou", "pd", "fa"))
    assert sum(b["targets"] for b in first["pd_by_scr"]) == sum(b["targets"] for b in first["pd_by_area"]) == 2
    assert (second["data"], second["labels"], second["pd"], second["iou"]) == ("drones", "boxes", 50, None)
    assert second["pd_by_scr"][-1]["targets"] == 2 and not any(b["targets"] for b in second["pd_by_area"])
    (empty,) = result["backgrounds"]
    assert (empty["data"], empty["frames"], empty["unseen_frames"]) == ("empty", 3, 3)
    assert {p["threshold"] for p in first["curve"]} == {p["threshold"] for p in empty["curve"]}
    told = glint(*words)
    assert told.code == 0
    for part in ("sirst", "drones", "empty", "Pd by SCR", "Pd by area", "false/frame"):
        assert part in told.out


def test_what_a_table_of_sets_cannot_do_is_refused(glint: Glint, tmp_path: Path) -> None:
    masks, boxes = sirst_folder(tmp_path / "sirst"), boxed(tmp_path / "drones")
    both = ("--data", masks, "--data", boxes)
    for words in (
        ("lsnet-s", *both, "--out", tmp_path / "x"),
        ("lsnet-s", *both, "--legacy"),
        ("--pred", masks, *both),
    ):
        glint("evaluate", *words).refused(2, "one table")
    glint("evaluate", "dscsnet-s-sensor", *both, "--number", 2).refused(2, "for detectors")
    (boxes / "points.json").write_text("{}")
    glint("evaluate", "lsnet-s", *both).refused(2, "no entry", "'one'")
