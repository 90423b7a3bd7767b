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


def sequence(frames: int, seed: int = 3, **parts: float) -> Sequence:
    """A cluster of three that moves by (0.21, -0.13) px per frame and ends at (40.2, 30.4)."""
    rng = np.random.default_rng(seed)
    back = np.arange(frames) - (frames - 1.0)
    x, y = 40.2 + 0.21 * back, 30.4 - 0.13 * back
    left, top = np.round(x).astype(int) - 5, np.round(y).astype(int) - 5
    at_x, at_y = (m[:, None] + MEMBERS[:, axis] - c[:, None] for axis, (m, c) in enumerate(((x, left), (y, top))))
    image = Psf(SIGMA).render(at_x, at_y, LIGHT, (11, 11)) + NOISE * rng.standard_normal((frames, 11, 11))
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


def test_the_equations_are_the_derivatives_of_the_cost() -> None:
    frames = joint_module._windows(sequence(4))
    theta = np.concatenate([MEMBERS.T.ravel() + 0.05, LIGHT + 5, [0.01, -0.02, 0.4]])
    mean, information = np.zeros(12), np.full(12, 0.01)
    matrix, vector = np.empty((12, 12)), np.empty(12)
    joint_module._equations(frames, theta, SIGMA, mean, information, matrix, vector)
    step = 1e-5
    for i in range(12):
        ends = []
        for sign in (-1, 1):
            moved = theta.copy()
            moved[i] += sign * step
            ends.append(joint_module._cost(frames, moved, SIGMA, mean, information))
        assert (ends[0] - ends[1]) / (4 * step) == pytest.approx(vector[i], rel=1e-3, abs=1e-2)
    # Against the information of the frames' pixels from an independent Jacobian.
    x, y = (theta[k : k + 3] + np.stack([frames.x, frames.y])[k // 3][:, None] for k in (0, 3))
    x, y = x + 0.01 * frames.time[:, None], y - 0.02 * frames.time[:, None]
    jacobian = Psf(SIGMA).jacobian(x, y, theta[6:9], (7, 7))  # [N, H, W, K, 3]
    flat = np.moveaxis(jacobian, -1, -2).reshape(-1, 9) / NOISE
    lower = np.tril(flat.T @ flat + 0.01 * np.eye(9))
    np.testing.assert_allclose(np.tril(matrix[:9, :9]), lower, rtol=1e-4, atol=1e-3)


def test_uncertainties_are_those_of_many_trials() -> None:
    rows = [refine_jointly(sequence(8, seed), [], SIGMA, radiance=(235.0, 8.66)).targets for seed in range(12)]
    assert all(len(row) == 3 for row in rows)
    pulls = []
    for row in rows:
        gap_x, gap_y = row.x[:, None] - 40.2 - MEMBERS[:, 0], row.y[:, None] - 30.4 - MEMBERS[:, 1]
        a, b = linear_sum_assignment(np.hypot(gap_x, gap_y))
        pulls += [gap_x[a, b] / row.sigma_x, gap_y[a, b] / row.sigma_y]
    assert 0.7 < np.sqrt(np.mean(np.square(pulls))) < 1.4


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
