"""Optics that are learned from the shapes of spots, and counts that follow from them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from glint.cards import UnmixerSpec
from glint.errors import InputError
from glint.optics import PsfEstimate, save_psf
from glint.runtime.pipeline.network_view import area_weights
from glint.runtime.unmixing.common_width import CommonWidth, finished, search_width
from glint.runtime.unmixing.optics_choice import chosen_optics
from glint.runtime.unmixing.optics_state import KNOWN, LEARNED, UNKNOWN, Learner, OpticsState
from glint.runtime.unmixing.psf_shapes import described, robust_error, same_targets
from glint.runtime.unmixing.refine import RefineConfig
from glint.runtime.unmixing.shapes import measure_shapes, settled
from glint.runtime.unmixing.verdicts import judge_spots
from glint.runtime.unmixing.windows import Windows
from glint.types import TargetFlag, Targets

Render = Callable[..., np.ndarray]
SIZE = 21


def windows_of(images: np.ndarray, noise: float, rng: np.random.Generator) -> Windows:
    data = images + rng.normal(0, noise, images.shape)
    number = len(data)
    nothing = np.zeros(number, dtype=np.int64)
    sd = np.full(number, noise)
    clear = np.ones(data.shape, dtype=bool)
    return Windows(data, clear, np.full(data.shape, np.inf), sd, nothing, nothing, sd, nothing, clear)


def singles(render: Render, sigma: float, number: int, radiance: float, rng: np.random.Generator) -> np.ndarray:
    place = 10 + rng.uniform(-0.5, 0.5, (number, 2))
    return np.stack([render([(x, y, radiance)], (SIZE, SIZE), sigma) for x, y in place])


def spots_of(render: Render, sigma: float, number: int = 12, seed: int = 0) -> Windows:
    rng = np.random.default_rng(seed)
    return windows_of(singles(render, sigma, number, 400 * (sigma**2 + 0.25), rng), 2.0, rng)


def learned(windows: Windows) -> OpticsState:
    return Learner(0.5).update(windows, measure_shapes(windows))


@pytest.mark.parametrize("sigma", [0.6, 1.0, 2.5])
def test_spots_that_agree_tell_the_optics(render: Render, sigma: float) -> None:
    state = learned(spots_of(render, sigma))
    assert state.kind == LEARNED
    assert abs(state.sigma - sigma) < max(3 * state.sigma_error, 0.01)
    assert state.spots >= 9


def test_spots_as_wide_as_the_models_psf_are_of_its_optics(render: Render) -> None:
    state = learned(spots_of(render, 0.5, 4))
    assert (state.kind, state.sigma) == (LEARNED, 0.5)


def test_spots_of_all_widths_tell_nothing(render: Render) -> None:
    rng = np.random.default_rng(3)
    images = np.concatenate([singles(render, s, 1, 900 * s**2, rng) for s in np.geomspace(0.6, 3.2, 16)])
    assert learned(windows_of(images, 2.0, rng)).kind == UNKNOWN


def test_a_few_spots_of_other_optics_are_not_enough(render: Render) -> None:
    assert learned(spots_of(render, 1.1, 2)).kind == UNKNOWN


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("sigma", [0.5, 0.8, 1.6])
def test_a_single_point_stays_one(render: Render, sigma: float, known: bool) -> None:
    windows = spots_of(render, sigma, 40, seed=7)
    shapes = measure_shapes(windows)
    state = OpticsState(KNOWN, sigma) if known else learned(windows)
    found = judge_spots(windows, shapes, Targets(), state, RefineConfig(), 0.5)
    assert (np.bincount(found.blob, minlength=40) == 1).sum() >= 39
    assert (found.flags & TargetFlag.EXTENDED == 0).sum() >= 38
    single = np.bincount(found.blob, minlength=40)[found.blob] == 1
    assert found.count_probability[single].mean() > 0.9


def test_a_spot_that_is_wider_than_known_optics_is_one_extended_target(render: Render) -> None:
    windows = spots_of(render, 2.0, 8)
    found = judge_spots(windows, measure_shapes(windows), Targets(), OpticsState(KNOWN, 0.5), RefineConfig(), 0.5)
    assert np.bincount(found.blob).tolist() == [1] * 8
    assert (found.flags & TargetFlag.EXTENDED).all()
    assert np.hypot(found.x - 10, found.y - 10).max() < 0.9


def test_two_points_of_known_optics_are_two_and_of_unknown_ones_one(render: Render) -> None:
    rng = np.random.default_rng(5)
    pair = render([(9.6, 10.0, 900), (10.5, 10.2, 800)], (SIZE, SIZE), 0.7)[None]
    windows = windows_of(pair, 1.0, rng)
    shapes = measure_shapes(windows)
    for state, number in ((OpticsState(KNOWN, 0.7), 2), (OpticsState(UNKNOWN, 0.5), 1)):
        found = judge_spots(windows, shapes, Targets(), state, RefineConfig(), 0.5)
        assert len(found) == number
        if number == 2:
            assert found.x == pytest.approx([9.6, 10.5], abs=0.06)
            assert found.count_probability.min() > 0.5  # three to five are as likely beforehand, and look like two


def test_points_far_apart_are_taken_apart_without_knowing_the_optics(render: Render) -> None:
    image = render([(8.0, 10.0, 900), (12.4, 10.2, 800)], (SIZE, SIZE), 0.8)[None]
    windows = windows_of(image, 1.0, np.random.default_rng(5))
    found = judge_spots(windows, measure_shapes(windows), Targets(), OpticsState(UNKNOWN, 0.5), RefineConfig(), 0.5)
    assert found.x == pytest.approx([8.0, 12.4], abs=0.05)


def clusters(render: Render, sigma: float, number: int, rng: np.random.Generator) -> np.ndarray:
    """Two to five targets within two widths, at least one apart, in each image."""
    images = []
    for count in rng.integers(2, 6, number).tolist():
        gaps = np.zeros(1)
        while gaps.min() < sigma:
            offset = rng.uniform(-sigma, sigma, (count, 2))
            gaps = np.hypot(*(offset[:, None] - offset).transpose(2, 0, 1))[np.triu_indices(count, 1)]
        place = 10 + rng.uniform(-0.5, 0.5, 2) + offset
        images.append(render([(x, y, rng.uniform(220, 250)) for x, y in place], (SIZE, SIZE), sigma))
    return np.stack(images)


@pytest.mark.parametrize("sigma", [0.7, 1.0, 1.5])
def test_clusters_alone_tell_the_optics(render: Render, sigma: float) -> None:
    rng = np.random.default_rng(round(10 * sigma))
    state = learned(windows_of(clusters(render, sigma, 16, rng), 1.0, rng))
    assert state.kind == LEARNED
    assert state.sigma == pytest.approx(sigma, rel=0.02)
    assert abs(state.sigma - sigma) < 3 * state.sigma_error


def test_the_search_in_pieces_finds_what_the_one_at_once_does(render: Render) -> None:
    rng = np.random.default_rng(8)
    windows = windows_of(clusters(render, 0.8, 14, rng), 1.0, rng)
    at_once, in_pieces = Learner(0.5), Learner(0.5)
    in_pieces.at_once = False
    expected, state = (one.update(windows, measure_shapes(windows)) for one in (at_once, in_pieces))
    assert expected.source == "from all spots" != state.source
    nothing = windows.rows([])
    frames = 0
    while state.source != expected.source and frames < 40:
        frames += 1
        state = in_pieces.update(nothing, measure_shapes(nothing))
    assert 2 * len(windows) - 1 <= frames <= 2 * len(windows)  # one spot with each frame, on two grids of widths
    assert state == expected


def test_a_frame_that_is_repeated_is_no_news(render: Render) -> None:
    windows = spots_of(render, 0.8, 5)
    learner = Learner(0.5)
    once = learner.update(windows, measure_shapes(windows))
    for _ in range(50):  # as warming up does
        again = learner.update(windows, measure_shapes(windows))
    assert again is once


@pytest.mark.parametrize("stay", [True, False])
def test_a_few_clusters_that_stay_in_view_are_no_optics_of_their_own(render: Render, stay: bool) -> None:
    """Three that look alike, in twelve frames: three things, or other ones in each frame."""
    learner, state = Learner(0.5), None
    places = np.array([[9.7, 9.8], [10.3, 9.8], [10.0, 10.4]])
    for frame in range(12):
        rng = np.random.default_rng(frame)
        step = 0.3 * frame % 1 - 0.5
        images = [render([(x + step, y, 100.0) for x, y in places], (SIZE, SIZE), 0.5) for _ in range(3)]
        windows = windows_of(np.stack(images), 1.0, rng)
        left = 40 * np.arange(3) + round(0.3 * frame - step) if stay else 100 * (3 * frame + np.arange(3))
        windows = replace(windows, left=left.astype(np.int64))
        state = learner.update(windows, measure_shapes(windows))
    assert state is not None
    if stay:
        assert state.kind == UNKNOWN or state.sigma == 0.5
    else:  # thirty-six different ones that are alike
        assert state.kind == LEARNED


def test_what_was_learned_stays_until_another_width_is_clear(render: Render) -> None:
    rng = np.random.default_rng(5)
    learner, first = Learner(0.5), windows_of(clusters(render, 0.5, 14, rng), 1.0, rng)
    assert learner.update(first, measure_shapes(first)).kind == LEARNED
    # Blurs of all widths: no width is theirs.
    blurs = np.concatenate([singles(render, s, 1, 900 * s**2, rng) for s in np.geomspace(0.55, 0.75, 16)])
    for start in range(0, 16, 2):
        some = windows_of(blurs[start : start + 2], 1.0, rng)
        some = replace(some, left=some.left + 1000 * (start + 1))
        state = learner.update(some, measure_shapes(some))
    assert (state.kind, state.sigma) == (LEARNED, 0.5)
    wider = windows_of(clusters(render, 0.8, 60, rng), 1.0, rng)
    wider = replace(wider, left=wider.left + 100 * np.arange(60) + 50_000)
    state = learner.update(wider, measure_shapes(wider))
    assert state.kind == LEARNED and state.sigma == pytest.approx(0.8, rel=0.03)


@pytest.mark.parametrize(
    ("lead", "things", "expected", "other", "doubt"),
    [(0.0, 8, True, False, 0.0), (6.0, 4, True, False, 0.4), (14.0, 30, True, False, 14 / 15),
     (16.0, 3, False, False, 1.0), (16.0, 4, False, True, 1.0), (np.inf, 4, False, True, 1.0)],
)  # fmt: skip
def test_another_width_must_lead_by_much(lead: float, things: int, expected: bool, other: bool, doubt: float) -> None:
    found = CommonWidth(0.0, 0.01, np.full(6, 1 / 6), things, 0.0, lead, things)
    assert (found.is_expected, found.is_other, found.doubt) == (expected, other, doubt)


def frames_of(render: Render, frames: int, white: float) -> tuple[Windows, np.ndarray]:
    """Six clusters and two points of 0.8 px, at other places of the grid in each frame, and what spot is which."""
    rng = np.random.default_rng(3)
    things = [[(*(10 + rng.uniform(-1, 1, 2)), rng.uniform(150, 250)) for _ in range(n)]
              for n in (2, 3, 4, 5, 2, 3, 1, 1)]  # fmt: skip
    images = []
    for _ in range(frames):
        dx, dy = rng.uniform(-0.5, 0.5, 2)
        images += [render([(x + dx, y + dy, s) for x, y, s in thing], (SIZE, SIZE), 0.8) for thing in things]
    windows = windows_of(np.stack(images), 1.0, rng)
    return replace(windows, white=white * windows.noise), np.tile(np.arange(len(things)), frames)


def lead_over(windows: Windows, thing: np.ndarray, sigma: float) -> tuple[float, float]:
    found = finished(search_width(windows, measure_shapes(windows), 0.0, 0.0, None, thing, sigma))
    assert found is not None and found.things == 8
    return found.lead, math.exp(found.u)


def test_frames_of_the_same_spots_are_joined_as_far_as_their_noise_is_new(render: Render) -> None:
    one, _ = lead_over(*frames_of(render, 1, 1.0), 0.7)
    joined, sigma = lead_over(*frames_of(render, 6, 1.0), 0.7)
    staying, _ = lead_over(*frames_of(render, 6, 0.1), 0.7)
    assert joined > 2.5 * one and staying < 1.5 * one
    assert sigma == pytest.approx(0.8, rel=0.02)


@pytest.mark.parametrize(("white", "least", "most"), [(1.0, 0.4, 0.6), (0.3, 0.8, 1.0)])
def test_what_lies_behind_spots_does_not_average_out(render: Render, white: float, least: float, most: float) -> None:
    learner, rng = Learner(0.5), np.random.default_rng(5)
    images = singles(render, 1.0, 12, 500, rng)
    errors = []
    for _ in range(4):
        windows = windows_of(images, 6.0, rng)
        windows = replace(windows, white=white * windows.noise, left=100 * np.arange(12))
        state = learner.update(windows, measure_shapes(windows))
        assert state.kind == LEARNED
        errors.append(state.sigma_error)
    assert least < errors[-1] / errors[0] < most  # of four frames half, or nearly all


def test_noise_is_what_surroundings_and_the_spot_speak_for(render: Render) -> None:
    rng = np.random.default_rng(7)
    windows = windows_of(singles(render, 0.6, 20, 800, rng), 2.0, rng)
    shapes = measure_shapes(windows)
    same, unchanged = settled(windows, shapes)
    np.testing.assert_allclose(same.noise, windows.noise)
    np.testing.assert_allclose(unchanged.error, shapes.error)
    rough = replace(windows, noise=5 * windows.noise)  # there is no ground under the spots
    shapes = measure_shapes(rough)
    less, measured = settled(rough, shapes)
    assert (less.noise > windows.noise).all() and np.median(less.noise) < 0.85 * np.median(rough.noise)
    np.testing.assert_allclose(measured.error, (less.noise / rough.noise)[:, None] * shapes.error)
    np.testing.assert_allclose(measured.chi_square * less.noise**2, shapes.chi_square * rough.noise**2)
    ground = replace(windows, white=0.5 * windows.noise)  # and as much as was said
    more = settled(ground, replace(measure_shapes(ground), chi_square=np.full(20, 1.0)))[0]
    np.testing.assert_allclose(more.noise**2, 0.25 * ground.noise**2 + 2 * 0.75 * ground.noise**2)


def test_elongated_spots_of_one_shape_are_not_taken_for_pairs(render: Render) -> None:
    rng = np.random.default_rng(6)
    pairs = []
    for x, y in 10 + rng.uniform(-0.5, 0.5, (13, 2)):
        pairs.append(render([(x - 0.3, y - 0.1, 90), (x + 0.3, y + 0.1, 90)], (SIZE, SIZE), 0.53))
    windows = windows_of(np.stack(pairs), 5.0, rng)
    shapes = measure_shapes(windows)
    found = judge_spots(windows, shapes, Targets(), learned(windows), RefineConfig(), 0.5)
    assert (np.bincount(found.blob) == 1).sum() >= 12


def test_spots_of_one_shape_that_no_gaussian_has_are_not_taken_for_clusters(render: Render) -> None:
    rng = np.random.default_rng(4)
    place = 10 + rng.uniform(-0.5, 0.5, (24, 2))
    halo = [render([(x, y, 700)], (SIZE, SIZE), 0.8) + render([(x, y, 300)], (SIZE, SIZE), 1.4) for x, y in place]
    windows = windows_of(np.stack(halo), 2.0, rng)
    shapes = measure_shapes(windows)
    found = judge_spots(windows, shapes, Targets(), learned(windows), RefineConfig(), 0.5)
    assert (np.bincount(found.blob) == 1).all()


def test_what_the_user_says_of_the_psf(tmp_path: Path) -> None:
    csist, sensor = UnmixerSpec(radiance_prior=(235.0, 8.66)), UnmixerSpec()
    assert chosen_optics(None, sensor) is None
    assert chosen_optics("auto", csist) is None
    for said, spec, protocol, sigma in (
        (None, csist, None, 0.5),
        (None, sensor, True, 0.5),
        ("0.7", sensor, None, 0.7),
    ):
        state = chosen_optics(said, spec, protocol=protocol)
        assert state is not None
        assert (state.kind, state.sigma) == (KNOWN, sigma)
    with pytest.raises(InputError, match="positive"):
        chosen_optics("-1", sensor)
    save_psf(PsfEstimate(0.8, 0.01, ratio=1.5, angle=30.0), tmp_path / "psf.json")
    state = chosen_optics(tmp_path / "psf.json", sensor)
    assert state is not None
    values, vectors = np.linalg.eigh(state.covariance)
    assert np.sqrt(values) == pytest.approx([0.8 / math.sqrt(1.5), 0.8 * math.sqrt(1.5)], rel=1e-9)
    assert math.degrees(math.atan2(vectors[1, 1], vectors[0, 1])) % 180 == pytest.approx(30)
    again = described(PsfEstimate(0.8, 0.01), state)
    assert (again.ratio, again.angle) == (pytest.approx(1.5, abs=1e-6), pytest.approx(30, abs=1e-3))


def test_areas_are_shared_out_whole() -> None:
    weights = area_weights(23, 11, 2.0)
    assert weights.sum(axis=1) == pytest.approx(np.full(11, 2.0))
    assert weights[:, 1:-1].sum(axis=0) == pytest.approx(np.ones(21))


def test_errors_of_one_target_in_many_frames_do_not_average_out() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(8), 30)
    values = 1 + np.repeat(rng.normal(0, 0.1, 8), 30) + rng.normal(0, 0.01, 240)
    assert robust_error(values, np.ones(240), group) == pytest.approx(0.1 / math.sqrt(8), rel=0.5)
    frame, x = np.repeat(np.arange(5), 2), np.tile([0.0, 50.0], 5) + 0.5 * np.repeat(np.arange(5), 2)
    assert len(np.unique(same_targets(frame, x, np.zeros(10)))) == 2
