from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from glint.optics import Psf
from glint.runtime.tracking.faint import Faint, FaintSearch, even, straighten
from glint.runtime.tracking.registration import Shift
from glint.runtime.tracking.scene_memory import SceneMemory
from glint.runtime.tracking.tracker import Tracker
from glint.types import Blobs, Targets

SHAPE = (96, 112)
NOISE = 2.0
FAINT = 4 * NOISE / 0.466  # radiance of a point whose peak is four deviations


def sky(frames: int, light: float, pan: float = 0.0, seed: int = 0) -> Iterator[tuple[np.ndarray, Shift, np.ndarray]]:
    """A scene with an edge that goes by with the camera; a point goes through it from frame 20 on: its place there."""
    rng = np.random.default_rng(seed)
    for index in range(frames):
        place = np.array([35.0, 40.0]) + max(index - 20, 0) * np.array([0.7, 0.4])
        shift = Shift(pan * index, 0.0)
        level = 50 + 60 / (1 + np.exp(-(np.arange(SHAPE[1]) - 70.3 - shift.x))) + NOISE * rng.standard_normal(SHAPE)
        if index >= 20:
            level += Psf(0.5).render(place[:1] + shift.x, place[1:], np.array([light]), SHAPE)
        yield np.round(64 * level).astype(np.uint16), shift, place


def found(frames: int, light: float, pan: float = 0.0, blobs: Blobs | None = None) -> list[tuple[int, float, Faint]]:
    memory, search = SceneMemory(), FaintSearch()
    answers = []
    for index, (data, shift, place) in enumerate(sky(frames, light, pan)):
        memory.take(data, shift)
        for one in search(memory, blobs):
            answers.append((index, float(np.hypot(one.x - place[0], one.y - place[1])), one))
    return answers


@pytest.mark.parametrize("pan", [0.0, 0.4])
def test_a_point_of_four_deviations_is_found_where_it_is_and_as_fast_as_it_goes(pan: float) -> None:
    answers = found(56, FAINT, pan)
    assert answers
    assert answers[0][0] <= 50
    assert max(gap for _, gap, _ in answers) < 3.5
    last = answers[-1][2]
    assert last.vx == pytest.approx(0.7, abs=0.2)
    assert last.vy == pytest.approx(0.4, abs=0.2)
    assert last.frames >= 16
    assert last.stack.shape == (15, 15)
    assert last.stack[5:10, 5:10].max() > 2 * np.delete(last.stack, np.s_[4:11], axis=0).std() + 3


def test_noise_and_what_stays_are_not_found() -> None:
    assert found(80, 0.0) == []
    assert found(80, 0.0, pan=0.4) == []


@pytest.mark.parametrize("cut", [0.0, 0.5, 1.0])
def test_noise_that_is_cut_off_at_black_is_not_found(cut: float) -> None:
    """Its bright side is much longer than the dark one: without decoys and bending it gives 20 answers a frame."""
    rng, memory, search = np.random.default_rng(4), SceneMemory(), FaintSearch()
    for _ in range(80):
        noise = 3 * np.maximum(rng.standard_normal((128, 160)) - cut, 0)
        memory.take(np.round(64 * noise).astype(np.uint16), Shift())
        assert search(memory) == []


@given(st.floats(0.1, 1.0))
@settings(max_examples=10, deadline=None)
def test_noise_of_a_gamma_law_is_bent_to_a_normal_one(skewness: float) -> None:
    shape = 4 / skewness**2
    told = np.random.default_rng(1).gamma(shape, size=(32, 32 * 200))
    clean = ((told - shape) / np.sqrt(shape)).astype(np.float32)
    straighten(clean, np.full((1, 200), skewness))
    for share in (0.01, 0.5, 0.99, 0.999):
        assert np.quantile(clean, share) == pytest.approx(norm.ppf(share), abs=0.12)


def test_what_a_detector_has_found_is_left_to_it() -> None:
    everywhere = Blobs([56.0], [48.0], [120 * 120], [1.0])
    assert found(52, 100.0, blobs=everywhere) == []


def test_a_scene_that_starts_anew_is_learned_anew() -> None:
    memory, search = SceneMemory(), FaintSearch()
    for index, (data, shift, _) in enumerate(sky(60, FAINT)):
        memory.take(data, Shift(shift.x, shift.y, known=index % 15 != 0))
        assert search(memory) == []
        memory.take(data[:20, :20], Shift())
        assert search(memory) == []


def test_a_faint_point_starts_a_confirmed_track_that_lives_on_it() -> None:
    tracker, stack = Tracker(), np.zeros((15, 15), dtype=np.float32)
    dt = 33_333_333
    for index in range(40):
        told = [Faint(50 + 0.7 * index, 40.0, 0.7, 0.0, 40.0, 16, stack)] if index % 4 == 3 and index < 28 else []
        tracker.update(index * dt, Targets(), shift=Shift(), faint=told)
        tracks = tracker.tracks()
        assert len(tracks) == (index >= 3)
        if index >= 3:
            assert tracks.x[0] == pytest.approx(50 + 0.7 * index, abs=0.7)
            assert tracks.record(0)["flags"] == ["FAINT"]
            assert tracks.number.tolist() == [0]
    for index in range(40, 160):
        tracker.update(index * dt, Targets(), shift=Shift())
    assert len(tracker.tracks()) == 0


def test_a_faint_point_at_a_track_starts_none() -> None:
    tracker, stack = Tracker(), np.zeros((15, 15), dtype=np.float32)
    one = np.ones(1)
    for index in range(12):
        seen = Targets([50 + 0.7 * index], [40.0], [200.0], 0.05 * one, 0.05 * one, one, [0], 0.9 * one, [0], one)
        told = [Faint(51 + 0.7 * index, 40.5, 0.7, 0.0, 40.0, 16, stack)] if index % 4 == 3 else []
        tracker.update(index * 33_333_333, seen, faint=told)
    assert len(tracker) == 1
    assert tracker.tracks().record(0)["flags"] in ([], ["STATIC"])


def test_a_block_that_shows_more_than_noise_counts_by_what_it_shows() -> None:
    rng = np.random.default_rng(3)
    clean = rng.standard_normal((70, 100)).astype(np.float32)
    clean[:32, :32] *= 1.6  # all of its structure has moved a little
    clean[32:64, 64:96] *= 0.5
    clean[40, 40] += 5  # a point
    before = clean.copy()
    even(clean, 32)
    near = np.clip(before[:32, :32], -3, 3)
    assert clean[:32, :32] == pytest.approx(before[:32, :32] * 0.99 / near.std(), rel=0.02)
    assert np.array_equal(clean[32:64, 64:96], before[32:64, 64:96])  # less is left as it is
    assert clean[40, 40] == pytest.approx(before[40, 40], rel=0.05)
    unknown = np.zeros((5, 7), dtype=np.float32)
    even(unknown, 32)
    assert not unknown.any()
