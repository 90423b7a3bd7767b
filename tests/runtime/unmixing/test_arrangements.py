"""The bank of arrangements from which second starts are taken."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from glint.runtime.unmixing.arrangements import TEMPLATE_SIZE_PX, Bank, arrangements, nearest_arrangements

SHAPE = (11, 11)
COUNTS = [1, 2, 3, 4, 5]
Render = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def bank() -> Bank:
    return arrangements(0.5)


@pytest.mark.parametrize("count", COUNTS)
def test_a_bank_holds_what_its_positions_look_like(render: Render, bank: Bank, count: int) -> None:
    begin, end = bank.first[count], bank.first[count + 1]
    assert end > begin
    assert not bank.positions[begin:end, count:].any()
    middle = (TEMPLATE_SIZE_PX - 1) / 2
    for t in np.random.default_rng(count).integers(begin, end, 20):
        rows = [(x + middle, y + middle, 1.0) for x, y in bank.positions[t, :count]]
        image = render(rows, (TEMPLATE_SIZE_PX, TEMPLATE_SIZE_PX)).ravel()
        assert bank.norms[t] == pytest.approx(np.linalg.norm(image), rel=1e-9)
        assert bank.images[t] == pytest.approx(image / np.linalg.norm(image), abs=1e-7)


def test_a_bank_is_made_once_and_whole(bank: Bank) -> None:
    assert arrangements(0.5) is bank
    assert arrangements(0.8) is not bank
    assert bank.first[1] == 0
    assert bank.first[-1] == len(bank.positions) == len(bank.images) == len(bank.norms)


@pytest.mark.parametrize("count", COUNTS)
def test_a_rendered_arrangement_finds_itself_in_the_bank(render: Render, bank: Bank, count: int) -> None:
    blank = np.zeros(SHAPE)
    blank[5, 5] = 1.0
    some = nearest_arrangements(blank, bank, count, 20)
    assert some.shape == (20, 3, count)
    x, y, _ = some[int(np.random.default_rng(8).integers(20))]
    patch = render(np.column_stack([x, y, np.full(count, 100.0)]), SHAPE)
    found = nearest_arrangements(patch, bank, count, 1)[0]
    assert found[0] == pytest.approx(x, abs=1e-12)
    assert found[1] == pytest.approx(y, abs=1e-12)
    assert found[2] == pytest.approx(np.full(count, 100.0), rel=1e-6)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_the_nearest_ones_are_those_of_the_highest_correlation_the_best_first(
    render: Render, bank: Bank, count: int
) -> None:
    """All of the bank, in the window of a patch of its size; the radiance is that of least squares."""
    patch = render([(2.7, 3.2, 200.0), (3.4, 3.0, 120.0)], (TEMPLATE_SIZE_PX,) * 2)
    patch += np.random.default_rng(2).normal(0, 2, patch.shape)
    rows = slice(bank.first[count], bank.first[count + 1])
    unit = bank.images[rows] * bank.norms[rows, None]
    left = ((patch.ravel() - unit * (unit @ patch.ravel() / bank.norms[rows] ** 2)[:, None]) ** 2).sum(axis=1)
    best = np.argsort(left)[:7]
    found = nearest_arrangements(patch, bank, count, 7)
    for place, t in zip(found, best):
        assert place[:2] == pytest.approx(bank.positions[rows][t, :count].T + (TEMPLATE_SIZE_PX - 1) / 2, abs=1e-12)
        radiance = np.linalg.lstsq(unit[t][:, None], patch.ravel(), rcond=None)[0]
        assert place[2] == pytest.approx(np.repeat(radiance, count), rel=1e-5)


@pytest.mark.parametrize("n", [7, 9, 15])
@pytest.mark.parametrize("count", COUNTS)
def test_arrangements_are_apart_and_lie_about_the_spot(render: Render, bank: Bank, n: int, count: int) -> None:
    middle = (n - 1) / 2
    for dx in (-0.6, 0.0, 0.6):
        places = nearest_arrangements(render([(middle + dx, middle, 300.0)], (n, n)), bank, count, 4)
        assert places.shape == (4, 3, count)
        x, y, radiance = places.swapaxes(0, 1)
        assert x.mean(axis=1) == pytest.approx(np.full(4, middle + dx), abs=0.5)
        assert y.mean(axis=1) == pytest.approx(np.full(4, middle), abs=0.5)
        assert (radiance > 0).all()
        # Together they hold about the light of the spot.
        assert radiance.sum(axis=1) == pytest.approx(np.full(4, 300.0), rel=0.6)
        gap = np.hypot(x[..., :, None] - x[..., None, :], y[..., :, None] - y[..., None, :])
        assert count == 1 or gap[..., ~np.eye(count, dtype=bool)].min() > 0.45


@pytest.mark.parametrize(("x", "y"), [(3.0, 3.0), (10.8, 4.1), (0.2, 11.9), (11.6, 11.7)])
def test_the_window_follows_the_spot_and_stays_on_the_patch(render: Render, bank: Bank, x: float, y: float) -> None:
    best = nearest_arrangements(render([(x, y, 300.0)], (13, 13)), bank, 1, 1)[0]
    inside = np.clip([x, y], 2.4, 9.6)  # a template's target is at most 0.6 px off the middle of a window of 7
    assert np.abs(best[:2, 0] - inside).max() < 0.25


def test_arrangements_scale_with_the_light_and_not_with_anything_else(render: Render, bank: Bank) -> None:
    patch = render([(4.8, 5.1, 200.0), (5.5, 5.2, 150.0)], SHAPE)
    one, many = (nearest_arrangements(gain * patch, bank, 2, 3) for gain in (1, 64))
    assert np.array_equal(many[:, :2], one[:, :2])
    assert many[:, 2] == pytest.approx(64 * one[:, 2], rel=1e-9)


def test_a_dark_patch_gives_faint_arrangements_and_no_error(bank: Bank) -> None:
    places = nearest_arrangements(np.zeros(SHAPE), bank, 3, 2)
    assert np.isfinite(places).all()
    assert (places[:, 2] > 0).all() and places[:, 2].max() < 1e-3


def test_a_patch_is_left_as_it_was(render: Render, bank: Bank) -> None:
    patch = render([(4.8, 5.1, 200.0)], SHAPE)
    before, images = patch.copy(), bank.images.copy()
    nearest_arrangements(patch, bank, 2, 3)
    assert np.array_equal(patch, before)
    assert np.array_equal(bank.images, images)
