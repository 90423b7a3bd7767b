"""The fit behind the refinement: targets and a background plane, by Levenberg-Marquardt, in batches.

Every patch has the same :data:`SLOTS` for targets, used or not, so that patches with different
numbers of targets are one batch. A row of parameters is

    [x_1 .. x_5, y_1 .. y_5, radiance_1 .. radiance_5, level, slope x, slope y, sigma].

Saturated pixels are censored: where data and model both reach full scale there is no residual.
All numbers are float32: noise is far above its resolution, and it is twice as fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.optics import pixel_profiles

SLOTS = 5  # targets of a patch, at most
PLANE = 3  # parameters of the background: level and two slopes
PARAMETERS = 3 * SLOTS + PLANE + 1
X, Y, RADIANCE = (np.s_[:, i * SLOTS : (i + 1) * SLOTS] for i in range(3))
BACKGROUND, SIGMA = np.s_[:, 3 * SLOTS : 3 * SLOTS + PLANE], np.s_[:, -1]
_LONGEST_STEP = 0.3  # px; the model is only locally linear
# Five close targets leave directions that the data hardly see: more damping would freeze them.
_DAMPING = 1e-4
_TAIL = 2.0  # degrees of freedom of the positions' prior
_WORTHWHILE = 100  # patches with the same number of targets are fitted apart from this number on
_ENDS = ("theta", "misfit", "strain", "information", "counted", "converged")
_STILL = 1e-3  # px; a step as short as this ends a fit, and what is left is its square

Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Problem:
    """Patches of one batch and what weighs their pixels.

    Attributes:
        image: ``[M, w, w]``, DN.
        noise: standard deviation of a pixel, DN, ``[M]``.
        full_scale: level at which a pixel is saturated, ``[M, w, w]``, DN, infinity for none.
        valid: pixels that count, ``[M, w, w]``.
    """

    image: Array
    noise: Array
    full_scale: Array
    valid: BoolArray

    def rows(self, index: NDArray[Any]) -> Problem:
        """The patches that an index names."""
        return Problem(*(getattr(self, name)[index] for name in vars(self)))


@dataclass(frozen=True, eq=False)
class Start:
    """Where fits begin, and what is known before they do.

    Attributes:
        theta: parameters, ``[M, PARAMETERS]``; those of unused slots are 0.
        used: which slots hold a target, ``[M, SLOTS]``.
        mean, information: prior of each parameter, ``[M, PARAMETERS]`` (see :func:`prior_weights`); information is
            1 / variance, 0 where nothing is known. Infinite information of sigma holds it fixed.
    """

    theta: Array
    used: BoolArray
    mean: Array
    information: Array

    def rows(self, index: NDArray[Any]) -> Start:
        """The starts that an index names."""
        return Start(*(getattr(self, name)[index] for name in vars(self)))


@dataclass(frozen=True, eq=False)
class Fit:
    """Where fits ended.

    Attributes:
        start: where they began.
        theta: parameters, ``[M, PARAMETERS]``.
        misfit: squared residuals over the noise, ``[M]``.
        strain: squared distance from the priors in standard deviations, ``[M]``.
        information: second derivative of the cost, ``[M, P, P]`` with P = PARAMETERS, or one less
            where sigma is held; 1 on the diagonal of unused slots.
        counted: pixels that had a say, ``[M]``.
        converged: whether the last step was short, ``[M]``.
    """

    start: Start
    theta: Array
    misfit: Array
    strain: Array
    information: Array
    counted: NDArray[np.int64]
    converged: BoolArray

    @property
    def cost(self) -> Array:
        """Negative log posterior up to a constant, ``[M]``."""
        return 0.5 * (self.misfit + self.strain)

    @property
    def number(self) -> NDArray[np.int64]:
        """Targets of each fit, ``[M]``."""
        return self.start.used.sum(axis=1)

    def rows(self, index: NDArray[Any]) -> Fit:
        """The fits that an index names."""
        others = {name: value[index] for name, value in vars(self).items() if name != "start"}
        return Fit(start=self.start.rows(index), **others)

    def replaced(self, index: NDArray[Any], other: Fit) -> Fit:
        """With the rows that an index names taken from ``other``."""
        if not len(index):
            return self  # an empty batch does not know whether its sigma is held

        def mixed(mine: Any, theirs: Any) -> Any:
            result = mine.copy()
            result[index] = theirs
            return result

        start = Start(*(mixed(getattr(self.start, n), getattr(other.start, n)) for n in vars(self.start)))
        names = [name for name in vars(self) if name != "start"]
        return Fit(start=start, **{name: mixed(getattr(self, name), getattr(other, name)) for name in names})


def fit_targets(problem: Problem, start: Start, iterations: int) -> Fit:
    """Levenberg-Marquardt from a start, all patches at once; each keeps its own damping and its own end."""
    reach = (start.used * np.arange(1, SLOTS + 1)).max(axis=1, initial=0)
    if len(reach) < 2 * _WORTHWHILE:  # the usual frame: a few blobs
        return _fit_slots(problem, start, iterations, max(1, int(reach.max(initial=1))))
    held, m = _sigma_is_held(start), len(reach)
    free = PARAMETERS - held
    fit = Fit(
        start=start, theta=start.theta.copy(), misfit=np.empty(m, np.float32), strain=np.empty(m, np.float32),
        information=np.empty((m, free, free), np.float32), counted=np.empty(m, np.int64), converged=np.empty(m, bool),
    )  # fmt: skip
    for rows, slots in _groups(reach):
        part = _fit_slots(problem.rows(rows), start.rows(rows), iterations, slots)
        for name in _ENDS:
            getattr(fit, name)[rows] = getattr(part, name)
    return fit


def _groups(reach: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Rows that need about as many slots, and that number; small groups join the next smaller number's."""
    waiting, slots = np.zeros(0, dtype=np.int64), 0
    for number in range(SLOTS, 0, -1):
        rows = np.flatnonzero(np.maximum(reach, 1) == number)
        slots = slots if len(waiting) else number
        waiting = np.concatenate([waiting, rows])
        if len(waiting) >= _WORTHWHILE or (number == 1 and len(waiting)):
            yield waiting, slots
            waiting = waiting[:0]


def _sigma_is_held(start: Start) -> bool:
    return bool(np.isinf(start.information[:, -1]).all())


def _fit_slots(problem: Problem, start: Start, iterations: int, slots: int) -> Fit:
    """:func:`fit_targets` with the first ``slots`` only: the others are not used."""
    held = _sigma_is_held(start)
    positions = [np.arange(slots) + axis * SLOTS for axis in range(3)]
    columns = np.concatenate([*positions, np.arange(3 * SLOTS, PARAMETERS)])
    model = _Model(problem, start, columns, slots, held)
    theta = start.theta[:, columns]
    now = model.linearise(theta, None)
    converged = np.zeros(len(theta), dtype=bool)
    damping = np.full(len(theta), _DAMPING, dtype=np.float32)
    rows: NDArray[np.int64] | None = None  # those that still move; None: all
    for _ in range(iterations):
        trial = _stepped(theta, now, damping, slots, rows, problem.image.shape[1])
        moved = np.abs(trial - _of(theta, rows))[:, : 2 * slots].max(axis=1)
        tried = model.linearise(trial, rows)
        better = tried.cost <= _of(now.cost, rows)
        factor = np.where(better, np.float32(0.1), np.float32(10))
        still = moved < _STILL  # better or not: at the bottom, rounding decides
        if rows is None:
            damping = np.clip(damping * factor, 1e-7, 1e7)
            converged = still
            if better.all():
                theta, now = trial, tried
            else:
                theta = np.where(better[:, None], trial, theta)
                now.take(np.flatnonzero(better), tried, better)
        else:
            damping[rows] = np.clip(damping[rows] * factor, 1e-7, 1e7)
            converged[rows] = still
            theta[rows[better]] = trial[better]
            now.take(rows[better], tried, better)
        if converged.any():
            rows = np.flatnonzero(~converged)
            if not len(rows):
                break
    return _full(start, theta, now, converged, columns, held)


def _of(values: Any, rows: NDArray[np.int64] | None) -> Any:
    """The rows of an array, or itself where all are meant."""
    return values if rows is None else values[rows]


@dataclass(eq=False)
class _Linear:
    """Cost and its parts, normal matrix ``[M, P, P]`` and downhill gradient ``[M, P]`` at some parameters."""

    cost: Array
    misfit: Array
    strain: Array
    information: Array
    gradient: Array
    counted: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64], other: _Linear, chosen: BoolArray) -> None:
        """Replace rows by the chosen ones of ``other``."""
        for name, value in vars(self).items():
            value[rows] = getattr(other, name)[chosen]


def _stepped(
    theta: Array, now: _Linear, damping: Array, slots: int, rows: NDArray[np.int64] | None, size: int
) -> Array:
    """One damped Gauss-Newton step within bounds, ``[M, parameters]``."""
    begun, information, gradient, damping = (
        _of(v, rows) for v in (theta, now.information, now.gradient, damping)
    )  # fmt: skip
    free = gradient.shape[1]
    diagonal = np.arange(free)
    scale = 1 / np.sqrt(information[:, diagonal, diagonal])
    matrix = information * scale[:, :, None]
    matrix *= scale[:, None]
    matrix[:, diagonal, diagonal] += damping[:, None] + np.float32(1e-7)
    step = np.linalg.solve(matrix, (gradient * scale)[..., None])[..., 0] * scale
    _bound(step[:, : 2 * slots], -_LONGEST_STEP, _LONGEST_STEP)
    result: Array = begun.copy()
    result[:, :free] += step
    _bound(result[:, : 2 * slots], -0.5, size - 0.5)
    bright = np.s_[:, 2 * slots : 3 * slots]
    result[bright] = np.maximum(result[bright], 0.05 * np.abs(begun[bright]))
    if free == result.shape[1]:  # sigma is fitted
        _bound(result[:, -1], 0.8 * begun[:, -1], 1.25 * begun[:, -1])
    return result


def _bound(values: Array, low: Any, high: Any) -> None:
    """Clip in place; ``np.clip`` takes longer than both on small batches."""
    np.maximum(values, low, out=values)
    np.minimum(values, high, out=values)


class _Model:
    """The model of one batch, with what does not change from step to step."""

    def __init__(self, problem: Problem, start: Start, columns: NDArray[np.int64], slots: int, held: bool) -> None:
        self.problem, self.slots, self.held = problem, slots, held
        size = problem.image.shape[1]
        self.used = start.used[:, :slots]
        self.unused = np.tile(~self.used, 3).astype(np.float32)
        self.partly = bool(self.unused.any())
        self.mean = start.mean[:, columns]
        self.known = np.where(np.isinf(start.information), 0, start.information)[:, columns]
        self.level = (problem.image >= problem.full_scale) & problem.valid  # saturated
        self.whole = bool(problem.valid.all()) and not self.level.any()  # every pixel counts, whatever the model
        self.weight = 1 / problem.noise
        self.basis = plane_basis(size).reshape(PLANE, size, size)

    def linearise(self, theta: Array, rows: NDArray[np.int64] | None) -> _Linear:
        """Cost, normal matrix and gradient at ``theta`` ``[len(rows), parameters]``."""
        k, problem = self.slots, self.problem
        image = _of(problem.image, rows)
        m, size = len(image), image.shape[1]
        sigma = theta[:, -1:]
        value, slope, width = pixel_profiles(theta[:, : 2 * k], sigma, size)  # [M, 2K, w]
        gx, gy, dx, dy = value[:, :k], value[:, k:], slope[:, :k], slope[:, k:]
        radiance = theta[:, 2 * k : 3 * k, None]
        if self.partly:
            used = _of(self.used, rows)[..., None]
            radiance, shape = radiance * used, gy * used
        else:
            shape = gy
        lines = radiance * gy
        model = np.swapaxes(lines, 1, 2) @ gx
        model += (theta[:, 3 * k : 3 * k + PLANE] @ self.basis.reshape(PLANE, size * size)).reshape(model.shape)
        residual = image - model
        free = 3 * k + PLANE + (not self.held)
        jacobian = np.empty((m, free, size, size), dtype=np.float32)
        np.multiply(lines[..., None], dx[:, :, None], out=jacobian[:, :k])
        np.multiply((radiance * dy)[..., None], gx[:, :, None], out=jacobian[:, k : 2 * k])
        np.multiply(shape[..., None], gx[:, :, None], out=jacobian[:, 2 * k : 3 * k])
        jacobian[:, 3 * k : 3 * k + PLANE] = self.basis
        if not self.held:
            other = np.swapaxes(radiance * width[:, k:], 1, 2) @ gx
            np.add(np.swapaxes(lines, 1, 2) @ width[:, :k], other, out=jacobian[:, -1])
        counted = np.full(m, size * size)
        if not self.whole:
            dark = _of(self.level, rows) & (model >= _of(problem.full_scale, rows))
            counts = _of(problem.valid, rows) & ~dark
            counted = counts.sum(axis=(1, 2))
            residual *= counts
            jacobian *= counts[:, None]
        weight = _of(self.weight, rows)
        square = (weight * weight)[:, None]
        flat, rest = jacobian.reshape(m, free, size * size), residual.reshape(m, size * size, 1)
        information = flat @ np.swapaxes(flat, 1, 2)
        information *= square[..., None]
        off = theta - _of(self.mean, rows)
        prior, strain = _prior(_of(self.known, rows), off, 2 * k)
        gradient = (flat @ rest)[..., 0] * square - (prior * off)[:, :free]
        added = prior[:, :free] + np.float32(1e-12)
        if self.partly:
            # An unused slot has neither data nor prior; 1 keeps the matrix regular and the slot where it is.
            added[:, : 3 * k] += _of(self.unused, rows)
        diagonal = np.arange(free)
        information[:, diagonal, diagonal] += added
        misfit = np.einsum("mij,mij->m", residual, residual) * square[:, 0]
        return _Linear(0.5 * (misfit + strain), misfit, strain, information, gradient, counted)


def _full(
    start: Start, theta: Array, now: _Linear, converged: BoolArray, columns: NDArray[np.int64], held: bool
) -> Fit:
    """A fit of some slots as one of all."""
    everything = start.theta.copy()
    everything[:, columns] = theta
    free = PARAMETERS - held
    information = np.zeros((len(theta), free, free), dtype=np.float32)
    diagonal = np.arange(free)
    information[:, diagonal, diagonal] = 1
    some = columns[: now.gradient.shape[1]]
    information[:, some[:, None], some] = now.information
    return Fit(start, everything, now.misfit, now.strain, information, now.counted, converged)


def prior_weights(start: Start, theta: Array) -> tuple[Array, Array]:
    """The information that the priors have at ``theta`` ``[M, PARAMETERS]``, and their strain ``[M]``.

    Positions have Student's prior: a network that errs, errs far, and what it says then must not bind.
    The others are Gaussian.
    """
    known = np.where(np.isinf(start.information), 0, start.information)
    return _prior(known, theta - start.mean, 2 * SLOTS)


def _prior(known: Array, off: Array, positions: int) -> tuple[Array, Array]:
    """:func:`prior_weights` at a distance from the mean, the first columns being positions."""
    far = known * off
    far *= off
    weight = 1 / (1 + far[:, :positions] / _TAIL)
    strain = far[:, positions:].sum(axis=1) - _TAIL * np.log(weight).sum(axis=1)
    information = known.copy()
    information[:, :positions] *= weight
    return information, strain


def render(problem: Problem, fit: Fit) -> Array:
    """What a fit says the patches are, before saturation: ``[M, w, w]``, DN."""
    size = problem.image.shape[1]
    sigma = fit.theta[SIGMA][:, None]
    gx, gy = (pixel_profiles(fit.theta[axis], sigma, size)[0] for axis in (X, Y))
    rows = (fit.theta[RADIANCE] * fit.start.used)[..., None] * gy
    plane = (fit.theta[BACKGROUND] @ plane_basis(size)).reshape(-1, size, size)
    model: Array = np.swapaxes(rows, 1, 2) @ gx + plane
    return model


@lru_cache(maxsize=16)
def plane_basis(n: int) -> Array:
    """Level and slopes about the middle of an n-pixel window: ``float32 [3, n^2]``."""
    ramp = np.arange(n) - (n - 1) / 2
    basis = np.stack([np.ones(n * n), np.tile(ramp, n), np.repeat(ramp, n)]).astype(np.float32)
    basis.setflags(write=False)
    return basis


def fit_plane(values: NDArray[Any], weight: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weighted least squares of a plane over n x n windows.

    Args:
        values, weight: ``[B, n, n]``.

    Returns:
        Level and slopes about the middle ``[B, 3]`` (0 where the weights do not tell), and the inverse
        of their normal matrix ``[B, 3, 3]``.
    """
    basis = plane_basis(values.shape[-1]).astype(np.float64)
    flat = weight.reshape(-1, basis.shape[1])
    weighted = basis * flat[:, None]
    inverse = np.linalg.inv(weighted @ basis.T + 1e-9 * np.eye(PLANE))
    right = weighted @ values.reshape(*flat.shape, 1)
    return (inverse @ right)[..., 0], inverse
