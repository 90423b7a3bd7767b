from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glint.errors import InputError
from glint.runtime.tracking import tracker as tracker_module
from glint.runtime.tracking.evidence import Evidence
from glint.runtime.tracking.registration import Shift
from glint.runtime.tracking.tracker import TrackConfig, Tracker
from glint.types import Blobs, Targets

PERIOD = 33_333_333


def targets(places: Any, sigma: Any = 0.05) -> Targets:
    places = np.asarray(places, dtype=np.float64).reshape(-1, 2)
    n = len(places)
    sx, sy = np.broadcast_to(np.asarray(sigma, dtype=np.float64), (n, 2)).T
    ones = np.ones(n)
    return Targets(places[:, 0], places[:, 1], ones, sx, sy, ones, np.arange(n), ones, np.zeros(n))


def run(frames: Any, sigma: float = 0.05, config: TrackConfig | None = None) -> list[list[int]]:
    tracker = Tracker(config)
    return [tracker.update(i * PERIOD, targets(places, sigma)).tolist() for i, places in enumerate(frames)]


class Reference:
    """One Kalman filter, by the book: four states, full matrices."""

    def __init__(self, place: Any, sigma: Any, config: TrackConfig) -> None:
        self.config = config
        self.x = np.array([*place, 0.0, 0.0])
        self.p = np.diag([*(np.asarray(sigma) ** 2), config.speed**2, config.speed**2])

    def step(self, dt: float, place: Any = None, sigma: Any = None) -> None:
        f = np.eye(4)
        f[0, 2] = f[1, 3] = dt
        g = np.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]]) * self.config.agility**2
        q = np.kron(g, np.eye(2))
        self.x, self.p = f @ self.x, f @ self.p @ f.T + q
        if place is not None:
            h = np.eye(2, 4)
            s = h @ self.p @ h.T + np.diag(np.asarray(sigma) ** 2)
            gain = self.p @ h.T @ np.linalg.inv(s)
            self.x = self.x + gain @ (np.asarray(place) - h @ self.x)
            self.p = (np.eye(4) - gain @ h) @ self.p


def test_a_track_is_the_kalman_filter_of_the_book_with_missing_frames_and_any_steps() -> None:
    rng = np.random.default_rng(0)
    config = TrackConfig(floor=1e-9)
    tracker, reference, t = Tracker(config), None, 0
    for i in range(40):
        step = int(rng.integers(5e6, 8e7))
        t += step
        sigma = rng.uniform(0.02, 0.3, 2)
        place = (20 + 0.3e-7 * t * 0.5 + sigma[0] * rng.standard_normal(), 100 - 0.1e-7 * t + sigma[1] * rng.normal())
        seen = i < 3 or rng.random() < 0.8
        tracker.update(t, targets([place] if seen else [], sigma))
        if reference is None:
            reference = Reference(place, sigma, config)
        else:
            reference.step(step / 1e9, place if seen else None, sigma)
        assert len(tracker) == 1
        x, v, xx, xv, vv = tracker._state[:, 0]
        assert [*x, *v] == pytest.approx(reference.x, abs=1e-9)
        assert xx == pytest.approx(np.diag(reference.p)[:2], rel=1e-9)
        assert vv == pytest.approx(np.diag(reference.p)[2:], rel=1e-9)
        assert xv == pytest.approx([reference.p[0, 2], reference.p[1, 3]], rel=1e-9)


def test_a_track_has_its_number_when_its_score_is_high_enough_and_keeps_it() -> None:
    numbers = run([[(10 + 0.5 * i, 20 - 0.2 * i)] for i in range(20)])
    first = numbers.index([0])
    assert 2 < first < 10
    assert numbers == [[-1]] * first + [[0]] * (20 - first)


def test_fewer_false_tracks_take_longer_and_the_score_is_the_sum_of_the_evidence() -> None:
    frames = [[(10 + 0.5 * i, 20.0)] for i in range(30)]
    firsts = [run(frames, config=TrackConfig(false_tracks_per_hour=n)).index([0]) for n in (1000, 10, 0.1)]
    assert firsts == sorted(firsts)
    assert firsts[0] < firsts[2]
    config, evidence = TrackConfig(most_gain=1.2), Evidence.of("default")
    top = len(evidence.scores) - 1
    births = config.births_per_hour / 3600 / 30 / (512 * 640)
    begin = np.log(births * evidence.target[top] / evidence.clutter[top])
    expected = next(n for n in range(100) if begin + 1.2 * n >= np.log(config.births_per_hour / 10))
    assert run(frames).index([0]) == expected


def test_a_track_of_poor_scores_that_is_seen_to_move_waits_no_longer_than_one_that_begins_so() -> None:
    """What an earlier doubt has taken from its score, a new track would not owe."""

    def frames_to_confirm(poor: int) -> int:
        tracker = Tracker()
        for i in range(40):
            score = np.full(1, 0.11 if i < poor else 0.6)
            one = targets([(10 + 0.5 * i, 20)]).changed(score=score)
            spot = Blobs(one.x, one.y, np.ones(1), score, moving=np.full(1, 0.0 if i < poor else 50.0))
            if tracker.update(i * PERIOD, one, spots=spot)[0] >= 0:
                return i + 1 - poor
        return 40

    assert frames_to_confirm(0) < 12
    assert all(frames_to_confirm(poor) <= frames_to_confirm(0) for poor in (1, 2, 3))


def test_a_target_that_is_seen_in_every_second_frame_has_a_track() -> None:
    numbers = run([[(10 + 0.5 * i, 20.0)] if i % 2 == 0 else [] for i in range(60)])
    assert numbers[-2] == [0]


def test_clutter_of_low_scores_is_confirmed_no_more_often_than_stated() -> None:
    rng = np.random.default_rng(5)
    tracker = Tracker(TrackConfig(false_tracks_per_hour=100))
    for i in range(1500):
        n = rng.poisson(1.0)
        found = targets(rng.uniform(0, 500, (n, 2)))
        tracker.update(i * PERIOD, Targets(**{**vars(found), "score": np.full(n, 0.6)}))
    assert tracker.confirmed <= 100 * 1500 / 30 / 3600 + 3


def test_what_stays_is_static_and_what_moves_is_not() -> None:
    rng = np.random.default_rng(6)
    tracker = Tracker()
    for i in range(60):
        noise = 0.1 * rng.standard_normal((2, 2))
        tracker.update(i * PERIOD, targets(np.array([(50.0, 50.0), (100 + 0.2 * i, 90.0)]) + noise))
    tracks = tracker.tracks()
    assert sorted(zip(tracks.x.round(-1).tolist(), tracks.static.tolist())) == [(50.0, True), (110.0, False)]


def test_a_moving_camera_moves_static_clutter_but_not_in_the_scene() -> None:
    tracker = Tracker()
    for i in range(60):
        at = Shift(0.7 * i, -0.3 * i)
        places = [(50 + at.x, 80 + at.y), (100.0, 20.0), (60 + 0.1 * i, 150 + 0.5 * i)]
        tracker.update(i * PERIOD, targets(places), shift=at)
    tracks = tracker.tracks()
    found = {round(float(x)): bool(static) for x, static in zip(tracks.x, tracks.static)}
    assert found == {91: True, 100: True, 66: False}  # of the scene, of the sensor, a target


def test_a_target_that_the_camera_follows_keeps_its_number_when_that_turns_back() -> None:
    tracker, numbers = Tracker(), []
    for i in range(60):
        turn = 0.8 * min(i, 60 - i)  # px
        frame = targets([(50 + 0.1 * i, 40.0), (90.0 + turn, 90.0)])  # one goes on in the frame, one lies in the scene
        numbers.append(tracker.update(i * PERIOD, frame, shift=Shift(turn, 0.0)).tolist())
    assert numbers[-1] == [0, 1]
    assert tracker.confirmed == 2
    assert tracker.tracks().vx[0] == pytest.approx(3 + 24, abs=2)


def test_a_spot_that_comes_apart_differently_keeps_its_tracks() -> None:
    rng = np.random.default_rng(7)
    tracker = Tracker()
    for i in range(60):
        n = int(rng.integers(2, 5))
        found = targets(np.array([40 + 0.3 * i, 60.0]) + rng.uniform(-0.8, 0.8, (n, 2)))
        tracker.update(i * PERIOD, Targets(**{**vars(found), "blob": np.zeros(n)}))
    tracks = tracker.tracks()
    assert tracker.confirmed <= 6
    assert np.hypot(tracks.x - 57.7, tracks.y - 60).min() < 1.0


@pytest.mark.parametrize("together", [True, False])
def test_a_member_that_has_left_its_spot_ends_while_the_spot_is_seen(together: bool) -> None:
    """A second target, 2 px off, is no longer told of: it was the spot's, or one by itself."""
    tracker = Tracker()
    for i in range(30):
        found = targets([(40 + 0.4 * i, 60.0), (40 + 0.4 * i, 62.4)][: 2 if i < 20 else 1])
        blob = np.zeros(len(found), dtype=np.int64) if together else found.blob
        tracker.update(i * PERIOD, found.changed(blob=blob))
        if i == 19:
            assert len(tracker.tracks()) == 2
    assert len(tracker.tracks()) == (1 if together else 2)


def test_a_target_that_leaves_the_picture_takes_its_track_along() -> None:
    tracker = Tracker()
    for i in range(30):
        x = 628 + 0.5 * i  # of 640 columns: it is seen until it is half a pixel from the edge
        tracker.update(i * PERIOD, targets([(x, 60.0)] if x < 638.6 else []), shape=(512, 640))
        assert len(tracker) == (1 if x < 638.6 else 0), x


def test_numbers_follow_the_targets_not_their_order_in_the_table() -> None:
    rng = np.random.default_rng(1)
    start, velocity = rng.uniform(0, 200, (20, 2)), rng.uniform(-0.7, 0.7, (20, 2))
    tracker, seen = Tracker(), {}
    for i in range(30):
        order = rng.permutation(20)
        numbers = tracker.update(i * PERIOD, targets((start + i * velocity)[order]))
        for target, number in zip(order, numbers):
            seen.setdefault(int(target), set()).add(int(number))
    assert all(len(numbers - {-1}) == 1 for numbers in seen.values())
    assert tracker.confirmed == len(tracker) == 20


@pytest.mark.parametrize("velocity", [(0.0, 0.0), (0.7, 0.0), (-0.5, 0.9)])
def test_a_cluster_that_moves_farther_than_its_members_are_apart_is_paired_as_a_whole(
    velocity: tuple[float, float],
) -> None:
    member = np.array([(0.0, 0.0), (0.5, 0.1), (0.1, 0.6), (0.7, 0.7)])
    rng = np.random.default_rng(2)
    frames = [50 + member + i * np.array(velocity) + 0.03 * rng.standard_normal(member.shape) for i in range(20)]
    numbers = run(frames)
    assert numbers[10:] == [[0, 1, 2, 3]] * 10


def test_two_targets_that_cross_keep_their_numbers() -> None:
    frames = [[(40 + 0.6 * i, 30 + 0.02), (58 - 0.6 * i, 30.0)] for i in range(30)]
    assert run(frames, 0.03)[-1] == run(frames, 0.03)[9] == [0, 1]


def test_a_target_that_was_not_seen_for_a_while_gets_its_number_back() -> None:
    path = [[(10 + 0.5 * i, 20.0)] for i in range(40)]
    for i in range(15, 25):
        path[i] = []
    assert run(path)[25:] == [[0]] * 15
    assert run(path)[14] == [0]


def test_a_target_that_was_not_seen_for_seconds_is_a_new_one() -> None:
    path = [[(10.0, 20.0)] if not 14 <= i < 100 else [] for i in range(120)]
    numbers = run(path)
    assert numbers[13] == [0]
    assert numbers[100:102] == [[-1], [-1]]
    assert numbers[-1] == [1]


def test_targets_behind_a_shutter_have_not_been_missed() -> None:
    places = [[(10 + 0.2 * i, 20.0), (60.0, 60.0)] for i in range(70)]
    ends = {}
    for blind in (True, False):
        tracker = Tracker()
        for i, at in enumerate(places):
            shut = 40 <= i < 60
            shift = Shift(blind=shut and blind)
            numbers = tracker.update(i * PERIOD, targets([] if shut else at), shift=shift).tolist()
        ends[blind] = numbers, tracker.tracks().static.tolist()
    assert ends[True] == ([0, 1], [False, True])
    assert ends[False][0] != [0, 1]


def test_a_gap_counts_by_its_length_not_by_its_frames() -> None:
    for gap_s, expected in ((0.5, 0), (3.0, -1)):
        tracker = Tracker()
        for i in range(16):
            tracker.update(i * PERIOD, targets([(10.0, 20.0)]))
        assert tracker.update(15 * PERIOD + int(1e9 * gap_s), targets([(10.0, 20.0)])).tolist() == [expected]


@pytest.mark.parametrize("period_s", [0.01, 0.2, 1.0])
def test_fast_and_slow_cameras_have_tracks(period_s: float) -> None:
    tracker = Tracker()
    for i in range(14):
        t = i * period_s
        numbers = tracker.update(int(1e9 * t), targets([(50 + 8 * t, 60 - 3 * t), (200.0, 90.0)]))
    assert numbers.tolist() == [0, 1]


def test_a_false_alarm_here_and_there_never_makes_a_track() -> None:
    rng = np.random.default_rng(3)
    tracker = Tracker()
    for i in range(200):
        numbers = tracker.update(i * PERIOD, targets(rng.uniform(0, 500, (2, 2))))
        assert numbers.tolist() == [-1, -1]
        assert len(tracker) <= 12
    assert tracker.confirmed == 0


def test_a_sharp_target_stays_with_its_track_though_a_vague_one_is_nearer_in_sigmas() -> None:
    tracker = Tracker()
    for i in range(10):
        tracker.update(i * PERIOD, targets([(10.0, 10.0)], 0.03))
    numbers = tracker.update(10 * PERIOD, targets([(10.1, 10.0), (10.8, 10.0)], [(0.03, 0.03), (2.0, 2.0)]))
    assert numbers.tolist() == [0, -1]


def test_unknown_uncertainties_are_taken_as_wide() -> None:
    frames = [[(10 + 0.1 * (-1) ** i, 20.0)] for i in range(10)]
    assert run(frames, float("nan"))[-1] == [0]


def test_a_step_back_in_time_counts_as_none() -> None:
    tracker = Tracker()
    times = [*(i * PERIOD for i in range(12)), 0, PERIOD]
    numbers = [tracker.update(t, targets([(10.0, 20.0)])).tolist() for t in times]
    assert numbers[11:] == [[0], [0], [0]]


def test_frames_without_targets_are_frames() -> None:
    assert run([[], [], []]) == [[], [], []]


def test_a_bad_setting_is_refused() -> None:
    with pytest.raises(InputError, match="gate"):
        TrackConfig(gate=0)


coordinates = st.floats(0, 12, allow_nan=False).map(lambda v: round(v, 3))
places = st.lists(st.tuples(coordinates, coordinates), max_size=4)


@settings(deadline=None, max_examples=60)
@given(st.lists(places, min_size=2, max_size=6))
def test_numbers_and_states_are_sound_whatever_comes(frames: list[list[tuple[float, float]]]) -> None:
    tracker, known = Tracker(), -1
    for i, here in enumerate(frames):
        numbers = tracker.update(i * PERIOD, targets(here))
        given_numbers = [n for n in numbers.tolist() if n >= 0]
        assert len(numbers) == len(here)
        assert len(set(given_numbers)) == len(given_numbers)
        assert max([known, *given_numbers]) <= tracker.confirmed - 1
        known = tracker.confirmed - 1
        _, _, xx, xv, vv = tracker._state
        assert np.isfinite(tracker._state).all()
        assert (xx > 0).all()
        assert (xx * vv - xv**2 > -1e-9 * xx * vv).all()  # a covariance


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 12), st.floats(0, 200), st.floats(0, 200))
def test_moving_the_whole_scene_or_shuffling_its_tables_changes_no_number(
    seed: int, number: int, dx: float, dy: float
) -> None:
    rng = np.random.default_rng(seed)
    start, velocity = rng.uniform(20, 26, (number, 2)), rng.uniform(-1, 1, (number, 2))
    config = TrackConfig(false_tracks_per_hour=3599)
    here, there = Tracker(config), Tracker(config)
    pairs: set[tuple[int, int]] = set()
    for i in range(6):
        scene = (start + i * velocity + 0.05 * rng.standard_normal((number, 2)))[rng.random(number) < 0.8]
        order = rng.permutation(len(scene))
        first = here.update(i * PERIOD, targets(scene))
        second = there.update(i * PERIOD, targets(scene[order] + np.array([dx, dy])))
        pairs |= set(zip(first[order].tolist(), second.tolist()))
    # Numbers are given in the order of the table, so they may be renamed: but one to one.
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)


@settings(deadline=None, max_examples=60)
@given(places.filter(len), places.filter(len), st.floats(0.02, 0.5))
def test_no_other_set_of_pairs_is_more_likely(
    before: list[tuple[float, float]], after: list[tuple[float, float]], sigma: float
) -> None:
    config = TrackConfig()
    tracker = Tracker(config)
    tracker.update(0, targets(before, sigma))
    tracker_module._predict(tracker._state, PERIOD / 1e9, config.agility**2)
    noise = np.full((len(after), 2), sigma)
    place = np.array(after)
    rows, columns = tracker._assign(place, noise)

    def gain(track: int, target: int) -> float:
        """How much more likely the pair is than a new target, twice the log; negative outside of the gate."""
        s = tracker._state[2, track] + sigma**2
        d2 = ((place[target] - tracker._state[0, track]) ** 2 / s).sum()
        density = np.exp(-d2 / 2) / (2 * np.pi * np.sqrt(s.prod()))
        return -1.0 if d2 > config.gate**2 else 2 * np.log(density / config.density + 1e-300)

    chosen = sum(gain(i, j) for i, j in zip(rows, columns))
    assert all(gain(i, j) > 0 for i, j in zip(rows, columns))
    assert len(set(rows.tolist())) == len(rows)
    small, large = (len(tracker), len(after)) if len(tracker) <= len(after) else (len(after), len(tracker))
    best = 0.0
    for order in permutations(range(large), small):
        pairs = [(i, j) if len(tracker) <= len(after) else (j, i) for i, j in enumerate(order)]
        best = max(best, sum(max(gain(i, j), 0.0) for i, j in pairs))
    assert chosen == pytest.approx(best, abs=1e-6)


def path(speed: float, jitter: float, frames: int, pan: float = 0.0) -> Tracker:
    """A tracker after so many frames of one target that goes on through the scene, px per frame."""
    rng, tracker = np.random.default_rng(5), Tracker()
    for i in range(frames):
        place = np.array([100.0 + (speed + pan) * i, 50.0]) + jitter * rng.standard_normal(2)
        tracker.update(i * PERIOD, targets([place]), shift=Shift(pan * i, 0.0))
    return tracker


def test_a_slow_target_that_goes_straight_on_is_soon_known_to_move() -> None:
    assert not path(0.15, 0.05, 20).tracks().static.any()
    assert not path(0.3, 0.05, 20, pan=0.4).tracks().static.any()
    assert path(0.0, 0.05, 20).tracks().static.all()


@pytest.mark.parametrize("jitter", [0.05, 0.2, 0.5])
def test_what_flickers_about_a_place_stays_static(jitter: float) -> None:
    told = [path(0.0, jitter, frames).tracks().static for frames in (30, 60, 90)]
    assert all(static.all() for static in told)


def test_what_a_camera_s_turning_may_explain_is_no_motion() -> None:
    assert path(0.08, 0.02, 40, pan=1.0).tracks().static.all()


def test_a_track_that_is_seen_to_move_counts_as_no_false_thing_that_stays_from_its_beginning() -> None:
    """A score that false things that stay have as often as targets: it tells nothing of a track at rest."""
    table = Evidence([0.1], [0.9], [1e-7], [0.88])
    scores = {}
    for speed in (0.0, 0.2):
        tracker = Tracker(evidence=table)
        for i in range(20):
            tracker.update(i * PERIOD, targets([(100 + speed * i, 50)]))
        scores[speed] = float(tracker._rows.score[0])
        assert len(tracker.tracks()) == (speed > 0)
    assert scores[0.2] > scores[0.0] + 10


def test_tracks_keep_their_places_in_a_scene_that_rolls() -> None:
    tracker, scene = Tracker(), np.array([[60.0, 40.0], [300.0, 200.0], [500.0, 90.0]])
    for i in range(30):
        shift = Shift(2.0 * i, -1.0 * i, angle=0.008 * i)
        frame = np.stack(shift.to_frame(scene[:, 0] + 0.4 * i, scene[:, 1]), axis=1)
        numbers = tracker.update(i * PERIOD, targets(frame), shift=shift)
    tracks = tracker.tracks()
    assert sorted(numbers.tolist()) == [0, 1, 2]
    assert np.stack([tracks.x, tracks.y], axis=1) == pytest.approx(frame, abs=0.1)
    assert tracks.vx == pytest.approx([0.4 * 30] * 3, abs=1)
    assert not tracks.static.any()
