from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glint.cards import load_card
from glint.images import write_image

Glint = Callable[..., Any]


def labelled(root: Path, *, target: bool = True) -> Path:
    """A SIRST-style folder of two images with one target each, or none."""
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        image, mask = rng.normal(50, 2, (40, 48)), np.zeros((40, 48), np.uint8)
        if target:
            image[15:17, 20:22] += 120
            mask[15:17, 20:22] = 255
        write_image(root / "images" / f"{name}.png", np.round(image).astype(np.uint8))
        write_image(root / "masks" / f"{name}.png", mask)
    (root / "val.txt").write_text("one\ntwo\n")
    return root


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
    done = glint("evaluate", "lsnet-s", "--data", labelled(tmp_path / "sirst"), "--json")
    assert done.code == 0
    result = json.loads(done.out)
    assert (result["data"], result["split"], result["images"], result["targets"]) == ("sirst", "val", 2, 2)
    assert result["matching"] == "one-to-one"
    assert all(0 <= result[name] <= 100 for name in ("iou", "niou", "f1", "pd"))
    assert result["pd"] == 100  # two bright squares in a quiet sky


def test_without_json_there_is_a_table_for_people(glint: Glint, tmp_path: Path) -> None:
    unmixed = glint("evaluate", "dscsnet-s-sensor", "--number", 5)
    assert unmixed.code == 0
    assert "CSO-mAP" in unmixed.out
    assert all(f"\n{row} " in unmixed.out for row in ("grid", "network", "refined"))
    detected = glint("evaluate", "lsnet-s", "--data", labelled(tmp_path / "sirst"), "--matching", "legacy")
    assert detected.code == 0
    assert "sirst/val (2 images" in detected.out
    assert "legacy" in detected.out


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


def test_images_without_any_target_have_a_score_in_json(glint: Glint, tmp_path: Path) -> None:
    done = glint("evaluate", "lsnet-s", "--data", labelled(tmp_path / "sky", target=False), "--json")
    assert done.code == 0
    assert json.loads(done.out)["pd"] is None


def test_a_detector_needs_data(glint: Glint) -> None:
    glint("evaluate", "lsnet-s").refused(2, "labelled images", "hint: --data")


def test_missing_data_splits_images_and_masks_are_refused(glint: Glint, tmp_path: Path) -> None:
    root = labelled(tmp_path / "sirst")
    glint("evaluate", "lsnet-s", "--data", tmp_path / "nowhere").refused(2, "nowhere")
    glint("evaluate", "lsnet-s", "--data", root, "--split", "test").refused(2, "test.txt", "hint:", "val")
    (root / "masks" / "two.png").unlink()
    glint("evaluate", "lsnet-s", "--data", root).refused(2, "'two'")
    glint("evaluate", "dscsnet-s-sensor", "--data", tmp_path / "nowhere").refused(2, "nowhere")


def test_a_truncated_image_or_a_mask_of_another_size_is_refused(glint: Glint, tmp_path: Path) -> None:
    root = labelled(tmp_path / "sirst")
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
    [["--seed", "-1"], ["--number", "0"], ["--condition", "rain"], ["--matching", "best"], ["--radiance-prior=-1,2"]],
)
def test_a_bad_option_is_a_usage_error(glint: Glint, words: list[str]) -> None:
    glint("evaluate", "dscsnet-s-sensor", "--number", "2", *words).refused(2, words[0].split("=")[0])


def test_a_process_leaves_with_the_code_of_the_command(shell: Callable[..., Any]) -> None:
    shell("evaluate", "dscsnet-s-sensor", "--engine", "tensorrt").refused(3, "TensorRT")
