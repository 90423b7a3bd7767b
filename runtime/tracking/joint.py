"""A cluster that is followed, taken apart in all of its last frames at once.

Its members keep their places in the cluster and their radiances; the cluster moves on with a constant velocity beside
the motion that was predicted, give or take a few hundredths of a pixel in each frame. Each frame samples the same light
at other sub-pixel places, and that is what one frame cannot have. Positions, radiances, the correction of the velocity
and one background level are fitted to all windows by Levenberg-Marquardt with the pixel-integrated PSF. Saturated
pixels do not count.

The number of members has the largest evidence: the likelihood of all pixels, integrated over the parameters (Laplace).
Each number is fitted from what single frames say, and from the fit of one less with one more where it explains most.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glint.compiled import entry
from glint.errors import InputError
from glint.optics import Psf
from glint.runtime.unmixing.normal_equations import factorise, substitute
from glint.runtime.unmixing.point_model import pixel_profile
from glint.types import TargetFlag, Targets

Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
MOST_MEMBERS = 5  # members
WINDOW_PX = 7  # px
SPREAD_PX = 0.4  # px, of the members about the cluster's middle
RADIANCE_SPREAD_SHARE = 0.6  # standard deviation of radiances over their mean, where nothing is known of them
LEVEL_SPREAD_SHARE = 0.01  # standard deviation of the background level over the brightest pixel
JITTER_PX = 0.03  # px, standard deviation of the place of a frame about the predicted motion
DRIFT_PX = 0.05  # px per frame that the predicted motion may be off
NEAREST_PX, NEAREST_TOLD_PX = 0.45, 0.3  # px between two members; where their radiance is known
_SHARED_PARAMETERS = 3  # parameters beside those of members: velocity and level
_FIT_STEPS = 20
_LONGEST_STEP_PX = 0.3  # px of a step
_STARTS_PER_KIND = 3  # per number of members and kind of start
_PLACES_PX = np.linspace(-0.8, 0.8, 9)  # px about the middle on either axis, where one more member is looked for
_HOPELESS_LOG_EVIDENCE = 15.0  # of log evidence behind the best at which more members are no longer tried
_RIVAL_LOG_EVIDENCE = 2.0  # of log evidence below which a number is ambiguous


class _Frames(NamedTuple):
    """Windows ``[N, w, w]``, their noise, and where the cluster's origin lies in them: px and times ``[N]``."""

    image: Array
    valid: BoolArray
    noise: Array
    x: Array
    y: Array
    time: Array


@dataclass(frozen=True, eq=False)
class Sequence:
    """The last frames of one spot, oldest first.

    Attributes:
        patches: light above the background, ``[N, n, n]``, DN.
        left, top: column and row of the frame at which each patch starts, ``[N]``.
        noise: standard deviation of a pixel, DN, ``[N]``.
        x, y: where the middle of the spot is predicted in each frame, pixels, ``[N]``.
        full_scale: level at which a pixel of the patches is saturated, DN; infinity for none.
        valid: the pixels that count, ``bool [N, n, n]``; None: all.
        time: of the frames, from that of the last, in frames, ``[N]``; None: one after the other.
    """

    patches: Array
    left: NDArray[np.int64]
    top: NDArray[np.int64]
    noise: Array
    x: Array
    y: Array
    full_scale: float = math.inf
    valid: BoolArray | None = None
    time: Array | None = None

    def __post_init__(self) -> None:
        shape = np.shape(self.patches)
        if len(shape) != 3 or shape[0] < 1 or shape[1] != shape[2] or shape[1] < WINDOW_PX:
            raise InputError(f"Sequence: expected patches [N, n, n] of at least {WINDOW_PX} pixels, got {list(shape)}")
        for name in ("left", "top", "noise", "x", "y"):
            if np.shape(getattr(self, name)) != shape[:1]:
                raise InputError(f"Sequence.{name}: expected [{shape[0]}], got {list(np.shape(getattr(self, name)))}")
        if not (np.asarray(self.noise) > 0).all():
            raise InputError("Sequence.noise: expected positive numbers")
        for name, want in (("valid", shape), ("time", shape[:1])):
            value = getattr(self, name)
            if value is not None and np.shape(value) != want:
                raise InputError(f"Sequence.{name}: expected {list(want)}, got {list(np.shape(value))}")


@dataclass(frozen=True, eq=False)
class Joint:
    """A cluster after its last frame.

    Attributes:
        targets: its members, pixels of the last frame.
        vx, vy: by how much the cluster is faster than predicted, px per frame.
        evidence: log evidence of each number of members, ``[6]``; minus infinity where it was not tried.
        chi_square: mean square of what is left of a pixel over its noise, in all frames or in the last one, whichever
            is more; about 1 if the frames belong together.
    """

    targets: Targets
    vx: float
    vy: float
    evidence: Array
    chi_square: float


class _Fit(NamedTuple):
    theta: Array
    information: Array
    evidence: float
    cost: float


def refine_jointly(
    sequence: Sequence, starts: Iterable[tuple[Array, Array, Array]], sigma: float,
    *, radiance: tuple[float, float] | None = None, most: int = MOST_MEMBERS, number: int | None = None,
) -> Joint:  # fmt: skip
    """Take a cluster apart in all its frames.

    Args:
        sequence: what was seen.
        starts: answers for single frames: x, y relative to the predicted middle of their frame, px, and radiance, DN.
        sigma: of the PSF, pixels.
        radiance: mean and standard deviation of a member's radiance, DN, if they are known.
        most: members at most.
        number: of members, if it is known: then there must be a start with so many, and no other is tried.

    Raises:
        InputError: if ``most`` is not 1 to 5, or there is no start with ``number`` members.
    """
    if not 1 <= most <= MOST_MEMBERS:
        raise InputError(f"refine_jointly: expected most of 1 to {MOST_MEMBERS}, got {most}")
    frames = _windows(sequence)
    light = float(np.where(frames.valid, frames.image, 0).sum(axis=(1, 2)).mean())
    by_number: dict[int, list[Array]] = {}
    for x, y, s in starts:
        by_number.setdefault(len(x), []).append(_start(x, y, s))
    search = _Search(frames, float(sigma), radiance, max(light, 1.0))
    evidence = np.full(MOST_MEMBERS + 1, -np.inf)
    if number is not None:
        if number not in by_number:
            raise InputError(f"refine_jointly: expected a start with {number} members, got {sorted(by_number)}")
        only = max((search.fit(row) for row in by_number[number]), key=lambda fit: fit.evidence)
        evidence[number] = only.evidence
        return _told(sequence, frames, only, evidence, sigma)
    best: list[_Fit] = []
    top = -math.inf
    for count in range(1, most + 1):
        rows = search.likeliest(by_number.get(count, []))
        rows += search.one_more(best[-1].theta if best else _start(*np.zeros((3, 0))))
        best.append(max((search.fit(row) for row in rows), key=lambda fit: fit.evidence))
        top = max(top, best[-1].evidence)
        known = max(by_number, default=0)
        if count > known and best[-1].evidence < top - _HOPELESS_LOG_EVIDENCE:
            break
    evidence[1 : len(best) + 1] = [fit.evidence for fit in best]
    return _told(sequence, frames, best[int(np.argmax(evidence)) - 1], evidence, sigma)


def _windows(sequence: Sequence) -> _Frames:
    """The middles of the patches, around the predicted places."""
    size = sequence.patches.shape[1]
    corner = []
    for at, start in ((sequence.x, sequence.left), (sequence.y, sequence.top)):
        corner.append(np.clip(np.round(at - start).astype(np.int64) - WINDOW_PX // 2, 0, size - WINDOW_PX))
    column, row = corner
    index = np.arange(WINDOW_PX)
    part = np.arange(len(row))[:, None, None], row[:, None, None] + index[:, None], column[:, None, None] + index
    image = sequence.patches[part].astype(np.float64)
    valid = image < sequence.full_scale
    if sequence.valid is not None:
        valid &= sequence.valid[part]
    time = np.arange(len(row), dtype=np.float64) - (len(row) - 1)
    if sequence.time is not None:
        time = np.asarray(sequence.time, dtype=np.float64)
    x: Array = sequence.x - sequence.left - column
    y: Array = sequence.y - sequence.top - row
    return _Frames(image, valid, np.asarray(sequence.noise, dtype=np.float64), x, y, time)


def _start(x: Array, y: Array, radiance: Array) -> Array:
    return np.concatenate([x, y, radiance, np.zeros(_SHARED_PARAMETERS)]).astype(np.float64)


class _Search:
    """Fits of some frames."""

    def __init__(self, frames: _Frames, sigma: float, radiance: tuple[float, float] | None, light: float) -> None:
        self.frames, self.sigma, self.radiance, self.light = frames, sigma, radiance, light
        self.nearest = NEAREST_PX if radiance is None else NEAREST_TOLD_PX

    def prior(self, number: int) -> tuple[Array, Array]:
        """Mean and information of each parameter."""
        share = self.light / number
        mean, deviation = self.radiance or (share, RADIANCE_SPREAD_SHARE * share)
        brightest = float(self.frames.image.max())
        level = LEVEL_SPREAD_SHARE * max(brightest, 1.0) + 0.1 * float(self.frames.noise.mean())
        means = np.concatenate([np.zeros(2 * number), np.full(number, mean), np.zeros(_SHARED_PARAMETERS)])
        deviations = [SPREAD_PX] * (2 * number) + [deviation] * number + [DRIFT_PX, DRIFT_PX, level]
        return means, np.asarray(deviations) ** -2.0

    def likeliest(self, rows: list[Array]) -> list[Array]:
        """The starts that explain most as they are."""
        if len(rows) <= _STARTS_PER_KIND:
            return rows
        number = (len(rows[0]) - _SHARED_PARAMETERS) // 3
        mean, information = self.prior(number)
        costs = [_cost(self.frames, row, self.sigma, mean, information) for row in rows]
        return [rows[i] for i in np.argsort(costs)[:_STARTS_PER_KIND]]

    def one_more(self, theta: Array) -> list[Array]:
        """Members so far and one more, at the places where it explains most."""
        number = (len(theta) - _SHARED_PARAMETERS) // 3
        x, y, s = theta[: 3 * number].reshape(3, number)
        more, scale = (self.radiance[0], 1.0) if self.radiance is not None else (self.light / (number + 1), 1.0)
        if self.radiance is None and number:
            scale = number / (number + 1)
        place = np.stack(np.meshgrid(_PLACES_PX, _PLACES_PX), axis=-1).reshape(-1, 2)
        if number:
            place = place[(np.hypot(place[:, :1] - x, place[:, 1:] - y) >= self.nearest).all(axis=1)]
        scaled = np.concatenate([x, y, scale * s, theta[-_SHARED_PARAMETERS:]])
        costs = _costs_of_one_more(self.frames, scaled, self.sigma, place, more) + (place**2).sum(axis=1) / SPREAD_PX**2
        rest = theta[-_SHARED_PARAMETERS:]
        return [
            np.concatenate([np.append(x, a), np.append(y, b), np.append(scale * s, more), rest])
            for a, b in place[np.argsort(costs)[:_STARTS_PER_KIND]]
        ]

    def fit(self, start: Array) -> _Fit:
        """From one start."""
        number = (len(start) - _SHARED_PARAMETERS) // 3
        mean, information = self.prior(number)
        theta, matrix, cost = _fit(self.frames, start, self.sigma, mean, information)
        _, log_volume = np.linalg.slogdet(matrix)
        evidence = 0.5 * (float(np.log(information).sum()) - float(log_volume) - cost) + math.lgamma(number + 1)
        x, y = theta[:number], theta[number : 2 * number]
        gaps = np.hypot(x[:, None] - x, y[:, None] - y)[np.triu_indices(number, 1)]
        if (gaps < self.nearest).any() or (theta[2 * number : 3 * number] <= 0).any():
            evidence -= 1e6  # kept, in case that there is nothing else
        return _Fit(theta, matrix, evidence, cost)


def _told(sequence: Sequence, frames: _Frames, fit: _Fit, evidence: Array, sigma: float) -> Joint:
    number = (len(fit.theta) - _SHARED_PARAMETERS) // 3
    x, y, radiance = fit.theta[: 3 * number].reshape(3, number)
    weight = np.exp(np.where(np.isfinite(evidence), evidence - evidence.max(), -np.inf))
    probability = float(weight[number] / weight.sum())
    rest = np.delete(evidence, number)
    flags = int(TargetFlag.COUNT_AMBIGUOUS) if number > 1 and evidence[number] - rest.max() < _RIVAL_LOG_EVIDENCE else 0
    one = slice(-1, None)
    where = frames.noise[one], frames.x[one], frames.y[one], frames.time[one]
    last = _Frames(frames.image[one], frames.valid[one], *where)
    off, variance = _place_of(last, fit, sigma)
    sigma_x, sigma_y, sigma_radiance = np.sqrt(variance)
    targets = Targets(
        x + sequence.x[-1] + off[0], y + sequence.y[-1] + off[1], radiance, sigma_x, sigma_y, sigma_radiance,
        blob=np.zeros(number, dtype=np.int64), score=np.exp(-(variance[0] + variance[1]) / 0.01),
        flags=np.full(number, flags), count_probability=np.full(number, probability),
    )  # fmt: skip
    none = np.zeros(len(fit.theta))
    latest = _cost(last, fit.theta, sigma, none, none) / max(int(last.valid.sum()), 1)
    chi_square = max(latest, fit.cost / max(int(frames.valid.sum()), 1))
    return Joint(targets, float(fit.theta[-3]), float(fit.theta[-2]), evidence, chi_square)


def _place_of(last: _Frames, fit: _Fit, sigma: float) -> tuple[Array, Array]:
    """By how much the one frame is off its predicted place, px ``[2]``, and the members' variances in it ``[3, K]``."""
    members, rest = fit.theta[:-_SHARED_PARAMETERS].reshape(3, -1), fit.theta[-_SHARED_PARAMETERS:]
    x, y = (members[i] + (last.x, last.y)[i] + rest[i] * last.time for i in (0, 1))
    psf, shape, valid = Psf(sigma), last.image.shape[1:], last.valid[0]
    slope = psf.jacobian(x, y, members[2], shape)[valid] / last.noise  # [P, K, 3]
    left = (last.image[0] - rest[2] - psf.render(x, y, members[2], shape))[valid] / last.noise
    along, size = slope[..., :2].sum(axis=1), members.size
    inverse = np.linalg.inv(along.T @ along + JITTER_PX**-2.0 * np.eye(2))
    # A place that is told is a parameter and the frame's own: what the one has too much, the other has too little.
    told = np.zeros((size, len(fit.theta)))
    told[:, :size] = np.eye(size)
    own = np.repeat(np.eye(3, 2), members.shape[1], axis=0) @ inverse
    told[:, :size] -= own @ along.T @ np.moveaxis(slope, -1, -2).reshape(len(slope), -1)
    told[:, -1] -= own @ along.sum(axis=0) / last.noise[0]
    variance = ((told @ np.linalg.inv(fit.information)) * told).sum(axis=1).reshape(members.shape)
    return inverse @ (along.T @ left), variance + np.append(np.diag(inverse), 0.0)[:, None]


@entry("_Frames(f8[3] b1[3] f8[1] f8[1] f8[1] f8[1]) f8[1] f8 f8[2] f8")
def _costs_of_one_more(frames: _Frames, theta: Array, sigma: float, place: Array, radiance: float) -> Array:
    """Squared residuals over the noise with one more member at each place ``[P, 2]``."""
    n, number, size = len(theta), (len(theta) - 3) // 3, frames.image.shape[1]
    gx, gy = np.empty((number + 1, size)), np.empty((number + 1, size))
    slope, unused, rest = np.empty(size), np.empty(size), np.empty((size, size))
    costs = np.zeros(len(place))
    for f in range(len(frames.noise)):
        dx = frames.x[f] + theta[n - 3] * frames.time[f]
        dy = frames.y[f] + theta[n - 2] * frames.time[f]
        for k in range(number):
            pixel_profile(theta[k] + dx, sigma, gx[k], slope, unused)
            pixel_profile(theta[number + k] + dy, sigma, gy[k], slope, unused)
        for r in range(size):
            for c in range(size):
                rest[r, c] = frames.image[f, r, c] - theta[n - 1]
                for k in range(number):
                    rest[r, c] -= theta[2 * number + k] * gx[k, c] * gy[k, r]
        weight = frames.noise[f] ** -2.0
        for p in range(len(place)):
            pixel_profile(place[p, 0] + dx, sigma, gx[number], slope, unused)
            pixel_profile(place[p, 1] + dy, sigma, gy[number], slope, unused)
            for r in range(size):
                for c in range(size):
                    if frames.valid[f, r, c]:
                        costs[p] += weight * (rest[r, c] - radiance * gx[number, c] * gy[number, r]) ** 2
    return costs


@entry("_Frames(f8[3] b1[3] f8[1] f8[1] f8[1] f8[1]) f8[1] f8 f8[1] f8[1]")
def _cost(frames: _Frames, theta: Array, sigma: float, mean: Array, information: Array) -> float:
    """Squared residuals over the noise, and squared distance from the priors."""
    none = np.empty((0, 0))
    return _equations(frames, theta, sigma, mean, information, none, np.empty(0))


@entry("_Frames(f8[3] b1[3] f8[1] f8[1] f8[1] f8[1]) f8[1] f8 f8[1] f8[1] f8[2] f8[1]")
def _equations(
    frames: _Frames, theta: Array, sigma: float, mean: Array, information: Array, matrix: Array, vector: Array
) -> float:
    """The cost; fills in its second derivative and minus its first one (both halved), unless they are empty.

    Each frame may lie a little off where it was predicted (``JITTER_PX``): that is integrated out of all of them.
    """
    n, number, size = len(theta), (len(theta) - 3) // 3, frames.image.shape[1]
    wanted = len(vector) > 0
    joined = np.empty((n, 2))  # of the parameters with the place of the frame
    gx, gy = np.empty((number, size)), np.empty((number, size))
    dx, dy = np.empty((number, size)), np.empty((number, size))
    unused, row = np.empty(size), np.empty(n)
    cost = 0.0
    for i in range(n):
        cost += information[i] * (theta[i] - mean[i]) ** 2
    if wanted:
        matrix[:] = 0.0
        for i in range(n):
            matrix[i, i] = information[i]
            vector[i] = information[i] * (mean[i] - theta[i])
    for f in range(len(frames.noise)):
        t = frames.time[f]
        for k in range(number):
            pixel_profile(theta[k] + frames.x[f] + theta[n - 3] * t, sigma, gx[k], dx[k], unused)
            pixel_profile(theta[number + k] + frames.y[f] + theta[n - 2] * t, sigma, gy[k], dy[k], unused)
        weight = frames.noise[f] ** -2.0
        xx = yy = JITTER_PX**-2.0
        xy = x_rest = y_rest = 0.0
        joined[:] = 0.0
        for r in range(size):
            for c in range(size):
                if not frames.valid[f, r, c]:
                    continue
                model, along_x, along_y = theta[n - 1], 0.0, 0.0
                row[n - 1] = 1.0
                for k in range(number):
                    s, light = theta[2 * number + k], gx[k, c] * gy[k, r]
                    model += s * light
                    row[k], row[number + k] = s * dx[k, c] * gy[k, r], s * gx[k, c] * dy[k, r]
                    row[2 * number + k] = light
                    along_x += row[k]
                    along_y += row[number + k]
                row[n - 3], row[n - 2] = t * along_x, t * along_y
                rest = frames.image[f, r, c] - model
                cost += weight * rest * rest
                xx += weight * along_x * along_x
                xy += weight * along_x * along_y
                yy += weight * along_y * along_y
                x_rest += weight * along_x * rest
                y_rest += weight * along_y * rest
                if wanted:
                    for i in range(n):
                        vector[i] += weight * row[i] * rest
                        joined[i, 0] += weight * row[i] * along_x
                        joined[i, 1] += weight * row[i] * along_y
                        for j in range(i + 1):
                            matrix[i, j] += weight * row[i] * row[j]
        whole = xx * yy - xy * xy
        x_off, y_off = (yy * x_rest - xy * y_rest) / whole, (xx * y_rest - xy * x_rest) / whole
        cost -= x_off * x_rest + y_off * y_rest
        if wanted:
            for i in range(n):
                across = (yy * joined[i, 0] - xy * joined[i, 1]) / whole
                down = (xx * joined[i, 1] - xy * joined[i, 0]) / whole
                vector[i] -= x_off * joined[i, 0] + y_off * joined[i, 1]
                for j in range(i + 1):
                    matrix[i, j] -= across * joined[j, 0] + down * joined[j, 1]
    return cost


@entry("_Frames(f8[3] b1[3] f8[1] f8[1] f8[1] f8[1]) f8[1] f8 f8[1] f8[1]")
def _fit(frames: _Frames, start: Array, sigma: float, mean: Array, information: Array) -> tuple[Array, Array, float]:
    """Parameters at the least cost near a start, the second derivative there, and that cost."""
    n, number = len(start), (len(start) - 3) // 3
    theta, damping = start.copy(), 1e-3
    matrix, vector = np.empty((n, n)), np.empty(n)
    cost = _equations(frames, theta, sigma, mean, information, matrix, vector)
    other, other_vector = np.empty((n, n)), np.empty(n)
    for _ in range(_FIT_STEPS):
        factor, step = matrix.copy(), vector.copy()
        scale = np.empty(n)
        for i in range(n):
            scale[i] = 1 / math.sqrt(matrix[i, i])
        for i in range(n):
            for j in range(i + 1):
                factor[i, j] *= scale[i] * scale[j]
            factor[i, i] += damping
            step[i] *= scale[i]
        factorise(factor)
        substitute(factor, step)
        step *= scale
        longest = np.abs(step[: 2 * number]).max()
        if longest > _LONGEST_STEP_PX:
            step *= _LONGEST_STEP_PX / longest
        trial = theta + step
        trial_cost = _equations(frames, trial, sigma, mean, information, other, other_vector)
        if trial_cost < cost:
            done = cost - trial_cost < 1e-3
            theta, cost, damping = trial, trial_cost, max(damping / 5, 1e-6)
            matrix, other = other, matrix
            vector, other_vector = other_vector, vector
            if done:
                break
        else:
            damping *= 8
            if damping > 1e3:
                break
    for i in range(n):
        for j in range(i):
            matrix[j, i] = matrix[i, j]
    return theta, matrix, cost
