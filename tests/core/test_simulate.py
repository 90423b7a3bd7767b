"""``glint simulate`` and its function."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from glint.csist import read_csist
from glint.errors import InputError, OutputError
from glint.optics import Psf
from glint.simulate import simulate


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
