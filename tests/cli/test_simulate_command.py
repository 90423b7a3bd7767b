from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr

from glint.data.csist import read_csist
from glint.images import read_image

Glint = Callable[..., Any]
Tree = Callable[[], dict[str, bytes]]


def truth_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rendered(targets: list[dict[str, float]]) -> np.ndarray:
    """A patch of point targets behind a Gaussian of 0.5 px, from the normal distribution function."""
    edges = np.arange(12) - 0.5
    image = np.zeros((11, 11))
    for t in targets:
        image += t["radiance"] * np.outer(*(np.diff(ndtr((edges - t[axis]) / 0.5)) for axis in "yx"))
    return image


def test_an_array_and_its_truth_are_written_beside_each_other(glint: Glint, tmp_path: Path) -> None:
    done = glint("simulate", tmp_path / "new" / "p.npy", "--number", 20)
    assert (done.code, done.out) == (0, "")
    assert "20 patches" in done.err
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["p.npy", "p.truth.jsonl"]
    image = np.load(tmp_path / "new" / "p.npy", allow_pickle=False)
    truth = truth_of(tmp_path / "new" / "p.truth.jsonl")
    assert (image.dtype, image.shape) == (np.float32, (20, 11, 11))
    assert [t["patch"] for t in truth] == list(range(20))
    for patch, record in zip(image, truth):
        assert 1 <= len(record["targets"]) <= 5
        assert all(list(t) == ["x", "y", "radiance"] for t in record["targets"])
        assert patch == pytest.approx(rendered(record["targets"]), abs=1e-3)


def test_a_folder_holds_pictures_and_annotations_of_the_same_truth(glint: Glint, tmp_path: Path) -> None:
    assert glint("simulate", tmp_path / "csist", "--number", 5, "--condition", "8sat").code == 0
    assert glint("simulate", tmp_path / "p.npy", "--number", 5, "--condition", "8sat").code == 0
    assert sorted(p.name for p in (tmp_path / "csist").iterdir()) == ["annotations", "images"]
    read, truth = read_csist(tmp_path / "csist"), truth_of(tmp_path / "p.truth.jsonl")
    assert np.array_equal(read.image, np.load(tmp_path / "p.npy"))
    for i, record in enumerate(truth):
        assert read.count[i] == len(record["targets"])
        assert read.x[i, : read.count[i]].tolist() == [t["x"] for t in record["targets"]]
        assert read.y[i, : read.count[i]].tolist() == [t["y"] for t in record["targets"]]
    assert read_image(tmp_path / "csist" / "images" / "image_0.png").dtype == np.uint8


def test_the_seed_decides(glint: Glint, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert glint("simulate", tmp_path / f"{name}.npy", "--number", 3, "--seed", seed).code == 0
    a, b, c = ((tmp_path / f"{name}.npy").read_bytes() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("8bit", lambda v: (v == np.round(v)).all()),
        ("8sat", lambda v: (v == np.round(v)).all() and v.max() == 255),
        ("14bit", lambda v: (v * 64 == np.round(v * 64)).all() and (v != np.round(v)).any()),
        ("n5", lambda v: 4.5 < v[:, 0].std() < 5.5),
    ],
)
def test_the_condition_decides_noise_steps_and_saturation(
    glint: Glint, tmp_path: Path, condition: str, holds: Callable[[np.ndarray], bool]
) -> None:
    assert glint("simulate", tmp_path / "p.npy", "--number", 300, "--condition", condition).code == 0
    assert holds(np.load(tmp_path / "p.npy"))


def test_a_scene_becomes_pictures_with_their_truth_that_can_be_run(glint: Glint, tmp_path: Path) -> None:
    done = glint("simulate", tmp_path / "scene", "--scene", "synthetic://?size=96x80&frames=3&bits=12&seed=3")
    assert (done.code, done.out) == (0, "")
    names = [f"{i:06d}.png" for i in range(3)]
    assert sorted(p.name for p in (tmp_path / "scene").iterdir()) == [*names, "truth.jsonl"]
    images = [read_image(tmp_path / "scene" / name) for name in names]
    assert {(i.shape, i.dtype.name) for i in images} == {((80, 96), "uint16")}
    truth = truth_of(tmp_path / "scene" / "truth.jsonl")
    assert [t["frame"] for t in truth] == [0, 1, 2]
    assert all(0 <= t["x"] <= 95 and 0 <= t["y"] <= 79 for record in truth for t in record["targets"])
    assert [r["name"] for r in glint("run", tmp_path / "scene", "--out", "-").lines] == ["000000", "000001", "000002"]


@pytest.mark.parametrize(
    "scene", ["synthetic://?colour=red", "synthetic://?frames=-1", "synthetic://?background=absent.png", "frames=2"]
)
def test_a_scene_that_is_none_is_refused_and_writes_nothing(
    glint: Glint, tmp_path: Path, tree: Tree, scene: str
) -> None:
    glint("simulate", tmp_path / "scene", "--scene", scene).refused(2)
    assert tree() == {}


@pytest.mark.parametrize("words", [["--seed", "3"], ["--number", "5"], ["--condition", "n1"], ["--overwrite"]])
def test_an_option_of_patches_beside_a_scene_is_refused_rather_than_ignored(
    glint: Glint, tmp_path: Path, tree: Tree, words: list[str]
) -> None:
    glint("simulate", tmp_path / "scene", "--scene", "synthetic://?size=96x80&frames=1", *words).refused(2, "--scene")
    assert tree() == {}


def test_a_scene_is_never_mixed_with_other_files(glint: Glint, tmp_path: Path, tree: Tree) -> None:
    (tmp_path / "precious.png").write_text("precious")
    glint("simulate", tmp_path, "--scene", "synthetic://?size=96x80&frames=1").refused(2, "not empty")
    assert tree() == {"precious.png": b"precious"}


def test_what_is_simulated_can_be_unmixed(glint: Glint, tmp_path: Path) -> None:
    assert glint("simulate", tmp_path / "p.npy", "--number", 2, "--condition", "sensor").code == 0
    assert len(glint("unmix", tmp_path / "p.npy").lines) == 2


@pytest.mark.parametrize("name", ["p.npy", "p.truth.jsonl"])
def test_an_existing_file_is_kept_unless_it_may_be_overwritten(
    glint: Glint, tmp_path: Path, tree: Tree, name: str
) -> None:
    (tmp_path / name).write_text("precious")
    glint("simulate", tmp_path / "p.npy", "--number", 2).refused(2, name, "exists", "--overwrite")
    assert tree() == {name: b"precious"}
    assert glint("simulate", tmp_path / "p.npy", "--number", 2, "--overwrite").code == 0
    assert len(np.load(tmp_path / "p.npy")) == len(truth_of(tmp_path / "p.truth.jsonl")) == 2


def test_a_folder_that_holds_patches_is_never_mixed_with_new_ones(glint: Glint, tmp_path: Path, tree: Tree) -> None:
    assert glint("simulate", tmp_path / "csist", "--number", 2).code == 0
    before = tree()
    glint("simulate", tmp_path / "csist", "--number", 3, "--overwrite").refused(2, "already", "hint:")
    assert tree() == before


@pytest.mark.parametrize("out", ["{}/file/p.npy", "{}/file"])
def test_an_output_that_cannot_be_written_is_an_error(glint: Glint, tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("in the way")
    glint("simulate", out.format(tmp_path), "--number", 2).refused(2, "file")
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--condition", "rain"], "rain"),
        (["--number", "0"], "at least 1"),
        (["--number", "few"], "--number"),
        (["--seed", "-1"], "--seed"),
        (["--seed", "x"], "--seed"),
    ],
)
def test_a_bad_option_is_a_usage_error_that_writes_nothing(
    glint: Glint, tmp_path: Path, tree: Tree, words: list[str], message: str
) -> None:
    glint("simulate", tmp_path / "p.npy", *words).refused(2, message)
    assert tree() == {}


def test_a_process_leaves_with_the_code_of_the_command(shell: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "p.npy").write_text("precious")
    shell("simulate", tmp_path / "p.npy", "--number", 2).refused(2, "exists", "hint:")
