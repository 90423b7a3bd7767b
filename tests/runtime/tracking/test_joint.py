from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from glint.errors import InputError
from glint.optics import Psf
from glint.runtime.tracking import joint as joint_module
from glint.runtime.tracking.joint import Sequence, refine_jointly

SIGMA, NOISE = 0.5, 2.0
MEMBERS = np.array([[-0.3, -0.2], [0.3, -0.25], [0.05, 0.35]])
LIGHT = np.array([240.0, 225.0, 232.0])


def sequence(frames: int, seed: int = 3, jitter: float = 0.0, **parts: float) -> Sequence:
    """A cluster of three that moves by (0.21, -0.13) px per frame and ends at (40.2, 30.4)."""
    rng = np.random.default_rng(seed)
    back = np.arange(frames) - (frames - 1.0)
    x, y = 40.2 + 0.21 * back, 30.4 - 0.13 * back
    left, top = np.round(x).astype(int) - 5, np.round(y).astype(int) - 5
    at_x, at_y = (m[:, None] + MEMBERS[:, axis] - c[:, None] for axis, (m, c) in enumerate(((x, left), (y, top))))
    image = Psf(SIGMA).render(at_x, at_y, LIGHT, (11, 11)) + NOISE * rng.standard_normal((frames, 11, 11))
    x, y = (axis + jitter * rng.standard_normal(frames) for axis in (x, y))  # as they are predicted
    return Sequence(image, left, top, np.full(frames, NOISE), x, y, **parts)


def error(x: np.ndarray, y: np.ndarray) -> float:
    gap = np.hypot(x[:, None] - 40.2 - MEMBERS[:, 0], y[:, None] - 30.4 - MEMBERS[:, 1])
    return float(np.sqrt((gap[linear_sum_assignment(gap)] ** 2).mean()))


def start(x: float, y: float, s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.array([x]), np.array([y]), np.array([s])


def test_frames_together_find_the_members_that_one_leaves_open() -> None:
    found = {n: refine_jointly(sequence(n), [start(0, 0, 700.0)], SIGMA, radiance=(235.0, 8.66)) for n in (1, 20)}
    many = found[20].targets
    assert len(many) == 3
    assert error(many.x, many.y) < 0.05
    assert np.abs(many.radiance.sum() / LIGHT.sum() - 1) < 0.02
    assert found[20].evidence[3] - np.delete(found[20].evidence, 3).max() > 10
    assert many.sigma_x.mean() < 0.5 * found[1].targets.sigma_x.mean()


def test_a_prediction_that_is_off_is_corrected() -> None:
    true = sequence(20)
    back = np.arange(20) - 19.0
    off = Sequence(true.patches, true.left, true.top, true.noise, true.x - 0.03 * back + 0.1, true.y)
    found = refine_jointly(off, [], SIGMA, radiance=(235.0, 8.66))
    assert found.vx == pytest.approx(0.03, abs=0.005)
    assert error(found.targets.x, found.targets.y) < 0.05


def test_the_equations_are_those_of_a_fit_of_the_place_of_each_frame_too() -> None:
    frames = joint_module._windows(sequence(4))
    theta = np.concatenate([MEMBERS.T.ravel() + 0.05, LIGHT + 5, [0.01, -0.02, 0.4]])
    mean, information = np.zeros(12), np.full(12, 0.01)
    matrix, vector = np.empty((12, 12)), np.empty(12)
    cost = joint_module._equations(frames, theta, SIGMA, mean, information, matrix, vector)

    def rest(all_of_them: np.ndarray) -> np.ndarray:
        """What a model with 8 more parameters, the places of 4 frames, leaves of all pixels, over the noise."""
        one, place = all_of_them[:12], all_of_them[12:].reshape(4, 2)
        x = one[:3] + (frames.x + place[:, 0] + one[9] * frames.time)[:, None]
        y = one[3:6] + (frames.y + place[:, 1] + one[10] * frames.time)[:, None]
        light = Psf(SIGMA).render(x, y, one[6:9], (7, 7)) + one[11]
        return ((frames.image - light) / NOISE).ravel()

    at, step = np.append(theta, np.zeros(8)), 1e-5
    jacobian = np.stack([(rest(at - step * e) - rest(at + step * e)) / (2 * step) for e in np.eye(20)], axis=1)
    prior = np.append(information, np.full(8, joint_module.JITTER_PX**-2.0))
    whole, right = jacobian.T @ jacobian + np.diag(prior), jacobian.T @ rest(at) - prior * at
    onto = np.linalg.solve(whole[12:, 12:], whole[12:, :12]).T
    lower = np.tril(whole[:12, :12] - onto @ whole[12:, :12])
    np.testing.assert_allclose(np.tril(matrix), lower, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(vector, right[:12] - onto @ right[12:], rtol=1e-4, atol=1e-2)
    least = (rest(at) ** 2).sum() + (prior * at**2).sum() - right[12:] @ np.linalg.solve(whole[12:, 12:], right[12:])
    assert cost == pytest.approx(least, rel=1e-6)


def test_uncertainties_are_those_of_many_trials() -> None:
    shaky = [sequence(8, seed, joint_module.JITTER_PX) for seed in range(12)]
    rows = [refine_jointly(one, [], SIGMA, radiance=(235.0, 8.66)).targets for one in shaky]
    assert all(len(row) == 3 for row in rows)
    pulls = []
    for row in rows:
        gap_x, gap_y = row.x[:, None] - 40.2 - MEMBERS[:, 0], row.y[:, None] - 30.4 - MEMBERS[:, 1]
        a, b = linear_sum_assignment(np.hypot(gap_x, gap_y))
        pulls += [gap_x[a, b] / row.sigma_x, gap_y[a, b] / row.sigma_y]
    assert 0.7 < np.sqrt(np.mean(np.square(pulls))) < 1.4


def test_frames_that_lie_a_little_off_make_no_members() -> None:
    shaky = sequence(20, 5, 2 * joint_module.JITTER_PX)
    bright = Sequence(20 * shaky.patches, shaky.left, shaky.top, shaky.noise, shaky.x, shaky.y)  # 20 times the light
    found = refine_jointly(bright, [], SIGMA).targets
    assert len(found) == 3
    assert error(found.x, found.y) < 0.03


def test_what_is_saturated_does_not_count() -> None:
    plain = sequence(10)
    limit = 150.0
    clipped = Sequence(np.minimum(plain.patches, limit), plain.left, plain.top, plain.noise, plain.x, plain.y, limit)
    found = refine_jointly(clipped, [], SIGMA, radiance=(235.0, 8.66)).targets
    assert len(found) == 3
    assert error(found.x, found.y) < 0.15


def test_what_does_not_fit_together_is_refused() -> None:
    good = sequence(2)
    for patches, noise in (
        (good.patches[0], good.noise),
        (good.patches, good.noise[:1]),
        (good.patches, 0 * good.noise),
    ):
        with pytest.raises(InputError, match="Sequence"):
            Sequence(patches, good.left, good.top, noise, good.x, good.y)
    with pytest.raises(InputError, match="most"):
        refine_jointly(good, [], SIGMA, most=6)
