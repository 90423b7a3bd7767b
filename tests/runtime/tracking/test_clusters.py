from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from glint.errors import InputError
from glint.optics import Psf
from glint.runtime.tracking.clusters import Clusters, Cuts, steady
from glint.runtime.tracking.registration import Shift
from glint.types import TargetFlag, Targets

SIGMA, NOISE, SIZE = 0.5, 2.0, 11
MEMBERS = np.array([[-0.3, -0.2], [0.3, -0.25], [0.05, 0.35]])
LIGHT = np.array([240.0, 225.0, 232.0])
TOLD = (235.0, 8.66)


def targets(rows: list[tuple[float, float, float, int]], flags: int = 0) -> Targets:
    x, y, light, blob = np.array(rows).T
    sigma = np.full(len(rows), 0.1)
    one = np.ones(len(rows))
    return Targets(x, y, light, sigma, sigma, sigma, blob.astype(int), one, np.full(len(rows), flags), one)


class Sky:
    """Spots in noise: where their members are and how bright they are, as patches."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)

    def cuts(self, spots: list[tuple[np.ndarray, np.ndarray]]) -> Cuts:
        left, top = (np.array([round(place[:, axis].mean()) - SIZE // 2 for place, _ in spots]) for axis in (0, 1))
        patches = [
            Psf(SIGMA).render(place[:, 0] - a, place[:, 1] - b, light, (SIZE, SIZE))
            for (place, light), a, b in zip(spots, left, top)
        ]
        image = np.array(patches) + NOISE * self.rng.standard_normal((len(spots), SIZE, SIZE))
        shape = image.shape
        limit = np.full(shape, np.inf, dtype=np.float32)
        return Cuts(image.astype(np.float32), np.ones(shape, bool), limit, left, top, np.full(len(spots), NOISE))


def off(found: Targets, place: np.ndarray) -> float:
    gap = np.hypot(found.x[:, None] - place[:, 0], found.y[:, None] - place[:, 1])
    return float(np.sqrt((gap[linear_sum_assignment(gap)] ** 2).mean()))


def pair(place: np.ndarray, blob: int = 0) -> list[tuple[float, float, float, int]]:
    """What a frame alone says of the three: two."""
    middle, light = place.mean(axis=0), LIGHT.sum() / 2
    return [(middle[0] - 0.2, middle[1], light, blob), (middle[0] + 0.2, middle[1], light, blob)]


@pytest.mark.parametrize("shake", [0.0, 3.0])
def test_members_that_single_frames_leave_open_are_found_whatever_the_camera_does(shake: float) -> None:
    clusters, sky = Clusters(10, TOLD), Sky()
    for index in range(10):
        shift = shake * np.array([np.sin(index), np.cos(index)])
        place = np.array([40.2, 30.4]) + index * np.array([0.21, -0.13]) + MEMBERS + shift
        seen = targets(pair(place))
        found, frames = clusters(seen, sky.cuts([(place, LIGHT)]), Shift(*shift), SIGMA)
        if index == 0:
            assert found is seen
    assert len(found) == 3
    assert off(found, place) < 0.06
    assert set(frames.tolist()) == {10}
    assert (found.blob == 0).all()


def test_a_single_target_keeps_the_answer_of_each_frame() -> None:
    clusters, sky = Clusters(10), Sky()
    for index in range(5):
        place = np.array([[40.2 + 0.2 * index, 30.0]])
        seen = targets([(place[0, 0], place[0, 1], 240.0, 0)])
        found, frames = clusters(seen, sky.cuts([(place, LIGHT[:1])]), Shift(), SIGMA)
        np.testing.assert_array_equal(found.x, seen.x)
        assert frames.tolist() == [1]


def test_members_that_no_single_frame_shows_are_found_and_no_member_is_made_of_one_target() -> None:
    """Two spots that each frame takes for one target: three are in one of them."""
    clusters, sky = Clusters(20, TOLD), Sky()
    for index in range(20):
        three = np.array([40.2, 30.4]) + index * np.array([0.21, -0.13]) + MEMBERS
        one = np.array([[80.1, 20.0 + 0.17 * index]])
        seen = targets([(*three.mean(axis=0), LIGHT.sum(), 0), (*one[0], LIGHT[0], 1)])
        found, _ = clusters(seen, sky.cuts([(three, LIGHT), (one, LIGHT[:1])]), Shift(), SIGMA)
    assert np.bincount(found.blob).tolist() == [3, 1]
    assert off(found.select(found.blob == 0), three) < 0.06
    assert found.x[found.blob == 1] == one[0, 0]  # as its frame alone tells


def test_what_is_no_point_and_what_was_not_refined_is_left_alone() -> None:
    for flag in (TargetFlag.EXTENDED, TargetFlag.UNREFINED):
        clusters, sky = Clusters(10, TOLD), Sky()
        for index in range(4):
            place = np.array([40.2, 30.4]) + index * np.array([0.21, -0.13]) + MEMBERS
            seen = targets(pair(place), int(flag))
            found, _ = clusters(seen, sky.cuts([(place, LIGHT)]), Shift(), SIGMA)
            assert found is seen


def test_frames_from_before_the_optics_were_known_count() -> None:
    clusters, sky = Clusters(10, TOLD), Sky()
    for index in range(8):
        place = np.array([40.2, 30.4]) + index * np.array([0.21, -0.13]) + MEMBERS
        known = index >= 6
        middle = [(*place.mean(axis=0), LIGHT.sum(), 0)]
        seen = targets(pair(place)) if known else targets(middle, int(TargetFlag.EXTENDED))
        found, frames = clusters(seen, sky.cuts([(place, LIGHT)]), Shift(), SIGMA if known else None)
        if not known:
            assert found is seen
    assert len(found) == 3 and frames.tolist() == [8, 8, 8]
    assert off(found, place) < 0.08


def test_frames_that_do_not_belong_together_are_forgotten() -> None:
    clusters, sky = Clusters(10, TOLD), Sky()
    for index in range(8):
        members = MEMBERS if index < 6 else 1.3 * MEMBERS[:, ::-1] * [1, -1]  # it is another one from the sixth on
        place = np.array([40.2, 30.4]) + index * np.array([0.21, -0.13]) + members
        _, frames = clusters(targets(pair(place)), sky.cuts([(place, LIGHT)]), Shift(), SIGMA)
    assert frames.max() <= 2


def test_every_cluster_gets_its_members_in_the_end_and_work_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from glint.runtime.tracking import clusters as module

    calls = []
    whole = module.refine_jointly
    monkeypatch.setattr(module, "refine_jointly", lambda *a, **k: (calls.append(1), whole(*a, **k))[1])
    clusters, sky = Clusters(10, TOLD), Sky()
    for index in range(14):
        spots = [np.array([40.2 + 20 * k, 30.4]) + index * np.array([0.21, -0.13]) + MEMBERS for k in range(5)]
        seen = targets([row for blob, place in enumerate(spots) for row in pair(place, blob)])
        calls.clear()
        found, frames = clusters(seen, sky.cuts([(place, LIGHT) for place in spots]), Shift(), SIGMA)
        assert len(calls) <= module.SEARCHES + module.FITS
        assert np.all(np.diff(found.blob) >= 0)
    for blob, place in enumerate(spots):
        assert (found.blob == blob).sum() == 3
        assert off(found.select(found.blob == blob), place) < 0.12
    assert len(frames) == len(found)


def test_what_many_frames_say_counts_once_to_a_tracker() -> None:
    seen = targets(pair(MEMBERS + 40))
    wide = steady(seen, [4, 9])
    np.testing.assert_allclose(wide.sigma_x, [0.2, 0.3])
    np.testing.assert_allclose(wide.sigma_y, [0.2, 0.3])
    np.testing.assert_allclose(wide.x, seen.x)


@pytest.mark.parametrize("frames", [0, 1, 31])
def test_a_bad_number_of_frames_is_refused(frames: int) -> None:
    with pytest.raises(InputError, match="2 to 30") as raised:
        Clusters(frames)
    assert "--unmix-frames takes 2 to 30" in str(raised.value.hint)
