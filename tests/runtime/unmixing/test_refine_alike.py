"""The refinement is the same in any order, batch, type and direction, and refuses what does not fit together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refined_scenes import CLUSTERS, PSF, SCENES, SHAPE, Make, Render, has, in_order, perturbed, same, some, table

from glint.cards import UnmixerSpec
from glint.errors import InputError
from glint.processing.candidates import Candidates
from glint.runtime.unmixing import refine as module
from glint.runtime.unmixing.refine import RefineConfig, refine, refine_config
from glint.types import TargetFlag, Targets


def test_the_inputs_are_left_as_they_were(render: Render, make_candidates: Make) -> None:
    patch, start = render(SCENES[2], SHAPE)[None], make_candidates(perturbed(SCENES[2]))
    before = patch.copy(), start.x.copy(), start.radiance.copy()
    refine(patch, start, PSF)
    assert all(np.array_equal(a, b) for a, b in zip(before, (patch, start.x, start.radiance)))


def numbered(targets: Targets, patch: int) -> Targets:
    return Targets(**{**vars(targets), "blob": np.full(len(targets), patch)})


def test_a_patch_is_refined_alike_alone_and_in_a_batch() -> None:
    patches, candidates = some(40)
    together = refine(patches.image, candidates, PSF)
    for i in range(0, 40, 3):
        alone = refine(patches.image[i : i + 1], candidates.rows(np.array([i])), PSF)
        same(numbered(alone, i), together.select(together.blob == i))


def test_the_order_of_the_patches_does_not_matter() -> None:
    patches, candidates = some(40, seed=4)
    order = np.random.default_rng(1).permutation(40)
    straight = refine(patches.image, candidates, PSF)
    mixed = refine(patches.image[order], candidates.rows(order), PSF)
    back = Targets(**{**vars(mixed), "blob": order[mixed.blob]})
    same(back.select(np.lexsort((back.x, back.blob))), straight)


def test_the_same_call_gives_the_same_numbers() -> None:
    patches, candidates = some(40, "n5", seed=7)
    first, second = (refine(patches.image, candidates, PSF) for _ in range(2))
    for name in vars(first):
        assert np.array_equal(getattr(first, name), getattr(second, name), equal_nan=True), name


def shuffled(array: np.ndarray) -> np.ndarray:
    """The same numbers with other strides, none of them positive."""
    return np.asfortranarray(array[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, ">f8"])
@pytest.mark.parametrize("order", [np.ascontiguousarray, shuffled])
def test_numbers_are_refined_alike_however_they_are_stored(dtype: Any, order: Callable[..., np.ndarray]) -> None:
    """And nothing is compiled for them: that would keep a running camera waiting for a minute."""
    patches, candidates = some(12, seed=5)
    image = np.maximum(np.round(patches.image), 0).astype(np.float64)
    limit, valid = np.minimum(np.full(image.shape, 150.0), image.max(axis=(1, 2), keepdims=True)), image < 1e3
    expected = refine(image, candidates, PSF, noise=np.full(12, 3.0), full_scale=limit, valid=valid)
    assert has(expected, TargetFlag.SATURATED).any()
    compiled_for = len(module._refine_all.dispatcher.signatures)  # type: ignore[attr-defined]
    stored = [order(v) for v in (image.astype(dtype), limit.astype(np.float32), valid)]
    for array in stored:
        array.setflags(write=False)
    config = RefineConfig(misfit=0.02, noise_floor=np.float32(0.3), background_share=0.01)
    found = refine(stored[0], candidates, PSF, noise=3, full_scale=stored[1], valid=stored[2], config=config)
    assert len(module._refine_all.dispatcher.signatures) == compiled_for  # type: ignore[attr-defined]
    same(found, expected)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"patches": np.zeros(SHAPE)}, "patches"),
        ({"patches": np.zeros((2, 11, 9))}, "patches"),
        ({"patches": np.zeros((3, *SHAPE))}, "candidates"),
        ({"valid": np.ones((2, 9, 9), dtype=bool)}, "valid"),
        ({"full_scale": np.ones((2, 9, 9))}, "full_scale"),
        ({"noise": np.ones(3)}, "noise"),
    ],
)
def test_shapes_that_do_not_fit_together_are_refused(make_candidates: Make, bad: dict[str, Any], words: str) -> None:
    """The compiled code would read beyond the end of the smaller one."""
    arguments = {"patches": np.zeros((2, *SHAPE)), "candidates": make_candidates([(0, 5, 5, 100)], 2), **bad}
    with pytest.raises(InputError, match=f"refine: expected {words}"):
        refine(**arguments, psf=PSF)


def test_a_shifted_patch_gives_shifted_targets(render: Render, make_candidates: Make) -> None:
    base = refine(render(CLUSTERS[3], SHAPE)[None], make_candidates(perturbed(CLUSTERS[3])), PSF, noise=np.array([0.3]))
    for dx, dy in ((-2, 1), (2, 2), (0, -2)):
        moved = [(x + dx, y + dy, s) for x, y, s in CLUSTERS[3]]
        start = make_candidates(perturbed(CLUSTERS[3])).moved([dx], [dy])
        found = refine(render(moved, SHAPE)[None], start, PSF, noise=np.array([0.3]))
        assert found.x - dx == pytest.approx(base.x, abs=1e-4)
        assert found.y - dy == pytest.approx(base.y, abs=1e-4)


@pytest.mark.parametrize(("restarts", "most"), [(0, 5), (3, 3)])
def test_a_transposed_patch_gives_transposed_targets(restarts: int, most: int) -> None:
    """Crowds have second starts from arrangements that are drawn once, and not symmetric: they are left out there."""
    patches, c = some(60, seed=2)
    few = patches.count <= most
    c, image = c.rows(np.flatnonzero(few)), patches.image[few]
    config = RefineConfig(restarts=restarts)
    straight = refine(image, c, PSF, config=config)
    turned = Candidates(c.presence, c.y, c.x, c.radiance, c.sigma_y, c.sigma_x, c.sigma_radiance)
    found = refine(image.swapaxes(1, 2), turned, PSF, config=config)
    order = np.lexsort((found.y, found.blob))
    assert found.blob[order].tolist() == straight.blob.tolist()
    for mine, theirs, rel in (
        ("x", "y", 1e-3),
        ("y", "x", 1e-3),
        ("sigma_x", "sigma_y", 1e-2),
        ("radiance", "radiance", 1e-3),
    ):
        assert getattr(found, mine)[order] == pytest.approx(getattr(straight, theirs), rel=rel, abs=1e-3)


@pytest.mark.parametrize("n", [5, 7, 9, 15])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_patches_of_other_sizes_are_refined(render: Render, make_candidates: Make, n: int, number: int) -> None:
    truth = [(x + (n - 11) / 2, y + (n - 11) / 2, s) for x, y, s in CLUSTERS[number]]
    found = refine(render(truth, (n, n))[None], make_candidates(perturbed(truth)), PSF)
    assert len(found) == number
    assert table(found)[:, :2] == pytest.approx(in_order(truth)[:, :2], abs=5e-3)
    assert table(found)[:, 2] == pytest.approx(in_order(truth)[:, 2], rel=1e-2)


row = st.tuples(
    st.integers(0, 2), st.floats(-4, 14), st.floats(-4, 14), st.floats(-50, 2000), st.floats(0, 1),
)  # fmt: skip


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    n=st.sampled_from([7, 9, 11, 15]),
    truth=st.lists(st.tuples(st.floats(-1, 12), st.floats(-1, 12), st.floats(0, 3000)), max_size=6),
    rows=st.lists(row, max_size=6),
    spread=st.floats(0.002, 4),
    noise=st.sampled_from([None, 0.0, 0.5, 30.0]),
    full_scale=st.sampled_from([None, 255.0, 20.0, 0.0]),
    masked=st.booleans(),
    prior=st.sampled_from([None, (235.0, 8.66)]),
    sigma_sd=st.sampled_from([0.0, 0.02]),
)
def test_whatever_comes_in_targets_are_finite_on_the_patch_and_in_order(
    render: Render, make_candidates: Make, seed: int, n: int, truth: Any, rows: Any, spread: float, noise: float | None,
    full_scale: float | None, masked: bool, prior: tuple[float, float] | None, sigma_sd: float,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    patches = render(truth, (n, n)) + rng.normal(0, rng.choice([0.0, 1.0, 20.0]), (3, n, n))
    patches = np.minimum(patches, np.inf if full_scale is None else full_scale)
    valid = rng.random(patches.shape) > 0.2 if masked else None
    candidates = make_candidates(rows, 3, spread=(spread, spread, 100 * spread))
    config = RefineConfig(radiance=prior, sigma_sd=sigma_sd)
    sd = None if noise is None else np.full(3, noise)
    found = refine(patches, candidates, PSF, noise=sd, full_scale=full_scale, valid=valid, config=config)
    for name in ("x", "y", "radiance", "score"):
        assert np.isfinite(getattr(found, name)).all(), name
    for value in (found.x, found.y):
        assert ((value >= -0.5) & (value <= n - 0.5)).all()
    assert (found.radiance >= 0).all()
    assert ((found.score >= 0) & (found.score <= 1)).all()
    for name in ("sigma_x", "sigma_y", "sigma_radiance"):
        assert not (getattr(found, name) <= 0).any()  # NaN says unknown
    assert (np.lexsort((found.x, found.blob)) == np.arange(len(found))).all()
    assert len(found) == 0 or np.bincount(found.blob, minlength=3).max() <= 5
    assert not np.isin(found.blob, np.flatnonzero(candidates.count() == 0)).any()


@pytest.mark.parametrize(
    "bad",
    [
        {"max_targets": 0}, {"max_targets": 6}, {"restarts": -1}, {"restarts": 101}, {"rounds": -1}, {"iterations": 0},
        {"trust": 0.0}, {"sigma_sd": -0.1}, {"background_share": 0.0}, {"radiance": (0.0, 1.0)},
        {"radiance": (1.0, -1.0)}, {"trust": float("nan")},
    ],
)  # fmt: skip
def test_settings_outside_their_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="RefineConfig"):
        RefineConfig(**bad)


def test_what_a_card_knows_is_used_unless_the_user_knows_better() -> None:
    spec = UnmixerSpec(radiance_prior=(235.0, 8.66), sigma_sd=0.017)
    assert refine_config(spec) == RefineConfig(radiance=(235.0, 8.66), sigma_sd=0.017)
    assert refine_config(spec, radiance=(100.0, 5.0)).radiance == (100.0, 5.0)
    assert refine_config(UnmixerSpec()) == RefineConfig()
