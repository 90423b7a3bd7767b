from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from glint.cards import UnmixerSpec
from glint.errors import InputError, ModelError
from glint.runtime.engines.base import Arrays, EngineProxy
from glint.runtime.unmixing import unmixer as module
from glint.runtime.unmixing.unmixer import Unmixed, Unmixer
from glint.types import TargetFlag

Render = Callable[..., np.ndarray]
Fake = Callable[..., Unmixer]
Maps = Callable[..., Arrays]
Network = Callable[..., Arrays]


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
    unmixed = unmixer(np.zeros((0, 11, 11), np.uint8))
    assert unmixed.grids.shape == (0, 21, 21)
    assert len(unmixed.candidates) == 0
    for targets in (unmixed.targets(), unmixed.on_grid()):
        assert len(targets) == 0
        assert targets.blob.dtype == np.int64


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float64])
def test_every_number_type_gives_the_same_targets(unmixer: Unmixer, render: Render, dtype: type) -> None:
    patch = np.round(render([(5.2, 4.8, 200)], (11, 11)))[None]
    expected, got = (unmixer(patch.astype(d)).targets() for d in (np.float32, dtype))
    assert len(got) >= 1
    assert got.x.tolist() == expected.x.tolist()
    assert got.radiance.tolist() == expected.radiance.tolist()


PLACES = [(5.0, 5.0), (4.3, 6.2), (7.4, 3.1), (2.6, 7.7)]


@pytest.mark.parametrize(("x", "y"), PLACES)
def test_a_bright_single_target_is_found_off_the_grid(unmixer: Unmixer, render: Render, x: float, y: float) -> None:
    targets = unmixer(render([(x, y, 200)], (11, 11))[None]).targets()
    best = targets.radiance.argmax()
    assert np.hypot(targets.x[best] - x, targets.y[best] - y) < 0.2
    assert targets.radiance.sum() == pytest.approx(200, rel=0.3)
    assert not targets.flags.any()
    assert 0 < targets.sigma_x[best] < 0.5 and 0 < targets.sigma_y[best] < 0.5


@pytest.mark.parametrize(("x", "y"), PLACES)
def test_a_bright_single_target_is_found_on_the_grid_within_a_third_of_a_pixel(
    unmixer: Unmixer, render: Render, x: float, y: float
) -> None:
    targets = unmixer(render([(x, y, 200)], (11, 11))[None]).on_grid()
    best = targets.radiance.argmax()
    assert np.hypot(targets.x[best] - x, targets.y[best] - y) < 0.35
    assert targets.radiance.sum() == pytest.approx(200, rel=0.4)  # what lies in cells below the threshold is lost


def test_answers_on_the_grid_lie_on_cell_centres_with_unknown_uncertainty(unmixer: Unmixer, render: Render) -> None:
    targets = unmixer(render([(5.2, 4.7, 150), (5.9, 5.3, 150)], (11, 11))[None]).on_grid()
    assert len(targets) >= 1
    for value in (targets.x, targets.y):
        assert 3 * value == pytest.approx(np.round(3 * value), abs=1e-9)
    assert np.isnan(targets.sigma_x).all()
    assert np.isnan(targets.sigma_radiance).all()
    assert (targets.flags == TargetFlag.ON_GRID).all()
    assert ((targets.score > 0) & (targets.score < 1)).all()


def test_a_dark_patch_has_no_bright_target(unmixer: Unmixer) -> None:
    unmixed = unmixer(np.zeros((1, 11, 11)))
    assert np.all(unmixed.targets().radiance < 5)
    assert np.all(unmixed.on_grid().radiance < 5)


def test_candidates_are_probable_first_and_finite(unmixer: Unmixer, render: Render) -> None:
    found = unmixer(batch(render)).candidates
    assert all(np.isfinite(v).all() and v.dtype == np.float32 for v in vars(found).values())
    assert (np.diff(found.presence, axis=1) <= 0).all()
    assert ((found.presence >= 0) & (found.presence <= 1)).all()


def batch(render: Render) -> np.ndarray:
    rng = np.random.default_rng(4)
    return np.stack([render([(*rng.uniform(3, 7, 2), 200), (*rng.uniform(3, 7, 2), 120)], (11, 11)) for _ in range(7)])


def test_a_patch_is_unmixed_alike_alone_and_among_others(unmixer: Unmixer, render: Render) -> None:
    patches = batch(render).astype(np.float32)
    together = unmixer(patches)
    for i in (0, 3, 6):
        alone = unmixer(patches[i : i + 1])
        assert (alone.left[0], alone.top[0]) == (together.left[i], together.top[i])
        assert alone.grids[0] == pytest.approx(together.grids[i], abs=0.01)
        for name, tolerance in (("presence", 1e-3), ("x", 1e-3), ("y", 1e-3), ("radiance", 0.1)):
            count = alone.candidates.count()[0]
            got, expected = (getattr(u.candidates, name) for u in (alone, together))
            assert got[0, :count] == pytest.approx(expected[i, :count], abs=tolerance), name


def test_a_change_in_one_patch_leaves_the_others_alone(unmixer: Unmixer, render: Render) -> None:
    patches = batch(render).astype(np.float32)
    before = unmixer(patches).grids
    patches[2] = 1000 * np.random.default_rng(0).random((11, 11))
    after = unmixer(patches).grids
    others = [0, 1, 3, 4, 5, 6]
    assert after[others] == pytest.approx(before[others], abs=0.01)
    assert np.abs(after[2] - before[2]).max() > 1


@pytest.fixture
def brightest_pixel(make_maps: Maps) -> Network:
    """A network that sees all light in the brightest pixel, a little right of and above its middle."""

    def network(patch: np.ndarray) -> Arrays:
        row, column = np.divmod(patch[:, 0].reshape(len(patch), -1).argmax(1), patch.shape[-1])
        flux = patch[:, 0].sum(axis=(1, 2))
        rows = zip(range(len(patch)), column + 0.1, row - 0.05, flux)
        return make_maps(rows, len(patch), patch.shape[-1], spread=(0.02, 0.03, 0.25))

    return network


@pytest.mark.parametrize("crop", [7, 11])
def test_cells_come_back_in_pixels_of_the_whole_patch(
    fake_unmixer: Fake, render: Render, brightest_pixel: Network, crop: int
) -> None:
    places = [(3, 7, 90), (8, 4, 50), (5, 5, 10), (1, 9, 20)]
    patches = np.stack([render([p], (11, 11), 0.3) for p in places])
    unmixed = fake_unmixer(brightest_pixel, crop=crop)(patches)
    on_grid, off_grid = unmixed.on_grid(), unmixed.targets()
    for targets, dx, dy in ((on_grid, 0, 0), (off_grid, 0.1, -0.05)):
        assert targets.blob.tolist() == [0, 1, 2, 3]
        assert targets.x == pytest.approx([p[0] + dx for p in places], abs=1e-5)
        assert targets.y == pytest.approx([p[1] + dy for p in places], abs=1e-5)
        assert targets.radiance == pytest.approx([p[2] for p in places], rel=1e-3)


def test_predicted_uncertainties_come_back_in_pixels_and_in_dn(
    fake_unmixer: Fake, render: Render, brightest_pixel: Network
) -> None:
    patches = np.stack([render([(5, 5, s)], (11, 11)) for s in (20, 4000)])
    targets = fake_unmixer(brightest_pixel)(patches).targets()
    assert targets.sigma_x == pytest.approx([0.02, 0.02], rel=1e-5)
    assert targets.sigma_y == pytest.approx([0.03, 0.03], rel=1e-5)
    assert targets.sigma_radiance == pytest.approx(0.25 * patches.max(axis=(1, 2)), rel=1e-5)
    assert targets.score == pytest.approx(np.exp(-(0.02**2 + 0.03**2) / 0.01), rel=1e-5)
    assert targets.flags.tolist() == [0, 0]


def test_chunks_give_the_same_as_one_batch(
    fake_unmixer: Fake, render: Render, brightest_pixel: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, chunked = fake_unmixer(brightest_pixel), fake_unmixer(brightest_pixel)
    expected = whole(batch(render))
    monkeypatch.setattr(module, "_PATCHES_PER_CALL", 3)
    got = chunked(batch(render))
    assert [len(call["patch"]) for call in chunked.engine.seen] == [3, 3, 1]
    assert [len(call["patch"]) for call in whole.engine.seen] == [7]
    assert np.array_equal(got.grids, expected.grids)
    for name, value in vars(got.targets()).items():
        np.testing.assert_array_equal(value, getattr(expected.targets(), name), err_msg=name)


@pytest.mark.parametrize("crop", [7, 11])
def test_the_network_is_told_which_pixels_are_saturated(
    fake_unmixer: Fake, render: Render, brightest_pixel: Network, crop: int
) -> None:
    unmixer = fake_unmixer(brightest_pixel, crop=crop)
    patches = np.minimum(np.stack([render([(5, 5, s)], (11, 11)) for s in (100, 900)]), 200).astype(np.float32)

    def seen(full_scale: Any) -> np.ndarray:
        unmixer(patches, full_scale=full_scale)
        image, mask = np.moveaxis(unmixer.engine.seen[-1]["patch"], 1, 0)
        assert image.max(axis=(1, 2)) == pytest.approx([1, 1])
        assert set(np.unique(mask)) <= {0.0, 1.0}
        return mask

    assert not seen(None).any()
    middle = crop // 2
    expected = patches[:, 5 - middle : 6 + middle, 5 - middle : 6 + middle] >= 200
    assert expected[1].any()
    assert np.array_equal(seen(200.0), expected)
    assert np.array_equal(seen(np.full(patches.shape, 200.0)), expected)
    assert np.array_equal(seen(np.array([1.0, np.inf])[:, None, None]).any(axis=(1, 2)), [True, False])


def by_hand(grids: np.ndarray, **spec: Any) -> Unmixed:
    """An answer of a network that saw the whole patch and has no candidates."""
    empty = np.zeros((len(grids), 6), np.float32)
    none = np.zeros(len(grids), np.int64)
    return Unmixed(grids, module.Candidates(*7 * [empty]), none, none, UnmixerSpec(**spec))


def test_only_cells_above_the_threshold_of_their_own_patch_are_targets() -> None:
    grids = np.zeros((2, 33, 33), np.float32)
    grids[0, 10, 10], grids[0, 10, 13] = 10, 3
    grids[1, 10, 10], grids[1, 10, 13] = 1000, 300
    assert by_hand(grids, relative=0.2).on_grid().blob.tolist() == [0, 0, 1, 1]
    assert by_hand(grids, relative=0.4).on_grid().blob.tolist() == [0, 1]
    assert by_hand(grids, threshold=50.0).on_grid().blob.tolist() == [1, 1]
    assert by_hand(grids, threshold=50.0, relative=0.4).on_grid().blob.tolist() == [1]


def test_without_candidates_there_are_no_targets() -> None:
    assert len(by_hand(np.ones((3, 33, 33), np.float32)).targets()) == 0


def test_a_detector_cannot_be_opened_as_an_unmixer() -> None:
    with pytest.raises(ModelError, match="made to detect, not to unmix"):
        Unmixer.open("lsnet-s")


@pytest.mark.parametrize("side", [5, 9])
def test_maps_of_another_grid_are_refused(fake_unmixer: Fake, make_maps: Maps, side: int) -> None:
    unmixer = fake_unmixer(lambda patch: make_maps([], number=len(patch), side=side))
    with pytest.raises(ModelError, match=rf"gives grid: float32 \[2, 1, {3 * side}, {3 * side}\]; expected .* 21, 21"):
        unmixer(np.ones((2, 11, 11)))


class Asked(EngineProxy):
    names: tuple[str, ...] = ()

    def _infer_some(self, arrays: Arrays, names: tuple[str, ...]) -> Arrays:
        self.names = names
        return super()._infer_some(arrays, names)


def test_the_grid_is_read_only_where_it_is_wanted(unmixer: Unmixer, render: Render) -> None:
    engine, patches = Asked(unmixer.engine), render([(5.2, 4.7, 150)], (11, 11))[None]
    whole = unmixer(patches)
    some = Unmixer(engine, unmixer.card)(patches, with_grid=False)
    assert sorted(engine.names) == ["offset", "presence", "radiance", "spread"]
    assert some.grids.shape == (1, 0, 0) and whole.grids.shape == (1, 21, 21)
    for name, values in vars(whole.candidates).items():
        np.testing.assert_array_equal(getattr(some.candidates, name), values)
