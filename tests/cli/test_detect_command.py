from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glint.images import read_image, write_image

Glint = Callable[..., Any]
Tree = Callable[[], dict[str, bytes]]


def test_each_image_gets_a_mask_of_its_size_and_stem(glint: Glint, night: Path, tmp_path: Path) -> None:
    write_image(night / "wide.png", np.full((21, 70), 900, np.uint16))
    done = glint("detect", night, "--out", tmp_path / "masks")
    assert (done.code, done.out) == (0, "")
    masks = sorted((tmp_path / "masks").iterdir())
    assert [m.name for m in masks] == ["a.png", "b.png", "c.png", "wide.png"]
    for path in masks:
        mask, image = read_image(path), read_image(night / path.name)
        assert mask.dtype == np.uint8
        assert mask.shape == image.shape
        assert set(np.unique(mask)) <= {0, 255}
    assert "4 masks" in done.err


def test_a_bright_target_is_in_its_mask_and_a_flat_image_has_none(glint: Glint, night: Path, tmp_path: Path) -> None:
    write_image(night / "flat.png", np.full((40, 48), 60, np.uint8))
    assert glint("detect", night, "--out", tmp_path / "masks").code == 0
    assert read_image(tmp_path / "masks" / "a.png")[15:17, 20:22].max() == 255
    assert not read_image(tmp_path / "masks" / "flat.png").any()


def test_masks_are_png_whatever_the_images_are(glint: Glint, night: Path, tmp_path: Path) -> None:
    with Image.open(night / "a.png") as image:
        image.save(tmp_path / "x.bmp")
    assert glint("detect", tmp_path / "x.bmp", "--out", tmp_path / "masks").code == 0
    assert (tmp_path / "masks" / "x.png").read_bytes().startswith(b"\x89PNG")


def test_json_is_one_document_with_the_counts(glint: Glint, truncated: Path, tmp_path: Path) -> None:
    done = glint("detect", truncated, "--out", tmp_path / "masks", "--json")
    summary = json.loads(done.out)
    assert done.code == 0
    assert summary.keys() == {"frames", "skipped", "blobs", "seconds"}
    assert summary["frames"] == 2
    assert [s["name"] for s in summary["skipped"]] == ["b.png"]


def test_a_truncated_image_among_good_ones_is_reported_and_skipped(
    glint: Glint, truncated: Path, tmp_path: Path
) -> None:
    done = glint("detect", truncated, "--out", tmp_path / "masks")
    assert done.code == 0
    assert "skipped b.png" in done.err
    assert "Traceback" not in done.err
    assert sorted(m.name for m in (tmp_path / "masks").iterdir()) == ["a.png", "c.png"]


def test_a_simulated_source_works_too(glint: Glint, scene: str, tmp_path: Path) -> None:
    assert glint("detect", scene, "--out", tmp_path / "masks").code == 0
    assert [read_image(m).shape for m in sorted((tmp_path / "masks").iterdir())] == [(80, 96), (80, 96)]


@pytest.mark.parametrize(
    ("source", "words"), [("{}/nowhere", "no such"), ("{}", "holds no images"), ("ftp://x", "ftp://")]
)
def test_a_bad_source_is_an_error_that_leaves_nothing(
    glint: Glint, tmp_path: Path, tree: Tree, source: str, words: str
) -> None:
    glint("detect", source.format(tmp_path), "--out", tmp_path / "masks").refused(2, words)
    assert not (tmp_path / "masks").exists()


def test_a_colour_image_is_refused(glint: Glint, colour: Path, tmp_path: Path) -> None:
    glint("detect", colour, "--out", tmp_path / "masks").refused(2, "colour", "hint:")
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize("how", ["hash", "corrupt", "absent", "card"])
def test_a_broken_model_is_an_error_that_leaves_nothing(
    glint: Glint, night: Path, tmp_path: Path, broken: Callable[[str, str], Path], how: str
) -> None:
    card = broken("lsnet-s", how)
    glint("detect", night, "--out", tmp_path / "masks", "--detector", card).refused(2, card.stem)
    assert not (tmp_path / "masks").exists()


def test_an_unknown_model_and_an_engine_that_is_not_here_have_their_codes(
    glint: Glint, night: Path, tmp_path: Path
) -> None:
    glint("detect", night, "--out", tmp_path / "masks", "--detector", "yolo").refused(2, "'yolo'", "hint:")
    glint("detect", night, "--out", tmp_path / "masks", "--engine", "tensorrt").refused(3, "TensorRT", "hint:")
    assert not (tmp_path / "masks").exists()


def test_a_filled_folder_is_refused_unless_it_may_be_overwritten(glint: Glint, night: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "a.png").write_text("precious")
    glint("detect", night, "--out", masks).refused(2, "not empty", "--overwrite")
    assert (masks / "a.png").read_text() == "precious"
    assert glint("detect", night, "--out", masks, "--overwrite").code == 0
    assert read_image(masks / "a.png").shape == (40, 48)


@pytest.mark.parametrize("source", ["{}", "file://{}", "{}/*.png", "{}/a.png", "{}/../night"])
def test_masks_never_replace_the_images(glint: Glint, night: Path, tree: Tree, source: str) -> None:
    before = tree()
    glint("detect", source.format(night), "--out", night, "--overwrite").refused(2)
    assert tree() == before


def test_two_images_of_one_stem_do_not_share_a_mask(glint: Glint, night: Path, tmp_path: Path) -> None:
    shutil.copytree(night, tmp_path / "other")
    done = glint("detect", f"{tmp_path}/*/a.png", "--out", tmp_path / "masks")
    written = len(list((tmp_path / "masks").glob("*"))) if done.code == 0 else None
    assert done.code == 2 or written == 2  # refused, or both kept: but not one lost in silence


def test_an_output_that_is_a_file_is_an_error(glint: Glint, night: Path, tmp_path: Path) -> None:
    (tmp_path / "masks").write_text("in the way")
    glint("detect", night, "--out", tmp_path / "masks").refused(2, "masks")
    assert (tmp_path / "masks").read_text() == "in the way"


def test_the_folder_for_the_masks_must_be_given(glint: Glint, night: Path) -> None:
    glint("detect", night).refused(2, "--out")


def test_a_process_leaves_with_the_code_of_the_command(shell: Callable[..., Any], tmp_path: Path) -> None:
    shell("detect", tmp_path, "--out", tmp_path / "masks").refused(2, "holds no images")
