from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glint.cards import load_card
from glint.images import write_image
from glint.runtime.unmixing import unmix as module
from glint.simulation.patches import PatchConfig, simulate_patches
from glint.types import TargetFlag

Glint = Callable[..., Any]
Tree = Callable[[], dict[str, bytes]]

TARGET = ["x", "y", "radiance", "sigma_x", "sigma_y", "sigma_radiance", "score", "flags", "n", "count_probability"]


@pytest.fixture
def patches() -> np.ndarray:
    """Four patches with one or two targets of 150 to 250 DN."""
    config = PatchConfig(targets=(1, 2), radiance=(150, 250), noise=(1, 1))
    return simulate_patches(config, 4, np.random.default_rng(1)).image


@pytest.fixture
def array(patches: np.ndarray, tmp_path: Path) -> Path:
    np.save(tmp_path / "patches.npy", patches)
    return tmp_path / "patches.npy"


def check_lines(lines: list[dict[str, Any]], number: int) -> None:
    """One documented object per patch, in order."""
    assert [list(line) for line in lines] == number * [["patch", "targets"]]
    assert [line["patch"] for line in lines] == list(range(number))
    for target in (t for line in lines for t in line["targets"]):
        assert list(target) == TARGET
        assert set(target["flags"]) <= {flag.name for flag in TargetFlag}
        assert 0 <= target["score"] <= 1


def test_every_patch_has_a_line_on_standard_output(glint: Glint, array: Path) -> None:
    done = glint("unmix", array)
    assert done.code == 0
    check_lines(done.lines, 4)
    assert all(line["targets"] for line in done.lines)
    assert "in 4 patches" in done.err


def test_a_single_bright_target_is_found_in_place(glint: Glint, tmp_path: Path) -> None:
    config = PatchConfig(targets=(1, 1), noise=(1, 1))
    truth = simulate_patches(config, 10, np.random.default_rng(3))
    np.save(tmp_path / "p.npy", truth.image)
    lines = glint("unmix", tmp_path / "p.npy").lines
    best = [max(line["targets"], key=lambda t: t["radiance"]) for line in lines]
    error = np.hypot([t["x"] for t in best] - truth.x[:, 0], [t["y"] for t in best] - truth.y[:, 0])
    assert np.median(error) < 0.1
    assert np.median([t["radiance"] for t in best] / truth.radiance[:, 0]) == pytest.approx(1, abs=0.1)


def test_lines_go_to_a_file_and_nothing_to_standard_output(glint: Glint, array: Path, tmp_path: Path) -> None:
    done = glint("unmix", array, "--out", tmp_path / "new" / "t.jsonl")
    assert (done.code, done.out) == (0, "")
    text = (tmp_path / "new" / "t.jsonl").read_text()
    check_lines([json.loads(line) for line in text.splitlines()], 4)
    assert text == glint("unmix", array).out


def test_json_is_one_document_of_the_same_content(glint: Glint, array: Path) -> None:
    assert json.loads(glint("unmix", array, "--json").out) == glint("unmix", array).lines


def test_a_folder_of_pictures_is_unmixed_in_the_order_of_their_names(
    glint: Glint, patches: np.ndarray, tmp_path: Path
) -> None:
    counts = np.clip(np.round(patches), 0, 255).astype(np.uint8)
    for name, image in zip("bdac", counts):
        write_image(tmp_path / "folder" / f"{name}.png", image)
    np.save(tmp_path / "p.npy", counts[[2, 0, 3, 1]])
    folder, array = glint("unmix", tmp_path / "folder"), glint("unmix", tmp_path / "p.npy")
    check_lines(folder.lines, 4)
    assert folder.lines == array.lines


def test_chunks_number_their_patches_on(glint: Glint, array: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = glint("unmix", array).lines
    monkeypatch.setattr(module, "_PATCHES_PER_CHUNK", 3)
    chunked = glint("unmix", array).lines
    assert [len(line["targets"]) for line in chunked] == [len(line["targets"]) for line in whole]
    for a, b in zip(chunked, whole):
        assert [t["x"] for t in a["targets"]] == pytest.approx([t["x"] for t in b["targets"]], abs=1e-3)


def test_without_refinement_targets_are_those_of_the_network_with_its_uncertainties(glint: Glint, array: Path) -> None:
    rough, fine = (
        [t for line in glint("unmix", array, *words).lines for t in line["targets"]] for words in (["--no-refine"], [])
    )
    assert rough
    assert all(t["flags"] == [] and t["sigma_x"] > 0 and t["sigma_radiance"] > 0 for t in rough)
    assert not all(abs(3 * t[axis] - round(3 * t[axis])) < 1e-3 for t in rough for axis in "xy")  # off the grid
    assert [t["x"] for t in rough] != [t["x"] for t in fine]


def test_a_radiance_prior_bounds_the_stated_uncertainty(glint: Glint, array: Path) -> None:
    lines = glint("unmix", array, "--radiance-prior", "200,20").lines
    assert all(t["sigma_radiance"] <= 20 for line in lines for t in line["targets"])


def test_a_radiance_prior_of_the_card_is_used_unless_it_is_said_to_be_unknown(glint: Glint, array: Path) -> None:
    def told(*words: object) -> list[float]:
        lines = glint("unmix", array, "--unmixer", "dscsnet-s-csist", *words).lines
        return [t["sigma_radiance"] for line in lines for t in line["targets"]]

    card = load_card("dscsnet-s-csist")[0].unmixer
    assert card is not None and card.radiance_prior is not None
    mean, sd = card.radiance_prior
    assert told() == told("--radiance-prior", f"{mean},{sd}")
    assert max(told()) <= sd < max(told("--radiance-prior", "none"))


def test_eight_bit_patches_saturate_at_255_and_others_only_when_told(glint: Glint, tmp_path: Path) -> None:
    patch = np.zeros((1, 11, 11), np.uint8)
    patch[0, 4:7, 4:7] = [[9, 90, 9], [90, 255, 90], [9, 90, 9]]
    np.save(tmp_path / "8.npy", patch)
    np.save(tmp_path / "f.npy", patch.astype(np.float32))

    def saturated(*words: object) -> set[bool]:
        return {"SATURATED" in t["flags"] for line in glint("unmix", *words).lines for t in line["targets"]}

    assert saturated(tmp_path / "8.npy") == {True}
    assert saturated(tmp_path / "f.npy") == {False}
    assert saturated(tmp_path / "f.npy", "--full-scale", "255") == {True}
    assert saturated(tmp_path / "8.npy", "--full-scale", "1000") == {False}


def test_no_patches_give_no_lines(glint: Glint, tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", np.zeros((0, 11, 11), np.float32))
    done = glint("unmix", tmp_path / "none.npy", "--out", tmp_path / "t.jsonl")
    assert done.code == 0
    assert (tmp_path / "t.jsonl").read_text() == ""
    assert json.loads(glint("unmix", tmp_path / "none.npy", "--json").out) == []


def nan() -> np.ndarray:
    values = np.ones((3, 11, 11))
    values[1, 2, 3] = np.nan
    return values


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (nan(), "the first is patch 1"),
        (np.full((1, 11, 11), np.inf), "infinite"),
        (np.full((1, 11, 11), 1e300), "infinite"),
        (np.ones((3, 9, 9)), "[N, 11, 11]"),
        (np.ones((11, 11)), "[11, 11]"),
        (np.float64(3), "[]"),
        (np.ones((1, 11, 11), complex), "complex128"),
        (np.ones((1, 11, 11), bool), "bool"),
        (np.full((1, 11, 11), "x"), "<U1"),
    ],
)
def test_malformed_patches_are_refused_before_anything_is_written(
    glint: Glint, tmp_path: Path, values: np.ndarray, words: str
) -> None:
    np.save(tmp_path / "p.npy", values)
    glint("unmix", tmp_path / "p.npy", "--out", tmp_path / "t.jsonl").refused(2, words)
    assert [p.name for p in tmp_path.iterdir()] == ["p.npy"]


class Bomb:
    """Tells on itself if it is ever unpickled."""

    def __reduce__(self) -> Any:
        return print, ("unpickled!",)


def npy_of(shape: bytes) -> bytes:
    """The start of an .npy file whose header claims this shape."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + b", }"
    return b"\x93NUMPY\x01\x00" + (128 - 10).to_bytes(2, "little") + header.ljust(117) + b"\n"


FILES = {
    "empty": b"",
    "text": b"not an array",
    "pickle": pickle.dumps(Bomb()),
    "zip that is none": b"PK\x03\x04 torn off",
    "header cut": npy_of(b"(3, 11, 11)")[:40],
    "data cut": npy_of(b"(3, 11, 11)") + bytes(100),
    "header malformed": npy_of(b"(3, 11, "),
    "larger than any memory": npy_of(b"(9999999999999, 11, 11)"),
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES.keys())
def test_a_file_that_is_no_array_is_refused(glint: Glint, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.npy").write_bytes(content)
    glint("unmix", tmp_path / "p.npy", "--out", tmp_path / "t.jsonl").refused(2, "p.npy")
    assert [p.name for p in tmp_path.iterdir()] == ["p.npy"]


def test_an_array_of_objects_is_refused_and_never_unpickled(glint: Glint, tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    done = glint("unmix", tmp_path / "p.npy")
    done.refused(2, "p.npy")
    assert "unpickled!" not in done.err


def test_an_archive_is_refused_by_name(glint: Glint, tmp_path: Path, patches: np.ndarray) -> None:
    np.savez(tmp_path / "p.npz", patches)
    glint("unmix", tmp_path / "p.npz").refused(2, "p.npz", ".npz")


def test_a_missing_or_empty_source_is_refused(glint: Glint, tmp_path: Path) -> None:
    glint("unmix", tmp_path / "nowhere.npy").refused(2, "nowhere.npy")
    (tmp_path / "empty").mkdir()
    glint("unmix", tmp_path / "empty").refused(2, "holds no images", "hint:")


def test_a_folder_with_pictures_of_several_sizes_or_of_a_wrong_size_is_refused(glint: Glint, tmp_path: Path) -> None:
    write_image(tmp_path / "folder" / "a.png", np.zeros((12, 12), np.uint8))
    glint("unmix", tmp_path / "folder").refused(2, "[N, 11, 11]")
    write_image(tmp_path / "folder" / "b.png", np.zeros((11, 11), np.uint8))
    glint("unmix", tmp_path / "folder").refused(2, "one size", "(11, 11)", "(12, 12)")


def test_a_folder_with_a_truncated_or_coloured_picture_is_refused(
    glint: Glint, tmp_path: Path, truncated: Path, colour: Path
) -> None:
    glint("unmix", truncated).refused(2, "b.png")
    glint("unmix", colour.parent).refused(2, "colour", "hint:")


@pytest.mark.parametrize("how", ["hash", "corrupt", "absent", "card"])
def test_a_broken_model_is_an_error_that_leaves_no_file(
    glint: Glint, array: Path, tmp_path: Path, broken: Callable[[str, str], Path], how: str
) -> None:
    card = broken("dscsnet-s-sensor", how)
    glint("unmix", array, "--unmixer", card, "--out", tmp_path / "t.jsonl").refused(2, card.stem)
    assert not (tmp_path / "t.jsonl").exists()


def test_an_unknown_model_a_wrong_task_and_a_missing_engine_have_their_codes(glint: Glint, array: Path) -> None:
    glint("unmix", array, "--unmixer", "u-net").refused(2, "'u-net'", "hint:")
    glint("unmix", array, "--unmixer", "lsnet-s").refused(2, "made to detect, not to unmix")
    glint("unmix", array, "--engine", "tensorrt").refused(3, "TensorRT", "hint:")


def test_an_existing_output_is_kept_unless_it_may_be_overwritten(glint: Glint, array: Path, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("precious")
    glint("unmix", array, "--out", tmp_path / "t.jsonl").refused(2, "exists", "--overwrite")
    assert (tmp_path / "t.jsonl").read_text() == "precious"
    assert glint("unmix", array, "--out", tmp_path / "t.jsonl", "--overwrite").code == 0
    check_lines([json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()], 4)


def test_a_failed_run_keeps_the_old_output_even_if_it_may_be_overwritten(glint: Glint, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("precious")
    np.save(tmp_path / "p.npy", nan())
    glint("unmix", tmp_path / "p.npy", "--out", tmp_path / "t.jsonl", "--overwrite").refused(2)
    assert (tmp_path / "t.jsonl").read_text() == "precious"


@pytest.mark.parametrize(
    "words",
    [
        ["--json", "--out", "t.jsonl"],
        ["--radiance-prior=0,1"],
        ["--full-scale", "nan"],
        ["--full-scale=-5"],
        ["--full-scale", "x"],
    ],
)
def test_a_bad_option_is_a_usage_error(glint: Glint, array: Path, words: list[str]) -> None:
    glint("unmix", array, *words).refused(2, words[0].split("=")[0])


def test_a_process_leaves_with_the_code_of_the_command(shell: Callable[..., Any], tmp_path: Path) -> None:
    shell("unmix", tmp_path / "nowhere.npy").refused(2, "nowhere.npy")


def test_a_pickled_array_is_refused_without_advice_to_load_it_anyway(glint: Glint, tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    outcome = glint("unmix", tmp_path / "objects.npy")
    assert outcome.code == 2
    assert "not an .npy array" in outcome.err and "allow_pickle" not in outcome.err and "unsafely" not in outcome.err
