"""``glint simulate`` and its function."""

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from glint.data.csist import read_csist
from glint.errors import InputError, OutputError
from glint.images import read_image, write_image
from glint.optics import Psf
from glint.simulate import simulate, simulate_frames
from glint.simulation.scenes import SceneConfig, simulate_scene


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_array_comes_with_its_truth_line_by_line(tmp_path):
    patches = simulate(tmp_path / "a.npy", number=6, seed=4)
    images = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert (images.shape, images.dtype) == ((6, 11, 11), np.float32)
    assert_array_equal(images, patches.image)
    truth = lines(tmp_path / "a.truth.jsonl")
    assert [row["patch"] for row in truth] == list(range(6))
    for image, row in zip(images, truth):
        x, y, radiance = ([target[name] for target in row["targets"]] for name in ("x", "y", "radiance"))
        assert_allclose(image, Psf(0.5).render(x, y, radiance, (11, 11)), rtol=1e-6, atol=1e-9)


def test_a_folder_is_of_the_csist_layout(tmp_path):
    patches = simulate(tmp_path / "set", condition="8sat", number=5)
    back = read_csist(tmp_path / "set")
    assert_array_equal(back.image, patches.image)
    assert_array_equal(back.x, patches.x)


def test_the_seed_decides(tmp_path):
    first, again, other = (
        simulate(tmp_path / f"{i}.npy", condition="sensor", number=3, seed=s).image for i, s in enumerate([7, 7, 8])
    )
    assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("name", ["a.npy", "a.truth.jsonl"])
def test_neither_array_nor_truth_is_overwritten_unasked(tmp_path, name):
    (tmp_path / name).write_text("old")
    with pytest.raises(OutputError, match="exists"):
        simulate(tmp_path / "a.npy", number=2)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "old"
    simulate(tmp_path / "a.npy", number=2, overwrite=True)
    assert len(lines(tmp_path / "a.truth.jsonl")) == 2


def test_a_filled_folder_is_refused(tmp_path):
    simulate(tmp_path / "set", number=2)
    with pytest.raises(OutputError, match="already"):
        simulate(tmp_path / "set", number=2)


def test_no_patches_have_no_lines_of_truth(tmp_path):
    simulate(tmp_path / "a.npy", number=0)
    assert np.load(tmp_path / "a.npy").shape == (0, 11, 11)
    assert lines(tmp_path / "a.truth.jsonl") == []


def test_an_unknown_condition_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(InputError, match=r"8sat, .*sensor, got 'dark'"):
        simulate(tmp_path / "a.npy", condition="dark")
    assert list(tmp_path.iterdir()) == []


def test_a_negative_number_is_refused(tmp_path):
    with pytest.raises(InputError, match="-3"):
        simulate(tmp_path / "a.npy", number=-3)
    assert list(tmp_path.iterdir()) == []


# Frames

SCENE = SceneConfig(width=64, height=48, frames=3, clusters=1, singles=1, noise=1.0, bits=12)


def test_frames_are_written_as_they_were_simulated_with_their_truth(tmp_path):
    assert simulate_frames(SCENE, tmp_path / "scene") == 3
    truth = lines(tmp_path / "scene" / "truth.jsonl")
    images = sorted((tmp_path / "scene").glob("*.png"))
    for row, path, (frame, targets) in zip(truth, images, simulate_scene(SCENE), strict=True):
        assert (row["frame"], row["t_ns"], path.stem) == (frame.index, frame.t_ns, frame.name)
        image = read_image(path)
        assert image.dtype == np.uint16
        assert_array_equal(image, frame.data)
        assert_allclose([t["x"] for t in row["targets"]], targets.x, atol=1e-5)
        assert_allclose([t["radiance"] for t in row["targets"]], targets.radiance, atol=1e-3)


def test_frames_are_drawn_over_the_background_of_the_scene(tmp_path):
    sky = np.random.default_rng(1).integers(0, 200, (48, 64)).astype(np.uint8)
    write_image(tmp_path / "sky.png", sky)
    scene = replace(SCENE, bits=8, noise=0.0, clusters=0, singles=0, frames=1, background=str(tmp_path / "sky.png"))
    simulate_frames(scene, tmp_path / "scene")
    assert_array_equal(read_image(tmp_path / "scene" / "000000.png"), sky)


def test_frames_are_not_written_into_a_filled_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        simulate_frames(SCENE, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
