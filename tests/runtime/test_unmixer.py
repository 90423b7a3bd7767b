from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from glint.errors import InputError, ModelError
from glint.runtime import unmixer as module
from glint.runtime.unmixer import Unmixer
from glint.types import TargetFlag


@pytest.mark.parametrize("shape", [(11, 11), (2, 9, 9), (2, 11, 12), (1, 1, 11, 11), (11,), ()])
def test_another_shape_is_refused_with_both_shapes(unmixer: Unmixer, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError) as caught:
        unmixer(np.zeros(shape, np.float32))
    assert "[N, 11, 11]" in str(caught.value)
    assert str(list(shape)) in str(caught.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_the_first_patch(unmixer: Unmixer, bad: float) -> None:
    patches = np.zeros((5, 11, 11))
    patches[3, 10, 0] = patches[4, 0, 0] = bad
    with pytest.raises(InputError, match=r"2 of 5 .* the first is patch 3"):
        unmixer(patches)


@pytest.mark.parametrize("dtype", [object, bool, complex, "U3", "datetime64[s]"])
def test_what_is_no_number_is_refused_with_its_type(unmixer: Unmixer, dtype: object) -> None:
    patches = np.zeros((1, 11, 11)).astype(dtype)
    with pytest.raises(InputError, match=str(patches.dtype).replace("[", r"\[")):
        unmixer(patches)


def test_doubles_beyond_single_precision_are_refused_as_not_finite(unmixer: Unmixer) -> None:
    with pytest.raises(InputError, match="infinite"):
        unmixer(np.full((1, 11, 11), 1e300))


def test_an_empty_batch_gives_no_targets(unmixer: Unmixer) -> None:
    targets = unmixer(np.zeros((0, 11, 11), np.uint8))
    assert len(targets) == 0
    assert targets.blob.dtype == np.int64


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float64])
def test_every_number_type_gives_the_same_targets(
    unmixer: Unmixer, render: Callable[..., np.ndarray], dtype: type
) -> None:
    patch = np.round(render([(5.2, 4.8, 200)], (11, 11)))[None]
    expected, got = unmixer(patch.astype(np.float32)), unmixer(patch.astype(dtype))
    assert got.x.tolist() == expected.x.tolist()
    assert got.radiance.tolist() == expected.radiance.tolist()


@pytest.mark.parametrize(("x", "y"), [(5.0, 5.0), (4.3, 6.2), (7.4, 3.1), (2.6, 7.7)])
def test_a_bright_single_target_is_found_within_a_third_of_a_pixel(
    unmixer: Unmixer, render: Callable[..., np.ndarray], x: float, y: float
) -> None:
    targets = unmixer(render([(x, y, 200)], (11, 11))[None])
    best = targets.radiance.argmax()
    assert np.hypot(targets.x[best] - x, targets.y[best] - y) < 0.35
    assert targets.radiance.sum() == pytest.approx(200, rel=0.3)


def test_answers_lie_on_cell_centres_with_unknown_uncertainty(
    unmixer: Unmixer, render: Callable[..., np.ndarray]
) -> None:
    targets = unmixer(render([(5.2, 4.7, 150), (5.9, 5.3, 150)], (11, 11))[None])
    assert len(targets) >= 1
    for value in (targets.x, targets.y):
        assert 3 * value == pytest.approx(np.round(3 * value), abs=1e-9)
    assert np.isnan(targets.sigma_x).all()
    assert np.isnan(targets.sigma_radiance).all()
    assert (targets.flags == TargetFlag.ON_GRID).all()
    assert ((targets.score > 0) & (targets.score < 1)).all()


def test_a_dark_patch_has_no_bright_target(unmixer: Unmixer) -> None:
    targets = unmixer(np.zeros((1, 11, 11)))
    assert np.all(targets.radiance < 5)


def batch(render: Callable[..., np.ndarray]) -> np.ndarray:
    rng = np.random.default_rng(4)
    return np.stack([render([(*rng.uniform(3, 7, 2), 200), (*rng.uniform(3, 7, 2), 120)], (11, 11)) for _ in range(7)])


def test_a_patch_is_unmixed_alike_alone_and_among_others(unmixer: Unmixer, render: Callable[..., np.ndarray]) -> None:
    patches = batch(render).astype(np.float32)
    together, left, top = unmixer.grids(patches)
    for i in (0, 3, 6):
        alone, left_alone, top_alone = unmixer.grids(patches[i : i + 1])
        assert (left_alone[0], top_alone[0]) == (left[i], top[i])
        assert alone[0] == pytest.approx(together[i], abs=0.01)


def test_a_change_in_one_patch_leaves_the_others_alone(unmixer: Unmixer, render: Callable[..., np.ndarray]) -> None:
    patches = batch(render).astype(np.float32)
    before = unmixer.grids(patches)[0]
    patches[2] = 1000 * np.random.default_rng(0).random((11, 11))
    after = unmixer.grids(patches)[0]
    others = [0, 1, 3, 4, 5, 6]
    assert after[others] == pytest.approx(before[others], abs=0.01)
    assert np.abs(after[2] - before[2]).max() > 1


def brightest_pixel(patch: np.ndarray) -> dict[str, np.ndarray]:
    """A network that puts all light into the middle cell of the brightest pixel."""
    number, _, side, _ = patch.shape
    grid = np.zeros((number, 1, 3 * side, 3 * side), np.float32)
    row, column = np.divmod(patch.reshape(number, -1).argmax(1), side)
    grid[np.arange(number), 0, 3 * row + 1, 3 * column + 1] = patch.sum(axis=(1, 2, 3))
    return {"grid": grid}


@pytest.mark.parametrize("crop", [7, 11])
def test_cells_come_back_in_pixels_of_the_whole_patch(
    fake_unmixer: Callable[..., Unmixer], render: Callable[..., np.ndarray], crop: int
) -> None:
    places = [(3, 7, 90), (8, 4, 50), (5, 5, 10), (1, 9, 20)]
    targets = fake_unmixer(brightest_pixel, crop=crop)(np.stack([render([p], (11, 11), 0.3) for p in places]))
    assert targets.blob.tolist() == [0, 1, 2, 3]
    assert targets.x == pytest.approx([p[0] for p in places])
    assert targets.y == pytest.approx([p[1] for p in places])
    assert targets.radiance == pytest.approx([p[2] for p in places], rel=1e-3)


def test_chunks_give_the_same_as_one_batch(
    fake_unmixer: Callable[..., Unmixer], render: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fake_unmixer(brightest_pixel)
    expected = whole(batch(render))
    monkeypatch.setattr(module, "_CHUNK", 3)
    chunked = fake_unmixer(brightest_pixel)
    got = chunked(batch(render))
    assert [len(call["patch"]) for call in chunked.engine.seen] == [3, 3, 1]
    assert [len(call["patch"]) for call in whole.engine.seen] == [7]
    for name in ("blob", "x", "y", "radiance", "score"):
        assert getattr(got, name).tolist() == getattr(expected, name).tolist()


def test_only_cells_above_the_relative_threshold_of_their_own_patch_are_targets(
    fake_unmixer: Callable[..., Unmixer], render: Callable[..., np.ndarray]
) -> None:
    def two_cells(patch: np.ndarray) -> dict[str, np.ndarray]:
        grid = np.zeros((len(patch), 1, 21, 21), np.float32)
        grid[:, 0, 10, 10], grid[:, 0, 10, 13] = 1.0, 0.3
        return {"grid": grid}

    patches = np.stack([render([(5, 5, s)], (11, 11)) for s in (10, 1000)])
    assert fake_unmixer(two_cells, relative=0.2)(patches).blob.tolist() == [0, 0, 1, 1]
    assert fake_unmixer(two_cells, relative=0.4)(patches).blob.tolist() == [0, 1]


def test_a_detector_cannot_be_opened_as_an_unmixer() -> None:
    with pytest.raises(ModelError, match="made to detect, not to unmix"):
        Unmixer.open("lsnet-s")
