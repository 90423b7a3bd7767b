from __future__ import annotations

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glint import __version__, cards
from glint.cards import zoo_folder
from glint.cli import build_parser
from glint.errors import (
    CheckFailedError,
    EngineError,
    GlintError,
    InputError,
    MissingDependencyError,
    ModelError,
    OutputError,
    SourceError,
    SourceLostError,
)
from glint.runtime.commands.run import run
from glint.runtime.sources import open as module
from glint.runtime.sources.synthetic import SyntheticSource
from glint.simulation.scenes import SceneConfig
from glint.types import Gap, TargetFlag

Glint = Callable[..., Any]
Tree = Callable[[], dict[str, bytes]]

FLAGS = {flag.name for flag in TargetFlag}
STAGES = ["capture", "queue", "detect", "unmix", "refine", "total"]
TARGET = [
    "x",
    "y",
    "radiance",
    "sigma_x",
    "sigma_y",
    "sigma_radiance",
    "blob",
    "score",
    "flags",
    "n",
    "count_probability",
]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_record(record: dict[str, Any], *further: str) -> None:
    """The documented JSON line of a frame."""
    keys = ["frame", "name", "t_ns", "utc", "targets", "blobs", "latency_ms"]
    assert [key for key in record if key != "events"] == keys
    assert isinstance(record["frame"], int)
    assert isinstance(record["t_ns"], int)
    assert isinstance(record["name"], str)
    latency = record["latency_ms"]
    assert list(latency) == STAGES
    assert latency["total"] == pytest.approx(sum(latency[s] for s in STAGES[:-1]), abs=0.01)
    for target in record["targets"]:
        assert list(target) == [*TARGET, *further]
        assert isinstance(target["blob"], int)
        assert set(target["flags"]) <= FLAGS
        assert 0 <= target["score"] <= 1
        assert all(isinstance(target[name], float) for name in ("x", "y", "radiance"))


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


def test_a_truncated_image_among_good_ones_is_reported_skipped_and_counted(
    glint: Glint, truncated: Path, tmp_path: Path
) -> None:
    done = glint("run", truncated, "--out", tmp_path / "r.jsonl")
    assert done.code == 0
    assert "1 skipped" in done.err
    assert "b.png" in done.err
    assert "Traceback" not in done.err
    assert [r["name"] for r in read(tmp_path / "r.jsonl")] == ["a", "c"]
    manifest = json.loads((tmp_path / "r.manifest.json").read_text())
    assert manifest["frames"] == 2
    assert [s["name"] for s in manifest["skipped"]] == ["b.png"]


def test_only_unreadable_images_are_an_error_that_leaves_no_file(
    glint: Glint, night: Path, tmp_path: Path, tree: Tree
) -> None:
    for path in night.iterdir():
        path.write_bytes(path.read_bytes()[:60])
    before = tree()
    out = tmp_path / "out"
    glint("run", night, "--out", out / "r.jsonl", "--overlay", out / "p").refused(2, "none of its 3 files")
    assert tree() == before


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{}/nowhere", "no such file or folder"),
        ("{}/*.png", "no image matches"),
        ("{}", "holds no images"),
        ("synthetic://?colour=red", "'colour'"),
        ("synthetic://?frames=-3", "negative"),
        ("synthetic://?size=96x80&seed=-1", ""),
        ("synthetic://[", ""),
        ("{}/" + 300 * "x", ""),
    ],
)
def test_a_bad_source_is_an_error_that_leaves_no_file(
    glint: Glint, tmp_path: Path, tree: Tree, source: str, words: str
) -> None:
    glint("run", source.format(tmp_path), "--out", tmp_path / "out" / "r.jsonl").refused(2, words)
    assert tree() == {}


def test_a_colour_image_is_refused_with_what_to_do(glint: Glint, colour: Path, tmp_path: Path) -> None:
    done = glint("run", colour, "--out", tmp_path / "r.jsonl")
    done.refused(2, "colour", "hint:")
    assert not (tmp_path / "r.jsonl").exists()


def test_a_file_that_is_no_image_is_refused(glint: Glint, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no image")
    glint("run", tmp_path / "notes.png").refused(2, "notes.png", "hint:")


@pytest.mark.parametrize("how", ["hash", "corrupt", "absent", "card"])
@pytest.mark.parametrize(("option", "model"), [("--detector", "lsnet-s"), ("--unmixer", "dscsnet-s-sensor")])
def test_a_broken_model_is_an_error_that_leaves_no_file(
    glint: Glint, scene: str, tmp_path: Path, broken: Callable[[str, str], Path], option: str, model: str, how: str
) -> None:
    card = broken(model, how)
    glint("run", scene, option, card, "--out", tmp_path / "out" / "r.jsonl").refused(2, str(card.stem))
    assert not (tmp_path / "out").exists()


def test_a_model_can_be_given_by_its_card_or_its_onnx_file(
    glint: Glint, scene: str, broken: Callable[[str, str], Path]
) -> None:
    card = broken("lsnet-s", "not at all")
    by_name, by_card, by_onnx = (
        [r["targets"] for r in glint("run", scene, "--out", "-", "--detector", name).lines]
        for name in ("lsnet-s", card, card.with_suffix(".onnx"))
    )
    assert by_name == by_card == by_onnx


@pytest.mark.parametrize("option", ["--detector", "--unmixer"])
def test_an_unknown_model_is_named_beside_the_released_ones(glint: Glint, scene: str, option: str) -> None:
    glint("run", scene, option, "resnet-50").refused(2, "'resnet-50'", "hint:", "lsnet-s", "dscsnet-s-sensor")


def test_a_model_for_another_task_is_refused(glint: Glint, scene: str) -> None:
    glint("run", scene, "--detector", "dscsnet-s-sensor").refused(2, "made to unmix, not to detect")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_every_precision_finds_the_targets(glint: Glint, scene: str, tmp_path: Path, precision: str) -> None:
    words = ("run", scene, "--engine", "onnxruntime", "--out")
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


def test_a_precision_that_a_model_does_not_have_is_refused(
    glint: Glint, scene: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    for path in (*zoo_folder().glob("*.fp32.*"), *zoo_folder().glob("lsnet-s.int8.*")):
        shutil.copy(path, zoo)
    monkeypatch.setattr(cards, "zoo_folder", lambda: zoo)
    glint("run", scene, "--precision", "int8", "--out", tmp_path / "out" / "r.jsonl").refused(
        2, "'dscsnet-s-sensor' in int8", "hint: installed: lsnet-s;"
    )
    assert not (tmp_path / "out").exists()


def test_tensorrt_is_missing_from_the_environment(glint: Glint, scene: str, tmp_path: Path, tree: Tree) -> None:
    glint("run", scene, "--engine", "tensorrt", "--out", tmp_path / "r.jsonl").refused(3, "TensorRT", "hint:")
    assert tree() == {}


@pytest.mark.parametrize("name", ["r.jsonl", "r.manifest.json", "r.truth.jsonl"])
def test_an_existing_output_is_refused_and_left_as_it_was(
    glint: Glint, scene: str, tmp_path: Path, tree: Tree, name: str
) -> None:
    (tmp_path / name).write_text("precious")
    glint("run", scene, "--out", tmp_path / "r.jsonl").refused(2, name, "exists", "--overwrite")
    assert tree() == {name: b"precious"}


def test_overwrite_replaces_all_existing_outputs(glint: Glint, scene: str, tmp_path: Path) -> None:
    names = ("r.jsonl", "r.manifest.json", "r.truth.jsonl")
    for name in names:
        (tmp_path / name).write_text("old")
    assert glint("run", scene, "--out", tmp_path / "r.jsonl", "--overwrite").code == 0
    assert len(read(tmp_path / "r.jsonl")) == len(read(tmp_path / "r.truth.jsonl")) == 2
    assert json.loads((tmp_path / "r.manifest.json").read_text())["frames"] == 2


def test_overwriting_a_simulated_run_leaves_no_truth_of_other_frames_behind(
    glint: Glint, scene: str, night: Path, tmp_path: Path
) -> None:
    assert glint("run", scene, "--out", tmp_path / "r.jsonl").code == 0
    assert glint("run", night, "--out", tmp_path / "r.jsonl", "--overwrite").code == 0
    assert not (tmp_path / "r.truth.jsonl").exists()


def test_a_filled_overlay_folder_is_refused_unless_it_may_be_overwritten(
    glint: Glint, scene: str, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "000000.png").write_text("precious")
    glint("run", scene, "--overlay", folder).refused(2, "not empty", "--overwrite")
    assert (folder / "000000.png").read_text() == "precious"
    assert glint("run", scene, "--overlay", folder, "--overwrite").code == 0
    with Image.open(folder / "000000.png") as image:
        image.verify()


def test_overlays_never_replace_the_frames_they_show(glint: Glint, night: Path, tree: Tree) -> None:
    before = tree()
    glint("run", night, "--overlay", night, "--overwrite").refused(2)
    assert tree() == before


def test_frames_of_one_name_in_two_folders_keep_an_overlay_each(glint: Glint, night: Path, tmp_path: Path) -> None:
    (tmp_path / "day").mkdir()
    (night / "a.png").rename(tmp_path / "day" / "b.png")
    done = glint("run", f"{tmp_path}/*/b.png", "--overlay", tmp_path / "pictures")
    written = len(list((tmp_path / "pictures").glob("*"))) if done.code == 0 else None
    assert done.code == 2 or written == 2  # refused, or both kept: but not one lost in silence


@pytest.mark.parametrize("out", ["{}/file/r.jsonl", "{}"])
def test_an_output_that_cannot_be_written_is_an_error(glint: Glint, scene: str, tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("in the way")
    glint("run", scene, "--out", out.format(tmp_path), "--overwrite").refused(2)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("out", [".", "/", ".."])
def test_an_output_without_a_file_name_is_an_error(
    glint: Glint, scene: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.chdir(tmp_path)
    glint("run", scene, "--out", out, "--overwrite").refused(2)


def test_json_and_lines_cannot_both_have_standard_output(glint: Glint, scene: str) -> None:
    glint("run", scene, "--json", "--out", "-").refused(2, "--json", "hint:")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--threads", "0"], "at least 1"),
        (["--threads", "many"], "--threads"),
        (["--precision", "fp64"], "fp64"),
        (["--engine", "abacus"], "abacus"),
        (["--radiance-prior", "100"], "MEAN,SD"),
        (["--radiance-prior=0,5"], "positive"),
        (["--radiance-prior=inf,5"], "--radiance-prior"),
        (["--radiance-prior=100,nan"], "positive"),
        (["--frobnicate"], "--frobnicate"),
    ],
)
def test_a_bad_option_is_a_usage_error(glint: Glint, scene: str, words: list[str], message: str) -> None:
    glint("run", scene, *words).refused(2, message)


def test_a_camera_that_stops_delivering_has_a_code_of_its_own_and_keeps_its_lines(
    glint: Glint, scene: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Camera(SyntheticSource):
        def __iter__(self) -> Any:
            yield next(super().__iter__())
            raise SourceLostError("the camera has gone", hint="look at its cable")

    monkeypatch.setattr(module, "open_source", lambda uri: Camera(uri, SceneConfig(width=96, height=80, frames=3)))
    glint("run", scene, "--out", tmp_path / "r.jsonl").refused(4, "the camera has gone", "hint: look at its cable")
    assert len(read(tmp_path / "r.jsonl")) == 1


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (CheckFailedError, 1), (InputError, 2), (OutputError, 2), (ModelError, 2), (SourceError, 2),
        (EngineError, 3), (MissingDependencyError, 3), (SourceLostError, 4),
    ],
)  # fmt: skip
def test_every_kind_of_error_has_its_exit_code(
    glint: Glint, scene: str, monkeypatch: pytest.MonkeyPatch, kind: type[GlintError], code: int
) -> None:
    def fail(uri: str) -> None:
        raise kind("it went wrong", hint="mend it")

    monkeypatch.setattr(module, "open_source", fail)
    glint("run", scene).refused(code, "error: it went wrong", "hint: mend it")


def test_without_onnxruntime_the_error_says_how_to_get_it(
    glint: Glint, scene: str, tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    glint("run", scene, "--out", tmp_path / "r.jsonl").refused(3, "hint: pip install onnxruntime")
    assert tree() == {}


def test_a_camera_that_is_not_there_is_no_mistake_of_the_command(glint: Glint, tmp_path: Path, tree: Tree) -> None:
    glint("run", "rtsp://camera", "--out", tmp_path / "out" / "r.jsonl").refused(3, "rtsp://")
    assert tree() == {}


def test_debug_shows_the_traceback_and_the_error(glint: Glint, tmp_path: Path) -> None:
    done = glint("run", tmp_path / "nowhere", "--debug")
    assert done.code == 2
    assert "Traceback" in done.err
    assert done.err.splitlines()[-2].startswith("error:")


def test_a_process_leaves_with_the_code_of_the_command(shell: Callable[..., Any], scene: str, tmp_path: Path) -> None:
    shell("run", tmp_path / "nowhere").refused(2, "nowhere")


def test_running_imports_neither_torch_nor_onnx(scene: str, tmp_path: Path) -> None:
    code = (
        "import sys; from glint.cli import main; code = main(sys.argv[1:]); "
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'onnx', 'onnxscript', 'safetensors'})); "
        "sys.exit(code)"
    )
    words = [sys.executable, "-c", code, "run", scene, "--overlay", str(tmp_path / "p")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_a_reader_that_goes_away_is_no_error(scene: str) -> None:
    words = [sys.executable, "-m", "glint", "run", scene.replace("frames=2", "frames=1000"), "--out", "-"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        check_record(json.loads(process.stdout.readline()))
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
        assert process.wait(timeout=60) == 0
    assert "Traceback" not in err
    assert "Exception" not in err


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("first line", signal.SIGINT), ("some lines", signal.SIGTERM), ("some lines", signal.SIGINT),
        ("warm-up", signal.SIGTERM), ("twice", signal.SIGINT), ("end", signal.SIGTERM),
    ],
)  # fmt: skip
def test_a_signal_at_any_moment_leaves_valid_files_and_a_summary(tmp_path: Path, moment: str, number: int) -> None:
    out = tmp_path / "r.jsonl"
    frames = 4 if moment == "end" else 100_000
    words = [sys.executable, "-m", "glint", "run", f"synthetic://?size=96x80&frames={frames}", "--out", str(out)]
    words += ["--csv", str(tmp_path / "r.csv"), "--track", *(["--warm-up"] if moment == "warm-up" else [])]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    lines = {"first line": 1, "some lines": 7, "twice": 3, "end": 3, "warm-up": 0}[moment]
    try:
        if moment == "warm-up":  # the engine has been named, and the first frame is in work
            assert process.stderr is not None
            process.stderr.readline()
        deadline = time.monotonic() + 60
        while lines and not (out.exists() and out.read_bytes().count(b"\n") >= lines):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        for _ in range(2 if moment == "twice" else 1):
            os.kill(process.pid, number)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in stderr
    assert "Exception" not in stderr
    assert process.returncode in ((0, 130) if moment == "end" else (130,)), stderr
    assert stdout == ""
    assert not list(tmp_path.glob(".*"))
    if moment == "warm-up" and not out.exists():  # the signal came before the first frame
        return
    text = out.read_text()
    assert text == "" or text.endswith("\n")
    records = read(out)
    truth = read(tmp_path / "r.truth.jsonl") if records else []
    for record in records:
        check_record(record, "track")
    if moment == "twice" and not (tmp_path / "r.manifest.json").exists():
        return  # whoever asks twice may get less
    manifest = json.loads((tmp_path / "r.manifest.json").read_text())
    assert manifest["interrupted"] is (process.returncode == 130)
    assert manifest["frames"] == len(records) == len(truth)
    assert manifest["captured"] == len(records) + sum(manifest["dropped"].values())
    assert "frames " in stderr
    rows = (tmp_path / "r.csv").read_text().splitlines() if records else []
    assert len(rows) == (1 + sum(len(r["targets"]) for r in records) if records else 0)


@pytest.mark.parametrize("delay_s", [0.0, 1.5])
def test_a_signal_while_functions_are_compiled_ends_like_any_other(tmp_path: Path, delay_s: float) -> None:
    out = tmp_path / "r.jsonl"
    words = ["run", "synthetic://?size=96x80&frames=9", "--out", str(out)]
    program = (
        "import sys, glint.native.library as native; native.library = lambda: None\n"  # nothing came with the package
        f"from glint.cli import main; sys.exit(main({words!r}))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "GLINT_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    try:
        assert process.stderr is not None
        assert any("compiling" in line for line in process.stderr)
        time.sleep(delay_s)
        os.kill(process.pid, signal.SIGTERM)
        _, said = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert not any(word in said for word in ("unexpected", "Traceback", "Exception"))
    if out.exists():  # the stream had begun
        assert "frames " in said
        assert json.loads((tmp_path / "r.manifest.json").read_text())["interrupted"]


def test_a_quiet_run_says_nothing(shell: Glint, scene: str, tmp_path: Path) -> None:
    done = shell("run", scene, "--out", tmp_path / "r.jsonl", "-q")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert len(read(tmp_path / "r.jsonl")) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_a_page_that_is_held(tmp_path: Path, number: int) -> None:
    words = [sys.executable, "-m", "glint", "run", "synthetic://?size=96x80&frames=1", "--out", str(tmp_path / "r")]
    process = subprocess.Popen(
        [*words, "--view", "127.0.0.1:0", "--hold"], stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        assert process.stderr is not None
        assert any("stays open" in line for line in process.stderr)
        process.send_signal(number)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_a_killed_run_loses_at_most_the_line_that_it_was_writing(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    words = [sys.executable, "-m", "glint", "run", "synthetic://?size=96x80&frames=100000", "--out", str(out)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (out.exists() and out.read_bytes().count(b"\n") >= 5):
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    whole, _, rest = out.read_text().rpartition("\n")
    assert [json.loads(line)["frame"] for line in whole.splitlines()] == list(range(whole.count("\n") + 1))
    assert rest == "" or rest.startswith('{"frame"')


def test_a_disk_that_fills_up_ends_the_run_with_whole_lines(scene: str, tmp_path: Path) -> None:
    code = (
        "import resource, sys; from glint.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    out = tmp_path / "r.jsonl"
    words = [sys.executable, "-c", code, "run", scene.replace("frames=2", "frames=100000"), "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert "error: cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert out.read_text().endswith("\n")
    for record in read(out):
        check_record(record)
    manifest = json.loads((tmp_path / "r.manifest.json").read_text())
    assert "cannot write" in manifest["error"]
    assert manifest["frames"] in (len(read(out)), len(read(out)) - 1)  # the truth may have been what did not fit


def test_a_full_disk_behind_standard_output_is_an_error(scene: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    words = [sys.executable, "-m", "glint", "run", scene, "--out", "-"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 3, done.stderr
    assert "cannot write standard output: No space left" in done.stderr
    assert "Traceback" not in done.stderr


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


def test_a_lost_source_leaves_a_manifest_that_says_so(
    glint: Glint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Camera(SyntheticSource):
        live = True

        def __iter__(self) -> Any:
            yield Gap(0, 2.5, "no signal", 10**18)
            raise SourceLostError("the camera has gone")

    monkeypatch.setattr(module, "open_source", lambda uri: Camera(uri, SceneConfig(width=96, height=80, frames=3)))
    done = glint("run", "cam", "--out", tmp_path / "r.jsonl")
    done.refused(4, "the camera has gone")
    assert "gaps      1, 2.5 s" in done.err  # the summary, as of any run
    manifest = json.loads((tmp_path / "r.manifest.json").read_text())
    assert manifest["error"] == "the camera has gone"
    assert manifest["gaps"] == {"count": 1, "seconds": 2.5}
    (line,) = read(tmp_path / "r.jsonl")
    assert line.pop("utc").startswith("2001-09-09T01:46:40")
    assert line == {"event": "gap", "t_ns": 0, "seconds": 2.5, "reason": "no signal"}


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--roi", "1,2,3"], "X,Y,W,H"),
        (["--roi", "a,b,c,d"], "--roi"),
        (["--roi=-1,0,5,5"], "roi"),
        (["--roi", "90,0,20,20"], "does not fit"),
        (["--tile", "64"], "WIDTHxHEIGHT"),
        (["--tile", "0x64"], "WIDTHxHEIGHT"),
        (["--drop", "newest"], "newest"),
        (["--deadline-ms", "0"], "positive"),
        (["--record-before", "-1"], "0 to 3600"),
        (["--flat", "{}/flat.npy"], "--dark"),
        (["--dark", "{}/nowhere.npy"], "nowhere.npy"),
        (["--dark", "{}/flat.npy"], "4x4"),
    ],
)
def test_a_bad_option_of_the_stream_is_an_error(
    glint: Glint, scene: str, tmp_path: Path, words: list[str], message: str
) -> None:
    np.save(tmp_path / "flat.npy", np.ones((4, 4)))
    done = glint("run", scene, "--out", tmp_path / "r.jsonl", *(word.format(tmp_path) for word in words))
    done.refused(2, message)
    assert not (tmp_path / "r.jsonl").exists()


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
