"""``glint run``: inputs, models, outputs and options that it refuses, and the exit codes."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from run_lines import Glint, Tree, read

from glint import cards
from glint.cards import zoo_folder
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
from glint.runtime.sources import open as module
from glint.runtime.sources.synthetic import SyntheticSource
from glint.simulation.scenes import SceneConfig
from glint.types import Gap


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


@pytest.mark.parametrize("option", ["--detector", "--unmixer"])
def test_an_unknown_model_is_named_beside_the_released_ones(glint: Glint, scene: str, option: str) -> None:
    glint("run", scene, option, "resnet-50").refused(2, "'resnet-50'", "hint:", "lsnet-s", "dscsnet-s-sensor")


def test_a_model_for_another_task_is_refused(glint: Glint, scene: str) -> None:
    glint("run", scene, "--detector", "dscsnet-s-sensor").refused(2, "made to unmix, not to detect")


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
