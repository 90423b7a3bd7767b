"""Reading the target head's maps: synthetic maps whose targets are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glint.errors import InputError
from glint.processing.candidates import SLOTS, Candidates, find_candidates

quick = settings(deadline=None, max_examples=50, derandomize=True)
Cell = tuple[int, int, int]  # patch, row, column


def blank(number: int, side: int, spread: float = 0.1) -> dict[str, np.ndarray]:
    """The maps of a head that sees nothing."""
    channels = {"presence": 1, "offset": 2, "radiance": 1, "spread": 3}
    maps = {name: np.zeros((number, c, side, side), dtype=np.float32) for name, c in channels.items()}
    maps["spread"] += spread
    return maps


def put(
    maps: dict[str, np.ndarray], cell: Cell, presence: float, x: float, y: float, radiance: float,
    spread: tuple[float, float, float] = (0.1, 0.1, 0.1), c: int = 3,
) -> None:  # fmt: skip
    """Let a cell speak of a target at (x, y)."""
    patch, row, column = cell
    at = (patch, slice(None), row, column)
    maps["presence"][at] = presence
    maps["offset"][at] = x - (column - (c - 1) / 2) / c, y - (row - (c - 1) / 2) / c
    maps["radiance"][at] = radiance
    maps["spread"][at] = spread


def find(maps: dict[str, np.ndarray], c: int = 3) -> Candidates:
    return find_candidates(**maps, c=c)


def test_one_cell_gives_one_candidate_where_its_offset_points() -> None:
    maps = blank(1, 21)
    put(maps, (0, 9, 12), 0.8, 4.1, 2.9, 1.7, (0.03, 0.05, 0.2))
    found = find(maps)
    first = [float(getattr(found, name)[0, 0]) for name in ("presence", "x", "y", "radiance")]
    assert first == pytest.approx([0.8, 4.1, 2.9, 1.7], abs=1e-6)
    sigmas = [float(getattr(found, f"sigma_{name}")[0, 0]) for name in ("x", "y", "radiance")]
    assert sigmas == pytest.approx([0.03, 0.05, 0.2], rel=1e-5)
    assert not found.presence[0, 1:].any()
    assert found.count().tolist() == [1]
    assert all(v.shape == (1, SLOTS) and v.dtype == np.float32 for v in vars(found).values())


@pytest.mark.parametrize("c", [1, 3, 5])
def test_x_is_the_column_and_y_the_row_for_any_number_of_cells(c: int) -> None:
    maps = blank(1, 5 * c)
    put(maps, (0, c, 3 * c), 1.0, 3.2, 0.9, 1.0, c=c)
    found = find(maps, c)
    assert (found.x[0, 0], found.y[0, 0]) == pytest.approx((3.2, 0.9), abs=1e-6)


def test_the_probabilities_of_cells_that_share_a_target_add_up() -> None:
    """A target on the corner of four cells, each a little unsure whether it lies in it."""
    maps = blank(1, 21)
    for cell, share in (((0, 9, 9), 0.3), ((0, 9, 10), 0.25), ((0, 10, 9), 0.2), ((0, 10, 10), 0.15)):
        put(maps, cell, share, 2.83, 2.83, 1.0)
    found = find(maps)
    assert found.presence[0, 0] == pytest.approx(0.9)
    assert not found.presence[0, 1:].any()
    assert (found.x[0, 0], found.y[0, 0]) == pytest.approx((2.83, 2.83), abs=1e-5)
    assert found.count().tolist() == [1]


def test_cells_that_disagree_are_averaged_and_their_disagreement_is_uncertainty() -> None:
    maps = blank(1, 21)
    put(maps, (0, 9, 9), 0.6, 2.80, 3.0, 1.0, (0.05, 0.04, 0.1))
    put(maps, (0, 9, 10), 0.2, 2.96, 3.0, 1.4, (0.03, 0.04, 0.1))
    found = find(maps)
    weight = np.array([0.75, 0.25])
    for name, values, sd in (("x", [2.80, 2.96], [0.05, 0.03]), ("radiance", [1.0, 1.4], [0.1, 0.1])):
        mean = weight @ values
        variance = weight @ (np.square(sd) + np.square(values - mean))  # of the mixture of two Gaussians
        assert getattr(found, name)[0, 0] == pytest.approx(mean, abs=1e-5)
        assert getattr(found, f"sigma_{name}")[0, 0] == pytest.approx(np.sqrt(variance), rel=1e-4)
    assert found.sigma_y[0, 0] == pytest.approx(0.04, rel=1e-4)
    assert found.presence[0, 0] == pytest.approx(0.8)


def test_presence_is_never_more_than_certain() -> None:
    maps = blank(1, 21)
    for row in (9, 10):
        for column in (9, 10):
            put(maps, (0, row, column), 0.9, 2.83, 2.83, 1.0)
    assert find(maps).presence[0].tolist() == [1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("split", [False, True])
def test_targets_half_a_pixel_apart_in_neighbouring_cells_stay_two(split: bool) -> None:
    """The least distance of two targets, across a border; each may share its probability with an outer neighbour."""
    maps = blank(1, 21)
    put(maps, (0, 9, 9), 0.5 if split else 0.95, 2.68, 2.7, 1.0)
    put(maps, (0, 9, 10), 0.55 if split else 0.9, 3.17, 2.75, 0.8)
    if split:
        put(maps, (0, 9, 8), 0.45, 2.66, 2.7, 1.0)
        put(maps, (0, 9, 11), 0.4, 3.18, 2.75, 0.8)
    found = find(maps)
    assert found.count().tolist() == [2]
    assert found.presence[0, :2] == pytest.approx([0.95] * 2 if split else [0.95, 0.9])
    assert np.sort(found.x[0, :2]) == pytest.approx([2.67, 3.175], abs=0.01)


def test_five_targets_on_corners_of_cells_are_all_seen() -> None:
    """Each is shared by four cells: twenty cells speak of five targets."""
    maps = blank(1, 21)
    corners = [(8, 8), (8, 11), (11, 8), (11, 11), (14, 9)]
    for row, column in corners:
        for cell in ((0, row, column), (0, row, column + 1), (0, row + 1, column), (0, row + 1, column + 1)):
            put(maps, cell, 0.24, (column - 0.5) / 3, (row - 0.5) / 3, 1.0)
    found = find(maps)
    assert found.count().tolist() == [5]
    assert found.presence[0, :5] == pytest.approx([0.96] * 5)
    got = np.array(sorted(zip(found.y[0, :5].round(3), found.x[0, :5].round(3))))
    assert got == pytest.approx((np.array(sorted(corners)) - 0.5) / 3, abs=2e-3)


def test_the_most_probable_comes_first_even_if_it_is_the_sum_of_several() -> None:
    maps = blank(1, 21)
    put(maps, (0, 3, 3), 0.6, 0.67, 0.67, 1.0)
    put(maps, (0, 9, 9), 0.5, 2.8, 2.7, 2.0)
    put(maps, (0, 9, 10), 0.4, 2.85, 2.7, 2.0)
    found = find(maps)
    assert found.presence[0, :3] == pytest.approx([0.9, 0.6, 0.0])
    assert found.radiance[0, :2] == pytest.approx([2.0, 1.0])


def test_a_patch_in_which_something_might_be_has_one_target_and_an_empty_one_none() -> None:
    maps = blank(3, 21)
    put(maps, (1, 9, 9), 0.2, 2.7, 2.7, 1.0)
    put(maps, (2, 9, 9), 0.05, 2.7, 2.7, 1.0)
    found = find(maps)
    assert found.count().tolist() == [0, 1, 0]
    assert found.presence[:, 0] == pytest.approx([0, 0.2, 0.05])


def test_more_targets_than_slots_keep_the_most_probable() -> None:
    maps = blank(1, 21)
    for i in range(8):
        put(maps, (0, 1 + 6 * (i // 4), 1 + 5 * (i % 4)), 0.9 - 0.05 * i, 5 * (i % 4) / 3, 2 * (i // 4), 1.0 + i)
    found = find(maps)
    assert found.presence[0] == pytest.approx([0.9 - 0.05 * i for i in range(SLOTS)])
    assert found.count().tolist() == [SLOTS]


def test_a_grid_smaller_than_the_shortlist_is_read_whole() -> None:
    maps = blank(2, 3)
    put(maps, (1, 2, 0), 0.7, -0.3, 0.4, 1.0)
    found = find(maps)
    assert found.count().tolist() == [0, 1]
    assert (found.x[1, 0], found.y[1, 0]) == pytest.approx((-0.3, 0.4), abs=1e-6)


@pytest.mark.parametrize("side", [3, 21, 33])
def test_no_patches_give_no_candidates(side: int) -> None:
    found = find(blank(0, side))
    assert len(found) == 0
    assert found.x.shape == (0, SLOTS)
    assert found.count().shape == (0,)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("presence", (2, 2, 21, 21)), ("presence", (2, 21, 21)), ("presence", (2, 1, 21, 20)),
        ("presence", (1, 1, 21, 21)), ("radiance", (2, 2, 21, 21)), ("radiance", (2, 1, 7, 7)),
        ("offset", (2, 1, 21, 21)), ("offset", (2, 2, 20, 21)), ("spread", (2, 2, 21, 21)), ("spread", (3, 3, 21, 21)),
    ],
)  # fmt: skip
def test_maps_that_do_not_fit_together_are_refused_with_their_shapes(name: str, shape: tuple[int, ...]) -> None:
    maps = {**blank(2, 21), name: np.zeros(shape, np.float32)}
    with pytest.raises(InputError, match="find_candidates") as caught:
        find(maps)
    assert str(shape) in str(caught.value)


@st.composite
def random_maps(draw: Any) -> tuple[dict[str, np.ndarray], int]:
    c = draw(st.sampled_from([1, 3, 5]))
    side, number = c * draw(st.integers(1, 7)), draw(st.integers(0, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    maps = blank(number, side)
    sharpness = draw(st.sampled_from([0.3, 3.0, 30.0]))
    maps["presence"][:] = rng.random(maps["presence"].shape) ** sharpness
    maps["presence"][rng.random(maps["presence"].shape) < draw(st.sampled_from([0.0, 0.9, 1.0]))] = 0
    maps["offset"][:] = rng.normal(0, 0.5, maps["offset"].shape)
    maps["radiance"][:] = rng.normal(1, 1, maps["radiance"].shape)
    maps["spread"][:] = rng.uniform(0.002, 4, maps["spread"].shape)
    return maps, c


@quick
@given(case=random_maps())
def test_candidates_of_any_maps_are_finite_ordered_apart_and_within_what_was_said(case: Any) -> None:
    maps, c = case
    found = find(maps, c)
    number, side = len(maps["presence"]), maps["presence"].shape[-1]
    for value in vars(found).values():
        assert value.shape == (number, SLOTS) and value.dtype == np.float32
        assert np.isfinite(value).all()
    assert (np.diff(found.presence, axis=1) <= 0).all()
    assert ((found.presence >= 0) & (found.presence <= 1)).all()
    assert (found.presence.sum(axis=1) <= maps["presence"].sum(axis=(1, 2, 3)) * (1 + 1e-5) + 1e-6).all()
    said = maps["presence"].max(axis=(1, 2, 3), initial=0)
    assert (found.presence[:, 0] >= said - 1e-6).all()  # what is most probable is never lost
    centre = (np.arange(side) - (c - 1) / 2) / c
    for name, channel, centres in (("x", 0, centre), ("y", 1, centre[:, None])):
        position = maps["offset"][:, channel] + centres
        seen = found.presence > 1e-9  # less is nothing
        low, high = (np.broadcast_to(f(position, axis=(1, 2))[:, None], seen.shape) for f in (np.min, np.max))
        assert ((getattr(found, name) >= low - 1e-4) & (getattr(found, name) <= high + 1e-4))[seen].all()
        assert (getattr(found, f"sigma_{name}")[seen] >= 0.0019).all()
    assert ((found.count() >= 0) & (found.count() <= SLOTS)).all()


@quick
@given(case=random_maps(), seed=st.integers(0, 99))
def test_patches_are_read_one_by_one(case: Any, seed: int) -> None:
    maps, c = case
    order = np.random.default_rng(seed).permutation(len(maps["presence"]))
    mixed = find({name: value[order] for name, value in maps.items()}, c)
    straight = find(maps, c).rows(order)
    for name, value in vars(mixed).items():
        assert value == pytest.approx(getattr(straight, name), abs=1e-6), name


def table(number: int = 3) -> Candidates:
    return Candidates(*np.random.default_rng(0).random((7, number, SLOTS)).astype(np.float32))


def test_rows_are_those_that_an_index_or_a_mask_names() -> None:
    candidates = table()
    assert np.array_equal(candidates.rows(np.array([2, 0])).x, candidates.x[[2, 0]])
    assert np.array_equal(candidates.rows(np.array([False, True, False])).sigma_y, candidates.sigma_y[[1]])
    assert len(candidates.rows(np.zeros(0, dtype=int))) == 0


def test_moving_shifts_positions_patch_by_patch_and_nothing_else() -> None:
    candidates = table()
    moved = candidates.moved([1, 0, -2], [0.5, 0, 3])
    assert moved.x - candidates.x == pytest.approx(np.tile([[1], [0], [-2]], SLOTS), abs=1e-6)
    assert moved.y - candidates.y == pytest.approx(np.tile([[0.5], [0], [3]], SLOTS), abs=1e-6)
    assert moved.x.dtype == np.float32
    for name in ("presence", "radiance", "sigma_x", "sigma_y", "sigma_radiance"):
        assert getattr(moved, name) is getattr(candidates, name)


def test_the_count_is_of_those_more_likely_there_than_not() -> None:
    presence = np.array([[0.9, 0.51, 0.5, 0.1, 0, 0], [0.11, 0, 0, 0, 0, 0], [0.1, 0.1, 0, 0, 0, 0]], np.float32)
    assert Candidates(presence, *6 * [np.zeros_like(presence)]).count().tolist() == [2, 1, 0]
