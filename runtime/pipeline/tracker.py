"""Which targets of successive frames are the same one: Kalman filters on sub-pixel positions.

Each track moves with a constant velocity that white acceleration changes; it is measured with the target's own
``sigma_x`` and ``sigma_y``. The axes are independent, so a track is two filters of two states, and all tracks
are updated at once. Time is that of the frames: dropped frames and gaps only make the step longer.

- **Assignment** is joint: of all sets of pairs, each track and target at most once, the most likely one (least sum
  of d^2 + ln det S, with the Mahalanobis distance d and the covariance S of the innovation), where a pair must
  lie within the gate and be more likely than that the target is new. For a cluster that moves as one this is the
  right pairing whatever its velocity, known or not.
- **Birth**: a target without a track starts one, at rest, with a wide uncertainty of its velocity.
- **Confirmation**: after ``confirm`` measurements. Until then a target's track is -1.
- **Death**: a track that is not confirmed dies at its first frame without a measurement, a confirmed one when its
  position is uncertain by more than ``lost_px``: after one to two seconds without a measurement.

Numbers of tracks start at 0, in order of confirmation, and are never used twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from glint.compiled import compiled
from glint.errors import InputError
from glint.types import Targets

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class TrackConfig:
    """What is known of the motion.

    Attributes:
        speed: standard deviation of a new track's velocity per axis, px/s.
        agility: what the velocity gains in a second, standard deviation per axis, px/s.
        floor: least standard deviation of a measurement, px: what its sigma knows nothing of.
        unknown: standard deviation of a measurement whose sigma is NaN, px.
        gate: largest Mahalanobis distance of a pair.
        density: new targets and false ones per px^2 and frame: a pair less likely than these is none.
        confirm: measurements that make a track.
        lost_px: standard deviation of the position, on either axis, at which a confirmed track dies.
    """

    speed: float = 30.0
    agility: float = 5.0
    floor: float = 0.06
    unknown: float = 0.3
    gate: float = 4.0
    density: float = 1e-4
    confirm: int = 3
    lost_px: float = 6.0

    def __post_init__(self) -> None:
        bad = [name for name, value in vars(self).items() if not 0 < value < math.inf]
        if bad:
            raise InputError(f"TrackConfig: expected positive numbers, got {bad[0]}={getattr(self, bad[0])}")


class Tracker:
    """The tracks of one stream.

    Args:
        config: what is known of the motion.

    Attributes:
        confirmed: tracks so far.
    """

    def __init__(self, config: TrackConfig | None = None) -> None:
        self.config = config or TrackConfig()
        self.confirmed = 0
        self._t_ns: int | None = None
        # One row per track, columns x and y: position, velocity, their variances and covariance.
        self._state = np.zeros((5, 0, 2))
        self._number, self._hits = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        """Tracks that live, confirmed or not."""
        return len(self._number)

    def update(self, t_ns: int, targets: Targets) -> NDArray[np.int64]:
        """Take the targets of the next frame.

        Args:
            t_ns: its time; a step back in time counts as none.
            targets: in frame pixels.

        Returns:
            The number of each target's track, -1 while that is not confirmed, ``int64 [N]``.
        """
        seconds = 0.0 if self._t_ns is None else max(0, t_ns - self._t_ns) / 1e9
        self._t_ns = t_ns
        _predict(self._state, seconds, self.config.agility**2)
        uncertain = self._state[2].max(axis=1, initial=0.0) > self.config.lost_px**2
        self._keep((self._number < 0) | ~uncertain)
        place, sigma = _measured(
            targets.x, targets.y, targets.sigma_x, targets.sigma_y, self.config.floor, self.config.unknown
        )
        rows, columns = self._assign(place, sigma)
        _correct(self._state, rows, place[columns], sigma[columns])
        owner = np.full(len(targets), -1, dtype=np.int64)
        owner[columns] = rows
        born = np.flatnonzero(owner < 0)
        owner[born] = len(self) + np.arange(len(born))
        self._bear(place[born], sigma[born])
        self._hits[owner] += 1
        fresh = np.flatnonzero((self._hits >= self.config.confirm) & (self._number < 0))
        self._number[fresh] = self.confirmed + np.arange(len(fresh))
        self.confirmed += len(fresh)
        numbers = self._number[owner]
        alive = self._number >= 0
        alive[owner] = True
        self._keep(alive)
        return numbers

    def _assign(self, place: FloatArray, sigma: FloatArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tracks and the targets that belong to them."""
        cost = _pair_costs(self._state, place, sigma, self.config.gate, self.config.density)
        rows, columns = linear_sum_assignment(cost)
        paired = cost[rows, columns] < 0
        return rows[paired], columns[paired]

    def _bear(self, place: FloatArray, sigma: FloatArray) -> None:
        still = np.zeros_like(place)
        born = np.stack([place, still, sigma**2, still, np.full_like(place, self.config.speed**2)])
        self._state = np.concatenate([self._state, born], axis=1)
        none = np.zeros(len(place), dtype=np.int64)
        self._number = np.concatenate([self._number, none - 1])
        self._hits = np.concatenate([self._hits, none])

    def _keep(self, alive: NDArray[np.bool_]) -> None:
        self._state = self._state.compress(alive, axis=1)
        self._number, self._hits = self._number[alive], self._hits[alive]


@compiled
def _measured(
    x: FloatArray, y: FloatArray, sigma_x: FloatArray, sigma_y: FloatArray, floor: float, unknown: float
) -> tuple[FloatArray, FloatArray]:
    """Positions and their standard deviations, each ``[N, 2]``."""
    place, sigma = np.empty((len(x), 2)), np.empty((len(x), 2))
    for i in range(len(x)):
        place[i, 0], place[i, 1] = x[i], y[i]
        for axis in range(2):
            said = sigma_y[i] if axis else sigma_x[i]
            sigma[i, axis] = math.hypot(said, floor) if math.isfinite(said) else unknown
    return place, sigma


@compiled
def _predict(state: FloatArray, seconds: float, q: float) -> None:
    """Move all tracks on in time, in place; q is the spectral density of their acceleration."""
    for i in range(state.shape[1]):
        for axis in range(2):
            vv = state[4, i, axis]
            state[0, i, axis] += seconds * state[1, i, axis]
            state[2, i, axis] += 2 * seconds * state[3, i, axis] + seconds**2 * vv + q * seconds**3 / 3
            state[3, i, axis] += seconds * vv + q * seconds**2 / 2
            state[4, i, axis] += q * seconds


@compiled
def _pair_costs(state: FloatArray, place: FloatArray, sigma: FloatArray, gate: float, density: float) -> FloatArray:
    """Twice the log of how much more likely "new" is than "this track", ``[tracks, targets]``, 0 at most."""
    cost = np.zeros((state.shape[1], len(place)))
    for i in range(state.shape[1]):
        for j in range(len(place)):
            x_variance = state[2, i, 0] + sigma[j, 0] ** 2
            y_variance = state[2, i, 1] + sigma[j, 1] ** 2
            distance = (place[j, 0] - state[0, i, 0]) ** 2 / x_variance
            distance += (place[j, 1] - state[0, i, 1]) ** 2 / y_variance
            if distance <= gate * gate:
                new = math.log((2 * math.pi * density) ** 2 * x_variance * y_variance)
                cost[i, j] = min(distance + new, 0.0)
    return cost


@compiled
def _correct(state: FloatArray, rows: NDArray[np.int64], place: FloatArray, sigma: FloatArray) -> None:
    """Take the measurements of some tracks, in place."""
    for k in range(len(rows)):
        for axis in range(2):
            i = rows[k]
            xx, xv, error = state[2, i, axis], state[3, i, axis], place[k, axis] - state[0, i, axis]
            gain_x, gain_v = xx / (xx + sigma[k, axis] ** 2), xv / (xx + sigma[k, axis] ** 2)
            state[0, i, axis] += gain_x * error
            state[1, i, axis] += gain_v * error
            state[2, i, axis] -= gain_x * xx
            state[3, i, axis] -= gain_x * xv
            state[4, i, axis] -= gain_v * xv
