from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_lines import STAGES, TARGET, Glint, Tree, check_record, read

from glint import __version__
from glint.cards import zoo_folder
from glint.cli import build_parser
from glint.runtime.commands.run import run


def test_a_simulated_scene_gives_lines_truth_and_manifest(glint: Glint, scene: str, tmp_path: Path) -> None:
    done = glint("run", scene, "--out", tmp_path / "new" / "r.jsonl")
    assert (done.code, done.out) == (0, "")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["r.jsonl", "r.manifest.json", "r.truth.jsonl"]
    lines, truth = read(tmp_path / "new" / "r.jsonl"), read(tmp_path / "new" / "r.truth.jsonl")
    for record in lines:
        check_record(record)
    assert [(r["frame"], r["name"]) for r in lines] == [(0, "000000"), (1, "000001")]
    assert sum(len(r["targets"]) for r in lines) >= 1
    for record, line in zip(truth, lines, strict=True):
        assert list(record) == ["frame", "t_ns", "targets"]
        assert (record["frame"], record["t_ns"]) == (line["frame"], line["t_ns"])
        assert all(list(t) == TARGET[:-2] and t["radiance"] > 0 for t in record["targets"])
        assert 2 * 2 + 3 <= len(record["targets"]) <= 2 * 5 + 3


def test_the_manifest_says_what_ran_and_what_it_amounts_to(glint: Glint, scene: str, tmp_path: Path) -> None:
    assert glint("run", scene, "--out", tmp_path / "r.jsonl", "--radiance-prior", "100,20").code == 0
    manifest = json.loads((tmp_path / "r.manifest.json").read_text())
    lines, truth = read(tmp_path / "r.jsonl"), read(tmp_path / "r.truth.jsonl")
    assert manifest["glint"] == __version__
    assert manifest["source"] == scene
    assert manifest["engine"] == "onnxruntime"
    assert manifest["models"]["detect"]["name"] == "lsnet-s"
    assert len(manifest["models"]["unmix"]["sha256"]) == 64
    assert (manifest["refine"], manifest["radiance_prior"], manifest["interrupted"]) == (True, [100, 20], False)
    assert (manifest["frames"], manifest["skipped"]) == (2, [])
    assert manifest["targets"] == sum(len(r["targets"]) for r in lines)
    assert manifest["truth"]["targets"] == sum(len(r["targets"]) for r in truth)
    assert manifest["truth"]["found"] + manifest["truth"]["false"] == manifest["targets"]
    assert list(manifest["latency_ms"]) == STAGES
    for stage in manifest["latency_ms"].values():
        assert 0 <= stage["p50"] <= stage["p95"] <= stage["p99"]


def test_json_prints_the_manifest_as_one_document(glint: Glint, scene: str, tmp_path: Path) -> None:
    done = glint("run", scene, "--json", "--out", tmp_path / "r.jsonl")
    assert done.code == 0
    assert json.loads(done.out) == json.loads((tmp_path / "r.manifest.json").read_text())


def test_a_dash_prints_lines_only_and_the_summary_goes_to_stderr(glint: Glint, scene: str, tmp_path: Path) -> None:
    done = glint("run", scene, "--out", "-")
    assert done.code == 0
    for record in done.lines:
        check_record(record)
    assert len(done.lines) == 2
    assert "frames    2" in done.err
    assert "engine: onnxruntime" in done.err
    assert list(tmp_path.iterdir()) == []


def test_without_output_options_nothing_is_written(glint: Glint, scene: str, tmp_path: Path, tree: Tree) -> None:
    done = glint("run", scene)
    assert (done.code, done.out, tree()) == (0, "", {})


def test_a_folder_has_lines_by_file_name_and_no_truth(glint: Glint, night: Path, tmp_path: Path) -> None:
    done = glint("run", night, "--out", tmp_path / "r.jsonl")
    assert done.code == 0
    assert [(r["frame"], r["name"]) for r in read(tmp_path / "r.jsonl")] == [(0, "a"), (1, "b"), (2, "c")]
    assert not (tmp_path / "r.truth.jsonl").exists()
    assert "truth" not in json.loads((tmp_path / "r.manifest.json").read_text())


def test_overlays_are_readable_pictures_named_after_the_frames(glint: Glint, scene: str, tmp_path: Path) -> None:
    assert glint("run", scene, "--overlay", tmp_path / "pictures").code == 0
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [p.name for p in pictures] == ["000000.png", "000001.png"]
    for path in pictures:
        with Image.open(path) as image:
            image.load()
            assert image.mode == "RGB"
            assert image.width >= 96
            assert image.height > 80


def test_without_refinement_targets_are_those_of_the_network_with_its_uncertainties(glint: Glint, scene: str) -> None:
    targets = [t for r in glint("run", scene, "--out", "-", "--no-refine").lines for t in r["targets"]]
    assert targets
    for target in targets:
        assert set(target["flags"]) <= {"EDGE"}
        assert min(target["sigma_x"], target["sigma_y"], target["sigma_radiance"]) > 0
    assert any(abs(3 * t["x"] - round(3 * t["x"])) > 1e-2 for t in targets)  # off the grid


def test_the_same_seed_gives_the_same_targets(glint: Glint, scene: str) -> None:
    first, second = ([r["targets"] for r in glint("run", scene, "--out", "-").lines] for _ in range(2))
    assert first == second


def test_a_scene_without_frames_leaves_an_empty_file_and_a_manifest(glint: Glint, tmp_path: Path) -> None:
    done = glint("run", "synthetic://?size=96x80&frames=0", "--out", tmp_path / "r.jsonl", "--json")
    assert done.code == 0
    assert (tmp_path / "r.jsonl").read_text() == ""
    assert json.loads(done.out)["frames"] == 0


def test_results_can_be_taken_while_they_come(scene: str) -> None:
    seen: list[int] = []
    manifest = run(scene, threads=1, on_result=lambda result: seen.append(result.frame.index))
    assert seen == [0, 1]
    assert manifest["frames"] == 2


def test_a_model_can_be_given_by_its_card_or_its_onnx_file(
    glint: Glint, scene: str, broken: Callable[[str, str], Path]
) -> None:
    card = broken("lsnet-s", "not at all")
    by_name, by_card, by_onnx = (
        [r["targets"] for r in glint("run", scene, "--out", "-", "--detector", name).lines]
        for name in ("lsnet-s", card, card.with_suffix(".onnx"))
    )
    assert by_name == by_card == by_onnx


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_every_precision_finds_the_targets(glint: Glint, scene: str, tmp_path: Path, precision: str) -> None:
    words = ("run", scene, "--psf", "0.5", "--engine", "onnxruntime", "--out")
    assert glint(*words, tmp_path / "fp32.jsonl").code == 0
    assert glint(*words, tmp_path / "other.jsonl", "--precision", precision).code == 0
    exact, other = (json.loads((tmp_path / f"{n}.manifest.json").read_text()) for n in ("fp32", "other"))
    for task in ("detect", "unmix"):
        assert (exact["models"][task]["precision"], other["models"][task]["precision"]) == ("fp32", precision)
        assert exact["models"][task]["sha256"] != other["models"][task]["sha256"]
    assert exact["truth"]["found"] > 10
    assert other["truth"]["found"] >= exact["truth"]["found"] - 1
    assert other["truth"]["false"] <= exact["truth"]["false"] + 1


def test_a_model_given_as_a_file_is_reported_in_its_own_precision(glint: Glint, scene: str, tmp_path: Path) -> None:
    file = zoo_folder() / "dscsnet-s-sensor.int8.onnx"
    done = glint("run", scene, "--unmixer", file, "--out", tmp_path / "r.jsonl", "--json")
    assert [model["precision"] for model in json.loads(done.out)["models"].values()] == ["fp32", "int8"]
    assert "dscsnet-s-sensor (int8)" in done.err


def test_lines_of_a_tracked_run_name_the_track_of_every_target(glint: Glint, tmp_path: Path) -> None:
    scene = "synthetic://?size=96x80&frames=14&clusters=0&singles=2&radiance=200-240&noise=0.5&seed=2&speed=0.2"
    assert glint("run", scene, "--out", tmp_path / "r.jsonl", "--track").code == 0
    lines = read(tmp_path / "r.jsonl")
    tracks = [[t["track"] for t in r["targets"]] for r in lines]
    assert all(t is None for r in tracks[:2] for t in r)
    assert {0, 1} <= set(tracks[-1])
    assert json.loads((tmp_path / "r.manifest.json").read_text())["tracks"] >= 2


def test_images_count_as_equally_spaced_for_the_tracks(glint: Glint, scene: str, night: Path) -> None:
    records = glint("run", night, "--out", "-", "--track").lines
    assert all("track" in t for r in records for t in r["targets"])
    assert "tracks " in glint("run", night, "--track").err


def test_a_region_a_tile_and_corrections_are_taken_and_recorded(glint: Glint, scene: str, tmp_path: Path) -> None:
    dead = np.zeros((80, 96), dtype=np.uint8)
    dead[3, 3] = 1
    np.save(tmp_path / "dead.npy", dead)
    np.save(tmp_path / "dark.npy", np.full((80, 96), 5.0))
    np.save(tmp_path / "flat.npy", np.full((80, 96), 100.0))
    corrections = {name: tmp_path / f"{name.split('_')[0]}.npy" for name in ("dead_pixels", "dark", "flat")}
    words = [part for name, path in corrections.items() for part in (f"--{name.replace('_', '-')}", path)]
    done = glint("run", scene, "--json", "--roi", "8,4,80,70", "--tile", "64x64", *words)
    assert done.code == 0
    manifest = json.loads(done.out)
    assert (manifest["roi"], manifest["tile"]) == ([8, 4, 80, 70], [64, 64])
    assert manifest["corrections"] == {name: str(path) for name, path in corrections.items()}


def test_the_function_has_the_arguments_of_the_command() -> None:
    parser = build_parser("run")
    names = set(vars(parser.parse_args(["run", "frames"]))) - {
        "command", "debug", "json", "require", "no_refine", "quiet", "print_completion",
        "print_python",
    }  # fmt: skip
    assert names | {"refine", "on_result", "on_end", "groups"} == set(inspect.signature(run).parameters)


def test_sixteen_bit_frames_run_too(glint: Glint, scene: str) -> None:
    lines = glint("run", scene + "&bits=14", "--out", "-").lines
    assert len(lines) == 2
    assert all(np.isfinite([t["x"], t["y"], t["radiance"]]).all() for r in lines for t in r["targets"])
